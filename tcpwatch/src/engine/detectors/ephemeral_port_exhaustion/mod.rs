//! `ephemeral-port-exhaustion`: a destination is near the end of its local ports.
//!
//! Signal: ports taken for one (source, destination, destination port) against those that
//! `ip_local_port_range` has less the reserved ones; and connect() that failed with EADDRNOTAVAIL,
//! which shows as CLOSE -> SYN_SENT -> CLOSE without a source port.
//! Trip: a part of the usable ports; critical when a connect() has failed within `window`. From 0.8
//! of the warning on those who close the connections are counted, see `closers`.
//! Cold start: none; the ports are counted, not their rate. The minutes to the last port need a
//! minute of growth.
//! Recovery: below 0.9 of the threshold, and `window` after the last failure.
//! Misses: ports of sockets that are bound but neither listen nor are connected are in no table
//! that the inventory walks, and of many busy destinations the inventory names 32 and the worst; a
//! real failure outranks the count.

mod failures;
mod words;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use self::{failures::Failures, words::Shortage};
use crate::{
    config::{self, Overridable},
    engine::{
        finding::{FINDINGS_PER_KIND, Finding, FindingKind, Severity},
        groups::destinations::{Destination, key_of},
        observers::closers::{Closers, Nearing},
        over_time::{level::Levels, trend::Trend},
    },
    facts::{ConnectFailure, Event, Inventory, Namespace, Process, Timestamp},
};

/// Destinations whose failures are remembered.
const DESTINATIONS: usize = 256;
/// Processes told apart for each.
const PROCESSES: usize = 16;
/// Destinations whose growth is followed, of those that have half of their ports.
const TRENDS: usize = 256;
/// From this part of the ports on growth is followed.
const HALF: f64 = 0.5;
/// The time over which growth is taken: twice the life of TIME_WAIT, so that the rise that comes
/// with a new load and ends when its first ports are free again does not count for long.
const GROWTH_WINDOW: Duration = Duration::from_secs(120);
#[derive(Debug)]
pub(crate) struct EphemeralPortExhaustion {
    pub(crate) config: Overridable<config::EphemeralPortExhaustion>,
    levels: Levels,
    failures: HashMap<Destination, Failures>,
    trends: HashMap<Destination, Trend>,
    nearing: Nearing,
}

impl EphemeralPortExhaustion {
    pub(crate) fn new(config: Overridable<config::EphemeralPortExhaustion>) -> Self {
        Self {
            config,
            levels: Levels::default(),
            failures: HashMap::new(),
            trends: HashMap::new(),
            nearing: Nearing::default(),
        }
    }

    pub(crate) fn handle_event(&mut self, event: &Event) {
        let Event::ConnectFailed { at, netns, local, peer, reason, process } = event else {
            return;
        };
        if *reason != ConnectFailure::NoLocalPort {
            return;
        }
        let key = Destination { netns: *netns, local: local.address, peer: *peer };
        let known = self.failures.contains_key(&key);
        if !known && self.failures.len() >= DESTINATIONS {
            return;
        }
        let failures = self.failures.entry(key).or_insert_with(|| Failures {
            count: 0,
            last: *at,
            processes: Vec::new(),
        });
        failures.count += 1;
        failures.last = failures.last.max(*at);
        let Some(process) = process else { return };
        let processes = &mut failures.processes;
        if let Some((_, count)) = processes.iter_mut().find(|(known, _)| known.pid == process.pid) {
            *count += 1;
        } else if processes.len() < PROCESSES {
            processes.push((Arc::clone(process), 1));
        }
    }

    /// Whether it is to be counted who closes connections.
    pub(crate) fn wants_closers(&self) -> bool {
        self.nearing.is_near()
    }

