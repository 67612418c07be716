//! `accept-queue-overflow`: a listener does not accept, or not fast enough.
//!
//! Signal: a queue longer than its limit; attempts that a listener dropped (`sk_drops`) while
//! `ListenOverflows` of its namespace moved too, because a listener drops for other reasons as
//! well; and a queue whose first connection stays the same, because then nothing is accepted.
//! Listeners that share a place (`SO_REUSEPORT`) are one, but each has a queue of its own.
//! Trip: `warning` or `critical` drops within `window`, info until they have gone on for `min_age`;
//! a queue that stays full for `min_age`; `waiting` connections, or half of a shorter queue, of
//! which none is accepted for `min_age`. A lasting one takes two inventories.
//! Cold start: drops before the first inventory are not counted.
//! Recovery: `window` after the last drop; the inventory that finds a place in the queue; two in a
//! row that find something accepted, or one that finds fewer than 0.9 of those that may wait.
//! Misses: a queue that fills and empties between two inventories without a drop; what a listener
//! dropped that was gone before the inventory. Drops for another reason are taken for overflows
//! while another listener of the namespace overflows.

mod place;
mod queue;
mod words;

use std::{cmp::Reverse, collections::BTreeMap};

use self::{
    place::Place,
    queue::{Course, Queue},
    words::Overflow,
};
use crate::{
    config::{self, Detect, Overridable},
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{Severity, Verdict},
        over_time::{counter::Counter, level::Levels},
    },
    facts::{Endpoint, Focus, Listener, Namespace, NetnsId},
};

/// Places whose drops are followed; the queues of further ones are looked at, but not their drops.
const PLACES: usize = 8_192;
/// Ports whose holders are requested while nothing is accepted there.
const PORTS: usize = 8;
/// Connections in a short queue that are none accepted and no finding: a process that does one thing
/// at a time has a few waiting.
const WAITING_LEAST: u64 = 10;

#[derive(Debug, Default)]
pub(crate) struct AcceptQueueOverflow {
    levels: Levels,
    queues: BTreeMap<(NetnsId, Endpoint), Queue>,
    overflows: BTreeMap<NetnsId, Counter>,
    /// Ports at which nothing is accepted, the longest queue first.
    stalled: Vec<u16>,
}

impl Detector for AcceptQueueOverflow {
    /// Asks what else is held on ports at which nothing is accepted: accepted connections tell which
    /// process serves them.
    fn focus(&self, _detect: &Detect, focus: &mut Focus) {
        focus.ports.extend(&self.stalled);
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        self.levels.begin();
        let mut stalled = Vec::new();
        // Places that have gone are forgotten.
        let mut queues_before = std::mem::take(&mut self.queues);
        let mut overflows_before = std::mem::take(&mut self.overflows);
        for namespace in &round.inventory.namespaces {
            let before = overflows_before.remove(&namespace.id);
            let overflowed = self.follow_namespace(namespace, before);
            for (local, listeners) in by_place(namespace) {
                let key = (namespace.id, local);
                let place = Place { namespace, listeners };
                let before = queues_before.remove(&key);
                let course = self.follow(key, &place, before, overflowed, round);
                let waiting = place.stalled(&course.stalled).map(|(it, _)| it.accept_queue);
                stalled.extend(waiting.map(|waiting| (Reverse(waiting), local.port)));
                let config = &round.detect.accept_queue_overflow;
                if let Some(verdict) = self.judge_place(&place, local, &course, config) {
                    verdicts.push(verdict, course.moves.in_window);
                }
            }
        }
        stalled.sort_unstable();
        stalled.dedup_by_key(|(_, port)| *port);
        self.stalled = stalled.into_iter().map(|(_, port)| port).take(PORTS).collect();
    }
}

impl AcceptQueueOverflow {
    /// How far `ListenOverflows` has moved since it was last read; `None` where that is unknown.
    fn follow_namespace(&mut self, namespace: &Namespace, before: Option<Counter>) -> Option<u64> {
        let total = namespace.netstat.as_ref().map(|netstat| netstat.listen_overflows);
        let mut counter = before.unwrap_or_default();
        let added = total.and_then(|total| counter.added(total));
        self.overflows.insert(namespace.id, counter);
        added
    }

    fn follow(
        &mut self,
        key: (NetnsId, Endpoint),
        place: &Place<'_>,
        before: Option<Queue>,
        overflowed: Option<u64>,
        round: &Round<'_>,
    ) -> Course {
        let mut queue = before.unwrap_or_else(|| Queue::new(place, round.now));
        let (_, local) = key;
        let config = round.detect.accept_queue_overflow.of(place.process(), local.port);
        let times = (config.window, config.min_age);
        let course = queue.observe(place, overflowed, times, round.now);
        if self.queues.len() < PLACES {
            self.queues.insert(key, queue);
        }
        course
    }

    fn judge_place(
        &mut self,
        place: &Place<'_>,
        local: Endpoint,
        course: &Course,
        config: &Overridable<config::AcceptQueueOverflow>,
    ) -> Option<Verdict> {
        let id = format!("accept-queue-overflow/{}/{local}", place.namespace.id);
        let config = config.of(place.process(), local.port);
        if !config.enabled {
            return None;
        }
        let (warning, critical) = (config.warning as f64, config.critical as f64);
        let by_drops = self.levels.judge_moves(&id, course.moves, warning, critical);
        // A queue that is served in seconds had a burst.
        let by_drops = by_drops.map(|it| if course.lasts { it } else { Severity::Info });
        if course.stays_full {
            // With drops, however few, it holds for the window as well.
            self.levels.hold(&id, Severity::Warning);
        }
        let is_long = |age| age >= config.min_age;
        let stalled = place.stalled(&course.stalled).filter(|(_, age)| is_long(*age));
        let waiting_id = format!("{id}/waiting");
        let stood = self.levels.is_held(&waiting_id);
        let mut is_crowded = |listener: &Listener| {
            let half = u64::from(listener.accept_limit) / 2;
            let threshold = config.waiting.min(half.max(WAITING_LEAST)) as f64;
            let waiting = f64::from(listener.accept_queue);
            self.levels.judge(&waiting_id, waiting, threshold, f64::INFINITY).is_some()
        };
        let stalled = stalled.filter(|(listener, _)| is_crowded(listener));
        let is_slow =
            stood && stalled.is_none() && place.slow(&course.slow).is_some_and(is_crowded);
        let stands = course.stays_full || stalled.is_some() || is_slow;
        let severity = by_drops.max(stands.then_some(Severity::Warning))?;
        let is_burst = severity == Severity::Info;
        Overflow { place, course, stalled, is_burst }.verdict(id, severity)
    }
}

/// The listeners of a namespace by where they listen.
fn by_place(namespace: &Namespace) -> BTreeMap<Endpoint, Vec<&Listener>> {
    let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for listener in &namespace.listeners {
        places.entry(listener.local).or_default().push(listener);
    }
    places
}
