//! The counts of a walk in a namespace: states, ports, destinations, half-open requests.

use std::{collections::HashSet, net::Ipv4Addr};

use tcpwatch_common::{
    Destination, DestinationUse as WireUse, NamespaceWalk, port_state, request_key,
};

use super::{
    Walker, endpoint,
    records::{Copied, Seen, estimate_distinct},
    settings::Settings,
};
use crate::facts::{DestinationUse, Listener, Namespace, StateCounts, TcpState};

impl Walker {
    /// Takes over what the last walk has counted in a namespace.
    pub(super) fn take_counted(
        &mut self,
        copied: &mut Copied,
        counted: &NamespaceWalk,
        busy: &[Destination],
        settings: &Settings,
    ) {
        self.destinations_seen = self.destinations_seen.max(counted.destinations.into());
        self.take_aggregates(&mut copied.namespace, counted, busy);
        self.describe_listeners(&mut copied.listeners, counted.slot, settings);
    }

    fn take_aggregates(
        &self,
        namespace: &mut Namespace,
        counted: &NamespaceWalk,
        busy: &[Destination],
    ) {
        let mut sockets = StateCounts::default();
        for state in TcpState::ALL {
            sockets.set(state, counted.states[state as usize].into());
        }
        namespace.sockets = sockets;
        namespace.time_wait.used = counted.time_wait_buckets.into();
        let ports = &mut namespace.ports;
        ports.pinned = counted.pinned_ports;
        ports.bound_before_connect = counted.bound_ports;
        ports.pinned_in_time_wait = Some(counted.pinned_minisockets);
        let described =
            |destination: &Destination, used: u32, entry: Option<&WireUse>| DestinationUse {
                local: endpoint(destination.local, 0),
                peer: endpoint(destination.peer, destination.peer_port),
                used: used.saturating_add(ports.pinned).min(ports.available),
                states: entry.map(states_of),
            };
        let of_worst = self.use_of(&counted.worst);
        let worst = (counted.worst_used > 0)
            .then(|| described(&counted.worst, counted.worst_used, of_worst.as_ref()));
        // One that was evicted since was not that busy after all.
        let busy = busy.iter().filter_map(|destination| {
            let entry = self.use_of(destination)?;
            Some(described(destination, entry.used.into(), Some(&entry)))
        });
        let busy = busy.collect();
        ports.worst = worst;
        ports.busy = busy;
    }

    /// Ports that the last walk has counted for a destination.
    fn use_of(&self, destination: &Destination) -> Option<WireUse> {
        let entry = self.destinations.get(destination, 0).ok()?;
        (entry.generation == self.generation).then_some(entry)
    }

    /// Adds the walk's counts for the ports of listeners.
    fn describe_listeners(
        &mut self,
        listeners: &mut [Seen<Listener>],
        slot: u16,
        settings: &Settings,
    ) {
        let mut ports = HashSet::new();
        for Seen { fact: listener, .. } in listeners {
            let port = listener.local.port;
            listener.in_port_range = settings.is_ephemeral(port);
            if let Ok(requests) = self.requests.get(&request_key(slot, port), 0)
                && requests.generation == self.generation
            {
                ports.insert(port);
                listener.unanswered = requests.unanswered;
                listener.unanswered_sources = estimate_distinct(&requests.sources);
            }
            if listener.in_port_range {
                listener.local_clients = self.loopback_clients(slot, port);
            }
        }
        self.requests_seen = self.requests_seen.max(ports.len() as u64);
    }

    /// Connections over loopback to a port of this namespace.
    fn loopback_clients(&self, slot: u16, port: u16) -> u32 {
        let ipv4 = tcpwatch_common::Address::from_v4(u32::from(Ipv4Addr::LOCALHOST).to_be());
        let ipv6 = tcpwatch_common::Address { words: [0, 0, 0, 1_u32.to_be()] };
        let clients = [ipv4, ipv6].map(|loopback| {
            let peer_port = port;
            let destination = Destination { local: loopback, peer: loopback, peer_port, slot };
            self.use_of(&destination).map_or(0, |entry| entry.used.into())
        });
        clients.iter().sum()
    }
}

fn states_of(entry: &WireUse) -> StateCounts {
    let mut states = StateCounts::default();
    // LAST_ACK is the state of its class that lasts.
    for state in TcpState::ALL {
        if !matches!(state, TcpState::Close | TcpState::Listen | TcpState::Closing) {
            states.set(state, entry.states[port_state(state as u32)].into());
        }
    }
    states
}
