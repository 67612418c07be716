//! Keeps label sets small: the largest few by name, the rest under `other`.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    hash::Hash,
};

/// Cuts gauges: the `limit` largest stay, the rest is folded into one row. Order is by size, then
/// as given.
pub(crate) fn largest<T, Size: Ord>(
    mut rows: Vec<T>,
    limit: usize,
    size: impl Fn(&T) -> Size,
    fold: impl Fn(Vec<T>) -> T,
) -> Vec<T> {
    rows.sort_by_key(|row| Reverse(size(row)));
    if rows.len() > limit {
        let rest = rows.split_off(limit);
        rows.push(fold(rest));
    }
    rows
}

/// Counters by owner: the first `limit` owners have a name for good, all later ones share one, so
/// that none of them ever falls.
#[derive(Debug)]
pub(crate) struct NamedTotals<Owner, Kind> {
    limit: usize,
    named: HashSet<Owner>,
    totals: HashMap<(Owner, Kind), u64>,
    other: Owner,
}

impl<Owner: Clone + Eq + Hash, Kind: Copy + Eq + Hash> NamedTotals<Owner, Kind> {
    pub(crate) fn new(limit: usize, other: Owner) -> Self {
        Self { limit, named: HashSet::new(), totals: HashMap::new(), other }
    }

    /// Raises or lowers the limit; who has a name keeps it.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(crate) fn add(&mut self, owner: &Owner, kind: Kind, count: u64) {
        let named = self.named.contains(owner)
            || (self.named.len() < self.limit && self.named.insert(owner.clone()));
        let owner = if named { owner.clone() } else { self.other.clone() };
        let total = self.totals.entry((owner, kind)).or_default();
        *total = total.saturating_add(count);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Owner, Kind, u64)> {
        self.totals.iter().map(|((owner, kind), total)| (owner, *kind, *total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stay_and_the_rest_is_summed() {
        let rows = vec![("a", 1), ("b", 5), ("c", 3), ("d", 2)];
        let cut = largest(rows, 2, |row| row.1, |rest| ("other", rest.iter().map(|r| r.1).sum()));
        assert_eq!(cut, [("b", 5), ("c", 3), ("other", 3)]);
    }

    #[test]
    fn an_owner_once_named_stays_named_and_other_never_falls() {
        let mut totals = NamedTotals::new(1, "other");
        totals.add(&"a", (), 1);
        totals.add(&"b", (), 100);
        totals.add(&"a", (), 1);
        let mut all: Vec<_> = totals.iter().map(|(owner, (), total)| (*owner, total)).collect();
        all.sort_unstable();
        assert_eq!(all, [("a", 2), ("other", 100)]);
    }
}
