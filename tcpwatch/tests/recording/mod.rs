//! How incidents are recorded: scenes with real sockets, on a [`Stage`] of their own.
//!
//! A scene is a row of [`SCENES`] and a function in `play`. The stage is a network namespace with a
//! walker, a ring of events and an engine: the input of the engine is recorded, less all that
//! identifies the machine. Events and sockets of other namespaces are left out.

mod another;
mod play;
mod stage;

use std::fs;

use anyhow::{Context, Result};
use tcpwatch::{config::Config, engine::FindingKind};

use self::stage::Stage;

/// A situation, from before it begins until after its cure.
pub(crate) struct Scene {
    /// Name of its files.
    pub(crate) name: &'static str,
    /// Kind of the finding that it raises.
    kind: FindingKind,
    /// Name that the process with the sockets has meanwhile.
    process: &'static str,
    play: fn(&mut Stage<'_>) -> Result<()>,
}

impl Scene {
    const fn new(
        kind: FindingKind,
        process: &'static str,
        play: fn(&mut Stage<'_>) -> Result<()>,
    ) -> Self {
        Self { name: kind.name(), kind, process, play }
    }

    /// For a second one of a kind.
    const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }
}

/// Every recording; each kind has one of its name.
pub(crate) const SCENES: [Scene; 16] = {
    use FindingKind::*;
    [
        Scene::new(CloseWaitPileup, "orders-api", play::close_wait_pileup),
        Scene::new(CloseWaitPileup, "logstreamd", play::streams_that_fall_silent)
            .named("close-wait-pileup-half-closed"),
        Scene::new(TimeWaitExhaustion, "thumbnailer", play::time_wait_exhaustion),
        Scene::new(EphemeralPortExhaustion, "checkout", play::ephemeral_port_exhaustion),
        Scene::new(SelfConnection, "module-a", play::self_connection),
        Scene::new(SelfConnectRisk, "module-b", play::listener_in_the_port_range),
        Scene::new(SelfConnectRisk, "module-a", play::port_retried_without_listener)
            .named("self-connect-risk-retried"),
        Scene::new(SynFlood, "shop", play::syn_flood),
        Scene::new(HandshakeStall, "shop", play::handshake_stall),
        Scene::new(AcceptQueueOverflow, "reports", play::accept_queue_overflow),
        Scene::new(ResetStorm, "checkout", play::reset_storm),
        Scene::new(KeepaliveRace, "storefront", play::keepalive_race),
        Scene::new(StuckState, "ledger", play::unanswered),
        Scene::new(StuckState, "mailer", play::half_closed).named("stuck-state-half-closed"),
        Scene::new(BindConflict, "jenkins", play::port_of_another),
        Scene::new(BindConflict, "orders-api", play::port_in_time_wait)
            .named("bind-conflict-time-wait"),
    ]
};

/// Plays a scene and returns the recording.
pub(crate) fn record(scene: &Scene, config: &Config) -> Result<Vec<u8>> {
    // This process's name, whichever of its threads writes it (proc(5)).
    fs::write("/proc/self/comm", scene.process).context("naming the process")?;
    let mut text = Vec::new();
    let mut stage = Stage::set(scene.kind, config, &mut text)?;
    (scene.play)(&mut stage)?;
    drop(stage);
    Ok(text)
}
