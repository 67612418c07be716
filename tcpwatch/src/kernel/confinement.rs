//! Whether SELinux or AppArmor confines this process, as they show it themselves.
//!
//! A policy refuses what capabilities allow: bpf(2), or the reading of another process. The kernel
//! says EACCES or EPERM then and not by which module, so `doctor` shows both.

use std::fs;

use serde::Serialize;

/// The two modules that confine by a policy. `None` where one is not in force, or not shown here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// SELinux.
    pub selinux: Option<SeLinux>,
    /// AppArmor.
    pub apparmor: Option<AppArmor>,
}

/// SELinux is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeLinux {
    /// Whether it refuses; a permissive one only logs.
    pub enforcing: bool,
    /// The context of this process: user, role, type and level.
    pub context: Option<String>,
}

/// AppArmor is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppArmor {
    /// The profile of this process; `None` if it has none.
    pub profile: Option<String>,
    /// `enforce`, `complain` and others, of the profile.
    pub mode: Option<String>,
}

impl Confinement {
    /// Of the calling process.
    #[must_use]
    pub fn read() -> Self {
        let shown = |file: &str| fs::read_to_string(file).ok();
        let current = shown("/proc/self/attr/current");
        // Linux 5.8 and later; before, the one file is of the module that has it.
        let apparmor = shown("/proc/self/attr/apparmor/current").or_else(|| current.clone());
        Self {
            selinux: selinux(shown("/sys/fs/selinux/enforce").as_deref(), current.as_deref()),
            apparmor: self::apparmor(
                shown("/sys/module/apparmor/parameters/enabled").as_deref(),
                apparmor.as_deref(),
            ),
        }
    }
}

fn selinux(enforce: Option<&str>, current: Option<&str>) -> Option<SeLinux> {
    let enforcing = enforce?.trim() == "1";
    Some(SeLinux { enforcing, context: current.and_then(text) })
}

/// `unconfined`, or `docker-default (enforce)`.
fn apparmor(enabled: Option<&str>, current: Option<&str>) -> Option<AppArmor> {
    if enabled?.trim() != "Y" {
        return None;
    }
    let label = current.and_then(text).filter(|label| label != "unconfined");
    let Some(label) = label else { return Some(AppArmor { profile: None, mode: None }) };
    let parts = label.strip_suffix(')').and_then(|label| label.rsplit_once(" ("));
    let (profile, mode) = match parts {
        Some((profile, mode)) => (profile.to_owned(), Some(mode.to_owned())),
        None => (label, None),
    };
    Some(AppArmor { profile: Some(profile), mode })
}

/// Without the NUL and the end of the line that the kernel appends.
fn text(shown: &str) -> Option<String> {
    let text = shown.trim_matches(|it: char| it == '\0' || it.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_a_name_and_a_mode_and_no_profile_has_neither() {
        let of = |current| apparmor(Some("Y\n"), Some(current));
        let profile = |name: &str, mode: Option<&str>| {
            let mode = mode.map(str::to_owned);
            Some(AppArmor { profile: Some(name.to_owned()), mode })
        };
        assert_eq!(of("docker-default (enforce)\n"), profile("docker-default", Some("enforce")));
        assert_eq!(of("a (b) c (complain)"), profile("a (b) c", Some("complain")));
        assert_eq!(of("named"), profile("named", None));
        let none = Some(AppArmor { profile: None, mode: None });
        assert_eq!(of("unconfined\n"), none);
        assert_eq!(apparmor(Some("Y"), None), none);
        assert_eq!(apparmor(Some("N\n"), Some("unconfined")), None);
        assert_eq!(apparmor(None, Some("system_u:system_r:init_t:s0\0")), None);
    }

    #[test]
    fn selinux_is_in_force_where_its_file_system_is() {
        let of = |enforce| selinux(enforce, Some("system_u:system_r:unconfined_service_t:s0\0"));
        let context = Some("system_u:system_r:unconfined_service_t:s0".to_owned());
        assert_eq!(of(Some("1")), Some(SeLinux { enforcing: true, context: context.clone() }));
        assert_eq!(of(Some("0\n")), Some(SeLinux { enforcing: false, context }));
        assert_eq!(of(None), None);
    }
}
