//! Measurements of the programs of `cargo xtask bench hooks`.

use crate::STATES;

/// Places for paths: each transition, and the two resets.
pub const PATHS: u32 = RESET_RECEIVED + 1;
/// The place of `tcp_send_reset`.
pub const RESET_SENT: u32 = (STATES * STATES) as u32;
/// The place of `tcp_receive_reset`.
pub const RESET_RECEIVED: u32 = RESET_SENT + 1;

/// The place of the transition from one state to another, by their numbers.
pub const fn transition(from: u32, to: u32) -> u32 {
    const LAST: u32 = STATES as u32 - 1;
    (from & LAST) * STATES as u32 + (to & LAST)
}

/// Runs of one program along one path.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How many there were.
    pub runs: u64,
    /// Nanoseconds of all of them, with those that it takes to read the clock once.
    pub ns: u64,
    /// Runs that took longer than [`Spent::LONGEST_NS`], which are in neither sum.
    pub interrupted: u64,
}

impl Spent {
    /// An interrupt takes longer than this, and no program of ours does.
    pub const LONGEST_NS: u64 = 5_000;
}

/// A path, by the hook of tcpwatch and by an empty program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The hook.
    pub hook: Spent,
    /// The empty program.
    pub empty: Spent,
}

// SAFETY: made of words, all bits valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Path {}
