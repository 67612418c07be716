//! Processes that close connections first, and so make TIME_WAIT.
//!
//! No process owns a socket in TIME_WAIT, so its maker must be seen while it closes. The kernel
//! side counts closes only in the namespaces of
//! [`Focus::closers_in`](crate::facts::Focus::closers_in); here the counts become rates. The
//! detectors judge what they explain.
//!
//! The processes of one name are one closer: a program that makes a process for each connection, or
//! has many workers, closes as much as they do together. A client's destinations are followed each,
//! and all of them as one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use crate::{
    engine::{
        advice::text,
        evidence::EvidenceMap,
        finding::Subject,
        over_time::{counter::Counter, level::RELEASE, trend::Trend},
    },
    facts::{CloserCount, Endpoint, Focus, Inventory, NetnsId, Process, Role, Timestamp},
};

/// Counts that are followed, the largest: all that there can be.
const CLOSERS: usize = Focus::CLOSERS;
/// Tallies at most: each count is of a namespace, and may be of a destination.
const TALLIES: usize = 2 * CLOSERS;
/// Closers that the evidence lists.
const LISTED: usize = 5;
/// The time over which a rate is taken: what was closed in it is what is in TIME_WAIT now
/// (TCP_TIMEWAIT_LEN).
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Least rate that is reported, per second: three in a minute fill nothing.
const RATE_LEAST: f64 = 0.05;
/// How much faster another must close before it is named instead: two that do the same work would
/// take turns, and with them the labels of an alert.
const INCUMBENT: f64 = 2.0;
/// From this part of a warning's threshold on the closers are counted: early enough to have names
/// when the finding is raised.
const NEAR: f64 = 0.8;
/// One process is named where it closes this part of what its name does, and one destination where
/// it is this part of a client's: the others change no decision then.
const MOST: f64 = 0.9;

#[derive(Debug, Default)]
pub(crate) struct Closers {
    rows: BTreeMap<RowKey, Row>,
    /// By namespace, and by destination.
    tallies: BTreeMap<(Scope, Program), Tally>,
    leaders: BTreeMap<Scope, Program>,
}

/// The key of one count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    netns: NetnsId,
    program: Program,
    peer: Option<(IpAddr, u16)>,
}

/// Processes of one name that do the same: all that are clients, or that serve one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Program {
    name: String,
    role: Role,
    /// Of a server.
    port: Option<u16>,
}

/// A namespace, or one destination in it.
type Scope = (NetnsId, Option<Endpoint>);

/// A count as it was read last.
#[derive(Debug, Default)]
struct Row {
    count: Counter,
    others: Counter,
}

/// Connections that a program has closed in a scope.
#[derive(Debug)]
struct Tally {
    process: Arc<Process>,
    /// When others of its name closed a part that counts, or another took its place.
    mixed: Option<Timestamp>,
    total: u64,
    moved: Timestamp,
    trend: Trend,
}

/// Closes that an inventory has added to a tally.
struct Added<'a> {
    process: &'a Arc<Process>,
    count: u64,
    others: u64,
    /// When the first was closed, of a count that is new.
    since: Option<Timestamp>,
}

/// A process or program that closes, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closer<'a> {
    process: &'a Process,
    /// Whether that process closes most of what its name does.
    is_one: bool,
    pub(crate) role: Role,
    service: Service,
    per_second: f64,
}

/// The service of the connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Service {
    /// A server's port.
    Port(u16),
    /// A client's destination.
    Peer(Endpoint),
    /// Several of them.
    Peers,
}

impl Closers {
    /// Takes the counts of an inventory; `in_focus` is where they were to be taken.
    pub(crate) fn observe(&mut self, inventory: &Inventory, in_focus: &BTreeSet<NetnsId>) {
        // They are read at the end of an inventory, which may take a while.
        let now = inventory.finished;
        let mut before = std::mem::take(&mut self.rows);
        let mut added: BTreeMap<(Scope, Program), Added<'_>> = BTreeMap::new();
        for (key, closer) in largest(&inventory.closers, in_focus) {
            let mut row = before.remove(&key).unwrap_or_default();
            let new = row.take(closer);
            for scope in key.scopes() {
                let sum = added.entry((scope, key.program.clone())).or_insert(Added {
                    process: &closer.process,
                    count: 0,
                    others: 0,
                    since: None,
                });
                sum.add(&new);
            }
            self.rows.insert(key, row);
        }
        self.tallies.retain(|((netns, _), _), tally| {
            in_focus.contains(netns) && now.since(tally.moved) <= RATE_WINDOW
        });
        for (key, tally) in &mut self.tallies {
            if !added.contains_key(key) {
                tally.trend.observe(now, tally.total, RATE_WINDOW);
            }
        }
        if self.tallies.len() + added.len() > TALLIES {
            self.tallies.retain(|key, _| added.contains_key(key));
        }
        for (key, added) in added {
            match self.tallies.get_mut(&key) {
                Some(tally) => tally.add(&added, now),
                None => {
                    self.tallies.insert(key, Tally::new(&added, now));
                }
            }
        }
        self.choose_leaders();
    }

