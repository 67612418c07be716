//! Waiting for the kernel to show what was done: polling with a deadline,
//! the only place of this crate that sleeps.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long one step of a situation may take to show. On an idle machine it
/// is microseconds; a second core busy with a build makes it tens of
/// milliseconds; a lost SYN would make it seconds.
pub const STEP_DEADLINE: Duration = Duration::from_secs(10);

/// Short against every interval that a test of tcpwatch waits for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Polls `condition` until it holds.
///
/// # Errors
/// When `deadline` has passed; the message names `what`.
pub fn wait_until(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("not reached in {deadline:?}: {what}");
        }
        thread::sleep(POLL_INTERVAL);
    }
}
