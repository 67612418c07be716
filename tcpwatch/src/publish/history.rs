//! Findings that have ended: what a person who comes later still wants to read.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    engine::{Finding, FindingChange, Severity},
    facts::Timestamp,
};

/// How long a finding is kept after its end.
pub(super) const AGE: Duration = Duration::from_secs(24 * 3_600);
/// Most that are kept: a person reads no more, and each takes some KiB.
pub(super) const MOST: usize = 200;

/// A finding that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// As it was last, but as severe as it was at its worst.
    pub finding: Finding,
    /// When it was cleared.
    pub cleared: Timestamp,
}

/// The findings that have ended within a day, as far as they fit.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Newest first.
    ended: VecDeque<Ended>,
    /// The worst severity of each finding that stands, by id.
    worst: BTreeMap<String, Severity>,
}

impl History {
    /// Takes a change of the engine.
    pub fn observe(&mut self, change: &FindingChange, now: Timestamp) {
        match change {
            FindingChange::Raised(finding) | FindingChange::SeverityChanged { finding, .. } => {
                let worst = self.worst.entry(finding.id.clone()).or_insert(finding.severity);
                *worst = finding.severity.max(*worst);
            }
            FindingChange::Cleared(finding) => {
                let mut finding = finding.clone();
                if let Some(worst) = self.worst.remove(&finding.id) {
                    finding.severity = worst.max(finding.severity);
                }
                self.ended.push_front(Ended { finding, cleared: now });
                if self.ended.len() > MOST {
                    self.forget_one();
                }
            }
        }
    }

    /// Forgets the oldest finding of the kind that has most: a user who makes many of one kind
    /// pushes out no other kind.
    fn forget_one(&mut self) {
        let mut counts = BTreeMap::<_, usize>::new();
        for ended in &self.ended {
            *counts.entry(ended.finding.kind.name()).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(kind, _)| kind);
        let oldest = self.ended.iter().rposition(|ended| Some(ended.finding.kind.name()) == most);
        if let Some(oldest) = oldest {
            self.ended.remove(oldest);
        }
    }

    /// Those of the last day, newest first.
    pub fn ended(&self, now: Timestamp) -> impl Iterator<Item = &Ended> {
        self.ended.iter().take_while(move |ended| now.since(ended.cleared) <= AGE)
    }
}
