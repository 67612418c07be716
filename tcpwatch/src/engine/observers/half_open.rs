//! Half-open connections that stay, by listening port: the signal of `syn-flood` and
//! `handshake-stall`, and which of the two a port is.
//!
//! Requests whose SYN-ACK had to be sent again have gone unanswered for a second at least. From at
//! least half as many sources, or from [`MANY_SOURCES`], they are a flood. From fewer it is a
//! stall: the same clients try again and again and never hear the answer. A port near the border
//! keeps its name. A handshake that goes well never gets here, so no rate of connections is either.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    engine::over_time::{counter::Counter, moved::Moved},
    facts::{Inventory, Listener, Namespace, NetnsId, Process, Timestamp},
};

/// Sources that are never few, however often each of them tries. The estimate ends near 7,000
/// (`SOURCE_WORDS`), so in a long queue their share by itself would call a large flood a stall.
const MANY_SOURCES: f64 = 1_000.0;
/// How far past the border between flood and stall the sources must be for one to become the other.
const BORDER: f64 = 0.2;
/// Fewest requests that crowd a queue, however short it is: a scan leaves as many.
const CROWD_LEAST: u64 = 20;
/// How long requests may stay that a full accept queue left behind: `tcp_synack_retries` 5.
const REQUEST_LIFE: Duration = Duration::from_secs(63);
/// Ports that are remembered, full ones and crowded ones each.
const PORTS: usize = 1_024;

type Port = (NetnsId, u16);

/// Facts of listening ports that outlive an inventory.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen {
    /// When a look last found a port's accept queue full.
    full: BTreeMap<Port, Timestamp>,
    /// The handshakes that full queues dropped between the looks.
    dropped: BTreeMap<Port, Moved>,
    /// How many these are within the lifetime of a request.
    left_behind: BTreeMap<Port, u64>,
    /// `ListenOverflows` of each namespace.
    overflows: BTreeMap<NetnsId, Counter>,
    /// Drops by the listeners of each port, modulo 2^32.
    drops: BTreeMap<Port, u32>,
    /// Whether a crowd has many sources.
    is_flood: BTreeMap<Port, bool>,
}

/// The half-open connections of one port.
#[derive(Debug)]
pub(crate) struct Crowd<'a> {
    pub(crate) namespace: &'a Namespace,
    /// The listener that most wait for; its owner is named.
    pub(crate) listener: &'a Listener,
    pub(crate) listeners: Vec<&'a Listener>,
    pub(crate) unanswered: u32,
    /// About how many addresses they come from.
    pub(crate) sources: u32,
    /// Connections that the accept queues may hold together.
    pub(crate) limit: u64,
    /// Requests whose answers the kernel itself dropped, because the accept queue was full within
    /// their lifetime.
    left_behind: u64,
}

impl HalfOpen {
    pub(crate) fn observe(&mut self, inventory: &Inventory, now: Timestamp) {
        self.full.retain(|_, at| now.since(*at) <= REQUEST_LIFE);
        let mut dropped_before = std::mem::take(&mut self.dropped);
        self.left_behind.clear();
        let before = std::mem::take(&mut self.is_flood);
        let mut drops_before = std::mem::take(&mut self.drops);
        let mut overflows_before = std::mem::take(&mut self.overflows);
        for namespace in &inventory.namespaces {
            let mut counter = overflows_before.remove(&namespace.id).unwrap_or_default();
            let total = namespace.netstat.as_ref().map(|netstat| netstat.listen_overflows);
            let overflowed = total.and_then(|total| counter.added(total)).unwrap_or(0) > 0;
            self.overflows.insert(namespace.id, counter);
            for (port, listeners) in by_port(namespace) {
                let key = (namespace.id, port);
                let drops = listeners.iter().fold(0, |sum: u32, it| sum.wrapping_add(it.drops));
                let dropped = drops.wrapping_sub(drops_before.remove(&key).unwrap_or(0));
                if drops > 0 && self.drops.len() < PORTS {
                    self.drops.insert(key, drops);
                }
                // A queue fills and empties between two looks; its drops stay. A step back is of
                // another listener.
                let added = if overflowed && dropped <= i32::MAX as u32 { dropped } else { 0 };
                let mut moved = dropped_before.remove(&key).unwrap_or_default();
                let moves = moved.observe(added.into(), REQUEST_LIFE, now);
                if moves.total > 0 && self.dropped.len() < PORTS {
                    self.dropped.insert(key, moved);
                    self.left_behind.insert(key, moves.in_window);
                }
                if listeners.iter().any(|listener| listener.is_full())
                    && (self.full.len() < PORTS || self.full.contains_key(&key))
                {
                    self.full.insert(key, now);
                }
                let (unanswered, sources) = crowd_of(&listeners);
                if unanswered > 0 && self.is_flood.len() < PORTS {
                    let border = match before.get(&key) {
                        Some(true) => 1.0 - BORDER,
                        Some(false) => 1.0 + BORDER,
                        None => 1.0,
                    };
                    self.is_flood.insert(key, spread(unanswered, sources) >= border);
                }
            }
        }
    }

