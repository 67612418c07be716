//! Tests of the judgement, on tables of facts.
//!
//! Facts are made by small builders, time is a field that is moved by hand. A [`Watch`] is an
//! engine with its clock.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod accept_queue_overflow;
mod any;
mod bind_conflict;
mod board;
mod bounds;
mod close_wait_growth;
mod close_wait_half_closed;
mod close_wait_owners;
mod close_wait_pileup;
mod close_wait_stacks;
mod closers;
mod ephemeral_port_exhaustion;
mod half_open;
mod joining;
mod keepalive_race;
mod kernel_limit;
mod levels;
mod overrides;
mod port_users;
mod properties;
mod reset_storm;
mod reset_storm_restarts;
mod reset_storm_share;
mod reset_storm_sources;
mod reset_storm_words;
mod sampler;
mod schema;
mod self_connect_risk;
mod self_connection;
mod stalled_send;
mod stuck_state;
mod stuck_state_given_up;
mod stuck_state_half_closed;
mod time_wait_exhaustion;

use std::{net::IpAddr, sync::Arc, time::Duration};

use self::overrides::{Making, Owned, Service};
use super::{Engine, Evidence, Finding, FindingChange, FindingKind, Severity};
use crate::{
    config::{Config, Detect, Ignore},
    facts::{
        CloseWaitSocket, CloserCount, ConnectFailure, DescriptorUse, DestinationUse, Endpoint,
        Event, Inventory, Listener, Namespace, NetnsId, NetstatCounters, Owner, PortHolder,
        PortUse, PortUser, Process, Progress, ResetCount, Role, SelfConnectedSocket, ServiceCount,
        StateCounts, TcpState, TimeWaitUse, Timestamp, TwReuse, WaitingSocket,
    },
};

/// Every kind that a process, unit or port can own, from its own tests.
const OWNED: [Owned; 12] = [
    close_wait_pileup::OWNED,
    ephemeral_port_exhaustion::OWNED,
    self_connection::OWNED,
    self_connect_risk::OWNED,
    half_open::OWNED[0],
    half_open::OWNED[1],
    accept_queue_overflow::OWNED,
    reset_storm::OWNED,
    bind_conflict::OWNED,
    stuck_state::OWNED,
    stalled_send::OWNED,
    keepalive_race::OWNED,
];

/// When every test begins: late enough for anything to be older than the agent.
const START: Timestamp = Timestamp::from_ns(1_000_000 * 1_000_000_000);
/// The default interval of inventories.
const INTERVAL: Duration = Duration::from_secs(10);
/// Owners that are named in the samples.
const OWNERS: usize = 50;
/// Inode number of the agent's own namespace.
const HOST: NetnsId = 4_026_531_840;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// An engine and its clock.
struct Watch {
    engine: Engine,
    detect: Detect,
    ignore: Ignore,
    now: Timestamp,
    /// Resets that the hooks have counted.
    resets: Option<Vec<ResetCount>>,
    /// Connections since the inventory before.
    services: Option<Vec<ServiceCount>>,
}

impl Watch {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(edit: impl FnOnce(&mut Detect)) -> Self {
        let mut watch = Self::configured("");
        watch.reconfigure(edit);
        watch
    }

    /// Warns of a pileup at 20 sockets, critical at 200: for tests that are not about thresholds.
    fn counting() -> Self {
        Self::with(|detect| {
            detect.close_wait_pileup.warning = 20;
            detect.close_wait_pileup.critical = 200;
        })
    }

    /// As the configuration file says.
    fn configured(file: &str) -> Self {
        let Config { detect, ignore, .. } = config(file);
        Self {
            engine: Engine::new(&detect, &ignore, OWNERS),
            detect,
            ignore,
            now: START,
            resets: None,
            services: None,
        }
    }

    /// Reads another file.
    fn reload(&mut self, file: &str) {
        Config { detect: self.detect, ignore: self.ignore, .. } = config(file);
        self.engine.reconfigure(&self.detect, &self.ignore, OWNERS);
    }

