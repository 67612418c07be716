//! The verdicts about ports, put together of their parts.

use std::collections::BTreeSet;

use super::{pinned::Pinned, remedies, words::Shortage};
use crate::engine::finding::{FindingKind, Severity, Subject, Verdict};

/// About the ports towards one destination.
pub(super) fn of_destination(shortage: &Shortage<'_>, id: String, severity: Severity) -> Verdict {
    let mut subject = Subject {
        netns: shortage.namespace.name.clone(),
        local: Some(shortage.key.local.to_string()),
        peer: Some(shortage.key.peer.to_string()),
        port: Some(shortage.key.peer.port),
        ..Subject::default()
    };
    shortage.name_culprit(&mut subject);
    Verdict {
        id,
        kind: FindingKind::EphemeralPortExhaustion,
        severity,
        title: shortage.title(),
        explanation: shortage.explanation(),
        evidence: shortage.evidence(),
        remedies: remedies::of_destination(shortage, &subject),
        subject,
    }
}

/// About the ports of a namespace that are taken for every destination.
pub(super) fn of_pinned(pinned: &Pinned<'_>, id: String, severity: Severity) -> Verdict {
    let mut subject = Subject { netns: pinned.namespace.name.clone(), ..Subject::default() };
    let bound = pinned.bound();
    if bound.ports > 0 && bound.ports >= pinned.listening() {
        bound.name_in(&mut subject);
        let sources: BTreeSet<_> = pinned.sample().map(|user| user.local.address).collect();
        if let (Some(source), 1) = (sources.first(), sources.len()) {
            subject.local = Some(source.to_string());
        }
    }
    Verdict {
        id,
        kind: FindingKind::EphemeralPortExhaustion,
        severity,
        title: pinned.title(),
        explanation: pinned.explanation(),
        evidence: pinned.evidence(),
        remedies: remedies::of_pinned(pinned, &subject),
        subject,
    }
}
