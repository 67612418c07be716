//! `ip_local_reserved_ports`: ports that the kernel gives to nobody who did not ask for them.
//!
//! The value as the kernel prints it, and the command that adds a port to it. Writing it replaces
//! the whole list, so the command has what is reserved already.

use super::{Subject, text};

/// Adds `port` in the subject's namespace, in words.
pub(super) fn remedy(subject: &Subject, reserved: &str, port: u16) -> String {
    let setting = format!("net.ipv4.ip_local_reserved_ports={}", merged(reserved, port));
    let reserve = text::in_its_namespace(subject, &format!("sysctl -w {setting}"));
    let to_last = match &*subject.netns {
        "host" => "the same line under /etc/sysctl.d keeps it",
        _ => "it goes with the namespace, so set it where that is made",
    };
    format!(
        "Keep the kernel off it: {reserve} (the whole list, with what is reserved now; the service \
         binds as before; {to_last})"
    )
}

/// Whether `port` is among them.
pub(super) fn contain(reserved: &str, port: u16) -> bool {
    ranges(reserved).any(|(low, high)| (low..=high).contains(&port))
}

/// Ports and ranges, in order.
fn ranges(reserved: &str) -> impl Iterator<Item = (u16, u16)> {
    reserved.trim().split(',').filter_map(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some((low.parse().ok()?, high.parse().ok()?))
    })
}

/// `reserved` and `port` as one value for the sysctl: sorted, neighbours joined.
fn merged(reserved: &str, port: u16) -> String {
    let mut all: Vec<(u16, u16)> = ranges(reserved).chain([(port, port)]).collect();
    all.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (low, high) in all {
        match joined.last_mut() {
            Some((_, end)) if low <= end.saturating_add(1) => *end = (*end).max(high),
            _ => joined.push((low, high)),
        }
    }
    let show = |(low, high)| if low == high { format!("{low}") } else { format!("{low}-{high}") };
    joined.into_iter().map(show).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_merged_into_what_is_reserved_already() {
        assert_eq!(merged("", 40_000), "40000");
        assert_eq!(merged("8080,50000-50010\n", 40_000), "8080,40000,50000-50010");
        assert_eq!(merged("39999,40001", 40_000), "39999-40001");
        assert_eq!(merged("30000-40000", 35_000), "30000-40000");
        assert_eq!(merged("65535", 65_534), "65534-65535");
    }
}
