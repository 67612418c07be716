//! The log: to the journal with fields where there is one, else to stderr.

use std::io;

use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::{
    config::{Log, LogFormat},
    engine::{Finding, FindingChange, Severity},
};

/// Starts the log. Records go to the journal where stderr is connected to it, else to stderr in the
/// configured format.
pub fn init(log: &Log) {
    let filter = EnvFilter::new(format!("off,tcpwatch={}", log.level));
    let journal = stderr_is_the_journal()
        .then(|| tracing_journald::layer().ok())
        .flatten()
        .map(|layer| layer.with_syslog_identifier("tcpwatch".to_owned()).with_field_prefix(None));
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match (journal, log.format) {
        (Some(journal), _) => journal.boxed(),
        (None, LogFormat::Text) => tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .with_target(false)
            .boxed(),
        (None, LogFormat::Json) => {
            tracing_subscriber::fmt::layer().json().with_writer(io::stderr).boxed()
        }
    };
    // Fails only where a log was started already; that one stays.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}

/// `JOURNAL_STREAM` names device and inode of the stream that systemd made; a child that has
/// redirected its stderr inherits the variable and not the stream (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// Tells of a finding once when it is raised, on each change of severity and when it is cleared.
pub(super) fn change(change: &FindingChange) {
    match change {
        FindingChange::Raised(finding) => record(finding, "raised", finding.severity),
        FindingChange::SeverityChanged { finding, from } => {
            record(finding, &format!("changed from {from}"), finding.severity);
        }
        FindingChange::Cleared(finding) => record(finding, "cleared", Severity::Info),
    }
}

fn record(finding: &Finding, what: &str, level: Severity) {
    let subject = &finding.subject;
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                finding = finding.kind.name(),
                finding_id = finding.id,
                severity = finding.severity.label(),
                netns = &*subject.netns,
                process = subject.process,
                pid = subject.pid,
                unit = subject.unit,
                led_by = finding.led_by,
                "{what}: {}",
                finding.title
            )
        };
    }
    match level {
        Severity::Info => log!(info),
        Severity::Warning => log!(warn),
        Severity::Critical => log!(error),
    }
}
