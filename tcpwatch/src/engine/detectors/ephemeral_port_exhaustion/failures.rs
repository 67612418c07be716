//! The connects towards one destination that found no local port.

use std::sync::Arc;

use crate::facts::{Process, Timestamp};

#[derive(Debug)]
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

    /// Or of nobody known at all.
    pub(crate) fn are_of_one_process(&self) -> bool {
        match &*self.processes {
            [] => true,
            [(_, count)] => *count == self.count,
            _ => false,
        }
    }
}
