//! What was added to the kernel's counts of resets since they were last read.
//!
//! The counts only grow, and their table has a fixed size: a row that it dropped and that has come
//! back counts from 0 again, and so does a row that is new. Two things look like new resets and are
//! none: a row that one reading missed, because the table changed under it; and a row that stands
//! under another process than last time, because who listens became known, or a process that has
//! ended can be named no longer. What the resets amount to is left to `rate` and
//! `reset_storm`.

use std::collections::BTreeMap;

use crate::facts::{NetnsId, ResetCount, Role, SeenReset, Timestamp};

/// Counts that are followed; those that find no room are left out, for they would count in full
/// with each reading. A hundred services with all their causes and processes need some thousand.
const FOLLOWED: usize = 8_192;

/// What is counted, whoever caused it.
type Service = (NetnsId, Role, u16, SeenReset);

/// One process during its life; `None` where none is known.
type Holder = Option<(u32, Timestamp)>;

#[derive(Debug, Default)]
pub(crate) struct ResetCounts {
    /// `None` until the first reading, which only says where to count from.
    followed: Option<BTreeMap<(Service, Holder), Followed>>,
}

#[derive(Clone, Copy, Debug)]
struct Followed {
    count: u64,
    /// The last reading missed it. It is known for one more.
    missed: bool,
}

impl ResetCounts {
    /// How many were added to each row, those to which none were left out.
    pub(crate) fn added<'a>(&mut self, rows: &'a [ResetCount]) -> Vec<(&'a ResetCount, u64)> {
        let rows = by_holder(rows);
        let is_first = self.followed.is_none();
        let before = self.followed.take().unwrap_or_default();
        let mut gone = gone(&before, &rows);
        let mut followed = BTreeMap::new();
        let mut added = Vec::new();
        for (key, (row, count)) in &rows {
            let known = before.get(key);
            if known.is_none() && before.len() >= FOLLOWED || followed.len() >= FOLLOWED {
                continue;
            }
            followed.insert(*key, Followed { count: *count, missed: false });
            let base = known.map_or(0, |known| known.count);
            let rise = count.checked_sub(base).unwrap_or(*count);
            // What has left another process of the same service has come to this one.
            let moved = gone.get_mut(&key.0).map_or(0, |gone| {
                let moved = rise.min(*gone);
                *gone -= moved;
                moved
            });
            if rise > moved && !is_first {
                added.push((*row, rise - moved));
            }
        }
        for (key, known) in before {
            if !rows.contains_key(&key) && !known.missed && followed.len() < FOLLOWED {
                followed.insert(key, Followed { missed: true, ..known });
            }
        }
        self.followed = Some(followed);
        added
    }
}

/// The rows by what they count, with the sum of those that count the same (processes that can be
/// told apart no longer) and the largest of them.
fn by_holder(rows: &[ResetCount]) -> BTreeMap<(Service, Holder), (&ResetCount, u64)> {
    let mut sums: BTreeMap<_, (&ResetCount, u64)> = BTreeMap::new();
    for row in rows {
        let service = (row.netns, row.role, row.port, row.what);
        let holder = row.process.as_ref().map(|process| (process.pid, process.started));
        let (largest, sum) = sums.entry((service, holder)).or_insert((row, 0));
        *sum = sum.saturating_add(row.count);
        if row.count > largest.count {
            *largest = row;
        }
    }
    sums
}

/// The counts that the last reading had and this one has not, by service.
fn gone<T>(
    before: &BTreeMap<(Service, Holder), Followed>,
    rows: &BTreeMap<(Service, Holder), T>,
) -> BTreeMap<Service, u64> {
    let mut gone = BTreeMap::new();
    for (key, known) in before {
        if !known.missed && !rows.contains_key(key) {
            let sum: &mut u64 = gone.entry(key.0).or_default();
            *sum = sum.saturating_add(known.count);
        }
    }
    gone
}
