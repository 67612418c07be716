//! A self-connection in words: title, explanation, evidence, remedies.

use crate::{
    engine::{
        advice::{reserved_ports, text},
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
    },
    facts::{Namespace, Process, SelfConnectedSocket},
};

/// `maker`: the process that made the connection, where it was seen and the owner is not known.
pub(crate) fn verdict(
    namespace: &Namespace,
    socket: &SelfConnectedSocket,
    maker: Option<&Process>,
    severity: Severity,
) -> Verdict {
    let endpoint = socket.endpoint;
    let owner = socket.owner.as_ref();
    let holder = owner.map(|owner| &*owner.process).or(maker);
    let mut subject = Subject {
        netns: namespace.name.clone(),
        local: Some(endpoint.to_string()),
        peer: Some(endpoint.to_string()),
        port: Some(endpoint.port),
        ..Subject::default()
    };
    if let Some(owner) = owner {
        subject.set_owner(owner);
    } else if let Some(maker) = maker {
        subject.set_process(maker);
    }
    let (low, high) = namespace.ports.range;
    let inside = (low..=high).contains(&endpoint.port);
    let mut evidence = EvidenceMap::default();
    evidence
        .count("sockets", 1)
        .text("state", socket.state.label())
        .object("port_range", reserved_ports::evidence_of_range(&namespace.ports))
        .flag("port_is_in_range", inside);
    let who = text::named(holder);
    let close = format!("ss -tK 'src {endpoint} and dst {endpoint}'");
    let close = text::in_its_namespace(&subject, &close);
    let netns = text::in_netns(&namespace.name);
    Verdict {
        id: format!("self-connection/{}/{endpoint}", namespace.id),
        kind: FindingKind::SelfConnection,
        severity,
        title: format!("{who} is connected to itself at {endpoint}{netns}"),
        explanation: format!(
            "It connected to {endpoint} while no process listened there, and {} as the source \
             port. TCP then connects the socket to itself (simultaneous open, RFC 9293 section \
             3.5): it reads back what it writes, and the service that should listen on port {} \
             cannot bind it.",
            if inside { "the kernel picked the same port" } else { "had bound the same port" },
            endpoint.port
        ),
        evidence,
        remedies: vec![
            // Before it is closed: the client connects again at once, and may be given it again.
            if inside {
                let reserve = reserved_ports::remedy(&subject, endpoint.port);
                format!("{reserve}, or move the service out of {low}-{high}.")
            } else {
                "In the code: do not bind() the port of the destination as the source port."
                    .to_owned()
            },
            match holder {
                Some(_) => format!("Close it: {close}, or {}", text::restart(&subject)),
                None => format!("Close it: {close}"),
            },
            "In the code: after connect(), close the socket and try again if getsockname() \
             equals getpeername()."
                .to_owned(),
        ],
        subject,
    }
}
