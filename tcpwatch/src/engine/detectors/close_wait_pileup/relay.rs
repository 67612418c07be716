//! Whether a process passes on the end of a connection: a relay (proxy, port forwarder) whose other
//! side does not close.
//!
//! A relay that sees the end on one side shuts down the other side (FIN_WAIT2 there) and waits. It
//! holds a socket in CLOSE_WAIT for each in FIN_WAIT2, and neither is its fault: the end behind the
//! FIN_WAIT2 is to close. Where that is on this host its process is known.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use super::Look;
use crate::{
    engine::groups::held::Held,
    facts::{CloseWaitSocket, Endpoint, Process, TcpState, WaitingSocket},
};

/// The other side of a relay.
#[derive(Debug)]
pub(super) struct Relay {
    /// Sockets in FIN_WAIT2.
    pub(super) sockets: u64,
    /// Where most of them lead.
    pub(super) peer: Endpoint,
    /// The process that does not close, where that is on this host.
    pub(super) process: Option<Arc<Process>>,
}

/// The other side of the process that holds these, if it is a relay: for eight of ten of them it has
/// one in FIN_WAIT2 in the other role.
pub(super) fn of<'a>(sockets: &[&CloseWaitSocket], look: &Look<'a>) -> Option<Relay> {
    let first = sockets.first()?;
    let pid = first.process()?.pid;
    let is_of_pid = |process: Option<&Process>| process.is_some_and(|it| it.pid == pid);
    let mine = sockets.iter().filter(|socket| is_of_pid(socket.process()));
    if mine.clone().count() != sockets.len() || mine.clone().any(|it| it.role != first.role) {
        return None;
    }
    // Both ends of a connection may be the process's own: then it is no other side.
    let is_its_own = |socket: &WaitingSocket| {
        let other_end = look.peers.other_end(socket);
        other_end.is_some_and(|it| is_of_pid(it.process()))
    };
    let is_behind = |socket: &&WaitingSocket| {
        socket.state == TcpState::FinWait2
            && !socket.orphan
            && socket.role != first.role
            && is_of_pid(socket.process())
            && !is_its_own(socket)
    };
    let behind: Vec<_> = look.namespace.waiting.iter().filter(is_behind).collect();
    if behind.len() * 10 < sockets.len() * 8 {
        return None;
    }
    let mut peers: BTreeMap<Endpoint, usize> = BTreeMap::new();
    let mut processes: BTreeMap<u32, (usize, &Arc<Process>)> = BTreeMap::new();
    for socket in &behind {
        *peers.entry(socket.peer).or_default() += 1;
        let other_end = look.peers.other_end(socket);
        if let Some(owner) = other_end.and_then(|it| it.owner.as_ref()) {
            processes.entry(owner.process.pid).or_insert((0, &owner.process)).0 += 1;
        }
    }
    let (peer, _) = peers.into_iter().max_by_key(|(peer, count)| (*count, Reverse(*peer)))?;
    let most = processes.into_iter().max_by_key(|(pid, (count, _))| (*count, Reverse(*pid)));
    // Most of them: the others may be of workers of the same program.
    let process = most.filter(|(_, (count, _))| count * 2 > behind.len());
    Some(Relay {
        sockets: behind.len() as u64,
        peer,
        process: process.map(|(_, (_, process))| Arc::clone(process)),
    })
}
