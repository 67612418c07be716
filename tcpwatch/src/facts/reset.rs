//! Observations of resets in the kernel, and the causes that they are judged to have.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{NetnsId, Process, Role, TcpState};

/// Why this host sent a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetCause {
    /// A SYN for a port without a listener (RFC 9293 section 3.10.7.1).
    NoListener,
    /// A segment for a connection that this host does not know: the peer, or this side, restarted.
    HalfOpen,
    /// close() with SO_LINGER 0.
    LingerZero,
    /// close() with unread data (RFC 2525 section 2.17).
    UnreadData,
    /// Data for a socket that its application has closed.
    LateData,
    /// A connection that no process accepted: its listener closed, or its queue was full under
    /// `net.ipv4.tcp_abort_on_overflow`.
    AcceptQueueDiscarded,
    /// A timer gave the connection up.
    Timeout,
    /// A segment that violates the protocol.
    ProtocolError,
    /// `ss -K`, connect(AF_UNSPEC), or out of memory.
    Aborted,
    /// Seen, and not one of the above.
    Other,
}

impl ResetCause {
    /// Every cause.
    pub const ALL: [Self; 10] = [
        Self::NoListener,
        Self::HalfOpen,
        Self::LingerZero,
        Self::UnreadData,
        Self::LateData,
        Self::AcceptQueueDiscarded,
        Self::Timeout,
        Self::ProtocolError,
        Self::Aborted,
        Self::Other,
    ];

    /// The metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoListener => "no_listener",
            Self::HalfOpen => "half_open",
            Self::LingerZero => "linger_zero",
            Self::UnreadData => "unread_data",
            Self::LateData => "late_data",
            Self::AcceptQueueDiscarded => "accept_queue_discarded",
            Self::Timeout => "timeout",
            Self::ProtocolError => "protocol_error",
            Self::Aborted => "aborted",
            Self::Other => "other",
        }
    }
}

/// `enum sk_rst_reason`, as far as it decides. Its numbers are no stable interface: they are taken
/// from the running kernel's BTF by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the kernel's, include/net/rstreason.h")]
pub enum ResetReason {
    NotSpecified,
    NoSocket,
    TcpFlags,
    TimeWaitSocket,
    AbortOnClose,
    AbortOnLinger,
    AbortOnMemory,
    TcpState,
    AbortOnTimeout,
    KeepaliveTimeout,
    AbortOnData,
    DisconnectWithData,
    InvalidSyn,
    /// A sequence number, acknowledgment or timestamp that cannot be.
    Invalid,
    /// A name this version does not know.
    #[serde(other)]
    Other,
}

impl ResetReason {
    /// From the enumerator's name, for example `SK_RST_REASON_NO_SOCKET`.
    #[must_use]
    pub fn from_enumerator(name: &str) -> Self {
        match name.trim_start_matches("SK_RST_REASON_") {
            "NOT_SPECIFIED" => Self::NotSpecified,
            "NO_SOCKET" => Self::NoSocket,
            "TCP_FLAGS" => Self::TcpFlags,
            "TCP_TIMEWAIT_SOCKET" => Self::TimeWaitSocket,
            "TCP_ABORT_ON_CLOSE" => Self::AbortOnClose,
            "TCP_ABORT_ON_LINGER" => Self::AbortOnLinger,
            "TCP_ABORT_ON_MEMORY" => Self::AbortOnMemory,
            "TCP_STATE" => Self::TcpState,
            "TCP_KEEPALIVE_TIMEOUT" => Self::KeepaliveTimeout,
            "TCP_ABORT_ON_DATA" | "TCP_RFC7323_PAWS_ABORT" => Self::AbortOnData,
            "TCP_DISCONNECT_WITH_DATA" => Self::DisconnectWithData,
            "INVALID_SYN" => Self::InvalidSyn,
            "TCP_INVALID_ACK_SEQUENCE"
            | "TCP_RFC7323_PAWS"
            | "TCP_TOO_OLD_ACK"
            | "TCP_ACK_UNSENT_DATA"
            | "TCP_OLD_ACK" => Self::Invalid,
            name if name.contains("TIMEOUT") => Self::AbortOnTimeout,
            _ => Self::Other,
        }
    }
}

/// How many bytes, as far as it decides; the bounds are
/// those of the kernel side (`reset_sizes::BOUNDS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// None.
    Nothing,
    /// At most 64: a close_notify of TLS, or a FIN.
    Few,
    /// At most 4,096: a health check with its answer.
    Some,
    /// More.
    Many,
}

