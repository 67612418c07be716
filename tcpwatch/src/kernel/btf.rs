//! The running kernel's own description of its types.
//!
//! `/sys/kernel/btf/vmlinux` gives the offset of each field that the kernel side reads. It also
//! gives the number of arguments of a tracepoint that has changed, and the names of an enum whose
//! numbers are no stable interface.

use std::{collections::BTreeMap, fs, io};

use aya::{Btf, Endianness};
use tcpwatch_common::{ABSENT, FIELDS, Offsets};

use super::{
    Hook,
    btf_file::{BtfFile, FormatError, Targets},
};
use crate::facts::ResetReason;

/// Where the kernel shows its BTF (CONFIG_DEBUG_INFO_BTF, 5.4 and later).
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The typedef of the tracepoint `tcp_send_reset`.
const SEND_RESET: &str = "btf_trace_tcp_send_reset";
/// The function behind accept().
const ACCEPT: &str = "inet_csk_accept";
/// The structure of a socket.
const SOCK: &str = "sock";
/// The enum of the helpers.
const HELPERS: &str = "bpf_func_id";
/// The enum of the reasons for a reset.
const RESET_REASONS: &str = "sk_rst_reason";

/// Every name that is looked up.
fn names() -> Vec<String> {
    let fixed = [SEND_RESET, ACCEPT, SOCK, HELPERS, RESET_REASONS];
    let fields = FIELDS.iter().map(|field| field.container).chain(fixed).map(str::to_owned);
    fields.chain(Hook::ALL.iter().filter_map(|hook| type_of_target(hook.target))).collect()
}

/// Why the types could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel was built without.
    #[error(
        "{VMLINUX} does not exist; tcpwatch needs Linux 5.10 or later with \
         CONFIG_DEBUG_INFO_BTF=y, as the kernels of the distributions have it"
    )]
    Missing,
    /// It cannot be read.
    #[error("cannot read {VMLINUX}: {0}")]
    Unreadable(io::Error),
    /// It is not understood.
    #[error("cannot understand {VMLINUX}: {0}")]
    Malformed(#[from] FormatError),
    /// A field that the programs cannot do without.
    #[error("this kernel has no field {0}; tcpwatch is tested on Linux 5.10 and later")]
    NoField(String),
}

/// Facts about this kernel's types that the programs need.
#[derive(Clone, Debug)]
pub(super) struct KernelTypes {
    /// For the instructions and `.rodata`.
    pub(super) offsets: Offsets,
    /// `enum sk_rst_reason` by number; empty before 6.10.
    pub(super) reset_reasons: Vec<ResetReason>,
    /// Whether there is `bpf_loop` (5.17 and later), without which the one pass does not load.
    pub(super) has_loop: bool,
    /// To which the hooks are attached.
    targets: Targets,
}

/// The running kernel's BTF, as far as the names go.
fn read() -> Result<BtfFile, BtfError> {
    let bytes = fs::read(VMLINUX).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => BtfError::Missing,
        _ => BtfError::Unreadable(error),
    })?;
    Ok(BtfFile::parse(bytes, &names())?)
}

/// The name of the type, as the kernel makes it of a target.
fn type_of_target(target: &str) -> Option<String> {
    let (kind, name) = target.split_once('/')?;
    Some(match kind {
        "tp_btf" => format!("btf_trace_{name}"),
        "iter" => format!("bpf_iter_{name}"),
        _ => name.to_owned(),
    })
}

