//! One loop that joins the three: facts in, outputs out.
//!
//! It owns the engine and everything that is published, so nothing needs a lock. Inventories are
//! taken by a thread of their own (`walker`); HTTP asks by messages. After start-up nothing
//! returns an error out of the loop: what fails is counted, logged and tried again.

mod log;
mod source;
mod walker;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc, watch},
    time::{MissedTickBehavior, Sleep, sleep_until},
};

use self::walker::WalkerThread;
pub use self::{log::init as init_log, source::ConfigSource};
use crate::{
    config::Config,
    engine::Engine,
    facts::Inventory,
    kernel::{self, CounterReader, EventRing, LoadError, LoadOptions, OwnerPolicy, Programs},
    publish::{HttpLimits, Metrics, Query, WallClock, findings_json, render_page, serve},
};

/// Version as published: the crate's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Revision of the sources, where the build was told.
pub const REVISION: &str = match option_env!("TCPWATCH_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Events taken from the ring at a time, so that a storm of them leaves the loop responsive.
const EVENTS_AT_A_TIME: usize = 4_096;
/// An inventory is followed by so many times the processor time that it took without one: it never
/// takes more than a tenth of a core, however many sockets there are.
const WALK_REST: u32 = 9;
/// How long an inventory may be under way before the agent is not ready any more.
const WALK_PATIENCE: Duration = Duration::from_secs(60);

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listen address.
    #[error("cannot listen on {address}: {error}; choose another with --web.listen-address")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's reason; not a source, the line has it.
        error: io::Error,
    },
    /// The kernel side.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Something of the runtime.
    #[error("cannot start: {0}")]
    Runtime(#[from] io::Error),
    /// The metrics.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Runs the daemon until SIGTERM or SIGINT. Listens before it attaches, so that a port in use
/// leaves nothing behind.
pub async fn run(source: ConfigSource, config: Config) -> Result<(), StartError> {
    let mut listeners = Vec::new();
    for &address in &config.web.listen_addresses {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| StartError::Listen { address, error })?;
        listeners.push(listener);
    }
    let signals = Signals::new()?;
    let options = LoadOptions {
        ring_buffer_bytes: config.limits.ring_buffer_bytes,
        symbols_by: Some(kernel::OWN_PROGRAM),
    };
    let programs = Programs::load(&options)?;
    programs.require_indispensable()?;

    let mut metrics = Metrics::new(VERSION, REVISION)?;
    let hooks: Vec<_> = programs
        .statuses()
        .iter()
        .map(|status| (status.hook.name, status.outcome.is_ok()))
        .collect();
    metrics.observe_hooks(&hooks);
    metrics.observe_reload(true);
    for status in programs.statuses() {
        if let Err(why) = &status.outcome {
            let lost = status.hook.lost_without;
            tracing::warn!(hook = status.hook.name, why, lost, "hook not attached");
        }
    }
    let scope = config.inventory.namespaces;
    let (ring, counters, walker, links) =
        programs.split(scope, config.limits.close_wait_sockets)?;

    let (queries, asked) = mpsc::channel(16);
    let (stop, stopped) = watch::channel(false);
    let limits =
        HttpLimits { connections: config.limits.http_connections, ..HttpLimits::default() };
    for listener in &listeners {
        tracing::info!(address = %listener.local_addr()?, "listening");
    }
    let server = tokio::spawn(serve(listeners, queries, limits, stopped));
    let agent = Agent {
        engine: Engine::new(&config.detect, &config.ignore, config.limits.owners),
        metrics,
        ring: watch_ring(ring)?,
        more_events: Notify::new(),
        counters,
        walker: WalkerThread::spawn(walker)?,
        source,
        config,
        inventoried: false,
        unseen_namespaces: 0,
        failures: Failures::default(),
        undescribed: 0,
        next_inventory: Box::pin(sleep_until(tokio::time::Instant::now())),
        began: Instant::now(),
        rest: Duration::ZERO,
        asked_at: None,
    };
    agent.run(asked, signals, links).await;
    let _ = stop.send(true);
    let _ = server.await;
    Ok(())
}

