//! Names of units, containers and pods, as facts and labels spell them.

/// Characters of a container's or pod's id that are kept, as `docker ps` shows it.
const SHORT_ID: usize = 12;

/// `UNIT_NAME_MAX` of systemd less its NUL (systemd.unit(5)).
const UNIT_BYTES: usize = 255;

/// Most bytes of a container's name: `NAME_MAX` of Linux less the longest prefix,
/// `lxc.payload.`, of the cgroup that carries it.
const CONTAINER_BYTES: usize = 255 - 12;

/// The types of unit (systemd.unit(5)).
const UNIT_TYPES: [&str; 11] = [
    "service",
    "scope",
    "socket",
    "slice",
    "mount",
    "swap",
    "target",
    "timer",
    "path",
    "device",
    "automount",
];

/// `id` in short form; `None` where it is too short to be one.
#[must_use]
pub fn short_id(id: &str) -> Option<&str> {
    id.get(..SHORT_ID).filter(|short| is_short_id(short))
}

/// Whether it is the short form of a container's or pod's id: `0123456789ab`, `1a2b3c4d-5e6`,
/// `1a2b3c4d_5e6`.
#[must_use]
pub fn is_short_id(name: &str) -> bool {
    let is_of_id = |(at, byte): (usize, u8)| {
        byte.is_ascii_hexdigit() || at == 8 && matches!(byte, b'-' | b'_')
    };
    name.len() == SHORT_ID && name.bytes().enumerate().all(is_of_id)
}

/// Whether systemd takes it for the name of a service or scope. Processes run in these; the other
/// types hold none for long. A name that begins with `-` is one to systemd, and an option to
/// whatever a person gives it to, so it is none here.
#[must_use]
pub fn is_unit(name: &str) -> bool {
    let stem = name.strip_suffix(".service").or_else(|| name.strip_suffix(".scope"));
    // VALID_CHARS_WITH_AT of systemd's unit-name.c.
    let is_of_unit = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.len() <= UNIT_BYTES
        && stem.is_some_and(|stem| !stem.is_empty() && !stem.starts_with(['-', '@', '.']))
        && name.bytes().all(is_of_unit)
}

/// Whether it can be the name of a system container (LXC, Incus, nspawn). One that looks like a
/// unit is refused: the label would name a unit of this host. So are ids that were not cut.
#[must_use]
pub fn is_container_name(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let has_unit_type =
        name.rsplit_once('.').is_some_and(|(_, suffix)| UNIT_TYPES.contains(&suffix));
    let is_uncut_id =
        name.len() > SHORT_ID && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (1..=CONTAINER_BYTES).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(is_of_name)
        && !has_unit_type
        && !is_uncut_id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_of_systemds_alphabet() {
        for unit in ["nginx.service", "getty@tty1.service", r"a\x2db.service", "session-1.scope"] {
            assert!(is_unit(unit), "{unit}");
        }
        for other in [
            "",
            "nginx",
            ".service",
            "-H.service",
            "*.service",
            "a b.service",
            "a?.scope",
            "[a].service",
            "a;b.service",
            "$(a).service",
            "a'.service",
            "é.service",
            "nginx.socket",
        ] {
            assert!(!is_unit(other), "{other}");
        }
        assert!(!is_unit(&format!("{}.service", "a".repeat(248))));
    }

    #[test]
    fn a_container_is_not_named_like_a_unit() {
        for name in ["web01", "101", "my.host-1", "project_web"] {
            assert!(is_container_name(name), "{name}");
        }
        let uncut = "0123456789abcdef".repeat(4);
        for other in ["", "-x", ".", "nginx.service", "x.slice", "a b", "a*", "é", &uncut] {
            assert!(!is_container_name(other), "{other}");
        }
    }

    #[test]
    fn ids_are_cut_to_what_docker_shows() {
        assert_eq!(short_id("0123456789abcdef"), Some("0123456789ab"));
        assert_eq!(short_id("1a2b3c4d-5e6f-4a8b"), Some("1a2b3c4d-5e6"));
        for other in ["0123456789a", "0123456789ag", "cafe-beef-01", "database-one", "öööööööö"]
        {
            assert_eq!(short_id(other), None, "{other}");
        }
    }
}
