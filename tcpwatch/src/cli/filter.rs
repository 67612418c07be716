//! The findings that a person wants to see.

use std::collections::BTreeSet;

use clap::{Args, builder::PossibleValuesParser};

use crate::{
    engine::{Finding, FindingKind, Severity},
    plain,
};

/// Options that leave findings out. Those of one option are alternatives, different options all
/// apply.
#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only findings of this kind; may be repeated
    #[arg(long = "kind", value_name = "KIND", value_parser = kinds())]
    kinds: Vec<String>,
    /// Only findings of processes of this name (comm); may be repeated
    #[arg(long = "process", value_name = "NAME")]
    processes: Vec<String>,
    /// Only findings of this systemd unit; may be repeated
    #[arg(long = "unit", value_name = "UNIT")]
    units: Vec<String>,
    /// Only findings of this container or pod; may be repeated
    #[arg(long = "container", value_name = "ID")]
    containers: Vec<String>,
    /// Only findings in this network namespace, `host` for the host's own; may be repeated
    #[arg(long = "netns", value_name = "NAME")]
    namespaces: Vec<String>,
    /// Only findings about this port of a service; may be repeated
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
    /// Only findings of this severity or worse
    #[arg(long, value_name = "SEVERITY", value_parser = severities())]
    min_severity: Option<String>,
}

fn kinds() -> PossibleValuesParser {
    FindingKind::ALL.map(FindingKind::name).into()
}

fn severities() -> PossibleValuesParser {
    Severity::ALL.map(Severity::label).into()
}

impl Filter {
    /// Leaves out of `findings` what does not match, and returns how many. A finding brings those
    /// that it leads, which have the same cause.
    pub(super) fn apply(&self, findings: &mut Vec<Finding>) -> usize {
        let before = findings.len();
        let matching: BTreeSet<String> =
            findings.iter().filter(|it| self.matches(it)).map(|it| it.id.clone()).collect();
        findings.retain(|finding| {
            let leader = finding.led_by.as_ref();
            matching.contains(&finding.id) || leader.is_some_and(|it| matching.contains(it))
        });
        before - findings.len()
    }

    fn matches(&self, finding: &Finding) -> bool {
        let subject = &finding.subject;
        let has = |selected: &[String], it: Option<&str>| {
            // Names in findings are plain.
            let is = |it: &str| selected.iter().any(|selected| plain::text(selected) == it);
            selected.is_empty() || it.is_some_and(is)
        };
        has(&self.kinds, Some(finding.kind.name()))
            && has(&self.processes, subject.process.as_deref())
            && has(&self.units, subject.unit.as_deref())
            && has(&self.containers, subject.container.as_deref())
            && has(&self.namespaces, Some(&subject.netns))
            && (self.ports.is_empty() || subject.port.is_some_and(|it| self.ports.contains(&it)))
            && self.least().is_none_or(|least| finding.severity >= least)
    }

    fn least(&self) -> Option<Severity> {
        let named = self.min_severity.as_ref()?;
        Severity::ALL.into_iter().find(|severity| severity.label() == named)
    }
}