    /// Those of a namespace, the one to be named first.
    pub(crate) fn of_namespace(&self, netns: NetnsId) -> Vec<Closer<'_>> {
        self.of((netns, None))
    }

    /// Those of one destination, the one to be named first.
    pub(crate) fn of_destination(&self, netns: NetnsId, peer: Endpoint) -> Vec<Closer<'_>> {
        self.of((netns, Some(peer)))
    }

    fn of(&self, scope: Scope) -> Vec<Closer<'_>> {
        let leader = self.leaders.get(&scope);
        let in_scope = self.tallies.iter().filter(|((its, _), _)| *its == scope);
        let mut closers: Vec<_> = in_scope
            .filter_map(|((_, program), tally)| {
                let closer = Closer {
                    process: &tally.process,
                    is_one: tally.is_one(),
                    role: program.role,
                    service: self.service_of(scope, program, tally),
                    per_second: tally.per_second()?,
                };
                Some((leader != Some(program), closer))
            })
            .collect();
        closers.sort_by(|(a_follows, a), (b_follows, b)| {
            a_follows.cmp(b_follows).then(b.per_second.total_cmp(&a.per_second))
        });
        closers.into_iter().map(|(_, closer)| closer).collect()
    }

    fn service_of(&self, (netns, peer): Scope, program: &Program, tally: &Tally) -> Service {
        if let Some(port) = program.port {
            return Service::Port(port);
        }
        if let Some(peer) = peer {
            return Service::Peer(peer);
        }
        let most = tally.per_second().unwrap_or_default() * MOST;
        let peers = self.tallies.iter().filter_map(|((scope, its), tally)| {
            let peer = scope.1.filter(|_| scope.0 == netns && its == program)?;
            Some((peer, tally.per_second()?))
        });
        let first = peers.max_by(|(_, a), (_, b)| a.total_cmp(b));
        first.filter(|(_, rate)| *rate >= most).map_or(Service::Peers, |(it, _)| Service::Peer(it))
    }

    fn choose_leaders(&mut self) {
        let mut best: BTreeMap<Scope, (f64, &Program)> = BTreeMap::new();
        for ((scope, program), tally) in &self.tallies {
            let Some(per_second) = tally.per_second() else { continue };
            let leads = self.leaders.get(scope) == Some(program);
            let weight = if leads { per_second * INCUMBENT } else { per_second };
            let best = best.entry(*scope).or_insert((weight, program));
            if weight > best.0 {
                *best = (weight, program);
            }
        }
        self.leaders =
            best.into_iter().map(|(scope, (_, program))| (scope, program.clone())).collect();
    }
}

/// The largest counts of the namespaces in focus.
fn largest<'a>(
    closers: &'a [CloserCount],
    in_focus: &BTreeSet<NetnsId>,
) -> Vec<(RowKey, &'a CloserCount)> {
    let mut counts: Vec<&CloserCount> =
        closers.iter().filter(|closer| in_focus.contains(&closer.netns)).collect();
    if counts.len() > CLOSERS {
        counts.sort_by_key(|closer| Reverse(closer.count));
        counts.truncate(CLOSERS);
    }
    counts.into_iter().map(|closer| (RowKey::of(closer), closer)).collect()
}

impl RowKey {
    fn of(closer: &CloserCount) -> Self {
        let CloserCount { netns, process, role, peer, port, .. } = closer;
        let program = Program {
            name: process.name.clone(),
            role: *role,
            port: (*role == Role::Server).then_some(*port),
        };
        let peer = peer.filter(|_| *role == Role::Client).map(|address| (address, *port));
        Self { netns: *netns, program, peer }
    }

    /// The namespace; for a client its destination too.
    fn scopes(&self) -> impl Iterator<Item = Scope> {
        let destination =
            self.peer.map(|(address, port)| (self.netns, Some(Endpoint { address, port })));
        [Some((self.netns, None)), destination].into_iter().flatten()
    }
}

impl Row {
    /// Closes that have been added since it was read last. Of a count that is new, all if it has
    /// its begin; else none.
    fn take<'a>(&mut self, closer: &'a CloserCount) -> Added<'a> {
        let CloserCount { process, count, others, since, .. } = closer;
        // A recording of an older version has a count for each process.
        let is_new = self.count.is_new();
        let (added, of_others) =
            (self.count.added_from_zero(*count), self.others.added_from_zero(*others));
        match (is_new, since) {
            (true, None) => Added { process, count: 0, others: 0, since: None },
            (true, since) => Added { process, count: added, others: of_others, since: *since },
            (false, _) => Added { process, count: added, others: of_others, since: None },
        }
    }
}

impl<'a> Added<'a> {
    fn add(&mut self, other: &Added<'a>) {
        if other.process.pid != self.process.pid {
            self.others = self.others.saturating_add(self.count.min(other.count));
        }
        // The one that closed most stands for its name.
        if other.count > self.count {
            self.process = other.process;
        }
        self.others = self.others.saturating_add(other.others);
        self.count = self.count.saturating_add(other.count);
        self.since = match (self.since, other.since) {
            (Some(first), Some(second)) => Some(first.min(second)),
            (first, second) => first.or(second),
        };
    }

