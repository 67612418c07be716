//! Counts that the kernel side has kept since it was loaded.

use std::time::Duration;

use super::{ResetCause, ResetObservation, TcpState};

/// Totals over all CPUs.
#[derive(Clone, Debug, Default)]
pub struct KernelCounters {
    /// Runs of each hook that is loaded.
    pub runs: Vec<(&'static str, u64)>,
    /// Transitions that occurred, by (from, to).
    pub transitions: Vec<((TcpState, TcpState), u64)>,
    /// Time spent in CLOSE_WAIT by sockets that left it.
    pub close_wait: CloseWaitDurations,
    /// Resets sent, by observation; `None` without the hook.
    pub resets_sent: Option<Vec<(ResetObservation, u64)>>,
    /// Causes that no hook on this kernel shows.
    pub unseen_causes: &'static [ResetCause],
    /// Resets received, by the state of the socket; `None` without the hook.
    pub resets_received: Option<Vec<(TcpState, u64)>>,
    /// How full the tables behind the counters are.
    pub tables: Vec<TableUse>,
    /// Events and observations lost, by stage.
    pub lost: Vec<(&'static str, u64)>,
}

/// A histogram.
#[derive(Clone, Debug, Default)]
pub struct CloseWaitDurations {
    /// Upper bounds with the sockets in each bucket, not cumulative.
    pub buckets: Vec<(Duration, u64)>,
    /// Sockets beyond the last bound.
    pub beyond: u64,
    /// Sum of all times.
    pub sum: Duration,
}

/// How full a table of fixed size is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUse {
    /// The `table` label.
    pub table: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries that fit.
    pub limit: u64,
}

/// Work of the one pass over all sockets, in all inventories; zeros where the iterator walks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassTotals {
    /// Runs of its program. Within one no other process runs on that CPU.
    pub slices: u64,
    /// The longest of the last inventory, with what interrupts of the machine took within it.
    pub longest_slice: Duration,
    /// Chains of the kernel's tables that moved while they were read, and were read again.
    pub read_again: u64,
    /// Chains that moved again and again, so that their end was not seen.
    pub given_up: u64,
}
