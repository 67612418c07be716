//! Sockets that a person or a script requests: the selection, and what is known of each.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Endpoint, Process, Role, TcpState, Timestamp};

/// A condition that a selected socket meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketCondition {
    /// Its data or FIN was sent again at least twice, and nothing is acknowledged.
    Stalled,
    /// Its peer is itself.
    SelfConnected,
    /// It waits in an accept queue.
    Unaccepted,
    /// No process holds it any more.
    Orphan,
    /// A half-open connection whose SYN-ACK was sent again.
    Unanswered,
    /// It called bind() before connect(), so that its port is taken for every destination.
    Pinned,
}

/// Which sockets are listed. An empty selection is of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SocketSelection {
    /// In one of these states; empty for any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<TcpState>,
    /// All of these are met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<SocketCondition>,
    /// Name of the network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Address of this end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
    /// Port of this end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    /// Address of the other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<IpAddr>,
    /// Port of the other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_port: Option<u16>,
    /// Port of either end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A process of this name holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The process with this id does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// A process of this unit does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// A process of this container or pod does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl SocketSelection {
    /// Whether the process that holds a socket decides.
    #[must_use]
    pub const fn is_by_process(&self) -> bool {
        self.process.is_some()
            || self.pid.is_some()
            || self.unit.is_some()
            || self.container.is_some()
    }

    /// Whether a socket that this process holds is selected. `same` compares a name that was
    /// selected with one that was found.
    pub fn is_of(&self, process: &Process, same: impl Fn(&str, &str) -> bool) -> bool {
        let is = |selected: &Option<String>, found: Option<&str>| {
            selected.as_deref().is_none_or(|it| found.is_some_and(|found| same(it, found)))
        };
        self.pid.is_none_or(|pid| pid == process.pid)
            && is(&self.process, Some(&process.name))
            && is(&self.unit, process.unit.as_deref())
            && is(&self.container, process.container.as_deref())
    }

    /// The sockets that both select; `None` where there can be none.
    #[must_use]
    pub fn and(self, other: Self) -> Option<Self> {
        let states = match (self.states.is_empty(), other.states.is_empty()) {
            (true, _) => other.states,
            (false, true) => self.states,
            (false, false) => {
                let both = |state: &TcpState| other.states.contains(state);
                let states: Vec<_> = self.states.into_iter().filter(both).collect();
                (!states.is_empty()).then_some(states)?
            }
        };
        Some(Self {
            states,
            conditions: [self.conditions, other.conditions].concat(),
            netns: both(self.netns, other.netns)?,
            local_address: both(self.local_address, other.local_address)?,
            local_port: both(self.local_port, other.local_port)?,
            peer_address: both(self.peer_address, other.peer_address)?,
            peer_port: both(self.peer_port, other.peer_port)?,
            port: both(self.port, other.port)?,
            process: both(self.process, other.process)?,
            pid: both(self.pid, other.pid)?,
            unit: both(self.unit, other.unit)?,
            container: both(self.container, other.container)?,
        })
    }
}

/// The value that two conditions allow; `None` where they exclude each other.
fn both<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<Option<T>> {
    match (one, other) {
        (Some(one), Some(other)) => (one == other).then_some(Some(one)),
        (one, other) => Some(one.or(other)),
    }
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketHolder {
    /// The process.
    pub process: Arc<Process>,
    /// Its descriptors for the socket; the first few.
    pub fds: Vec<u32>,
}

/// A listener's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptQueue {
    /// Connections that wait for accept().
    pub waiting: u32,
    /// How many may wait; one more is let in.
    pub limit: u32,
    /// Half-open requests.
    pub half_open: u32,
    /// Connections dropped since it listens, modulo 2^32.
    pub drops: u32,
}

/// Timers and queues of a connection, as the kernel keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Recv-Q in bytes; the FIN counts one until recv() has returned 0.
    pub recv_queue: u32,
    /// Bytes written and not acknowledged, sent or not; a FIN counts one.
    pub send_queue: u32,
    /// When the last segment was sent or received.
    pub last_segment: Timestamp,
    /// When data was last acknowledged, or sent while nothing was under way. `None` where the
    /// kernel does not show it.
    pub delivered: Option<Timestamp>,
    /// Times that the first unacknowledged segment was sent again.
    pub retransmits: u8,
    /// Probes of a closed window, or of keep-alive, without an answer.
    pub probes: u8,
    /// The window that the peer has offered last, in bytes.
    pub peer_window: u32,
    /// TCP_USER_TIMEOUT, where the process has set one.
    pub user_timeout: Option<Duration>,
    /// See [`SocketCondition::Stalled`].
    pub stalled: bool,
}

/// A socket that was selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSocket {
    /// Name of its network namespace.
    pub netns: Arc<str>,
    /// Its state.
    pub state: TcpState,
    /// This end.
    pub local: Endpoint,
    /// The other end; `None` for a listener.
    pub peer: Option<Endpoint>,
    /// Which side this is.
    pub role: Role,
    /// Since when it has been in this state, at the latest; `None` where that is not known.
    pub since: Option<Timestamp>,
    /// Whether `since` is exact.
    pub since_exact: bool,
    /// Of a listener.
    pub accept_queue: Option<AcceptQueue>,
    /// Of a connection that is no minisocket and no request.
    pub transfer: Option<Transfer>,
    /// Of a half-open request: times that its SYN-ACK was sent again.
    pub synack_retransmits: Option<u8>,
    /// No process holds it any more.
    pub orphan: bool,
    /// No process has accepted it yet.
    pub unaccepted: bool,
    /// Processes that hold it, its owner first. Of one that is not accepted: those that hold its
    /// listener, without descriptors.
    pub holders: Vec<SocketHolder>,
}

/// The sockets of a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketListing {
    /// When it was made.
    pub taken: Timestamp,
    /// Processor time that it took.
    pub cpu_time: Duration,
    /// Network namespaces that were walked.
    pub namespaces: usize,
    /// Selected ones that could not be entered or walked, or for which the walk had no place.
    pub left_out: usize,
    /// Sockets that are selected.
    pub total: u64,
    /// Whether `total` is exact; else there are at least so many.
    pub total_is_exact: bool,
    /// Sockets that match and were copied up: only their ages and processes are known.
    pub examined: usize,
    /// The first of those that were examined, those that have been longest in their state first.
    pub sockets: Vec<ListedSocket>,
}

impl SocketListing {
    /// Rows that are listed unless a number is given, and at most.
    pub const DEFAULT_LIMIT: usize = 100;
    /// See [`DEFAULT_LIMIT`](Self::DEFAULT_LIMIT): a person reads no more, and each row's owner is
    /// looked up.
    pub const MOST: usize = 1_000;

    /// Whether sockets are left out.
    #[must_use]
    pub const fn is_truncated(&self) -> bool {
        self.total > self.sockets.len() as u64 || !self.total_is_exact
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_selections_leave_what_both_select() {
        let of = |states: &[TcpState], port| SocketSelection {
            states: states.to_vec(),
            port,
            ..SocketSelection::default()
        };
        let all = of(&[], None);
        let open = of(&[TcpState::Established, TcpState::CloseWait], None);
        let closed = of(&[TcpState::CloseWait], Some(80));
        assert_eq!(all.clone().and(open.clone()), Some(open.clone()));
        assert_eq!(open.clone().and(all), Some(open.clone()));
        assert_eq!(open.clone().and(closed.clone()), Some(closed.clone()));
        assert_eq!(open.and(of(&[TcpState::TimeWait], None)), None);
        assert_eq!(closed.and(of(&[], Some(81))), None);
    }
}
