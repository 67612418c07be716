//! Durations as people write them: `100ms`, `60s`, `10m`, `1h30m`.
//!
//! Parts are whole numbers, each with a unit of ms, s, m or h, the largest unit first and none
//! twice. There is no `d` or `year`, no fraction, sign or space: what could be meant in two ways is
//! refused.

use std::time::Duration;

/// Largest first, with the milliseconds that each has.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// `None` if the text is not a duration or exceeds 2^64 milliseconds.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total_ms = 0_u64;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit());
        let (unit, after) = split(after, |c| c.is_ascii_alphabetic());
        // Advancing one iterator over all parts is what forbids a unit after a smaller one.
        let (_, unit_ms) = units.find(|(name, _)| *name == unit)?;
        let part_ms = number.parse::<u64>().ok()?.checked_mul(*unit_ms)?;
        total_ms = total_ms.checked_add(part_ms)?;
        rest = after;
    }
    Some(Duration::from_millis(total_ms))
}

/// Writes what [`parse`] reads. Below two minutes in seconds, because `60s` and `90s` are how
/// timeouts are spoken of, and `1m30s` is not.
pub(super) fn show(duration: Duration) -> String {
    let mut rest_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let units = if rest_ms < 120_000 { UNITS.get(2..).unwrap_or(&UNITS) } else { &UNITS };
    let mut text = String::new();
    for (unit, unit_ms) in units {
        if rest_ms >= *unit_ms {
            text.push_str(&format!("{}{unit}", rest_ms / unit_ms));
            rest_ms %= unit_ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The longest prefix whose characters all are `wanted`, and what follows.
fn split(text: &str, wanted: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !wanted(c)).unwrap_or(text.len());
    text.split_at(end)
}
