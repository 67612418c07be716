//! Why the kernel refused a hook: only what is known of it.
//!
//! An error number has several causes, so it is read together with what this process may do and
//! what restricts it. Nothing is claimed that does not follow from these.

use std::{error::Error, fmt, fs, io};

use aya::{BtfError, programs::ProgramError};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::{
    Hook,
    btf::has_function,
    error::{complaint, errno_name, one_line},
    holds,
};

/// `ENOTSUPP` of include/linux/errno.h: the kernel lacks what is needed.
const ENOTSUPP: i32 = 524;

/// Why a hook is not attached.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Refusal {
    /// The kernel's error number, where there was a system call.
    pub errno: Option<i32>,
    /// The kernel's BTF has nothing of the target's name.
    no_target: bool,
    /// The verifier read the program and refused it.
    by_verifier: bool,
    /// All that is known, on one line.
    text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Refusal {
    /// For a reason that is no refusal of the kernel's.
    pub fn other(text: impl Into<String>) -> Self {
        Self { errno: None, no_target: false, by_verifier: false, text: text.into() }
    }

    pub(super) fn of(error: &ProgramError) -> Self {
        let by_verifier = match error {
            ProgramError::LoadError { verifier_log, .. } => {
                complaint(&verifier_log.to_string()).is_some()
            }
            _ => false,
        };
        let no_target = matches!(error, ProgramError::Btf(BtfError::UnknownBtfTypeName { .. }));
        Self { errno: errno_of(error), no_target, by_verifier, text: one_line(error) }
    }

    /// In a few words.
    #[must_use]
    pub fn reason(&self) -> String {
        match self.errno {
            _ if self.no_target => "this kernel's BTF does not name its target".to_owned(),
            Some(errno) if self.by_verifier => {
                format!("the verifier refused its program ({})", errno_name(errno))
            }
            Some(errno) => format!("the kernel refused it ({})", errno_name(errno)),
            None => self.text.clone(),
        }
    }

    /// The remedy, as far as it follows from what is known.
    #[must_use]
    pub fn remedy(&self, hook: &Hook, restrictions: &Restrictions) -> String {
        if self.no_target {
            return format!(
                "this kernel does not have {} (renamed, inlined or left out): another version may",
                hook.target
            );
        }
        if self.by_verifier {
            return "report this kernel's version and the line above: tcpwatch is tested on 5.10 and \
                    later"
                .to_owned();
        }
        match self.errno {
            Some(libc::EPERM | libc::EACCES) => not_permitted(restrictions),
            Some(ENOTSUPP | libc::EOPNOTSUPP) if hook.is_trampoline() => {
                if has_function("register_ftrace_direct") == Some(false) {
                    "a kernel with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y, which this one lacks"
                        .to_owned()
                } else {
                    "another kernel: this one attaches no trampoline to that function".to_owned()
                }
            }
            Some(libc::EBUSY) => {
                "end the other tracer, or the live patch, that holds this function".to_owned()
            }
            Some(libc::E2BIG) => {
                "detach other programs from this function: it has as many as it can".to_owned()
            }
            Some(libc::ENOMEM) => {
                "more memory for this process, or a higher RLIMIT_MEMLOCK before 5.11".to_owned()
            }
            _ => {
                "nothing is known beyond the kernel's answer; tcpwatch is tested on 5.10 and later"
                    .to_owned()
            }
        }
    }
}

/// Possible causes of a refusal by privilege, narrowed down as far as this process can.
fn not_permitted(restrictions: &Restrictions) -> String {
    let needed = [(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")];
    let missing: Vec<&str> =
        needed.into_iter().filter(|(it, _)| !holds(*it)).map(|(_, name)| name).collect();
    if !missing.is_empty() {
        return format!("run as root, or give the process {}", missing.join(" and "));
    }
    let mut text = "the capabilities are there, so a policy forbids it".to_owned();
    match restrictions.lockdown.as_deref() {
        Some("none") => text += "; lockdown is off",
        Some(mode) => text += &format!("; lockdown is in mode {mode}"),
        None => text += "; whether lockdown is in force is not shown here",
    }
    match restrictions.modules.as_deref() {
        Some([]) => text += ", no security module is in force",
        Some(modules) => text += &format!(", security modules in force: {}", modules.join(", ")),
        None => text += ", security modules in force are not shown here",
    }
    text
}

/// Restrictions that may forbid a privileged process something.
#[derive(Clone, Debug, Default)]
pub struct Restrictions {
    /// Mode of the kernel's lockdown: `none`, `integrity` or `confidentiality`. `None` where it is
    /// not shown.
    pub lockdown: Option<String>,
    /// Linux security modules in force. `None` where they are not shown.
    pub modules: Option<Vec<String>>,
}

impl Restrictions {
    /// As securityfs shows them.
    #[must_use]
    pub fn read() -> Self {
        let shown = |file: &str| fs::read_to_string(format!("/sys/kernel/security/{file}")).ok();
        let modules = shown("lsm").map(|text| {
            text.trim().split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        });
        // Built in means a file; without it and with securityfs there is no lockdown.
        let lockdown = match shown("lockdown") {
            Some(text) => chosen(&text),
            None => modules.is_some().then(|| "none".to_owned()),
        };
        Self { lockdown, modules }
    }
}

/// `none [integrity] confidentiality`
fn chosen(text: &str) -> Option<String> {
    let (_, modes) = text.split_once('[')?;
    let (mode, _) = modes.split_once(']')?;
    Some(mode.to_owned())
}

fn errno_of(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: i32) -> Refusal {
        Refusal { errno: Some(errno), ..Refusal::other("the system call failed") }
    }

    fn bind() -> Hook {
        *Hook::ALL.iter().find(|hook| hook.name == "bind").expect("there is such a hook")
    }

    #[test]
    fn a_refusal_by_privilege_is_not_taken_for_a_missing_trampoline() {
        let locked = Restrictions {
            lockdown: Some("confidentiality".to_owned()),
            modules: Some(vec!["lockdown".to_owned(), "bpf".to_owned()]),
        };
        let remedy = refused(libc::EPERM).remedy(&bind(), &locked);
        assert!(!remedy.contains("CONFIG_"), "{remedy}");
        // Without the capabilities they come first.
        if holds(CapabilitySet::BPF) && holds(CapabilitySet::PERFMON) {
            assert!(remedy.contains("confidentiality") && remedy.contains("bpf"), "{remedy}");
            let unknown = refused(libc::EPERM).remedy(&bind(), &Restrictions::default());
            assert!(unknown.contains("not shown"), "{unknown}");
        } else {
            assert!(remedy.contains("CAP_"), "{remedy}");
        }
    }

    #[test]
    fn each_error_has_its_own_words() {
        let none = Restrictions::default();
        let numbers = [ENOTSUPP, libc::EBUSY, libc::E2BIG, libc::ENOMEM, libc::EINVAL];
        let remedies: Vec<String> =
            numbers.iter().map(|errno| refused(*errno).remedy(&bind(), &none)).collect();
        let mut distinct = remedies.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), remedies.len(), "{remedies:?}");
        assert_eq!(refused(ENOTSUPP).reason(), "the kernel refused it (ENOTSUPP)");
    }

    #[test]
    fn the_mode_of_lockdown_is_the_one_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(chosen("none"), None);
    }
}
