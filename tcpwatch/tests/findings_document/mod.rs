//! docs/FINDINGS.md: every recorded incident with its findings.
//!
//! Of each finding the document shows the most severe form that it had in its recording, so that
//! the verdicts of one kind can be judged side by side.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context, Result};
use tcpwatch::engine::{Finding, FindingChange, FindingKind};

/// An incident and its findings.
pub(crate) struct Incident {
    /// Name of the recording.
    pub(crate) name: &'static str,
    /// Kind under which it is listed.
    pub(crate) kind: FindingKind,
    /// The situation that was recorded.
    pub(crate) happened: &'static str,
    /// Everything that the engine said of it.
    pub(crate) changes: Vec<FindingChange>,
}

const HEAD: &str = "\
# Findings by incident

Each section below is an incident that was recorded from a real kernel: what happened, and every
finding that tcpwatch had of it, in its most severe form. The thresholds are those of
`tcpwatch/tests/incidents/tcpwatch.toml`, whose times are short. The recordings lie there too; what
identified the machine was taken out of them. A test prints this page:

    UPDATE_INCIDENTS=1 cargo test --package tcpwatch --test incidents
";

/// The whole page.
pub(crate) fn document(incidents: &[Incident]) -> Result<String> {
    let mut text = HEAD.to_owned();
    for kind in FindingKind::ALL {
        let name = kind.name();
        write!(
            text,
            "\n## {name}\n\nSteps to confirm and to cure it: [runbook](runbooks/{name}.md).\n"
        )?;
        let of_kind = incidents.iter().filter(|it| it.kind == kind && !it.changes.is_empty());
        for incident in of_kind {
            write!(text, "\n### {}\n\n{}\n", incident.name, incident.happened)?;
            for finding in worst(&incident.changes) {
                show(&mut text, finding)?;
            }
        }
    }
    text.push_str("\n## Nothing is found\n\nHealthy programs that look like an incident:\n\n");
    for incident in incidents.iter().filter(|it| it.changes.is_empty()) {
        writeln!(text, "- {}: {}", incident.name, incident.happened)?;
    }
    Ok(text)
}

/// The most severe form of each finding, the leading ones first, in the order in which they were
/// raised.
fn worst(changes: &[FindingChange]) -> Vec<&Finding> {
    let mut order = Vec::new();
    let mut worst = BTreeMap::<&str, &Finding>::new();
    for change in changes {
        let (FindingChange::Raised(finding)
        | FindingChange::SeverityChanged { finding, .. }
        | FindingChange::Cleared(finding)) = change;
        match worst.get(finding.id.as_str()) {
            None => order.push(finding.id.as_str()),
            Some(known) if known.severity > finding.severity => continue,
            // The later form knows more: which finding leads it, for one.
            Some(_) => {}
        }
        worst.insert(&finding.id, finding);
    }
    let mut findings: Vec<_> = order.iter().filter_map(|id| worst.get(id).copied()).collect();
    findings.sort_by_key(|finding| finding.led_by.is_some());
    findings
}

fn show(text: &mut String, finding: &Finding) -> Result<()> {
    let kind = finding.kind.name();
    write!(text, "\n**{}** `{kind}`: {}\n", finding.severity, escaped(&finding.title))?;
    if let Some(leader) = &finding.led_by {
        write!(text, "\nIt is shown below `{}` and fires no alert.\n", kind_of(leader)?)?;
    }
    write!(text, "\n> {}\n\n", escaped(&finding.explanation))?;
    for (number, remedy) in finding.remedies.iter().enumerate() {
        writeln!(text, "{}. {}", number + 1, escaped(remedy))?;
    }
    Ok(())
}

/// An id begins with its kind.
fn kind_of(id: &str) -> Result<&str> {
    id.split('/').next().context("an empty id")
}

/// Characters that Markdown would take for its own: `tcp_max_tw_buckets` stays as it is, `<` and `*`
/// do not. Commands stand between backticks, where Markdown takes none.
fn escaped(text: &str) -> String {
    let escape = |part: &str| part.replace('<', "\\<").replace('*', "\\*");
    let parts = text.split('`').enumerate();
    let parts =
        parts.map(|(place, part)| if place % 2 == 0 { escape(part) } else { part.to_owned() });
    parts.collect::<Vec<_>>().join("`")
}
