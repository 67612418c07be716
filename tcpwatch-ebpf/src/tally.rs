//! Tables of counts by key: see `tally.rs` of `tcpwatch-common` for the layout and its bounds.

use aya_ebpf::{helpers::generated::bpf_jiffies64, maps::Array};
use tcpwatch_common::{TALLY_WAYS, TallySet, Words, mark, set_of};

/// A table with so many sets, a power of two.
pub(crate) struct Tally<Use: 'static> {
    pub(crate) table: &'static Array<TallySet<Use>>,
    pub(crate) sets: u32,
}

impl<Use> Tally<Use> {
    /// The entry of a key, and whether it begins here, all zero.
    #[inline(always)]
    pub(crate) fn entry(&self, words: Words) -> Option<(&'static mut Use, bool)> {
        let mark = mark(words);
        let set = self.table.get_ptr_mut(set_of(mark, self.sets))?;
        // SAFETY: the map lives as long as the program; its entries are words, which several CPUs
        // may change at once: see `tally.rs` of `tcpwatch-common` for what that can do.
        let set = unsafe { &mut *set };
        // SAFETY: no arguments, no effects.
        let tick = (unsafe { bpf_jiffies64() } >> 8) as u32;
        let mut way = 0;
        while way < TALLY_WAYS {
            if set.marks[way] == mark {
                if set.used[way] != tick {
                    set.used[way] = tick;
                }
                return Some((&mut set.uses[way], false));
            }
            way += 1;
        }
        let way = claim(set, &words, mark, tick) as usize & (TALLY_WAYS - 1);
        Some((&mut set.uses[way], true))
    }
}

/// Begins an entry in a free place of the set, or in that which was counted longest ago. The mark comes
/// last, so that the agent meets no entry half made.
#[inline(never)]
fn claim<Use>(set: &mut TallySet<Use>, key: &Words, mark: u64, tick: u32) -> u32 {
    let mut victim = 0;
    let mut longest = 0;
    let mut way = 0;
    while way < TALLY_WAYS {
        let ago = if set.marks[way] == 0 { u32::MAX } else { tick.wrapping_sub(set.used[way]) };
        if ago > longest {
            longest = ago;
            victim = way;
        }
        way += 1;
    }
    let victim = victim & (TALLY_WAYS - 1);
    // SAFETY: the place is one of the set; volatile, because the compiler takes the first of two stores for
    // superfluous.
    unsafe { (&raw mut set.marks[victim]).write_volatile(0) };
    set.used[victim] = tick;
    set.keys[victim] = *key;
    let words = (&raw mut set.uses[victim]).cast::<u64>();
    let mut word = 0;
    while word < size_of::<Use>() / size_of::<u64>() {
        // SAFETY: a word of the entry, for which all bits are valid.
        unsafe { words.add(word).write_volatile(0) };
        word += 1;
    }
    // SAFETY: as above.
    unsafe { (&raw mut set.marks[victim]).write_volatile(mark) };
    victim as u32
}
