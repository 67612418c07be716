//! The numbers behind the findings, in tables, and the findings that have ended.

use std::{
    cmp::Reverse,
    fmt::{self, Write as _},
};

use super::{Escaped, View, namespace_name};
use crate::{
    engine::{CloseWaitSample, OwnerLabels, text},
    facts::{Role, TcpState},
    publish::{Ended, overview::row},
};

/// Rows of a table; `/metrics` has them all.
const ROWS: usize = 20;

pub(super) fn write_tables(html: &mut String, view: &View<'_>) -> fmt::Result {
    html.write_str("<div class=\"tables\">\n")?;
    write_listeners(html, view)?;
    write_close_wait(html, view)?;
    write_states(html, view)?;
    write_ports(html, view)?;
    write_ended(html, view)?;
    html.write_str("</div>\n")
}

/// The findings that have ended, newest first.
fn write_ended(html: &mut String, view: &View<'_>) -> fmt::Result {
    let wall = view.wall;
    let rows = view.history.ended(wall.now()).map(|Ended { finding, cleared }| {
        let row = row(finding, false, wall);
        let ago = format!("{} ago", text::duration(wall.now().since(*cleared)));
        let lasted = text::duration(cleared.since(finding.since));
        vec![ago, lasted, row.severity.to_string(), row.who, row.place, row.what]
    });
    let header = ["ended", "lasted", "severity", "who", "where", "what"];
    write_table(html, "Ended in the last day", &header, rows.collect(), 6, "api/v1/history")
}

fn write_states(html: &mut String, view: &View<'_>) -> fmt::Result {
    let mut header = vec!["namespace"];
    header.extend(TcpState::ALL.map(TcpState::label));
    let rows = view.samples.namespaces.iter().map(|namespace| {
        let mut row = vec![namespace_name(&namespace.netns).to_owned()];
        row.extend(TcpState::ALL.map(|state| text::number(namespace.sockets.get(state))));
        row
    });
    write_table(html, "Sockets by state", &header, rows.collect(), 1, METRICS)
}

fn write_close_wait(html: &mut String, view: &View<'_>) -> fmt::Result {
    let mut owners: Vec<&CloseWaitSample> = view.samples.close_wait.iter().collect();
    owners.sort_by_key(|sample| Reverse(sample.sockets));
    let rows = owners.into_iter().map(|sample| {
        vec![
            process_name(&sample.owner),
            sample.owner.unit.clone(),
            namespace_name(&sample.netns).to_owned(),
            sample.role.map_or("", Role::label).to_owned(),
            port(sample.port),
            text::number(sample.sockets),
            text::duration(sample.oldest),
        ]
    });
    let header = ["process", "unit", "namespace", "role", "port", "sockets", "oldest"];
    write_table(html, "Owners of sockets in CLOSE_WAIT", &header, rows.collect(), 4, METRICS)
}

fn write_listeners(html: &mut String, view: &View<'_>) -> fmt::Result {
    let mut listeners: Vec<_> = view.samples.listeners.iter().collect();
    listeners.sort_by_key(|sample| Reverse(sample.accept_queue.saturating_add(sample.half_open)));
    let rows = listeners.into_iter().map(|sample| {
        vec![
            process_name(&sample.owner),
            sample.owner.unit.clone(),
            namespace_name(&sample.netns).to_owned(),
            port(sample.port),
            text::number(sample.half_open),
            text::number(sample.accept_queue),
            text::number(sample.accept_limit),
        ]
    });
    let header = ["process", "unit", "namespace", "port", "half-open", "accept queue", "limit"];
    write_table(html, "Listeners, the busiest first", &header, rows.collect(), 3, METRICS)
}

fn write_ports(html: &mut String, view: &View<'_>) -> fmt::Result {
    let rows = view.samples.namespaces.iter().map(|namespace| {
        vec![
            namespace_name(&namespace.netns).to_owned(),
            text::number(namespace.ports_used),
            text::number(namespace.ports_available),
            text::number(namespace.sockets.get(TcpState::TimeWait)),
            namespace.time_wait_limit.map_or_else(String::new, text::number),
            text::number(namespace.self_connected),
        ]
    });
    let header = [
        "namespace",
        "ports used (busiest destination)",
        "ports available",
        "TIME_WAIT",
        "limit",
        "self-connected",
    ];
    write_table(html, "Limits by namespace", &header, rows.collect(), 1, METRICS)
}

const METRICS: &str = "metrics";

/// A table whose columns from `numbers` on hold numbers; nothing where there are no rows. `all` has
/// the rows that do not fit.
fn write_table(
    html: &mut String,
    title: &str,
    header: &[&str],
    rows: Vec<Vec<String>>,
    numbers: usize,
    all: &str,
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let class = |column| if column >= numbers { " class=\"n\"" } else { "" };
    write!(
        html,
        "<section data-key=\"{title}\"><h2>{title}</h2><div class=\"wide\"><table><thead><tr>"
    )?;
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
        writeln!(html, "<p class=\"note\">{more} more in <a href=\"{all}\">{all}</a>.</p>")?;
    }
    html.write_str("</section>\n")
}

fn port(port: Option<u16>) -> String {
    port.map_or_else(String::new, |port| port.to_string())
}

fn process_name(owner: &OwnerLabels) -> String {
    if owner.process.is_empty() { "(unknown)".to_owned() } else { owner.process.clone() }
}
