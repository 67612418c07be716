//! How full the kernel side's tables of notes are.
//!
//! A count of what enters and leaves them would go wrong for good when two CPUs write one slot at
//! once. So the slots are looked at in turn, some with each inventory.

use aya::{
    Pod,
    maps::{Array, MapData},
};
use tcpwatch_common::{
    CLOSE_WAIT_SETS, CLOSE_WAIT_WAYS, CONNECT_SETS, CONNECT_WAYS, CloseWaitSet, ConnectSet,
};

use crate::facts::TableUse;

/// Slots of each table that are looked at with one inventory: one system call for each, so half a
/// millisecond. A table is looked through in eight inventories.
const AT_A_TIME: u32 = 512;

/// The two tables.
pub(super) struct NoteTables {
    connects: NoteTable<ConnectSet>,
    close_wait: NoteTable<CloseWaitSet>,
}

struct NoteTable<Set: Pod> {
    map: Array<MapData, Set>,
    /// Notes in each slot when it was looked at last.
    used: Vec<u8>,
    next: u32,
}

impl NoteTables {
    pub(super) fn new(
        connects: Array<MapData, ConnectSet>,
        close_wait: Array<MapData, CloseWaitSet>,
    ) -> Self {
        Self {
            connects: NoteTable::new(connects, CONNECT_SETS),
            close_wait: NoteTable::new(close_wait, CLOSE_WAIT_SETS),
        }
    }

    /// Looks at the next slots.
    pub(super) fn look(&mut self) {
        self.connects.look(|set| in_use(&set.sks));
        self.close_wait.look(|set| set.halves.iter().map(|half| in_use(&half.sks)).sum());
    }

    pub(super) fn table_use(&self) -> [TableUse; 2] {
        [
            self.connects.table_use("connect_notes", CONNECT_WAYS),
            self.close_wait.table_use("close_wait_notes", 2 * CLOSE_WAIT_WAYS),
        ]
    }
}

impl<Set: Pod> NoteTable<Set> {
    fn new(map: Array<MapData, Set>, sets: u32) -> Self {
        Self { map, used: vec![0; sets as usize], next: 0 }
    }

    fn look(&mut self, in_use: impl Fn(&Set) -> u8) {
        let sets = self.used.len() as u32;
        for _ in 0..AT_A_TIME {
            // A slot that cannot be read keeps its number.
            if let Ok(set) = self.map.get(&self.next, 0) {
                self.used[self.next as usize] = in_use(&set);
            }
            self.next = (self.next + 1) % sets;
        }
    }

    fn table_use(&self, table: &'static str, ways: usize) -> TableUse {
        let entries = self.used.iter().map(|&used| u64::from(used)).sum();
        TableUse { table, entries, limit: (self.used.len() * ways) as u64 }
    }
}

fn in_use(sks: &[u64]) -> u8 {
    sks.iter().filter(|&&sk| sk != 0).count() as u8
}
