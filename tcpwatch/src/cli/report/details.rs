//! A finding in full: who, since when, why, what to do.

use super::sheet::{Sheet, style_of};
use crate::{
    engine::{Finding, Subject, named_as, selection_of, text},
    plain,
    publish::{RemedyPart, WallClock, remedy_parts},
};

/// Columns before the text of a part.
const INDENT: usize = 10;
/// A command up to this length stays within its sentence.
const SHORT_COMMAND: usize = 30;
const COMMAND: anstyle::Style = anstyle::AnsiColor::Cyan.on_default();

/// Writes `finding`, so many columns from the left. `has_sockets`: they can still be listed.
pub(super) fn write(
    sheet: &mut Sheet,
    finding: &Finding,
    left: usize,
    (is_verbose, has_sockets): (bool, bool),
    wall: WallClock,
) {
    let margin = " ".repeat(left);
    let severity = finding.severity.label().to_uppercase();
    let before = format!("{margin}{severity:<INDENT$}");
    let others = " ".repeat(left + INDENT);
    let title = plain::text(&finding.title).into_owned();
    sheet.line("");
    sheet.headline(&before, &others, &title, style_of(finding.severity));
    let mut part = |name: &str, text: &str| {
        sheet.wrapped(&format!("{margin}  {name:<8}"), &others, &plain::text(text));
    };
    part("kind", finding.kind.name());
    if let Some(who) = who(&finding.subject) {
        part("who", &who);
    }
    let age = wall.now().since(finding.since);
    part("since", &format!("{} ({})", wall.rfc3339(finding.since), text::duration(age)));
    part("why", &finding.explanation);
    for (number, frame) in finding.subject.stack.iter().enumerate() {
        part(if number == 0 { "code" } else { "" }, frame);
    }
    if is_verbose {
        write_evidence(sheet, finding, left);
    }
    for (number, remedy) in finding.remedies.iter().enumerate() {
        write_remedy(sheet, &format!("{margin}  help {:<3}", number + 1), &others, remedy);
    }
    let mut more = vec![format!("tcpwatch explain {}", finding.kind.name())];
    if has_sockets && selection_of(finding).is_ok() {
        more.push(format!("tcpwatch sockets --finding {}", finding.id));
    }
    for (number, line) in more.iter().enumerate() {
        let name = if number == 0 { "more" } else { "" };
        sheet.line(&format!("{margin}  {name:<8}{line}"));
    }
}

/// Writes the numbers that a finding rests on, so many columns from the left.
pub(super) fn write_evidence(sheet: &mut Sheet, finding: &Finding, left: usize) {
    let margin = " ".repeat(left);
    let others = " ".repeat(left + INDENT);
    for (key, value) in finding.evidence.iter() {
        let mut name = format!("{}: ", key.replace('_', " "));
        for (number, line) in value.lines().into_iter().enumerate() {
            let first = format!("{margin}  {:<8}", if number == 0 { "data" } else { "" });
            sheet.wrapped(&first, &others, &plain::text(&format!("{name}{line}")));
            // The other lines of a list stand below the first.
            name = " ".repeat(name.len());
        }
    }
}

/// The process with its program, unit or container, and namespace.
fn who(subject: &Subject) -> Option<String> {
    let process = subject.process.as_ref()?;
    let mut parts = vec![match subject.pid {
        Some(pid) => named_as(process, pid),
        None => process.clone(),
    }];
    parts.extend(subject.exe.clone());
    parts.extend(subject.unit.as_ref().map(|unit| format!("unit {unit}")));
    parts.extend(subject.container.as_ref().map(|id| format!("container {id}")));
    if &*subject.netns != "host" && !subject.netns.is_empty() {
        parts.push(format!("network namespace {}", subject.netns));
    }
    Some(parts.join(", "))
}

/// Commands stand on lines of their own, to be copied; a short one in the middle stays in its
/// sentence.
fn write_remedy(sheet: &mut Sheet, first: &str, others: &str, remedy: &str) {
    let remedy = plain::text(remedy);
    let parts: Vec<RemedyPart<'_>> = remedy_parts(&remedy).collect();
    let mut sentence = String::new();
    let mut before = first.to_owned();
    for (place, part) in parts.iter().enumerate() {
        match *part {
            RemedyPart::Words(words) => sentence.push_str(words),
            RemedyPart::Command(command) => {
                let is_last =
                    parts[place + 1..].iter().all(|it| matches!(it, RemedyPart::Words(_)));
                let is_introduced = is_last && sentence.ends_with(": ");
                if command.len() <= SHORT_COMMAND && !is_introduced {
                    sentence.push_str(&format!("`{command}`"));
                    continue;
                }
                write_sentence(sheet, &mut before, others, &mut sentence);
                let command = sheet.styled(COMMAND, command);
                let start = std::mem::replace(&mut before, others.to_owned());
                sheet.line(&format!("{start}  {command}"));
            }
        }
    }
    write_sentence(sheet, &mut before, others, &mut sentence);
}

/// Writes what was gathered; after a command it begins with a word.
fn write_sentence(sheet: &mut Sheet, before: &mut String, others: &str, sentence: &mut String) {
    let text = sentence.trim_start_matches([',', ';', '.', ' ']).trim_end().to_owned();
    sentence.clear();
    if !text.is_empty() {
        sheet.wrapped(&std::mem::replace(before, others.to_owned()), others, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sheet::Paper, *};

    fn written(remedy: &str) -> String {
        let mut sheet = Sheet::new(Paper { width: Some(60), coloured: false });
        write_remedy(&mut sheet, "  help 1  ", "          ", remedy);
        sheet.into_text()
    }

    #[test]
    fn a_command_stands_on_a_line_of_its_own_and_is_never_wrapped() {
        let command = "ip netns exec blue ss -tnpo state close-wait '( dport = :3306 )'";
        assert_eq!(
            written(&format!("Look at them: `{command}` (Recv-Q is what waits)")),
            format!(
                "  help 1  Look at them:\n            {command}\n          (Recv-Q is what waits)\n"
            )
        );
        assert_eq!(written("Now: `kill 7`"), "  help 1  Now:\n            kill 7\n");
        assert_eq!(
            written(&format!("`{command}`, or restart it.")),
            format!("  help 1    {command}\n          or restart it.\n")
        );
    }

    #[test]
    fn a_short_command_stays_in_its_sentence() {
        assert_eq!(
            written("End api (`kill 7`, or `kill -9 7` if it hangs)."),
            "  help 1  End api (`kill 7`, or `kill -9 7` if it hangs).\n"
        );
    }
}
