//! Findings for scripts: the body of `/api/v1/findings`.
//!
//! The fields are those of section 3 of the contract; what a subject or the evidence looks like is
//! said by [`Subject`] and
//! [`EvidenceMap`] themselves. Here times become times of day
//! and the runbook is added.

use serde::Serialize;

use super::WallClock;
use crate::engine::{EvidenceMap, Finding, FindingKind, Severity, Subject};

/// Version of the document: it rises when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    generated_at: String,
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
pub fn findings_json(findings: &[Finding], wall: WallClock) -> String {
    let document = Document {
        schema_version: SCHEMA_VERSION,
        generated_at: wall.rfc3339(wall.now()),
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