impl KernelTypes {
    /// Reads the running kernel's BTF and drops it again.
    pub(super) fn read() -> Result<Self, BtfError> {
        let btf = read()?;
        let mut structures = BTreeMap::new();
        let mut values = Vec::with_capacity(FIELDS.len());
        for field in FIELDS {
            let container =
                structures.entry(field.container).or_insert_with(|| btf.structure(field.container));
            let offset = container.and_then(|container| btf.offset_of(container, field.member));
            values.push(match offset {
                Some(offset) => offset,
                None if field.optional => ABSENT,
                None => {
                    let name = format!("{}.{}", field.container, field.member);
                    return Err(BtfError::NoField(name));
                }
            });
        }
        let mut offsets = Offsets::ABSENT;
        assert!(offsets.set_offsets(&values), "there is one value for each of FIELDS");
        offsets.send_reset_arguments = tracepoint_arguments(&btf);
        let accept = btf.parameters_of_function(ACCEPT).unwrap_or(0);
        offsets.accept_parameters = u32::try_from(accept).unwrap_or(0);
        // A bit-field, so it has no place among the fields.
        let userlocks =
            btf.structure(SOCK).and_then(|sock| btf.bit_offset_of(sock, "sk_userlocks"));
        offsets.sk_userlocks_bit = userlocks.unwrap_or(ABSENT);
        offsets.has_current_task_btf = u32::from(has_helper(&btf, "get_current_task_btf"));
        // Elsewhere a return address looks like other words, and is not on the stack.
        let is_x86 = cfg!(target_arch = "x86_64");
        offsets.has_task_pt_regs = u32::from(is_x86 && has_helper(&btf, "task_pt_regs"));
        let has_loop = has_helper(&btf, "loop");
        let hooks = Hook::ALL.iter().filter(|hook| hook.is_for(&offsets));
        let targets: Vec<String> = hooks.filter_map(|hook| type_of_target(hook.target)).collect();
        let targets = btf.targets(&targets);
        Ok(Self { offsets, reset_reasons: reset_reasons(&btf), has_loop, targets })
    }

    /// The targets of the hooks for aya, which looks each up by its name. Of all the kernel's types it
    /// would make objects of 30 MB.
    pub(super) fn to_attach(&self) -> Result<Btf, aya::BtfError> {
        Btf::parse(&self.targets.to_file(), Endianness::default())
    }
}

/// Whether the kernel has a function that its BTF names; `None` where the BTF cannot be read.
pub(super) fn has_function(name: &str) -> Option<bool> {
    let btf = BtfFile::parse(fs::read(VMLINUX).ok()?, &[name]).ok()?;
    Some(btf.parameters_of_function(name).is_some())
}

/// Arguments of the tracepoint of resets, 0 without it. The function behind its typedef takes one
/// more, the registration's data.
fn tracepoint_arguments(btf: &BtfFile) -> u32 {
    let parameters = btf.parameters_of(SEND_RESET).unwrap_or(0);
    u32::try_from(parameters.saturating_sub(1)).unwrap_or(0)
}

/// Whether the kernel has a helper, by its name without `bpf_`.
fn has_helper(btf: &BtfFile, name: &str) -> bool {
    let expected = format!("BPF_FUNC_{name}");
    btf.enumerators(HELPERS).iter().any(|(known, _)| *known == expected)
}

fn reset_reasons(btf: &BtfFile) -> Vec<ResetReason> {
    let mut reasons = Vec::new();
    for (name, number) in btf.enumerators(RESET_REASONS) {
        // The hook counts the number in a byte.
        let Ok(number) = u8::try_from(number) else { continue };
        let number = usize::from(number);
        if reasons.len() <= number {
            reasons.resize(number + 1, ResetReason::Other);
        }
        reasons[number] = ResetReason::from_enumerator(name);
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_on_the_running_kernel() {
        let types = match KernelTypes::read() {
            Err(BtfError::Missing) => return println!("skipped: this kernel has no BTF"),
            types => types.expect("the kernel's BTF is readable"),
        };
        assert!(types.offsets.skc_state < 128, "{:?}", types.offsets);
        assert!(types.offsets.send_reset_arguments >= 2);
        // Every kernel that shows its BTF has some helper.
        let bytes = fs::read(VMLINUX).expect("it was read before");
        let btf = BtfFile::parse(bytes, &names()).expect("it was parsed before");
        assert!(has_helper(&btf, "map_lookup_elem") && !has_helper(&btf, "nonsense"));
        if types.offsets.send_reset_arguments == 3 {
            assert!(types.reset_reasons.contains(&ResetReason::NoSocket));
        }
    }
}
