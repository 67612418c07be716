//! Local ports by destination: each has its own set of them, and some have taken most.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use crate::{
    engine::evidence::EvidenceMap,
    facts::{DestinationUse, Endpoint, Namespace, NetnsId},
};

/// Destinations that the evidence lists.
const WORST: usize = 5;

/// The key of one set of local ports: a local port is free or taken for each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Destination {
    pub(crate) netns: NetnsId,
    pub(crate) local: IpAddr,
    pub(crate) peer: Endpoint,
}

pub(crate) fn key_of(namespace: &Namespace, destination: &DestinationUse) -> Destination {
    Destination { netns: namespace.id, local: destination.local.address, peer: destination.peer }
}

/// The destinations that have taken most, as evidence.
pub(crate) fn worst_destinations(namespace: &Namespace) -> Vec<EvidenceMap> {
    let ports = &namespace.ports;
    let mut worst: BTreeMap<Destination, u32> = BTreeMap::new();
    for destination in ports.busy.iter().chain(&ports.worst) {
        worst.insert(key_of(namespace, destination), destination.used);
    }
    let mut worst: Vec<_> = worst.into_iter().collect();
    worst.sort_by_key(|(_, used)| Reverse(*used));
    let object = |(Destination { local, peer, .. }, used): (_, u32)| {
        let mut object = EvidenceMap::default();
        object
            .text("local", local.to_string())
            .text("peer", peer.to_string())
            .count("ports_used", used.into())
            .count("ports_available", ports.available.into());
        object
    };
    worst.into_iter().take(WORST).map(object).collect()
}
