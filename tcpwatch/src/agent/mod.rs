//! One loop that joins the three: facts in, outputs out.
//!
//! It owns the engine and everything that is published, so nothing needs a lock. Inventories are
//! taken by a thread of their own (`walker`); HTTP sends queries as messages. After start-up only
//! the end of one of these parts ends the loop. Other failures are counted, logged and retried.

mod answers;
mod colour;
mod error;
mod log;
mod pace;
mod reload;
mod service;
mod socket;
mod source;
mod start;
mod streaming;
#[cfg(test)]
mod tests;
mod walker;

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::Sleep,
};

pub(crate) use self::{
    colour::coloured,
    start::hook_states,
    streaming::{AT_A_TIME, READ_EVERY},
};
pub use self::{
    error::{RunError, StartError},
    log::{finish_log, init as init_log, last_line, start_log},
    source::ConfigSource,
};
use self::{
    reload::{ReloadError, Reloader},
    service::{Signals, notify, watchdog_interval},
    start::start,
    streaming::Streaming,
    walker::WalkerThread,
};
use crate::{
    config::{Config, Inventory as InventoryConfig},
    engine::Engine,
    facts::{Inventory, NotSeen, Scope, Timestamp, Unseen},
    kernel::{self, CounterReader, EventRing, OwnerPolicy},
    publish::{
        Access, History, HookState, LimitUse, Metrics, Query, Trends, WallClock, kernel_limits,
    },
};

/// Version as published: the crate's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Revision of the sources, as `build/revision.rs` finds it; "unknown" where nothing knows it.
pub const REVISION: &str = env!("TCPWATCH_REVISION");

/// Events taken from the ring at a time, so that a storm of them leaves the loop responsive.
const EVENTS_AT_A_TIME: usize = 4_096;
/// How long an inventory may be under way before the agent is not ready any more.
const WALK_PATIENCE: Duration = Duration::from_secs(60);

/// The host's name, as the kernel knows it.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The release of the kernel.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Runs the daemon until SIGTERM or SIGINT. Listens before it attaches, so that a port in use
/// leaves nothing behind.
pub async fn run(source: ConfigSource, config: Config, access: Access) -> Result<(), RunError> {
    let (agent, server, signals, links) = start(source, config, access).await?;
    // Not in `start`: a test of the agent would confine the process of all tests.
    kernel::confine(agent.confined_to).map_err(StartError::Confine)?;
    if let Err(error) = agent.reloader.try_now() {
        tracing::warn!(%error, "configuration unreadable without privileges: no reload possible");
    }
    if let Err(error) = agent.access.try_now() {
        tracing::warn!(%error, "web configuration unreadable without privileges: no reload possible");
    }
    agent.run(server, signals, links).await
}

/// Runs an agent within a program that draws on a terminal. It answers `queries` of that program;
/// it serves HTTP only where `config` says so.
pub(crate) async fn run_within(
    source: ConfigSource,
    config: Config,
    queries: mpsc::Receiver<Query>,
) -> Result<(), RunError> {
    let (agent, mut server, signals, links) = start(source, config, Access::default()).await?;
    server.queries = queries;
    kernel::confine_at_terminal(agent.confined_to).map_err(StartError::Confine)?;
    agent.run(server, signals, links).await
}