    /// Whether the accept queue of the port is or was full within the lifetime of a request.
    pub(crate) fn was_full(&self, netns: NetnsId, port: u16) -> bool {
        let key = (netns, port);
        self.full.contains_key(&key) || self.left_behind.contains_key(&key)
    }

    /// The most requests that full queues can have left behind: a look that finds a queue full
    /// explains them all, a drop between two looks explains one.
    fn left_behind(&self, key: &Port) -> u64 {
        if self.full.contains_key(key) {
            return u64::MAX;
        }
        self.left_behind.get(key).copied().unwrap_or(0)
    }

    /// The ports of the namespace that are flooded, or else stalled, as of the last observation.
    pub(crate) fn crowds<'a>(&self, namespace: &'a Namespace, floods: bool) -> Vec<Crowd<'a>> {
        let crowd = |(port, listeners): (u16, Vec<&'a Listener>)| {
            let key = (namespace.id, port);
            self.is_flood.get(&key).filter(|is_flood| **is_flood == floods)?;
            let (unanswered, sources) = crowd_of(&listeners);
            let limit = listeners.iter().map(|listener| u64::from(listener.accept_limit)).sum();
            let listener = *listeners.iter().max_by_key(|listener| listener.half_open)?;
            let left_behind = self.left_behind(&key);
            Some(Crowd { namespace, listener, listeners, unanswered, sources, limit, left_behind })
        };
        by_port(namespace).into_iter().filter_map(crowd).collect()
    }
}

impl Crowd<'_> {
    pub(crate) const fn port(&self) -> u16 {
        self.listener.local.port
    }

    pub(crate) fn process(&self) -> Option<&Process> {
        self.listener.owner.as_ref().map(|owner| &*owner.process)
    }

    /// The number of requests that is a warning: half of the queue, where that is less than the
    /// threshold.
    pub(crate) fn threshold(&self, warning: u64) -> f64 {
        warning.min(CROWD_LEAST.max(self.limit / 2)) as f64
    }

    /// The unanswered requests that no full queue explains.
    pub(crate) fn unexplained(&self) -> f64 {
        u64::from(self.unanswered).saturating_sub(self.left_behind) as f64
    }

    /// Half-open connections of the port, the answered ones too.
    pub(crate) fn half_open(&self) -> u64 {
        self.listeners.iter().map(|listener| u64::from(listener.half_open)).sum()
    }
}

/// Requests are counted by port, which several listeners may share.
fn by_port(namespace: &Namespace) -> BTreeMap<u16, Vec<&Listener>> {
    let mut ports: BTreeMap<u16, Vec<&Listener>> = BTreeMap::new();
    for listener in &namespace.listeners {
        ports.entry(listener.local.port).or_default().push(listener);
    }
    ports
}

/// Unanswered requests and their sources: each listener of the port has the count of all.
fn crowd_of(listeners: &[&Listener]) -> (u32, u32) {
    let most = |of: fn(&Listener) -> u32| listeners.iter().map(|it| of(it)).max().unwrap_or(0);
    (most(|it| it.unanswered), most(|it| it.unanswered_sources))
}

/// How many sources there are, 1 being the border between few and many.
fn spread(unanswered: u32, sources: u32) -> f64 {
    let sources = f64::from(sources);
    (sources * 2.0 / f64::from(unanswered.max(1))).max(sources / MANY_SOURCES)
}
