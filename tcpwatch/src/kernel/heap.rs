//! Memory that is free goes back to the kernel: glibc keeps it for later, and other C libraries are left
//! as they are. A map of the standard library keeps it too, for as many entries as it ever had.

use std::{cmp::Ordering, collections::HashMap, hash::Hash};

/// Large memory is a mapping of its own from now on, which goes back when it is freed and grows without a
/// copy. glibc would keep the next such memory in its heap once one was freed. Its bounds for both, this
/// one and that of free memory at the end of the heap, no longer grow with what is freed.
pub(super) fn keep_large_apart() {
    #[cfg(target_env = "gnu")]
    {
        use std::sync::Once;

        /// glibc's default, which is fixed once it is set (mallopt(3)).
        const LARGE_BYTES: libc::c_int = 128 * 1024;
        static SET: Once = Once::new();
        // SAFETY: takes no pointer. It writes words of the allocator that other threads read as they
        // allocate: each sees the former bound or this one, and both are right.
        SET.call_once(|| unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        });
    }
}

/// Keeps at most so many entries, those with the highest `moved`, and of equal ones as many as there is space
/// for. Then gives back memory that the map has for many more than it has now.
pub(super) fn keep_latest<K: Eq + Hash, V>(
    map: &mut HashMap<K, V>,
    most: usize,
    moved: impl Fn(&V) -> u64,
) {
    if map.len() > most {
        let mut all: Vec<u64> = map.values().map(&moved).collect();
        let (later, last, _) = all.select_nth_unstable_by(most, |a, b| b.cmp(a));
        let last = *last;
        let mut space = most - later.iter().filter(|moved| **moved > last).count();
        map.retain(|_, value| match moved(value).cmp(&last) {
            Ordering::Greater => true,
            Ordering::Equal if space > 0 => {
                space -= 1;
                true
            }
            _ => false,
        });
    }
    shrink_sparse(map);
}

/// Gives back memory that a map has for many more entries than it has now.
pub(super) fn shrink_sparse<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    /// So many take some 100 KiB.
    const SMALL: usize = 1_024;
    if map.capacity() > SMALL && map.capacity() / 4 > map.len() {
        map.shrink_to(map.len() * 2);
    }
}

/// Gives back what is free now.
pub(super) fn return_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::keep_latest;

    #[test]
    fn the_latest_stay_and_the_memory_of_the_others_goes() {
        let mut map: HashMap<u64, u64> = (0..20_000).map(|number| (number, number)).collect();
        keep_latest(&mut map, 100, |moved| *moved);
        let mut kept: Vec<u64> = map.keys().copied().collect();
        kept.sort_unstable();
        assert_eq!(kept, (19_900..20_000).collect::<Vec<_>>());
        assert!(map.capacity() < 1_000, "{}", map.capacity());
        keep_latest(&mut map, 100, |moved| *moved);
        assert_eq!(map.len(), 100);
        let mut equal: HashMap<u64, u64> = (0..101).map(|number| (number, 7)).collect();
        equal.insert(1_000, 8);
        keep_latest(&mut equal, 100, |moved| *moved);
        assert!(equal.len() == 100 && equal.contains_key(&1_000), "{equal:?}");
    }
}
