//! Sockets in FIN_WAIT2 whose peer still sends: half-closed on purpose.
//!
//! A client that has sent its request may shut down its side and read the answer for hours. Only the
//! bytes that it receives tell it from a peer that has forgotten to close.

use std::{collections::BTreeMap, time::Duration};

use crate::facts::{Endpoint, Inventory, NetnsId, TcpState, Timestamp, WaitingSocket};

/// Inventories for which a socket is remembered that they do not show: the walk leaves out one that
/// has received something within a second.
const MISSED: u32 = 6;
/// A peer that has worked counts as stuck only after so many times `min_age` without a byte. With the
/// default that is ten minutes: the nearest healthy program is a long poll, which Consul limits to
/// ten minutes.
pub(crate) const PATIENCE: u32 = 10;

#[derive(Debug, Default)]
pub(crate) struct HalfClosed {
    seen: BTreeMap<(NetnsId, u64, Endpoint), Seen>,
}

#[derive(Debug)]
struct Seen {
    received_bytes: u64,
    /// When it was seen last that more had come.
    worked: Option<Timestamp>,
    missed: u32,
}

impl HalfClosed {
    pub(crate) fn observe(&mut self, inventory: &Inventory, now: Timestamp) {
        self.seen.values_mut().for_each(|seen| seen.missed += 1);
        for namespace in &inventory.namespaces {
            for socket in &namespace.waiting {
                let Some(progress) = socket.progress else { continue };
                if socket.state != TcpState::FinWait2 || socket.orphan {
                    continue;
                }
                let received_bytes = progress.received_bytes;
                let new = Seen { received_bytes, worked: None, missed: 0 };
                let key = (namespace.id, socket.id, socket.peer);
                let seen = self.seen.entry(key).or_insert(new);
                if received_bytes != seen.received_bytes {
                    seen.worked = Some(now);
                }
                seen.received_bytes = received_bytes;
                seen.missed = 0;
            }
        }
        self.seen.retain(|_, seen| seen.missed <= MISSED);
    }

    /// When the peer was seen to work last; `None` where that has not been seen.
    pub(crate) fn worked(&self, netns: NetnsId, socket: &WaitingSocket) -> Option<Timestamp> {
        self.seen.get(&(netns, socket.id, socket.peer))?.worked
    }
}

/// How long one must be silent whose peer has worked.
pub(crate) fn patience(min_age: Duration) -> Duration {
    min_age.saturating_mul(PATIENCE)
}
