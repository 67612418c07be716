//! Groups the numbers as their labels want them, and cuts them; see [`Samples`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{cut::largest, named_totals::NamedTotals};
use crate::{
    engine::{
        finding::Finding,
        samples::{
            CloseWaitSample, ConnectFailureSample, FindingSample, ListenerSample, NamespaceSample,
            NamespaceTotals, OTHER, OwnerLabels, Samples,
        },
    },
    facts::{
        ConnectFailure, Event, Inventory, Namespace, NetnsId, NetstatCounters, Owner, Process,
        Timestamp, saturating_sum,
    },
};

/// Events that wait for the name of their namespace: those between two inventories in a namespace
/// that is new, and those before the first inventory.
const UNNAMED: usize = 1_024;

/// Rounds without a failed connect() after which the series of a process ends: a day of the default
/// interval. A free place costs nothing, and a series that ends and comes back hides its first
/// count.
const IDLE_ROUNDS: u32 = 17_280;

/// The agent's own namespace, which has a name whatever it counts.
const HOST: &str = "host";

/// A counter of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Total {
    SelfConnections,
    TimeWaitOverflows,
    ListenOverflows,
    ListenDrops,
    SyncookiesSent,
}

#[derive(Debug)]
pub(crate) struct Sampler {
    owners: usize,
    gauges: Samples,
    connect_failures: NamedTotals<(Arc<str>, OwnerLabels), ConnectFailure>,
    totals: NamedTotals<Arc<str>, Total>,
    /// The last counters of each namespace that is there.
    netstat: BTreeMap<NetnsId, NetstatCounters>,
    /// Names of the namespaces that are there.
    names: BTreeMap<NetnsId, Arc<str>>,
    /// Events that came before an inventory has named their namespace.
    unnamed: Vec<(NetnsId, Happened)>,
}

/// An event, as far as it is counted.
#[derive(Clone, Debug)]
enum Happened {
    ConnectFailed(OwnerLabels, ConnectFailure),
    SelfConnection,
}

impl Sampler {
    pub(crate) fn new(owners: usize) -> Self {
        let other = OwnerLabels { process: OTHER.to_owned(), unit: String::new() };
        Self {
            owners,
            gauges: Samples::default(),
            connect_failures: NamedTotals::new(owners, ("".into(), other)).idle_after(IDLE_ROUNDS),
            totals: NamedTotals::new(owners, OTHER.into()).pin(HOST.into()),
            netstat: BTreeMap::new(),
            names: BTreeMap::new(),
            unnamed: Vec::new(),
        }
    }

    pub(crate) fn reconfigure(&mut self, owners: usize) {
        self.owners = owners;
        self.connect_failures.set_limit(owners);
        self.totals.set_limit(owners);
    }

    pub(crate) fn handle_event(&mut self, event: &Event) {
        let (netns, happened) = match event {
            Event::ConnectFailed { netns, reason, process, .. } => {
                (netns, Happened::ConnectFailed(labels(process.as_deref()), *reason))
            }
            Event::SelfConnection { netns, .. } => (netns, Happened::SelfConnection),
            Event::BindFailed { .. } => return,
        };
        match self.names.get(netns) {
            Some(name) => self.count(name.clone(), happened),
            // The next inventory may know its name; what is beyond that goes without.
            None if self.unnamed.len() < UNNAMED => self.unnamed.push((*netns, happened)),
            None => self.count("".into(), happened),
        }
    }

    fn count(&mut self, netns: Arc<str>, happened: Happened) {
        match happened {
            Happened::ConnectFailed(owner, reason) => {
                self.connect_failures.add(&(netns, owner), reason, 1);
            }
            Happened::SelfConnection => self.totals.add(&netns, Total::SelfConnections, 1),
        }
    }

    pub(crate) fn handle_inventory(
        &mut self,
        inventory: &Inventory,
        now: Timestamp,
        findings: &[Finding],
    ) {
        self.count_totals(inventory);
        self.gauges = Samples {
            namespaces: self.namespaces(inventory),
            close_wait: self.close_wait(inventory, now),
            listeners: self.listeners(inventory),
            findings: self.findings(findings),
            ..Samples::default()
        };
    }

    pub(crate) fn samples(&self) -> Samples {
        let mut samples = self.gauges.clone();
        samples.connect_failures = self
            .connect_failures
            .iter()
            .map(|((netns, owner), reason, total)| ConnectFailureSample {
                netns: netns.clone(),
                owner: owner.clone(),
                reason,
                total,
            })
            .collect();
        samples.namespace_totals = self.namespace_totals();
        samples
    }

