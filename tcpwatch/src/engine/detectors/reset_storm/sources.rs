//! Where stray resets come from: a scan, translated connections, or former peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::rate::Times;
use crate::{
    engine::{over_time::counter::Counter, resets::seen_reset},
    facts::{
        Inventory, NetnsId, RecordedReset, ResetCause, ResetCount, SeenReset, TcpState, Timestamp,
    },
};

/// Ports that one address tries between two inventories, from which on it scans: a client of several
/// services of one host tries few of them.
const SCANNED_PORTS: usize = 20;

/// Addresses at most that a row says it has for its last one to be the only one.
const ONE: u32 = 1;

/// Namespaces whose connection tracking is followed.
const NAMESPACES: usize = 1_024;

/// Whether no socket had the connection.
pub(super) fn is_stray(row: &ResetCount) -> bool {
    match row.what {
        RecordedReset::Seen(seen) => {
            !seen.received && matches!(seen.state, None | Some(TcpState::Listen))
        }
        RecordedReset::Sent(cause) => cause == ResetCause::HalfOpen,
        RecordedReset::Received(_) => false,
    }
}

/// The only address that a stray reset was sent to; `None` for others.
pub(super) fn source_of(row: &ResetCount) -> Option<IpAddr> {
    let is_answer = matches!(
        seen_reset(&row.what),
        Some(SeenReset::Sent(ResetCause::HalfOpen | ResetCause::NoListener))
    );
    (is_answer && is_stray(row) && row.peers == Some(ONE)).then_some(row.last_peer).flatten()
}

/// The addresses that try many ports.
pub(super) fn scanners(added: &[(&ResetCount, u64)]) -> BTreeSet<(NetnsId, IpAddr)> {
    let mut ports: BTreeMap<(NetnsId, IpAddr), BTreeSet<u16>> = BTreeMap::new();
    for (row, _) in added {
        if let Some(peer) = source_of(row) {
            ports.entry((row.netns, peer)).or_default().insert(row.port);
        }
    }
    ports.retain(|_, ports| ports.len() >= SCANNED_PORTS);
    ports.into_keys().collect()
}

/// When connection tracking last found packets invalid, and how many within the last round of that.
#[derive(Debug, Default)]
pub(super) struct Conntrack(BTreeMap<NetnsId, (Counter, Option<(Timestamp, u64)>)>);

impl Conntrack {
    pub(super) fn observe(&mut self, inventory: &Inventory, now: Timestamp) {
        let mut before = std::mem::take(&mut self.0);
        for namespace in inventory.namespaces.iter().take(NAMESPACES) {
            let Some(total) = namespace.conntrack_invalid else { continue };
            let (mut counter, mut grown) = before.remove(&namespace.id).unwrap_or_default();
            if let Some(added) = counter.added(total).filter(|added| *added > 0) {
                grown = Some((now, added));
            }
            self.0.insert(namespace.id, (counter, grown));
        }
    }

    /// Packets found invalid between the last two inventories within the window that had any.
    pub(super) fn invalid(&self, netns: NetnsId, times: &Times) -> Option<u64> {
        let (at, added) = self.0.get(&netns)?.1?;
        (times.now.since(at) <= times.window).then_some(added)
    }
}
