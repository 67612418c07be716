//! Ports of this host that a client retries while nothing listens on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::words::{self, Parity};
use crate::{
    config::{self, Overridable},
    engine::{
        advice::reserved_ports,
        detector::{Round, Verdicts},
        finding::Severity,
        over_time::{level::Levels, moved::Moved},
    },
    facts::{ConnectFailure, Endpoint, Event, Namespace, NetnsId, Process, Timestamp},
};

/// Ports whose refusals are remembered.
const PORTS: usize = 256;
/// The chance of having met their own port by now from which on retries are a warning: one in twenty.
/// They are 706 retries in the default range. A service that starts 30 s after ten clients which
/// retry each second is refused 300 times.
const CHANCE: f64 = 0.05;

/// All that are retried.
#[derive(Debug, Default)]
pub(super) struct Retries {
    levels: Levels,
    ports: BTreeMap<(NetnsId, Endpoint), Retried>,
    /// Findings of the last round, by port.
    standing: BTreeMap<(NetnsId, u16), String>,
}

/// A port of this host that refused.
#[derive(Debug)]
struct Retried {
    refused: Moved,
    last: Timestamp,
    process: Option<Arc<Process>>,
}

impl Retries {
    pub(super) fn handle_event(
        &mut self,
        event: &Event,
        risk: &Overridable<config::SelfConnectRisk>,
    ) {
        let Event::ConnectFailed { at, netns, local, peer, reason, process, .. } = event else {
            return;
        };
        // From another address it can never be its own peer: 127.0.0.5 is called from 127.0.0.1.
        if *reason != ConnectFailure::Refused || peer.address != local.address {
            return;
        }
        let key = (*netns, *peer);
        if !self.ports.contains_key(&key) && self.ports.len() >= PORTS {
            // A scan of closed ports shall not hide a client that goes on.
            let oldest = self.ports.iter().min_by_key(|(_, it)| it.last).map(|(key, _)| *key);
            oldest.map(|key| self.ports.remove(&key));
        }
        let retried = self.ports.entry(key).or_insert_with(|| Retried {
            refused: Moved::default(),
            last: *at,
            process: None,
        });
        retried.last = retried.last.max(*at);
        if process.is_some() {
            retried.process.clone_from(process);
        }
        let config = risk.of(retried.process.as_deref(), peer.port);
        retried.refused.observe(1, config.window, *at);
    }

    pub(super) fn begin(&mut self, round: &Round<'_>) {
        self.levels.begin();
        let is_there = |netns| round.inventory.namespaces.iter().any(|it| it.id == netns);
        self.standing.retain(|(netns, _), _| is_there(*netns));
        let risk = &round.detect.self_connect_risk;
        self.ports.retain(|(_, peer), retried| {
            let config = risk.of(retried.process.as_deref(), peer.port);
            round.now.since(retried.last) <= round.window(config.window, retried.last)
        });
    }

    /// The finding that stood in the last round about one of these ports; it is handed over.
    pub(super) fn finding_of(
        &mut self,
        netns: NetnsId,
        mut ports: impl Iterator<Item = u16>,
    ) -> Option<String> {
        ports.find_map(|port| self.standing.remove(&(netns, port)))
    }

    /// Judges the ports of one namespace that are retried while nothing listens.
    pub(super) fn judge(
        &mut self,
        namespace: &Namespace,
        listening: &BTreeSet<u16>,
        round: &Round<'_>,
        verdicts: &mut Verdicts<'_>,
    ) {
        self.standing.retain(|(netns, _), _| *netns != namespace.id);
        let (low, high) = namespace.ports.range;
        for ((netns, peer), retried) in &mut self.ports {
            let in_range = (low..=high).contains(&peer.port)
                && !reserved_ports::contain(&namespace.ports.reserved, peer.port);
            if *netns != namespace.id || !in_range || listening.contains(&peer.port) {
                continue;
            }
            let process = retried.process.as_deref();
            let config = round.detect.self_connect_risk.of(process, peer.port);
            let window = round.window(config.window, retried.last);
            let refused = retried.refused.observe(0, window, round.now);
            if !config.enabled {
                continue;
            }
            let id = format!("self-connect-risk/{netns}/{peer}");
            let threshold = config.warning as f64;
            if self.levels.judge_moves(&id, refused, threshold, f64::INFINITY).is_none() {
                continue;
            }
            let chance = match Parity::of(&namespace.ports, peer.port) {
                Parity::First => refused.total as f64 / f64::from(words::tries(&namespace.ports)),
                Parity::Second => 0.0,
            };
            let severity = if chance >= CHANCE { Severity::Warning } else { Severity::Info };
            // Of several addresses with one port the least id, in whatever order they come.
            let standing = self.standing.entry((*netns, peer.port)).or_insert_with(|| id.clone());
            if id < *standing {
                standing.clone_from(&id);
            }
            let verdict = words::retried_port(id, severity, namespace, *peer, process, refused);
            verdicts.push(verdict, refused.in_window);
        }
    }
}
