//! Memory of a walker from one inventory to the next: the sockets that stay, and since when.

use std::collections::{HashMap, HashSet};

use super::{
    heap::shrink_sparse,
    records::{Copied, Seen},
};
use crate::facts::{TcpState, Timestamp};

/// When the owner of a socket in CLOSE_WAIT is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerPolicy {
    /// When a second inventory sees it: what comes and goes costs nothing.
    OfThoseThatStay,
    /// At once: there will be no second inventory.
    AtOnce,
}

/// Sockets by inode number, or by address, inode number and state.
#[derive(Debug, Default)]
pub(super) struct Memory {
    inventories: u64,
    /// In CLOSE_WAIT, waiting for their peer, or stalled, in the last inventory.
    staying: HashSet<u64>,
    /// Sockets without an exact time: since when they are in their state, and the inventory that
    /// saw them last. A socket that a retransmission has hidden is kept for the next.
    since: HashMap<(u64, u64, TcpState), (Timestamp, u64)>,
}

impl Memory {
    /// The sockets whose owners this inventory looks up.
    pub(super) fn select(&mut self, copied: &[Copied], policy: OwnerPolicy) -> HashSet<u64> {
        let mut selected = HashSet::new();
        let mut staying = HashSet::new();
        for namespace in copied {
            staying.extend(namespace.close_wait.iter().map(|it| it.inode));
            staying.extend(namespace.waiting.iter().map(|it| it.inode));
            staying.extend(namespace.stalled.iter().map(|it| it.inode));
            // A program gives a connect() up after some seconds: there may be no second time.
            let waiting = namespace.waiting.iter();
            let connecting = waiting.filter(|it| it.fact.state == TcpState::SynSent);
            selected.extend(connecting.map(|it| it.inode));
            selected.extend(namespace.listeners.iter().map(|it| it.inode));
            selected.extend(namespace.self_connected.iter().map(|it| it.inode));
            selected.extend(namespace.port_holders.iter().map(|it| it.inode));
            selected.extend(namespace.port_users.iter().map(|it| it.inode));
        }
        let is_due = |inode: &u64| policy == OwnerPolicy::AtOnce || self.staying.contains(inode);
        selected.extend(staying.iter().copied().filter(is_due));
        // No process holds it.
        selected.remove(&0);
        self.staying = staying;
        selected
    }

    /// Keeps the time since which a socket is known to be in its state, where the kernel has no
    /// exact one: a keep-alive or a retransmission must not make the socket younger.
    pub(super) fn keep_since(&mut self, copied: &mut [Copied]) {
        self.inventories += 1;
        let this = self.inventories;
        let known = &mut self.since;
        let mut keep = |id, inode, state, since: &mut Timestamp| {
            let entry = known.entry((id, inode, state)).or_insert((*since, this));
            *entry = (entry.0.min(*since), this);
            *since = entry.0;
        };
        for copied in copied {
            for Seen { fact: socket, inode, .. } in &mut copied.close_wait {
                if !socket.since_exact {
                    keep(socket.id, *inode, TcpState::CloseWait, &mut socket.since);
                }
            }
            for Seen { fact: socket, inode, .. } in &mut copied.waiting {
                // In SYN_SENT it is exact, and the socket may have been there before.
                if socket.state != TcpState::SynSent {
                    keep(socket.id, *inode, socket.state, &mut socket.since);
                }
            }
        }
        known.retain(|_, (_, seen)| this - *seen <= 1);
        shrink_sparse(known);
    }
}
