//! The stream of events: each transition, reset, failed connect and bind, while it is armed.
//!
//! All of it is off until the agent sets the word in [`STREAMING`](crate::maps::STREAMING) and
//! attaches [`STREAM`](crate::programs::STREAM). The agent gives the filter and the budget.

use crate::{Address, Event, ResetKey};

/// Values of each list of a [`StreamFilter`].
pub const STREAM_VALUES: usize = 4;

/// Slots of the table of a stream's processes, a power of two: 1,024 * 4 notes are 128 KiB.
pub const STREAM_SETS: u32 = 1_024;

/// The kind of a [`StreamRecord`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A socket went from one state to another.
    Transition = 1,
    /// The same, of a connect() that ended without a connection.
    ConnectFailed = 2,
    /// This host sent a reset.
    ResetSent = 3,
    /// A socket received a reset.
    ResetReceived = 4,
    /// bind() or listen() requested a port.
    Bind = 5,
}

/// One event of the stream. 104 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StreamRecord {
    /// When, where and by which process; its `kind` is 0. Of a failed connect also the error, the
    /// flags, the wait and the port range. Of a bind `error` is the result of the kernel's function,
    /// 0 where it succeeded.
    pub event: Event,
    /// A [`StreamKind`] as its number.
    pub kind: u8,
    /// State before a transition; of another event the state of the socket, 0 without one.
    pub from: u8,
    /// State after a transition, else 0.
    pub to: u8,
    /// Zero.
    pub reserved: u8,
    /// Of a reset: as in [`RESETS`](crate::maps::RESETS), with sizes.
    pub reset: ResetKey,
}

/// A record that a hook fills: in a map, because the verifier tells apart the ways in which a record on
/// the stack comes about (seen on 6.1: 44,000 instructions of `stream` with it there, 27,000 so). Each
/// CPU has one for transitions and one for all else.
/// 112 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StreamDraft {
    /// Its contents.
    pub record: StreamRecord,
    /// Not 0 while a hook fills it: another event for it, in an interrupt meanwhile, is dropped.
    pub busy: u64,
}

/// Drafts of each CPU.
pub const STREAM_DRAFTS: u32 = 2;

/// The events that are requested, and how many. An event passes when it meets each condition. A
/// list begins with its values and ends with zeros; an empty one allows every value. 136 bytes,
/// aligned to 4.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFilter {
    /// States, a bit each: a socket comes from one of them, or goes to one, or is in one.
    pub states: u32,
    /// Events in a second at most.
    pub budget: u32,
    /// Transitions in a second at most; the others leave the difference to the rarer events.
    pub transitions: u32,
    /// Zero.
    pub reserved: u32,
    /// Ports of either end.
    pub ports: [u16; STREAM_VALUES],
    /// Network namespaces, by their inode numbers.
    pub netns: [u32; STREAM_VALUES],
    /// Names of processes: `comm` of the thread-group leader, NUL-padded.
    pub comms: [[u32; 4]; STREAM_VALUES],
    /// The peer's address, as far as `peer_mask` has bits.
    pub peer: Address,
    /// See [`peer`](Self::peer); zeros for any.
    pub peer_mask: Address,
}

impl StreamFilter {
    /// No event.
    pub const NOTHING: Self = Self {
        states: 0,
        budget: 0,
        transitions: 0,
        reserved: 0,
        ports: [0; STREAM_VALUES],
        netns: [0; STREAM_VALUES],
        comms: [[0; 4]; STREAM_VALUES],
        peer: Address { words: [0; 4] },
        peer_mask: Address { words: [0; 4] },
    };
}

/// The present second of the stream, of all CPUs. Two CPUs that begin it at once may let an event
/// more through. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamSecond {
    /// Seconds of CLOCK_MONOTONIC.
    pub second: u64,
    /// Events in it that were in the budget.
    pub events: u64,
}

/// One CPU's counts, since the programs were loaded. 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamCounts {
    /// Events that were handed over.
    pub sent: u64,
    /// Events that passed the filter, and exceeded the budget or found the ring full; and events that
    /// came while the same CPU was describing another one.
    pub dropped: u64,
    /// Where a hook turns a pointer into a number.
    pub scratch: u64,
}

const _: () = assert!(size_of::<StreamRecord>() == 104 && size_of::<StreamFilter>() == 136);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C) without padding, and every bit pattern is valid.
    unsafe impl aya::Pod for super::StreamRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::StreamFilter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::StreamSecond {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::StreamCounts {}
}
