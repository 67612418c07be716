//! Local ports by destination: what has its own set of them, and which have taken most.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use crate::facts::{DestinationUse, Endpoint, Namespace, NetnsId};

/// Destinations that the evidence lists.
const WORST: usize = 5;

/// What has its own set of local ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Destination {
    pub(crate) netns: NetnsId,
    pub(crate) local: IpAddr,
    pub(crate) peer: Endpoint,
}

pub(crate) fn key_of(namespace: &Namespace, destination: &DestinationUse) -> Destination {
    Destination { netns: namespace.id, local: destination.local.address, peer: destination.peer }
}

/// The destinations that have taken most, `10.0.0.1 -> 10.0.0.9:443: 25000 of 28232`.
pub(crate) fn worst_destinations(namespace: &Namespace) -> Vec<String> {
    let ports = &namespace.ports;
    let mut worst: BTreeMap<Destination, u32> = BTreeMap::new();
    for destination in ports.busy.iter().chain(&ports.worst) {
        worst.insert(key_of(namespace, destination), destination.used);
    }
    let mut worst: Vec<_> = worst.into_iter().collect();
    worst.sort_by_key(|(_, used)| Reverse(*used));
    let line = |(Destination { local, peer, .. }, used)| {
        format!("{local} -> {peer}: {used} of {}", ports.available)
    };
    worst.into_iter().take(WORST).map(line).collect()
}
