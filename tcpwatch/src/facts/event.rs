//! What a hook saw happen.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Endpoint, NetnsId, Process, Timestamp};

/// Why a connect() ended without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectFailure {
    /// ECONNREFUSED: a reset came back; nobody listens there.
    Refused,
    /// ETIMEDOUT: no answer.
    TimedOut,
    /// EHOSTUNREACH or ENETUNREACH, told by a router or by this host.
    Unreachable,
    /// EADDRNOTAVAIL: no local port was free for this destination.
    NoLocalPort,
    /// ECONNRESET.
    Reset,
    /// Anything else; the application may have closed the socket before an answer came.
    Other,
}

impl ConnectFailure {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Refused,
        Self::TimedOut,
        Self::Unreachable,
        Self::NoLocalPort,
        Self::Reset,
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
        /// Who called connect().
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
        /// Who called connect().
        process: Option<Arc<Process>>,
    },
    /// A bind() or listen() failed with EADDRINUSE.
    BindFailed {
        /// When.
        at: Timestamp,
        /// The network namespace.
        netns: NetnsId,
        /// What it asked for; port 0 where any port would have done and none was free.
        local: Endpoint,
        /// Who called.
        process: Option<Arc<Process>>,
    },
}
