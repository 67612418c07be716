//! `ephemeral-port-exhaustion`: a destination is near the end of its local ports.
//!
//! Signal: ports taken for one (source, destination, destination port) against those that
//! `ip_local_port_range` has less the reserved ones; and connect() that failed with EADDRNOTAVAIL,
//! which shows as CLOSE -> SYN_SENT -> CLOSE without a source port. A socket's own range that is
//! used up, and a bound socket whose two ends are taken, are findings of their own (`apart`). Ports
//! that bind() has taken are taken for every destination: where they are so many they are one
//! finding of the namespace, and no destination has one of its own.
//! Trip: a part of the usable ports; critical when a connect() has failed within `window`. From 0.8
//! of the warning on the programs that close the connections are counted, see `closers`.
//! Cold start: none; the ports are counted, not their rate. The minutes to the last port need a
//! minute of growth.
//! Recovery: below 0.9 of the threshold, and `window` after the last failure.
//! Misses: ports of sockets that are bound but neither listen nor are connected are in no table
//! that the inventory walks, and of many busy destinations the inventory names 32 and the worst; a
//! real failure outranks the count.

mod apart;
mod failures;
mod pinned;
mod remedies;
mod verdict;
mod words;

use std::{collections::BTreeMap, time::Duration};

use self::{
    apart::{Apart, Cause},
    failures::Failures,
    pinned::Pinned,
    words::Shortage,
};
use crate::{
    config::{self, Detect, Overridable},
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{FindingKind, Severity, Verdict},
        groups::destinations::{Destination, key_of},
        observers::closers::Nearing,
        over_time::{level::Levels, trend::Trend},
    },
    facts::{ConnectFailure, Event, Focus, Namespace, NetnsId, Process, StateCounts, Timestamp},
};

/// Destinations whose failures are remembered.
const DESTINATIONS: usize = 256;
/// Destinations whose growth is followed, of those that have half of their ports.
const TRENDS: usize = 256;
/// From this part of the ports on growth is followed.
const HALF: f64 = 0.5;
/// The time over which growth is taken: twice the life of TIME_WAIT, so that the rise that comes
/// with a new load and ends when its first ports are free again does not count for long.
const GROWTH_WINDOW: Duration = Duration::from_secs(120);
#[derive(Debug, Default)]
pub(crate) struct EphemeralPortExhaustion {
    levels: Levels,
    failures: BTreeMap<Destination, Failures>,
    /// Failures that are no lack of ports of the namespace.
    apart: BTreeMap<(Destination, Cause), Failures>,
    trends: BTreeMap<Destination, Trend>,
    nearing: Nearing,
}

impl Detector for EphemeralPortExhaustion {
    fn handle_event(&mut self, event: &Event, _detect: &Detect) {
        let Event::ConnectFailed { at, netns, local, peer, reason, no_connect, process, .. } =
            event
        else {
            return;
        };
        let key = Destination { netns: *netns, local: local.address, peer: *peer };
        if let Some(cause) = Cause::of(*reason, *no_connect, *local) {
            let key = (key, cause);
            if self.apart.contains_key(&key) || self.apart.len() < DESTINATIONS {
                self.apart.entry(key).or_default().add(*at, process.as_ref());
            }
        } else if *reason == ConnectFailure::NoLocalPort
            && (self.failures.contains_key(&key) || self.failures.len() < DESTINATIONS)
        {
            self.failures.entry(key).or_default().add(*at, process.as_ref());
        }
    }

    fn focus(&self, _detect: &Detect, focus: &mut Focus) {
        self.nearing.add_to(focus);
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let Round { inventory, now, closers, .. } = *round;
        let config = &round.detect.ephemeral_port_exhaustion;
        self.levels.begin();
        let is_recent = |destination: &Destination, failures: &Failures| {
            let config = config.of(failures.worst_process(), destination.peer.port);
            now.since(failures.last) <= round.window(config.window, failures.last)
        };
        self.failures.retain(|destination, failures| is_recent(destination, failures));
        self.apart.retain(|(destination, _), failures| is_recent(destination, failures));
        let mut trends = std::mem::take(&mut self.trends);
        let mut nearness = Vec::new();
        for namespace in &inventory.namespaces {
            self.judge_apart(namespace, config, verdicts);
            if let Some(verdict) = self.judge_pinned(namespace, config) {
                verdicts.push(verdict, namespace.ports.pinned.into());
                continue;
            }
            let mut used: BTreeMap<Destination, Option<(u32, Option<StateCounts>)>> =
                BTreeMap::new();
            // The worst need not be among the busy: those are the first, not the largest.
            for destination in namespace.ports.worst.iter().chain(&namespace.ports.busy) {
                let taken = Some((destination.used, destination.states));
                used.insert(key_of(namespace, destination), taken);
            }
            for key in self.failures.keys().filter(|key| key.netns == namespace.id) {
                used.entry(*key).or_default();
            }
            let (mut nearest, mut found) = (0.0_f64, false);
            for (key, taken) in used {
                let (used, states) = taken.map_or((None, None), |(used, it)| (Some(used), it));
                let ratio = part_of(used, namespace);
                let thresholds = config.of(None, key.peer.port);
                if thresholds.enabled {
                    nearest = nearest.max(ratio / thresholds.warning);
                }
                let minutes_left = used.filter(|_| ratio >= HALF).and_then(|used| {
                    let trend = trends.remove(&key).unwrap_or_default();
                    self.follow(key, trend, used, namespace, now)
                });
                let shortage = Shortage {
                    namespace,
                    key,
                    used,
                    states,
                    minutes_left,
                    failures: None,
                    closers: closers.of_destination(key.netns, key.peer),
                };
                if let Some(verdict) = self.judge_destination(shortage, ratio, config) {
                    found = true;
                    verdicts.push(verdict, used.unwrap_or_default().into());
                }
            }
            nearness.push((namespace.id, nearest, found));
        }
        self.nearing.observe(nearness);
    }
}

