//! How soon inventories follow each other.
//!
//! An inventory of a large host takes more processor time, so it comes less often: inventories take
//! no more than the configured share of one CPU. Only down to one in 30 s, because findings are as
//! old as the last inventory; from there on they take more, up to a tenth of a CPU and no more.

use std::time::Duration;

/// The interval grows no further for the share's sake.
const LONGEST_FOR_SHARE: Duration = Duration::from_secs(30);

/// Inventories take at most so much of one CPU, however many sockets there are.
const BOUND: f64 = 0.1;

/// The time from the beginning of an inventory that took `cpu_time` to the next: at least
/// `configured`. `share` is part of one CPU, above 0.
pub(super) fn interval(configured: Duration, share: f64, cpu_time: Duration) -> Duration {
    let for_share = at_share(cpu_time, share).min(LONGEST_FOR_SHARE);
    configured.max(for_share).max(at_share(cpu_time, BOUND))
}

/// The pause after an inventory that took `cpu_time`, however long it was under way.
pub(super) fn pause(cpu_time: Duration) -> Duration {
    at_share(cpu_time, BOUND) - cpu_time
}

/// The interval at which `cpu_time` is such a share.
fn at_share(cpu_time: Duration, share: f64) -> Duration {
    // No inventory lasts that long; a share near 0 must not panic.
    Duration::try_from_secs_f64(cpu_time.as_secs_f64() / share).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: f64 = 0.01;

    fn after(configured_ms: u64, cpu_ms: u64) -> u128 {
        let ms = Duration::from_millis;
        interval(ms(configured_ms), SHARE, ms(cpu_ms)).as_millis()
    }

    #[test]
    fn inventories_take_the_share_then_thirty_seconds_then_the_bound() {
        // A small host keeps the configured interval.
        assert_eq!(after(10_000, 100), 10_000);
        // The share counts.
        assert_eq!(after(10_000, 101), 10_100);
        assert_eq!(after(1_000, 20), 2_000);
        assert_eq!(after(10_000, 300), 30_000);
        // 30 s win over the share, up to a tenth of a CPU.
        assert_eq!(after(10_000, 3_000), 30_000);
        assert_eq!(after(10_000, 4_000), 40_000);
        // A longer interval is the user's own.
        assert_eq!(after(60_000, 1_000), 60_000);
        assert_eq!(after(60_000, 7_000), 70_000);
    }

    #[test]
    fn one_that_was_slow_is_followed_by_a_pause_all_the_same() {
        assert_eq!(pause(Duration::from_millis(10)), Duration::from_millis(90));
        assert_eq!(pause(Duration::ZERO), Duration::ZERO);
    }
}
