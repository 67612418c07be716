//! The page for people, at `/`: findings first, then the numbers behind them.
//!
//! Plain HTML that works without scripts, loads nothing and refreshes itself. Text from the
//! host, process names above all, is of foreign origin: everything is escaped, and
//! [plain](crate::plain).

use std::fmt::{self, Write as _};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Ended, History, Incident, Origin, RemedyPart, WallClock, incidents, overview, overview::row,
    remedy_parts,
};
use crate::{
    engine::{CloseWaitSample, Finding, OwnerLabels, Samples, Severity, Subject, text},
    facts::{NotSeen, Role, TcpState},
    plain,
};

/// Rows of a table; `/metrics` has them all.
const ROWS: usize = 20;

pub(super) const STYLE: &str = include_str!("page.css");

/// The page, complete.
#[must_use]
pub fn render_page(
    findings: &[Finding],
    history: &History,
    samples: &Samples,
    wall: WallClock,
    origin: &Origin<'_>,
) -> String {
    let mut html = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail.
    let _ = write_page(&mut html, findings, history, samples, wall, origin);
    html
}

fn write_page(
    html: &mut String,
    findings: &[Finding],
    history: &History,
    samples: &Samples,
    wall: WallClock,
    origin: &Origin<'_>,
) -> fmt::Result {
    let summary = summary(findings);
    let host = Escaped(origin.host.unwrap_or("tcpwatch"));
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"refresh\" content=\"10\">\n\
         <title>{host}: {summary}</title>\n<style>{STYLE}</style></head><body>\n\
         <header><h1>{host}</h1><p>{summary} · {} · tcpwatch {}</p>\n\
         <nav><a href=\"/metrics\">metrics</a> <a href=\"/api/v1/findings\">findings as JSON</a> \
         <a href=\"/-/ready\">readiness</a></nav></header>\n<main>\n",
        time(wall.rfc3339(wall.now())),
        Escaped(origin.version),
    )?;
    write_findings(html, findings, wall)?;
    write_ended(html, history, wall)?;
    write_not_seen(html, origin.not_seen)?;
    write_states(html, samples)?;
    write_close_wait(html, samples)?;
    write_listeners(html, samples)?;
    write_ports(html, samples)?;
    html.write_str("</main></body></html>\n")
}

fn summary(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let counts: Vec<_> = Severity::ALL
        .into_iter()
        .rev()
        .filter(|severity| count(*severity) > 0)
        .map(|severity| format!("{} {severity}", count(severity)))
        .collect();
    if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") }
}

fn write_not_seen(html: &mut String, not_seen: &[NotSeen]) -> fmt::Result {
    if not_seen.is_empty() {
        return Ok(());
    }
    html.write_str("<section><h2>Not seen</h2>\n<ul class=\"not-seen\">")?;
    for it in not_seen {
        write!(html, "<li>{}</li>", Escaped(&it.to_string()))?;
    }
    html.write_str("</ul></section>\n")
}

fn write_findings(html: &mut String, findings: &[Finding], wall: WallClock) -> fmt::Result {
    html.write_str("<section><h2>Findings</h2>\n")?;
    if findings.is_empty() {
        html.write_str("<p class=\"none\">Nothing is wrong as far as tcpwatch can see.</p>\n")?;
    }
    let mut worst_first: Vec<_> = findings.iter().collect();
    worst_first.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.since));
    let incidents = incidents(worst_first);
    if !incidents.is_empty() {
        write_overview(html, &incidents, wall)?;
    }
    for incident in incidents {
        write_finding(html, incident.leader, &incident.led, wall)?;
    }
    html.write_str("</section>\n")
}

