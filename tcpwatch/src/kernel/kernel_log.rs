//! Messages of the kernel side's rare error paths, in the agent's log.
//!
//! Read only where the log is at debug or trace; otherwise the verifier has removed these paths. A
//! thread of its own reads: a storm of messages then delays neither the loop nor an inventory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::error::one_line;

/// How often the ring is read. A delay of 0.2 s is no harm in a debug log.
const INTERVAL: Duration = Duration::from_millis(200);

/// The reading thread, which ends when this is dropped.
pub(super) struct KernelLog {
    stop: Arc<AtomicBool>,
}

impl KernelLog {
    pub(super) fn start(ebpf: &mut Ebpf) -> Result<Self, String> {
        let mut logger =
            EbpfLogger::init_with_logger(ebpf, ToTracing).map_err(|it| one_line(&it))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let read = move || {
            while !stopped.load(Ordering::Relaxed) {
                logger.flush();
                thread::sleep(INTERVAL);
            }
            logger.flush();
        };
        thread::Builder::new()
            .name("kernel-log".to_owned())
            .spawn(read)
            .map_err(|error| one_line(&error))?;
        Ok(Self { stop })
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// aya-log speaks to the `log` crate.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let (file, line) = (record.file().unwrap_or_default(), record.line().unwrap_or_default());
        tracing::debug!(file, line, "kernel side: {}", record.args());
    }

    fn flush(&self) {}
}
