//! Resets that were added to the kernel's counts since they were last read.
//!
//! The counts only grow, and their table has a fixed size: a row that it dropped and that has come
//! back counts from 0 again, and so does a row that is new. A service that is not mentioned has not
//! moved; one that is mentioned comes with all its rows. Two things look like new resets and are
//! none: a row that one reading missed, because the table changed under it; and a row that stands
//! under another process than last time, because the listener's owner became known, or a process
//! that has ended can be named no longer. The rates are the work of `rate` and
//! `reset_storm`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
};

use crate::facts::{NetnsId, RecordedReset, ResetCount, Role, Timestamp};

/// Rows that are followed, of 250 bytes at most: as many as `kernel/reset_totals.rs` remembers, so that
/// facts of an agent never have more. Of other facts the services that have moved longest ago are evicted,
/// and what finds no place is left out and counted.
const FOLLOWED: usize = 16_384;

/// Readings after which a row that has not grown is taken for forgotten by the kernel's reader, as
/// `kernel/reset_totals.rs` does.
const QUIET_AFTER: u64 = 120;

/// Readings that a service is known longer here than there.
const MARGIN: u64 = 10;

/// A row without its process.
type Service = (NetnsId, Role, u16, RecordedReset);

/// One process during its life; `None` where none is known.
type Holder = Option<(u32, Timestamp)>;

/// The rows of a service in one reading, each with the sum of those that count the same.
type Rows<'a> = BTreeMap<Holder, (&'a ResetCount, u64)>;

#[derive(Debug, Default)]
pub(crate) struct ResetCounts {
    /// `None` until the first reading, which only says where to count from.
    followed: Option<BTreeMap<Service, Followed>>,
    rows: usize,
    reading: u64,
    left_out: u64,
}

/// A service that is known.
#[derive(Debug, Default)]
struct Followed {
    counts: BTreeMap<Holder, Count>,
    /// The reading that mentioned it last.
    seen: u64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    count: u64,
    /// The reading that found it grown.
    grown: u64,
    /// The last reading of the service missed it. It is known for one more.
    missed: bool,
}

impl ResetCounts {
    /// How many were added to each row, those to which none were left out.
    pub(crate) fn added<'a>(&mut self, rows: &'a [ResetCount]) -> Vec<(&'a ResetCount, u64)> {
        self.reading += 1;
        let is_first = self.followed.is_none();
        let mut followed = self.followed.take().unwrap_or_default();
        let mut added = Vec::new();
        let mut new = Vec::new();
        for (service, rows) in by_service(rows) {
            match followed.get_mut(&service) {
                Some(known) => {
                    self.rows -= known.counts.len();
                    known.take(&rows, self.reading, &mut added);
                    self.rows += known.counts.len();
                }
                None => new.push((service, rows)),
            }
        }
        // The service with most resets is kept first.
        let total = |rows: &Rows<'_>| rows.values().map(|(_, count)| *count).max();
        new.sort_by_key(|(_, rows)| Reverse(total(rows)));
        let mut idle = None;
        for (service, rows) in new {
            while self.rows + rows.len() > FOLLOWED {
                let idle = idle.get_or_insert_with(|| longest_idle(&followed, self.reading));
                let Some(gone) = idle.pop_front() else { break };
                self.rows -= followed.remove(&gone).map_or(0, |gone| gone.counts.len());
            }
            if self.rows + rows.len() > FOLLOWED {
                let lost = rows.values().map(|(_, count)| *count).fold(0, u64::saturating_add);
                self.left_out = self.left_out.saturating_add(lost);
                continue;
            }
            let mut fresh = Followed::default();
            fresh.take(&rows, self.reading, &mut added);
            self.rows += fresh.counts.len();
            followed.insert(service, fresh);
        }
        self.forget(&mut followed);
        self.followed = Some(followed);
        if is_first { Vec::new() } else { added }
    }

    /// Forgets the services that the kernel's reader has forgotten for certain: were one forgotten
    /// here first, all of its resets would look new.
    fn forget(&mut self, followed: &mut BTreeMap<Service, Followed>) {
        followed.retain(|_, known| self.reading - known.seen <= QUIET_AFTER + MARGIN);
        self.rows = followed.values().map(|known| known.counts.len()).sum();
    }

    /// Resets that were dropped because the table was full, added up.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }
}

impl Followed {
    /// Takes all rows of the service.
    fn take<'a>(&mut self, rows: &Rows<'a>, reading: u64, added: &mut Vec<(&'a ResetCount, u64)>) {
        let before = std::mem::take(&mut self.counts);
        let mut gone = before
            .iter()
            .filter(|(holder, known)| {
                let is_remembered = reading - known.grown <= QUIET_AFTER;
                !known.missed && is_remembered && !rows.contains_key(holder)
            })
            .fold(0_u64, |sum, (_, known)| sum.saturating_add(known.count));
        for (holder, (row, count)) in rows {
            let known = before.get(holder);
            let base = known.map_or(0, |known| known.count);
            let rise = count.checked_sub(base).unwrap_or(*count);
            // Resets that have left another process of the same service have come to this one.
            let moved = rise.min(gone);
            gone -= moved;
            if rise > moved {
                added.push((*row, rise - moved));
            }
            let grown = known.filter(|_| rise == 0).map_or(reading, |known| known.grown);
            self.counts.insert(*holder, Count { count: *count, grown, missed: false });
        }
        for (holder, known) in before {
            if !rows.contains_key(&holder) && !known.missed {
                self.counts.insert(holder, Count { missed: true, ..known });
            }
        }
        self.seen = reading;
    }
}

/// The rows by what they count: the sum of those that count the same (processes that can no
/// longer be distinguished), with the largest of them.
fn by_service(rows: &[ResetCount]) -> BTreeMap<Service, Rows<'_>> {
    let mut services: BTreeMap<Service, Rows<'_>> = BTreeMap::new();
    for row in rows {
        let service = (row.netns, row.role, row.port, row.what);
        let holder = row.process.as_ref().map(|process| (process.pid, process.started));
        let rows = services.entry(service).or_default();
        let (largest, sum) = rows.entry(holder).or_insert((row, 0));
        *sum = sum.saturating_add(row.count);
        if row.count > largest.count {
            *largest = row;
        }
    }
    services
}

/// The services that this reading has not mentioned, the longest ago first.
fn longest_idle(followed: &BTreeMap<Service, Followed>, reading: u64) -> VecDeque<Service> {
    let mut idle: Vec<_> = followed
        .iter()
        .filter(|(_, known)| known.seen < reading)
        .map(|(service, known)| (known.seen, *service))
        .collect();
    idle.sort_unstable();
    idle.into_iter().map(|(_, service)| service).collect()
}
