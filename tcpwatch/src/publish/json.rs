//! Findings for scripts: the body of `/api/v1/findings`, written and read.
//!
//! [`Subject`] and [`EvidenceMap`] define subject and evidence. Here times become
//! times of day, the runbook is added, and limits of sight stand beside the findings.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{History, WallClock};
use crate::{
    engine::{EvidenceMap, Finding, FindingKind, Severity, Subject},
    facts::NotSeen,
};

/// Version of the document: it rises when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// The origin of a document: host, versions, size of the host, limits of sight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// The host's name; `None` where it is not known, for a recording.
    pub host: Option<&'a str>,
    /// Version of tcpwatch.
    pub version: &'a str,
    /// Release of the kernel.
    pub kernel: &'a str,
    /// Sockets of the last inventory.
    pub sockets: u64,
    /// Network namespaces of the last inventory.
    pub namespaces: usize,
    /// Where people reach the page, without a slash at the end, as [`base_url`](super::base_url) has
    /// it: the runbooks lie below it.
    pub url: &'a str,
    /// The hooks; `None` where they are not known, for a recording.
    pub hooks: Option<&'a [HookState]>,
    /// Limits of sight.
    pub not_seen: &'a [NotSeen],
}

/// Whether a hook is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    /// Its name, as in `tcpwatch_hook_attached`.
    pub hook: String,
    /// Whether it is attached.
    pub attached: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Observations that are missing without it; only where it is not attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_without: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Document<'a> {
    schema_version: u32,
    generated_at: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<Cow<'a, str>>,
    version: Cow<'a, str>,
    kernel: Cow<'a, str>,
    sockets: u64,
    network_namespaces: usize,
    url: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hooks: Option<Cow<'a, [HookState]>>,
    not_seen: Cow<'a, [NotSeen]>,
    findings: Vec<FindingDocument<'a>>,
}

#[derive(Serialize, Deserialize)]
struct FindingDocument<'a> {
    id: Cow<'a, str>,
    kind: FindingKind,
    severity: Severity,
    title: Cow<'a, str>,
    explanation: Cow<'a, str>,
    evidence: Cow<'a, EvidenceMap>,
    subject: Cow<'a, Subject>,
    remedies: Cow<'a, [String]>,
    #[serde(default, skip_serializing_if = "is_empty")]
    related: Cow<'a, [String]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    led_by: Option<Cow<'a, str>>,
    runbook: String,
    since: String,
    last_seen: String,
    /// Only of one that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cleared_at: Option<String>,
}

/// serde gives a reference to the field.
#[expect(clippy::ptr_arg)]
fn is_empty(list: &Cow<'_, [String]>) -> bool {
    list.is_empty()
}

/// The findings as JSON, on one line that ends.
#[must_use]
pub fn findings_json(findings: &[Finding], origin: &Origin<'_>, wall: WallClock) -> String {
    write(findings.iter().map(|finding| describe(finding, origin, wall)).collect(), origin, wall)
}

/// The findings that stand, then those that have ended within a day, newest first: the same document,
/// in which the latter have `cleared_at`.
#[must_use]
pub fn history_json(
    findings: &[Finding],
    history: &History,
    origin: &Origin<'_>,
    wall: WallClock,
) -> String {
    let ended = history.ended(wall.now()).map(|ended| FindingDocument {
        cleared_at: Some(wall.rfc3339(ended.cleared)),
        ..describe(&ended.finding, origin, wall)
    });
    let standing = findings.iter().map(|finding| describe(finding, origin, wall));
    write(standing.chain(ended).collect(), origin, wall)
}

