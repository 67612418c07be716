//! The connects towards one destination that found no local port.

use std::sync::Arc;

use crate::{
    engine::evidence::EvidenceMap,
    facts::{Process, Timestamp},
};

/// Processes that are kept apart.
const PROCESSES: usize = 16;

#[derive(Clone, Debug, Default)]
pub(crate) struct Failures {
    pub(crate) count: u64,
    pub(crate) last: Timestamp,
    /// Failures by process; the first few processes.
    pub(crate) processes: Vec<(Arc<Process>, u64)>,
}

impl Failures {
    pub(crate) fn worst_process(&self) -> Option<&Process> {
        let (process, _) = self.processes.iter().max_by_key(|(_, count)| *count)?;
        Some(process)
    }

    /// Or of no known process.
    pub(crate) fn are_of_one_process(&self) -> bool {
        match &*self.processes {
            [] => true,
            [(_, count)] => *count == self.count,
            _ => false,
        }
    }

    /// Adds one.
    pub(crate) fn add(&mut self, at: Timestamp, process: Option<&Arc<Process>>) {
        self.count += 1;
        self.last = self.last.max(at);
        let Some(process) = process else { return };
        if let Some((_, count)) =
            self.processes.iter_mut().find(|(known, _)| known.pid == process.pid)
        {
            *count += 1;
        } else if self.processes.len() < PROCESSES {
            self.processes.push((Arc::clone(process), 1));
        }
    }

    /// Adds those towards another destination.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.last = self.last.max(other.last);
        for (process, count) in &other.processes {
            match self.processes.iter_mut().find(|(known, _)| known.pid == process.pid) {
                Some((_, sum)) => *sum = sum.saturating_add(*count),
                None => self.processes.push((Arc::clone(process), *count)),
            }
        }
    }

    pub(crate) fn add_to(&self, evidence: &mut EvidenceMap) {
        evidence.count("failed_connects", self.count);
        let by_process = self.processes.iter().map(|(process, count)| {
            let mut object = EvidenceMap::default();
            object.process(process).count("failed_connects", *count);
            object
        });
        evidence.list("failed_connects_by_process", by_process);
    }
}
