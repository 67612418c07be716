//! The time before the loop: ports and sockets are opened, the kernel side is loaded and attached,
//! parts are made.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    time::sleep_until,
};

use super::{
    Agent, ConfigSource, Failures, REVISION, Server, StartError, VERSION, host_name,
    kernel_release,
    reload::Reloader,
    service::Signals,
    socket::{self, NoSocket},
    streaming::Streaming,
    walker::WalkerThread,
};
use crate::{
    config::{Config, LogLevel},
    engine::Engine,
    kernel::{
        self, EventRing, Handover, HookStatus, LoadOptions, OnRequest, Predecessor, Programs,
    },
    publish::{
        Access, History, HookState, Hosts, HttpLimits, Listener, Metrics, Trends, WallClock,
        base_url, serve,
    },
};

pub(super) async fn start(
    source: ConfigSource,
    config: Config,
    access: Access,
) -> Result<(Agent, Server, Signals, impl Sized), StartError> {
    let mut listeners = Vec::new();
    for &address in &config.web.listen_addresses {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| StartError::Listen { address, error })?;
        listeners.push(Listener::Tcp(listener));
    }
    let signals = Signals::new()?;
    let options = LoadOptions {
        ring_buffer_bytes: config.limits.ring_buffer_bytes,
        kernel_log: config.log.level >= LogLevel::Debug,
        symbols_by: Some(kernel::OWN_PROGRAM),
        one_pass: config.inventory.one_pass,
        on_request: OnRequest::ALL,
        ..LoadOptions::default()
    };
    let socket = &config.web.socket;
    let listens = (!socket.as_os_str().is_empty()).then(|| socket::open(socket));
    if let Some(Err(NoSocket::Answered(pid))) = listens {
        return Err(StartError::Runs { path: socket.clone(), pid });
    }
    let programs = Programs::take_over(&options, Predecessor::from_service_manager())?;
    match listens {
        Some(Ok(listener)) => listeners.push(Listener::Unix(listener)),
        // Everything else works without it. An agent that may not run says only that.
        Some(Err(NoSocket::Other(error))) => {
            tracing::warn!(path = %socket.display(), %error, "not served on a UNIX socket");
        }
        Some(Err(NoSocket::Answered(_))) | None => {}
    }

    let mut metrics = Metrics::new(VERSION, REVISION)?;
    let attached: Vec<_> = programs
        .statuses()
        .iter()
        .map(|status| (status.hook.name, status.outcome.is_ok()))
        .collect();
    metrics.observe_hooks(&attached);
    let handover = programs.handover();
    metrics.observe_handover(handover.label(), handover != Handover::Fresh);
    tracing::info!(handover = handover.label(), "hooks attached");
    if let Some(url) = config.web.external_url.url() {
        metrics.observe_external_url(url);
    }
    let hooks = hook_states(programs.statuses());
    let wall = WallClock::at(kernel::now());
    metrics.observe_reload(Some(wall.unix_seconds(wall.now())));
    for status in programs.statuses() {
        if let Err(why) = &status.outcome {
            let lost = status.hook.lost_without;
            tracing::warn!(hook = status.hook.name, %why, lost, "hook not attached");
        }
    }
    let reach = programs.reach();
    metrics.observe_scope(reach.pidns.label(), reach.netns.label(), programs.walk().label());
    let not_seen = programs.not_seen();
    let scope = config.inventory.namespaces;
    let streaming = Streaming::new(programs.event_stream(), config.limits.events_per_second);
    let (ring, counters, walker, links) =
        programs.split(scope, config.limits.close_wait_sockets)?;

    let (sender, queries) = mpsc::channel(16);
    let (stop, stopped) = watch::channel(false);
    let (updates, changes) = watch::channel(0);
    let limits =
        HttpLimits { connections: config.limits.http_connections, ..HttpLimits::default() };
    let hosts = Hosts::new(&config.web, &rustix::system::uname().nodename().to_string_lossy());
    for listener in &listeners {
        match listener {
            Listener::Tcp(listener) => {
                tracing::info!(address = %listener.local_addr()?, "listening");
            }
            Listener::Unix(_) => tracing::info!(path = %socket.display(), "listening"),
        }
    }
    let task =
        tokio::spawn(serve(listeners, sender, changes, limits, (hosts, access.clone()), stopped));
    let agent = Agent {
        engine: Engine::new(&config.detect, &config.ignore, config.limits.owners),
        metrics,
        confined_to: config.inventory.namespaces,
        ring: watch_ring(ring)?,
        more_events: Notify::new(),
        counters,
        streaming,
        walker: WalkerThread::spawn(walker)?,
        reloader: Reloader::new(source),
        url: base_url(&config.web, &host_name(), access.scheme()),
        access,
        config,
        accepted: true,
        inventoried: false,
        started: wall.now(),
        last_inventory: None,
        host: host_name(),
        hooks,
        kernel: kernel_release(),
        history: History::default(),
        trends: Trends::default(),
        limits: Vec::new(),
        updates,
        not_seen,
        failures: Failures::default(),
        undescribed: 0,
        next_inventory: Box::pin(sleep_until(tokio::time::Instant::now())),
        began: Instant::now(),
        cpu_time: Duration::ZERO,
        ordered_at: None,
    };
    Ok((agent, Server { queries, stop, task }, signals, links))
}

/// Lets the loop wake up when the kernel side says that the ring is half full.
fn watch_ring(ring: EventRing) -> io::Result<AsyncFd<EventRing>> {
    // SAFETY: the ring owns its descriptor, always names that one, and closes it when it is
    // dropped, which the AsyncFd does last.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)
}

/// The hooks as they are published.
pub(crate) fn hook_states(statuses: &[HookStatus]) -> Vec<HookState> {
    let state = |HookStatus { hook, outcome }: &HookStatus| HookState {
        hook: hook.name.to_owned(),
        attached: outcome.is_ok(),
        why_not: outcome.as_ref().err().map(ToString::to_string),
        lost_without: outcome.is_err().then(|| hook.lost_without.to_owned()),
    };
    statuses.iter().map(state).collect()
}
