//! The two formats of `/metrics`, and which of them a client gets.
//!
//! Prometheus prefers OpenMetrics 1.0 since 2.5 and says so in Accept; curl does not, and gets the
//! text format 0.0.4. Both have the same samples.
//!
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::borrow::Cow;

use axum::http::{HeaderMap, header::ACCEPT};

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that a request prefers: OpenMetrics only where it names that with a version that
    /// is 1.0.0 or absent, and weighs it no less than text.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
        for range in ranges.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (1.0_f32, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            match &*media_type {
                "application/openmetrics-text" if version.is_none_or(|it| it == "1.0.0") => {
                    open_metrics = weight.max(open_metrics);
                }
                "text/plain" if version.is_none_or(|it| it == "0.0.4") => text = weight.max(text),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A text of format 0.0.4 in OpenMetrics: a counter's family has the name of its samples without
/// `_total`, quotes in HELP are escaped, and the end is marked.
pub(super) fn open_metrics(text: &str) -> String {
    let mut converted = String::with_capacity(text.len() + 256);
    for line in text.lines() {
        converted.push_str(&open_metrics_line(line));
        converted.push('\n');
    }
    converted.push_str("# EOF\n");
    converted
}

fn open_metrics_line(line: &str) -> Cow<'_, str> {
    let Some((kind, header)) =
        ["# HELP ", "# TYPE "].into_iter().find_map(|kind| Some((kind, line.strip_prefix(kind)?)))
    else {
        return line.into();
    };
    let (name, text) = header.split_once(' ').unwrap_or((header, ""));
    // Only counters end so.
    let name = name.strip_suffix("_total").unwrap_or(name);
    let text = if kind == "# HELP " { text.replace('"', "\\\"").into() } else { Cow::from(text) };
    format!("{kind}{name} {text}").into()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::publish::CATALOG;

    fn format_for(accept: &str) -> Format {
        Format::of(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).expect("ASCII"))]))
    }

    #[test]
    fn a_client_gets_what_it_prefers_and_text_if_it_says_nothing() {
        assert_eq!(Format::of(&HeaderMap::new()), Format::Text);
        for text in [
            "*/*",
            "text/plain;version=0.0.4",
            "text/plain;version=0.0.4;q=0.8,application/openmetrics-text;version=1.0.0;q=0.5",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0",
            "application/json",
        ] {
            assert_eq!(format_for(text), Format::Text, "{text}");
        }
        for open_metrics in [
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=\"1.0.0\"",
            // Prometheus 2.42.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        ] {
            assert_eq!(format_for(open_metrics), Format::OpenMetrics, "{open_metrics}");
        }
    }

    #[test]
    fn headers_change_and_samples_stay() {
        let text = "# HELP a_total Resets, \"as sent\".\n# TYPE a_total counter\n\
                    a_total{cause=\"# TYPE b_total\"} 7\n# HELP c Now.\n# TYPE c gauge\nc 1.5\n";
        let expected = "# HELP a Resets, \\\"as sent\\\".\n# TYPE a counter\n\
                        a_total{cause=\"# TYPE b_total\"} 7\n# HELP c Now.\n# TYPE c gauge\nc 1.5\n\
                        # EOF\n";
        assert_eq!(open_metrics(text), expected);
    }

    /// Else OpenMetrics refuses it.
    #[test]
    fn counters_and_nothing_else_end_with_total() {
        for row in CATALOG {
            let is_counter = row.kind.label() == "counter";
            assert_eq!(row.name.ends_with("_total"), is_counter, "{}", row.name);
        }
    }
}
