//! What holds now, and what has changed since.
//!
//! Detectors say what they see each time anew; the board compares by id. A finding keeps its
//! `since` while it lasts. Changes queue up until they are polled, and the queue is bounded by the
//! findings that there can be: an id stands for one finding and changes at most once in each update.

use std::{
    cmp::Reverse,
    collections::{HashSet, VecDeque},
};

use crate::{
    engine::finding::{FINDINGS_PER_KIND, Finding, FindingChange, FindingKind},
    facts::Timestamp,
};

/// Changes that wait to be polled: as many as one inventory can make, all that held gone and as many
/// new ones. The agent polls after each.
const CHANGES: usize = 2 * FindingKind::ALL.len() * FINDINGS_PER_KIND;

#[derive(Debug, Default)]
pub(crate) struct Board {
    findings: Vec<Finding>,
    changes: VecDeque<FindingChange>,
}

impl Board {
    /// Replaces what held by what holds.
    pub(crate) fn update(&mut self, mut found: Vec<Finding>, now: Timestamp) {
        let mut before = std::mem::take(&mut self.findings);
        // Names with a slash could make one id of two owners.
        let mut ids = HashSet::new();
        found.retain(|finding| ids.insert(finding.id.clone()));
        for finding in &mut found {
            finding.last_seen = now;
            let known = before.iter().position(|old| old.id == finding.id);
            let Some(old) = known.map(|index| before.swap_remove(index)) else {
                self.changes.push_back(FindingChange::Raised(finding.clone()));
                continue;
            };
            finding.since = old.since;
            if finding.severity != old.severity {
                self.changes.push_back(FindingChange::SeverityChanged {
                    finding: finding.clone(),
                    from: old.severity,
                });
            }
        }
        self.changes.extend(before.into_iter().map(FindingChange::Cleared));
        let excess = self.changes.len().saturating_sub(CHANGES);
        self.changes.drain(..excess);
        found.sort_by(|a, b| (Reverse(a.severity), &a.id).cmp(&(Reverse(b.severity), &b.id)));
        self.findings = found;
    }

    pub(crate) fn poll_change(&mut self) -> Option<FindingChange> {
        self.changes.pop_front()
    }

    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }
}