impl Amount {
    /// From the class that the kernel side counts under.
    #[must_use]
    pub const fn of_class(class: u8) -> Self {
        match class & 3 {
            0 => Self::Nothing,
            1 => Self::Few,
            2 => Self::Some,
            _ => Self::Many,
        }
    }
}

/// One way in which resets were seen: what the kernel showed, and no verdict.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(default)]
pub struct ResetObservation {
    /// It was received, not sent.
    pub received: bool,
    /// The kernel's reason; `None` where it gives none (before 6.10).
    pub reason: Option<ResetReason>,
    /// State of the socket; `None` without one.
    pub state: Option<TcpState>,
    /// A segment provoked it.
    pub segment: bool,
    /// The segment carries SYN.
    pub syn: bool,
    /// SO_LINGER is set, with a time of 0.
    pub linger_zero: bool,
    /// The process has closed the socket.
    pub dead: bool,
    /// A process has the socket, or had.
    pub has_socket: bool,
    /// Both directions are shut down.
    pub shut_down: bool,
    /// The peer's FIN had come; `None` where it is not known, as below.
    pub peer_closed: Option<bool>,
    /// The peer has sent data, and this side has sent none since.
    pub answered: Option<bool>,
    /// Data received that no process will read; of a closed socket, or without a socket, the data of
    /// the segment.
    pub unread: Option<Amount>,
    /// Data written and not sent; of a reset received, data not acknowledged.
    pub unsent: Option<Amount>,
    /// Data received and acknowledged during the connection.
    pub carried: Option<Amount>,
}

impl ResetObservation {
    /// Whether it answers a connect() to a port without a listener (RFC 9293 section 3.10.7.1).
    #[must_use]
    pub const fn is_of_no_listener(&self) -> bool {
        !self.received && self.segment && self.syn && self.state.is_none()
    }
}

/// A reset with what it is judged to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenReset {
    /// This host sent it, for that cause.
    Sent(ResetCause),
    /// A socket in that state received it.
    Received(TcpState),
}

/// Which resets a [`ResetCount`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordedReset {
    /// A recording of an earlier version has only the verdict.
    Sent(ResetCause),
    /// Likewise.
    Received(TcpState),
    /// The observation.
    Seen(ResetObservation),
}

impl From<SeenReset> for RecordedReset {
    fn from(seen: SeenReset) -> Self {
        match seen {
            SeenReset::Sent(cause) => Self::Sent(cause),
            SeenReset::Received(state) => Self::Received(state),
        }
    }
}

/// Resets of one process and service, counted since the hooks were attached. The kernel side keeps
/// the busiest few; one that was dropped and has come back counts from 0 again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResetCount {
    /// The network namespace.
    pub netns: NetnsId,
    /// Which side of the connection this host was. Where the connection is unknown, the side with
    /// the lower port is taken for the server.
    pub role: Role,
    /// The service: a client's peer port, a server's local port.
    pub port: u16,
    /// The reset.
    pub what: RecordedReset,
    /// The process that caused it: the caller of close() or connect(). Else the process that
    /// listens on the port or opens most connections to it; `None` where neither is known.
    pub process: Option<Arc<Process>>,
    /// The peer of the last one.
    pub last_peer: Option<IpAddr>,
    /// How many.
    pub count: u64,
    /// The other port of the last one.
    #[serde(default)]
    pub other_port: Option<u16>,
    /// About how many addresses of peers there were, up to 200.
    #[serde(default)]
    pub peers: Option<u32>,
    /// About how many other ports there were, up to 200.
    #[serde(default)]
    pub other_ports: Option<u32>,
}

/// Connections of one process and service since the inventory before; of services that had resets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceCount {
    /// The network namespace.
    pub netns: NetnsId,
    /// Which side this host was.
    pub role: Role,
    /// The service: a client's peer port, a server's local port.
    pub port: u16,
    /// The process that called connect(), close() or shutdown().
    pub process: Arc<Process>,
    /// Calls of connect().
    pub opened: u64,
    /// Connections that were closed in order.
    pub closed: u64,
    /// Of a server, those that it closed before its client did, by how long they had been idle;
    /// `None` where a recording of an earlier version does not say.
    #[serde(default)]
    pub idle: Option<Vec<IdleClosed>>,
}

/// Connections that a server closed first after about the same time without a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleClosed {
    /// Which bucket; 0 is what closes with its answer.
    pub bucket: u8,
    /// How many.
    pub count: u64,
    /// How long the last of them had been idle.
    pub last_ms: u32,
}

impl IdleClosed {
    /// How many buckets there are; the bounds are those of the kernel side (`IDLE_BUCKETS_MS`).
    pub const BUCKETS: usize = 12;
}
