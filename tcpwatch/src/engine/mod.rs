//! Judges facts: facts and time in, findings and samples out.
//!
//! No clock, no file, no socket, no async, no log: time is an argument, so every verdict can be
//! tested on a table of facts. Memory is bounded whatever the facts are.
//!
//! [`Engine`] hands each fact to the detectors, one folder each. `joining` finds out which of their
//! verdicts have one cause. The `board` knows what is new, worse or gone. `sampler` groups the
//! numbers. Facts that cost the host something are requested with [`Engine::focus`], and only while
//! a finding needs them.

mod advice;
mod board;
mod detector;
mod detectors;
mod evidence;
mod finding;
mod groups;
mod joining;
mod links;
mod observers;
mod over_time;
mod resets;
mod samples;
mod selection;

pub(crate) use advice::{names::named_as, text};
pub use evidence::{Evidence, EvidenceMap};
pub use finding::{Finding, FindingChange, FindingKind, Severity, Subject};
pub use resets::{reset_cause, seen_reset};
pub use samples::{
    CloseWaitSample, ConnectFailureSample, FindingSample, ListenerSample, NamespaceSample,
    NamespaceTotals, OTHER, OwnerLabels, Samples,
};
pub use selection::selection_of;

use self::{
    board::Board,
    detector::{Detector, Round, Verdicts},
    observers::{closers::Closers, half_open::HalfOpen},
    samples::sampler::Sampler,
};
use crate::{
    config::{Detect, Ignore},
    facts::{Event, Focus, Inventory, Timestamp},
};

/// The whole judgement.
#[derive(Debug)]
pub struct Engine {
    detect: Detect,
    ignore: Ignore,
    detectors: Vec<Box<dyn Detector>>,
    closers: Closers,
    half_open: HalfOpen,
    board: Board,
    sampler: Sampler,
    /// When the last inventory began.
    before: Option<Timestamp>,
    size: (u64, usize),
}

impl Engine {
    /// Knows nothing yet. `owners` bounds how many owners are named in the samples.
    #[must_use]
    pub fn new(detect: &Detect, ignore: &Ignore, owners: usize) -> Self {
        Self {
            detect: detect.clone(),
            ignore: ignore.clone(),
            detectors: detectors::all(),
            closers: Closers::default(),
            half_open: HalfOpen::default(),
            board: Board::default(),
            sampler: Sampler::new(owners),
            before: None,
            size: (0, 0),
        }
    }

    /// Takes new thresholds; history and findings stay. The next inventory is judged by them.
    pub fn reconfigure(&mut self, detect: &Detect, ignore: &Ignore, owners: usize) {
        self.detect = detect.clone();
        self.ignore = ignore.clone();
        self.sampler.reconfigure(owners);
    }

    /// Takes an event. It counts at once and is judged with the next inventory.
    pub fn handle_event(&mut self, event: &Event) {
        for detector in &mut self.detectors {
            detector.handle_event(event, &self.detect);
        }
        self.sampler.handle_event(event);
    }

    /// Takes an inventory and judges everything known so far.
    pub fn handle_inventory(&mut self, inventory: &Inventory, now: Timestamp) {
        self.closers.observe(inventory, &self.focus().closers_in);
        self.half_open.observe(inventory, now);
        let round = Round {
            inventory,
            now,
            before: self.before.replace(inventory.started),
            detect: &self.detect,
            closers: &self.closers,
            half_open: &self.half_open,
        };
        let mut verdicts = Verdicts::new(&self.ignore);
        for detector in &mut self.detectors {
            detector.judge(&round, &mut verdicts);
        }
        let verdicts = verdicts.into_worst();
        let links = joining::join(&verdicts, &joining::RULES, inventory);
        self.board.update(verdicts, &links, now);
        self.sampler.handle_inventory(inventory, now, self.board.findings());
        let sockets = inventory.namespaces.iter().map(|it| it.sockets.total());
        self.size = (sockets.fold(0, u64::saturating_add), inventory.namespaces.len());
    }

    /// Facts that the next inventory is to collect in more detail.
    #[must_use]
    pub fn focus(&self) -> Focus {
        let mut focus = Focus::default();
        for detector in &self.detectors {
            detector.focus(&self.detect, &mut focus);
        }
        focus
    }

    /// The next change to report, oldest first.
    pub fn poll_change(&mut self) -> Option<FindingChange> {
        self.board.poll_change()
    }

    /// Findings that hold, worst first.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        self.board.findings()
    }

    /// Sockets and network namespaces of the last inventory.
    #[must_use]
    pub fn size(&self) -> (u64, usize) {
        self.size
    }

    /// The numbers as of the last inventory; counters as of the last event.
    #[must_use]
    pub fn samples(&self) -> Samples {
        let mut samples = self.sampler.samples();
        samples.reset_rows_lost = self.detectors.iter().map(|it| it.left_out()).sum();
        samples.make_plain();
        samples
    }
}

#[cfg(test)]
mod tests;
