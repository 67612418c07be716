//! A port at risk in words: title, explanation, evidence, remedies.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    engine::{
        advice::{reserved_ports, text},
        finding::{FindingKind, Severity, Subject, Verdict},
        over_time::moved::Moves,
    },
    facts::{Endpoint, Listener, Namespace, PortUse, Process, Role},
};

/// Characters of the list of ports in a title.
const PORT_LIST: usize = 60;

/// Listeners of one owner at risk.
pub(crate) struct AtRisk<'a> {
    pub(crate) namespace: &'a Namespace,
    /// At least one.
    pub(crate) listeners: &'a [&'a Listener],
}

impl AtRisk<'_> {
    pub(crate) fn verdict(&self, id: String) -> Verdict {
        let ports: BTreeSet<u16> = self.listeners.iter().map(|it| it.local.port).collect();
        let subject = self.subject(&ports);
        let clients = self.listeners.iter().map(|it| u64::from(it.local_clients)).sum();
        let mut evidence = reserved_ports::evidence(&self.namespace.ports);
        evidence
            .count("local_connections", clients)
            .count("listening_ports", ports.len() as u64)
            .text("port_list", reserved_ports::list(&ports));
        let pids: BTreeSet<u32> = self.owners().map(|process| process.pid).collect();
        if pids.len() > 1 {
            evidence.count("processes", pids.len() as u64);
        }
        Verdict {
            id,
            kind: FindingKind::SelfConnectRisk,
            severity: Severity::Info,
            title: self.title(&ports, pids.len() as u64, clients),
            explanation: self.explanation(&ports),
            evidence,
            remedies: remedies(&subject, &self.namespace.ports, &ports),
            subject,
        }
    }

    fn owners(&self) -> impl Iterator<Item = &Process> {
        self.listeners.iter().filter_map(|listener| Some(&*listener.owner.as_ref()?.process))
    }

    fn subject(&self, ports: &BTreeSet<u16>) -> Subject {
        let first = self.listeners.first().expect("a group has at least one listener");
        let mut subject = Subject::of_listener(self.namespace, first);
        if ports.len() > 1 {
            // No single one of them is meant.
            (subject.local, subject.port) = (None, None);
            subject.fds.clear();
        }
        subject
    }

    fn title(&self, ports: &BTreeSet<u16>, processes: u64, clients: u64) -> String {
        let who = text::named(self.owners().next());
        let netns = text::in_netns(&self.namespace.name);
        let (low, high) = self.namespace.ports.range;
        let clients = if clients > 0 { "; clients on this host are connected" } else { "" };
        match ports.first() {
            Some(port) if ports.len() == 1 => format!(
                "port {port} of {who}{netns} lies inside ip_local_port_range {low}-{high} and is \
                 not reserved{clients}"
            ),
            _ => {
                let who = match processes {
                    0 | 1 => format!("{who} listens"),
                    many => format!("{who} and {} listen", text::count(many - 1, "more process")),
                };
                format!(
                    "{who} on {} ports{netns} inside ip_local_port_range {low}-{high} that are not \
                     reserved: {}{clients}",
                    ports.len(),
                    text::shorten(&reserved_ports::list(ports), PORT_LIST)
                )
            }
        }
    }

    fn explanation(&self, ports: &BTreeSet<u16>) -> String {
        let who = text::named(self.owners().next());
        let port = match ports.first() {
            Some(port) if ports.len() == 1 => format!("port {port}"),
            _ => "one of these ports".to_owned(),
        };
        let is_first =
            |port: &u16| matches!(Parity::of(&self.namespace.ports, *port), Parity::First);
        let becomes_itself = if ports.iter().any(is_first) {
            " A client on this host that connects to it at that time may be given the same port, and \
             is then connected to itself (simultaneous open, RFC 9293 section 3.5)."
        } else {
            ""
        };
        format!(
            "While {who} restarts, the kernel may give {port} to an outgoing connection: the restart \
             then fails with \"address already in use\".{becomes_itself}"
        )
    }
}

