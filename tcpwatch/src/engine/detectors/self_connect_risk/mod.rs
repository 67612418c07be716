//! `self-connect-risk`: a port from which a socket may come to be connected to itself.
//!
//! Signal: a listener inside `ip_local_port_range` that is not reserved; and a port in there that
//! a local client dials again and again while nobody listens (ECONNREFUSED from its own address).
//! Trip: info for a listener that has been there for `min_age`, warning where a local client
//! dials it; warning for `warning` refused connections within `window`, info where connect() takes
//! the other ports first (see [`Parity`]).
//! Cold start: a listener's age counts from the first inventory that saw it.
//! Recovery: the port is reserved, the listener gone, or `window` after the last refusal.
//! Misses: local clients of a listener that dial another address of this host than loopback, until
//! they are refused.

mod words;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    config::Detect,
    engine::{
        advice::reserved_ports,
        detector::{Detector, Round, Verdicts},
        over_time::{level::Levels, moved::Moved},
    },
    facts::{ConnectFailure, Endpoint, Event, Listener, Namespace, NetnsId, Process, Timestamp},
};

/// Listeners whose age is followed.
const LISTENERS: usize = 4_096;
/// Ports whose refusals are remembered.
const DIALLED: usize = 256;
/// How long a listener counts as dialled by local clients after the last of them was seen: a client
/// that comes once a day, and an hour more, shall not make the severity go up and down.
const CLIENT_MEMORY: Duration = Duration::from_secs(25 * 3_600);

#[derive(Debug, Default)]
pub(crate) struct SelfConnectRisk {
    levels: Levels,
    /// Ports of the range on which somebody listens.
    listening: HashMap<(NetnsId, u16), Listening>,
    dialled: HashMap<(NetnsId, Endpoint), Dialled>,
}

/// A port of the range on which somebody listens.
#[derive(Clone, Copy, Debug)]
struct Listening {
    since: Timestamp,
    /// When a local client was seen last.
    dialled: Option<Timestamp>,
}

/// A port of this host that refused.
#[derive(Debug)]
struct Dialled {
    refused: Moved,
    last: Timestamp,
    process: Option<Arc<Process>>,
}

impl Detector for SelfConnectRisk {
    fn handle_event(&mut self, event: &Event, detect: &Detect) {
        let Event::ConnectFailed { at, netns, local, peer, reason, process, .. } = event else {
            return;
        };
        // From another address it can never be its own peer: 127.0.0.5 is dialled from 127.0.0.1.
        if *reason != ConnectFailure::Refused || peer.address != local.address {
            return;
        }
        let key = (*netns, *peer);
        if !self.dialled.contains_key(&key) && self.dialled.len() >= DIALLED {
            return;
        }
        let dialled = self.dialled.entry(key).or_insert_with(|| Dialled {
            refused: Moved::default(),
            last: *at,
            process: None,
        });
        dialled.last = dialled.last.max(*at);
        if process.is_some() {
            dialled.process.clone_from(process);
        }
        let config = detect.self_connect_risk.of(dialled.process.as_deref(), peer.port);
        dialled.refused.observe(1, config.window, *at);
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let Round { inventory, now, .. } = *round;
        let risk = &round.detect.self_connect_risk;
        self.levels.begin();
        self.dialled.retain(|(_, peer), dialled| {
            let config = risk.of(dialled.process.as_deref(), peer.port);
            now.since(dialled.last) <= config.window
        });
        let mut before = std::mem::take(&mut self.listening);
        for namespace in &inventory.namespaces {
            let mut seen = HashSet::new();
            for listener in namespace.listeners.iter().filter(|listener| listener.in_port_range) {
                if !seen.insert(listener.local.port) {
                    continue;
                }
                let key = (namespace.id, listener.local.port);
                let listening = self.follow(key, listener, before.remove(&key), now);
                let process = listener.owner.as_ref().map(|owner| &*owner.process);
                let config = risk.of(process, listener.local.port);
                if config.enabled && now.since(listening.since) >= config.min_age {
                    let is_dialled = listening.dialled.is_some();
                    let verdict = words::listener_at_risk(namespace, listener, is_dialled);
                    verdicts.push(verdict, listener.local_clients.into());
                }
            }
            self.judge_dialled_ports(namespace, &seen, round, verdicts);
        }
    }
}

impl SelfConnectRisk {
    /// Since when somebody listens there, and whether local clients dial it.
    fn follow(
        &mut self,
        key: (NetnsId, u16),
        listener: &Listener,
        before: Option<Listening>,
        now: Timestamp,
    ) -> Listening {
        let mut listening = before.unwrap_or(Listening { since: now, dialled: None });
        let (netns, port) = key;
        let has_refused =
            || self.dialled.keys().any(|(id, peer)| (*id, peer.port) == (netns, port));
        if listener.local_clients > 0 || has_refused() {
            listening.dialled = Some(now);
        }
        listening.dialled = listening.dialled.filter(|at| now.since(*at) <= CLIENT_MEMORY);
        if self.listening.len() < LISTENERS {
            self.listening.insert(key, listening);
        }
        listening
    }

    /// Ports that are dialled again and again while nobody listens.
    fn judge_dialled_ports(
        &mut self,
        namespace: &Namespace,
        listening: &HashSet<u16>,
        round: &Round<'_>,
        verdicts: &mut Verdicts<'_>,
    ) {
        let (low, high) = namespace.ports.range;
        for ((netns, peer), dialled) in &mut self.dialled {
            let in_range = (low..=high).contains(&peer.port)
                && !reserved_ports::contain(&namespace.ports.reserved, peer.port);
            if *netns != namespace.id || !in_range || listening.contains(&peer.port) {
                continue;
            }
            let process = dialled.process.as_deref();
            let config = round.detect.self_connect_risk.of(process, peer.port);
            let refused = dialled.refused.observe(0, config.window, round.now);
            if !config.enabled {
                continue;
            }
            let id = format!("self-connect-risk/{netns}/{peer}");
            let threshold = config.warning as f64;
            if self.levels.judge_moves(&id, refused, threshold, f64::INFINITY).is_some() {
                let verdict = words::dialled_port(id, namespace, *peer, process, refused);
                verdicts.push(verdict, refused.in_window);
            }
        }
    }
}