    fn count_totals(&mut self, inventory: &Inventory) {
        self.names = inventory
            .namespaces
            .iter()
            .map(|namespace| (namespace.id, namespace.name.clone()))
            .collect();
        for (netns, happened) in std::mem::take(&mut self.unnamed) {
            let name = self.names.get(&netns).cloned().unwrap_or_default();
            self.count(name, happened);
        }
        let mut before = std::mem::take(&mut self.netstat);
        for namespace in &inventory.namespaces {
            self.totals.add(&namespace.name, Total::SelfConnections, 0);
            let old = before.remove(&namespace.id);
            // Counters that could not be read this once have not moved.
            let Some(new) = namespace.netstat.or(old) else { continue };
            // Counts from before the agent's first look are not reported.
            let old = old.unwrap_or(new);
            let name = &namespace.name;
            for (total, new, old) in [
                (Total::TimeWaitOverflows, new.time_wait_overflows, old.time_wait_overflows),
                (Total::ListenOverflows, new.listen_overflows, old.listen_overflows),
                (Total::ListenDrops, new.listen_drops, old.listen_drops),
                (Total::SyncookiesSent, new.syncookies_sent, old.syncookies_sent),
            ] {
                self.totals.add(name, total, new.saturating_sub(old));
            }
            self.netstat.insert(namespace.id, new);
        }
        let names: BTreeSet<&Arc<str>> = self.names.values().collect();
        // One without a name may be any.
        let is_there = |name: &Arc<str>| name.is_empty() || names.contains(name);
        self.totals.end_round(is_there);
        self.connect_failures.end_round(|(netns, _)| is_there(netns));
    }

    fn namespace_totals(&self) -> Vec<NamespaceTotals> {
        let mut by_name: BTreeMap<Arc<str>, NamespaceTotals> = BTreeMap::new();
        for (name, total, count) in self.totals.iter() {
            let sample = by_name.entry(name.clone()).or_insert_with(|| NamespaceTotals {
                netns: name.clone(),
                ..NamespaceTotals::default()
            });
            let netstat = &mut sample.netstat;
            match total {
                Total::SelfConnections => sample.self_connections = count,
                Total::TimeWaitOverflows => {
                    netstat.get_or_insert_default().time_wait_overflows = count
                }
                Total::ListenOverflows => netstat.get_or_insert_default().listen_overflows = count,
                Total::ListenDrops => netstat.get_or_insert_default().listen_drops = count,
                Total::SyncookiesSent => netstat.get_or_insert_default().syncookies_sent = count,
            }
        }
        by_name.into_values().collect()
    }

    /// Namespaces of one name are summed; of their destinations the worst counts.
    fn namespaces(&self, inventory: &Inventory) -> Vec<NamespaceSample> {
        let mut by_name: BTreeMap<Arc<str>, NamespaceSample> = BTreeMap::new();
        for namespace in &inventory.namespaces {
            let sample = namespace_sample(namespace);
            match by_name.get_mut(&namespace.name) {
                Some(sum) => add_namespace(sum, &sample),
                None => drop(by_name.insert(namespace.name.clone(), sample)),
            }
        }
        let rows = by_name.into_values().collect();
        largest(
            rows,
            self.owners,
            // `None`, the least, so that one of this name is among the others and not beside them.
            |row| (&*row.netns != OTHER).then(|| row.sockets.total()),
            |others| {
                let mut sum = NamespaceSample { netns: OTHER.into(), ..NamespaceSample::default() };
                others.iter().for_each(|row| add_namespace(&mut sum, row));
                sum
            },
        )
    }

    fn close_wait(&self, inventory: &Inventory, now: Timestamp) -> Vec<CloseWaitSample> {
        let mut groups: BTreeMap<_, (u64, Duration)> = BTreeMap::new();
        for namespace in &inventory.namespaces {
            for socket in &namespace.close_wait {
                let owner = labels(socket.owner.as_ref().map(|owner| &*owner.process));
                let key =
                    (namespace.name.clone(), owner, Some(socket.role), Some(socket.service_port()));
                let (sockets, oldest) = groups.entry(key).or_default();
                *sockets += 1;
                *oldest = (*oldest).max(now.since(socket.since));
            }
            let beyond = saturating_sum(namespace.close_wait_beyond.values().copied());
            if beyond > 0 {
                let owner = OwnerLabels { process: OTHER.to_owned(), unit: String::new() };
                let key = (namespace.name.clone(), owner, None, None);
                let group = groups.entry(key).or_default();
                group.0 = group.0.saturating_add(beyond);
            }
        }
        let rows = groups.into_iter().map(|((netns, owner, role, port), (sockets, oldest))| {
            CloseWaitSample { netns, owner, role, port, sockets, oldest }
        });
        largest(
            rows.collect(),
            self.owners,
            // Likewise sockets beyond the description in namespaces without a name.
            |row| (row.role.is_some() || !row.netns.is_empty()).then_some(row.sockets),
            |others| CloseWaitSample {
                netns: "".into(),
                owner: OwnerLabels { process: OTHER.to_owned(), unit: String::new() },
                role: None,
                port: None,
                sockets: saturating_sum(others.iter().map(|row| row.sockets)),
                oldest: others.iter().map(|row| row.oldest).max().unwrap_or_default(),
            },
        )
    }

