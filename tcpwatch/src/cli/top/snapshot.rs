//! The state of a host at one moment, as an agent publishes it.
//!
//! It is read from the text of `/metrics` and the JSON of `/api/v1/findings`, whether another
//! process or this one has written them. Names become [plain](crate::plain) here, so no view shows
//! a foreign byte. A series that is absent, because a hook is missing, is absent here too.

use std::{collections::BTreeMap, time::Duration};

use super::exposition::{LineError, Series, parse};
use crate::{
    engine::Finding,
    facts::NotSeen,
    plain,
    publish::{WallClock, read_findings},
};

/// The states, those that tell most first.
const STATES: [&str; 11] = [
    "established",
    "close_wait",
    "time_wait",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "last_ack",
    "closing",
    "close",
    "listen",
];

/// Why a text is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error(transparent)]
    Metrics(#[from] LineError),
    #[error("it is of another version: {0}")]
    Findings(#[from] serde_json::Error),
}

/// A host at one moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) host: String,
    /// Version of the tcpwatch that has judged.
    pub(super) version: String,
    /// Release of the kernel.
    pub(super) kernel: String,
    pub(super) wall: WallClock,
    /// Age of the last inventory; `None` before the first.
    pub(super) inventory_age: Option<Duration>,
    pub(super) findings: Vec<Finding>,
    pub(super) not_seen: Vec<NotSeen>,
    pub(super) namespaces: BTreeMap<String, Namespace>,
    pub(super) owners: BTreeMap<Owner, Holdings>,
    pub(super) listeners: Vec<Listener>,
    /// Counters, from whose growth the rates are.
    pub(super) counters: BTreeMap<Counter, f64>,
}

/// The labels that name an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) netns: String,
    pub(super) process: String,
    pub(super) unit: String,
}

/// The sockets and failures of an owner.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Holdings {
    pub(super) close_wait: Vec<CloseWait>,
    /// Connects that failed so far, by reason.
    pub(super) failures: BTreeMap<String, f64>,
}

/// Sockets in CLOSE_WAIT of an owner and service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CloseWait {
    pub(super) role: String,
    pub(super) port: String,
    pub(super) sockets: u64,
    pub(super) oldest: Duration,
}

/// A listening port.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Listener {
    pub(super) owner: Owner,
    pub(super) port: String,
    /// Connections that wait for accept().
    pub(super) queue: u64,
    /// Connections that may.
    pub(super) limit: u64,
    pub(super) half_open: u64,
}

/// A network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Namespace {
    /// Sockets by state.
    pub(super) states: BTreeMap<String, u64>,
    /// Ports taken for the worst destination, and ports that there are.
    pub(super) ports_used: u64,
    pub(super) ports_available: u64,
    pub(super) time_wait_limit: Option<u64>,
    pub(super) self_connected: u64,
}

/// Something that is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Counter {
    /// Transitions between states, of any kind.
    Transitions,
    /// connect() was called.
    Connects,
    /// A handshake from outside was completed.
    Accepts,
    /// This end closed first.
    ActiveCloses,
    /// The peer closed first.
    PassiveCloses,
    /// Failed connects, by reason.
    Failures(String),
    /// Failed connects of an owner.
    FailuresOf(Owner),
    /// Resets sent, by cause.
    ResetsSent(String),
    /// Resets received, by state.
    ResetsReceived(String),
    /// By what is counted and namespace.
    In(InNamespace, String),
    /// Events lost, in all stages.
    EventsLost,
}

/// Counters of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum InNamespace {
    ListenOverflows,
    ListenDrops,
    SynCookies,
    TimeWaitOverflows,
    SelfConnections,
}

impl Snapshot {
    /// Reads what an agent has written.
    pub(super) fn read(metrics: &str, findings: &[u8]) -> Result<Self, SnapshotError> {
        let document = read_findings(findings)?;
        let mut snapshot = Self {
            host: plain::text(document.host.as_deref().unwrap_or("unknown")).into_owned(),
            version: plain::text(&document.version).into_owned(),
            kernel: plain::text(&document.kernel).into_owned(),
            wall: document.wall,
            inventory_age: None,
            findings: document.findings,
            not_seen: document.not_seen,
            namespaces: BTreeMap::new(),
            owners: BTreeMap::new(),
            listeners: Vec::new(),
            counters: BTreeMap::new(),
        };
        for series in parse(metrics)? {
            snapshot.take(&series);
        }
        Ok(snapshot)
    }

