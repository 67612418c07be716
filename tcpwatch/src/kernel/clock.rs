//! CLOCK_MONOTONIC of the host, the one clock of all facts.
//!
//! In a time namespace CLOCK_MONOTONIC is shifted and `bpf_ktime_get_ns` is not. The shift is taken
//! off here, so that ages and rates compare times of one clock (time_namespaces(7)).

use std::{fs, sync::LazyLock, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use crate::facts::Timestamp;

/// Nanoseconds by which this process sees CLOCK_MONOTONIC later than the host does. It stays as it
/// is: setns(2) refuses a time namespace to a process of several threads.
static SHIFT_NS: LazyLock<i64> = LazyLock::new(|| {
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).ok();
    // The file shows the namespace of children. A process that has left it to them has another.
    if link("time") == link("time_for_children") { shift_ns(&offsets).unwrap_or(0) } else { 0 }
});

/// Now, on the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn now() -> Timestamp {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither part of a monotonic time is ever negative.
    let ns = time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs();
    Timestamp::from_ns(ns.saturating_add_signed(SHIFT_NS.saturating_neg()))
}

/// Processor time of the calling thread; its waiting for a busy machine does not count.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::from_secs(time.tv_sec.unsigned_abs())
        + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

/// The line `monotonic SECONDS NANOSECONDS`; before Linux 5.11 and without the namespaces there is
/// no such file, and no shift.
fn shift_ns(offsets: &str) -> Option<i64> {
    let mut line =
        offsets.lines().find_map(|line| line.strip_prefix("monotonic"))?.split_whitespace();
    let seconds: i64 = line.next()?.parse().ok()?;
    let nanoseconds: i64 = line.next()?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::shift_ns;

    #[test]
    fn the_shift_is_the_monotonic_line_whatever_its_sign() {
        let offsets =
            "monotonic           172800         5\nboottime                 7         0\n";
        assert_eq!(shift_ns(offsets), Some(172_800_000_000_005));
        assert_eq!(shift_ns("monotonic -1 999999999\n"), Some(-1));
        assert_eq!(shift_ns(""), None);
        assert_eq!(shift_ns("monotonic x 0\n"), None);
    }
}
