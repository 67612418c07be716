//! A port at risk in words: title, explanation, evidence, remedies.

use std::time::Duration;

use crate::{
    engine::{
        advice::{reserved_ports, text},
        finding::{FindingKind, Severity, Subject, Verdict},
        over_time::moved::Moves,
    },
    facts::{Endpoint, Listener, Namespace, PortUse, Process, Role},
};

pub(crate) fn listener_at_risk(
    namespace: &Namespace,
    listener: &Listener,
    is_dialled: bool,
) -> Verdict {
    let port = listener.local.port;
    let subject = Subject::of_listener(namespace, listener);
    let who = text::named(listener.owner.as_ref().map(|owner| &*owner.process));
    let netns = text::in_netns(&namespace.name);
    let (low, high) = namespace.ports.range;
    let mut evidence = reserved_ports::evidence(&namespace.ports);
    evidence.count("local_connections", u64::from(listener.local_clients));
    let dialled = if is_dialled { ", and local clients dial it" } else { "" };
    let becomes_itself = match Parity::of(&namespace.ports, port) {
        Parity::First => {
            " A local client that dials it at that time may be given the same port, and is then \
             connected to itself (simultaneous open, RFC 9293 section 3.5)."
        }
        Parity::Second => "",
    };
    Verdict {
        id: format!("self-connect-risk/{}/{port}", namespace.id),
        kind: FindingKind::SelfConnectRisk,
        severity: if is_dialled { Severity::Warning } else { Severity::Info },
        title: format!(
            "port {port} of {who}{netns} lies inside ip_local_port_range {low}-{high} and is not \
             reserved{dialled}"
        ),
        explanation: format!(
            "While {who} restarts, the kernel may give port {port} to an outgoing connection: the \
             restart then fails with \"address already in use\".{becomes_itself}"
        ),
        evidence,
        remedies: remedies(&subject, &namespace.ports, port),
        subject,
    }
}

pub(crate) fn dialled_port(
    id: String,
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
        total => format!("{total} times"),
    };
    let keeps =
        format!("{who} keeps dialling {peer}{netns}, where nobody listens: refused {times}");
    let port = peer.port;
    let (severity, title, explanation) = match Parity::of(ports, port) {
        Parity::First => {
            // Of the ports that connect() tries first each is as likely as another.
            let tries = (ports.available / 2).max(1);
            let expected =
                Duration::try_from_secs_f64(f64::from(tries) / per_second).unwrap_or(Duration::MAX);
            evidence
                .count("self_connection_expected_connects", u64::from(tries))
                .number("self_connection_expected_seconds", expected.as_secs_f64());
            let expected = text::duration(expected);
            (
                Severity::Warning,
                format!("{keeps}, and at this rate connected to itself in about {expected}"),
                format!(
                    "Port {port} lies inside ip_local_port_range, so connect() may be given it as \
                     its source: about once in {tries} times. TCP then connects the socket to \
                     itself (simultaneous open, RFC 9293 section 3.5), and the service that should \
                     listen there cannot bind."
                ),
            )
        }
        Parity::Second => (
            Severity::Info,
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
        remedies: remedies(&subject, ports, port),
        subject,
    }
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
enum Parity {
    First,
    Second,
}

impl Parity {
    fn of(ports: &PortUse, port: u16) -> Self {
        let (low, _) = ports.range;
        if low % 2 == port % 2 { Self::First } else { Self::Second }
    }
}

fn remedies(subject: &Subject, ports: &PortUse, port: u16) -> Vec<String> {
    let (low, _) = ports.range;
    vec![
        reserved_ports::remedy(subject, &ports.reserved, port),
        format!("Or let the service listen below {low}."),
        "In the client: wait longer after each refusal, and close a connection whose getsockname() \
         equals its getpeername()."
            .to_owned(),
    ]
}
