//! Notes about a socket between two transitions; see [`tcpwatch_common::Note`] for the why.

use tcpwatch_common::{NOTE_SETS, NOTE_WAYS, Note, NoteSet};

use crate::{maps::NOTES, sock::state};

/// The notes that a socket may be in: by a multiplicative hash of its address, whose low six bits
/// say nothing (slab objects are aligned to a cache line).
#[inline(always)]
fn set_of(sk: u64) -> Option<&'static mut NoteSet> {
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = (sk >> 6).wrapping_mul(GOLDEN_RATIO) >> 32;
    let set = NOTES.get_ptr_mut(hash as u32 & (NOTE_SETS - 1))?;
    // SAFETY: the map lives as long as the program. Two CPUs may write one set at once and take the
    // same place; then one note is lost, or has the other's contents. Both were written within
    // nanoseconds, so an age is right all the same, and a name is wrong once in a blue moon.
    Some(unsafe { &mut *set })
}

/// A note of a socket in CLOSE_WAIT.
#[inline(always)]
pub(crate) fn close_wait(since_ns: u64, exact: u32) -> Note {
    Note {
        since_ns,
        state: state::CLOSE_WAIT as u8,
        bound: 0,
        source_port: 0,
        tgid: exact,
        comm: [0; 16],
    }
}

/// Writes a note, in place of the socket's former one, a free one, or that of a connect under way:
/// a leak's is never given up, for nobody could tell its age again. Returns whether there was room.
#[inline(always)]
pub(crate) fn put(sk: u64, note: &Note) -> bool {
    let Some(set) = set_of(sk) else { return false };
    let mut place = NOTE_WAYS;
    let mut connecting = NOTE_WAYS;
    let mut way = 0;
    while way < NOTE_WAYS {
        if set.sks[way] == sk {
            place = way;
            break;
        }
        if set.sks[way] == 0 {
            place = way;
        } else if set.notes[way].state == state::SYN_SENT as u8 {
            connecting = way;
        }
        way += 1;
    }
    if place == NOTE_WAYS {
        place = connecting;
    }
    if place == NOTE_WAYS {
        return false;
    }
    // The mask shows the verifier the bound of a value that went through the stack.
    let place = place & (NOTE_WAYS - 1);
    set.sks[place] = sk;
    set.notes[place] = *note;
    true
}

/// The socket's note for this state, if there is one.
#[inline(always)]
pub(crate) fn get(sk: u64, during: u32) -> Option<Note> {
    let set = set_of(sk)?;
    let way = way_of(set, sk)?;
    let note = set.notes[way];
    if u32::from(note.state) == during { Some(note) } else { None }
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
