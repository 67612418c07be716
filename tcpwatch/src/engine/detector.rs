//! A detector as the engine sees it: one kind of finding, with its input and output in a round.
//!
//! A detector keeps history, never configuration: thresholds arrive with each event and each round,
//! so a reload is one assignment in [`Engine`](super::Engine).

use std::{cmp::Reverse, collections::BTreeMap, fmt::Debug, time::Duration};

use crate::{
    config::{Detect, Ignore},
    engine::{
        finding::{FINDINGS_PER_KIND, FindingKind, Verdict},
        observers::{closers::Closers, half_open::HalfOpen},
    },
    facts::{Event, Focus, Inventory, Process, Timestamp},
    plain,
};

/// An inventory, and all that a detector may judge it by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round<'a> {
    pub(crate) inventory: &'a Inventory,
    pub(crate) now: Timestamp,
    /// When the inventory before this one began, if there was one.
    pub(crate) before: Option<Timestamp>,
    /// The thresholds that are in force.
    pub(crate) detect: &'a Detect,
    pub(crate) closers: &'a Closers,
    pub(crate) half_open: &'a HalfOpen,
}

impl Round<'_> {
    /// The window over which events are judged, the last of which was at `last`. Inventories of a busy
    /// or slow host may be further apart than the `configured` one. Then it reaches back to the
    /// beginning of the one before, or to the first event where there was none: an event between the two
    /// would be forgotten before it is judged.
    pub(crate) fn window(&self, configured: Duration, last: Timestamp) -> Duration {
        match self.before {
            None => Duration::MAX,
            Some(before) if last > before => configured.max(self.now.since(before)),
            Some(_) => configured,
        }
    }
}

/// Judges one kind of finding.
pub(crate) trait Detector: Debug + Send {
    /// Takes an event. It is judged in the next round.
    fn handle_event(&mut self, _event: &Event, _detect: &Detect) {}

    /// Adds what the next inventory is to look at more closely.
    fn focus(&self, _detect: &Detect, _focus: &mut Focus) {}

    /// Facts that found no place in its memory and are not judged, added up.
    fn left_out(&self) -> u64 {
        0
    }

    /// Pushes what holds in this round.
    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>);
}

/// Verdicts of all detectors in a round: the worst [`FINDINGS_PER_KIND`] of each kind, without
/// those that `[ignore]` suppresses. A suppressed finding takes no place of another.
#[derive(Debug)]
pub(crate) struct Verdicts<'a> {
    ignore: &'a Ignore,
    found: BTreeMap<FindingKind, Vec<(u64, Verdict)>>,
}

impl<'a> Verdicts<'a> {
    pub(crate) fn new(ignore: &'a Ignore) -> Self {
        Self { ignore, found: BTreeMap::new() }
    }

    /// Whether `[ignore]` suppresses what a process has at a port, so that it counts for nothing
    /// where several of either are judged together.
    pub(crate) fn ignores(&self, process: Option<&Process>, port: u16) -> bool {
        let names =
            |list: &[String], name: &str| list.iter().any(|ignored| plain::text(ignored) == name);
        let is_owner = |process: &Process| {
            names(&self.ignore.processes, &plain::text(&process.name))
                || names(&self.ignore.units, &plain::text(process.unit_label()))
        };
        self.ignore.ports.contains(&port) || process.is_some_and(is_owner)
    }

    /// Adds a verdict. Among equal severities the larger `weight` is the worse.
    pub(crate) fn push(&mut self, mut verdict: Verdict, weight: u64) {
        verdict.make_plain();
        if verdict.is_ignored(self.ignore) {
            return;
        }
        let kept = self.found.entry(verdict.kind).or_default();
        kept.push((weight, verdict));
        // Twice as many as are kept: sorting each time would cost more than it saves.
        if kept.len() >= 2 * FINDINGS_PER_KIND {
            cut(kept);
        }
    }

    /// All that is kept, in the order of the kinds, the worst of each first.
    pub(crate) fn into_worst(mut self) -> Vec<Verdict> {
        self.found.values_mut().for_each(cut);
        let in_order = FindingKind::ALL.iter().filter_map(|kind| self.found.remove(kind));
        in_order.flatten().map(|(_, verdict)| verdict).collect()
    }
}

fn cut(kept: &mut Vec<(u64, Verdict)>) {
    kept.sort_by(|(weight_a, a), (weight_b, b)| {
        let order = |weight: &u64, verdict: &Verdict| (Reverse(verdict.severity), Reverse(*weight));
        order(weight_a, a).cmp(&order(weight_b, b)).then_with(|| a.id.cmp(&b.id))
    });
    kept.truncate(FINDINGS_PER_KIND);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{
        evidence::EvidenceMap,
        finding::{Severity, Subject},
    };

    #[test]
    fn the_worst_hundred_of_each_kind_are_kept_whatever_the_kind() {
        let ignore = Ignore::default();
        let mut verdicts = Verdicts::new(&ignore);
        for (number, kind) in (0_u64..300).flat_map(|it| FindingKind::ALL.map(|kind| (it, kind))) {
            let is_worse = number.is_multiple_of(30);
            let verdict = Verdict {
                id: format!("{}/{number}", kind.name()),
                kind,
                severity: if is_worse { Severity::Critical } else { Severity::Warning },
                title: String::new(),
                explanation: String::new(),
                evidence: EvidenceMap::default(),
                subject: Subject::default(),
                remedies: Vec::new(),
            };
            verdicts.push(verdict, number);
        }
        let kept = verdicts.into_worst();
        for kind in FindingKind::ALL {
            let of_kind: Vec<_> = kept.iter().filter(|it| it.kind == kind).collect();
            assert_eq!(of_kind.len(), FINDINGS_PER_KIND, "{}", kind.name());
            assert!(of_kind[..10].iter().all(|it| it.severity == Severity::Critical));
            // The largest of the others.
            assert_eq!(of_kind[10].id, format!("{}/299", kind.name()));
        }
    }
}