    fn reconfigure(&mut self, edit: impl FnOnce(&mut Detect)) {
        edit(&mut self.detect);
        self.engine.reconfigure(&self.detect, &self.ignore, OWNERS);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Judges an inventory of these namespaces, and says what holds.
    fn see(&mut self, namespaces: impl Into<Vec<Namespace>>) -> &[Finding] {
        let resets = self.resets.clone();
        let services = self.services.clone();
        self.take(&Inventory { resets, services, ..inventory(namespaces, self.now) })
    }

    /// Judges this inventory, and says what holds.
    fn take(&mut self, inventory: &Inventory) -> &[Finding] {
        self.engine.handle_inventory(inventory, self.now);
        self.engine.findings().iter().for_each(schema::assert_evidence_is_described);
        self.engine.findings()
    }

    /// The same, of the agent's own namespace with these sockets in CLOSE_WAIT.
    fn see_close_wait(&mut self, sockets: Vec<CloseWaitSocket>) -> &[Finding] {
        self.see([Namespace { close_wait: sockets, ..host() }])
    }

    fn severities(&self) -> Vec<Severity> {
        self.engine.findings().iter().map(|finding| finding.severity).collect()
    }

    fn changes(&mut self) -> Vec<FindingChange> {
        std::iter::from_fn(|| self.engine.poll_change()).collect()
    }

    /// The changes since the last call, in short.
    fn reported(&mut self) -> Vec<String> {
        let in_short = |change| match change {
            FindingChange::Raised(finding) => format!("raised {}", finding.severity),
            FindingChange::SeverityChanged { finding, from } => {
                format!("{from} to {}", finding.severity)
            }
            FindingChange::Cleared(finding) => format!("cleared {}", finding.severity),
        };
        self.changes().into_iter().map(in_short).collect()
    }

    /// The one finding that holds.
    #[track_caller]
    fn only(&self) -> &Finding {
        let findings = self.engine.findings();
        assert_eq!(findings.len(), 1, "{findings:#?}");
        &findings[0]
    }
}

/// The settings of a configuration file.
#[track_caller]
fn config(file: &str) -> Config {
    Config::parse(file, std::path::Path::new("f.toml")).unwrap_or_else(|error| panic!("{error}"))
}

fn inventory(namespaces: impl Into<Vec<Namespace>>, now: Timestamp) -> Inventory {
    Inventory { started: now, finished: now, namespaces: namespaces.into(), ..Inventory::default() }
}

/// The agent's own namespace: default settings, nothing in it.
fn host() -> Namespace {
    namespace(HOST, "host")
}

fn namespace(id: NetnsId, name: &str) -> Namespace {
    Namespace {
        id,
        name: name.into(),
        time_wait: TimeWaitUse { used: 0, limit: Some(1_000) },
        ports: PortUse {
            range: (32_768, 60_999),
            available: 28_232,
            tw_reuse: TwReuse::Loopback,
            timestamps: true,
            ..PortUse::default()
        },
        netstat: Some(NetstatCounters::default()),
        ..Namespace::default()
    }
}

fn endpoint(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().unwrap();
    Endpoint { address: address.ip(), port: address.port() }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn process(pid: u32, name: &str) -> Arc<Process> {
    Arc::new(Process { pid, name: name.to_owned(), ..Process::default() })
}

fn process_in(pid: u32, name: &str, unit: &str) -> Arc<Process> {
    Arc::new(Process { unit: Some(unit.to_owned()), ..(*process(pid, name)).clone() })
}

fn owner(process: &Arc<Process>) -> Option<Owner> {
    Some(Owner { process: Arc::clone(process), fds: vec![7], holders: 1 })
}

/// A client's socket to 10.0.0.9:443 that entered CLOSE_WAIT at `since`, seen by the hook; the
/// application has read to the end.
fn close_wait(process: &Arc<Process>, since: Timestamp) -> CloseWaitSocket {
    CloseWaitSocket {
        id: 0,
        local: endpoint("10.0.0.1:40000"),
        peer: endpoint("10.0.0.9:443"),
        role: Role::Client,
        since,
        since_exact: true,
        recv_queue: 0,
        progress: None,
        unaccepted: false,
        owner: owner(process),
        owner_pending: false,
        stack: None,
    }
}

/// A socket that a server on port 8080 has accepted from 10.0.0.7.
fn accepted(process: &Arc<Process>, since: Timestamp) -> CloseWaitSocket {
    CloseWaitSocket {
        local: endpoint("10.0.0.1:8080"),
        peer: endpoint("10.0.0.7:51000"),
        role: Role::Server,
        ..close_wait(process, since)
    }
}

fn times(count: usize, socket: &CloseWaitSocket) -> Vec<CloseWaitSocket> {
    vec![socket.clone(); count]
}

fn destination(local: &str, peer: &str, used: u32) -> DestinationUse {
    destination_at(Endpoint { address: address(local), port: 0 }, endpoint(peer), used)
}

const fn destination_at(local: Endpoint, peer: Endpoint, used: u32) -> DestinationUse {
    DestinationUse { local, peer, used, states: None }
}

/// A connect() that failed, of which nothing else is known.
fn ended(
    at: Timestamp,
    netns: NetnsId,
    (local, peer): (Endpoint, Endpoint),
    reason: ConnectFailure,
    process: Option<Arc<Process>>,
) -> Event {
    Event::ConnectFailed { at, netns, local, peer, reason, waited: None, no_connect: None, process }
}

/// A connect() to `peer` that found no free port.
fn no_port(
    at: Timestamp,
    netns: NetnsId,
    local: &str,
    peer: &str,
    process: Option<&Arc<Process>>,
) -> Event {
    Event::ConnectFailed {
        at,
        netns,
        local: Endpoint { address: address(local), port: 0 },
        peer: endpoint(peer),
        reason: ConnectFailure::NoLocalPort,
        waited: None,
        no_connect: None,
        process: process.cloned(),
    }
}

/// A value of the evidence; `holder.pid` is one within an object.
fn value_of<'a>(finding: &'a Finding, key: &str) -> Option<&'a Evidence> {
    let Some((object, key)) = key.split_once('.') else { return finding.evidence.get(key) };
    match finding.evidence.get(object)? {
        Evidence::Object(values) => values.get(key),
        value => panic!("{object} is {value:?}"),
    }
}

/// A value of the evidence as a person reads it.
fn text_of(finding: &Finding, key: &str) -> String {
    let lines = value_of(finding, key).map(Evidence::lines);
    lines.map_or_else(|| "absent".to_owned(), |lines| lines.join("; "))
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
}

fn remedies_of(finding: &Finding) -> String {
    finding.remedies.join("\n")
}
