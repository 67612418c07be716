//! Notes about a socket between two transitions.
//!
//! Two set-associative tables in array maps: one for connects under way, one for sockets in
//! CLOSE_WAIT, so that a leak takes no place from a connect. A hash map would cost an insertion and
//! a deletion for each connection and each CLOSE_WAIT, some 400 ns of every connection together.
//! Here it is an inlined array look-up and a few comparisons.
//!
//! A newer connect replaces the note of an older one. The note of a socket in CLOSE_WAIT is never
//! replaced, because its age could not be found again. Both losses are counted. Only two published
//! values need a note: an age (a lower bound without it) and the process of a failed connect
//! (unknown without it).

/// Notes of connects that share a slot of the table, a power of two.
pub const CONNECT_WAYS: usize = 4;

/// Slots of the table of connects, a power of two: 4,096 * 4 notes are 512 KiB.
pub const CONNECT_SETS: u32 = 4_096;

/// Notes of sockets in CLOSE_WAIT that share a half of a slot: those of one cache line.
pub const CLOSE_WAIT_WAYS: usize = 4;

/// Slots of the table of CLOSE_WAIT, a power of two: 4,096 * 2 * 4 notes are 512 KiB.
pub const CLOSE_WAIT_SETS: u32 = 4_096;

/// A note about a socket in SYN_SENT. 24 bytes, aligned to 4.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ConnectNote {
    /// Thread-group id of the caller of connect().
    pub tgid: u32,
    /// `inet_sport`, which a socket keeps from its last connect(). If it is still the same at
    /// CLOSE, no port was found.
    pub source_port: u16,
    /// 1 where the socket had a local port already, so that none had to be found.
    pub bound: u8,
    /// 1 where the socket had an initial sequence number already, from an earlier connect().
    pub sequenced: u8,
    /// `comm` of the thread-group leader.
    pub comm: [u8; 16],
}

/// The connects of one slot. 128 bytes; the addresses come first and together, so that a search
/// touches one cache line before the note that it finds.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ConnectSet {
    /// Kernel address of each note's socket; 0 where the note is free.
    pub sks: [u64; CONNECT_WAYS],
    /// In no order.
    pub notes: [ConnectNote; CONNECT_WAYS],
}

/// The sockets in CLOSE_WAIT of one slot. 128 bytes: two cache lines, of which a socket takes the
/// second only where its first is full.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CloseWaitSet {
    /// A bit of the socket's hash says which is its first.
    pub halves: [CloseWaitHalf; 2],
}

/// A cache line of notes. 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CloseWaitHalf {
    /// Kernel address of each socket; 0 where the place is free.
    pub sks: [u64; CLOSE_WAIT_WAYS],
    /// When CLOSE_WAIT was entered, nanoseconds of CLOCK_MONOTONIC, with the lowest bit replaced:
    /// 1 where the time is exact, 0 where a walk found the socket in the state already.
    pub since_ns: [u64; CLOSE_WAIT_WAYS],
}

const _: () = assert!(size_of::<ConnectSet>() == 128 && size_of::<CloseWaitSet>() == 128);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C) without padding, and every bit pattern is valid.
    unsafe impl aya::Pod for super::ConnectSet {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::CloseWaitSet {}
}
