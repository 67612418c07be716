//! Words that the kinds share.

use std::time::Duration;

pub(crate) use crate::engine::advice::{
    command::{
        SOCKET_UNIT, dump, dump_threads, in_its_namespace, log, restart, restart_of, stop, to_paste,
    },
    names::{named, named_as, named_as_several, shown},
};

/// ` in network namespace NAME`, nothing for the host's own.
pub(crate) fn in_netns(netns: &str) -> String {
    match netns {
        "host" => String::new(),
        "" => " in an unnamed network namespace".to_owned(),
        name => format!(" in network namespace {name}"),
    }
}

/// `1 socket`, `2 sockets`, `2 processes`, `1,085 sockets`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ if noun.ends_with('s') => format!("{} {noun}es", self::number(number)),
        _ => format!("{} {noun}s", self::number(number)),
    }
}

/// A number for a reader: `999`, `1,085`, `12,345,678`.
pub(crate) fn number(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number that need not be whole, a rate for one: `0`, `0.05`, `2.5`, `3`, `12,345`.
pub(crate) fn amount(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{value:.2}"),
        ..9.95 if value.fract() != 0.0 => format!("{value:.1}"),
        _ => number(value.round() as u64),
    }
}

/// An amount of memory: `999 bytes`, `1.5 KiB`, `256 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1_024 {
        return count(bytes, "byte");
    }
    let mut amount = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while amount >= 1_023.5 && unit + 1 < UNITS.len() {
        amount /= 1_024.0;
        unit += 1;
    }
    // Three digits at most, and no `.0` for a round number.
    let digits = if amount < 9.95 { format!("{amount:.1}") } else { format!("{amount:.0}") };
    format!("{} {}", digits.trim_end_matches(".0"), UNITS[unit])
}

/// `text` up to `most` characters, with an ellipsis where there were more.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A duration as a person says it: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Minutes that something lasts at a rate, however slow the rate is.
pub(crate) fn minutes(minutes: f64) -> String {
    /// A rate that leads to a limit so late says nothing about the limit.
    const TEN_YEARS: f64 = 10.0 * 365.0 * 1_440.0;
    match Duration::try_from_secs_f64(minutes * 60.0) {
        Ok(left) if minutes <= TEN_YEARS => duration(left),
        Ok(_) | Err(_) => "more than 10 years".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let of = [0, 999, 1_000, 12_345, 999_999, 1_000_000, u64::MAX].map(number);
        let expected =
            ["0", "999", "1,000", "12,345", "999,999", "1,000,000", "18,446,744,073,709,551,615"];
        assert_eq!(of, expected);
        assert_eq!(count(1_085, "socket"), "1,085 sockets");
    }

    #[test]
    fn amounts_have_the_digits_that_matter() {
        let of = [0.0, 0.034, 0.5, 3.0, 9.94, 9.96, 10.4, 1_204.4].map(amount);
        assert_eq!(of, ["0", "0.03", "0.5", "3", "9.9", "10", "10", "1,204"]);
    }

    #[test]
    fn memory_has_three_digits_and_a_unit() {
        let of = [1, 1_023, 1_024, 1_536, 10_240, 1_048_575, 1 << 28, u64::MAX].map(bytes);
        let expected =
            ["1 byte", "1,023 bytes", "1 KiB", "1.5 KiB", "10 KiB", "1 MiB", "256 MiB", "16 EiB"];
        assert_eq!(of, expected);
    }

    #[test]
    fn minutes_are_said_however_many_they_are() {
        assert_eq!(minutes(0.5), "30 s");
        assert_eq!(minutes(200.0), "3 h 20 min");
        for many in [f64::MAX, f64::INFINITY, f64::NAN, -1.0, 1e16] {
            assert_eq!(minutes(many), "more than 10 years");
        }
    }

    #[test]
    fn durations_read_as_a_person_says_them() {
        let said = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(said(0), "0 s");
        assert_eq!(said(119), "119 s");
        assert_eq!(said(120), "2 min");
        assert_eq!(said(7_199), "119 min");
        assert_eq!(said(7_200), "2 h 0 min");
        assert_eq!(said(172_800), "2 d 0 h");
    }

    #[test]
    fn what_is_too_long_ends_in_an_ellipsis() {
        assert_eq!(shorten("öäü", 3), "öäü");
        assert_eq!(shorten("öäüß", 3), "öäü…");
    }

    #[test]
    fn nouns_take_their_plural() {
        assert_eq!(count(0, "socket"), "0 sockets");
        assert_eq!(count(1, "process"), "1 process");
        assert_eq!(count(2, "process"), "2 processes");
    }
}
