//! Counts of the hooks, added up over the CPUs.

use std::{
    cell::Cell,
    collections::HashMap,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use tcpwatch_common::{
    CLOSE_WAIT_BUCKETS_NS, Counters, ResetKey, maps::RESETS_LIMIT, reset_flags as flags,
    reset_sizes as sizes,
};

use crate::facts::{
    Amount, CloseWaitDurations, KernelCounters, ResetCause, ResetObservation, ResetReason,
    TableUse, TcpState,
};

/// Where the hooks count.
pub(super) struct CounterMaps {
    pub(super) counters: PerCpuArray<MapData, Counters>,
    /// `None` without the hook.
    pub(super) resets_sent: Option<PerCpuHashMap<MapData, ResetKey, u64>>,
    pub(super) sees_resets_received: bool,
    /// Hooks that count, with their places in [`Counters::runs`].
    pub(super) hooks: Vec<(&'static str, usize)>,
}

/// Reads the counters; one system call and one for each kind of reset.
pub struct CounterReader {
    maps: CounterMaps,
    reset_reasons: Vec<ResetReason>,
    unseen_causes: &'static [ResetCause],
    /// The programs, each with the missed runs that were read last.
    programs: Vec<(OwnedFd, Cell<u64>)>,
}

impl CounterReader {
    pub(super) fn new(
        maps: CounterMaps,
        reset_reasons: Vec<ResetReason>,
        unseen_causes: &'static [ResetCause],
        programs: Vec<OwnedFd>,
    ) -> Self {
        let programs = programs.into_iter().map(|program| (program, Cell::new(0))).collect();
        Self { maps, reset_reasons, unseen_causes, programs }
    }

    /// Totals since the load; `None` where a map cannot be read as a whole. A part of it would look
    /// like a counter that fell, and what it fell by would be counted again later.
    #[must_use]
    pub fn read(&self) -> Option<KernelCounters> {
        let per_cpu = self.maps.counters.get(&0, 0).ok()?;
        let mut sum = Box::new(Counters::ZERO);
        for cpu in per_cpu.iter() {
            add(&mut sum, cpu);
        }
        let (mut resets_sent, mut in_map) = (None, 0);
        if let Some(resets) = &self.maps.resets_sent {
            let in_map_by_kind = read_resets(resets).ok()?;
            in_map = in_map_by_kind.len() as u64;
            resets_sent = Some(self.resets_sent(in_map_by_kind, &per_cpu));
        }
        let runs = self.maps.hooks.iter().map(|(hook, place)| (*hook, sum.runs[*place])).collect();
        Some(KernelCounters {
            runs,
            transitions: transitions(&sum),
            close_wait: close_wait(&sum),
            resets_sent,
            tables: vec![TableUse { table: "resets", entries: in_map, limit: RESETS_LIMIT.into() }],
            unseen_causes: self.unseen_causes,
            resets_received: self.maps.sees_resets_received.then(|| by_state(&sum.resets_received)),
            lost: vec![
                ("ring_buffer", sum.events_lost),
                ("connect_notes", sum.connect_notes_evicted),
                ("close_wait_notes", sum.close_wait_notes_refused),
                ("resets", sum.resets_lost),
                ("work", sum.work_shed),
                ("hooks", self.missed_runs()),
            ],
        })
    }

    /// Totals by kind: those of the map, and those that each CPU has places for.
    fn resets_sent(
        &self,
        mut by_kind: HashMap<ResetKey, u64>,
        per_cpu: &PerCpuValues<Counters>,
    ) -> Vec<(ResetObservation, u64)> {
        for counters in per_cpu.iter() {
            for place in counters.resets_sent.iter().filter(|place| place.count > 0) {
                *by_kind.entry(place.key).or_default() += place.count;
            }
        }
        let decoded = |key| decode_reset(key, false, &self.reset_reasons);
        by_kind.into_iter().map(|(key, count)| (decoded(key), count)).collect()
    }

    /// Runs that the kernel left out because the same program was interrupted on that CPU
    /// (`recursion_misses` of fdinfo, 5.12 and later; 0 before). A count that cannot be read
    /// now, for lack of a descriptor for example, is at least the one read before.
    fn missed_runs(&self) -> u64 {
        let missed = self.programs.iter().map(|(program, last)| {
            last.set(not_less(recursion_misses(program.as_raw_fd()), last.get()));
            last.get()
        });
        missed.sum()
    }
}

fn read_resets(
    resets: &PerCpuHashMap<MapData, ResetKey, u64>,
) -> Result<HashMap<ResetKey, u64>, MapError> {
    let total = |entry: Result<(_, PerCpuValues<u64>), _>| {
        entry.map(|(key, per_cpu)| (key, per_cpu.iter().sum()))
    };
    resets.iter().map(total).collect()
}

/// A total that never falls, also where it cannot be read now.
fn not_less(now: Option<u64>, last: u64) -> u64 {
    now.unwrap_or(0).max(last)
}

fn recursion_misses(fd: RawFd) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let value = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?;
    value.trim().parse().ok()
}

/// The key that the hooks counted under. `reasons` are those behind the running kernel's numbers.
pub(super) fn decode_reset(
    key: ResetKey,
    received: bool,
    reasons: &[ResetReason],
) -> ResetObservation {
    let has = |flag: u8| key.flags & flag != 0;
    let state = TcpState::from_kernel(key.state);
    let reason = || reasons.get(usize::from(key.reason)).copied().unwrap_or(ResetReason::Other);
    let amount = |shift: u32| Some(Amount::of_class(key.sizes >> shift));
    let mut seen = ResetObservation {
        received,
        reason: has(flags::HAS_REASON).then(reason),
        state,
        segment: has(flags::SEGMENT),
        syn: has(flags::SEGMENT_SYN),
        linger_zero: has(flags::LINGER_ZERO),
        dead: has(flags::DEAD),
        has_socket: has(flags::HAS_SOCKET),
        shut_down: has(flags::SHUT_DOWN),
        ..ResetObservation::default()
    };
    if has(flags::HAS_SIZES) {
        seen.unread = amount(sizes::UNREAD);
        // Of a minisocket nothing else is left, and without a socket there is nothing else.
        if state.is_some_and(|state| state != TcpState::TimeWait) {
            seen.unsent = amount(sizes::UNSENT);
            seen.carried = amount(sizes::CARRIED);
            seen.peer_closed = Some(key.sizes & sizes::PEER_CLOSED != 0);
            seen.answered = Some(key.sizes & sizes::ANSWERED != 0);
        }
    }
    seen
}

fn add(sum: &mut Counters, cpu: &Counters) {
    for (sums, row) in sum.transitions.iter_mut().zip(&cpu.transitions) {
        add_all(sums, row);
    }
    add_all(&mut sum.runs, &cpu.runs);
    add_all(&mut sum.close_wait_buckets, &cpu.close_wait_buckets);
    add_all(&mut sum.resets_received, &cpu.resets_received);
    sum.close_wait_sum_ns += cpu.close_wait_sum_ns;
    sum.events_lost += cpu.events_lost;
    sum.connect_notes_evicted += cpu.connect_notes_evicted;
    sum.close_wait_notes_refused += cpu.close_wait_notes_refused;
    sum.resets_lost += cpu.resets_lost;
    sum.work_shed += cpu.work_shed;
}

fn add_all(sums: &mut [u64], row: &[u64]) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += value;
    }
}

