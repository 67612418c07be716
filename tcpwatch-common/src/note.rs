//! What is noted about a socket between two transitions.
//!
//! A set-associative table in an array map. A hash map would cost an insertion and a deletion for
//! each connection and each CLOSE_WAIT, some 400 ns of every connection together; here it is an
//! inlined array look-up and four comparisons. In a full set a connect under way makes room, a leak
//! never does, and what finds no room is counted; nothing that is published depends on a note but an age (then a lower bound) and the
//! name behind a failed connect (then unknown).

/// Notes that share a slot of the table.
pub const NOTE_WAYS: usize = 4;

/// Slots of the table, a power of two: 4,096 * 4 notes are 640 KiB.
pub const NOTE_SETS: u32 = 4_096;

/// A note about one socket. 32 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// CLOSE_WAIT: when it was entered, nanoseconds of CLOCK_MONOTONIC. SYN_SENT: 0, so that a
    /// connect under way makes room before a leak does.
    pub since_ns: u64,
    /// The state during which the note holds: SYN_SENT or CLOSE_WAIT.
    pub state: u8,
    /// SYN_SENT: 1 where the socket had a local port already, so that none had to be found.
    pub bound: u8,
    /// SYN_SENT: `inet_sport`, which a socket keeps from its last connect(). If it is still the
    /// same at CLOSE, no port was found.
    pub source_port: u16,
    /// SYN_SENT: thread-group id of the caller of connect(). CLOSE_WAIT: 1 where `since_ns` is
    /// exact, 0 where a walk found the socket in the state already.
    pub tgid: u32,
    /// SYN_SENT: `comm` of the thread-group leader.
    pub comm: [u8; 16],
}

/// The notes of one slot. 160 bytes; the addresses come first and together, so that a search
/// touches one cache line before the note that it finds.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NoteSet {
    /// Kernel address of each note's socket; 0 where the note is free.
    pub sks: [u64; NOTE_WAYS],
    /// In no order.
    pub notes: [Note; NOTE_WAYS],
}

const _: () = assert!(size_of::<NoteSet>() == 160);
