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
    pub(crate) kind: FindingKind,
    /// Name that the process with the sockets has meanwhile.
    process: &'static str,
    play: fn(&mut Stage<'_>) -> Result<()>,
    /// The situation, in one sentence.
    pub(crate) happened: &'static str,
}

impl Scene {
    const fn new(
        kind: FindingKind,
        process: &'static str,
        play: fn(&mut Stage<'_>) -> Result<()>,
        happened: &'static str,
    ) -> Self {
        Self { name: kind.name(), kind, process, play, happened }
    }

    /// For a second one of a kind.
    const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }
}

/// Every recording; each kind has one of its name.
pub(crate) const SCENES: [Scene; 39] = {
    use FindingKind::*;
    [
        Scene::new(
            CloseWaitPileup,
            "orders-api",
            play::close_wait_pileup,
            "A client opens two connections a second and keeps what its server has closed.",
        ),
        Scene::new(
            CloseWaitPileup,
            "logstreamd",
            play::streams_that_fall_silent,
            "A server streams to clients that have shut down their side, and then falls silent.",
        )
        .named("close-wait-pileup-half-closed"),
        Scene::new(
            TimeWaitExhaustion,
            "thumbnailer",
            play::time_wait_exhaustion,
            "A client that closes first nears tcp_max_tw_buckets, then goes over it.",
        ),
        Scene::new(
            EphemeralPortExhaustion,
            "checkout",
            play::ephemeral_port_exhaustion,
            "A client fills a range of 60 ports with open connections and TIME_WAIT.",
        ),
        Scene::new(
            SelfConnection,
            "module-a",
            play::self_connection,
            "A client connects to a port of its own host until its source port is the same.",
        ),
        Scene::new(
            SelfConnectRisk,
            "module-b",
            play::listener_in_the_port_range,
            "A server listens on a port inside the ephemeral range.",
        ),
        Scene::new(
            SelfConnectRisk,
            "module-a",
            play::port_retried_without_listener,
            "A client retries a local port inside the ephemeral range, where nothing listens.",
        )
        .named("self-connect-risk-retried"),
        Scene::new(
            SynFlood,
            "shop",
            play::syn_flood,
            "SYNs of 300 forged sources reach a listener.",
        ),
        Scene::new(
            HandshakeStall,
            "shop",
            play::handshake_stall,
            "120 SYNs of one source reach a listener; no SYN-ACK is answered.",
        ),
        Scene::new(
            AcceptQueueOverflow,
            "reports",
            play::accept_queue_overflow,
            "20 clients connect to a server with a backlog of 5 that does not accept.",
        ),
        Scene::new(
            ResetStorm,
            "checkout",
            play::reset_storm,
            "A client retries a service that is down, without a pause.",
        ),
        Scene::new(
            StuckState,
            "ledger",
            play::unanswered,
            "A client connects 12 times to an address that does not answer.",
        ),
        Scene::new(
            StuckState,
            "mailer",
            play::half_closed,
            "A client shuts down 12 connections that its peer does not close.",
        )
        .named("stuck-state-half-closed"),
        Scene::new(
            BindConflict,
            "jenkins",
            play::port_of_another,
            "A server binds a port on which another program listens.",
        ),
        Scene::new(
            BindConflict,
            "orders-api",
            play::port_in_time_wait,
            "A server restarts without SO_REUSEADDR while its port is in TIME_WAIT.",
        )
        .named("bind-conflict-time-wait"),
        Scene::new(
            StalledSend,
            "checkout",
            play::connects::unacknowledged,
            "A server vanishes; each of 12 connections of a pool has sent a request.",
        ),
        Scene::new(
            StalledSend,
            "download",
            play::connects::unread_answers,
            "A server closes 12 connections whose clients do not read what it has sent.",
        )
        .named("stalled-send-unread"),
        Scene::new(
            KernelLimit,
            "gateway",
            play::limits::conntrack,
            "Connection tracking has 40 entries, and a client opens 60 connections.",
        ),
        Scene::new(
            KeepaliveRace,
            "storefront",
            play::keepalive_race,
            "A server closes idle connections after a time-out that is shorter than its client's.",
        ),
        Scene::new(
            CloseWaitPileup,
            "lightnode",
            play::leaks::to_many_ports,
            "A node keeps one closed connection to each of 40 peers, each with a port of its own.",
        )
        .named("close-wait-pileup-many-ports"),
        Scene::new(
            CloseWaitPileup,
            "exporter",
            play::leaks::never_read,
            "A server reads none of 40 requests, whose clients have left.",
        )
        .named("close-wait-pileup-unread"),
        Scene::new(
            CloseWaitPileup,
            "syncworker",
            play::leaks::never_accepted,
            "A server does not accept; 40 clients have left its queue.",
        )
        .named("close-wait-pileup-unaccepted"),
        Scene::new(
            CloseWaitPileup,
            "catalogue",
            play::leaks::stale_pool,
            "A pool keeps 24 connections that its database has closed for idleness.",
        )
        .named("close-wait-pileup-stale-pool"),
        Scene::new(
            AcceptQueueOverflow,
            "reports",
            play::queues::stalled,
            "A server with a long queue accepts nothing; 120 clients wait.",
        )
        .named("accept-queue-overflow-stalled"),
        Scene::new(
            AcceptQueueOverflow,
            "reports",
            play::queues::burst,
            "14 clients at once meet a backlog of 5, and are served within two seconds.",
        )
        .named("accept-queue-overflow-burst"),
        Scene::new(
            AcceptQueueOverflow,
            "reports",
            play::queues::inherited,
            "A server has ended; the `sleep` that it had started keeps its listener.",
        )
        .named("accept-queue-overflow-inherited"),
        Scene::new(
            AcceptQueueOverflow,
            "reports",
            play::queues::aborted,
            "A server does not accept under tcp_abort_on_overflow = 1.",
        )
        .named("accept-queue-overflow-aborts"),
        Scene::new(
            EphemeralPortExhaustion,
            "tlsproxy",
            play::ports::open,
            "A proxy holds a connection on every port towards one server.",
        )
        .named("ephemeral-port-exhaustion-open"),
        Scene::new(
            EphemeralPortExhaustion,
            "indexer",
            play::ports::leaked,
            "A client keeps closed connections until every port is taken.",
        )
        .named("ephemeral-port-exhaustion-leak"),
        Scene::new(
            EphemeralPortExhaustion,
            "meshproxy",
            play::ports::bound,
            "A proxy binds its source address before connect(), on every port.",
        )
        .named("ephemeral-port-exhaustion-bound"),
        Scene::new(
            EphemeralPortExhaustion,
            "session",
            play::ports::own_range,
            "A client limits itself to 8 ports with IP_LOCAL_PORT_RANGE and connects 12 times.",
        )
        .named("ephemeral-port-exhaustion-own-range"),
        Scene::new(
            ResetStorm,
            "uploads",
            play::aborts::refused_bodies,
            "A server answers 413 and closes before it has read the bodies.",
        )
        .named("reset-storm-unread"),
        Scene::new(
            ResetStorm,
            "broker",
            play::aborts::aborted_by_the_server,
            "A server ends each exchange with SO_LINGER 0.",
        )
        .named("reset-storm-linger"),
        Scene::new(
            ResetStorm,
            "broker",
            play::aborts::peers_of_a_restart,
            "Clients send on connections that this host no longer knows.",
        )
        .named("reset-storm-restart"),
        Scene::new(
            ResetStorm,
            "web",
            play::aborts::https,
            "An HTTPS server closes first; its clients leave the close_notify unread.",
        )
        .named("healthy-https"),
        Scene::new(
            ResetStorm,
            "balancer",
            play::aborts::health_checks,
            "A balancer ends each of its health checks with SO_LINGER 0.",
        )
        .named("healthy-checks"),
        Scene::new(
            StuckState,
            "ledger",
            play::connects::given_up,
            "12 workers connect with a time-out of 1.2 s to an address that does not answer.",
        )
        .named("stuck-state-given-up"),
        Scene::new(
            StuckState,
            "ledger",
            play::connects::last_ack,
            "The last FIN of 12 connections is not acknowledged.",
        )
        .named("stuck-state-last-ack"),
        Scene::new(
            StuckState,
            "ledger",
            play::connects::closing,
            "Both ends of 12 connections closed at once, and the peer vanished.",
        )
        .named("stuck-state-closing"),
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