impl EphemeralPortExhaustion {
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

    /// The findings of connects that fail although the namespace has ports.
    fn judge_apart(
        &self,
        namespace: &Namespace,
        config: &Overridable<config::EphemeralPortExhaustion>,
        verdicts: &mut Verdicts<'_>,
    ) {
        for ((key, cause), failures) in &self.apart {
            let Some(failures) = judged(failures, *key, config) else { continue };
            if key.netns == namespace.id {
                let apart = Apart { namespace, key: *key, cause: *cause, failures: &failures };
                verdicts.push(apart.verdict(), failures.count);
            }
        }
    }

    /// The finding of ports that are taken for every destination. While it stands, what fails in the
    /// namespace fails for it.
    fn judge_pinned(
        &mut self,
        namespace: &Namespace,
        config: &Overridable<config::EphemeralPortExhaustion>,
    ) -> Option<Verdict> {
        // It is of no port and no process, so no override is of it.
        let thresholds = config.of(None, 0);
        if !thresholds.enabled {
            return None;
        }
        let id = format!("{}/{}/pinned", FindingKind::EphemeralPortExhaustion.name(), namespace.id);
        let ratio = part_of(Some(namespace.ports.pinned), namespace);
        let by_ratio = self.levels.judge(&id, ratio, thresholds.warning, thresholds.critical)?;
        let failures = self.failures_in(namespace.id, config);
        let severity = by_ratio.max(failures.as_ref().map_or(by_ratio, |_| Severity::Critical));
        let pinned = Pinned { namespace, failures: failures.as_ref() };
        Some(verdict::of_pinned(&pinned, id, severity))
    }

    /// The failures in a namespace, towards any destination.
    fn failures_in(
        &self,
        netns: NetnsId,
        config: &Overridable<config::EphemeralPortExhaustion>,
    ) -> Option<Failures> {
        let here = self.failures.keys().filter(|key| key.netns == netns);
        let each = here.filter_map(|key| judged(self.failures.get(key)?, *key, config));
        each.reduce(|mut sum, other| {
            sum.merge(&other);
            sum
        })
    }

    fn judge_destination(
        &mut self,
        shortage: Shortage<'_>,
        ratio: f64,
        config: &Overridable<config::EphemeralPortExhaustion>,
    ) -> Option<Verdict> {
        let Destination { netns, local, peer } = shortage.key;
        let id = format!("{}/{netns}/{local}/{peer}", FindingKind::EphemeralPortExhaustion.name());
        // Ports have no owning process; only the failures are known to be of a process.
        let thresholds = config.of(None, peer.port);
        let by_ratio = if thresholds.enabled {
            self.levels.judge(&id, ratio, thresholds.warning, thresholds.critical)
        } else {
            None
        };
        let failures = self.failures.get(&shortage.key);
        let failures = failures.and_then(|all| judged(all, shortage.key, config));
        let severity = by_ratio.max(failures.as_ref().map(|_| Severity::Critical))?;
        let shortage = Shortage { failures: failures.as_ref(), ..shortage };
        Some(verdict::of_destination(&shortage, id, severity))
    }
}

/// The failures towards a destination without those of processes for which this is switched off:
/// they must not hide what another one suffers.
fn judged(
    all: &Failures,
    key: Destination,
    config: &Overridable<config::EphemeralPortExhaustion>,
) -> Option<Failures> {
    let is_judged = |process: Option<&Process>| config.of(process, key.peer.port).enabled;
    let known: u64 = all.processes.iter().map(|(_, count)| count).sum();
    let unnamed = if is_judged(None) { all.count - known } else { 0 };
    let mut processes = all.processes.clone();
    processes.retain(|(process, _)| is_judged(Some(process)));
    let count = unnamed + processes.iter().map(|(_, count)| count).sum::<u64>();
    (count > 0).then_some(Failures { count, last: all.last, processes })
}

fn part_of(used: Option<u32>, namespace: &Namespace) -> f64 {
    let available = f64::from(namespace.ports.available.max(1));
    used.map_or(0.0, |used| f64::from(used) / available)
}
