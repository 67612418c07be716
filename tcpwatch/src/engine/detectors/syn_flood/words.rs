//! A flood in words: title, explanation, evidence, remedies.

use crate::engine::{
    advice::{half_open, text},
    finding::{FindingKind, Severity, Subject, Verdict},
    observers::half_open::Crowd,
};

pub(crate) fn verdict(crowd: &Crowd<'_>, id: String, severity: Severity) -> Verdict {
    let subject = Subject::of_listener(crowd.namespace, crowd.listener);
    Verdict {
        id,
        kind: FindingKind::SynFlood,
        severity,
        title: title(crowd),
        explanation: explanation(crowd),
        evidence: half_open::evidence(crowd),
        remedies: remedies(crowd, &subject),
        subject,
    }
}

fn title(crowd: &Crowd<'_>) -> String {
    let from = half_open::requests_from_sources(crowd);
    let who = text::named(crowd.process());
    let netns = text::in_netns(&crowd.namespace.name);
    format!("{from} crowd port {} of {who}{netns}", crowd.port())
}

fn explanation(crowd: &Crowd<'_>) -> String {
    let cookies = match crowd.namespace.syncookies {
        Some(0) => {
            "SYN cookies are off (tcp_syncookies 0), so when the queue is full real clients are \
             turned away."
        }
        Some(_) => {
            "SYN cookies are on, so real clients are still served when the queue is full, but \
             without some TCP options."
        }
        None => "Whether SYN cookies are on could not be read.",
    };
    format!(
        "Many addresses send a SYN and never answer the SYN-ACK: they are forged, or belong to \
         hosts that take part in a flood, or the way back to all of them is broken. {cookies}"
    )
}

fn remedies(crowd: &Crowd<'_>, subject: &Subject) -> Vec<String> {
    let here = |command: &str| text::in_its_namespace(subject, command);
    let mut remedies = vec![half_open::look(crowd, subject)];
    if crowd.namespace.syncookies == Some(0) {
        remedies.push(format!("Now: {}", here("sysctl -w net.ipv4.tcp_syncookies=1")));
    }
    remedies.push(
        "Filter upstream, or limit SYNs by source in the firewall; addresses that are forged \
         cannot be blocked one by one."
            .to_owned(),
    );
    remedies.push(
        "A longer queue (net.ipv4.tcp_max_syn_backlog, net.core.somaxconn, the backlog of \
         listen()) helps only against a short wave."
            .to_owned(),
    );
    remedies
}
