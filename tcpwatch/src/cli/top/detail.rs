//! The lines of the pages that lie over a table: a row in full, a runbook, limits of sight, keys.

use ratatui::text::{Line, Span};
use textwrap::{Options, WordSeparator, WordSplitter, core::display_width};

use super::{
    rows::{key_of_listener, key_of_owner, named, netns},
    snapshot::{Counter, InNamespace, Owner, Snapshot},
    state::{Data, Page, View},
    style::Tone,
};
use crate::{
    cli::report::in_full,
    engine::text,
    plain,
    publish::{Incident, incidents},
    runbooks::runbook,
};

/// Columns before the text of a part.
const INDENT: usize = 14;

/// The lines of a page, each within `width` columns.
pub(super) fn lines(page: &Page, view: View, data: &Data, width: usize) -> Vec<Line<'static>> {
    match page {
        Page::Detail(key) => row_in_full(view, key, data, width),
        Page::Runbook(name) => runbook_lines(runbook(name).unwrap_or_default(), width),
        Page::NotSeen => not_seen(&data.snapshot, width),
        Page::Help => help(),
    }
}

fn row_in_full(view: View, key: &str, data: &Data, width: usize) -> Vec<Line<'static>> {
    let snapshot = &data.snapshot;
    let lines = match view {
        View::Findings => finding(snapshot, key, width),
        View::Owners => {
            let owners = snapshot.owners.keys();
            let listening = snapshot.listeners.iter().map(|it| &it.owner);
            let owner = owners.chain(listening).find(|owner| key_of_owner(owner) == key);
            owner.map(|owner| Part::all(of_owner(owner, data), width))
        }
        View::Listeners => {
            let listener = snapshot.listeners.iter().find(|it| key_of_listener(it) == key);
            listener.map(|it| Part::all(of_owner(&it.owner, data), width))
        }
        View::Ports => {
            snapshot.namespaces.contains_key(key).then(|| Part::all(of_namespace(key, data), width))
        }
        // `view` draws a graph.
        View::Rates => Some(Vec::new()),
    };
    lines.unwrap_or_else(|| {
        vec![Line::styled(
            "It has ended, or is not there any more. Esc goes back.",
            Tone::Strong.style(),
        )]
    })
}

/// A name and a text.
struct Part(&'static str, String);

impl Part {
    fn all(parts: Vec<Self>, width: usize) -> Vec<Line<'static>> {
        let mut lines = Vec::new();
        for Self(name, text) in parts {
            let first = format!("{name:<INDENT$}");
            for (number, line) in
                wrapped(&text, width.saturating_sub(INDENT)).into_iter().enumerate()
            {
                let before = if number == 0 { first.clone() } else { " ".repeat(INDENT) };
                lines.push(Line::from(vec![
                    Span::styled(before, Tone::Strong.style()),
                    Span::raw(line),
                ]));
            }
        }
        lines
    }
}

fn of_owner(owner: &Owner, data: &Data) -> Vec<Part> {
    let snapshot = &data.snapshot;
    let mut parts = vec![Part("process", named(&owner.process).to_owned())];
    if !owner.unit.is_empty() {
        parts.push(Part("unit", owner.unit.clone()));
    }
    parts.push(Part("namespace", netns(&owner.netns).to_owned()));
    if let Some(holdings) = snapshot.owners.get(owner) {
        for it in holdings.close_wait.iter().filter(|it| it.sockets > 0) {
            let port = match (&*it.role, &*it.port) {
                ("client", port) => format!("to port {port}"),
                ("server", port) => format!("of listening port {port}"),
                _ => "of several ports".to_owned(),
            };
            let (sockets, oldest) = (text::count(it.sockets, "socket"), text::duration(it.oldest));
            parts.push(Part("CLOSE_WAIT", format!("{sockets} {port}, the oldest {oldest}")));
        }
        let mut reasons: Vec<_> =
            holdings.failures.iter().filter(|(_, total)| **total > 0.0).collect();
        reasons.sort_by(|one, other| other.1.total_cmp(one.1));
        for (reason, total) in reasons {
            let total = text::number(*total as u64);
            parts.push(Part("connects", format!("{total} failed: {}", reason.replace('_', " "))));
        }
        let failing = data.history.now(|it| *it == Counter::FailuresOf(owner.clone()));
        if let Some(rate) = failing {
            parts.push(Part("", format!("{} failures/s now", text::amount(rate))));
        }
    }
    for it in snapshot.listeners.iter().filter(|it| it.owner == *owner) {
        let (queue, limit) = (text::number(it.queue), text::number(it.limit));
        let half_open = text::number(it.half_open);
        parts.push(Part(
            "listens",
            format!("port {}: accept queue {queue} of {limit}, {half_open} half-open", it.port),
        ));
    }
    let is_its = |subject: &crate::engine::Subject| {
        subject.process.as_deref().is_some_and(|it| *plain::text(it) == *owner.process)
            && *plain::text(&subject.netns) == *owner.netns
    };
    parts.extend(findings_about(snapshot, is_its));
    parts
}

