//! A stall in words: title, explanation, evidence, remedies.

use crate::engine::{
    advice::{half_open, text},
    finding::{FindingKind, Severity, Subject, Verdict},
    observers::half_open::Crowd,
};

pub(crate) fn verdict(crowd: &Crowd<'_>, id: String, severity: Severity) -> Verdict {
    let subject = Subject::of_listener(crowd.namespace, crowd.listener);
    Verdict {
        id,
        kind: FindingKind::HandshakeStall,
        severity,
        title: title(crowd),
        explanation: "SYNs come in, SYN-ACKs go out and are sent again, and no ACK comes back. A \
                      firewall or a route on the way back drops them, or the client's own host \
                      does: packets pass in one direction only. Or a few hosts send SYNs and want \
                      no connection."
            .to_owned(),
        evidence: half_open::evidence(crowd),
        remedies: remedies(crowd, &subject),
        subject,
    }
}

fn title(crowd: &Crowd<'_>) -> String {
    let from = half_open::requests_from_sources(crowd);
    let who = text::named(crowd.process());
    let netns = text::in_netns(&crowd.namespace.name);
    let port = crowd.port();
    format!("{from} to port {port} of {who}{netns} stay: its SYN-ACKs are not answered")
}

fn remedies(crowd: &Crowd<'_>, subject: &Subject) -> Vec<String> {
    let tcpdump = format!("tcpdump -ni any 'tcp port {}'", crowd.port());
    vec![
        half_open::look(crowd, subject),
        format!(
            "Follow one client, here with {} and at its end likewise: where the SYN-ACK or the ACK \
             is missing is the hop that drops it.",
            text::in_its_namespace(subject, &tcpdump)
        ),
        "Look for asymmetric routes, rp_filter, connection tracking that is full, and firewall \
         rules that know one direction only."
            .to_owned(),
    ]
}