    fn take(&mut self, series: &Series<'_>) {
        let label = |name: &str| plain::text(series.label(name)).into_owned();
        let count = count(series.value);
        match series.name {
            "tcpwatch_sockets" => {
                self.namespace(series).states.insert(label("state"), count);
            }
            "tcpwatch_ephemeral_ports_used" => self.namespace(series).ports_used = count,
            "tcpwatch_ephemeral_ports_available" => self.namespace(series).ports_available = count,
            "tcpwatch_time_wait_limit" => self.namespace(series).time_wait_limit = Some(count),
            "tcpwatch_self_connected_sockets" => self.namespace(series).self_connected = count,
            "tcpwatch_close_wait_sockets" => self.close_wait(series).sockets = count,
            "tcpwatch_close_wait_oldest_seconds" => {
                let oldest = Duration::try_from_secs_f64(series.value).unwrap_or_default();
                self.close_wait(series).oldest = oldest;
            }
            "tcpwatch_accept_queue_sockets" => self.listener(series).queue = count,
            "tcpwatch_accept_queue_limit" => self.listener(series).limit = count,
            "tcpwatch_half_open_sockets" => self.listener(series).half_open = count,
            "tcpwatch_connect_failures_total" => {
                let (owner, reason) = (owner(series), label("reason"));
                let of_owner = self.owners.entry(owner.clone()).or_default();
                *of_owner.failures.entry(reason.clone()).or_default() += series.value;
                self.count(Counter::FailuresOf(owner), series.value);
                self.count(Counter::Failures(reason), series.value);
            }
            "tcpwatch_state_transitions_total" => self.count_transition(series),
            "tcpwatch_resets_sent_total" => {
                self.count(Counter::ResetsSent(label("cause")), series.value);
            }
            "tcpwatch_resets_received_total" => {
                self.count(Counter::ResetsReceived(label("state")), series.value);
            }
            "tcpwatch_events_lost_total" => self.count(Counter::EventsLost, series.value),
            "tcpwatch_inventory_timestamp_seconds" => {
                let now = self.wall.unix_seconds(self.wall.now());
                let age = Duration::try_from_secs_f64(now - series.value);
                self.inventory_age = Some(age.unwrap_or_default());
            }
            name => {
                if let Some(counter) = InNamespace::of_metric(name) {
                    self.count(Counter::In(counter, label("netns")), series.value);
                }
            }
        }
    }

    fn count_transition(&mut self, series: &Series<'_>) {
        self.count(Counter::Transitions, series.value);
        let counter = match (series.label("from"), series.label("to")) {
            ("close", "syn_sent") => Counter::Connects,
            ("syn_recv", "established") => Counter::Accepts,
            ("established", "fin_wait1") => Counter::ActiveCloses,
            ("established", "close_wait") => Counter::PassiveCloses,
            _ => return,
        };
        self.count(counter, series.value);
    }

    fn count(&mut self, counter: Counter, value: f64) {
        *self.counters.entry(counter).or_default() += value;
    }

    fn namespace(&mut self, series: &Series<'_>) -> &mut Namespace {
        let netns = plain::text(series.label("netns")).into_owned();
        self.namespaces.entry(netns).or_default()
    }

    fn close_wait(&mut self, series: &Series<'_>) -> &mut CloseWait {
        let of_owner = &mut self.owners.entry(owner(series)).or_default().close_wait;
        let [role, port] = ["role", "port"].map(|it| plain::text(series.label(it)).into_owned());
        let is_it = |it: &CloseWait| (&it.role, &it.port) == (&role, &port);
        let index = of_owner.iter().position(is_it).unwrap_or_else(|| {
            of_owner.push(CloseWait { role, port, ..CloseWait::default() });
            of_owner.len() - 1
        });
        &mut of_owner[index]
    }

    fn listener(&mut self, series: &Series<'_>) -> &mut Listener {
        let owner = owner(series);
        let port = plain::text(series.label("port")).into_owned();
        let is_it = |it: &Listener| (&it.owner, &it.port) == (&owner, &port);
        let index = self.listeners.iter().position(is_it).unwrap_or_else(|| {
            self.listeners.push(Listener { owner, port, ..Listener::default() });
            self.listeners.len() - 1
        });
        &mut self.listeners[index]
    }

    /// Sockets over all namespaces, of the states in which there are any. Their order stays.
    pub(super) fn sockets_by_state(&self) -> Vec<(&'static str, u64)> {
        let of_state = |state: &'static str| {
            let sockets = self.namespaces.values().filter_map(|it| it.states.get(state)).sum();
            (state, sockets)
        };
        STATES.map(of_state).into_iter().filter(|(_, sockets)| *sockets > 0).collect()
    }
}

impl InNamespace {
    fn of_metric(name: &str) -> Option<Self> {
        Some(match name {
            "tcpwatch_listen_overflows_total" => Self::ListenOverflows,
            "tcpwatch_listen_drops_total" => Self::ListenDrops,
            "tcpwatch_syncookies_sent_total" => Self::SynCookies,
            "tcpwatch_time_wait_overflows_total" => Self::TimeWaitOverflows,
            "tcpwatch_self_connections_total" => Self::SelfConnections,
            _ => return None,
        })
    }
}

fn owner(series: &Series<'_>) -> Owner {
    let [netns, process, unit] =
        ["netns", "process", "unit"].map(|it| plain::text(series.label(it)).into_owned());
    Owner { netns, process, unit }
}

/// A gauge that counts. Neither NaN nor a negative number is one, and both become 0.
fn count(value: f64) -> u64 {
    value as u64
}
