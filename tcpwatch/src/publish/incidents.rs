//! Findings as a person reads them: each leader with the findings that it leads.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use crate::engine::{Finding, Severity};

/// Findings with one cause, or a single one.
#[derive(Debug, PartialEq)]
pub struct Incident<'a> {
    /// The cause, or the only one.
    pub leader: &'a Finding,
    /// The findings that it leads, in their order.
    pub led: Vec<&'a Finding>,
}

impl Incident<'_> {
    /// The worst severity of all of its findings.
    #[must_use]
    pub fn severity(&self) -> Severity {
        let led = self.led.iter().map(|finding| finding.severity);
        led.fold(self.leader.severity, Ord::max)
    }
}

/// The incidents that `findings` make, the worst first; among equals they keep their order. A
/// finding whose leader is not there stands by itself.
pub fn incidents<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Vec<Incident<'a>> {
    let findings: Vec<_> = findings.into_iter().collect();
    let ids: HashSet<&str> = findings.iter().map(|finding| &*finding.id).collect();
    let mut led: HashMap<&str, Vec<&Finding>> = HashMap::new();
    let mut leaders = Vec::new();
    for finding in findings {
        match finding.led_by.as_deref().filter(|leader| ids.contains(leader)) {
            Some(leader) => led.entry(leader).or_default().push(finding),
            None => leaders.push(finding),
        }
    }
    let incident = |leader: &'a Finding| {
        let led = led.remove(&*leader.id).unwrap_or_default();
        Incident { leader, led }
    };
    let mut incidents: Vec<_> = leaders.into_iter().map(incident).collect();
    incidents.sort_by_key(|incident| Reverse(incident.severity()));
    incidents
}
