//! Counters by owner: the largest of now have a name, all others share `other`.
//!
//! `other` never falls: an owner that loses its name adds its total to `other` once, and its series
//! ends. One that gets its name back begins at 0, which Prometheus takes for the restart of a
//! counter. So the sum over all series is what was added, at any time. A free place goes to the
//! first owner that comes. A taken one changes hands only at the end of a round (an inventory), to
//! an owner that has grown in several rounds and by a multiple of what the smallest named one has
//! grown lately: thousands of names that live for one round displace nothing, and two of equal size
//! do not alternate. Memory is bounded, however many owners there are.

use std::collections::{BTreeMap, btree_map::Entry};

/// Part of a growth that is left after a round: most of a sum over the last ten.
const KEPT: f64 = 7.0 / 8.0;
/// Rounds in which an owner must have grown before it displaces another one.
const ROUNDS: u32 = 3;
/// How many times as much it must have grown lately.
const LEAD: f64 = 2.0;
/// Growth that is as good as none: that of one event after 50 rounds.
const FORGOTTEN: f64 = 0.001;
/// Rounds that an owner may be away before its series ends: a minute of the default interval, so
/// that one inventory that could not enter a namespace ends nothing.
const GONE_AFTER: u32 = 12;
/// Candidates that are remembered at most. A scan over them for each new one stays cheap.
const MOST_CANDIDATES: usize = 512;

/// Totals of `Kind` by `Owner`.
#[derive(Debug)]
pub(super) struct NamedTotals<Owner, Kind> {
    limit: usize,
    named: BTreeMap<Owner, Named<Kind>>,
    candidates: BTreeMap<Owner, Candidate>,
    other: Owner,
    others: BTreeMap<Kind, u64>,
    /// Never displaced.
    pinned: Option<Owner>,
    /// Rounds without growth after which a series ends.
    idle_after: Option<u32>,
}

#[derive(Debug)]
struct Named<Kind> {
    totals: BTreeMap<Kind, u64>,
    /// Sum of what was added lately.
    recent: f64,
    idle: u32,
    away: u32,
}

/// An owner without a name that has grown. The table is a "space-saving" sketch: a new one takes
/// the place of the smallest and inherits its size as an error, so an owner that grows much is
/// always in it (Metwally, Agrawal and El Abbadi 2005).
#[derive(Clone, Copy, Debug, Default)]
struct Candidate {
    recent: f64,
    /// How much of `recent` may be another one's.
    error: f64,
    rounds: u32,
    grew: bool,
}

impl<Owner: Clone + Ord, Kind: Copy + Ord> NamedTotals<Owner, Kind> {
    pub(super) fn new(limit: usize, other: Owner) -> Self {
        Self {
            limit,
            named: BTreeMap::new(),
            candidates: BTreeMap::new(),
            other,
            others: BTreeMap::new(),
            pinned: None,
            idle_after: None,
        }
    }

    /// This owner keeps its name.
    pub(super) fn pin(mut self, owner: Owner) -> Self {
        self.pinned = Some(owner);
        self
    }

    /// The series of an owner that has not grown for so many rounds ends.
    pub(super) fn idle_after(mut self, rounds: u32) -> Self {
        self.idle_after = Some(rounds);
        self
    }

    /// Raises or lowers the limit; an owner beyond it loses its name with the next round.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Adds to a total. 0 makes the series of an owner that has a name, or finds a free place.
    pub(super) fn add(&mut self, owner: &Owner, kind: Kind, count: u64) {
        let is_pinned = self.pinned.as_ref() == Some(owner);
        let has_place = self.named.len() < self.limit || is_pinned;
        if *owner != self.other && has_place && !self.named.contains_key(owner) {
            self.name(owner.clone(), 0.0);
        }
        match self.named.get_mut(owner) {
            Some(named) => {
                raise(&mut named.totals, kind, count);
                named.recent += count as f64;
                if count > 0 {
                    named.idle = 0;
                }
            }
            None if count == 0 => {}
            None => {
                raise(&mut self.others, kind, count);
                if *owner != self.other {
                    self.remember(owner, count as f64);
                }
            }
        }
    }

