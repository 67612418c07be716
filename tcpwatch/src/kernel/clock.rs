//! CLOCK_MONOTONIC, the one clock of all facts.

use rustix::time::{ClockId, clock_gettime};

use crate::facts::Timestamp;

/// Now, on the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn now() -> Timestamp {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither part of a monotonic time is ever negative.
    Timestamp::from_ns(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}
