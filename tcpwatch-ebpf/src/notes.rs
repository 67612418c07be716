//! Notes about a socket between two transitions; see `note.rs` of `tcpwatch-common` for the why.
//!
//! Two CPUs may write one slot at once and take the same place. Then one note is lost, or has the
//! other's contents. Both were written within nanoseconds, so an age is right all the same, and a
//! name is wrong very rarely.

use aya_ebpf::maps::Array;
use tcpwatch_common::{
    CLOSE_WAIT_SETS, CLOSE_WAIT_WAYS, CONNECT_SETS, CONNECT_WAYS, CloseWaitHalf, CloseWaitSet,
    ConnectNote, ConnectSet, STREAM_SETS,
};

use crate::maps::{CLOSE_WAIT_NOTES, CONNECT_NOTES, STREAM_NOTES};

/// Result of putting a note.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is in the socket's former place, or in a free one.
    Placed,
    /// It is in the place of another socket, whose note is lost.
    Evicted,
    /// It found no place.
    Refused,
}

/// The lowest bit of [`CloseWaitHalf::since_ns`]: the time is exact.
pub(crate) const EXACT: u64 = 1;

/// A multiplicative hash of a socket's address, without its low six bits (slab objects are
/// aligned to a cache line).
#[inline(always)]
fn hash(sk: u64) -> u32 {
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    ((sk >> 6).wrapping_mul(GOLDEN_RATIO) >> 32) as u32
}

/// Notes of the processes of sockets, in a table with so many slots, a power of two.
pub(crate) struct ProcessNotes {
    table: &'static Array<ConnectSet>,
    sets: u32,
}

/// Of connects under way.
pub(crate) const CONNECTS: ProcessNotes =
    ProcessNotes { table: &CONNECT_NOTES, sets: CONNECT_SETS };
/// Of sockets that the stream of events has seen.
pub(crate) const STREAMED: ProcessNotes = ProcessNotes { table: &STREAM_NOTES, sets: STREAM_SETS };

impl ProcessNotes {
    /// In a full slot it takes the place of another one. A note whose end was not seen goes this way
    /// too.
    #[inline(always)]
    pub(crate) fn put(&self, sk: u64, note: &ConnectNote) -> Put {
        let Some(set) = self.set_of(sk) else { return Put::Refused };
        let (place, put) = match place_for(&set.sks, sk) {
            Some(place) => (place, Put::Placed),
            // Bits that do not choose the slot, so that no place is always the victim.
            None => ((hash(sk) >> 16) as usize, Put::Evicted),
        };
        // The mask shows the verifier the bound of a value that went through the stack.
        let place = place & (CONNECT_WAYS - 1);
        set.sks[place] = sk;
        set.notes[place] = *note;
        put
    }

    /// The note of the socket, if there is one.
    #[inline(always)]
    pub(crate) fn find(&self, sk: u64) -> Option<ConnectNote> {
        let set = self.set_of(sk)?;
        let way = way_of(&set.sks, sk)?;
        Some(set.notes[way & (CONNECT_WAYS - 1)])
    }

    /// Forgets the socket.
    #[inline(always)]
    pub(crate) fn forget(&self, sk: u64) {
        if let Some(set) = self.set_of(sk)
            && let Some(way) = way_of(&set.sks, sk)
        {
            set.sks[way & (CONNECT_WAYS - 1)] = 0;
        }
    }

    #[inline(always)]
    fn set_of(&self, sk: u64) -> Option<&'static mut ConnectSet> {
        let set = self.table.get_ptr_mut(hash(sk) & (self.sets - 1))?;
        // SAFETY: the map lives as long as the program; see above for two CPUs at once.
        Some(unsafe { &mut *set })
    }
}

/// Notes since when a socket is in CLOSE_WAIT, in a free place only.
#[inline(always)]
pub(crate) fn put_close_wait(sk: u64, since_ns: u64, is_exact: bool) -> Put {
    let Some((set, first)) = close_wait_of(sk) else { return Put::Refused };
    let mut half = &mut set.halves[first];
    let mut place = place_for(&half.sks, sk);
    if place.is_none() {
        half = &mut set.halves[first ^ 1];
        place = place_for(&half.sks, sk);
    }
    let Some(place) = place else { return Put::Refused };
    let place = place & (CLOSE_WAIT_WAYS - 1);
    half.sks[place] = sk;
    half.since_ns[place] = since_ns & !EXACT | u64::from(is_exact);
    Put::Placed
}

/// Since when the socket is in CLOSE_WAIT, with [`EXACT`] where that is exact, if it is noted.
#[inline(always)]
pub(crate) fn close_wait(sk: u64) -> Option<u64> {
    let (half, way) = found(sk)?;
    Some(half.since_ns[way])
}

/// The same, and forgets it.
#[inline(always)]
pub(crate) fn take_close_wait(sk: u64) -> Option<u64> {
    let (half, way) = found(sk)?;
    half.sks[way] = 0;
    Some(half.since_ns[way])
}

#[inline(always)]
fn found(sk: u64) -> Option<(&'static mut CloseWaitHalf, usize)> {
    let (set, first) = close_wait_of(sk)?;
    if let Some(way) = way_of(&set.halves[first].sks, sk) {
        return Some((&mut set.halves[first], way & (CLOSE_WAIT_WAYS - 1)));
    }
    let second = &mut set.halves[first ^ 1];
    let way = way_of(&second.sks, sk)?;
    Some((second, way & (CLOSE_WAIT_WAYS - 1)))
}

/// The socket's slot, and which half is its first.
#[inline(always)]
fn close_wait_of(sk: u64) -> Option<(&'static mut CloseWaitSet, usize)> {
    let hash = hash(sk);
    let set = CLOSE_WAIT_NOTES.get_ptr_mut(hash & (CLOSE_WAIT_SETS - 1))?;
    // SAFETY: as above.
    Some((unsafe { &mut *set }, (hash >> 31) as usize & 1))
}

/// The socket's own place, else the last free one.
#[inline(always)]
fn place_for<const WAYS: usize>(sks: &[u64; WAYS], sk: u64) -> Option<usize> {
    let mut free = None;
    let mut way = 0;
    while way < WAYS {
        if sks[way] == sk {
            return Some(way);
        }
        if sks[way] == 0 {
            free = Some(way);
        }
        way += 1;
    }
    free
}

/// The socket's place. The search starts at the last one, which [`place_for`] fills first.
#[inline(always)]
fn way_of<const WAYS: usize>(sks: &[u64; WAYS], sk: u64) -> Option<usize> {
    let mut way = WAYS;
    while way > 0 {
        way -= 1;
        if sks[way] == sk {
            return Some(way);
        }
    }
    None
}
