//! Judges facts: facts and time in, findings and samples out.
//!
//! No clock, no file, no socket, no async, no log: time is an argument, so every verdict can be
//! tested on a table of facts. Memory is bounded whatever the facts are.
//!
//! [`Engine`] hands each fact to the detectors, one file each. What they find goes to the
//! `board`, which knows what is new, worse or gone. `sampler` groups the numbers. What costs the
//! host something is asked for with [`Engine::focus`], and only while a finding needs it.

mod accept_queue_overflow;
mod bind_conflict;
mod bind_refusal;
mod board;
mod close_wait_pileup;
mod closers;
mod cut;
mod ephemeral_port_exhaustion;
mod finding;
mod half_open;
mod held;
mod level;
mod moved;
mod named_totals;
mod port_holder;
mod reserved_ports;
mod reset_causes;
mod reset_counts;
mod reset_rate;
mod reset_storm;
mod reset_words;
mod sampler;
mod samples;
mod self_connect_risk;
mod self_connection;
mod stuck_state;
mod text;
mod time_wait_exhaustion;
mod trend;
mod tw_reuse;

pub use finding::{Evidence, EvidenceMap, Finding, FindingChange, FindingKind, Severity, Subject};
pub use samples::{
    CloseWaitSample, ConnectFailureSample, FindingSample, ListenerSample, NamespaceSample,
    NamespaceTotals, OTHER, OwnerLabels, Samples,
};

use self::{
    accept_queue_overflow::AcceptQueueOverflow, bind_conflict::BindConflict, board::Board,
    close_wait_pileup::CloseWaitPileup, closers::Closers,
    ephemeral_port_exhaustion::EphemeralPortExhaustion, half_open::HalfOpen,
    reset_storm::ResetStorm, sampler::Sampler, self_connect_risk::SelfConnectRisk,
    self_connection::SelfConnection, stuck_state::StuckState,
    time_wait_exhaustion::TimeWaitExhaustion,
};
use crate::{
    config,
    facts::{Event, Focus, Inventory, Timestamp},
};

/// Findings of one kind that are kept; the worst. A host with more has one problem, not a hundred.
const FINDINGS_PER_KIND: usize = 100;

/// The whole judgement.
#[derive(Debug)]
pub struct Engine {
    ignore: config::Ignore,
    close_wait_pileup: CloseWaitPileup,
    time_wait_exhaustion: TimeWaitExhaustion,
    ephemeral_port_exhaustion: EphemeralPortExhaustion,
    self_connection: SelfConnection,
    self_connect_risk: SelfConnectRisk,
    half_open: HalfOpen,
    accept_queue_overflow: AcceptQueueOverflow,
    closers: Closers,
    reset_storm: ResetStorm,
    bind_conflict: BindConflict,
    stuck_state: StuckState,
    board: Board,
    sampler: Sampler,
}

impl Engine {
    /// Knows nothing yet. `owners` bounds how many owners are named in the samples.
    #[must_use]
    pub fn new(detect: &config::Detect, ignore: &config::Ignore, owners: usize) -> Self {
        Self {
            ignore: ignore.clone(),
            close_wait_pileup: CloseWaitPileup::new(detect.close_wait_pileup.clone()),
            time_wait_exhaustion: TimeWaitExhaustion::new(detect.time_wait_exhaustion.clone()),
            ephemeral_port_exhaustion: EphemeralPortExhaustion::new(
                detect.ephemeral_port_exhaustion.clone(),
            ),
            self_connection: SelfConnection::new(detect.self_connection.clone()),
            self_connect_risk: SelfConnectRisk::new(detect.self_connect_risk.clone()),
            half_open: HalfOpen::new(detect.syn_flood.clone(), detect.handshake_stall.clone()),
            accept_queue_overflow: AcceptQueueOverflow::new(detect.accept_queue_overflow.clone()),
            closers: Closers::default(),
            reset_storm: ResetStorm::new(detect.reset_storm.clone()),
            bind_conflict: BindConflict::new(detect.bind_conflict.clone()),
            stuck_state: StuckState::new(detect.stuck_state.clone()),
            board: Board::default(),
            sampler: Sampler::new(owners),
        }
    }

    /// Takes new thresholds; history and findings stay. The next inventory is judged by them.
    pub fn reconfigure(&mut self, detect: &config::Detect, ignore: &config::Ignore, owners: usize) {
        self.ignore = ignore.clone();
        self.close_wait_pileup.config = detect.close_wait_pileup.clone();
        self.time_wait_exhaustion.config = detect.time_wait_exhaustion.clone();
        self.ephemeral_port_exhaustion.config = detect.ephemeral_port_exhaustion.clone();
        self.self_connection.config = detect.self_connection.clone();
        self.self_connect_risk.config = detect.self_connect_risk.clone();
        self.half_open.flood = detect.syn_flood.clone();
        self.half_open.stall = detect.handshake_stall.clone();
        self.accept_queue_overflow.config = detect.accept_queue_overflow.clone();
        self.reset_storm.config = detect.reset_storm.clone();
        self.bind_conflict.config = detect.bind_conflict.clone();
        self.stuck_state.config = detect.stuck_state.clone();
        self.sampler.reconfigure(owners);
    }

    /// Takes an event. It counts at once and is judged with the next inventory.
    pub fn handle_event(&mut self, event: &Event) {
        self.ephemeral_port_exhaustion.handle_event(event);
        self.self_connection.handle_event(event);
        self.self_connect_risk.handle_event(event);
        self.bind_conflict.handle_event(event);
        self.sampler.handle_event(event);
    }

    /// Takes an inventory and judges everything known so far.
    pub fn handle_inventory(&mut self, inventory: &Inventory, now: Timestamp) {
        let mut found = Vec::new();
        found.extend(self.close_wait_pileup.judge(inventory, now));
        self.closers.observe(inventory, self.focus().closers, now);
        found.extend(self.time_wait_exhaustion.judge(inventory, &self.closers, now));
        found.extend(self.ephemeral_port_exhaustion.judge(inventory, &self.closers, now));
        found.extend(self.self_connection.judge(inventory, now));
        found.extend(self.self_connect_risk.judge(inventory, now));
        found.extend(self.half_open.judge(inventory, now));
        found.extend(self.accept_queue_overflow.judge(inventory, now));
        found.extend(self.reset_storm.judge(inventory, now));
        found.extend(self.bind_conflict.judge(inventory, now));
        found.extend(self.stuck_state.judge(inventory, now));
        found.iter_mut().for_each(text::keep_plain);
        found.retain(|finding| !finding.is_ignored(&self.ignore));
        self.board.update(found, now);
        self.sampler.handle_inventory(inventory, now, self.board.findings());
    }

    /// What the next inventory is to look at more closely.
    #[must_use]
    pub fn focus(&self) -> Focus {
        Focus {
            stacks_of: self.close_wait_pileup.stacks_of(),
            closers: self.time_wait_exhaustion.wants_closers()
                || self.ephemeral_port_exhaustion.wants_closers(),
            ports: self.bind_conflict.ports(),
        }
    }

    /// The next change that a person is told of, oldest first.
    pub fn poll_change(&mut self) -> Option<FindingChange> {
        self.board.poll_change()
    }

    /// Findings that hold, worst first.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        self.board.findings()
    }

    /// The numbers as of the last inventory; counters as of the last event.
    #[must_use]
    pub fn samples(&self) -> Samples {
        Samples { reset_rows_lost: self.reset_storm.left_out(), ..self.sampler.samples() }
    }
}

#[cfg(test)]
mod tests;
