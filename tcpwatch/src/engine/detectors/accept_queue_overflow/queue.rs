//! The memory of the accept queues at one place: drops, how long they overflow, and which
//! connection is the first of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::place::Place;
use crate::{
    engine::over_time::moved::{Moved, Moves},
    facts::Timestamp,
};

/// The listeners at one place.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    /// Their counters, summed modulo 2^32.
    drops: u32,
    /// Dropped, but not found in `ListenOverflows` yet: it is read before the listeners are.
    unconfirmed: u64,
    moved: Moved,
    /// The last look.
    looked: Timestamp,
    /// The first look of those in a row that found a queue full.
    full_since: Option<Timestamp>,
    /// The first look of those in a row that found a queue full, or drops since the look before.
    overflows_since: Option<Timestamp>,
    /// The last look that knew of an overflow for `min_age`.
    lasted_at: Option<Timestamp>,
    /// By listener.
    first: BTreeMap<u64, First>,
}

/// The connection that has waited longest: accept() returns it next, so as long as it is the same one
/// nothing was accepted.
#[derive(Clone, Copy, Debug)]
struct First {
    id: u64,
    since: Timestamp,
    /// The one before had been there for a look or more.
    after_stall: bool,
}

/// The result of a look at a place.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    pub(super) moves: Moves,
    /// Drops went on, or a queue was full, for `min_age`, within the window.
    pub(super) lasts: bool,
    /// A queue has been full for `min_age`.
    pub(super) stays_full: bool,
    /// For how long nothing was accepted at least, by listener; two looks or more.
    pub(super) stalled: BTreeMap<u64, Duration>,
    /// Listeners of which one connection or a few were accepted since such a look.
    pub(super) slow: BTreeSet<u64>,
}

impl Queue {
    pub(super) fn new(place: &Place<'_>, now: Timestamp) -> Self {
        Self {
            drops: place.drops(),
            unconfirmed: 0,
            moved: Moved::default(),
            looked: now,
            full_since: None,
            overflows_since: None,
            lasted_at: None,
            first: BTreeMap::new(),
        }
    }

    /// Takes a look. `overflowed` is how far `ListenOverflows` of the namespace has moved.
    pub(super) fn observe(
        &mut self,
        place: &Place<'_>,
        overflowed: Option<u64>,
        (window, min_age): (Duration, Duration),
        now: Timestamp,
    ) -> Course {
        let added = self.added(place, overflowed);
        let moves = self.moved.observe(added, window, now);
        let is_full = place.is_full();
        let since = |since: Option<Timestamp>, holds: bool| holds.then(|| since.unwrap_or(now));
        self.full_since = since(self.full_since, is_full);
        self.overflows_since = since(self.overflows_since, is_full || added > 0);
        // Drops came after the look before, how soon is unknown.
        let known_until = if is_full { now } else { self.looked };
        let has_lasted =
            |since: Timestamp, until: Timestamp| since < until && until.since(since) >= min_age;
        if self.overflows_since.is_some_and(|since| has_lasted(since, known_until)) {
            self.lasted_at = Some(now);
        }
        self.lasted_at = self.lasted_at.filter(|at| now.since(*at) <= window);
        self.follow_first(place, self.looked, now);
        self.looked = now;
        let stalled = self.first.iter().filter(|(_, first)| first.since < now);
        let slow = self.first.iter().filter(|(_, first)| first.since == now && first.after_stall);
        Course {
            moves,
            lasts: self.lasted_at.is_some(),
            stays_full: self.full_since.is_some_and(|since| has_lasted(since, now)),
            stalled: stalled.map(|(listener, first)| (*listener, now.since(first.since))).collect(),
            slow: slow.map(|(listener, _)| *listener).collect(),
        }
    }

    /// Drops since the last look that were overflows.
    fn added(&mut self, place: &Place<'_>, overflowed: Option<u64>) -> u64 {
        let dropped = place.dropped_since(self.drops);
        let dropped_or_unconfirmed = self.unconfirmed.saturating_add(dropped);
        let added = match overflowed {
            // Nothing is confirmed until the counter can be read again.
            None => 0,
            Some(overflowed) if place.drops_are_known() => dropped_or_unconfirmed.min(overflowed),
            Some(overflowed) if place.is_full() => overflowed,
            Some(_) => 0,
        };
        self.unconfirmed = match overflowed {
            None => dropped_or_unconfirmed,
            // A drop that the next reading does not show either had another reason.
            Some(_) => dropped.min(dropped_or_unconfirmed.saturating_sub(added)),
        };
        self.drops = place.drops();
        added
    }

    fn follow_first(&mut self, place: &Place<'_>, looked: Timestamp, now: Timestamp) {
        let before = std::mem::take(&mut self.first);
        for listener in &place.listeners {
            let Some(id) = listener.first_waiting else { continue };
            let known = before.get(&listener.id);
            let first = match known.filter(|first| first.id == id) {
                Some(same) => *same,
                None => {
                    let after_stall = known.is_some_and(|first| first.since < looked);
                    First { id, since: now, after_stall }
                }
            };
            self.first.insert(listener.id, first);
        }
    }
}
