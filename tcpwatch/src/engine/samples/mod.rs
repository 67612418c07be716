//! The numbers that are published, already grouped as their labels want them.
//!
//! Grouping and cutting by owner is judgement, so it is done here and not where it is published:
//! a gauge keeps the largest `limits.owners` and sums the others under [`OTHER`]; of a counter the
//! largest of now are named, and what loses its name adds its total to `other`, which never falls.

use std::{sync::Arc, time::Duration};

pub(crate) mod cut;
pub(crate) mod named_totals;
pub(crate) mod sampler;

use crate::{
    engine::finding::{FindingKind, Severity},
    facts::{ConnectFailure, NetstatCounters, Role, StateCounts, Timestamp},
    plain,
};

/// The `process` label of rows that were cut.
pub const OTHER: &str = "other";

/// Numbers under one namespace label; namespaces without a name are summed under the empty one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamespaceSample {
    /// The `netns` label.
    pub netns: Arc<str>,
    /// Sockets by state.
    pub sockets: StateCounts,
    /// `tcp_max_tw_buckets`.
    pub time_wait_limit: Option<u64>,
    /// Ports taken for the worst destination.
    pub ports_used: u64,
    /// Ports that a destination can have.
    pub ports_available: u64,
    /// Sockets connected to themselves.
    pub self_connected: u64,
}

/// Counters of one namespace label since it was named; see `engine/named_totals.rs`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamespaceTotals {
    /// The `netns` label.
    pub netns: Arc<str>,
    /// Self-connections seen to be made.
    pub self_connections: u64,
    /// From `/proc/net/netstat`; `None` where that could not be read.
    pub netstat: Option<NetstatCounters>,
}

/// The labels that name an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerLabels {
    /// `comm` of the process, empty where unknown, [`OTHER`] where cut.
    pub process: String,
    /// systemd unit, container or pod, empty where unknown.
    pub unit: String,
}

/// Sockets in CLOSE_WAIT of one owner and service.
#[derive(Clone, Debug, PartialEq)]
pub struct CloseWaitSample {
    /// The `netns` label.
    pub netns: Arc<str>,
    /// The owner's labels.
    pub owner: OwnerLabels,
    /// `None` only under [`OTHER`].
    pub role: Option<Role>,
    /// `None` only under [`OTHER`].
    pub port: Option<u16>,
    /// How many.
    pub sockets: u64,
    /// Age of the oldest.
    pub oldest: Duration,
}

/// The queues of one owner's listeners on one port.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSample {
    /// The `netns` label.
    pub netns: Arc<str>,
    /// The owner's labels.
    pub owner: OwnerLabels,
    /// `None` only under [`OTHER`].
    pub port: Option<u16>,
    /// Half-open requests.
    pub half_open: u64,
    /// Connections that wait for accept().
    pub accept_queue: u64,
    /// How many may.
    pub accept_limit: u64,
}

/// Failed connects of one owner since it was named.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectFailureSample {
    /// The `netns` label.
    pub netns: Arc<str>,
    /// The owner's labels.
    pub owner: OwnerLabels,
    /// Why.
    pub reason: ConnectFailure,
    /// How many.
    pub total: u64,
}

/// An active finding as labels.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingSample {
    /// Its kind.
    pub kind: FindingKind,
    /// How bad.
    pub severity: Severity,
    /// The `netns` label.
    pub netns: Arc<str>,
    /// The owner's labels.
    pub owner: OwnerLabels,
    /// Which service, where the finding has one.
    pub port: Option<u16>,
    /// Another finding leads it: it has no owner's labels here, and no alert.
    pub is_led: bool,
    /// Findings that share these labels: those under [`OTHER`], and destinations that differ only
    /// in their address.
    pub count: u64,
    /// Since when the first of them stands.
    pub since: Timestamp,
}

/// Everything that the engine has to publish, as of the last inventory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// By namespace.
    pub namespaces: Vec<NamespaceSample>,
    /// Counters by namespace.
    pub namespace_totals: Vec<NamespaceTotals>,
    /// By owner and service.
    pub close_wait: Vec<CloseWaitSample>,
    /// By owner and port.
    pub listeners: Vec<ListenerSample>,
    /// By owner and reason.
    pub connect_failures: Vec<ConnectFailureSample>,
    /// Active findings.
    pub findings: Vec<FindingSample>,
    /// Resets that found no place among the counts that are followed.
    pub reset_rows_lost: u64,
}

impl Samples {
    /// Makes every label [plain](crate::plain), as it is in findings.
    pub(super) fn make_plain(&mut self) {
        let Self {
            namespaces,
            namespace_totals,
            close_wait,
            listeners,
            connect_failures,
            findings,
            reset_rows_lost: _,
        } = self;
        let mut namespace_names: Vec<&mut Arc<str>> = Vec::new();
        let mut owners: Vec<&mut OwnerLabels> = Vec::new();
        namespace_names.extend(namespaces.iter_mut().map(|row| &mut row.netns));
        namespace_names.extend(namespace_totals.iter_mut().map(|row| &mut row.netns));
        for row in close_wait {
            namespace_names.push(&mut row.netns);
            owners.push(&mut row.owner);
        }
        for row in listeners {
            namespace_names.push(&mut row.netns);
            owners.push(&mut row.owner);
        }
        for row in findings {
            namespace_names.push(&mut row.netns);
            owners.push(&mut row.owner);
        }
        for row in connect_failures {
            namespace_names.push(&mut row.netns);
            owners.push(&mut row.owner);
        }
        namespace_names.into_iter().for_each(plain::make_shared);
        for OwnerLabels { process, unit } in owners {
            plain::make(process);
            plain::make(unit);
        }
    }
}
