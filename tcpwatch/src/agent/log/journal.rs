//! Records as journald takes them: a datagram of fields (systemd's native protocol).
//!
//! The crate tracing-journald sends each record from the thread that logs, and blocks it while
//! journald does not read. This layer only encodes; the queue's thread sends.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::queue::{Queue, Record};

/// Name under which `journalctl -t` finds the records.
const IDENTIFIER: &str = "tcpwatch";

/// Queues each event as a datagram for the journal.
pub(super) struct JournalLayer(pub(super) Queue);

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        fields.put("PRIORITY", priority(*metadata.level()));
        fields.put("SYSLOG_IDENTIFIER", IDENTIFIER);
        fields.put("TARGET", metadata.target());
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            fields.put("CODE_FILE", file);
            fields.put("CODE_LINE", line);
        }
        event.record(&mut fields);
        self.0.put(Record::Journal(fields.datagram));
    }
}

/// Of syslog(3). Findings, start and end are "notice", so that a journal cut at "info" is quiet.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 5,
        Level::DEBUG => 6,
        Level::TRACE => 7,
    }
}

#[derive(Default)]
struct Fields {
    datagram: Vec<u8>,
}

impl Fields {
    /// The form with a length, which takes a value with line feeds too.
    fn put(&mut self, name: &str, value: impl fmt::Display) {
        let mut text = String::new();
        // Writing to a String fails only if the value cannot be shown.
        let _ = write!(text, "{value}");
        self.datagram.extend(name.bytes().map(|byte| byte.to_ascii_uppercase()));
        self.datagram.push(b'\n');
        self.datagram.extend((text.len() as u64).to_le_bytes());
        self.datagram.extend(text.as_bytes());
        self.datagram.push(b'\n');
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_has_an_upper_case_name_and_the_length_of_its_value() {
        let mut fields = Fields::default();
        fields.put("finding_id", "two\nlines");
        assert_eq!(fields.datagram, b"FINDING_ID\n\x09\0\0\0\0\0\0\0two\nlines\n");
    }
}
