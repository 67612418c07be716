//! Tables of counts by key: see `tally.rs` of `tcpwatch-common` for their layout.

use std::{
    collections::HashMap,
    hash::Hash,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
};

use aya::Pod;
use tcpwatch_common::{TALLY_WAYS, TallyKey, TallySet, Words, mark};

use super::bpf;
use crate::facts::TableUse;

/// Sets that are read at once: 45,056 bytes at most.
const AT_A_TIME: usize = 64;

pub(super) struct TallyTable<Key, Use> {
    map: OwnedFd,
    name: &'static str,
    sets: u32,
    /// Entries that the last reading met.
    seen: u64,
    entry: PhantomData<(Key, Use)>,
}

impl<Key: TallyKey + Eq + Hash, Use: Pod + Default> TallyTable<Key, Use> {
    /// `map` is an array of so many [`TallySet`]s; `name` is the `table` label.
    pub(super) fn new(map: OwnedFd, name: &'static str, sets: u32) -> Self {
        Self { map, name, sets, seen: 0, entry: PhantomData }
    }

    /// Shows each entry. One that comes or goes meanwhile may be missed; none is shown where the map
    /// cannot be read.
    pub(super) fn for_each(&mut self, mut each: impl FnMut(Key, Use)) {
        self.seen = 0;
        let mut sets = vec![free_set::<Use>(); AT_A_TIME];
        let mut first = 0;
        while first < self.sets {
            let read = match bpf::read_entries(self.map.as_fd(), first, &mut sets) {
                Ok(read @ 1..) => read,
                Ok(0) => return,
                Err(error) => {
                    tracing::debug!(%error, table = self.name, "table not read");
                    return;
                }
            };
            for (key, used) in sets[..read].iter().flat_map(entries_of) {
                self.seen += 1;
                each(Key::from_words(key), used);
            }
            first += read as u32;
        }
    }

    /// Its entries.
    pub(super) fn read(&mut self) -> HashMap<Key, Use> {
        let mut entries = HashMap::new();
        self.for_each(|key, used| {
            entries.insert(key, used);
        });
        entries
    }

    /// How full it was when it was read last.
    pub(super) fn table_use(&self) -> TableUse {
        let limit = u64::from(self.sets) * TALLY_WAYS as u64;
        TableUse { table: self.name, entries: self.seen, limit }
    }
}

fn free_set<Use: Pod + Default>() -> TallySet<Use> {
    TallySet {
        marks: [0; TALLY_WAYS],
        used: [0; TALLY_WAYS],
        reserved: [0; 2],
        uses: [Use::default(); TALLY_WAYS],
        keys: [[0; 3]; TALLY_WAYS],
        reserved2: [0; 4],
    }
}

/// The entries of a set whose keys are whole.
fn entries_of<Use: Pod>(set: &TallySet<Use>) -> impl Iterator<Item = (Words, Use)> {
    let rows = set.marks.iter().zip(&set.keys).zip(&set.uses);
    rows.filter(|((found, key), _)| **found == mark(**key)).map(|((_, key), used)| (*key, *used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_the_key_of_two_is_left_out() {
        let mut set = free_set::<u64>();
        for (way, key) in [(0, [1, 2, 3]), (2, [4, 5, 6])] {
            set.keys[way] = key;
            set.marks[way] = mark(key);
        }
        // The mark of one CPU, a key with a word of the other's.
        set.marks[3] = mark([7, 8, 9]);
        set.keys[3] = [7, 8, 10];
        let keys: Vec<Words> = entries_of(&set).map(|(key, _)| key).collect();
        assert_eq!(keys, [[1, 2, 3], [4, 5, 6]]);
    }
}
