//! The findings: a table of all, then each with its details.
//!
//! A finding is a `<details>` whose content has the finding's id. So a browser opens it for a link
//! from the table, also without a script. The worst is open. `data-key` names an element across
//! updates, so that `page.js` leaves it as the reader has left it.

use std::{
    cmp::Reverse,
    fmt::{self, Write as _},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Escaped, View, plots, time};
use crate::{
    engine::{Finding, Subject, selection_of, text},
    plain,
    publish::{
        Incident, RemedyPart, WallClock, incidents,
        overview::{main_number, noun, row},
        remedy_parts,
    },
};

/// Incidents that are shown; the JSON has them all. A person reads no more.
const INCIDENTS: usize = 100;

/// The incidents to show, the worst first, and how many more there are.
fn worst<'a>(view: &View<'a>) -> (Vec<Incident<'a>>, usize) {
    let mut findings: Vec<_> = view.findings.iter().collect();
    findings.sort_by_key(|finding| (Reverse(finding.severity), finding.since));
    let mut incidents = incidents(findings);
    let more = incidents.len().saturating_sub(INCIDENTS);
    incidents.truncate(INCIDENTS);
    (incidents, more)
}

/// All findings in a table, each with a link to its details below.
pub(super) fn write_overview(html: &mut String, view: &View<'_>) -> fmt::Result {
    html.write_str("<section id=\"findings\" tabindex=\"-1\"><h2>Findings</h2>\n")?;
    let (incidents, more) = worst(view);
    if incidents.is_empty() {
        let is_blind = view.origin.not_seen.iter().any(|it| it.hides_host);
        return html.write_str(if is_blind {
            "<p>No findings, but the host itself is not seen.</p></section>\n"
        } else {
            "<p class=\"fine\">Nothing is wrong as far as tcpwatch can see.</p></section>\n"
        });
    }
    html.write_str(
        "<table class=\"overview\"><thead><tr><th>severity</th><th>since</th><th>who</th>\
         <th>where</th><th>what</th><th class=\"n\">number</th><th></th><th class=\"trend\">",
    )?;
    writeln!(html, "last {}</th></tr></thead><tbody>", plots::window(view))?;
    for Incident { leader, led } in &incidents {
        write_row(html, leader, false, view)?;
        for finding in led {
            write_row(html, finding, true, view)?;
        }
    }
    html.write_str("</tbody></table>\n")?;
    if more > 0 {
        let more = text::number(more as u64);
        writeln!(
            html,
            "<p class=\"note\">{more} more in <a href=\"api/v1/findings\">findings as JSON</a>.</p>"
        )?;
    }
    html.write_str("</section>\n")
}

fn write_row(html: &mut String, finding: &Finding, is_led: bool, view: &View<'_>) -> fmt::Result {
    let row = row(finding, is_led, view.wall);
    let severity = row.severity;
    write!(
        html,
        "<tr class=\"{severity}{}\" data-key=\"row {}\"><td><span class=\"severity\">{severity}\
         </span></td><td class=\"since\">{}</td><td>{}</td><td>{}</td><td class=\"what\">\
         <a href=\"#{}\">{}</a></td>",
        if is_led { " led" } else { "" },
        Escaped(row.id),
        row.since,
        Escaped(&row.who),
        Escaped(&row.place),
        // A browser decodes the fragment before it looks for the id.
        utf8_percent_encode(&plain::text(row.id), NON_ALPHANUMERIC),
        finding.kind.name(),
    )?;
    match main_number(finding) {
        Some((key, count)) => write!(
            html,
            "<td class=\"n\"><b>{}</b></td><td class=\"unit\">{}</td>",
            text::number(count),
            Escaped(&noun(key, count))
        )?,
        None => html.write_str("<td class=\"n\"></td><td class=\"unit\"></td>")?,
    }
    html.write_str("<td class=\"trend\">")?;
    if let Some(ring) = view.trends.finding(&finding.id) {
        plots::write_sparkline(html, ring, view)?;
    }
    html.write_str("</td></tr>\n")
}

/// Each finding with its details.
pub(super) fn write_findings(html: &mut String, view: &View<'_>) -> fmt::Result {
    let (incidents, _) = worst(view);
    if incidents.is_empty() {
        return Ok(());
    }
    html.write_str("<section class=\"details\"><h2>Details</h2>\n")?;
    for (place, incident) in incidents.iter().enumerate() {
        write_finding(html, incident.leader, &incident.led, place == 0, view.wall)?;
    }
    html.write_str("</section>\n")
}

/// A finding with those that it leads, within its own element.
fn write_finding(
    html: &mut String,
    finding: &Finding,
    led: &[&Finding],
    is_open: bool,
    wall: WallClock,
) -> fmt::Result {
    let id = Escaped(&finding.id);
    write!(
        html,
        "<details class=\"finding {severity}\" data-key=\"finding {id}\"{}><summary>\
         <span class=\"severity\">{severity}</span> <h3>{}</h3></summary>\n\
         <article id=\"{id}\" tabindex=\"-1\">\n<div class=\"story\"><p>{}</p>\n",
        if is_open { " open" } else { "" },
        Escaped(&finding.title),
        Escaped(&finding.explanation),
        severity = finding.severity,
    )?;
    write_remedies(html, &finding.remedies)?;
    let sockets = match selection_of(finding) {
        // An id stands in a query as it is.
        Ok(_) => format!(" <a href=\"api/v1/sockets?finding={id}\">Sockets as JSON</a>"),
        Err(_) => String::new(),
    };
    writeln!(
        html,
        "<p class=\"note\">{kind} since {}, last seen {}. <a href=\"runbooks/{kind}\">Runbook</a>\
         {sockets}</p></div>",
        time(wall, finding.since),
        time(wall, finding.last_seen),
        kind = finding.kind.name(),
    )?;
    write_evidence(html, finding)?;
    html.write_str("</article>\n")?;
    if !led.is_empty() {
        html.write_str("<h4>Findings with this cause</h4>\n")?;
    }
    for finding in led {
        write_finding(html, finding, &[], false, wall)?;
    }
    html.write_str("</details>\n")
}

fn write_remedies(html: &mut String, remedies: &[String]) -> fmt::Result {
    if remedies.is_empty() {
        return Ok(());
    }
    html.write_str("<h4>Remedies</h4><ol>")?;
    for remedy in remedies {
        html.write_str("<li>")?;
        for part in remedy_parts(remedy) {
            match part {
                RemedyPart::Words(words) => write!(html, "{}", Escaped(words))?,
                RemedyPart::Command(command) => write!(
                    html,
                    "<span class=\"command\"><code>{}</code><button type=\"button\" class=\"copy\" \
                     aria-label=\"Copy the command\">copy</button></span>",
                    Escaped(command)
                )?,
            }
        }
        html.write_str("</li>")?;
    }
    html.write_str("</ol>\n")
}

fn write_evidence(html: &mut String, finding: &Finding) -> fmt::Result {
    html.write_str("<table class=\"evidence\"><caption>Evidence</caption>\n")?;
    for (key, value) in subject_rows(&finding.subject) {
        write!(html, "<tr><th>{key}</th><td>{}</td></tr>", Escaped(&value))?;
    }
    for (key, value) in finding.evidence.iter() {
        let value = value.lines().join("\n");
        let key = key.replace('_', " ");
        write!(html, "<tr><th>{}</th><td>{}</td></tr>", Escaped(&key), Escaped(&value))?;
    }
    html.write_str("</table>")
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
