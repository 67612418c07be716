//! `self-connection`: a socket is connected to itself.
//!
//! Signal: a socket in the inventory whose local and peer address and port are equal. It comes from
//! connecting to a port inside the ephemeral range while no process listens there: the kernel may
//! pick that very port as the source, and TCP's simultaneous open (RFC 9293 section 3.5) then
//! connects the socket to itself.
//! Trip: one such socket; the severity is configured.
//! Cold start: none, also one that is older than the agent is seen.
//! Recovery: the inventory that no longer finds it.
//! Misses: one that lives less than an inventory interval raises nothing; it is counted in
//! `tcpwatch_self_connections_total`.

mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    config::Detect,
    engine::detector::{Detector, Round, Verdicts},
    facts::{Endpoint, Event, NetnsId, Process, Timestamp},
};

/// Self-connections whose maker is remembered until the inventory shows them.
const MAKERS: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct SelfConnection {
    /// The process that called connect() and when, by namespace and endpoint.
    makers: BTreeMap<(NetnsId, Endpoint), (Timestamp, Arc<Process>)>,
}

impl Detector for SelfConnection {
    fn handle_event(&mut self, event: &Event, _detect: &Detect) {
        let Event::SelfConnection { at, netns, endpoint, process: Some(process) } = event else {
            return;
        };
        let key = (*netns, *endpoint);
        if self.makers.len() < MAKERS || self.makers.contains_key(&key) {
            self.makers.insert(key, (*at, Arc::clone(process)));
        }
    }

    /// One finding for each self-connection.
    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let Round { inventory, detect, .. } = *round;
        let mut seen = BTreeSet::new();
        for namespace in &inventory.namespaces {
            for socket in &namespace.self_connected {
                let key = (namespace.id, socket.endpoint);
                if !seen.insert(key) {
                    continue;
                }
                let maker = self.makers.get(&key).map(|(_, maker)| &**maker);
                let holder = socket.owner.as_ref().map(|owner| &*owner.process).or(maker);
                let config = detect.self_connection.of(holder, socket.endpoint.port);
                if config.enabled {
                    verdicts.push(words::verdict(namespace, socket, maker, config.severity), 0);
                }
            }
        }
        // One made while the tables were walked may be in the next inventory only.
        self.makers.retain(|key, (at, _)| seen.contains(key) || *at >= inventory.started);
    }
}