fn of_namespace(name: &str, data: &Data) -> Vec<Part> {
    let mut parts = vec![Part("namespace", netns(name).to_owned())];
    let Some(namespace) = data.snapshot.namespaces.get(name) else { return parts };
    let mut states: Vec<_> = namespace.states.iter().filter(|(_, count)| **count > 0).collect();
    states.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let states: Vec<String> = states
        .into_iter()
        .map(|(state, count)| format!("{} {state}", text::number(*count)))
        .collect();
    parts.push(Part(
        "sockets",
        if states.is_empty() { "none".to_owned() } else { states.join(", ") },
    ));
    let (used, available) =
        (text::number(namespace.ports_used), text::number(namespace.ports_available));
    parts.push(Part("ports", format!("{used} of {available} taken for the worst destination")));
    if let Some(limit) = namespace.time_wait_limit {
        let limit = text::number(limit);
        parts.push(Part("TIME_WAIT", format!("at most {limit} (tcp_max_tw_buckets)")));
    }
    for (noun, counter) in [
        ("accept queue overflow", InNamespace::ListenOverflows),
        ("drop", InNamespace::ListenDrops),
        ("SYN cookie", InNamespace::SynCookies),
        ("TIME_WAIT overflow", InNamespace::TimeWaitOverflows),
    ] {
        let it = Counter::In(counter, name.to_owned());
        if let Some(total) = data.snapshot.counters.get(&it) {
            let now = data.history.now(|counter| *counter == it).map(text::amount);
            let now = now.map_or_else(String::new, |rate| format!(", {rate}/s now"));
            parts.push(Part("counted", format!("{}{now}", text::count(*total as u64, noun))));
        }
    }
    parts.extend(findings_about(&data.snapshot, |it| *plain::text(&it.netns) == *name));
    parts
}

fn findings_about(
    snapshot: &Snapshot,
    is_about: impl Fn(&crate::engine::Subject) -> bool,
) -> Vec<Part> {
    let findings = snapshot.findings.iter().filter(|finding| is_about(&finding.subject));
    let line = |finding: &crate::engine::Finding| {
        let severity = finding.severity.label().to_uppercase();
        Part("finding", format!("{severity} {}", plain::text(&finding.title)))
    };
    findings.map(line).collect()
}

/// The text of `check`, evidence last, with the findings that this one leads below it.
fn finding(snapshot: &Snapshot, id: &str, width: usize) -> Option<Vec<Line<'static>>> {
    let incidents = incidents(&snapshot.findings);
    let own = incidents.iter().find(|incident| incident.leader.id == id);
    let text = match own {
        Some(incident) => in_full(incident, width, snapshot.wall),
        None => {
            let leader = snapshot.findings.iter().find(|finding| finding.id == id)?;
            in_full(&Incident { leader, led: Vec::new() }, width, snapshot.wall)
        }
    };
    Some(text.lines().skip(1).flat_map(|line| styled_lines(line, width)).collect())
}

/// A line of a report in colour. Its texts are plain, so each escape is one of the report's.
fn styled_lines(line: &str, width: usize) -> Vec<Line<'static>> {
    let mut spans = Vec::new();
    let mut tone = Tone::Plain;
    for (number, part) in line.split('\u{1b}').enumerate() {
        let mut words = part;
        if number > 0 {
            let (code, after) = part.split_once('m').unwrap_or((part, ""));
            words = after;
            tone = match code {
                "[0" => Tone::Plain,
                "[31" => Tone::Critical,
                "[33" => Tone::Warning,
                "[34" => Tone::Info,
                "[36" => Tone::Command,
                _ => tone,
            };
        }
        if !words.is_empty() {
            spans.push((words, tone));
        }
    }
    let is_too_long = spans.iter().map(|(words, _)| display_width(words)).sum::<usize>() > width;
    if let (true, Some((command, Tone::Command))) = (is_too_long, spans.last().copied()) {
        let before: String = spans[..spans.len() - 1].iter().map(|(words, _)| *words).collect();
        let indent = display_width(&before);
        let lines = continued(command, width.saturating_sub(indent));
        let line = |(number, line): (usize, String)| {
            let start = if number == 0 { before.clone() } else { " ".repeat(indent) };
            Line::from(vec![Span::raw(start), Span::styled(line, Tone::Command.style())])
        };
        return lines.into_iter().enumerate().map(line).collect();
    }
    let spans = spans.into_iter().map(|(words, tone)| Span::styled(words.to_owned(), tone.style()));
    vec![Line::from(spans.collect::<Vec<_>>())]
}

