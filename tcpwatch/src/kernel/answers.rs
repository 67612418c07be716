//! How many connections are established to the destinations that the engine asks for.
//!
//! The kernel side counts only what the agent has put into its table, so a host on which nothing is
//! asked for pays for one load with each connection.

use std::collections::BTreeSet;

use aya::maps::{HashMap as BpfHashMap, MapData};
use tcpwatch_common::{Address, Answering};

use crate::facts::{AnswerCount, Endpoint, NetnsId};

pub(super) struct Answers {
    counts: BpfHashMap<MapData, Answering, u64>,
    asked: BTreeSet<(NetnsId, Endpoint)>,
}

impl Answers {
    pub(super) fn new(counts: BpfHashMap<MapData, Answering, u64>) -> Self {
        Self { counts, asked: BTreeSet::new() }
    }

    /// Asks for these destinations from now on. What is new begins at 0.
    pub(super) fn ask(&mut self, wanted: &BTreeSet<(NetnsId, Endpoint)>) {
        for gone in self.asked.difference(wanted) {
            // One that could not be put there is not there.
            let _ = self.counts.remove(&key_of(gone));
        }
        let counts = &mut self.counts;
        let is_asked = |it: &&(NetnsId, Endpoint)| {
            self.asked.contains(it) || counts.insert(key_of(it), 0, 0).is_ok()
        };
        self.asked = wanted.iter().filter(is_asked).copied().collect();
    }

    /// What has been counted so far.
    pub(super) fn read(&self) -> Vec<AnswerCount> {
        let count_of = |&(netns, peer): &(NetnsId, Endpoint)| {
            let count = self.counts.get(&key_of(&(netns, peer)), 0).ok()?;
            Some(AnswerCount { netns, peer, count })
        };
        self.asked.iter().filter_map(count_of).collect()
    }
}

fn key_of(&(netns, peer): &(NetnsId, Endpoint)) -> Answering {
    Answering { netns, peer: wire_address(peer), port: peer.port, reserved: [0; 3] }
}

/// As the kernel side tells it: IPv4 mapped into IPv6, in network byte order.
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
