//! Each finding in one row: who, where and what, for a terminal and for a page.

use super::{Incident, WallClock};
use crate::{
    engine::{Evidence, Finding, Severity, Subject, named_as, text},
    facts::Role,
};

/// The row of a finding. Its names are as plain as those of the finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The finding's id.
    pub id: &'a str,
    /// How bad.
    pub severity: Severity,
    /// How long it stands: `now`, `12 min`.
    pub since: String,
    /// The process, `unknown`, or `this host`.
    pub who: String,
    /// The other end of a client, this end of a server, and the namespace where it is not the
    /// host's: `to 10.0.0.9:443 in blue`.
    pub place: String,
    /// The kind, and how many failed or how many there are: `close-wait-pileup, 24 sockets`.
    pub what: String,
    /// Whether the finding in a row above leads this one.
    pub is_led: bool,
}

/// A row for each finding, those that one leads after it.
#[must_use]
pub fn overview<'a>(incidents: &[Incident<'a>], wall: WallClock) -> Vec<Row<'a>> {
    let rows = incidents.iter().flat_map(|incident| {
        let led = incident.led.iter().map(|finding| row(finding, true, wall));
        std::iter::once(row(incident.leader, false, wall)).chain(led)
    });
    rows.collect()
}

/// The row of one finding.
pub(super) fn row(finding: &Finding, is_led: bool, wall: WallClock) -> Row<'_> {
    let age = wall.now().since(finding.since);
    Row {
        id: &finding.id,
        severity: finding.severity,
        since: if age.as_secs() == 0 { "now".to_owned() } else { text::duration(age) },
        who: who(finding),
        place: place(&finding.subject),
        what: what(finding),
        is_led,
    }
}

fn who(finding: &Finding) -> String {
    let Subject { process, pid, .. } = &finding.subject;
    match (process, pid) {
        (Some(process), Some(pid)) => named_as(process, *pid),
        (Some(process), None) => process.clone(),
        (None, _) if finding.kind.has_owner() => "unknown".to_owned(),
        (None, _) => "this host".to_owned(),
    }
}

fn place(subject: &Subject) -> String {
    let peer = subject.peer.as_ref().map(|peer| format!("to {peer}"));
    let local = subject.local.as_ref().map(|local| format!("on {local}"));
    let port = subject.port.map(|port| format!("port {port}"));
    let place = match subject.role {
        Some(Role::Server) => local.or(port).or(peer),
        Some(Role::Client) | None => peer.or(local).or(port),
    };
    let netns = match &*subject.netns {
        "host" => None,
        "" => Some("in an unnamed namespace".to_owned()),
        name => Some(format!("in {name}")),
    };
    let parts: Vec<String> = [place, netns].into_iter().flatten().collect();
    parts.join(" ")
}

/// Beginnings of the keys that count what failed: they say more than any size.
const FAILURES: [&str; 3] = ["failed_", "given_up_", "dropped_"];
/// Beginnings of the keys that say what there could be.
const LIMITS: [&str; 2] = ["available_", "limit_"];

fn what(finding: &Finding) -> String {
    let kind = finding.kind.name();
    match main_number(finding) {
        Some((key, count)) => format!("{kind}, {} {}", text::number(count), noun(key, count)),
        None => kind.to_owned(),
    }
}

/// The number that says most about a finding, with its key in the evidence: how many failed, else
/// how many there are.
pub(super) fn main_number(finding: &Finding) -> Option<(&str, u64)> {
    let counts = || {
        finding.evidence.iter().filter_map(|(key, value)| match value {
            Evidence::Count(count) if *count > 0 => Some((key, *count)),
            _ => None,
        })
    };
    let begins = |key: &str, all: &[&str]| all.iter().any(|begin| key.starts_with(begin));
    let failed = counts().find(|(key, _)| begins(key, &FAILURES));
    failed.or_else(|| counts().find(|(key, _)| !begins(key, &LIMITS)))
}

/// The words of a key, in the singular after 1.
pub(super) fn noun(key: &str, count: u64) -> String {
    let noun = key.replace('_', " ");
    match noun.strip_suffix('s') {
        Some(one) if count == 1 => one.to_owned(),
        _ => noun,
    }
}
