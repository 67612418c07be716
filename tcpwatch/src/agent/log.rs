//! The log: to the journal with fields where there is one, else to stderr.
//!
//! Nothing that logs waits for a reader: records go through a bounded queue (`queue`), and what
//! finds it full is counted. Only the last line of the process has a deadline to be written.

mod journal;
mod queue;

use std::{
    any::Any,
    io::{self, Write},
    panic,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use super::colour::coloured;
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::{
    journal::JournalLayer,
    queue::{Queue, Record},
};
use crate::{
    config::{Log, LogFormat, LogLevel},
    engine::{Finding, FindingChange, Severity},
    plain,
};

/// How long the end of the process waits for its last lines. A reader that reads needs a
/// millisecond.
const LAST_LINE_PATIENCE: Duration = Duration::from_secs(1);

/// The queue of this process, once the daemon has started it.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Starts the thread that writes the log. From here on nothing of the daemon blocks on stderr.
pub fn start_log() -> io::Result<()> {
    if QUEUE.get().is_none() {
        let _ = QUEUE.set(Queue::start()?);
    }
    Ok(())
}

/// Begins to log through the thread that [`start_log`] has started; without it nothing is logged.
/// Records go to the journal where stderr is connected to it, else to stderr in the configured
/// format.
pub fn init(log: &Log) {
    let Some(queue) = QUEUE.get() else { return };
    let filter = Targets::new().with_target("tcpwatch", level(log.level));
    let lines = Lines(queue.clone());
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        _ if stderr_is_the_journal() => JournalLayer(queue.clone()).boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_writer(lines)
            .with_ansi(coloured(&io::stderr()))
            .with_target(false)
            .boxed(),
        LogFormat::Json => {
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(lines).boxed()
        }
    };
    // Fails only where a log was started already; that one stays.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        tracing::error!(
            thread = thread.name(),
            place = panic.location().map(tracing::field::display),
            "panicked: {}",
            panic_message(panic.payload())
        );
    }));
}

/// The message of a panic.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

/// Records lost so far: the log had no reader, or the journal refused them.
pub(super) fn lost_lines() -> u64 {
    QUEUE.get().map_or(0, Queue::lost)
}

/// Writes a line to stderr, the last one before the end. A daemon's line comes behind its log, and
/// is given up after a second without a reader.
pub fn last_line(line: &str) {
    let line = format!("{line}\n").into_bytes();
    match QUEUE.get() {
        Some(queue) => {
            queue.finish(Some(Record::Line(line)), Instant::now() + LAST_LINE_PATIENCE);
        }
        None => drop(io::stderr().write_all(&line)),
    }
}

/// Waits until the log is written, a second at most.
pub fn finish_log() {
    if let Some(queue) = QUEUE.get() {
        queue.finish(None, Instant::now() + LAST_LINE_PATIENCE);
    }
}

/// Queues what the formatter writes: one line at a time.
struct Lines(Queue);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(Record::Line(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// `JOURNAL_STREAM` names device and inode of the stream that systemd made; a child that has
/// redirected its stderr inherits the variable and not the stream (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// Logs a finding once when it is raised, on each change of severity and when it is cleared.
pub(super) fn change(change: &FindingChange) {
    match change {
        FindingChange::Raised(finding) => record(finding, "raised", "", finding.severity),
        FindingChange::SeverityChanged { finding, from } => {
            record(finding, "changed", &format!(" from {from}"), finding.severity);
        }
        FindingChange::Cleared(finding) => record(finding, "cleared", "", Severity::Info),
    }
}

fn record(finding: &Finding, change: &str, from: &str, level: Severity) {
    let subject = &finding.subject;
    let (netns, title) = (plain::text(&subject.netns), plain::text(&finding.title));
    let (process, unit) = (subject.process.as_deref(), subject.unit.as_deref());
    let (process, unit) = (process.map(plain::text), unit.map(plain::text));
    let container = subject.container.as_deref().map(plain::text);
    let led_by = finding.led_by.as_deref().map(plain::text);
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                change,
                finding = finding.kind.name(),
                finding_id = &*plain::text(&finding.id),
                severity = finding.severity.label(),
                netns = &*netns,
                process = process.as_deref(),
                pid = subject.pid,
                unit = unit.as_deref(),
                container = container.as_deref(),
                port = subject.port,
                led_by = led_by.as_deref(),
                "{change}{from}: {title}"
            )
        };
    }
    match level {
        Severity::Info => log!(info),
        Severity::Warning => log!(warn),
        Severity::Critical => log!(error),
    }
}
