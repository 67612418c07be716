//! `accept-queue-overflow`: a listener does not accept fast enough.
//!
//! Signal: a queue longer than its limit; and attempts that a listener dropped (`sk_drops`) while
//! `ListenOverflows` of its namespace moved too, because a listener drops for other reasons as
//! well. Listeners that share a place (`SO_REUSEPORT`) are one.
//! Trip: `warning` or `critical` drops within `window`; a queue that two inventories in a row find
//! full.
//! Cold start: drops before the first inventory are not counted.
//! Recovery: `window` after the last drop, and the inventory that finds room.
//! Misses: a queue that fills and empties between two inventories without a drop; what a listener
//! dropped that was gone before the inventory. Drops for another reason are taken for overflows
//! while another listener of the namespace overflows.

mod place;
mod words;

use std::collections::{BTreeMap, HashMap};

use self::place::Place;
use crate::{
    config::{self, Overridable},
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{Severity, Verdict},
        over_time::{
            counter::Counter,
            level::Levels,
            moved::{Moved, Moves},
        },
    },
    facts::{Endpoint, Listener, Namespace, NetnsId},
};

/// Places whose drops are followed; the queues of further ones are looked at, but not their drops.
const PLACES: usize = 8_192;

#[derive(Debug, Default)]
pub(crate) struct AcceptQueueOverflow {
    levels: Levels,
    queues: HashMap<(NetnsId, Endpoint), Queue>,
    overflows: HashMap<NetnsId, Counter>,
}

/// What was seen of the listeners at one place.
#[derive(Clone, Debug)]
struct Queue {
    /// Their counters, summed modulo 2^32.
    drops: u32,
    /// Dropped, but not found in `ListenOverflows` yet: it is read before the listeners are.
    unconfirmed: u64,
    moved: Moved,
    was_full: bool,
}

impl Detector for AcceptQueueOverflow {
    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        self.levels.begin();
        // What has gone is forgotten.
        let mut queues_before = std::mem::take(&mut self.queues);
        let mut overflows_before = std::mem::take(&mut self.overflows);
        for namespace in &round.inventory.namespaces {
            let before = overflows_before.remove(&namespace.id);
            let overflowed = self.follow_namespace(namespace, before);
            for (local, listeners) in by_place(namespace) {
                let key = (namespace.id, local);
                let place = Place { namespace, listeners };
                let before = queues_before.remove(&key);
                let (moves, stays_full) = self.follow(key, &place, before, overflowed, round);
                let config = &round.detect.accept_queue_overflow;
                if let Some(verdict) = self.judge_place(&place, local, moves, stays_full, config) {
                    verdicts.push(verdict, moves.in_window);
                }
            }
        }
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

    /// What was dropped, and whether the queue stays full.
    fn follow(
        &mut self,
        key: (NetnsId, Endpoint),
        place: &Place<'_>,
        before: Option<Queue>,
        overflowed: Option<u64>,
        round: &Round<'_>,
    ) -> (Moves, bool) {
        let drops = place.drops();
        let mut queue = before.unwrap_or_else(|| Queue {
            drops,
            unconfirmed: 0,
            moved: Moved::default(),
            was_full: false,
        });
        let dropped = place.dropped_since(queue.drops);
        let dropped_or_unconfirmed = queue.unconfirmed.saturating_add(dropped);
        let added = match overflowed {
            // Nothing is confirmed until the counter can be read again.
            None => 0,
            Some(overflowed) if place.drops_are_told() => dropped_or_unconfirmed.min(overflowed),
            Some(overflowed) if place.is_full() => overflowed,
            Some(_) => 0,
        };
        queue.unconfirmed = match overflowed {
            None => dropped_or_unconfirmed,
            // What the next reading does not show either was dropped for another reason.
            Some(_) => dropped.min(dropped_or_unconfirmed.saturating_sub(added)),
        };
        let stays_full = queue.was_full && place.is_full();
        queue.drops = drops;
        queue.was_full = place.is_full();
        let (_, local) = key;
        let window = round.detect.accept_queue_overflow.of(place.process(), local.port).window;
        let moves = queue.moved.observe(added, window, round.now);
        if self.queues.len() < PLACES {
            self.queues.insert(key, queue);
        }
        (moves, stays_full)
    }

    fn judge_place(
        &mut self,
        place: &Place<'_>,
        local: Endpoint,
        moves: Moves,
        stays_full: bool,
        config: &Overridable<config::AcceptQueueOverflow>,
    ) -> Option<Verdict> {
        let id = format!("accept-queue-overflow/{}/{local}", place.namespace.id);
        let config = config.of(place.process(), local.port);
        if !config.enabled {
            return None;
        }
        let (warning, critical) = (config.warning as f64, config.critical as f64);
        let by_drops = self.levels.judge_moves(&id, moves, warning, critical);
        if stays_full {
            // With drops, however few, it holds for the window as well.
            self.levels.hold(&id, Severity::Warning);
        }
        let severity = by_drops.max(stays_full.then_some(Severity::Warning))?;
        words::verdict(id, severity, place, moves)
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