/// All findings in a table, each with a link to its details below.
fn write_overview(html: &mut String, incidents: &[Incident<'_>], wall: WallClock) -> fmt::Result {
    html.write_str(
        "<div class=\"wide\"><table class=\"overview\"><thead><tr><th>severity</th><th>since</th>\
         <th>who</th><th>where</th><th>what</th></tr></thead><tbody>\n",
    )?;
    for row in overview(incidents, wall) {
        writeln!(
            html,
            "<tr class=\"{severity}\"><td><span class=\"severity\">{severity}</span></td><td>{}</td>\
             <td>{}</td><td>{}</td><td>{}<a href=\"#{}\">{}</a></td></tr>",
            row.since,
            Escaped(&row.who),
            Escaped(&row.place),
            if row.is_led { "└ " } else { "" },
            // A browser decodes the fragment before it looks for the id.
            utf8_percent_encode(&plain::text(row.id), NON_ALPHANUMERIC),
            Escaped(&row.what),
            severity = row.severity,
        )?;
    }
    html.write_str("</tbody></table></div>\n")
}

/// The findings that have ended, newest first.
fn write_ended(html: &mut String, history: &History, wall: WallClock) -> fmt::Result {
    let rows = history.ended(wall.now()).map(|Ended { finding, cleared }| {
        let row = row(finding, false, wall);
        let ago = text::duration(wall.now().since(*cleared));
        let lasted = text::duration(cleared.since(finding.since));
        vec![ago, lasted, row.severity.to_string(), row.who, row.place, row.what]
    });
    let header = ["ended before", "lasted", "severity", "who", "where", "what"];
    write_table(html, "Ended in the last day", &header, rows.collect(), 6)
}

/// A finding with those that it leads, within its own element.
fn write_finding(
    html: &mut String,
    finding: &Finding,
    led: &[&Finding],
    wall: WallClock,
) -> fmt::Result {
    write!(
        html,
        "<article class=\"{severity}\" id=\"{}\"><h3><span class=\"severity\">{severity}</span> \
         {}</h3>\n<p>{}</p>\n",
        Escaped(&finding.id),
        Escaped(&finding.title),
        Escaped(&finding.explanation),
        severity = finding.severity,
    )?;
    if !finding.remedies.is_empty() {
        html.write_str("<h4>Remedies</h4><ol>")?;
        for remedy in &finding.remedies {
            html.write_str("<li>")?;
            for part in remedy_parts(remedy) {
                match part {
                    RemedyPart::Words(words) => write!(html, "{}", Escaped(words))?,
                    RemedyPart::Command(command) => {
                        write!(html, "<code>{}</code>", Escaped(command))?;
                    }
                }
            }
            html.write_str("</li>")?;
        }
        html.write_str("</ol>\n")?;
    }
    html.write_str("<details open><summary>Evidence</summary><table class=\"evidence\">\n")?;
    for (key, value) in subject_rows(&finding.subject) {
        write!(html, "<tr><th>{key}</th><td>{}</td></tr>", Escaped(&value))?;
    }
    for (key, value) in finding.evidence.iter() {
        let value = value.lines().join("\n");
        write!(html, "<tr><th>{}</th><td>{}</td></tr>", Escaped(key), Escaped(&value))?;
    }
    write!(
        html,
        "</table></details>\n<p class=\"when\">{kind} since {}, last seen {}; see the \
         <a href=\"/runbooks/{kind}\">runbook</a></p>\n",
        time(wall.rfc3339(finding.since)),
        time(wall.rfc3339(finding.last_seen)),
        kind = finding.kind.name(),
    )?;
    for finding in led {
        write_finding(html, finding, &[], wall)?;
    }
    html.write_str("</article>\n")
}

fn subject_rows(subject: &Subject) -> Vec<(&'static str, String)> {
    let numbers = |numbers: &[u32]| {
        let numbers: Vec<_> = numbers.iter().map(u32::to_string).collect();
        (!numbers.is_empty()).then(|| numbers.join(", "))
    };
    [
        ("netns", (!subject.netns.is_empty()).then(|| subject.netns.to_string())),
        ("process", subject.process.clone()),
        ("pid", subject.pid.map(|pid| pid.to_string())),
        ("exe", subject.exe.clone()),
        ("unit", subject.unit.clone()),
        ("container", subject.container.clone()),
        ("role", subject.role.map(|role| role.label().to_owned())),
        ("local", subject.local.clone()),
        ("peer", subject.peer.clone()),
        ("fds", numbers(&subject.fds)),
        ("stack", (!subject.stack.is_empty()).then(|| subject.stack.join("\n"))),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect()
}

fn write_states(html: &mut String, samples: &Samples) -> fmt::Result {
    let mut header = vec!["namespace"];
    header.extend(TcpState::ALL.map(TcpState::label));
    let rows = samples.namespaces.iter().map(|namespace| {
        let mut row = vec![namespace_name(&namespace.netns)];
        row.extend(TcpState::ALL.map(|state| namespace.sockets.get(state).to_string()));
        row
    });
    write_table(html, "Sockets by state", &header, rows.collect(), 1)
}

fn write_close_wait(html: &mut String, samples: &Samples) -> fmt::Result {
    let mut owners: Vec<&CloseWaitSample> = samples.close_wait.iter().collect();
    owners.sort_by_key(|sample| std::cmp::Reverse(sample.sockets));
    let rows = owners.into_iter().map(|sample| {
        vec![
            process_name(&sample.owner),
            sample.owner.unit.clone(),
            namespace_name(&sample.netns),
            sample.role.map_or("", Role::label).to_owned(),
            sample.port.map_or_else(String::new, |port| port.to_string()),
            sample.sockets.to_string(),
            sample.oldest.as_secs().to_string(),
        ]
    });
    let header = ["process", "unit", "namespace", "role", "port", "sockets", "oldest (s)"];
    write_table(html, "Owners of sockets in CLOSE_WAIT", &header, rows.collect(), 4)
}

fn write_listeners(html: &mut String, samples: &Samples) -> fmt::Result {
    let mut busy: Vec<_> = samples
        .listeners
        .iter()
        .filter(|sample| sample.accept_queue > 0 || sample.half_open > 0)
        .collect();
    busy.sort_by_key(|sample| std::cmp::Reverse(sample.accept_queue + sample.half_open));
    let rows = busy.into_iter().map(|sample| {
        vec![
            process_name(&sample.owner),
            sample.owner.unit.clone(),
            namespace_name(&sample.netns),
            sample.port.map_or_else(String::new, |port| port.to_string()),
            sample.half_open.to_string(),
            sample.accept_queue.to_string(),
            sample.accept_limit.to_string(),
        ]
    });
    let header = ["process", "unit", "namespace", "port", "half-open", "accept queue", "limit"];
    write_table(html, "Listeners with waiting connections", &header, rows.collect(), 3)
}

fn write_ports(html: &mut String, samples: &Samples) -> fmt::Result {
    let rows = samples.namespaces.iter().map(|namespace| {
        vec![
            namespace_name(&namespace.netns),
            namespace.ports_used.to_string(),
            namespace.ports_available.to_string(),
            namespace.sockets.get(TcpState::TimeWait).to_string(),
            namespace.time_wait_limit.map_or_else(String::new, |limit| limit.to_string()),
            namespace.self_connected.to_string(),
        ]
    });
    let header = [
        "namespace",
        "ports of the worst destination",
        "ports available",
        "TIME_WAIT",
        "limit",
        "self-connected",
    ];
    write_table(html, "Limits", &header, rows.collect(), 1)
}

/// A table whose columns from `numbers` on hold numbers; nothing where there are no rows.
fn write_table(
    html: &mut String,
    title: &str,
    header: &[&str],
    rows: Vec<Vec<String>>,
    numbers: usize,
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let class = |column| if column >= numbers { " class=\"n\"" } else { "" };
    write!(html, "<section><h2>{title}</h2><div class=\"wide\"><table><thead><tr>")?;
    for (column, name) in header.iter().enumerate() {
        write!(html, "<th{}>{name}</th>", class(column))?;
    }
    html.write_str("</tr></thead><tbody>\n")?;
    for row in rows.iter().take(ROWS) {
        html.write_str("<tr>")?;
        for (column, cell) in row.iter().enumerate() {
            write!(html, "<td{}>{}</td>", class(column), Escaped(cell))?;
        }
        html.write_str("</tr>\n")?;
    }
    html.write_str("</tbody></table></div>\n")?;
    if let Some(more) = rows.len().checked_sub(ROWS).filter(|more| *more > 0) {
        writeln!(html, "<p class=\"none\">{more} more in <a href=\"/metrics\">metrics</a>.</p>")?;
    }
    html.write_str("</section>\n")
}

fn namespace_name(netns: &str) -> String {
    if netns.is_empty() { "(unnamed)".to_owned() } else { netns.to_owned() }
}

fn process_name(owner: &OwnerLabels) -> String {
    if owner.process.is_empty() { "(unknown)".to_owned() } else { owner.process.clone() }
}

fn time(rfc3339: String) -> String {
    format!("<time datetime=\"{rfc3339}\">{rfc3339}</time>")
}

/// Text within an element or a quoted attribute. Lists have one item on each line.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.0.split('\n').enumerate() {
            if number > 0 {
                f.write_char('\n')?;
            }
            for character in plain::text(line).chars() {
                match character {
                    '&' => f.write_str("&amp;")?,
                    '<' => f.write_str("&lt;")?,
                    '>' => f.write_str("&gt;")?,
                    '"' => f.write_str("&quot;")?,
                    '\'' => f.write_str("&#39;")?,
                    _ => f.write_char(character)?,
                }
            }
        }
        Ok(())
    }
}
