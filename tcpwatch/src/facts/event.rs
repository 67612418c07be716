//! Events that a hook saw.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Endpoint, NetnsId, Process, Timestamp};

/// Why a connect() ended without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectFailure {
    /// ECONNREFUSED: a reset came back; no process listens there.
    Refused,
    /// ETIMEDOUT: no answer.
    TimedOut,
    /// EHOSTUNREACH or ENETUNREACH, reported by a router or by this host.
    Unreachable,
    /// EADDRNOTAVAIL: no local port was free for this destination.
    NoLocalPort,
    /// ECONNRESET.
    Reset,
    /// The program closed the socket before an answer came: a time-out of its own, or a connect
    /// that lost against another one (RFC 8305).
    GivenUp,
    /// Anything else.
    Other,
}

/// Why connect() itself failed, before it sent a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoConnect {
    /// No port of the namespace's `ip_local_port_range` was free for this destination.
    Range,
    /// None was free in the socket's own range (IP_LOCAL_PORT_RANGE); 0 for an end that is the
    /// namespace's.
    OwnRange {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// The socket was bound to a port, and another connection has the same two ends: EADDRNOTAVAIL,
    /// but no lack of ports.
    EndsTaken,
    /// A port and a route were found, and the SYN was not queued: the kernel had no memory for it.
    NoMemory,
}

impl ConnectFailure {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::NoLocalPort,
        Self::Reset,
        Self::GivenUp,
        Self::Other,
    ];

    /// The metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::NoLocalPort => "no_local_port",
            Self::Reset => "reset",
            Self::GivenUp => "given_up",
            Self::Other => "other",
        }
    }
}

/// A rare event, with the process that caused it where the kernel side could note it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A socket was connected to itself: TCP's simultaneous open (RFC 9293 section 3.5) with the
    /// same socket at both ends.
    SelfConnection {
        /// When.
        at: Timestamp,
        /// The network namespace.
        netns: NetnsId,
        /// Both ends.
        endpoint: Endpoint,
        /// The process that called connect().
        process: Option<Arc<Process>>,
    },
    /// A connect() failed after SYN_SENT.
    ConnectFailed {
        /// When.
        at: Timestamp,
        /// The network namespace.
        netns: NetnsId,
        /// Source; port 0 with [`ConnectFailure::NoLocalPort`].
        local: Endpoint,
        /// Destination.
        peer: Endpoint,
        /// Why.
        reason: ConnectFailure,
        /// How long after its first SYN; `None` where none was sent, or the kernel does not show
        /// it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waited: Option<Duration>,
        /// Why no SYN was sent; `None` where one was, or it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        no_connect: Option<NoConnect>,
        /// The process that called connect().
        process: Option<Arc<Process>>,
    },
    /// A bind() or listen() failed with EADDRINUSE.
    BindFailed {
        /// When.
        at: Timestamp,
        /// The network namespace.
        netns: NetnsId,
        /// The requested address; port 0 where any port would have done and none was free.
        local: Endpoint,
        /// The process that called.
        process: Option<Arc<Process>>,
    },
}
