//! The running kernel's own description of its types.
//!
//! From `/sys/kernel/btf/vmlinux` come the offset of each field that the kernel side reads, the
//! number of arguments of a tracepoint that has changed, and the names of an enum whose numbers
//! are no stable interface.

use std::{fs::File, io, os::fd::AsRawFd, path::Path};

use btf_rs::{Backend, Btf, Type};
use rustix::fs::MemfdFlags;
use tcpwatch_common::{ABSENT, FIELDS, Field, Offsets};

use crate::facts::ResetReason;

/// Where the kernel shows its BTF (CONFIG_DEBUG_INFO_BTF, 5.4 and later).
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the types could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel was built without.
    #[error("{VMLINUX} does not exist")]
    Missing,
    /// It is there and not understood.
    #[error("cannot understand {VMLINUX}: {0}")]
    Malformed(#[from] btf_rs::Error),
    /// Nor can it be copied.
    #[error("cannot read {VMLINUX}: {0}")]
    Unreadable(#[from] io::Error),
    /// A field that the programs cannot do without.
    #[error("this kernel has no field {0}")]
    NoField(String),
}

/// What the programs need to know of this kernel's types.
#[derive(Debug)]
pub(super) struct KernelTypes {
    /// For `.rodata`.
    pub(super) offsets: Offsets,
    /// `enum sk_rst_reason` by number; empty before 6.10.
    pub(super) reset_reasons: Vec<ResetReason>,
}

impl KernelTypes {
    /// Reads the running kernel's BTF, some 6 MB, and drops it again.
    pub(super) fn read() -> Result<Self, BtfError> {
        if !Path::new(VMLINUX).exists() {
            return Err(BtfError::Missing);
        }
        let btf = open()?;
        let mut values = Vec::with_capacity(FIELDS.len());
        for field in FIELDS {
            values.push(match offset_of(&btf, field) {
                Some(offset) => offset,
                None if field.optional => ABSENT,
                None => {
                    let name = format!("{}.{}", field.container, field.member);
                    return Err(BtfError::NoField(name));
                }
            });
        }
        let arguments = tracepoint_arguments(&btf, "tcp_send_reset").unwrap_or(0);
        let offsets =
            Offsets::from_slice(&values, arguments).expect("there is one value for each of FIELDS");
        Ok(Self { offsets, reset_reasons: reset_reasons(&btf) })
    }
}

/// Maps the BTF instead of parsing it into tables, which would take 40 MB for a moment. The file
/// itself can be mapped since 6.16; before, a copy of it in memory can.
fn open() -> Result<Btf, BtfError> {
    if let Ok(btf) = Btf::from_file_with_backend(VMLINUX, Backend::Mmap) {
        return Ok(btf);
    }
    let copy = rustix::fs::memfd_create("btf", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
    let mut copy = File::from(copy);
    io::copy(&mut File::open(VMLINUX)?, &mut copy)?;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(Btf::from_file_with_backend(path, Backend::Mmap)?)
}

/// Byte offset of a field, through nested structures.
fn offset_of(btf: &Btf, field: &Field) -> Option<u32> {
    let mut container = btf
        .resolve_types_by_name(field.container)
        .ok()?
        .into_iter()
        .find(|candidate| matches!(candidate, Type::Struct(_)))?;
    let mut bits = 0;
    for name in field.member.split('.') {
        let (member_bits, member_type) = find_member(btf, &container, name)?;
        bits += member_bits;
        container = member_type;
    }
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// Bit offset and type of a member, also one inside an anonymous structure or union.
fn find_member(btf: &Btf, container: &Type, name: &str) -> Option<(u32, Type)> {
    let (Type::Struct(container) | Type::Union(container)) = container else { return None };
    for member in &container.members {
        let member_name = btf.resolve_name(member).unwrap_or_default();
        if member_name == name {
            return Some((member.bit_offset(), member_type(btf, member)?));
        }
        if member_name.is_empty()
            && let Some((bits, found)) = find_member(btf, &member_type(btf, member)?, name)
        {
            return Some((member.bit_offset() + bits, found));
        }
    }
    None
}

/// A member's type, behind typedefs and qualifiers.
fn member_type(btf: &Btf, member: &btf_rs::Member) -> Option<Type> {
    let mut found = btf.resolve_chained_type(member).ok()?;
    loop {
        found = match &found {
            Type::Typedef(inner) => btf.resolve_chained_type(inner).ok()?,
            Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) => {
                btf.resolve_chained_type(inner).ok()?
            }
            Type::TypeTag(inner) => btf.resolve_chained_type(inner).ok()?,
            _ => return Some(found),
        };
    }
}

/// Arguments of a BTF tracepoint: its typedef points to a function that takes one more, the
/// registration's data.
fn tracepoint_arguments(btf: &Btf, tracepoint: &str) -> Option<u32> {
    let name = format!("btf_trace_{tracepoint}");
    for candidate in btf.resolve_types_by_name(&name).ok()? {
        let Type::Typedef(typedef) = candidate else { continue };
        let Type::Ptr(pointer) = btf.resolve_chained_type(&typedef).ok()? else { continue };
        let Type::FuncProto(function) = btf.resolve_chained_type(&pointer).ok()? else { continue };
        return u32::try_from(function.parameters.len().checked_sub(1)?).ok();
    }
    None
}

fn reset_reasons(btf: &Btf) -> Vec<ResetReason> {
    let mut reasons = Vec::new();
    for candidate in btf.resolve_types_by_name("sk_rst_reason").unwrap_or_default() {
        let Type::Enum(reason) = candidate else { continue };
        for member in &reason.members {
            let name = btf.resolve_name(member).unwrap_or_default();
            let number = member.val() as usize;
            // The hook counts the number in a byte.
            if number < 256 {
                if reasons.len() <= number {
                    reasons.resize(number + 1, ResetReason::Other);
                }
                reasons[number] = ResetReason::from_enumerator(&name);
            }
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_on_the_running_kernel() {
        if !Path::new(VMLINUX).exists() {
            println!("skipped: this kernel has no BTF");
            return;
        }
        let types = KernelTypes::read().expect("the kernel's BTF is readable");
        assert!(types.offsets.skc_state < 128, "{:?}", types.offsets);
        assert!(types.offsets.send_reset_arguments >= 2);
        if types.offsets.send_reset_arguments == 3 {
            assert!(types.reset_reasons.contains(&ResetReason::NoSocket));
        }
    }
}
