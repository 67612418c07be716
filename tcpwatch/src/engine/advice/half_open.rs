//! Words and remedies for half-open connections, whether they are a flood or a stall.

use crate::engine::{
    advice::text, evidence::EvidenceMap, finding::Subject, observers::half_open::Crowd,
};

/// `120 half-open connections from about 3 sources`.
pub(crate) fn requests_from_sources(crowd: &Crowd<'_>) -> String {
    let requests = text::count(u64::from(crowd.unanswered), "half-open connection");
    let about = if crowd.sources == 1 { "" } else { "about " };
    format!("{requests} from {about}{}", text::count(u64::from(crowd.sources), "source"))
}

pub(crate) fn evidence(crowd: &Crowd<'_>) -> EvidenceMap {
    let mut evidence = EvidenceMap::default();
    evidence
        .count("unanswered_connections", u64::from(crowd.unanswered))
        .count("half_open_connections", crowd.half_open())
        .count("sources_estimate", u64::from(crowd.sources))
        .count("limit_connections", crowd.limit);
    if let Some(syncookies) = crowd.namespace.syncookies {
        evidence.count("tcp_syncookies", syncookies);
    }
    evidence
}

/// The first remedy: to see them.
pub(crate) fn look(crowd: &Crowd<'_>, subject: &Subject) -> String {
    let list = format!("ss -Htn state syn-recv '( sport = :{} )'", crowd.port());
    format!("Look at them: {}", text::in_its_namespace(subject, &list))
}
