//! The page for people, at `/`: all findings in one table, the limits and the last hour beside it,
//! then the details.
//!
//! HTML that is complete without a script. With one (`page.js`) it is fetched anew after each
//! inventory, and only the parts that differ are changed. It loads nothing from elsewhere, and has
//! neither script nor style within. Text from the host, process names above all, is of foreign
//! origin: everything is escaped, and [plain](crate::plain).
//!
//! Each part has a file: `findings`, `limits`, `plots`, `tables`, `health`.

mod escape;
mod findings;
mod health;
mod limits;
mod plots;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use self::escape::Escaped;
pub(crate) use self::limits::severity_of_part;
pub use self::limits::{LimitUse, kernel_limits};
use super::{History, Origin, Trends, WallClock};
use crate::{
    engine::{Finding, Samples, Severity, text},
    facts::Timestamp,
};

/// The files that the page loads: path, type, text.
pub(super) const FILES: [(&str, &str, &str); 3] = [
    ("/page.css", "text/css; charset=utf-8", include_str!("assets/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("assets/page.js")),
    ("/favicon.svg", "image/svg+xml", include_str!("assets/favicon.svg")),
];

/// The beginning of each page, up to its title. `root` leads from the page to `/`: all addresses are
/// relative, because a proxy may serve tcpwatch below a path.
pub(super) fn head(root: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" href=\"{root}favicon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"{root}page.css\">\n"
    )
}

/// Seconds after which a page without script is loaded anew. A reader has opened details then, which
/// close: long enough to read one.
const RELOAD_SECONDS: u32 = 120;

/// Everything that the page shows.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Host, versions, size, hooks, limits of sight.
    pub origin: Origin<'a>,
    /// The clock of all times.
    pub wall: WallClock,
    /// Findings that stand.
    pub findings: &'a [Finding],
    /// Findings that have ended.
    pub history: &'a History,
    /// The numbers of the last inventory.
    pub samples: &'a Samples,
    /// The numbers of the last hour.
    pub trends: &'a Trends,
    /// Limits of the kernel, as of the last inventory.
    pub limits: &'a [LimitUse],
    /// How the agent fares.
    pub agent: AgentView<'a>,
}

/// How the agent fares.
#[derive(Clone, Debug)]
pub struct AgentView<'a> {
    /// When it was started.
    pub started: Timestamp,
    /// When the last inventory ended; `None` before the first.
    pub inventoried: Option<Timestamp>,
    /// The time between inventories.
    pub interval: Duration,
    /// Whether it is ready; if not, why not.
    pub ready: Result<(), String>,
    /// Events and log lines lost since the start, by stage.
    pub lost: &'a [(&'static str, u64)],
}

/// The page, complete.
#[must_use]
pub fn render_page(view: &View<'_>) -> String {
    let mut html = String::with_capacity(64 * 1024);
    // Writing to a String cannot fail.
    let _ = write_page(&mut html, view);
    html
}

fn write_page(html: &mut String, view: &View<'_>) -> fmt::Result {
    let host = Escaped(view.origin.host.unwrap_or("tcpwatch"));
    let summary = summary(view.findings);
    let head = head("");
    // A page that is not refreshed for three inventories says so.
    let patience = view.agent.interval.as_secs().saturating_mul(3).max(15);
    write!(
        html,
        "{head}<script src=\"page.js\" defer></script>\n\
         <noscript><meta http-equiv=\"refresh\" content=\"{RELOAD_SECONDS}\"></noscript>\n\
         <title>{host}: {summary}</title></head><body data-patience=\"{patience}\">\n\
         <a class=\"skip\" href=\"#findings\">Skip to the findings</a>\n\
         <p id=\"stale\" role=\"status\" hidden></p>\n"
    )?;
    write_header(html, view)?;
    html.write_str("<main id=\"main\">\n")?;
    findings::write_overview(html, view)?;
    html.write_str("<div class=\"now\">\n")?;
    plots::write_plots(html, view)?;
    limits::write_limits(html, view)?;
    html.write_str("</div>\n")?;
    findings::write_findings(html, view)?;
    tables::write_tables(html, view)?;
    health::write_health(html, view)?;
    html.write_str("</main></body></html>\n")
}

fn write_header(html: &mut String, view: &View<'_>) -> fmt::Result {
    let View { origin, wall, agent, .. } = view;
    write!(
        html,
        "<header><h1>{}</h1><p class=\"counts\">",
        Escaped(origin.host.unwrap_or("tcpwatch"))
    )?;
    for (severity, count) in counts(view.findings) {
        write!(html, "<span class=\"{severity} count\">{count} {severity}</span>")?;
    }
    if view.findings.is_empty() {
        html.write_str("<span class=\"count\">no findings</span>")?;
    }
    html.write_str(
        "</p><nav aria-label=\"Data\"><a href=\"metrics\">metrics</a> \
         <a href=\"api/v1/findings\">findings as JSON</a> \
         <a href=\"api/v1/history\">history</a> <a href=\"-/ready\">readiness</a></nav>\n\
         <ul class=\"facts\">",
    )?;
    let sockets = text::count(origin.sockets, "socket");
    let namespaces = text::count(origin.namespaces as u64, "network namespace");
    write!(
        html,
        "<li>tcpwatch {}</li><li>kernel {}</li><li>{sockets}</li><li>{namespaces}</li>\
         <li>running since {} ({})</li>",
        Escaped(origin.version),
        Escaped(origin.kernel),
        time(*wall, agent.started),
        text::duration(wall.now().since(agent.started)),
    )?;
    health::write_state(html, view)?;
    if let Some(at) = agent.inventoried {
        write!(html, "<li>as of <span id=\"as-of\">{}</span></li>", time(*wall, at))?;
    }
    html.write_str("</ul></header>\n")
}

/// How many findings of each severity, the worst first; none where there are none.
fn counts(findings: &[Finding]) -> impl Iterator<Item = (Severity, usize)> {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let counts = Severity::ALL.into_iter().rev().map(move |severity| (severity, count(severity)));
    counts.filter(|(_, count)| *count > 0)
}

fn summary(findings: &[Finding]) -> String {
    let counts: Vec<_> =
        counts(findings).map(|(severity, count)| format!("{count} {severity}")).collect();
    if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") }
}

/// A moment, to the second for a person and to the millisecond for a machine. A person needs the
/// day only where it is not today.
fn time(wall: WallClock, at: Timestamp) -> String {
    const DAY: usize = "2026-11-20".len();
    const SECOND: usize = "2026-11-20T08:00:00".len();
    let (machine, now) = (wall.rfc3339(at), wall.rfc3339(wall.now()));
    let is_today = machine.get(..DAY) == now.get(..DAY);
    let from = if is_today { DAY + 1 } else { 0 };
    let person = machine.get(from..SECOND).unwrap_or(&machine).replace('T', " ");
    format!("<time datetime=\"{machine}\">{person} UTC</time>")
}

fn namespace_name(netns: &str) -> &str {
    if netns.is_empty() { "(unnamed)" } else { netns }
}
