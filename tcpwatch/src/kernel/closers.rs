//! Processes that close connections first: the kernel side's tables, as facts.
//!
//! A table has an entry for each program (by name) and service, with the process that closed first.
//! Entries that stand still are removed, so that others find a place. Entries whose process has
//! ended are removed too: the next close names one that lives. The counts handed on still only
//! grow.

use std::collections::{BTreeSet, HashMap};

use aya::maps::{HashMap as BpfHashMap, MapData};
use tcpwatch_common::{Closer, CloserUse, maps};

use super::{namespaces::NetnsIds, process::start_ticks};
use crate::facts::{NetnsId, TableUse, Timestamp};

/// How long an entry may stand still: as long as TIME_WAIT lasts. An older close has left
/// no socket.
const QUIET_NS: u64 = 60_000_000_000;

pub(super) struct ClosersTable {
    /// By service, and by program only for what found no place there.
    tables: [Table; 2],
    ids: NetnsIds,
}

struct Table {
    map: BpfHashMap<MapData, Closer, CloserUse>,
    known: HashMap<Closer, Count>,
}

/// The count of one entry, kept over its removals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) count: u64,
    /// By other processes than `tgid`.
    pub(super) others: u64,
    pub(super) since_ns: u64,
    pub(super) tgid: u32,
    /// As the entry was read last; zeros where it has been removed since.
    read: (u64, u64),
    moved_ns: u64,
}

impl ClosersTable {
    pub(super) fn new(
        closers: BpfHashMap<MapData, Closer, CloserUse>,
        elsewhere: BpfHashMap<MapData, Closer, CloserUse>,
        ids: NetnsIds,
    ) -> Self {
        let tables = [closers, elsewhere].map(|map| Table { map, known: HashMap::new() });
        Self { tables, ids }
    }

    /// The counts.
    pub(super) fn read(&mut self, now: Timestamp) -> Vec<(NetnsId, Closer, Count)> {
        let ids = self.ids;
        let netns = |closer: &Closer| ids.of_event(closer.netns_cookie, closer.netns);
        let counts = self.tables.iter_mut().flat_map(|table| table.read(now.as_ns()));
        counts.map(|(closer, count)| (netns(&closer), closer, count)).collect()
    }

    /// Forgets other namespaces: their counts are stale when they are requested again.
    pub(super) fn forget_beside(&mut self, requested: &BTreeSet<NetnsId>) {
        let ids = self.ids;
        let is_requested =
            |closer: &Closer| requested.contains(&ids.of_event(closer.netns_cookie, closer.netns));
        for table in &mut self.tables {
            table.forget_unless(is_requested);
        }
    }

    /// How full the tables are.
    pub(super) fn table_use(&self) -> [TableUse; 2] {
        let [closers, elsewhere] = &self.tables;
        let of = |table: &Table, name, limit: u32| TableUse {
            table: name,
            entries: table.known.len() as u64,
            limit: limit.into(),
        };
        [
            of(closers, "closers", maps::CLOSERS_LIMIT),
            of(elsewhere, "closers_elsewhere", maps::CLOSERS_ELSEWHERE_LIMIT),
        ]
    }
}

impl Table {
    /// Nothing but this removes an entry, so a reading meets each that was there when it began.
    fn read(&mut self, now_ns: u64) -> Vec<(Closer, Count)> {
        let entries: Vec<_> = self.map.iter().filter_map(Result::ok).collect();
        for (closer, entry) in entries {
            let count = Count::after(self.known.get(&closer), &entry, now_ns);
            let is_quiet = now_ns.saturating_sub(count.moved_ns) > QUIET_NS;
            let has_ended = start_ticks(entry.tgid).is_none();
            // Between the reading and this a close may go uncounted.
            let is_removed = (is_quiet || has_ended) && self.map.remove(&closer).is_ok();
            if is_quiet && is_removed {
                self.known.remove(&closer);
            } else {
                let read = if is_removed { (0, 0) } else { count.read };
                self.known.insert(closer, Count { read, ..count });
            }
        }
        // Of what was removed for its process, what has not come back.
        self.known.retain(|_, count| {
            count.read != (0, 0) || now_ns.saturating_sub(count.moved_ns) <= QUIET_NS
        });
        self.known.iter().map(|(closer, count)| (*closer, *count)).collect()
    }

    fn forget_unless(&mut self, is_kept: impl Fn(&Closer) -> bool) {
        let gone: Vec<Closer> =
            self.map.keys().filter_map(Result::ok).filter(|closer| !is_kept(closer)).collect();
        for closer in gone {
            // One that is gone need not go.
            let _ = self.map.remove(&closer);
        }
        self.known.retain(|closer, _| is_kept(closer));
    }
}

impl Count {
    fn after(known: Option<&Self>, entry: &CloserUse, now_ns: u64) -> Self {
        let &CloserUse { count, others, since_ns, tgid, .. } = entry;
        let read = (count, others);
        let Some(known) = known else {
            return Self { count, others, since_ns, tgid, read, moved_ns: now_ns };
        };
        let added = count.saturating_sub(known.read.0);
        let of_others = others.saturating_sub(known.read.1);
        let before_others = if known.tgid == tgid { known.others } else { known.count };
        Self {
            count: known.count + added,
            others: before_others + of_others,
            since_ns: known.since_ns,
            tgid,
            read,
            moved_ns: if added > 0 { now_ns } else { known.moved_ns },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(count: u64, others: u64, tgid: u32) -> CloserUse {
        CloserUse { count, others, since_ns: 5, tgid, reserved: 0 }
    }

    #[test]
    fn counts_grow_over_a_removal_and_another_process_makes_the_first_one_of_the_others() {
        let first = Count::after(None, &entry(7, 2, 10), 100);
        assert_eq!((first.count, first.others, first.moved_ns), (7, 2, 100));
        let second = Count::after(Some(&first), &entry(9, 3, 10), 200);
        assert_eq!((second.count, second.others, second.moved_ns), (9, 3, 200));
        let still = Count::after(Some(&second), &entry(9, 3, 10), 300);
        assert_eq!((still.count, still.moved_ns), (9, 200));
        // Process 10 has ended and its entry was removed; another begins one.
        let removed = Count { read: (0, 0), ..still };
        let other = Count::after(Some(&removed), &entry(4, 1, 11), 400);
        assert_eq!((other.count, other.others, other.tgid, other.since_ns), (13, 10, 11, 5));
    }
}
