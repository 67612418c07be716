//! Notes about a socket between two transitions; see [`tcpwatch_common::Note`] for the why.

use tcpwatch_common::{NOTE_SETS, NOTE_WAYS, Note, NoteSet};

use crate::maps::NOTES;

/// The notes that a socket may be in: by a multiplicative hash of its address, whose low six bits
/// say nothing (slab objects are aligned to a cache line).
#[inline(always)]
fn set_of(sk: u64) -> Option<&'static mut NoteSet> {
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = (sk >> 6).wrapping_mul(GOLDEN_RATIO) >> 32;
    let set = NOTES.get_ptr_mut(hash as u32 & (NOTE_SETS - 1))?;
    // SAFETY: the map lives as long as the program. Two CPUs may write one set at once; they then
    // overwrite each other's note, which loses one of them as an eviction does.
    Some(unsafe { &mut *set })
}

/// Writes a note, in place of the socket's former one, a free one, or the oldest of its set.
/// Returns whether a live note had to go.
#[inline(always)]
pub(crate) fn put(sk: u64, note: &Note) -> bool {
    let Some(set) = set_of(sk) else { return false };
    let mut free = NOTE_WAYS;
    let mut way = 0;
    while way < NOTE_WAYS {
        if set.sks[way] == sk {
            set.notes[way] = *note;
            return false;
        }
        if set.sks[way] == 0 {
            free = way;
        }
        way += 1;
    }
    let evicted = free == NOTE_WAYS;
    let way = if evicted { oldest(set) } else { free };
    // The mask shows the verifier the bound of a value that went through the stack.
    let way = way & (NOTE_WAYS - 1);
    set.sks[way] = sk;
    set.notes[way] = *note;
    evicted
}

#[inline(always)]
fn oldest(set: &NoteSet) -> usize {
    let mut oldest = 0;
    let mut way = 1;
    while way < NOTE_WAYS {
        if set.notes[way].since_ns < set.notes[oldest & (NOTE_WAYS - 1)].since_ns {
            oldest = way;
        }
        way += 1;
    }
    oldest
}

/// The socket's note for this state, if there is one.
#[inline(always)]
pub(crate) fn get(sk: u64, state: u32) -> Option<Note> {
    let set = set_of(sk)?;
    let way = way_of(set, sk)?;
    let note = set.notes[way];
    if note.state == state { Some(note) } else { None }
}

/// Forgets the socket.
#[inline(always)]
pub(crate) fn remove(sk: u64) {
    if let Some(set) = set_of(sk)
        && let Some(way) = way_of(set, sk)
    {
        set.sks[way] = 0;
    }
}

#[inline(always)]
fn way_of(set: &NoteSet, sk: u64) -> Option<usize> {
    let mut way = 0;
    while way < NOTE_WAYS {
        if set.sks[way] == sk {
            return Some(way);
        }
        way += 1;
    }
    None
}
