//! Sockets that an inventory describes one by one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Endpoint, Owner, Process, TcpState, Timestamp};

/// Which side of the connection this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It called connect().
    Client,
    /// It accepted, or a process listens on the local port.
    Server,
}

impl Role {
    /// `client` or `server`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Meaning of the Recv-Q of a socket in CLOSE_WAIT: the FIN itself counts one byte until recv() has
/// returned 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unread {
    /// 0: the application saw the end and did not close.
    Nothing,
    /// 1: it never read again.
    End,
    /// More: data is unread too, and closing will send a reset (RFC 2525 section 2.17).
    Data,
}

/// Bytes that a socket has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Data bytes that the peer has acknowledged; this end's FIN counts one, and a client's SYN.
    pub acked_bytes: u64,
    /// Data bytes sent, retransmissions included.
    pub sent_bytes: u64,
    /// Data bytes received in order; the peer's FIN counts one.
    pub received_bytes: u64,
    /// Bytes that the process has written and the peer has not acknowledged, sent or not.
    pub unacked_bytes: u32,
    /// When data was last acknowledged, or sent while nothing was under way. No keep-alive and no
    /// retransmission moves it.
    pub delivered: Timestamp,
}

/// A socket in CLOSE_WAIT: the peer has closed, this side has not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloseWaitSocket {
    /// The socket's identity while it lives; a kernel address, never to be published.
    pub id: u64,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Which side this is.
    pub role: Role,
    /// Since when, at the latest.
    pub since: Timestamp,
    /// Whether `since` is exact: the hook saw it enter the state.
    pub since_exact: bool,
    /// Recv-Q in bytes.
    pub recv_queue: u32,
    /// Bytes that it has carried; `None` where the kernel does not show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// It waits in an accept queue: no process has accepted it.
    pub unaccepted: bool,
    /// The process that holds it, where known.
    pub owner: Option<Owner>,
    /// Its owner has not been looked for yet.
    pub owner_pending: bool,
    /// The user stack that opened it, innermost frame first, where
    /// [`Focus::stacks_of`](super::Focus::stacks_of) named its process then. A frame is
    /// `function+0x14 (object)`, or `0x55d0 (object)` where the function is not known.
    pub stack: Option<Arc<[String]>>,
}

impl CloseWaitSocket {
    /// How Recv-Q reads.
    #[must_use]
    pub const fn unread(&self) -> Unread {
        match self.recv_queue {
            0 => Unread::Nothing,
            1 => Unread::End,
            _ => Unread::Data,
        }
    }

    /// The `port` label: the peer's port for a client, the listening port for a server.
    #[must_use]
    pub const fn service_port(&self) -> u16 {
        match self.role {
            Role::Client => self.peer.port,
            Role::Server => self.local.port,
        }
    }
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The socket's identity while it lives; never to be published. 0 in older recordings.
    #[serde(default)]
    pub id: u64,
    /// Where it listens.
    pub local: Endpoint,
    /// Connections that wait for accept().
    pub accept_queue: u32,
    /// How many may wait; one more is let in (`sk_acceptq_is_full` compares with `>`).
    pub accept_limit: u32,
    /// Half-open requests.
    pub half_open: u32,
    /// Connections dropped since it listens, modulo 2^32; 0 where the kernel does not show it.
    pub drops: u32,
    /// Half-open requests of its port whose SYN-ACK had to be sent again: unanswered for a second.
    pub unanswered: u32,
    /// About how many sources these have.
    pub unanswered_sources: u32,
    /// Its port lies inside `ip_local_port_range` and is not reserved: connect() may pick it as a
    /// source while no process listens there.
    pub in_port_range: bool,
    /// Connections to it from this host over loopback.
    pub local_clients: u32,
    /// The kernel picked its port: bind() with port 0, or listen() without bind(). `None` where it
    /// does not show that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_picked: Option<bool>,
    /// Identity of the connection that has waited for accept() longest, which is the next that it
    /// returns; never to be published. `None` where none waits or the kernel does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_waiting: Option<u64>,
    /// Some thread waits for connections: in accept() or poll(), or by epoll. `None` where the
    /// kernel does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited: Option<bool>,
    /// The process that holds it, where known.
    pub owner: Option<Owner>,
    /// The processes that accept, where several hold it, as far as known: the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acceptors: Vec<Arc<Process>>,
}

impl Listener {
    /// A listener of which nothing is known but where it is.
    #[must_use]
    pub const fn at(local: Endpoint) -> Self {
        Self {
            id: 0,
            local,
            accept_queue: 0,
            accept_limit: 0,
            half_open: 0,
            drops: 0,
            unanswered: 0,
            unanswered_sources: 0,
            in_port_range: false,
            local_clients: 0,
            port_picked: None,
            first_waiting: None,
            awaited: None,
            owner: None,
            acceptors: Vec::new(),
        }
    }

    /// The process that should accept: the first that does, else the one that holds it.
    #[must_use]
    pub fn accepting(&self) -> Option<&Process> {
        let owner = self.owner.as_ref().map(|owner| &*owner.process);
        self.acceptors.first().map(|process| &**process).or(owner)
    }

    /// Whether the queue is full for the next handshake that ends (`sk_acceptq_is_full`).
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.accept_queue > self.accept_limit
    }
}

/// A socket whose peer is itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SelfConnectedSocket {
    /// The socket's identity while it lives; never to be published.
    pub id: u64,
    /// Both ends.
    pub endpoint: Endpoint,
    /// Its state.
    pub state: TcpState,
    /// The process that holds it, where known.
    pub owner: Option<Owner>,
}

/// A socket that only its peer, or a timer, can bring further.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaitingSocket {
    /// The socket's identity while it lives; never to be published.
    pub id: u64,
    /// SYN_SENT, FIN_WAIT2, LAST_ACK or CLOSING.
    pub state: TcpState,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Which side this is.
    pub role: Role,
    /// Since when it has been in this state, at the latest. Exact for SYN_SENT.
    pub since: Timestamp,
    /// Its process has closed it: no process holds it any more.
    pub orphan: bool,
    /// Bytes that it has carried; `None` where the kernel does not show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The process that holds it, where known.
    pub owner: Option<Owner>,
    /// Its owner has not been looked for yet.
    pub owner_pending: bool,
}

impl WaitingSocket {
    /// The `port` label: the peer's port for a client, the listening port for a server.
    #[must_use]
    pub const fn service_port(&self) -> u16 {
        match self.role {
            Role::Client => self.peer.port,
            Role::Server => self.local.port,
        }
    }
}

/// A socket on a port that another process could not bind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortHolder {
    /// Its state; TIME_WAIT too.
    pub state: TcpState,
    /// This end.
    pub local: Endpoint,
    /// The other end; port 0 for a listener.
    pub peer: Endpoint,
    /// The process that holds it, where known; a socket in TIME_WAIT has none.
    pub owner: Option<Owner>,
}

/// A socket that takes a port where few are left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortUser {
    /// Its state.
    pub state: TcpState,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// It called bind() before connect(), so that its port is taken for every destination.
    pub pinned: bool,
    /// The process that holds it, where known.
    pub owner: Option<Owner>,
}
