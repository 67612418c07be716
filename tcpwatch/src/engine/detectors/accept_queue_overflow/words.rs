//! A queue that overflows in words: title, explanation, evidence, remedies.

use super::place::Place;
use crate::{
    engine::{
        advice::text,
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
        over_time::moved::Moves,
    },
    facts::{Listener, Namespace},
};

pub(crate) fn verdict(
    id: String,
    severity: Severity,
    place: &Place<'_>,
    moves: Moves,
) -> Option<Verdict> {
    let Place { namespace, listeners } = place;
    let listener = place.worst()?;
    let port = listener.local.port;
    let subject = Subject::of_listener(namespace, listener);
    let half_open = listeners.iter().map(|listener| u64::from(listener.half_open)).sum();
    let mut evidence = EvidenceMap::default();
    evidence
        .count("waiting_connections", u64::from(listener.accept_queue))
        .count("limit_connections", u64::from(listener.accept_limit))
        .count("dropped_attempts", moves.total)
        .count("dropped_attempts_in_window", moves.in_window)
        .count("half_open_connections", half_open);
    if listeners.len() > 1 {
        evidence.count("listeners", listeners.len() as u64);
    }
    let look = text::in_its_namespace(&subject, &format!("ss -ltnp '( sport = :{port} )'"));
    Some(Verdict {
        id,
        kind: FindingKind::AcceptQueueOverflow,
        severity,
        title: title(namespace, listener, moves.total),
        explanation: "The kernel completes the handshake; the connection then waits until the \
             process calls accept(). When the queue is full the kernel drops the client's last \
             ACK, so that the client believes it is connected and waits, or its SYN, which it \
             sends again after a second. Each try that is dropped counts."
            .to_owned(),
        evidence,
        remedies: vec![
            format!("Look at it: {look} (Recv-Q is what waits, Send-Q the limit)"),
            "In the program: accept in a loop of its own and hand the work on; more workers if all \
             of them are busy."
                .to_owned(),
            format!(
                "Room for bursts: a larger backlog in listen(), now {}, and net.core.somaxconn, \
                 which cuts it; the program must listen() again.",
                listener.accept_limit
            ),
        ],
        subject,
    })
}

fn title(namespace: &Namespace, listener: &Listener, dropped: u64) -> String {
    let who = text::named(listener.owner.as_ref().map(|owner| &*owner.process));
    let netns = text::in_netns(&namespace.name);
    let (waiting, limit) = (listener.accept_queue, listener.accept_limit);
    let queue = if listener.is_full() {
        format!("its accept queue is full ({waiting} wait, the limit is {limit})")
    } else {
        format!("{waiting} wait now, the limit is {limit}")
    };
    let dropped = match dropped {
        0 => String::new(),
        1 => ", 1 attempt to connect was dropped".to_owned(),
        dropped => format!(", {dropped} attempts to connect were dropped"),
    };
    format!("{who} does not accept fast enough on {}{netns}: {queue}{dropped}", listener.local)
}
