//! Who closes connections first, and so makes TIME_WAIT.
//!
//! Nobody owns a socket in TIME_WAIT, so its maker must be seen while it closes. The kernel side
//! counts that only while [`Focus::closers`](crate::facts::Focus::closers) asks for it; here the
//! counts become rates. What they explain is judged elsewhere.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use crate::{
    engine::{
        advice::text,
        evidence::EvidenceMap,
        over_time::{counter::Counter, level::RELEASE, trend::Trend},
    },
    facts::{CloserCount, Endpoint, Inventory, NetnsId, Process, Role, Timestamp},
};

/// Closers that are followed; the largest.
const CLOSERS: usize = 256;
/// Closers that the evidence lists.
const LISTED: usize = 5;
/// The time over which a rate is taken: what was closed in it is what is in TIME_WAIT now
/// (TCP_TIMEWAIT_LEN).
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Least rate that is told of, per second: three in a minute fill nothing.
const RATE_LEAST: f64 = 0.05;
/// How much faster another must close before it is named instead: two that do the same work would
/// take turns, and with them the labels of an alert.
const INCUMBENT: f64 = 2.0;
/// From this part of a warning's threshold on the closers are counted: early enough to have names
/// when the finding is raised.
const NEAR: f64 = 0.8;

#[derive(Debug, Default)]
pub(crate) struct Closers {
    followed: BTreeMap<Key, Followed>,
    leaders: HashMap<Scope, Key>,
    /// When it looked last, if it followed all there were: who is new since has counted from then.
    complete: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    netns: NetnsId,
    pid: u32,
    started: Timestamp,
    role: Role,
    peer: Option<IpAddr>,
    port: u16,
}

/// A namespace, or one destination in it.
type Scope = (NetnsId, Option<Endpoint>);

#[derive(Debug)]
struct Followed {
    process: Arc<Process>,
    count: Counter,
    /// Added up over counters that began again.
    total: u64,
    trend: Trend,
}

/// Who closes, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closer<'a> {
    pub(crate) process: &'a Process,
    pub(crate) role: Role,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) port: u16,
    per_second: f64,
}

impl Closers {
    /// Takes the counts of an inventory; `asked` is whether they were to be taken.
    pub(crate) fn observe(&mut self, inventory: &Inventory, asked: bool, now: Timestamp) {
        if !asked {
            *self = Self::default();
            return;
        }
        let counts = largest(&inventory.closers);
        let all_fit = counts.len() <= CLOSERS;
        let mut before = std::mem::take(&mut self.followed);
        for (key, process, count) in counts.into_iter().take(CLOSERS) {
            let followed = match before.remove(&key) {
                Some(followed) => followed.again(count, now),
                None => Followed::new(process, count, self.complete, now),
            };
            self.followed.insert(key, followed);
        }
        self.complete = all_fit.then_some(now);
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
        let in_scope = self.followed.iter().filter(|(key, _)| key.scopes().contains(&Some(scope)));
        let rated = in_scope.filter_map(|(key, it)| Some((key, it, it.per_second()?)));
        let mut closers: Vec<_> = rated
            .map(|(key, Followed { process, .. }, per_second)| {
                let Key { role, peer, port, .. } = *key;
                (leader != Some(key), Closer { process, role, peer, port, per_second })
            })
            .collect();
        closers.sort_by(|(a_follows, a), (b_follows, b)| {
            a_follows.cmp(b_follows).then(b.per_second.total_cmp(&a.per_second))
        });
        closers.into_iter().map(|(_, closer)| closer).collect()
    }

    fn choose_leaders(&mut self) {
        let mut best: HashMap<Scope, (f64, Key)> = HashMap::new();
        for (key, followed) in &self.followed {
            let Some(per_second) = followed.per_second() else { continue };
            for scope in key.scopes().into_iter().flatten() {
                let leads = self.leaders.get(&scope) == Some(key);
                let weight = if leads { per_second * INCUMBENT } else { per_second };
                let best = best.entry(scope).or_insert((weight, *key));
                if weight > best.0 {
                    *best = (weight, *key);
                }
            }
        }
        self.leaders = best.into_iter().map(|(scope, (_, key))| (scope, key)).collect();
    }
}

