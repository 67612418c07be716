//! Reads the text format of Prometheus, as far as an agent writes it.
//!
//! The crate for it on crates.io reads lines by a regular expression and does not undo the escapes
//! of labels (0.2.5), and names of processes hold quotes. This is text format 0.0.4: comments,
//! labels with `\\`, `\"` and `\n`, a value; no timestamps are expected and any are ignored.

use std::borrow::Cow;

/// One series and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series<'a> {
    pub(super) name: &'a str,
    labels: Vec<(&'a str, Cow<'a, str>)>,
    pub(super) value: f64,
}

impl Series<'_> {
    /// The value of a label; empty where it is absent, which is the same to Prometheus.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(it, _)| *it == name).map_or("", |(_, value)| value)
    }
}

/// A line that is no series.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {0} of the metrics is none")]
pub(super) struct LineError(usize);

/// All series of `text`, in their order.
///
/// # Errors
///
/// The number of the first line that is neither a series nor a comment.
pub(super) fn parse(text: &str) -> Result<Vec<Series<'_>>, LineError> {
    let lines = text.lines().enumerate();
    let series = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    series.map(|(index, line)| parse_series(line).ok_or(LineError(index + 1))).collect()
}

fn parse_series(line: &str) -> Option<Series<'_>> {
    let (name, mut after) = line.split_at(line.find(['{', ' '])?);
    let mut labels = Vec::new();
    if let Some(mut list) = after.strip_prefix('{') {
        loop {
            if let Some(after_list) = list.strip_prefix('}') {
                after = after_list;
                break;
            }
            let (label, value) = list.split_once("=\"")?;
            let end = end_of_value(value)?;
            labels.push((label, unescaped(&value[..end])));
            list = &value[end + 1..];
            list = list.strip_prefix(',').unwrap_or(list);
        }
    }
    let value = after.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Series { name, labels, value })
}

/// The place of the quote that ends a value.
fn end_of_value(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some(escaped) => text.push(escaped),
                None => {}
            },
            _ => text.push(character),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_quotes_commas_and_braces_are_read_whole() {
        let text = "# HELP a b\n\na 1\nb{x=\"1\",y=\"a\\\"},{\\\\\\n\"} 2.5e3\nc{} +Inf\n";
        let series = parse(text).expect("series");
        let values: Vec<_> = series.iter().map(|it| (it.name, it.value)).collect();
        assert_eq!(values, [("a", 1.0), ("b", 2_500.0), ("c", f64::INFINITY)]);
        assert_eq!(series[1].label("x"), "1");
        assert_eq!(series[1].label("y"), "a\"},{\\\n");
        assert_eq!(series[1].label("z"), "");
    }

    #[test]
    fn a_line_that_is_no_series_is_named() {
        for line in ["a", "a{", "a{x=\"1} 2", "a{x} 1", "a b", "a{x=\"1\"}"] {
            assert_eq!(parse(&format!("a 1\n{line}\n")), Err(LineError(2)), "{line}");
        }
    }

    #[test]
    fn every_line_of_an_agent_is_read() {
        let text = include_str!("../../../tests/golden/metrics.txt");
        let written = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(parse(text).map(|series| series.len()), Ok(written));
    }
}
