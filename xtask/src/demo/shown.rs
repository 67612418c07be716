//! A finding from `/api/v1/findings`, laid out for a person.

use std::fmt::Write;

use serde_json::Value;

/// Width of the text.
const WIDTH: usize = 90;

/// Prints severity, title, explanation, evidence, subject, remedies.
pub(super) fn print(finding: &Value) {
    print!("{}", render(finding));
}

fn render(finding: &Value) -> String {
    let mut out = String::new();
    let text = |key: &str| finding[key].as_str().unwrap_or_default();
    let heading = format!("{}: {}", text("severity").to_uppercase(), text("title"));
    wrap(&mut out, "  ", "  ", &heading);
    out.push('\n');
    wrap(&mut out, "  ", "  ", text("explanation"));
    table(&mut out, "Evidence", &finding["evidence"]);
    table(&mut out, "Subject", &finding["subject"]);
    let remedies = finding["remedies"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !remedies.is_empty() {
        out.push_str("\n  What to do\n");
    }
    for (number, remedy) in (1..).zip(remedies) {
        wrap(&mut out, &format!("  {number:>3}. "), "       ", &plain(remedy));
    }
    let about = [("Since", "since"), ("Kind", "kind"), ("Runbook", "runbook"), ("Id", "id")];
    out.push('\n');
    for (name, key) in about {
        if let Some(value) = finding[key].as_str() {
            let _ = writeln!(out, "  {name:<9}{value}");
        }
    }
    out
}

fn table(out: &mut String, heading: &str, values: &Value) {
    let Some(values) = values.as_object().filter(|v| !v.is_empty()) else { return };
    let width = values.keys().map(String::len).max().unwrap_or_default();
    let _ = writeln!(out, "\n  {heading}");
    for (key, value) in values {
        let label = format!("    {key:<width$}  ");
        let indent = " ".repeat(label.len());
        wrap(out, &label, &indent, &plain(value));
    }
}

/// A value without JSON's marks.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn wrap(out: &mut String, first: &str, rest: &str, text: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            rest.clone_into(&mut line);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::render;

    #[test]
    fn a_finding_reads_from_what_to_what_to_do() {
        let finding = json!({
            "kind": "close-wait-pileup",
            "severity": "warning",
            "title": "orders-api keeps 37 sockets in CLOSE_WAIT",
            "explanation": "word ".repeat(40),
            "evidence": {"sockets": 37, "sample": ["a", "b"]},
            "subject": {},
            "remedies": ["close them"],
        });
        let shown = render(&finding);
        assert!(shown.starts_with("  WARNING: orders-api keeps 37 sockets in CLOSE_WAIT\n"));
        assert!(shown.contains("    sample   a, b\n"));
        assert!(shown.contains("    1. close them\n"));
        assert!(!shown.contains("Subject"));
        assert!(shown.lines().all(|line| line.len() <= super::WIDTH));
    }
}
