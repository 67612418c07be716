//! Where stray resets come from: a scan, translated connections, or former peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::rate::PARTS;
use crate::{
    engine::{
        over_time::{counter::Counter, window::Window},
        resets::seen_reset,
    },
    facts::{
        Amount, Inventory, NetnsId, RecordedReset, ResetCause, ResetCount, SeenReset, TcpState,
        Timestamp,
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

/// The only address that a stray reset was sent to, for a segment without data; `None` for others.
pub(super) fn source_of(row: &ResetCount) -> Option<IpAddr> {
    let is_answer = matches!(
        seen_reset(&row.what),
        Some(SeenReset::Sent(ResetCause::HalfOpen | ResetCause::NoListener))
    );
    // Data belongs to a connection that existed: its sender is a former peer.
    let has_data =
        matches!(row.what, RecordedReset::Seen(seen) if seen.unread > Some(Amount::Nothing));
    let is_probe = is_answer && !has_data && is_stray(row) && row.peers == Some(ONE);
    is_probe.then_some(row.last_peer).flatten()
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

/// The packets that connection tracking found invalid, by when.
#[derive(Debug, Default)]
pub(super) struct Conntrack(BTreeMap<NetnsId, (Counter, Window<u64>)>);

impl Conntrack {
    /// Takes what was added since `before`. The longest `window` of any threshold bounds the memory.
    pub(super) fn observe(
        &mut self,
        inventory: &Inventory,
        (before, now): (Timestamp, Timestamp),
        window: Duration,
    ) {
        let mut known = std::mem::take(&mut self.0);
        for namespace in inventory.namespaces.iter().take(NAMESPACES) {
            let Some(total) = namespace.conntrack_invalid else { continue };
            let (mut counter, mut invalid) = known.remove(&namespace.id).unwrap_or_default();
            invalid.forget(|part| now.since(part.ended) >= window);
            if let Some(added) = counter.added(total).filter(|added| *added > 0) {
                let width = window / PARTS;
                invalid.add(added, (before, now), width, |sum, added| {
                    *sum = sum.saturating_add(added)
                });
            }
            self.0.insert(namespace.id, (counter, invalid));
        }
    }

    /// Packets found invalid within the window that ended at `end`; `None` for none.
    pub(super) fn invalid(&self, netns: NetnsId, end: Timestamp, window: Duration) -> Option<u64> {
        let parts = self.0.get(&netns)?.1.iter();
        let within = parts.filter(|part| part.began < end && part.ended > end - window);
        Some(within.fold(0_u64, |sum, part| sum.saturating_add(part.value))).filter(|sum| *sum > 0)
    }
}
