//! The findings of a look in a table: a line for each.

use super::{
    sheet::{Sheet, cut, padded},
    style_of,
};
use crate::{
    engine::{Evidence, Finding, Subject, text},
    facts::Role,
    plain,
    publish::{Incident, WallClock},
};

const HEADER: [&str; 5] = ["SEVERITY", "SINCE", "WHO", "WHERE", "WHAT"];
/// Most columns of WHO.
const MOST: usize = 30;
/// Columns that WHERE has in any case, of a terminal that is wide enough.
const LEAST: usize = 24;
/// Between two columns.
const GAP: usize = 2;

pub(super) fn write(sheet: &mut Sheet, incidents: &[Incident<'_>], wall: WallClock) {
    let rows: Vec<[String; 5]> = incidents
        .iter()
        .flat_map(|incident| {
            let led = incident.led.iter().map(|finding| row(finding, true, wall));
            std::iter::once(row(incident.leader, false, wall)).chain(led)
        })
        .collect();
    let severities = incidents.iter().flat_map(|incident| {
        let led = incident.led.iter().map(|finding| finding.severity);
        std::iter::once(incident.leader.severity).chain(led)
    });
    let mut widths = HEADER.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(textwrap::core::display_width(cell));
        }
    }
    if let Some(columns) = sheet.width() {
        fit(&mut widths, columns);
    }
    let header = line(&HEADER.map(str::to_owned), &widths);
    let header = sheet.styled(anstyle::Style::new().bold(), header.trim_end());
    sheet.line(&header);
    for (row, severity) in rows.iter().zip(severities) {
        let line = line(row, &widths);
        let (first, others) = line.split_at(row[0].len());
        let first = sheet.styled(style_of(severity), first);
        sheet.line(&format!("{first}{others}"));
    }
}

/// Cuts the last columns down to what a terminal has.
fn fit(widths: &mut [usize; 5], columns: usize) {
    let [severity, since, who, place, what] = widths;
    let left = columns.saturating_sub(*severity + *since + 4 * GAP);
    *who = (*who).min(left / 2).min(MOST);
    let left = left - *who;
    // The kind comes first: the place is in the text below the table too.
    *what = (*what).min((left / 2).max(left.saturating_sub(LEAST)));
    *place = (*place).min(left - *what);
}

fn line(cells: &[String; 5], widths: &[usize; 5]) -> String {
    let cells = cells.iter().zip(widths);
    let cells = cells.map(|(cell, width)| padded(&cut(cell, *width), width + GAP));
    cells.collect()
}

fn row(finding: &Finding, is_led: bool, wall: WallClock) -> [String; 5] {
    let age = wall.now().since(finding.since);
    [
        finding.severity.label().to_uppercase(),
        if age.as_secs() == 0 { "now".to_owned() } else { text::duration(age) },
        plain::text(&who(finding)).into_owned(),
        plain::text(&place(&finding.subject)).into_owned(),
        plain::text(&what(finding, is_led)).into_owned(),
    ]
}

fn who(finding: &Finding) -> String {
    let Subject { process, pid, .. } = &finding.subject;
    match (process, pid) {
        (Some(process), Some(pid)) => format!("{process} (pid {pid})"),
        (Some(process), None) => process.clone(),
        (None, _) if finding.kind.has_owner() => "unknown".to_owned(),
        (None, _) => "this host".to_owned(),
    }
}

/// The other end of a client, this end of a server; the namespace where it is not the host's.
fn place(subject: &Subject) -> String {
    let peer = subject.peer.as_ref().map(|peer| format!("to {peer}"));
    let local = subject.local.as_ref().map(|local| format!("on {local}"));
    let port = subject.port.map(|port| format!("port {port}"));
    let place = match subject.role {
        Some(Role::Server) => local.or(port).or(peer),
        Some(Role::Client) | None => peer.or(local).or(port),
    };
    let netns = match &*subject.netns {
        "host" => None,
        "" => Some("in an unnamed namespace".to_owned()),
        name => Some(format!("in {name}")),
    };
    let parts: Vec<String> = [place, netns].into_iter().flatten().collect();
    parts.join(" ")
}

/// Its kind, and the number that its evidence begins with: `close-wait-pileup, 24 sockets`.
fn what(finding: &Finding, is_led: bool) -> String {
    let kind = finding.kind.name();
    let mut numbers = finding.evidence.iter().filter_map(|(key, value)| match value {
        Evidence::Count(count) => Some((key, *count)),
        _ => None,
    });
    let number = numbers.next().map(|(key, count)| {
        let noun = key.replace('_', " ");
        let noun = if count == 1 { noun.strip_suffix('s').unwrap_or(&noun) } else { &noun };
        format!(", {} {noun}", text::number(count))
    });
    let below = if is_led { "└ " } else { "" };
    format!("{below}{kind}{}", number.unwrap_or_default())
}
