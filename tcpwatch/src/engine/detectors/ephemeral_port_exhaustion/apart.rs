//! Connects that fail with EADDRNOTAVAIL although the namespace has ports: in words.
//!
//! A socket may limit connect() to a range of its own (IP_LOCAL_PORT_RANGE, since 6.3), and a socket
//! that bind() gave a port may meet a connection with the same two ends. Neither is a shortage of
//! ports, and a wider `ip_local_port_range` cures neither.

use super::failures::Failures;
use crate::{
    engine::{
        advice::{reserved_ports, text},
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
        groups::destinations::Destination,
    },
    facts::{ConnectFailure, Endpoint, Namespace, NoConnect},
};

/// Refusals of a bound socket that are a warning. A client that binds its port and connects anew
/// meets its own TIME_WAIT for a minute; one try each six seconds is a patient one.
const REFUSED_MANY: u64 = 10;

/// Why connect() failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// No port of the socket's own range is free.
    OwnRange { first: u16, last: u16 },
    /// The socket is bound to this port, and another one connects it with the same destination.
    EndsTaken { port: u16 },
}

/// The connects of one cause to one destination.
pub(super) struct Apart<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) key: Destination,
    pub(super) cause: Cause,
    pub(super) failures: &'a Failures,
}

impl Cause {
    /// `None` where the namespace lacks ports, or the failure is of another kind.
    pub(super) fn of(
        reason: ConnectFailure,
        no_connect: Option<NoConnect>,
        local: Endpoint,
    ) -> Option<Self> {
        match (reason, no_connect?) {
            (ConnectFailure::NoLocalPort, NoConnect::OwnRange { first, last }) => {
                Some(Self::OwnRange { first, last })
            }
            (_, NoConnect::EndsTaken) => Some(Self::EndsTaken { port: local.port }),
            _ => None,
        }
    }
}

impl Apart<'_> {
    pub(super) fn verdict(&self) -> Verdict {
        let Destination { netns, local, peer } = self.key;
        let kind = FindingKind::EphemeralPortExhaustion;
        let (severity, what) = match self.cause {
            Cause::OwnRange { .. } => (Severity::Warning, "own_range".to_owned()),
            Cause::EndsTaken { port } => {
                let is_many = self.failures.count >= REFUSED_MANY;
                let severity = if is_many { Severity::Warning } else { Severity::Info };
                (severity, format!("ends_taken/{port}"))
            }
        };
        let mut subject = Subject {
            netns: self.namespace.name.clone(),
            local: Some(local.to_string()),
            peer: Some(peer.to_string()),
            port: Some(peer.port),
            ..Subject::default()
        };
        if let Some(process) = self.failures.worst_process() {
            subject.set_process(process);
        }
        Verdict {
            id: format!("{}/{netns}/{local}/{peer}/{what}", kind.name()),
            kind,
            severity,
            title: self.title(),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies: self.remedies(&subject),
            subject,
        }
    }

    /// `4 connect() calls to 127.0.0.1:6379 by session (pid 7) failed`, with the namespace.
    fn failed(&self) -> String {
        let netns = text::in_netns(&self.namespace.name);
        let calls = text::count(self.failures.count, "connect() call");
        let who = text::named(self.failures.worst_process());
        let most = if self.failures.are_of_one_process() { "" } else { ", most" };
        format!("{calls} to {}{most} by {who} failed{netns}", self.key.peer)
    }

    fn title(&self) -> String {
        let failed = self.failed();
        match self.cause {
            Cause::OwnRange { first, last } => format!(
                "{failed}: every port of the program's own range {first}-{last} is taken for this \
                 destination"
            ),
            Cause::EndsTaken { port } => {
                format!("{failed}: local port {port} is connected to that destination already")
            }
        }
    }

    fn explanation(&self) -> String {
        let ports = &self.namespace.ports;
        match self.cause {
            Cause::OwnRange { .. } => format!(
                "The program limits its sockets with IP_LOCAL_PORT_RANGE, and connect() fails with \
                 EADDRNOTAVAIL when none of these ports is free. The network namespace has {} \
                 ports for a destination; other programs are not affected.",
                text::number(ports.available)
            ),
            Cause::EndsTaken { port } => format!(
                "Two addresses and two ports identify a connection (RFC 9293 section 3.3.1). The \
                 program called bind() with port {port}, and connect() fails with EADDRNOTAVAIL \
                 because a socket with the same four exists. It may be in TIME_WAIT, for 60 s. No \
                 port is short."
            ),
        }
    }

    fn evidence(&self) -> EvidenceMap {
        let ports = &self.namespace.ports;
        let mut evidence = EvidenceMap::default();
        evidence
            .count("available_ports", ports.available.into())
            .count("pinned_ports", ports.pinned.into())
            .object("port_range", reserved_ports::evidence_of_range(ports));
        match self.cause {
            Cause::OwnRange { first, last } => {
                let mut range = EvidenceMap::default();
                range.count("first_port", first.into()).count("last_port", last.into());
                evidence.object("own_port_range", range);
            }
            Cause::EndsTaken { port } => {
                evidence.count("bound_port", port.into());
            }
        }
        self.failures.add_to(&mut evidence);
        evidence
    }

    fn remedies(&self, subject: &Subject) -> Vec<String> {
        let peer = self.key.peer;
        let whose = match self.failures.worst_process() {
            Some(process) => format!(" in {}", text::named(Some(process))),
            None => String::new(),
        };
        match self.cause {
            Cause::OwnRange { first, last } => vec![
                format!(
                    "A wider IP_LOCAL_PORT_RANGE{whose} than {first}-{last}, or none: then it has \
                     the ports of ip_local_port_range."
                ),
                format!("Fewer connections to {peer}{whose}: keep-alive or a bound on its pool."),
                format!(
                    "Look at them: {}",
                    text::in_its_namespace(subject, &format!("ss -tanp dst {peer}"))
                ),
                "Not by net.ipv4.ip_local_port_range: the program's own range is the limit."
                    .to_owned(),
            ],
            Cause::EndsTaken { port } => vec![
                format!(
                    "Look at the socket: {}",
                    text::in_its_namespace(
                        subject,
                        &format!("ss -tanp dst {peer} and '( sport = :{port} )'")
                    )
                ),
                format!("No bind() to a port before connect(){whose}: the kernel chooses one."),
                "Where the port must be that one: close the first connection before the second, \
                 and let the peer close first, so that TIME_WAIT stays there."
                    .to_owned(),
                "Not by net.ipv4.ip_local_port_range: the port is given.".to_owned(),
            ],
        }
    }
}
