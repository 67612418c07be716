//! From what was seen of a reset to its cause.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use tcpwatch_common::{ResetKey, reset_flags as flags};

use super::{NetnsId, Process, Role, TcpState};

/// Why this host sent a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetCause {
    /// A SYN for a port on which nobody listens (RFC 9293 section 3.10.7.1).
    NoListener,
    /// A segment for a connection that this host does not know: the peer, or this side, restarted.
    HalfOpen,
    /// close() with SO_LINGER 0.
    LingerZero,
    /// close() with unread data (RFC 2525 section 2.17).
    UnreadData,
    /// Data for a socket that its application has closed.
    LateData,
    /// A connection that nobody accepted before its listener closed.
    AcceptQueueDiscarded,
    /// A timer gave the connection up.
    Timeout,
    /// A segment that violates the protocol.
    ProtocolError,
    /// `ss -K`, connect(AF_UNSPEC), or out of memory.
    Aborted,
    /// Seen and not understood.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// A name this version does not know: all of them are violations of the protocol.
    Other,
}

impl ResetReason {
    /// From the enumerator's name, `SK_RST_REASON_NO_SOCKET` say.
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
            name if name.contains("TIMEOUT") => Self::AbortOnTimeout,
            _ => Self::Other,
        }
    }
}

/// One way in which resets were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetObservation {
    /// The kernel's reason; `None` where it gives none (before 6.10).
    pub reason: Option<ResetReason>,
    /// State of the socket; `None` without one.
    pub state: Option<TcpState>,
    /// [`tcpwatch_common::reset_flags`].
    flags: u8,
}

impl ResetObservation {
    /// Decodes what the hook counted under. `reason_of` translates the kernel's number.
    pub fn decode(key: ResetKey, reason_of: impl Fn(u8) -> ResetReason) -> Self {
        Self {
            reason: (key.flags & flags::HAS_REASON != 0).then(|| reason_of(key.reason)),
            state: TcpState::from_kernel(key.state),
            flags: key.flags,
        }
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The cause. Seen on 6.18 for each arm; what a kernel before 6.10 reports is decided by the
    /// socket alone.
    #[must_use]
    pub fn cause(&self) -> ResetCause {
        use ResetReason as Reason;
        let passive = self.has(flags::SEGMENT);
        match self.reason {
            // A stray segment to a port that has a listener shows that listener.
            Some(Reason::NoSocket | Reason::TcpFlags) | None
                if passive && matches!(self.state, None | Some(TcpState::Listen)) =>
            {
                if self.has(flags::SEGMENT_SYN) && self.state.is_none() {
                    ResetCause::NoListener
                } else {
                    ResetCause::HalfOpen
                }
            }
            Some(Reason::TimeWaitSocket | Reason::AbortOnData) => ResetCause::LateData,
            // Before 6.10 only the socket tells that its application has closed it.
            None if passive
                && (self.has(flags::DEAD) || self.state == Some(TcpState::TimeWait)) =>
            {
                ResetCause::LateData
            }
            Some(Reason::AbortOnClose) => ResetCause::UnreadData,
            Some(Reason::AbortOnTimeout | Reason::KeepaliveTimeout) => ResetCause::Timeout,
            Some(Reason::AbortOnMemory | Reason::AbortOnLinger) => ResetCause::Aborted,
            Some(Reason::TcpState | Reason::NotSpecified) | None if !passive => self.active_cause(),
            Some(Reason::NotSpecified) => ResetCause::Other,
            _ if passive => ResetCause::ProtocolError,
            _ => ResetCause::Other,
        }
    }

    /// An active reset whose reason says nothing: the socket tells.
    fn active_cause(&self) -> ResetCause {
        // close() and disconnect() set the state before they reset. What `ss -K` ends has its own
        // still, also in an accept queue.
        if self.state != Some(TcpState::Close) {
            return if self.has(flags::DEAD) { ResetCause::Timeout } else { ResetCause::Aborted };
        }
        // Children inherit the listener's SO_LINGER, so the accept queue comes first.
        if !self.has(flags::HAS_SOCKET) && !self.has(flags::DEAD) {
            return ResetCause::AcceptQueueDiscarded;
        }
        if self.has(flags::LINGER_ZERO) && self.has(flags::SHUT_DOWN) {
            return ResetCause::LingerZero;
        }
        // Before 6.12 nothing names unread data; it closes from a state that could still receive.
        if self.reason.is_none_or(|reason| reason == ResetReason::NotSpecified)
            && self.has(flags::SHUT_DOWN)
        {
            return ResetCause::UnreadData;
        }
        ResetCause::Aborted
    }
}

/// Which resets a [`ResetCount`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenReset {
    /// This host sent them, for that cause.
    Sent(ResetCause),
    /// A socket in that state received them.
    Received(TcpState),
}

/// Resets of one process and service, counted since the hooks were attached. The kernel side keeps
/// the busiest few; one that was dropped and has come back counts from 0 again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResetCount {
    /// The network namespace.
    pub netns: NetnsId,
    /// Which side of the connection this host was; a server where nobody knows the connection.
    pub role: Role,
    /// The service: a client's peer port, a server's local port.
    pub port: u16,
    /// What happened.
    pub what: SeenReset,
    /// Who caused it: the caller of close() or connect(), else who listens on the port; `None`
    /// where neither is known.
    pub process: Option<Arc<Process>>,
    /// The peer of the last one.
    pub last_peer: Option<IpAddr>,
    /// How many.
    pub count: u64,
}
