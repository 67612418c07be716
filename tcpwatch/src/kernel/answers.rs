//! Counts of the connections established to the destinations that the engine requests.
//!
//! The kernel side counts only what the agent has put into its table, so a host without
//! requested destinations pays for one load with each connection.

use std::collections::BTreeSet;

use aya::maps::{HashMap as BpfHashMap, MapData};
use tcpwatch_common::{Address, Answering};

use crate::facts::{AnswerCount, Endpoint, NetnsId};

pub(super) struct Answers {
    counts: BpfHashMap<MapData, Answering, u64>,
    requested: BTreeSet<(NetnsId, Endpoint)>,
}

impl Answers {
    pub(super) fn new(counts: BpfHashMap<MapData, Answering, u64>) -> Self {
        Self { counts, requested: BTreeSet::new() }
    }

    /// Counts these destinations from now on. The count of a new one begins at 0.
    pub(super) fn request(&mut self, destinations: &BTreeSet<(NetnsId, Endpoint)>) {
        for gone in self.requested.difference(destinations) {
            // One that could not be put there is not there.
            let _ = self.counts.remove(&key_of(gone));
        }
        let counts = &mut self.counts;
        let is_counted = |it: &&(NetnsId, Endpoint)| {
            self.requested.contains(it) || counts.insert(key_of(it), 0, 0).is_ok()
        };
        self.requested = destinations.iter().filter(is_counted).copied().collect();
    }

    /// The counts so far.
    pub(super) fn read(&self) -> Vec<AnswerCount> {
        let count_of = |&(netns, peer): &(NetnsId, Endpoint)| {
            let count = self.counts.get(&key_of(&(netns, peer)), 0).ok()?;
            Some(AnswerCount { netns, peer, count })
        };
        self.requested.iter().filter_map(count_of).collect()
    }
}

fn key_of(&(netns, peer): &(NetnsId, Endpoint)) -> Answering {
    Answering { netns, peer: wire_address(peer), port: peer.port, reserved: [0; 3] }
}

/// As the kernel side writes it: IPv4 mapped into IPv6, in network byte order.
fn wire_address(peer: Endpoint) -> Address {
    let octets = match peer.address {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(address) => address.octets(),
    };
    let word = |index: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&octets[index * 4..index * 4 + 4]);
        u32::from_ne_bytes(bytes)
    };
    Address { words: [word(0), word(1), word(2), word(3)] }
}
