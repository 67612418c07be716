//! Counts that the hooks keep on every CPU, without an event for each.

use crate::{ResetKey, programs};

/// Size of a table indexed by a TCP state of the kernel (`include/net/tcp_states.h`: 1 to 13),
/// rounded up so that an index can be masked.
pub const STATES: usize = 16;

/// Upper bounds of the histogram of time spent in CLOSE_WAIT, in nanoseconds; the last bucket of
/// [`Counters::close_wait_buckets`] has none. From the healthy millisecond to the leak of a day. Times
/// are up to a tick of the kernel's clock too short, see [`Counters::tick`].
pub const CLOSE_WAIT_BUCKETS_NS: [u64; 9] = [
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
    60_000_000_000,
    600_000_000_000,
    3_600_000_000_000,
    86_400_000_000_000,
];

/// One CPU's counters; the agent adds them up. All counts are since the programs were loaded. The words
/// that each run of a hook touches lie together.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Where `set_state` turns a pointer into a number.
    pub scratch: u64,
    /// Pieces of rare work that this CPU may still do, see [`work_shed`](Self::work_shed).
    pub work_left: u64,
    /// The tick of the kernel's clock (jiffies) of [`tick_ns`](Self::tick_ns).
    pub tick: u64,
    /// A time of CLOCK_MONOTONIC in nanoseconds, which is taken for the present one until the next tick:
    /// for 1 to 10 ms.
    pub tick_ns: u64,
    /// Runs of each program, in the order of [`programs::COUNTED`]. A program is run for sockets
    /// that it does not count too: of other protocols, or of another namespace.
    pub runs: [u64; programs::COUNTED.len()],
    /// Transitions by old and new state.
    pub transitions: [[u64; STATES]; STATES],
    /// Sockets that were seen to enter and to leave CLOSE_WAIT, by the time between; not cumulative.
    pub close_wait_buckets: [u64; CLOSE_WAIT_BUCKETS_NS.len() + 1],
    /// Sum of that time in nanoseconds.
    pub close_wait_sum_ns: u64,
    /// Resets received, by the state of the socket.
    pub resets_received: [u64; STATES],
    /// Events lost because the ring buffer was full.
    pub events_lost: u64,
    /// Notes of a connect() under way that a newer note replaced.
    pub connect_notes_evicted: u64,
    /// Notes of a socket in CLOSE_WAIT refused because their table was full.
    pub close_wait_notes_refused: u64,
    /// Resets lost because the table of their observations was full.
    pub resets_lost: u64,
    /// When [`work_left`](Self::work_left) was granted, nanoseconds of CLOCK_MONOTONIC.
    pub work_since_ns: u64,
    /// Events of which only the plain count was kept, without process or service, because the work
    /// of the second was done.
    pub work_shed: u64,
    /// Resets sent, of the kinds that this CPU counts here; the others are in
    /// [`RESETS`](crate::maps::RESETS). A kind keeps its place.
    pub resets_sent: [ResetsSent; RESET_PLACES],
}

/// Resets of a kind.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ResetsSent {
    /// How many; the place is free while it is 0.
    pub count: u64,
    /// Which.
    pub key: ResetKey,
    /// Zero.
    pub reserved: u32,
}

impl ResetsSent {
    const NONE: Self =
        Self { count: 0, key: ResetKey { reason: 0, state: 0, sizes: 0, flags: 0 }, reserved: 0 };
}

/// Places for kinds of resets on each CPU, a power of two.
pub const RESET_PLACES: usize = 64;

impl Counters {
    /// All zero.
    pub const ZERO: Self = Self {
        scratch: 0,
        work_left: 0,
        tick: 0,
        tick_ns: 0,
        runs: [0; programs::COUNTED.len()],
        transitions: [[0; STATES]; STATES],
        close_wait_buckets: [0; CLOSE_WAIT_BUCKETS_NS.len() + 1],
        close_wait_sum_ns: 0,
        resets_received: [0; STATES],
        events_lost: 0,
        connect_notes_evicted: 0,
        close_wait_notes_refused: 0,
        resets_lost: 0,
        work_since_ns: 0,
        work_shed: 0,
        resets_sent: [ResetsSent::NONE; RESET_PLACES],
    };
}

const _: () = assert!(size_of::<Counters>() == (4 + 8 + 256 + 10 + 1 + 16 + 4 + 2 + 64 * 2) * 8);

#[cfg(feature = "user")]
// SAFETY: repr(C) of u64 and pairs of 4 bytes: no padding, every bit pattern is valid.
unsafe impl aya::Pod for Counters {}
