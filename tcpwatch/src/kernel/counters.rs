//! What the hooks have counted, added up over the CPUs.

use std::{os::fd::AsRawFd, time::Duration};

use aya::{
    maps::{MapData, PerCpuArray, PerCpuHashMap},
    programs::ProgramFd,
};
use tcpwatch_common::{CLOSE_WAIT_BUCKETS_NS, Counters, ResetKey, maps::RESETS_LIMIT};

use crate::facts::{
    CloseWaitDurations, KernelCounters, ResetCause, ResetObservation, ResetReason, TableUse,
    TcpState,
};

/// Where the hooks count.
pub(super) struct CounterMaps {
    pub(super) counters: PerCpuArray<MapData, Counters>,
    /// `None` without the hook.
    pub(super) resets_sent: Option<PerCpuHashMap<MapData, ResetKey, u64>>,
    pub(super) sees_resets_received: bool,
}

/// Reads the counters; one system call and one for each kind of reset.
pub struct CounterReader {
    maps: CounterMaps,
    reset_reasons: Vec<ResetReason>,
    unseen_causes: &'static [ResetCause],
    programs: Vec<ProgramFd>,
}

impl CounterReader {
    pub(super) fn new(
        maps: CounterMaps,
        reset_reasons: Vec<ResetReason>,
        unseen_causes: &'static [ResetCause],
        programs: Vec<ProgramFd>,
    ) -> Self {
        Self { maps, reset_reasons, unseen_causes, programs }
    }

    /// Totals since the load; `None` where the map cannot be read.
    #[must_use]
    pub fn read(&self) -> Option<KernelCounters> {
        let per_cpu = self.maps.counters.get(&0, 0).ok()?;
        let mut sum = Box::new(Counters::ZERO);
        for cpu in per_cpu.iter() {
            add(&mut sum, cpu);
        }
        let resets_sent = self.maps.resets_sent.as_ref().map(|resets| self.resets_sent(resets));
        let kinds = resets_sent.as_ref().map_or(0, Vec::len) as u64;
        Some(KernelCounters {
            transitions: transitions(&sum),
            close_wait: close_wait(&sum),
            resets_sent,
            tables: vec![TableUse { table: "resets", entries: kinds, limit: RESETS_LIMIT.into() }],
            unseen_causes: self.unseen_causes,
            resets_received: self.maps.sees_resets_received.then(|| by_state(&sum.resets_received)),
            lost: vec![
                ("ring_buffer", sum.events_lost),
                ("connect_notes", sum.connect_notes_evicted),
                ("close_wait_notes", sum.close_wait_notes_refused),
                ("resets", sum.resets_lost),
                ("hooks", self.missed_runs()),
            ],
        })
    }

    fn resets_sent(
        &self,
        resets: &PerCpuHashMap<MapData, ResetKey, u64>,
    ) -> Vec<(ResetObservation, u64)> {
        let decoded =
            |key| ResetObservation::decode(key, |number| reason_of(&self.reset_reasons, number));
        resets
            .iter()
            .filter_map(Result::ok)
            .map(|(key, per_cpu)| (decoded(key), per_cpu.iter().sum()))
            .collect()
    }

    /// Runs that the kernel left out because the same program was interrupted on that CPU
    /// (`recursion_misses` of fdinfo, 5.12 and later; 0 before).
    fn missed_runs(&self) -> u64 {
        self.programs
            .iter()
            .filter_map(|program| {
                use std::os::fd::AsFd;
                let fd = program.as_fd().as_raw_fd();
                let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
                let value = info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?;
                value.trim().parse::<u64>().ok()
            })
            .sum()
    }
}

/// The reason behind the running kernel's number.
pub(super) fn reason_of(reasons: &[ResetReason], number: u8) -> ResetReason {
    reasons.get(usize::from(number)).copied().unwrap_or(ResetReason::Other)
}

fn add(sum: &mut Counters, cpu: &Counters) {
    for (sums, row) in sum.transitions.iter_mut().zip(&cpu.transitions) {
        add_all(sums, row);
    }
    add_all(&mut sum.close_wait_buckets, &cpu.close_wait_buckets);
    add_all(&mut sum.resets_received, &cpu.resets_received);
    sum.close_wait_sum_ns += cpu.close_wait_sum_ns;
    sum.events_lost += cpu.events_lost;
    sum.connect_notes_evicted += cpu.connect_notes_evicted;
    sum.close_wait_notes_refused += cpu.close_wait_notes_refused;
    sum.resets_lost += cpu.resets_lost;
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
