//! Counts by key, in array maps: set-associative tables like those of the notes.
//!
//! A hash map of the kernel that drops what is rare (LRU) costs some 70 ns a look-up, and from the
//! agent two system calls an entry. Here it is an inlined array look-up and a few comparisons.
//!
//! Where the table is half full, a new key finds its set full one time in 7, and where it is a fifth
//! full one time in 110. It takes the place that was counted longest ago. Two CPUs may take one place at
//! once; then the key there is neither's, or a count goes to the other. The [`mark`] of a key shows the
//! first: such an entry is never found again, and the agent leaves it out.

/// Keys that share a set, a power of two.
pub const TALLY_WAYS: usize = 4;

/// A key as numbers, because the kernel side computes with it in registers.
pub type Words = [u64; 3];

/// Keys with the same bits of their marks, and what is counted of each. A count touches two cache
/// lines: the first, and that of the use.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TallySet<Use> {
    /// [`mark`] of each key; 0 where the place is free. Two keys with one mark, one in 2^63, are
    /// counted together.
    pub marks: [u64; TALLY_WAYS],
    /// When each was counted last, in 256 ticks of the kernel's clock: 0.3 to 2.6 s.
    pub used: [u32; TALLY_WAYS],
    /// Zero.
    pub reserved: [u64; 2],
    /// The counts of each.
    pub uses: [Use; TALLY_WAYS],
    /// [`TallyKey::words`] of each.
    pub keys: [Words; TALLY_WAYS],
    /// Zero.
    pub reserved2: [u64; 4],
}

/// A key of a table.
pub trait TallyKey: Copy {
    /// All that it consists of.
    fn words(self) -> Words;
    /// The key of these words.
    fn from_words(words: Words) -> Self;
}

/// A hash of the key, never 0. The upper half chooses the set.
#[must_use]
#[inline(always)]
pub const fn mark([first, second, third]: Words) -> u64 {
    // Fractions of the golden ratio, and of two roots: odd numbers without a pattern.
    const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
    const SECOND: u64 = 0xbb67_ae85_84ca_a73b;
    const THIRD: u64 = 0x3c6e_f372_fe94_f82b;
    let mut hash = first.wrapping_mul(FIRST) ^ second.wrapping_mul(SECOND);
    hash ^= hash >> 32;
    hash = (hash ^ third).wrapping_mul(THIRD);
    hash ^= hash >> 29;
    hash.wrapping_mul(FIRST) | 1
}

/// The set of a key with this mark, of so many sets, a power of two.
#[must_use]
#[inline(always)]
pub const fn set_of(mark: u64, sets: u32) -> u32 {
    (mark >> 32) as u32 & (sets - 1)
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C). Uses of whole words leave no padding, and every bit pattern is valid, as it is
    // for them.
    unsafe impl<Use: aya::Pod> aya::Pod for super::TallySet<Use> {}
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashSet;

    use super::{mark, set_of};

    /// Processes with neighbouring numbers and ports, as a host has them, spread over the sets: of
    /// 1,024 at most a few find five others in their set of 1,024.
    #[test]
    fn keys_that_are_near_to_each_other_spread_over_the_sets() {
        for step in [1_u64, 2, 8, 256] {
            let mut filled = std::vec![0_u32; 1_024];
            let mut marks = HashSet::new();
            for number in 0..1_024_u64 {
                let tgid = 1_000 + number * step;
                let mark = mark([5, tgid << 32 | 0xf000_0000, 443 | 1 << 16]);
                assert!(mark != 0 && marks.insert(mark));
                filled[set_of(mark, 1_024) as usize] += 1;
            }
            let crowded = filled.iter().filter(|&&keys| keys > 4).count();
            assert!(crowded < 16, "step {step}: {crowded} sets with more than four");
        }
    }
}
