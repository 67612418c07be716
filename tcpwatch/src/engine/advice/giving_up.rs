//! When the kernel gives up on a peer that does not acknowledge.

use std::time::Duration;

use super::text;
use crate::facts::Namespace;

/// Sockets without TCP_USER_TIMEOUT: a sentence.
pub(crate) fn sockets_end(namespace: &Namespace) -> String {
    let retries = namespace.retries2.unwrap_or(15);
    format!(
        "The kernel gives up after about {} (tcp_retries2 is {retries}).",
        text::duration(time_of(retries))
    )
}

/// Sockets that no process holds: a sentence.
pub(crate) fn orphans_end(namespace: &Namespace) -> String {
    let retries = namespace.orphan_retries.unwrap_or_default();
    let in_force = if retries == 0 { 8 } else { retries };
    let stands_for = if retries == 0 { ", which stands for 8" } else { "" };
    format!(
        "The kernel gives them up after about {} (tcp_orphan_retries is {retries}{stands_for}), \
         sooner when orphans are many.",
        text::duration(time_of(in_force))
    )
}

/// How long the kernel sends a segment again so many times, as `tcp_model_timeout` has it: first
/// after 200 ms (TCP_RTO_MIN), then doubled up to 2 min (TCP_RTO_MAX).
fn time_of(retries: u64) -> Duration {
    const FIRST: Duration = Duration::from_millis(200);
    const MOST: Duration = Duration::from_secs(120);
    // The sysctl allows 255.
    (0..=retries.min(255)).fold(Duration::ZERO, |sum, retry| {
        let doubled = 1_u32.checked_shl(u32::try_from(retry).unwrap_or(u32::MAX));
        sum + doubled.map_or(MOST, |times| FIRST.saturating_mul(times)).min(MOST)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_goes_on_for_924_s_by_default() {
        // Documentation/networking/ip-sysctl.rst: 924.6 s for 15.
        assert_eq!(time_of(15), Duration::from_millis(924_600));
        assert_eq!(time_of(8), Duration::from_millis(102_200));
        assert_eq!(time_of(0), Duration::from_millis(200));
        assert_eq!(time_of(u64::MAX), time_of(255));
    }
}
