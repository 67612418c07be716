//! Thresholds that do not flap.

use crate::engine::{finding::Severity, over_time::moved::Moves};
use std::collections::BTreeMap;

/// A severity once reached is kept until the value has fallen below this part of its threshold, so
/// that a value that trembles around the threshold raises one finding and not one a minute.
pub(crate) const RELEASE: f64 = 0.9;

/// The severities that were reached last time, by the id of the condition.
#[derive(Debug, Default)]
pub(crate) struct Levels {
    held: BTreeMap<String, Severity>,
    next: BTreeMap<String, Severity>,
}

impl Levels {
    /// Begins a round: what is not judged in it is forgotten.
    pub(crate) fn begin(&mut self) {
        self.held = std::mem::take(&mut self.next);
    }

    /// The severity of `value` for the condition `id`.
    pub(crate) fn judge(
        &mut self,
        id: &str,
        value: f64,
        warning: f64,
        critical: f64,
    ) -> Option<Severity> {
        self.judge_steps(id, value, &[(Severity::Critical, critical), (Severity::Warning, warning)])
    }

    /// The same with a threshold for each severity that there is, the highest first.
    pub(crate) fn judge_steps(
        &mut self,
        id: &str,
        value: f64,
        steps: &[(Severity, f64)],
    ) -> Option<Severity> {
        let held = self.held.get(id).copied();
        let is_reached = |(severity, threshold): &&(Severity, f64)| {
            let factor = if held >= Some(*severity) { RELEASE } else { 1.0 };
            value >= threshold * factor
        };
        let severity = steps.iter().find(is_reached)?.0;
        self.next.insert(id.to_owned(), severity);
        Some(severity)
    }

    /// The severity by what has moved within the window. Once raised it stays a warning until
    /// nothing has moved for a whole window, so that what goes on slowly does not flap.
    pub(crate) fn judge_moves(
        &mut self,
        id: &str,
        moves: Moves,
        warning: f64,
        critical: f64,
    ) -> Option<Severity> {
        let lasts = moves.total > 0 && self.is_held(id);
        let severity = self.judge(id, moves.in_window as f64, warning, critical);
        if severity.is_none() && lasts {
            self.hold(id, Severity::Warning);
            return Some(Severity::Warning);
        }
        severity
    }

    /// Notes a severity that was reached by other means.
    pub(crate) fn hold(&mut self, id: &str, severity: Severity) {
        let held = self.next.entry(id.to_owned()).or_insert(severity);
        *held = severity.max(*held);
    }

    /// Whether a severity was reached last time.
    pub(crate) fn is_held(&self, id: &str) -> bool {
        self.held.contains_key(id)
    }
}