fn write(findings: Vec<FindingDocument<'_>>, origin: &Origin<'_>, wall: WallClock) -> String {
    let document = Document {
        schema_version: SCHEMA_VERSION,
        generated_at: wall.rfc3339(wall.now()).into(),
        host: origin.host.map(Cow::Borrowed),
        version: origin.version.into(),
        kernel: origin.kernel.into(),
        sockets: origin.sockets,
        network_namespaces: origin.namespaces,
        url: origin.url.into(),
        hooks: origin.hooks.map(Cow::Borrowed),
        not_seen: origin.not_seen.into(),
        findings,
    };
    let mut json = serde_json::to_string(&document)
        .expect("serialising fails only for keys that are no strings, and all are");
    json.push('\n');
    json
}

fn describe<'a>(finding: &'a Finding, origin: &Origin<'_>, wall: WallClock) -> FindingDocument<'a> {
    FindingDocument {
        id: finding.id.as_str().into(),
        kind: finding.kind,
        severity: finding.severity,
        title: finding.title.as_str().into(),
        explanation: finding.explanation.as_str().into(),
        evidence: Cow::Borrowed(&finding.evidence),
        subject: Cow::Borrowed(&finding.subject),
        remedies: finding.remedies.as_slice().into(),
        related: finding.related.as_slice().into(),
        led_by: finding.led_by.as_deref().map(Cow::Borrowed),
        runbook: format!("{}/runbooks/{}", origin.url, finding.kind.name()),
        since: wall.rfc3339(finding.since),
        last_seen: wall.rfc3339(finding.last_seen),
        cleared_at: None,
    }
}

/// A document that was read, of an agent of this version.
#[derive(Clone, Debug)]
pub struct FindingsRead {
    /// The host's name.
    pub host: Option<String>,
    /// Version of that tcpwatch.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Sockets of its last inventory.
    pub sockets: u64,
    /// Network namespaces of its last inventory.
    pub namespaces: usize,
    /// Where people reach its page.
    pub url: String,
    /// Its hooks.
    pub hooks: Option<Vec<HookState>>,
    /// Limits of its sight.
    pub not_seen: Vec<NotSeen>,
    /// Its findings.
    pub findings: Vec<Finding>,
    /// The clock on which their times are.
    pub wall: WallClock,
}

/// Reads what [`findings_json`] has written.
///
/// # Errors
///
/// A text that is no such document, in serde's words: another version may write other fields.
pub fn read_findings(json: &[u8]) -> serde_json::Result<FindingsRead> {
    use serde::de::Error as _;
    let document: Document<'_> = serde_json::from_slice(json)?;
    if document.schema_version != SCHEMA_VERSION {
        let version = document.schema_version;
        return Err(serde_json::Error::custom(format_args!("schema_version is {version}")));
    }
    let no_time = |text: &str| serde_json::Error::custom(format_args!("`{text}` is no time"));
    let generated_at = &document.generated_at;
    let wall = WallClock::of_text(generated_at).ok_or_else(|| no_time(generated_at))?;
    let time = |text: &str| wall.timestamp(text).ok_or_else(|| no_time(text));
    let finding = |it: FindingDocument<'_>| {
        Ok(Finding {
            since: time(&it.since)?,
            last_seen: time(&it.last_seen)?,
            id: it.id.into_owned(),
            kind: it.kind,
            severity: it.severity,
            title: it.title.into_owned(),
            explanation: it.explanation.into_owned(),
            evidence: it.evidence.into_owned(),
            subject: it.subject.into_owned(),
            remedies: it.remedies.into_owned(),
            related: it.related.into_owned(),
            led_by: it.led_by.map(Cow::into_owned),
        })
    };
    Ok(FindingsRead {
        host: document.host.map(Cow::into_owned),
        version: document.version.into_owned(),
        kernel: document.kernel.into_owned(),
        sockets: document.sockets,
        namespaces: document.network_namespaces,
        url: document.url.into_owned(),
        hooks: document.hooks.map(Cow::into_owned),
        not_seen: document.not_seen.into_owned(),
        findings: document.findings.into_iter().map(finding).collect::<Result<_, _>>()?,
        wall,
    })
}