    /// Listeners that share owner and port (SO_REUSEPORT) are summed.
    fn listeners(&self, inventory: &Inventory) -> Vec<ListenerSample> {
        let mut groups: BTreeMap<_, [u64; 3]> = BTreeMap::new();
        for namespace in &inventory.namespaces {
            for listener in &namespace.listeners {
                let owner = labels(listener.owner.as_ref().map(|owner: &Owner| &*owner.process));
                let key = (namespace.name.clone(), owner, Some(listener.local.port));
                let sums = groups.entry(key).or_default();
                sums[0] += u64::from(listener.half_open);
                sums[1] += u64::from(listener.accept_queue);
                sums[2] += u64::from(listener.accept_limit);
            }
        }
        let rows = groups.into_iter().map(|((netns, owner, port), sums)| ListenerSample {
            netns,
            owner,
            port,
            half_open: sums[0],
            accept_queue: sums[1],
            accept_limit: sums[2],
        });
        // The fullest matter most, then the widest.
        let size = |row: &ListenerSample| (row.half_open + row.accept_queue, row.accept_limit);
        largest(rows.collect(), self.owners, size, |others| ListenerSample {
            netns: "".into(),
            owner: OwnerLabels { process: OTHER.to_owned(), unit: String::new() },
            port: None,
            half_open: others.iter().map(|row| row.half_open).sum(),
            accept_queue: others.iter().map(|row| row.accept_queue).sum(),
            accept_limit: others.iter().map(|row| row.accept_limit).sum(),
        })
    }

    fn findings(&self, findings: &[Finding]) -> Vec<FindingSample> {
        let mut rows: Vec<FindingSample> = Vec::new();
        let mut leaders = 0;
        for finding in findings {
            let subject = &finding.subject;
            let mut sample = FindingSample {
                kind: finding.kind,
                severity: finding.severity,
                netns: subject.netns.clone(),
                owner: OwnerLabels {
                    process: subject.process.clone().unwrap_or_default(),
                    unit: subject.unit_label().to_owned(),
                },
                port: subject.port,
                is_led: finding.led_by.is_some(),
                count: 1,
                since: finding.since,
            };
            if sample.is_led {
                sample.netns = "".into();
                sample.owner = OwnerLabels::default();
                sample.port = None;
            } else if leaders == self.owners {
                // Findings come worst first, so what is cut is the mildest.
                sample.netns = "".into();
                sample.owner = OwnerLabels { process: OTHER.to_owned(), unit: String::new() };
                sample.port = None;
            } else {
                leaders += 1;
            }
            let shares_labels = |row: &&mut FindingSample| {
                let FindingSample { count, since, .. } = sample;
                FindingSample { count, since, ..(**row).clone() } == sample
            };
            match rows.iter_mut().find(shares_labels) {
                Some(row) => {
                    row.count += 1;
                    row.since = row.since.min(sample.since);
                }
                None => rows.push(sample),
            }
        }
        rows
    }
}

fn labels(process: Option<&Process>) -> OwnerLabels {
    process.map_or_else(OwnerLabels::default, |process| OwnerLabels {
        process: process.name.clone(),
        unit: process.unit_label().to_owned(),
    })
}

fn namespace_sample(namespace: &Namespace) -> NamespaceSample {
    NamespaceSample {
        netns: namespace.name.clone(),
        sockets: namespace.sockets,
        time_wait_limit: namespace.time_wait.limit,
        ports_used: namespace
            .ports
            .worst
            .map_or(u64::from(namespace.ports.pinned), |worst| u64::from(worst.used)),
        ports_available: u64::from(namespace.ports.available),
        self_connected: namespace.self_connected.len() as u64,
    }
}

/// Adds a namespace of the same label. Ports are those of the one that is nearest its limit.
fn add_namespace(sum: &mut NamespaceSample, other: &NamespaceSample) {
    sum.sockets.add(&other.sockets);
    sum.self_connected = sum.self_connected.saturating_add(other.self_connected);
    sum.time_wait_limit = match (sum.time_wait_limit, other.time_wait_limit) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let nearer = u128::from(other.ports_used) * u128::from(sum.ports_available.max(1))
        > u128::from(sum.ports_used) * u128::from(other.ports_available.max(1));
    if nearer || sum.ports_available == 0 {
        (sum.ports_used, sum.ports_available) = (other.ports_used, other.ports_available);
    }
}
