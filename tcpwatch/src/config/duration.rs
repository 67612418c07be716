//! Durations as people write them: `100ms`, `60s`, `10m`, `1h30m`. jiff reads and writes them.

use std::time::Duration;

use jiff::fmt::friendly::{SpanParser, SpanPrinter};

/// Durations below this are written in seconds: timeouts are spoken of as `60s` and `90s`.
const IN_SECONDS: Duration = Duration::from_secs(120);

/// `None` if the text is not a duration.
pub(super) fn parse(text: &str) -> Option<Duration> {
    SpanParser::new().parse_unsigned_duration(text).ok()
}

/// Writes a duration as [`parse`] reads it.
pub(super) fn show(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 && duration < IN_SECONDS {
        return format!("{}s", duration.as_secs());
    }
    SpanPrinter::new()
        .spacing(jiff::fmt::friendly::Spacing::None)
        .unsigned_duration_to_string(&duration)
}
