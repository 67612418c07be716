//! `ip_local_reserved_ports`: ports that a socket gets only if its program names them.
//!
//! The value as the kernel prints it, the command that adds ports to it, and what must be reserved
//! before `ip_local_port_range` is widened.

use std::collections::BTreeSet;

use crate::{
    engine::{
        advice::{command::Way, text},
        evidence::EvidenceMap,
        finding::Subject,
    },
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
pub(crate) fn remedy(subject: &Subject, port: u16) -> String {
    remedy_all(subject, &BTreeSet::from([port]))
}

/// Adds `ports` in the subject's namespace, in words.
pub(crate) fn remedy_all(subject: &Subject, ports: &BTreeSet<u16>) -> String {
    let to_last = match &*subject.netns {
        "host" => "the line that it prints keeps the list, in a file of /etc/sysctl.d",
        _ => "the list goes with the namespace, so set it where that is made",
    };
    let it = if ports.len() == 1 { "it" } else { "them" };
    format!(
        "Keep the kernel off {it}: {} (ports that are reserved already stay so; the service binds as \
         before; {to_last})",
        command(subject, ports)
    )
}

/// `ports` as the kernel writes them: sorted, neighbours joined.
pub(crate) fn list(ports: &BTreeSet<u16>) -> String {
    merged(ports)
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
            "first reserve the ports of the listeners there: {}; then ",
            command(subject, &listeners)
        ),
        many => {
            format!("first reserve the {many} ports of the listeners there (`ss -Htln`), then ")
        }
    };
    let widen = format!("sysctl -w net.ipv4.ip_local_port_range=\"{new_low} {new_high}\"");
    let widen = text::in_its_namespace(subject, &widen);
    Some(format!(
        "More ports: ip_local_port_range is {low} to {high}; {reserve}{widen}. On a Kubernetes node \
         reserve 30000-32767 too: NodePorts have no listener."
    ))
}

/// Writing the list replaces it. The command reads the list when it runs, because another finding's
/// command may have added a port by then.
fn command(subject: &Subject, ports: &BTreeSet<u16>) -> String {
    const KEY: &str = "net.ipv4.ip_local_reserved_ports";
    let way = Way::into_namespace_of(subject);
    let command = format!(
        "old=$({}) && {}",
        way.run(&format!("sysctl -n {KEY}")),
        way.run(&format!("sysctl -w {KEY}=\"${{old:+$old,}}{}\"", merged(ports))),
    );
    format!("{}{}", text::to_paste(&command), way.note())
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

/// `ports` as one value for the sysctl: sorted, neighbours joined.
fn merged(ports: &BTreeSet<u16>) -> String {
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (low, high) in ports.iter().map(|port| (*port, *port)) {
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
    fn ports_are_a_value_of_the_sysctl() {
        let merged = |ports: &[u16]| merged(&ports.iter().copied().collect());
        assert_eq!(merged(&[40_000]), "40000");
        assert_eq!(merged(&[65_534, 65_535]), "65534-65535");
        assert_eq!(merged(&[19_001, 19_000, 8_081, 20_000]), "8081,19000-19001,20000");
    }

    #[test]
    fn the_command_adds_to_what_is_reserved_when_it_runs() {
        let ports = BTreeSet::from([40_000]);
        let of = |netns: &str| Subject { netns: netns.into(), ..Subject::default() };
        let key = "net.ipv4.ip_local_reserved_ports";
        let expected =
            format!("`old=$(sysctl -n {key}) && sysctl -w {key}=\"${{old:+$old,}}40000\"`");
        assert_eq!(command(&of("host"), &ports), expected);
        let blue = expected.replace("sysctl", "ip netns exec blue sysctl");
        assert_eq!(command(&of("blue"), &ports), blue);
    }
}
