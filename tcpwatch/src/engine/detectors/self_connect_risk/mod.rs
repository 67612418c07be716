//! `self-connect-risk`: a port from which a socket may come to be connected to itself.
//!
//! Signal: listeners on ports inside `ip_local_port_range` that bind() named and that are not
//! reserved, together for each owner; and a port in there that a local client retries while nothing
//! listens (ECONNREFUSED from its own address).
//! Trip: info for listeners that have been there for `min_age`; for `warning` refused connects
//! within `window` info, and a warning once they have had the chance [`CHANCE`] to meet their own
//! port.
//! Cold start: a listener's age counts from the first inventory that saw it.
//! Recovery: the ports are reserved, the listeners gone, or `window` after the last refusal. A
//! service that starts while its clients retry takes their finding over, so there is one.
//! Misses: a port that a program picks at random and names in bind() is taken for a configured one.

mod retries;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{retries::Retries, words::AtRisk};
use crate::{
    config::Detect,
    engine::detector::{Detector, Round, Verdicts},
    facts::{Event, Listener, Namespace, NetnsId, Process, Timestamp},
};

/// Listeners whose age is followed.
const LISTENERS: usize = 4_096;

#[derive(Debug, Default)]
pub(crate) struct SelfConnectRisk {
    /// Since when something listens on a port of the range.
    listening: BTreeMap<(NetnsId, u16), Timestamp>,
    retries: Retries,
    /// Findings about retries that an owner has taken over, by its own id.
    taken_over: BTreeMap<String, String>,
}

impl Detector for SelfConnectRisk {
    fn handle_event(&mut self, event: &Event, detect: &Detect) {
        self.retries.handle_event(event, &detect.self_connect_risk);
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        self.retries.begin(round);
        let mut listening_before = std::mem::take(&mut self.listening);
        let mut taken_over_before = std::mem::take(&mut self.taken_over);
        for namespace in &round.inventory.namespaces {
            let seen: BTreeSet<u16> = in_range(namespace).map(|it| it.local.port).collect();
            for &port in &seen {
                let key = (namespace.id, port);
                let since = listening_before.remove(&key).unwrap_or(round.now);
                if self.listening.len() < LISTENERS {
                    self.listening.insert(key, since);
                }
            }
            for (id, listeners) in by_owner(namespace) {
                let taken_over = taken_over_before.remove(&id).or_else(|| {
                    let ports = listeners.iter().map(|listener| listener.local.port);
                    self.retries.finding_of(namespace.id, ports)
                });
                let is_due = |listener: &&Listener| {
                    self.is_due(namespace.id, listener, taken_over.is_some(), round)
                };
                let due: Vec<&Listener> = listeners.into_iter().filter(is_due).collect();
                if due.is_empty() {
                    continue;
                }
                let clients = due.iter().map(|listener| u64::from(listener.local_clients)).sum();
                let shown = taken_over.clone().unwrap_or_else(|| id.clone());
                verdicts.push(AtRisk { namespace, listeners: &due }.verdict(shown), clients);
                if let Some(taken_over) = taken_over {
                    self.taken_over.insert(id, taken_over);
                }
            }
            self.retries.judge(namespace, &seen, round, verdicts);
        }
    }
}

impl SelfConnectRisk {
    /// Whether the listener counts: it has been there for a while, or its clients were reported
    /// before.
    fn is_due(
        &self,
        netns: NetnsId,
        listener: &Listener,
        was_reported: bool,
        round: &Round<'_>,
    ) -> bool {
        let port = listener.local.port;
        let process = listener.owner.as_ref().map(|owner| &*owner.process);
        let config = round.detect.self_connect_risk.of(process, port);
        let since = self.listening.get(&(netns, port)).copied().unwrap_or(round.now);
        config.enabled && (was_reported || round.now.since(since) >= config.min_age)
    }
}

fn in_range(namespace: &Namespace) -> impl Iterator<Item = &Listener> {
    namespace.listeners.iter().filter(|listener| listener.in_port_range)
}

/// Listeners at risk by the id of their owner's finding. A port that the kernel picked is none: the
/// next start picks another, which cannot be known before.
fn by_owner(namespace: &Namespace) -> BTreeMap<String, Vec<&Listener>> {
    let mut owners: BTreeMap<String, Vec<&Listener>> = BTreeMap::new();
    for listener in in_range(namespace).filter(|listener| listener.port_picked != Some(true)) {
        let process: Option<&Arc<Process>> = listener.owner.as_ref().map(|owner| &owner.process);
        let name = process.map_or("", |process| &process.name);
        let unit = process.map_or("", |process| process.unit_label());
        let id = format!("self-connect-risk/{}/{name}/{unit}", namespace.id);
        owners.entry(id).or_default().push(listener);
    }
    owners
}
