//! SIGHUP: the configuration is read again, on a thread of its own.
//!
//! A file can hang, and the loop must not. One reading is under way at a time; a SIGHUP meanwhile
//! leads to another after it, because the file may have changed since it was read.

use std::{future::pending, io, sync::Arc, thread};

use tokio::sync::oneshot;

use super::ConfigSource;
use crate::{
    config::{Config, ConfigError},
    facts::Scope,
};

/// Why a reload was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot start a thread to read the configuration: {0}")]
    Thread(io::Error),
    #[error("the thread that reads the configuration has panicked")]
    Panicked,
}

/// Reads the configuration on request.
pub(super) struct Reloader {
    source: Arc<ConfigSource>,
    reading: Option<oneshot::Receiver<Result<Config, ReloadError>>>,
    /// The signal came while a reading was under way.
    again: bool,
}

impl Reloader {
    pub(super) fn new(source: ConfigSource) -> Self {
        Self { source: Arc::new(source), reading: None, again: false }
    }

    /// Reads it at once, before the loop begins.
    pub(super) fn try_now(&self) -> Result<(), ConfigError> {
        self.source.load().map(drop)
    }

    /// Begins to read, or to read again after the reading under way.
    pub(super) fn begin(&mut self) {
        if self.reading.is_some() {
            self.again = true;
            return;
        }
        let (answer, reading) = oneshot::channel();
        self.reading = Some(reading);
        let source = Arc::clone(&self.source);
        let work = move || {
            // Without a receiver the agent has ended.
            let _ = answer.send(source.load().map_err(ReloadError::Config));
        };
        if let Err(error) = thread::Builder::new().name("reload".to_owned()).spawn(work) {
            let (answer, refused) = oneshot::channel();
            let _ = answer.send(Err(ReloadError::Thread(error)));
            self.reading = Some(refused);
        }
    }

    /// The configuration that was read; waits for ever while nothing is read. May be dropped and
    /// called again.
    pub(super) async fn outcome(&mut self) -> Result<Config, ReloadError> {
        let outcome = match &mut self.reading {
            Some(reading) => reading.await.unwrap_or(Err(ReloadError::Panicked)),
            None => return pending().await,
        };
        self.reading = None;
        if std::mem::take(&mut self.again) {
            self.begin();
        }
        outcome
    }
}

/// The new configuration with the start-only keys of the one in force, and the names of those that
/// differ. Other namespaces than the host's take privileges; `confined_to` says
/// which are left.
pub(super) fn merge(
    in_force: &Config,
    new: Config,
    confined_to: Scope,
) -> (Config, Vec<&'static str>) {
    let (mut config, mut kept) = in_force.keep_start_only(new);
    if confined_to == Scope::Host && config.inventory.namespaces == Scope::All {
        config.inventory.namespaces = Scope::Host;
        kept.push("inventory.namespaces");
    }
    (config, kept)
}
