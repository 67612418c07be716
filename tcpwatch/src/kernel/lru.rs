//! LRU tables of the kernel side, which changes them while they are read.

use std::{collections::HashMap, hash::Hash};

use aya::{
    Pod,
    maps::{HashMap as BpfHashMap, MapData},
};
use tcpwatch_common::maps::LRU_ENTRIES_PER_CPU;

/// Entries of a table on this machine: `least`, and for each CPU enough.
pub(super) fn entries(least: u32) -> u32 {
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| u32::try_from(cpus).unwrap_or(u32::MAX));
    least.max(cpus.saturating_mul(LRU_ENTRIES_PER_CPU))
}

pub(super) struct LruTable<K: Pod, V: Pod> {
    map: BpfHashMap<MapData, K, V>,
    /// Keys that are read at most. Reading begins again when the entry that it had come to is
    /// dropped for another one, and under a storm of new ones might never end.
    most: usize,
}

impl<K: Pod + Eq + Hash, V: Pod> LruTable<K, V> {
    /// `least`: see [`entries`].
    pub(super) fn new(map: BpfHashMap<MapData, K, V>, least: u32) -> Self {
        Self { map, most: 2 * entries(least) as usize }
    }

    /// What it holds; an entry that comes and goes meanwhile may be missed.
    pub(super) fn read(&self) -> HashMap<K, V> {
        self.map.iter().take(self.most).filter_map(Result::ok).collect()
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        for key in self.read().into_keys() {
            // One that has just gone is gone.
            let _ = self.map.remove(&key);
        }
    }
}
