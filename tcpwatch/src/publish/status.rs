//! The state of the agent for scripts: the body of `/api/v1/status`.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{HookState, Origin, WallClock};
use crate::{
    engine::{Finding, Severity},
    facts::{NotSeen, Timestamp},
};

/// Version of the document: it rises when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// The state of an agent, beyond its [`Origin`].
#[derive(Clone, Debug)]
pub struct Status<'a> {
    /// Revision of the sources.
    pub revision: &'a str,
    /// When the agent was started.
    pub started: Timestamp,
    /// Why `/-/ready` answers no; `None` where it answers yes.
    pub not_ready: Option<String>,
    /// The inventories.
    pub inventory: InventoryState,
    /// The findings that stand.
    pub findings: &'a [Finding],
    /// Events and log lines lost, by stage, as in `tcpwatch_events_lost_total`.
    pub lost: &'a [(&'static str, u64)],
    /// Whether the configuration was accepted when it was last read.
    pub configuration_accepted: bool,
}

/// The inventories of an agent.
#[derive(Clone, Copy, Debug)]
pub struct InventoryState {
    /// The interval that the configuration sets.
    pub interval: Duration,
    /// When the last one ended, and how long it walked; `None` before the first.
    pub last: Option<(Timestamp, Duration)>,
    /// Inventories that could not be taken.
    pub failures: u64,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    generated_at: String,
    host: Option<&'a str>,
    version: &'a str,
    revision: &'a str,
    kernel: &'a str,
    url: &'a str,
    started_at: String,
    uptime_seconds: f64,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<&'a str>,
    sockets: u64,
    network_namespaces: usize,
    inventory: InventoryDocument,
    hooks: &'a [HookState],
    events_lost: BTreeMap<&'static str, u64>,
    configuration_accepted: bool,
    not_seen: &'a [NotSeen],
    findings: BTreeMap<&'static str, usize>,
}

#[derive(Serialize)]
struct InventoryDocument {
    interval_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_seconds: Option<f64>,
    failures: u64,
}

/// The status as JSON, on one line that ends.
#[must_use]
pub fn status_json(status: &Status<'_>, origin: &Origin<'_>, wall: WallClock) -> String {
    let count = |severity| status.findings.iter().filter(|it| it.severity == severity).count();
    let document = Document {
        schema_version: SCHEMA_VERSION,
        generated_at: wall.rfc3339(wall.now()),
        host: origin.host,
        version: origin.version,
        revision: status.revision,
        kernel: origin.kernel,
        url: origin.url,
        started_at: wall.rfc3339(status.started),
        uptime_seconds: wall.now().since(status.started).as_secs_f64(),
        ready: status.not_ready.is_none(),
        not_ready: status.not_ready.as_deref(),
        sockets: origin.sockets,
        network_namespaces: origin.namespaces,
        inventory: InventoryDocument {
            interval_seconds: status.inventory.interval.as_secs_f64(),
            finished_at: status.inventory.last.map(|(finished, _)| wall.rfc3339(finished)),
            duration_seconds: status.inventory.last.map(|(_, walked)| walked.as_secs_f64()),
            failures: status.inventory.failures,
        },
        hooks: origin.hooks.unwrap_or_default(),
        events_lost: status.lost.iter().copied().collect(),
        configuration_accepted: status.configuration_accepted,
        not_seen: origin.not_seen,
        findings: Severity::ALL.map(|severity| (severity.label(), count(severity))).into(),
    };
    let mut json = serde_json::to_string(&document)
        .expect("serialising fails only for keys that are no strings, and all are");
    json.push('\n');
    json
}
