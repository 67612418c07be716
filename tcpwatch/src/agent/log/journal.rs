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

/// Before the names of our own fields, so that they collide with no other fields (systemd.journal-fields(7)).
const PREFIX: &str = "TCPWATCH_";

/// `MESSAGE_ID` of the records about findings, by the field `change`;
/// `deploy/systemd/tcpwatch.catalog` has a text for each.
const MESSAGE_IDS: [(&str, &str); 3] = [
    ("raised", "0f706575eeea4f8382e2b4448bff6141"),
    ("changed", "503b4f80ffd94a92973b948df2dcb95a"),
    ("cleared", "b743c9b41e294a358575a51bac18e494"),
];

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
        fields.put(&format!("{PREFIX}target"), metadata.target());
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            fields.put("CODE_FILE", file);
            fields.put("CODE_LINE", line);
        }
        event.record(&mut fields);
        self.0.put(Record::Journal(fields.finish()));
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
    message: String,
    /// The other fields of the event, as the text log shows them.
    details: String,
    is_finding: bool,
}

impl Fields {
    /// A field of an event: the message, or one of ours.
    fn put_own(&mut self, name: &str, value: impl fmt::Display) {
        // Writing to a String fails only if the value cannot be shown.
        if name == "message" {
            let _ = write!(self.message, "{value}");
            return;
        }
        let _ = write!(self.details, " {name}={value}");
        self.put(&format!("{PREFIX}{name}"), value);
    }

    /// journalctl prints no field but the message, so that has the others too: a refused
    /// configuration is of no use without its reason. The message of a finding is a whole sentence.
    fn finish(mut self) -> Vec<u8> {
        if !self.is_finding {
            self.message.push_str(&self.details);
        }
        let message = std::mem::take(&mut self.message);
        self.put("MESSAGE", message);
        self.datagram
    }

    /// The form with a length, which takes a value with line feeds too.
    fn put(&mut self, name: &str, value: impl fmt::Display) {
        let mut text = String::new();
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
        let id =
            MESSAGE_IDS.iter().find(|(change, _)| field.name() == "change" && *change == value);
        if let Some((_, id)) = id {
            self.put("MESSAGE_ID", id);
            self.is_finding = true;
        }
        self.put_own(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_own(field.name(), format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_finding_has_a_message_id_and_a_text_for_it() {
        let catalog = include_str!("../../../../deploy/systemd/tcpwatch.catalog");
        for (change, id) in MESSAGE_IDS {
            assert!(catalog.contains(&format!("-- {id}\n")), "no text for {change}");
        }
        assert_eq!(catalog.matches("\n-- ").count() + 1, MESSAGE_IDS.len());
    }

    #[test]
    fn our_own_fields_have_a_prefix_and_the_message_has_none() {
        let mut fields = Fields::default();
        fields.put_own("message", "a");
        fields.put_own("finding_id", "b");
        let text = String::from_utf8_lossy(&fields.finish()).into_owned();
        assert!(
            text.contains("\nMESSAGE\n") && text.starts_with("TCPWATCH_FINDING_ID\n"),
            "{text}"
        );
    }

    #[test]
    fn journalctl_shows_why_a_configuration_was_refused_and_of_a_finding_its_sentence() {
        for (is_finding, message) in
            [(false, "configuration not reloaded error=tcpwatch.toml:2: no"), (true, "20 sockets")]
        {
            let mut fields = Fields { is_finding, ..Fields::default() };
            fields.put_own(
                "message",
                if is_finding { message } else { "configuration not reloaded" },
            );
            fields.put_own("error", "tcpwatch.toml:2: no");
            let text = String::from_utf8_lossy(&fields.finish()).into_owned();
            assert!(text.ends_with(&format!("{message}\n")), "{text}");
        }
    }

    #[test]
    fn field_has_an_upper_case_name_and_the_length_of_its_value() {
        let mut fields = Fields::default();
        fields.put("finding_id", "two\nlines");
        assert_eq!(fields.datagram, b"FINDING_ID\n\x09\0\0\0\0\0\0\0two\nlines\n");
    }
}
