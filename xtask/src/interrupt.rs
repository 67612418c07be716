//! Ctrl-C and SIGTERM as a flag that every wait looks at, so that what was
//! made is cleaned up by the values that hold it.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM};

/// SIGINT (Ctrl-C) or SIGTERM has arrived.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; everything was cleaned up")
    }
}

impl std::error::Error for Interrupted {}

/// The flag that the signals set.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn install() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Polls until `look` finds something. `None` when the deadline passed.
    pub(crate) fn poll<T>(
        &self,
        deadline: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        const POLL_INTERVAL: Duration = Duration::from_millis(100);
        let end = Instant::now() + deadline;
        loop {
            self.check()?;
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}
