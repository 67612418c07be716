//! `ip_local_reserved_ports`: ports that a socket gets only if its program names them.
//!
//! The value as the kernel prints it, the command that adds ports to it, and what must be reserved
//! before `ip_local_port_range` is widened. Writing it replaces the whole list, so the command has
//! what is reserved already.

use std::collections::BTreeSet;

use crate::{
    engine::{advice::text, evidence::EvidenceMap, finding::Subject},
    facts::{Namespace, PortUse},
};

/// The range that is proposed where ports are short: 44616 instead of 28232. Most services have
/// their ports below 16384; 60999 is where Linux ends its own range.
const WIDE: (u16, u16) = (16_384, 60_999);
/// Listeners that a command names; a namespace with more of them needs another plan.
const LISTENERS: usize = 64;

/// `port_range`, and `reserved_ports` where there are any.
pub(crate) fn evidence(ports: &PortUse) -> EvidenceMap {
    let mut evidence = EvidenceMap::default();
    evidence.object("port_range", evidence_of_range(ports));
    if !ports.reserved.is_empty() {
        evidence.text("reserved_ports", ports.reserved.trim());
    }
    evidence
}

/// Both ends of `ip_local_port_range`, inclusive.
pub(crate) fn evidence_of_range(ports: &PortUse) -> EvidenceMap {
    let (low, high) = ports.range;
    let mut range = EvidenceMap::default();
    range.count("low_port", low.into()).count("high_port", high.into());
    range
}

/// Adds `port` in the subject's namespace, in words.
pub(crate) fn remedy(subject: &Subject, reserved: &str, port: u16) -> String {
    remedy_all(subject, reserved, &BTreeSet::from([port]))
}

/// Adds `ports` in the subject's namespace, in words.
pub(crate) fn remedy_all(subject: &Subject, reserved: &str, ports: &BTreeSet<u16>) -> String {
    let to_last = match &*subject.netns {
        "host" => "the same line under /etc/sysctl.d keeps it",
        _ => "it goes with the namespace, so set it where that is made",
    };
    let it = if ports.len() == 1 { "it" } else { "them" };
    format!(
        "Keep the kernel off {it}: {} (the whole list, with what is reserved now; the service \
         binds as before; {to_last})",
        command(subject, reserved, ports)
    )
}

/// `ports` as the kernel writes them: sorted, neighbours joined.
pub(crate) fn list(ports: &BTreeSet<u16>) -> String {
    merged("", ports)
}

/// How to widen the range of the subject's namespace, in words; `None` where it is wide enough.
/// Ports of listeners in the new part are reserved first, or a client is given one of them.
pub(crate) fn widen(subject: &Subject, namespace: &Namespace) -> Option<String> {
    let ports = &namespace.ports;
    let (low, high) = ports.range;
    let (new_low, new_high) = (low.min(WIDE.0), high.max(WIDE.1));
    if (new_low, new_high) == (low, high) {
        return None;
    }
    let is_new = |port: &u16| (new_low..=new_high).contains(port) && !(low..=high).contains(port);
    let listeners = namespace.listeners.iter().map(|listener| listener.local.port);
    let listeners: BTreeSet<u16> =
        listeners.filter(is_new).filter(|port| !contain(&ports.reserved, *port)).collect();
    let reserve = match listeners.len() {
        0 => String::new(),
        1..=LISTENERS => format!(
            "first reserve the ports of the listeners there, {} (the whole list, with what is \
             reserved now), then ",
            command(subject, &ports.reserved, &listeners)
        ),
        many => format!("first reserve the {many} ports of the listeners there (ss -Htln), then "),
    };
    let widen = format!("sysctl -w net.ipv4.ip_local_port_range=\"{new_low} {new_high}\"");
    let widen = text::in_its_namespace(subject, &widen);
    Some(format!(
        "More ports: ip_local_port_range is {low} to {high}; {reserve}{widen}. On a Kubernetes node \
         reserve 30000-32767 too: NodePorts have no listener."
    ))
}

fn command(subject: &Subject, reserved: &str, ports: &BTreeSet<u16>) -> String {
    let value = merged(reserved, ports);
    let set = format!("sysctl -w net.ipv4.ip_local_reserved_ports={value}");
    text::in_its_namespace(subject, &set)
}

/// Whether `port` is among them.
pub(crate) fn contain(reserved: &str, port: u16) -> bool {
    ranges(reserved).any(|(low, high)| (low..=high).contains(&port))
}

/// Ports and ranges, in order.
fn ranges(reserved: &str) -> impl Iterator<Item = (u16, u16)> {
    reserved.trim().split(',').filter_map(|part| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some((low.parse().ok()?, high.parse().ok()?))
    })
}

/// `reserved` and `ports` as one value for the sysctl: sorted, neighbours joined.
fn merged(reserved: &str, ports: &BTreeSet<u16>) -> String {
    let mut all: Vec<(u16, u16)> =
        ranges(reserved).chain(ports.iter().map(|port| (*port, *port))).collect();
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
    fn ports_are_merged_into_what_is_reserved_already() {
        let merged = |reserved, ports: &[u16]| merged(reserved, &ports.iter().copied().collect());
        assert_eq!(merged("", &[40_000]), "40000");
        assert_eq!(merged("8080,50000-50010\n", &[40_000]), "8080,40000,50000-50010");
        assert_eq!(merged("39999,40001", &[40_000]), "39999-40001");
        assert_eq!(merged("30000-40000", &[35_000]), "30000-40000");
        assert_eq!(merged("65535", &[65_534]), "65534-65535");
        assert_eq!(merged("8080", &[19_001, 19_000, 8_081, 20_000]), "8080-8081,19000-19001,20000");
    }
}