/// A command in lines of `width`, each but the last with a backslash at its end: a shell takes them
/// for one line. Within single quotes it would not, so those are not broken where that is possible.
fn continued(command: &str, width: usize) -> Vec<String> {
    let width = width.max(20);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in words(command) {
        let is_full = display_width(&line) + 1 + display_width(word) > width - 2;
        if !line.is_empty() && is_full {
            lines.push(format!("{line} \\"));
            line = "  ".to_owned();
        } else if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    let hard = |line: String| textwrap::wrap(&line, width).into_iter().map(String::from).collect();
    lines.into_iter().flat_map(|line| -> Vec<String> { hard(line) }).collect()
}

/// The words of a command; what stands between single quotes is within one.
fn words(command: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let is_end = move |character: char| {
        is_quoted ^= character == '\'';
        character == ' ' && !is_quoted
    };
    command.split(is_end).filter(|word| !word.is_empty()).collect()
}

/// A runbook's Markdown: headings are strong, code has the colour of commands.
fn runbook_lines(markdown: &str, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut is_code = false;
    let mut paragraph = String::new();
    let flush = |paragraph: &mut String, lines: &mut Vec<Line<'static>>| {
        let text = std::mem::take(paragraph);
        lines.extend(wrapped(&text, width).into_iter().filter(|it| !it.is_empty()).map(Line::raw));
    };
    for line in markdown.lines() {
        let is_item = line.starts_with(['-', '*', '|', '>']) || line.starts_with(char::is_numeric);
        if line.starts_with("```") {
            flush(&mut paragraph, &mut lines);
            is_code = !is_code;
        } else if is_code || line.starts_with("    ") {
            flush(&mut paragraph, &mut lines);
            let code = continued_code(line, width);
            lines.extend(code.into_iter().map(|it| Line::styled(it, Tone::Command.style())));
        } else if let Some(heading) = line.strip_prefix('#') {
            flush(&mut paragraph, &mut lines);
            let heading = heading.trim_start_matches('#').trim().to_owned();
            lines.push(Line::styled(heading, Tone::Strong.style()));
        } else if line.is_empty() || is_item {
            flush(&mut paragraph, &mut lines);
            match line {
                "" => lines.push(Line::raw("")),
                line if line.starts_with("|--") => {}
                line => paragraph.push_str(line),
            }
        } else {
            if !paragraph.is_empty() {
                paragraph.push(' ');
            }
            paragraph.push_str(line.trim());
        }
    }
    flush(&mut paragraph, &mut lines);
    lines
}

fn continued_code(line: &str, width: usize) -> Vec<String> {
    if display_width(line) <= width {
        return vec![line.to_owned()];
    }
    let indent = " ".repeat(line.len() - line.trim_start().len());
    let lines = continued(line.trim_start(), width - indent.len());
    lines.into_iter().map(|line| format!("{indent}{line}")).collect()
}

fn not_seen(snapshot: &Snapshot, width: usize) -> Vec<Line<'static>> {
    if snapshot.not_seen.is_empty() {
        return vec![Line::raw("Nothing is hidden from tcpwatch on this host.")];
    }
    let parts = snapshot.not_seen.iter().map(|it| Part("not seen", plain::said(it))).collect();
    Part::all(parts, width)
}

pub(super) fn help() -> Vec<Line<'static>> {
    const KEYS: [(&str, &str); 17] = [
        ("1-5, Tab, ← →", "views: findings, owners, listeners, ports, rates"),
        ("↑ ↓, j k", "select a row, or scroll a page"),
        ("PgUp PgDn", "ten rows"),
        ("Home End, g G", "the first and the last row"),
        ("Enter", "the row in full: why, evidence, what to do"),
        ("e", "the runbook of the finding"),
        ("Esc", "back; in a table it clears the filter"),
        ("s", "order by the next column; after the last, by importance"),
        ("r", "reverse the order"),
        ("/", "filter: rows with this text in any column; Enter keeps it"),
        ("Space", "pause and go on; graphs have no gap after a pause"),
        ("n", "limits of sight: what tcpwatch does not see on this host"),
        ("?, h", "this page"),
        ("q, Ctrl-C", "quit"),
        ("Ctrl-Z", "suspend"),
        ("", ""),
        ("rates", "growth of counters in the last 6 s; `-` is unknown"),
    ];
    let line = |(keys, meaning): (&str, &str)| {
        Line::from(vec![
            Span::styled(format!("{keys:<16}"), Tone::Strong.style()),
            Span::raw(meaning.to_owned()),
        ])
    };
    KEYS.into_iter().map(line).collect()
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let options = Options::new(width.max(20))
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).into_iter().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_continued_as_a_shell_reads_it() {
        let command = "ip netns exec blue ss -tnpo state close-wait '( dport = :3306 )'";
        assert_eq!(
            continued(command, 40),
            ["ip netns exec blue ss -tnpo state \\", "  close-wait '( dport = :3306 )'"]
        );
        assert_eq!(continued("kill 7", 40), ["kill 7"]);
    }

    #[test]
    fn a_report_s_colours_become_tones() {
        let [line] = &styled_lines("\u{1b}[1m\u{1b}[31mCRITICAL\u{1b}[0m  why", 80)[..] else {
            panic!("one line");
        };
        let spans: Vec<_> = line.spans.iter().map(|it| (&*it.content, it.style)).collect();
        let expected = [("CRITICAL", Tone::Critical.style()), ("  why", Tone::Plain.style())];
        assert_eq!(spans, expected);
    }
}
