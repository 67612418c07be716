//! The findings that hold now, and their changes.
//!
//! Detectors report all that holds in each round; the board compares by id. A finding keeps its
//! `since` while it lasts. Changes queue up until they are polled, and the queue is bounded by the
//! findings that there can be: an id stands for one finding and changes at most once in each
//! update.

use std::{
    cmp::Reverse,
    collections::{HashSet, VecDeque},
};

use crate::{
    engine::{
        finding::{FINDINGS_PER_KIND, Finding, FindingChange, FindingKind, Verdict},
        joining::Links,
    },
    facts::Timestamp,
};

/// Changes that wait to be polled: as many as one inventory can make, all that held gone and as
/// many new ones. The agent polls after each.
const CHANGES: usize = 2 * FindingKind::ALL.len() * FINDINGS_PER_KIND;

#[derive(Debug, Default)]
pub(crate) struct Board {
    findings: Vec<Finding>,
    changes: VecDeque<FindingChange>,
}

impl Board {
    /// Replaces what held by what holds.
    pub(crate) fn update(&mut self, found: Vec<Verdict>, links: &Links, now: Timestamp) {
        let mut before = std::mem::take(&mut self.findings);
        // Names with a slash could make one id of two owners.
        let mut ids = HashSet::new();
        for verdict in found.into_iter().filter(|verdict| ids.insert(verdict.id.clone())) {
            let known = before.iter().position(|old| old.id == verdict.id);
            let old = known.map(|index| before.swap_remove(index));
            let since = old.as_ref().map_or(now, |old| old.since);
            let finding = Finding::new(verdict, links, since, now);
            match old {
                None => self.changes.push_back(FindingChange::Raised(finding.clone())),
                Some(old) if old.severity != finding.severity => {
                    let (finding, from) = (finding.clone(), old.severity);
                    self.changes.push_back(FindingChange::SeverityChanged { finding, from });
                }
                Some(_) => {}
            }
            self.findings.push(finding);
        }
        self.changes.extend(before.into_iter().map(FindingChange::Cleared));
        let excess = self.changes.len().saturating_sub(CHANGES);
        self.changes.drain(..excess);
        let order = |finding: &Finding| (Reverse(finding.severity), finding.id.clone());
        self.findings.sort_by_cached_key(order);
    }

    pub(crate) fn poll_change(&mut self) -> Option<FindingChange> {
        self.changes.pop_front()
    }

    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }
}