    /// Ends a round: an owner that is gone loses its name, then the larger displace the smaller.
    pub(super) fn end_round(&mut self, is_there: impl Fn(&Owner) -> bool) {
        let mut lost = Vec::new();
        for (owner, named) in &mut self.named {
            named.idle = named.idle.saturating_add(1);
            named.away = if is_there(owner) { 0 } else { named.away.saturating_add(1) };
            let is_idle = self.idle_after.is_some_and(|rounds| named.idle > rounds);
            if (is_idle || named.away >= GONE_AFTER) && self.pinned.as_ref() != Some(owner) {
                lost.push(owner.clone());
            }
        }
        lost.iter().for_each(|owner| self.fold(owner));
        while self.named.len() > self.limit {
            let Some((owner, _)) = self.smallest() else { break };
            self.fold(&owner);
        }
        self.promote();
        for named in self.named.values_mut() {
            named.recent *= KEPT;
        }
        for candidate in self.candidates.values_mut() {
            candidate.recent *= KEPT;
            candidate.error *= KEPT;
            candidate.grew = false;
        }
        self.candidates.retain(|_, candidate| candidate.recent > FORGOTTEN);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Owner, Kind, u64)> {
        let named = self.named.iter().flat_map(|(owner, named)| {
            named.totals.iter().map(move |(kind, total)| (owner, *kind, *total))
        });
        named.chain(self.others.iter().map(|(kind, total)| (&self.other, *kind, *total)))
    }

    /// Gives names to the largest candidates: free places first, then those of smaller owners.
    fn promote(&mut self) {
        let certain = |candidate: &Candidate| candidate.recent - candidate.error;
        let mut candidates: Vec<_> = self
            .candidates
            .iter()
            .map(|(owner, it)| (certain(it), it.rounds, owner.clone()))
            .collect();
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.2.cmp(&b.2)));
        for (recent, rounds, owner) in candidates {
            if self.named.len() >= self.limit {
                if rounds < ROUNDS {
                    continue;
                }
                let Some((smallest, size)) = self.smallest() else { break };
                if recent <= LEAD * size.max(FORGOTTEN) {
                    break;
                }
                self.fold(&smallest);
            }
            self.name(owner, recent);
        }
    }

    fn name(&mut self, owner: Owner, recent: f64) {
        self.candidates.remove(&owner);
        let named = Named { totals: BTreeMap::new(), recent, idle: 0, away: 0 };
        self.named.insert(owner, named);
    }

    /// Takes the name away: the total goes to `other`, once.
    fn fold(&mut self, owner: &Owner) {
        for (kind, total) in self.named.remove(owner).map(|named| named.totals).unwrap_or_default()
        {
            if total > 0 {
                raise(&mut self.others, kind, total);
            }
        }
    }

    /// The named owner that has grown least lately.
    fn smallest(&self) -> Option<(Owner, f64)> {
        self.named
            .iter()
            .filter(|(owner, _)| self.pinned.as_ref() != Some(owner))
            .min_by(|(a, one), (b, other)| one.recent.total_cmp(&other.recent).then(a.cmp(b)))
            .map(|(owner, named)| (owner.clone(), named.recent))
    }

    fn remember(&mut self, owner: &Owner, count: f64) {
        let most = (2 * self.limit + 64).min(MOST_CANDIDATES);
        let is_full = self.candidates.len() >= most;
        if let Entry::Occupied(mut known) = self.candidates.entry(owner.clone()) {
            known.get_mut().grow(count);
            return;
        }
        let mut new = Candidate::default();
        if is_full {
            let smallest = self
                .candidates
                .iter()
                .min_by(|(a, one), (b, other)| one.recent.total_cmp(&other.recent).then(a.cmp(b)))
                .map(|(owner, candidate)| (owner.clone(), candidate.recent));
            if let Some((smallest, recent)) = smallest {
                self.candidates.remove(&smallest);
                new = Candidate { recent, error: recent, ..new };
            }
        }
        new.grow(count);
        self.candidates.insert(owner.clone(), new);
    }
}

impl Candidate {
    fn grow(&mut self, count: f64) {
        self.recent += count;
        if !self.grew {
            self.grew = true;
            self.rounds = self.rounds.saturating_add(1);
        }
    }
}

fn raise<Kind: Ord>(totals: &mut BTreeMap<Kind, u64>, kind: Kind, count: u64) {
    let total = totals.entry(kind).or_default();
    *total = total.saturating_add(count);
}

#[cfg(test)]
mod tests;
