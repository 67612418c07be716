//! LRU tables of the kernel side, which changes them while they are read.

use std::{collections::HashMap, hash::Hash};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, MapData},
};
use tcpwatch_common::maps::{LRU_ENTRIES_MOST, LRU_ENTRIES_PER_CPU};

use crate::facts::TableUse;

/// Entries of a table on this machine: `least`, and for each CPU that is online enough, up to a
/// bound. Possible CPUs are no measure: a virtual machine announces hundreds that never come.
pub(super) fn entries(least: u32) -> u32 {
    let cpus = aya::util::online_cpus().map_or(1, |cpus| cpus.len());
    entries_with(least, u32::try_from(cpus).unwrap_or(u32::MAX))
}

/// Entries on a machine with so many CPUs online.
pub(super) fn entries_with(least: u32, cpus: u32) -> u32 {
    least.max(cpus.saturating_mul(LRU_ENTRIES_PER_CPU)).min(LRU_ENTRIES_MOST)
}

pub(super) struct LruTable<K: Pod, V: Pod> {
    map: BpfHashMap<MapData, K, V>,
    name: &'static str,
    entries: u32,
    /// Entries that the last reading met.
    seen: u64,
}

impl<K: Pod + Eq + Hash, V: Pod> LruTable<K, V> {
    /// `name`: the `table` label; `least`: see [`entries`].
    pub(super) fn new(map: BpfHashMap<MapData, K, V>, name: &'static str, least: u32) -> Self {
        Self { map, name, entries: entries(least), seen: 0 }
    }

    /// Shows each entry. One that comes and goes meanwhile may be missed, and one may be shown
    /// twice: reading begins again when the entry that it had come to is dropped for another one.
    /// Under a storm of new ones that might never end, so it has a bound.
    pub(super) fn for_each(&mut self, mut each: impl FnMut(K, V)) {
        let most = 2 * self.entries as usize;
        let mut seen = 0;
        for (key, value) in self.map.iter().take(most).filter_map(Result::ok) {
            seen += 1;
            each(key, value);
        }
        self.seen = seen.min(u64::from(self.entries));
    }

    /// Its entries.
    pub(super) fn read(&mut self) -> HashMap<K, V> {
        let mut entries = HashMap::new();
        self.for_each(|key, value| {
            entries.insert(key, value);
        });
        entries
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        for key in self.read().into_keys() {
            // One that has just gone is gone.
            let _ = self.map.remove(&key);
        }
        self.seen = 0;
    }

    /// How full it was when it was read last.
    pub(super) fn table_use(&self) -> TableUse {
        TableUse { table: self.name, entries: self.seen, limit: u64::from(self.entries) }
    }
}
