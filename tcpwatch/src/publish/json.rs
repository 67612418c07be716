//! Findings for scripts: the body of `/api/v1/findings`.
//!
//! [`Subject`] and [`EvidenceMap`] define subject and evidence. Here times become
//! times of day, the runbook is added, and limits of sight stand beside the findings.

use serde::Serialize;

use super::WallClock;
use crate::{
    engine::{EvidenceMap, Finding, FindingKind, Severity, Subject},
    facts::NotSeen,
};

/// Version of the document: it rises when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// The origin of a document: host, version, limits of sight.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The host's name; `None` where it is not known, for a recording.
    pub host: Option<&'a str>,
    /// Version of tcpwatch.
    pub version: &'a str,
    /// Limits of sight.
    pub not_seen: &'a [NotSeen],
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    generated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    version: &'a str,
    not_seen: &'a [NotSeen],
    findings: Vec<FindingDocument<'a>>,
}

#[derive(Serialize)]
struct FindingDocument<'a> {
    id: &'a str,
    kind: FindingKind,
    severity: Severity,
    title: &'a str,
    explanation: &'a str,
    evidence: &'a EvidenceMap,
    subject: &'a Subject,
    remedies: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    related: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    led_by: Option<&'a str>,
    runbook: String,
    since: String,
    last_seen: String,
}

/// The findings as JSON, on one line that ends.
#[must_use]
pub fn findings_json(findings: &[Finding], origin: &Origin<'_>, wall: WallClock) -> String {
    let document = Document {
        schema_version: SCHEMA_VERSION,
        generated_at: wall.rfc3339(wall.now()),
        host: origin.host,
        version: origin.version,
        not_seen: origin.not_seen,
        findings: findings.iter().map(|finding| describe(finding, wall)).collect(),
    };
    let mut json = serde_json::to_string(&document)
        .expect("serialising fails only for keys that are no strings, and all are");
    json.push('\n');
    json
}

fn describe(finding: &Finding, wall: WallClock) -> FindingDocument<'_> {
    FindingDocument {
        id: &finding.id,
        kind: finding.kind,
        severity: finding.severity,
        title: &finding.title,
        explanation: &finding.explanation,
        evidence: &finding.evidence,
        subject: &finding.subject,
        remedies: &finding.remedies,
        related: &finding.related,
        led_by: finding.led_by.as_deref(),
        runbook: finding.kind.runbook(),
        since: wall.rfc3339(finding.since),
        last_seen: wall.rfc3339(finding.last_seen),
    }
}
