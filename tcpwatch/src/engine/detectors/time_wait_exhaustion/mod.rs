//! `time-wait-exhaustion`: TIME_WAIT near its limit.
//!
//! Signal: minisockets of a namespace (TIME_WAIT and orphaned FIN_WAIT2) against its
//! `tcp_max_tw_buckets`, and `TCPTimeWaitOverflow`.
//! Trip: a part of the limit, or the overflow counter that has moved within `window`. It is info
//! while nothing fails: what the kernel does at the limit, to destroy a socket early, breaks no
//! connection, and a small host that closes 81 connections a second is there all day. A warning
//! where TIME_WAIT takes the ports of a destination that nears its last; beyond that only while
//! connect() finds none. From 0.8 of the warning on the closing programs are counted, see
//! `closers`.
//! Cold start: overflows before the first inventory are not counted. The minutes to the limit need
//! a minute of growth.
//! Recovery: below 0.9 of the threshold, and `window` after the last overflow.
//! Misses: nothing of what the kernel counts; the programs that closed before they were counted.

mod harm;
mod words;

use std::{collections::BTreeMap, time::Duration};

use self::{harm::Failures, words::Crowd};
use crate::{
    config::{self, Detect},
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{FindingKind, Severity, Verdict},
        observers::closers::Nearing,
        over_time::{counter::Counter, level::Levels, moved::Moved, trend::Trend},
    },
    facts::{Event, Focus, Namespace, NetnsId, TimeWaitUse, Timestamp},
};

/// From this part of the limit on growth is followed.
const HALF: f64 = 0.5;
/// The time over which growth is taken: twice the life of TIME_WAIT, so that the rise that comes
/// with a new load, and ends after 60 s, does not count for long.
const GROWTH_WINDOW: Duration = Duration::from_secs(120);
#[derive(Debug, Default)]
pub(crate) struct TimeWaitExhaustion {
    levels: Levels,
    overflows: BTreeMap<NetnsId, Overflows>,
    /// Growth, of those that hold half of their limit.
    trends: BTreeMap<NetnsId, Trend>,
    nearing: Nearing,
    failures: Failures,
}

/// The overflow counter of a namespace.
#[derive(Clone, Debug, Default)]
struct Overflows {
    counter: Counter,
    moved: Moved,
}

impl Detector for TimeWaitExhaustion {
    fn handle_event(&mut self, event: &Event, _detect: &Detect) {
        self.failures.handle_event(event);
    }

    fn focus(&self, detect: &Detect, focus: &mut Focus) {
        if detect.time_wait_exhaustion.enabled {
            self.nearing.add_to(focus);
        }
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let Round { inventory, now, closers, .. } = *round;
        let config = &round.detect.time_wait_exhaustion;
        self.levels.begin();
        self.failures.forget(|last| now.since(last) > round.window(config.window, last));
        // Namespaces that have gone are forgotten.
        let mut before = std::mem::take(&mut self.overflows);
        let mut trends = std::mem::take(&mut self.trends);
        let mut nearness = Vec::new();
        for namespace in &inventory.namespaces {
            let overflowed =
                self.follow(namespace, before.remove(&namespace.id), config.window, now);
            if !config.enabled {
                continue;
            }
            let TimeWaitUse { used, limit } = namespace.time_wait;
            // Without a limit, and with a limit of 0, there is no ratio; the counter moves all the
            // same.
            let limit = limit.filter(|limit| *limit > 0);
            let ratio = limit.map(|limit| used as f64 / limit as f64);
            let minutes_left = limit.filter(|_| ratio >= Some(HALF)).and_then(|limit| {
                let mut trend = trends.remove(&namespace.id).unwrap_or_default();
                trend.observe(now, used, GROWTH_WINDOW);
                let minutes = trend.minutes_to(limit, GROWTH_WINDOW);
                self.trends.insert(namespace.id, trend);
                minutes
            });
            let closers = closers.of_namespace(namespace.id);
            let harm = self.failures.harm(namespace, &round.detect.ephemeral_port_exhaustion);
            let crowd = Crowd { namespace, ratio, overflowed, minutes_left, harm, closers };
            let verdict = self.judge_namespace(&crowd, config);
            let part = ratio.unwrap_or_default() / config.warning;
            nearness.push((namespace.id, part, verdict.is_some()));
            if let Some(verdict) = verdict {
                verdicts.push(verdict, used);
            }
        }
        self.nearing.observe(nearness);
    }
}

impl TimeWaitExhaustion {
    /// How many overflows there were since the counter was last still for a `window`; 0 while it is.
    fn follow(
        &mut self,
        namespace: &Namespace,
        before: Option<Overflows>,
        window: Duration,
        now: Timestamp,
    ) -> u64 {
        let read = namespace.netstat.as_ref().map(|netstat| netstat.time_wait_overflows);
        let mut overflows = before.unwrap_or_default();
        // A counter that could not be read this once is taken not to have moved.
        let added = read.and_then(|total| overflows.counter.added(total)).unwrap_or(0);
        let sum = overflows.moved.observe(added, window, now).total;
        self.overflows.insert(namespace.id, overflows);
        sum
    }

    fn judge_namespace(
        &mut self,
        crowd: &Crowd<'_>,
        config: &config::TimeWaitExhaustion,
    ) -> Option<Verdict> {
        let id = format!("{}/{}", FindingKind::TimeWaitExhaustion.name(), crowd.namespace.id);
        let by_ratio = crowd
            .ratio
            .and_then(|ratio| self.levels.judge(&id, ratio, config.warning, config.critical));
        let by_overflow = (crowd.overflowed > 0).then_some(Severity::Critical);
        let severity = by_ratio.max(by_overflow)?;
        Some(crowd.verdict(id, severity.min(crowd.harm.most())))
    }
}
