//! The facts of a check: judged, and recorded with `--record`.
//!
//! Facts from this host and facts from a recording take the same path, so that a recording leads to
//! the findings that were printed when it was made.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    agent::{VERSION, kernel_release},
    config::Config,
    engine::{Engine, Finding, FindingKind, Severity},
    facts::NotSeen,
    incident::{Fact, Header, IncidentError, Recorder},
    kernel::{self, InventoryError, LoadError, OwnerPolicy, Walker},
    plain,
    publish::WallClock,
};

/// Why nothing could be judged.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error("cannot give up privileges: {0}")]
    Confine(io::Error),
    #[error("cannot write {}: {error}", plain::path(file))]
    Unwritable { file: PathBuf, error: io::Error },
    #[error("cannot read {}: {error}", plain::path(file))]
    Unreadable { file: PathBuf, error: io::Error },
    #[error(transparent)]
    Incident(#[from] IncidentError),
    #[error("{}:1: `recorded_at` is no time in RFC 3339", plain::path(.0))]
    NoTime(PathBuf),
    #[error("{}: no inventory was recorded, so there is nothing to judge", plain::path(.0))]
    NoInventory(PathBuf),
}

/// An engine with its facts.
pub(super) struct Case<'a> {
    config: &'a Config,
    engine: Engine,
    /// The file of `--record`.
    record: Option<(PathBuf, Recorder<File>)>,
    inventories: usize,
    last_inventory: Option<Fact>,
}

impl<'a> Case<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let engine = Engine::new(&config.detect, &config.ignore, config.limits.owners);
        Self { config, engine, record: None, inventories: 0, last_inventory: None }
    }

    /// Records from here on.
    pub(super) fn record(&mut self, file: &Path) -> Result<(), CheckError> {
        let wall = WallClock::at(crate::kernel::now());
        let header = Header {
            kernel: kernel_release(),
            tcpwatch: VERSION.to_owned(),
            recorded_at: wall.rfc3339(wall.now()),
            monotonic_ns: wall.now(),
        };
        let recorder = File::create(file).and_then(|open| Recorder::begin(open, &header));
        let recorder =
            recorder.map_err(|error| CheckError::Unwritable { file: file.to_owned(), error })?;
        self.record = Some((file.to_owned(), recorder));
        Ok(())
    }

    /// Looks at this host.
    pub(super) fn take_inventory(&mut self, walker: &mut Walker) -> Result<(), CheckError> {
        let found = walker.inventory(OwnerPolicy::AtOnce, &self.engine.focus())?;
        self.take(Fact::Inventory { now: kernel::now(), found })
    }

    pub(super) fn take(&mut self, mut fact: Fact) -> Result<(), CheckError> {
        if let Some((file, recorder)) = &mut self.record {
            let written = recorder.record(&mut fact);
            written.map_err(|error| CheckError::Unwritable { file: file.clone(), error })?;
        }
        fact.give_to(&mut self.engine);
        if matches!(fact, Fact::Inventory { .. }) {
            self.inventories += 1;
            self.last_inventory = Some(fact);
        }
        Ok(())
    }

    /// Whether there was an inventory: without one nothing is judged.
    pub(super) fn has_looked(&self) -> bool {
        self.last_inventory.is_some()
    }

    /// The sockets and network namespaces of the last inventory.
    pub(super) fn size(&self) -> (u64, usize) {
        self.engine.size()
    }

    /// Limits of sight of the last inventory.
    pub(super) fn not_seen(&self) -> &[NotSeen] {
        match &self.last_inventory {
            Some(Fact::Inventory { found, .. }) => &found.not_seen,
            _ => &[],
        }
    }

    /// The active findings.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = self.engine.findings().to_vec();
        if let (1, Some(only)) = (self.inventories, &self.last_inventory) {
            findings.extend(pileups_of_unproven_age(self.config, only, &findings));
        }
        findings
    }
}

/// Pileups if their sockets are old enough, which one look cannot prove.
fn pileups_of_unproven_age(config: &Config, only: &Fact, proven: &[Finding]) -> Vec<Finding> {
    let mut detect = config.detect.clone();
    detect.close_wait_pileup.edit_all(|pileup| pileup.min_age = Duration::ZERO);
    let mut engine = Engine::new(&detect, &config.ignore, config.limits.owners);
    only.give_to(&mut engine);
    let is_new = |finding: &&Finding| {
        finding.kind == FindingKind::CloseWaitPileup
            && proven.iter().all(|known| known.id != finding.id)
    };
    let unproven = engine.findings().iter().filter(is_new).cloned();
    unproven.map(|finding| Finding { severity: Severity::Info, ..finding }).collect()
}