fn by_state(counts: &[u64]) -> Vec<(TcpState, u64)> {
    TcpState::ALL.iter().map(|&state| (state, counts[state as usize])).collect()
}

fn transitions(sum: &Counters) -> Vec<((TcpState, TcpState), u64)> {
    let mut transitions = Vec::new();
    for from in TcpState::ALL {
        for to in TcpState::ALL {
            let count = sum.transitions[from as usize][to as usize];
            if count > 0 {
                transitions.push(((from, to), count));
            }
        }
    }
    transitions
}

fn close_wait(sum: &Counters) -> CloseWaitDurations {
    let bounds = CLOSE_WAIT_BUCKETS_NS.iter().copied().map(Duration::from_nanos);
    let (beyond, within) =
        sum.close_wait_buckets.split_last().expect("there is a bucket beyond the last bound");
    CloseWaitDurations {
        buckets: bounds.zip(within.iter().copied()).collect(),
        beyond: *beyond,
        sum: Duration::from_nanos(sum.close_wait_sum_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_that_cannot_be_read_once_is_not_added_again() {
        let reads = [Some(5), None, Some(7), Some(0)];
        let mut last = 0;
        let totals = reads.map(|now| {
            last = not_less(now, last);
            last
        });
        assert_eq!(totals, [5, 5, 7, 7]);
    }

    #[test]
    fn a_descriptor_that_is_no_program_has_no_misses() {
        assert_eq!(recursion_misses(0), None);
        assert_eq!(recursion_misses(-1), None);
    }
}