    /// The destinations near their end at `now`.
    pub(crate) fn judge(
        &mut self,
        inventory: &Inventory,
        closers: &Closers,
        now: Timestamp,
    ) -> Vec<Finding> {
        self.levels.begin();
        self.failures.retain(|destination, failures| {
            let config = self.config.of(failures.worst_process(), destination.peer.port);
            now.since(failures.last) <= config.window
        });
        let mut trends = std::mem::take(&mut self.trends);
        let mut findings = Vec::new();
        let mut nearest = 0.0_f64;
        for namespace in &inventory.namespaces {
            let mut used: BTreeMap<Destination, Option<u32>> = BTreeMap::new();
            // The worst need not be among the busy: those are the first, not the largest.
            for destination in namespace.ports.busy.iter().chain(&namespace.ports.worst) {
                used.insert(key_of(namespace, destination), Some(destination.used));
            }
            for key in self.failures.keys().filter(|key| key.netns == namespace.id) {
                used.entry(*key).or_default();
            }
            for (key, used) in used {
                let ratio = part_of(used, namespace);
                let config = self.config.of(None, key.peer.port);
                if config.enabled {
                    nearest = nearest.max(ratio / config.warning);
                }
                let minutes_left = used.filter(|_| ratio >= HALF).and_then(|used| {
                    let trend = trends.remove(&key).unwrap_or_default();
                    self.follow(key, trend, used, namespace, now)
                });
                let shortage = Shortage {
                    namespace,
                    key,
                    used,
                    minutes_left,
                    failures: None,
                    closers: closers.of_destination(key.netns, key.peer),
                };
                findings.extend(self.judge_destination(shortage, ratio, now));
            }
        }
        self.nearing.observe(nearest, !findings.is_empty());
        findings.sort_by_key(|finding: &Finding| Reverse(finding.severity));
        findings.truncate(FINDINGS_PER_KIND);
        findings
    }

    /// The minutes until the last port is taken.
    fn follow(
        &mut self,
        key: Destination,
        mut trend: Trend,
        used: u32,
        namespace: &Namespace,
        now: Timestamp,
    ) -> Option<f64> {
        trend.observe(now, used.into(), GROWTH_WINDOW);
        let minutes = trend.minutes_to(namespace.ports.available.into(), GROWTH_WINDOW);
        if self.trends.len() < TRENDS {
            self.trends.insert(key, trend);
        }
        minutes
    }

    fn judge_destination(
        &mut self,
        shortage: Shortage<'_>,
        ratio: f64,
        now: Timestamp,
    ) -> Option<Finding> {
        let Destination { netns, local, peer } = shortage.key;
        let id = format!("{}/{netns}/{local}/{peer}", FindingKind::EphemeralPortExhaustion.name());
        // The ports are nobody's: only what failed is known to be of a process.
        let config = self.config.of(None, peer.port);
        let by_ratio = if config.enabled {
            self.levels.judge(&id, ratio, config.warning, config.critical)
        } else {
            None
        };
        let failures = self.wanted_failures(shortage.key);
        let severity = by_ratio.max(failures.as_ref().map(|_| Severity::Critical))?;
        Some(Shortage { failures: failures.as_ref(), ..shortage }.finding(id, severity, now))
    }

    /// The failures towards a destination without those of processes for which this is switched
    /// off: they must not hide what another one suffers.
    fn wanted_failures(&self, key: Destination) -> Option<Failures> {
        let all = self.failures.get(&key)?;
        let is_wanted = |process: Option<&Process>| self.config.of(process, key.peer.port).enabled;
        let known: u64 = all.processes.iter().map(|(_, count)| count).sum();
        let nobodys = if is_wanted(None) { all.count - known } else { 0 };
        let mut processes = all.processes.clone();
        processes.retain(|(process, _)| is_wanted(Some(process)));
        let count = nobodys + processes.iter().map(|(_, count)| count).sum::<u64>();
        (count > 0).then_some(Failures { count, last: all.last, processes })
    }
}

fn part_of(used: Option<u32>, namespace: &Namespace) -> f64 {
    let available = f64::from(namespace.ports.available.max(1));
    used.map_or(0.0, |used| f64::from(used) / available)
}
