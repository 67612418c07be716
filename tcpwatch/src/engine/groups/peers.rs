//! Both ends of a connection on one host: the other end is found by the swapped pair of endpoints, in
//! any network namespace. Behind NAT the pairs differ, and there is none.

use std::collections::BTreeMap;

use crate::facts::{CloseWaitSocket, Endpoint, Inventory, TcpState, WaitingSocket};

/// Sockets in CLOSE_WAIT by local end and peer, in all namespaces.
pub(crate) struct Peers<'a>(BTreeMap<(Endpoint, Endpoint), &'a CloseWaitSocket>);

impl<'a> Peers<'a> {
    /// Empty where no socket is in FIN_WAIT2, which is the other end's state: hardly any host has
    /// both in number.
    pub(crate) fn of(inventory: &'a Inventory) -> Self {
        let waits = |socket: &WaitingSocket| socket.state == TcpState::FinWait2;
        if !inventory.namespaces.iter().any(|it| it.waiting.iter().any(waits)) {
            return Self(BTreeMap::new());
        }
        let sockets = inventory.namespaces.iter().flat_map(|it| &it.close_wait);
        Self(sockets.map(|socket| ((socket.local, socket.peer), socket)).collect())
    }

    /// The other end of a connection, if it is in CLOSE_WAIT on this host and not behind NAT.
    pub(crate) fn other_end(&self, it: &WaitingSocket) -> Option<&'a CloseWaitSocket> {
        self.0.get(&(it.peer, it.local)).copied()
    }
}