/// Lets the loop wake up when the kernel side says that the ring is half full.
fn watch_ring(ring: EventRing) -> io::Result<AsyncFd<EventRing>> {
    // SAFETY: the ring owns its descriptor, always names that one, and closes it when it is
    // dropped, which the AsyncFd does last.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

struct Agent {
    engine: Engine,
    metrics: Metrics,
    ring: AsyncFd<EventRing>,
    /// The last batch of events was full.
    more_events: Notify,
    counters: CounterReader,
    walker: WalkerThread,
    source: ConfigSource,
    config: Config,
    /// A first inventory has been taken.
    inventoried: bool,
    /// Namespaces that the last inventory could not enter.
    unseen_namespaces: u64,
    failures: Failures,
    /// Listeners and self-connections that no inventory could describe, added up.
    undescribed: u64,
    next_inventory: Pin<Box<Sleep>>,
    /// When the last inventory began, and how long it must be rested from.
    began: Instant,
    rest: Duration,
    /// Since when an inventory is under way.
    asked_at: Option<Instant>,
}

/// Inventories that could not be taken.
#[derive(Debug, Default)]
struct Failures {
    total: u64,
    in_a_row: u64,
    /// Owner look-ups that failed, which leave an inventory without names.
    look_ups: u64,
}

impl Agent {
    /// Runs until a signal ends it. The hooks go first then: whatever the walker hangs on must not
    /// keep them attached.
    async fn run<Links>(
        mut self,
        mut asked: mpsc::Receiver<Query>,
        mut signals: Signals,
        links: Links,
    ) {
        let mut watchdog = watchdog_interval();
        loop {
            tokio::select! {
                () = &mut self.next_inventory, if self.asked_at.is_none() => self.ask_inventory(),
                answer = self.walker.answer(), if self.asked_at.is_some() => {
                    let Some(answer) = answer else {
                        tracing::error!("the thread that takes inventories has ended");
                        break;
                    };
                    self.handle_answer(answer);
                }
                guard = self.ring.readable() => {
                    // Readiness comes by edges: it is kept until a batch was not full.
                    if let Ok(mut guard) = guard {
                        guard.clear_ready();
                    }
                    if self.handle_event_batch() {
                        self.more_events.notify_one();
                    }
                }
                () = self.more_events.notified() => {
                    if self.handle_event_batch() {
                        self.more_events.notify_one();
                    }
                }
                Some(query) = asked.recv() => self.answer(query),
                _ = signals.hangup.recv() => self.reload(),
                // That the loop lives is all that a restart could mend.
                _ = watchdog.tick() => notify(&[sd_notify::NotifyState::Watchdog]),
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
            }
        }
        tracing::info!("stopping");
        notify(&[sd_notify::NotifyState::Stopping]);
        drop(links);
        self.walker.stop();
    }

    fn handle_answer(&mut self, answer: walker::Answer) {
        self.asked_at = None;
        self.began = answer.began;
        self.rest = answer.cpu_time * WALK_REST;
        self.failures.look_ups = answer.failed_look_ups;
        match answer.outcome {
            Ok((inventory, tables)) => {
                if self.failures.in_a_row > 0 {
                    tracing::info!(failures = self.failures.in_a_row, "inventories again");
                    self.failures.in_a_row = 0;
                }
                self.handle_inventory(&inventory);
                self.metrics.observe_tables(&tables);
            }
            Err(error) => {
                // Once: what fails each interval would fill the log.
                if self.failures.in_a_row == 0 {
                    tracing::error!(%error, "no inventory; tried again at each interval");
                }
                self.failures.total += 1;
                self.failures.in_a_row += 1;
            }
        }
        self.arm(Instant::now());
    }

    /// Sets when the next inventory is due.
    fn arm(&mut self, now: Instant) {
        let due = (self.began + self.config.inventory.interval).max(now + self.rest);
        self.next_inventory.as_mut().reset(due.into());
    }

    /// What has happened up to now says what the inventory is to look at.
    fn ask_inventory(&mut self) {
        self.handle_events();
        let policy =
            if self.inventoried { OwnerPolicy::OfThoseThatStay } else { OwnerPolicy::AtOnce };
        self.walker.ask(policy, self.engine.focus());
        self.asked_at = Some(Instant::now());
    }

    /// Events up to now are judged with the inventory that follows them.
    fn handle_inventory(&mut self, inventory: &Inventory) {
        self.handle_events();
        self.engine.handle_inventory(inventory, kernel::now());
        while let Some(change) = self.engine.poll_change() {
            log::change(&change);
        }
        let wall = WallClock::capture();
        let finished = wall.unix_seconds(inventory.finished);
        self.metrics.observe_inventory(inventory.walked, finished, inventory);
        if inventory.unseen_namespaces > 0 && self.unseen_namespaces == 0 {
            tracing::warn!(
                namespaces = inventory.unseen_namespaces,
                "network namespaces cannot be entered; CAP_SYS_ADMIN and CAP_SYS_PTRACE allow it"
            );
        }
        self.unseen_namespaces = inventory.unseen_namespaces;
        self.undescribed += inventory.undescribed;
        if !self.inventoried {
            self.inventoried = true;
            tracing::info!(namespaces = inventory.namespaces.len(), "ready");
            notify(&[sd_notify::NotifyState::Ready]);
        }
    }

    /// Takes what there is, but no more than a ring holds: a storm fills it as fast as it is read.
    fn handle_events(&mut self) {
        let held =
            self.config.limits.ring_buffer_bytes as usize / size_of::<tcpwatch_common::Event>();
        let mut left = held;
        while left > 0 && self.handle_event_batch() {
            left = left.saturating_sub(EVENTS_AT_A_TIME);
        }
    }

    /// Takes some events; returns whether there may be more.
    fn handle_event_batch(&mut self) -> bool {
        let (events, may_be_more) = self.ring.get_mut().drain(EVENTS_AT_A_TIME);
        for event in &events {
            self.engine.handle_event(event);
        }
        may_be_more
    }

    /// Somebody may have gone before the answer; that is theirs to know.
    fn answer(&mut self, query: Query) {
        match query {
            Query::Metrics(to) => {
                let _ = to.send(self.exposition());
            }
            Query::Findings(to) => {
                let _ = to.send(findings_json(self.engine.findings(), WallClock::capture()));
            }
            Query::Page(to) => {
                let samples = self.engine.samples();
                let page =
                    render_page(self.engine.findings(), &samples, WallClock::capture(), VERSION);
                let _ = to.send(page);
            }
            Query::Ready(to) => {
                let _ = to.send(self.ready());
            }
        }
    }

    /// Ready is who has taken an inventory, and takes more. One that is stuck hangs in the kernel, on
    /// a socket that its owner keeps locked (`lock_sock` in the iterator, 5.15 and later).
    fn ready(&self) -> Result<(), String> {
        if !self.inventoried {
            return Err("the first inventory is under way".to_owned());
        }
        match self.asked_at.map(|since| since.elapsed()) {
            Some(elapsed) if elapsed > WALK_PATIENCE => {
                Err(format!("an inventory has been under way for {} s", elapsed.as_secs()))
            }
            _ => Ok(()),
        }
    }

    fn exposition(&mut self) -> String {
        self.handle_events();
        // A map that cannot be read leaves the counters as they were.
        if let Some(mut counters) = self.counters.read() {
            counters.lost.push(("decode", self.ring.get_ref().malformed()));
            counters.lost.push(("inventory", self.failures.total));
            counters.lost.push(("owners", self.failures.look_ups));
            counters.lost.push(("descriptions", self.undescribed));
            self.metrics.observe_counters(&counters);
        }
        self.metrics.observe_samples(&self.engine.samples());
        self.metrics.encode()
    }

    /// A bad file is refused as a whole; the old configuration stays in force.
    fn reload(&mut self) {
        let new = match self.source.load() {
            Ok(config) => config,
            Err(error) => {
                self.metrics.observe_reload(false);
                tracing::error!(%error, "configuration not reloaded");
                return;
            }
        };
        let (config, kept) = self.config.keep_start_only(new);
        if !kept.is_empty() {
            let keys = kept.join(", ");
            tracing::warn!(keys, "configuration keys not reloaded: a restart applies them");
        }
        self.engine.reconfigure(&config.detect, &config.ignore, config.limits.owners);
        self.walker.reconfigure(config.inventory.namespaces, config.limits.close_wait_sockets);
        self.config = config;
        if self.asked_at.is_none() {
            self.arm(Instant::now());
        }
        self.metrics.observe_reload(true);
        tracing::info!("configuration reloaded");
    }
}

/// Half of what the service manager allows, or hardly ever.
fn watchdog_interval() -> tokio::time::Interval {
    let allowed = sd_notify::watchdog_enabled();
    let period = allowed.map_or(Duration::from_secs(3_600), |allowed| allowed / 2);
    let mut interval = tokio::time::interval(period.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Without a service manager this does nothing.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