/// The HTTP server, from the loop.
struct Server {
    queries: mpsc::Receiver<Query>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Agent {
    engine: Engine,
    metrics: Metrics,
    /// The scope that the remaining privileges allow.
    confined_to: Scope,
    ring: AsyncFd<EventRing>,
    /// The last batch of events was full.
    more_events: Notify,
    counters: CounterReader,
    streaming: Streaming,
    walker: WalkerThread,
    reloader: Reloader,
    access: Access,
    config: Config,
    /// The configuration was accepted when it was last read.
    accepted: bool,
    started: Timestamp,
    /// When the last inventory ended, and how long it walked.
    last_inventory: Option<(Timestamp, Duration)>,
    /// Where people reach the page.
    url: String,
    hooks: Vec<HookState>,
    /// A first inventory has been taken.
    inventoried: bool,
    /// The host's name.
    host: String,
    /// Release of the kernel.
    kernel: String,
    /// Findings that have ended.
    history: History,
    /// The numbers of the last hour.
    trends: Trends,
    /// Limits of the kernel, as of the last inventory.
    limits: Vec<LimitUse>,
    /// Wakes the pages.
    updates: watch::Sender<u64>,
    /// Limits of sight, as of the last inventory.
    not_seen: Vec<NotSeen>,
    failures: Failures,
    /// Listeners and self-connections that no inventory could describe, added up.
    undescribed: u64,
    next_inventory: Pin<Box<Sleep>>,
    /// When the last inventory began, and the processor time that it took.
    began: Instant,
    cpu_time: Duration,
    /// When the inventory under way was ordered.
    ordered_at: Option<Instant>,
}

/// Inventories that could not be taken.
#[derive(Debug, Default)]
struct Failures {
    total: u64,
    in_a_row: u64,
    /// Owner look-ups that failed, which leave an inventory without names.
    look_ups: u64,
    /// Chains of sockets whose end no inventory has seen.
    chains: u64,
}

impl Agent {
    /// Runs until a signal ends it, or the end of a part. The hooks go first then: a walker
    /// that hangs must not keep them attached.
    async fn run<Links>(
        mut self,
        mut server: Server,
        mut signals: Signals,
        links: Links,
    ) -> Result<(), RunError> {
        let mut watchdog = watchdog_interval();
        let mut outcome = loop {
            tokio::select! {
                () = &mut self.next_inventory, if self.ordered_at.is_none() => self.order_inventory(),
                answer = self.walker.answer(), if self.ordered_at.is_some() => {
                    let Some(answer) = answer else {
                        break Err(RunError::Ended {
                            part: "the inventory thread",
                            reason: "it has returned".to_owned(),
                        });
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
                wake = self.streaming.next() => self.streaming.handle(wake, &self.walker),
                ended = &mut server.task => break Err(RunError::of_server(ended)),
                Some(query) = server.queries.recv() => self.answer(query),
                _ = signals.hangup.recv() => self.reload(),
                outcome = self.reloader.outcome() => self.handle_reload(outcome),
                // A restart can repair only a loop that hangs, so the loop itself reports.
                _ = watchdog.tick() => notify(&[sd_notify::NotifyState::Watchdog]),
                _ = signals.terminate.recv() => break Ok(()),
                _ = signals.interrupt.recv() => break Ok(()),
            }
        };
        tracing::info!("stopping");
        notify(&[sd_notify::NotifyState::Stopping]);
        self.streaming.end();
        drop(links);
        if let Some(panic) = self.walker.stop() {
            outcome = Err(RunError::of_panic("the inventory thread", &*panic));
        }
        let _ = server.stop.send(true);
        // One that has ended cannot be waited for twice.
        if !server.task.is_finished() {
            let _ = server.task.await;
        }
        outcome
    }

    fn handle_answer(&mut self, answer: walker::Answer) {
        self.ordered_at = None;
        self.began = answer.began;
        self.cpu_time = answer.cpu_time;
        self.metrics.observe_inventory_cpu(answer.cpu_time);
        self.failures.look_ups = answer.failed_look_ups;
        self.failures.chains = answer.passes.given_up;
        self.metrics.observe_passes(&answer.passes);
        match answer.outcome {
            Ok((inventory, tables)) => {
                if self.failures.in_a_row > 0 {
                    tracing::info!(
                        failures = self.failures.in_a_row,
                        "inventory succeeded after failures"
                    );
                    self.failures.in_a_row = 0;
                }
                self.handle_inventory(&inventory);
                self.metrics.observe_tables(&tables);
            }
            Err(error) => {
                // Once: a line in each interval would fill the log.
                if self.failures.in_a_row == 0 {
                    tracing::error!(%error, "inventory failed; retry at each interval");
                }
                self.failures.total += 1;
                self.failures.in_a_row += 1;
            }
        }
        self.arm(Instant::now());
    }

    /// The time from one inventory to the next, as the last one allows.
    fn interval(&self) -> Duration {
        let InventoryConfig { interval, cpu_share, .. } = self.config.inventory;
        pace::interval(interval, cpu_share, self.cpu_time)
    }

    /// Sets when the next inventory is due.
    fn arm(&mut self, now: Instant) {
        let due = (self.began + self.interval()).max(now + pace::pause(self.cpu_time));
        self.next_inventory.as_mut().reset(due.into());
    }

    /// Events up to now decide what the inventory looks at more closely.
    fn order_inventory(&mut self) {
        self.handle_events();
        let policy =
            if self.inventoried { OwnerPolicy::OfThoseThatStay } else { OwnerPolicy::AtOnce };
        self.walker.take_inventory(policy, self.engine.focus());
        self.ordered_at = Some(Instant::now());
    }

    /// Events up to now are judged with the inventory that follows them.
    fn handle_inventory(&mut self, inventory: &Inventory) {
        self.handle_events();
        self.end_entries();
        self.engine.handle_inventory(inventory, kernel::now());
        while let Some(change) = self.engine.poll_change() {
            log::change(&change);
            self.history.observe(&change, kernel::now());
        }
        let wall = WallClock::at(kernel::now());
        let finished = wall.unix_seconds(inventory.finished);
        self.last_inventory = Some((inventory.finished, inventory.walked));
        self.metrics.observe_inventory(inventory.walked, finished, inventory);
        self.observe_not_seen(&inventory.not_seen);
        self.undescribed += inventory.undescribed;
        self.observe_trends(inventory);
        if !self.inventoried {
            self.inventoried = true;
            let not_seen: Vec<String> = self.not_seen.iter().map(NotSeen::to_string).collect();
            let not_seen = not_seen.join("; ");
            tracing::info!(namespaces = inventory.namespaces.len(), not_seen, "ready");
            notify(&[sd_notify::NotifyState::Ready]);
        }
        self.updates.send_modify(|number| *number += 1);
    }

    /// Keeps the numbers that the page shows over time, and those that only an inventory has.
    fn observe_trends(&mut self, inventory: &Inventory) {
        let counters = self.counters();
        let samples = self.engine.samples();
        self.trends.observe(kernel::now(), &samples, counters.as_ref(), self.engine.findings());
        self.limits = kernel_limits(inventory);
    }

    /// Drops what the configuration has only up to a day, once that is over.
    fn end_entries(&mut self) {
        let ended = self.config.end_entries(WallClock::at(kernel::now()).today());
        for entry in &ended {
            tracing::warn!("{entry}");
        }
        if !ended.is_empty() {
            let Config { detect, ignore, limits, .. } = &self.config;
            self.engine.reconfigure(detect, ignore, limits.owners);
        }
    }

    /// Logs each limit of sight that is new in this inventory, once: its number may change each
    /// time. The limits at the start are in the line that says ready.
    fn observe_not_seen(&mut self, not_seen: &[NotSeen]) {
        if self.inventoried {
            let is_new = |it: &&NotSeen| {
                let is_same = |known: &NotSeen| (known.what, &known.errno) == (it.what, &it.errno);
                !self.not_seen.iter().any(is_same)
            };
            // Owners that are not looked up yet are the next inventory's work.
            for it in not_seen.iter().filter(is_new).filter(|it| it.what != Unseen::Owners) {
                tracing::warn!(why = it.why, lost = it.lost, "not seen");
            }
        }
        self.not_seen = not_seen.to_vec();
    }

    /// Takes all events, but no more than a ring holds: a storm fills it as fast as it is read.
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

    /// Begins to read the configuration again. The web configuration is looked at with each
    /// connection too; after SIGHUP an operator looks into the log.
    fn reload(&mut self) {
        self.reloader.begin();
        let access = self.access.clone();
        tokio::spawn(async move { access.look().await });
    }

    /// A bad file is refused as a whole; the old configuration stays in force.
    fn handle_reload(&mut self, read: Result<Config, ReloadError>) {
        let new = match read {
            Ok(config) => config,
            Err(error) => {
                self.accepted = false;
                self.metrics.observe_reload(None);
                tracing::error!(%error, "configuration not reloaded");
                return;
            }
        };
        let (config, kept) = reload::merge(&self.config, new, self.confined_to);
        if !kept.is_empty() {
            let keys = kept.join(", ");
            tracing::warn!(keys, "configuration keys not reloaded: a restart applies them");
        }
        self.engine.reconfigure(&config.detect, &config.ignore, config.limits.owners);
        self.walker.reconfigure(config.inventory.namespaces, config.limits.close_wait_sockets);
        self.streaming.reconfigure(config.limits.events_per_second);
        self.config = config;
        self.accepted = true;
        if self.ordered_at.is_none() {
            self.arm(Instant::now());
        }
        let wall = WallClock::at(kernel::now());
        self.metrics.observe_reload(Some(wall.unix_seconds(wall.now())));
        tracing::info!("configuration reloaded");
    }
}