    fn is_mixed(&self) -> bool {
        self.others as f64 > self.count as f64 * (1.0 - MOST)
    }
}

impl Tally {
    fn new(added: &Added<'_>, now: Timestamp) -> Self {
        let Added { process, count, since, .. } = *added;
        let mut trend = Trend::default();
        if let Some(since) = since {
            trend.observe(since.min(now), 0, RATE_WINDOW);
        }
        trend.observe(now, count, RATE_WINDOW);
        let process = Arc::clone(process);
        let mixed = added.is_mixed().then_some(now);
        Self { process, mixed, total: count, moved: now, trend }
    }

    fn add(&mut self, added: &Added<'_>, now: Timestamp) {
        self.total = self.total.saturating_add(added.count);
        self.trend.observe(now, self.total, RATE_WINDOW);
        if added.count == 0 {
            return;
        }
        self.moved = now;
        if added.process.pid != self.process.pid || added.is_mixed() {
            self.mixed = Some(now);
        }
        self.process = Arc::clone(added.process);
    }

    fn is_one(&self) -> bool {
        self.mixed.is_none_or(|mixed| self.trend.is_later_by(mixed, RATE_WINDOW))
    }

    fn per_second(&self) -> Option<f64> {
        let per_second = self.trend.per_minute(RATE_WINDOW)? / 60.0;
        (per_second >= RATE_LEAST).then_some(per_second)
    }
}

impl Closer<'_> {
    /// Where a client's connections go to.
    pub(crate) fn destination(&self) -> Option<Endpoint> {
        match self.service {
            Service::Peer(peer) => Some(peer),
            Service::Port(_) | Service::Peers => None,
        }
    }

    /// A client's peer port, a server's local port.
    pub(crate) fn port(&self) -> Option<u16> {
        match self.service {
            Service::Port(port) => Some(port),
            Service::Peer(peer) => Some(peer.port),
            Service::Peers => None,
        }
    }

    /// Names it in the subject; of several processes the name is all they share for certain.
    pub(crate) fn name_in(&self, subject: &mut Subject) {
        if self.is_one {
            subject.set_process(self.process);
        } else {
            subject.process = Some(self.process.name.clone());
        }
    }

    /// `nginx (pid 80)`, or `curl (several processes)`.
    pub(crate) fn who(&self) -> String {
        if self.is_one {
            text::named(Some(self.process))
        } else {
            text::named_as_several(&self.process.name)
        }
    }

    /// `pgbench (pid 12) closes 410/s to 10.0.0.9:5432`, `nginx (pid 80) closes 900/s on port 80`.
    pub(crate) fn in_words(&self) -> String {
        let service = match self.service {
            Service::Peer(peer) => format!("to {peer}"),
            Service::Port(port) => format!("on port {port}"),
            Service::Peers => "to several destinations".to_owned(),
        };
        format!("{} {service}", self.and_rate())
    }

    fn evidence(&self) -> EvidenceMap {
        let mut evidence = EvidenceMap::default();
        if self.is_one {
            evidence.process(self.process);
        } else {
            evidence.text("process", &self.process.name).flag("several_processes", true);
        }
        evidence.text("role", self.role.label());
        if let Some(port) = self.port() {
            evidence.count("port", port.into());
        }
        if let Some(peer) = self.destination() {
            evidence.text("peer", peer.to_string());
        }
        evidence.number("closes_per_second", self.per_second);
        evidence
    }

    /// `pgbench (pid 12) closes 410/s`.
    pub(crate) fn and_rate(&self) -> String {
        let who = self.who();
        match self.per_second {
            10.0.. => format!("{who} closes {:.0}/s", self.per_second),
            _ => format!("{who} closes {:.1}/s", self.per_second),
        }
    }
}

/// The evidence `closers`.
pub(crate) fn evidence(closers: &[Closer<'_>]) -> Vec<EvidenceMap> {
    closers.iter().take(LISTED).map(Closer::evidence).collect()
}

/// The namespaces in which a threshold is near enough for the closers to be counted. None flaps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nearing(BTreeSet<NetnsId>);

impl Nearing {
    /// Takes of each namespace the largest value as a part of its threshold, and whether a finding
    /// stands there.
    pub(crate) fn observe(&mut self, parts: impl IntoIterator<Item = (NetnsId, f64, bool)>) {
        let is_near = |(netns, part, stands): (NetnsId, f64, bool)| {
            let factor = if self.0.contains(&netns) { RELEASE } else { 1.0 };
            (stands || part >= NEAR * factor).then_some(netns)
        };
        self.0 = parts.into_iter().filter_map(is_near).take(Focus::CLOSERS_IN).collect();
    }

    /// Adds them to the focus.
    pub(crate) fn add_to(&self, focus: &mut Focus) {
        for netns in &self.0 {
            if focus.closers_in.len() < Focus::CLOSERS_IN {
                focus.closers_in.insert(*netns);
            }
        }
    }
}
