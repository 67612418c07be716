//! The findings of a look, as `check` prints them for a person and for a monitoring system.
//!
//! The first line is for a monitoring system, which has nothing else with `-q`: there it ends in
//! performance data (monitoring-plugins development guidelines, "Plugin Output"). Commands further
//! down have bars of their own, which such a system would take for more of it. A person has a table
//! of all findings below the line, and then each of severity warning and above in full.

mod details;
mod events;
mod sheet;
mod sockets;
mod table;

use std::fmt::Write as _;

pub(super) use events::EventLines;
pub(super) use sheet::{Paper, cut};
pub(super) use sockets::sockets_report;

use self::sheet::{Sheet, style_of};
use crate::{
    engine::{Finding, Severity, text},
    facts::NotSeen,
    plain,
    publish::{HookState, Incident, Origin, WallClock, findings_json, incidents},
};

/// The source of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The agent that runs on this host.
    Agent,
    /// This process.
    Look,
    /// A recording.
    Recording,
}

/// The result of a look.
pub(super) struct Seen {
    pub(super) source: Source,
    pub(super) findings: Vec<Finding>,
    /// Findings that the filters leave out.
    pub(super) left_out: usize,
    pub(super) not_seen: Vec<NotSeen>,
    /// `None` for a recording, which does not say it.
    pub(super) host: Option<String>,
    /// Version of the tcpwatch that has judged.
    pub(super) version: String,
    /// Release of the kernel.
    pub(super) kernel: String,
    pub(super) sockets: u64,
    pub(super) namespaces: usize,
    /// Where people reach the agent's page.
    pub(super) url: String,
    /// `None` for a recording, which does not say it.
    pub(super) hooks: Option<Vec<HookState>>,
    pub(super) wall: WallClock,
}

/// How much a person wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// The first line, with performance data.
    Line,
    /// Findings of severity warning and above in full, without their evidence.
    Steps,
    /// All of all.
    All,
}

impl Seen {
    pub(super) fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// The limit of sight that hides the host itself, if there is one.
    pub(super) fn hidden_host(&self) -> Option<&NotSeen> {
        self.not_seen.iter().find(|it| it.hides_host)
    }

    pub(super) fn json(&self) -> String {
        let origin = Origin {
            host: self.host.as_deref(),
            version: &self.version,
            kernel: &self.kernel,
            sockets: self.sockets,
            namespaces: self.namespaces,
            url: &self.url,
            hooks: self.hooks.as_deref(),
            not_seen: &self.not_seen,
        };
        findings_json(&self.findings, &origin, self.wall)
    }

    pub(super) fn report(&self, paper: Paper, detail: Detail) -> String {
        let mut sheet = Sheet::new(paper);
        let incidents = incidents(&self.findings);
        self.write_first_line(&mut sheet, &incidents, detail == Detail::Line);
        if detail == Detail::Line {
            return sheet.into_text();
        }
        sheet.wrapped("", "  ", &self.header());
        for it in &self.not_seen {
            sheet.wrapped("not seen  ", "          ", &plain::text(&it.to_string()));
        }
        if !incidents.is_empty() {
            sheet.line("");
            table::write(&mut sheet, &incidents, self.wall);
        }
        let is_verbose = detail == Detail::All;
        let parts = (is_verbose, self.source != Source::Recording);
        let shown = |incident: &&Incident<'_>| is_verbose || incident.severity() > Severity::Info;
        for incident in incidents.iter().filter(shown) {
            details::write(&mut sheet, incident.leader, 0, parts, self.wall);
            for led in &incident.led {
                details::write(&mut sheet, led, 4, parts, self.wall);
            }
        }
        let brief: usize =
            incidents.iter().filter(|it| !shown(it)).map(|it| 1 + it.led.len()).sum();
        if brief > 0 {
            sheet.line("");
            sheet.line(&format!(
                "{} only in the table: -v shows them in full",
                text::count(brief as u64, "info finding")
            ));
        }
        sheet.into_text()
    }

    /// Where, what and when.
    fn header(&self) -> String {
        let mut parts = vec![
            match self.source {
                Source::Agent => "as the running agent sees it",
                Source::Look => "one look of its own",
                Source::Recording => "a recording",
            }
            .to_owned(),
        ];
        parts.extend(self.host.as_ref().map(|host| format!("host {host}")));
        parts.push(format!("Linux {}", self.kernel));
        parts.push(format!("tcpwatch {}", self.version));
        parts.push(format!(
            "{} in {}",
            text::count(self.sockets, "socket"),
            text::count(self.namespaces as u64, "network namespace")
        ));
        parts.push(self.wall.rfc3339(self.wall.now()));
        plain::text(&parts.join(", ")).into_owned()
    }

    fn write_first_line(
        &self,
        sheet: &mut Sheet,
        incidents: &[Incident<'_>],
        is_for_machine: bool,
    ) {
        let count =
            |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let (verdict, severity) = match (self.hidden_host(), self.worst()) {
            (Some(_), _) => ("UNKNOWN", Severity::Warning),
            (None, Some(Severity::Critical)) => ("CRITICAL", Severity::Critical),
            (None, Some(Severity::Warning)) => ("WARNING", Severity::Warning),
            (None, Some(Severity::Info) | None) => ("OK", Severity::Info),
        };
        let [critical, warning, info] =
            [Severity::Critical, Severity::Warning, Severity::Info].map(count);
        let mut line = String::new();
        if let Some(hidden) = self.hidden_host() {
            let _ = write!(line, "not seen: {}; ", hidden.lost);
        }
        let _ = write!(line, "{critical} critical, {warning} warning, {info} info");
        if self.left_out > 0 {
            let _ = write!(line, ", {} left out by the filters", self.left_out);
        }
        if !self.not_seen.is_empty() {
            let _ = write!(line, ", {} not seen", self.not_seen.len());
        }
        if let Some(worst) = incidents.first().filter(|it| it.severity() > Severity::Info) {
            let _ = write!(line, "; {}", worst_of(worst).title);
        }
        // A monitoring system takes text after a bar for performance data.
        let mut line = plain::text(&line).replace('|', "/");
        if is_for_machine {
            let _ = write!(line, " | critical={critical} warning={warning} info={info}");
        }
        sheet.headline(&format!("{verdict}: "), "  ", &line, style_of(severity));
    }
}

/// An incident in full, in colour, in so many columns: steps first, evidence below. Only commands
/// may be longer.
pub(super) fn in_full(incident: &Incident<'_>, columns: usize, wall: WallClock) -> String {
    let mut sheet = Sheet::new(Paper { width: Some(columns), coloured: true });
    let led = incident.led.iter().map(|it| (*it, 4));
    for (finding, left) in std::iter::once((incident.leader, 0)).chain(led) {
        details::write(&mut sheet, finding, left, (false, true), wall);
        details::write_evidence(&mut sheet, finding, left);
    }
    sheet.into_text()
}

/// The finding of an incident that gives it its severity, the leader among equals.
fn worst_of<'a>(incident: &Incident<'a>) -> &'a Finding {
    let mut all = std::iter::once(incident.leader).chain(incident.led.iter().copied());
    all.find(|it| it.severity == incident.severity()).unwrap_or(incident.leader)
}