/// Each closer once, the largest count first.
fn largest(closers: &[CloserCount]) -> Vec<(Key, &Arc<Process>, u64)> {
    let mut counts: BTreeMap<Key, (&Arc<Process>, u64)> = BTreeMap::new();
    for closer in closers {
        let CloserCount { netns, process, role, peer, port, count } = closer;
        let Process { pid, started, .. } = **process;
        let key = Key { netns: *netns, pid, started, role: *role, peer: *peer, port: *port };
        let (_, sum) = counts.entry(key).or_insert((process, 0));
        *sum = sum.saturating_add(*count);
    }
    let mut counts: Vec<_> =
        counts.into_iter().map(|(key, (process, count))| (key, process, count)).collect();
    counts.sort_by_key(|(.., count)| Reverse(*count));
    counts
}

impl Key {
    /// The namespace; for a client its destination too.
    fn scopes(&self) -> [Option<Scope>; 2] {
        let destination = match (self.role, self.peer) {
            (Role::Client, Some(address)) => {
                Some((self.netns, Some(Endpoint { address, port: self.port })))
            }
            _ => None,
        };
        [Some((self.netns, None)), destination]
    }
}

impl Followed {
    /// `since`: it was not there then, so it counted from 0; else from where is not known.
    fn new(process: &Arc<Process>, count: u64, since: Option<Timestamp>, now: Timestamp) -> Self {
        let process = Arc::clone(process);
        let mut trend = Trend::default();
        let Some(since) = since else {
            trend.observe(now, 0, RATE_WINDOW);
            let mut counter = Counter::default();
            counter.added(count);
            return Self { process, count: counter, total: 0, trend };
        };
        trend.observe(since, 0, RATE_WINDOW);
        trend.observe(now, count, RATE_WINDOW);
        let mut counter = Counter::default();
        let total = counter.added_from_zero(count);
        Self { process, count: counter, total, trend }
    }

    fn again(mut self, count: u64, now: Timestamp) -> Self {
        let added = self.count.added_from_zero(count);
        self.total = self.total.saturating_add(added);
        self.trend.observe(now, self.total, RATE_WINDOW);
        self
    }

    fn per_second(&self) -> Option<f64> {
        let per_second = self.trend.per_minute(RATE_WINDOW)? / 60.0;
        (per_second >= RATE_LEAST).then_some(per_second)
    }
}

impl Closer<'_> {
    /// Where a client's connections go to.
    pub(crate) fn destination(&self) -> Option<Endpoint> {
        self.peer.map(|address| Endpoint { address, port: self.port })
    }

    /// `pgbench (pid 12) closes 410/s to 10.0.0.9:5432`, `nginx (pid 80) closes 900/s on port 80`.
    pub(crate) fn in_words(&self) -> String {
        let service = match self.destination() {
            Some(peer) => format!("to {peer}"),
            None => format!("on port {}", self.port),
        };
        format!("{} {service}", self.and_rate())
    }

    fn evidence(&self) -> EvidenceMap {
        let mut evidence = EvidenceMap::default();
        evidence
            .process(self.process)
            .text("role", self.role.label())
            .count("port", self.port.into());
        if let Some(peer) = self.destination() {
            evidence.text("peer", peer.to_string());
        }
        evidence.number("closes_per_second", self.per_second);
        evidence
    }

    /// `pgbench (pid 12) closes 410/s`.
    pub(crate) fn and_rate(&self) -> String {
        let who = text::named(Some(self.process));
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

/// Whether a threshold is near enough for the closers to be counted. It does not flap either.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nearing(bool);

impl Nearing {
    /// Takes the largest value as a part of its threshold, and whether a finding stands.
    pub(crate) fn observe(&mut self, part: f64, stands: bool) {
        let factor = if self.0 { RELEASE } else { 1.0 };
        self.0 = stands || part >= NEAR * factor;
    }

    pub(crate) const fn is_near(self) -> bool {
        self.0
    }
}
