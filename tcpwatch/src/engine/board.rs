//! The findings that hold now, and their changes.
//!
//! Detectors report all that holds in each round; the board compares by id. A finding keeps its
//! `since` while it lasts. A finding that leads others is at least as severe as the worst of them,
//! because only the leader alerts; but a full accept queue is not raised by the clients that wait
//! for it. Changes queue up until they are polled, and the queue is bounded by the findings that
//! there can be: an id stands for one finding and changes at most once in each update.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use crate::{
    engine::{
        finding::{FINDINGS_PER_KIND, Finding, FindingChange, FindingKind, Severity, Verdict},
        links::Links,
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
        let severities: BTreeMap<String, Severity> =
            found.iter().map(|it| (it.id.clone(), it.severity)).collect();
        // Names with a slash could make one id of two owners.
        let mut ids = BTreeSet::new();
        for verdict in found.into_iter().filter(|verdict| ids.insert(verdict.id.clone())) {
            let known = before.iter().position(|old| old.id == verdict.id);
            let old = known.map(|index| before.swap_remove(index));
            let since = old.as_ref().map_or(now, |old| old.since);
            let mut finding = Finding::new(verdict, links, since, now);
            let led = finding.related.iter().filter(|id| links.raises(id));
            let led = led.filter_map(|id| severities.get(id).copied());
            finding.severity = led.fold(finding.severity, Severity::max);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        evidence::EvidenceMap,
        finding::Subject,
        joining::{Rule, join},
    };
    use crate::facts::Inventory;

    fn verdict(kind: FindingKind, severity: Severity) -> Verdict {
        Verdict {
            id: kind.name().to_owned(),
            kind,
            severity,
            title: String::new(),
            explanation: String::new(),
            evidence: EvidenceMap::default(),
            subject: Subject::default(),
            remedies: Vec::new(),
        }
    }

    #[test]
    fn a_leader_is_as_severe_as_the_worst_that_it_leads_and_only_as_long() {
        const LEAK: FindingKind = FindingKind::CloseWaitPileup;
        const PORTS: FindingKind = FindingKind::EphemeralPortExhaustion;
        let rules = [Rule::always(LEAK, PORTS)];
        let mut board = Board::default();
        let mut severities = |found: Vec<Verdict>| -> Vec<(FindingKind, Severity)> {
            let links = join(&found, &rules, &Inventory::default());
            board.update(found, &links, Timestamp::default());
            board.findings().iter().map(|it| (it.kind, it.severity)).collect()
        };
        let both = || vec![verdict(LEAK, Severity::Info), verdict(PORTS, Severity::Critical)];
        assert_eq!(severities(both()), [(LEAK, Severity::Critical), (PORTS, Severity::Critical)]);
        // The ports are free again; the leak is what it was by itself.
        assert_eq!(severities(both()[..1].to_vec()), [(LEAK, Severity::Info)]);
        // A mild consequence takes nothing away.
        let found = vec![verdict(LEAK, Severity::Critical), verdict(PORTS, Severity::Info)];
        assert_eq!(severities(found), [(LEAK, Severity::Critical), (PORTS, Severity::Info)]);
    }
}