pub(crate) fn retried_port(
    id: String,
    severity: Severity,
    namespace: &Namespace,
    peer: Endpoint,
    process: Option<&Process>,
    refused: Moves,
) -> Verdict {
    let ports = &namespace.ports;
    let mut subject = Subject {
        netns: namespace.name.clone(),
        role: Some(Role::Client),
        peer: Some(peer.to_string()),
        port: Some(peer.port),
        ..Subject::default()
    };
    if let Some(process) = process {
        subject.set_process(process);
    }
    let per_second = per_second(refused);
    let mut evidence = reserved_ports::evidence(ports);
    evidence
        .count("refused_connects", refused.total)
        .count("refused_connects_in_window", refused.in_window)
        .number("refused_connects_per_second", per_second);
    let who = text::named(process);
    let netns = text::in_netns(&namespace.name);
    let times = match refused.total {
        1 => "once".to_owned(),
        total => format!("{} times", text::number(total)),
    };
    let keeps =
        format!("{who} keeps connecting to {peer}{netns}, where nothing listens: refused {times}");
    let port = peer.port;
    let (title, explanation) = match Parity::of(ports, port) {
        Parity::First => {
            // Of the ports that connect() tries first each is as likely as another.
            let tries = tries(ports);
            let expected =
                Duration::try_from_secs_f64(f64::from(tries) / per_second).unwrap_or(Duration::MAX);
            evidence
                .count("self_connection_expected_connects", u64::from(tries))
                .number("self_connection_expected_seconds", expected.as_secs_f64());
            let expected = text::duration(expected);
            (
                format!("{keeps}, and at this rate connected to itself in about {expected}"),
                format!(
                    "Port {port} lies inside ip_local_port_range, so connect() may be given it as \
                     its source: about once in {} times. TCP then connects the socket to \
                     itself (simultaneous open, RFC 9293 section 3.5), and the service that should \
                     listen there cannot bind.",
                    text::number(tries)
                ),
            )
        }
        Parity::Second => (
            keeps,
            format!(
                "Port {port} lies inside ip_local_port_range. connect() takes the ports of the \
                 other parity first, so it is given this one as its source only when those are \
                 taken; a program that calls bind() with port 0 before connect() may be given it \
                 at once. The socket is then connected to itself (simultaneous open, RFC 9293 \
                 section 3.5)."
            ),
        ),
    };
    Verdict {
        id,
        kind: FindingKind::SelfConnectRisk,
        severity,
        title,
        explanation,
        evidence,
        remedies: remedies(&subject, ports, &BTreeSet::from([port])),
        subject,
    }
}

/// Connects after which one is expected to meet its own port, of those that connect() tries first.
pub(crate) fn tries(ports: &PortUse) -> u32 {
    (ports.available / 2).max(1)
}

/// Refusals per second, between the first and the last of the window; a second is the least that
/// is divided by, so that a burst is not taken for a rate.
fn per_second(refused: Moves) -> f64 {
    let intervals = refused.in_window.saturating_sub(1).max(1);
    intervals as f64 / refused.lasted.max(Duration::from_secs(1)).as_secs_f64()
}

/// Which of the range's ports connect() tries first: those of the parity of its beginning; the
/// others only when these are all taken for the destination. bind() with port 0 does the opposite.
/// (`__inet_hash_connect` and `inet_csk_find_open_port`, since 4.2; seen on 6.18: of 5,000 refused
/// connects to a port of the second parity in a range of 100 none was given that port.)
pub(crate) enum Parity {
    First,
    Second,
}

impl Parity {
    pub(crate) fn of(ports: &PortUse, port: u16) -> Self {
        let (low, _) = ports.range;
        if low % 2 == port % 2 { Self::First } else { Self::Second }
    }
}

fn remedies(subject: &Subject, ports: &PortUse, at_risk: &BTreeSet<u16>) -> Vec<String> {
    let (low, _) = ports.range;
    vec![
        reserved_ports::remedy_all(subject, at_risk),
        format!("Or let the service listen below {low}."),
        "In the client: wait longer after each refusal, and close a connection whose getsockname() \
         equals its getpeername()."
            .to_owned(),
    ]
}
