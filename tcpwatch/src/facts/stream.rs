//! Events of a stream, as they happen, and the selection that the kernel side makes of them.

use std::{net::IpAddr, time::Duration};

use super::{ConnectFailure, Endpoint, NoConnect, ResetObservation, TcpState, Timestamp};

/// An event of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEvent {
    /// When.
    pub at: Timestamp,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// This end. In SYN_SENT its port is 0: none is found yet.
    pub local: Endpoint,
    /// The other end; `None` where there is none.
    pub peer: Option<Endpoint>,
    /// The process, where it is known: that of the system call, or the one that acted on the socket
    /// before.
    pub process: Option<StreamProcess>,
    /// The change that it is.
    pub change: StreamChange,
}

/// The process of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamProcess {
    /// Id of its thread group.
    pub pid: u32,
    /// Name (comm) of its thread-group leader.
    pub name: String,
}

/// The change of a socket that an event is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamChange {
    /// A socket went from one state to another.
    Transition {
        /// The state before.
        from: TcpState,
        /// The state after.
        to: TcpState,
    },
    /// A reset was sent or received.
    Reset(ResetObservation),
    /// A connect() ended without a connection.
    ConnectFailed {
        /// Why.
        reason: ConnectFailure,
        /// Why it sent no SYN.
        no_connect: Option<NoConnect>,
        /// How long after its first SYN.
        waited: Option<Duration>,
    },
    /// bind() or listen() requested a port.
    Bind {
        /// The call was listen().
        by_listen: bool,
        /// The port was taken.
        is_taken: bool,
    },
}

impl StreamChange {
    /// The states that it touches: both of a transition, that of the socket else.
    #[must_use]
    pub fn states(&self) -> [Option<TcpState>; 2] {
        match self {
            Self::Transition { from, to } => [Some(*from), Some(*to)],
            Self::Reset(seen) => [seen.state, None],
            Self::ConnectFailed { .. } => [Some(TcpState::SynSent), Some(TcpState::Close)],
            Self::Bind { by_listen: true, .. } => [Some(TcpState::Listen), None],
            Self::Bind { by_listen: false, .. } => [Some(TcpState::Close), None],
        }
    }
}

/// The events that the kernel side hands over. A list without a value allows every value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamSelection {
    /// States that a socket comes from, goes to or is in.
    pub states: Vec<TcpState>,
    /// Ports of either end.
    pub ports: Vec<u16>,
    /// Network namespaces, by inode number.
    pub netns: Vec<u32>,
    /// Names of processes.
    pub processes: Vec<String>,
    /// Peers with such a network: an address, and how many bits of it count.
    pub peer: Option<(IpAddr, u8)>,
    /// Events in a second at most.
    pub budget: u32,
}
