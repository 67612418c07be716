//! TCP states as Linux numbers and spells them.

use serde::{Deserialize, Serialize};

/// A state of a TCP socket (`include/net/tcp_states.h`). Request sockets, which the kernel knows as
/// `TCP_NEW_SYN_RECV`, are [`SynRecv`](Self::SynRecv), as `ss` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are those of RFC 9293 section 3.3.2")]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
}

impl TcpState {
    /// Every state, in the kernel's order.
    pub const ALL: [Self; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// Pairs (from, to) that `inet_sock_set_state` reports on a working kernel. A socket that goes
    /// to TIME_WAIT is replaced by a minisocket and itself goes to CLOSE.
    pub const TRANSITIONS: [(Self, Self); 22] = {
        use TcpState::*;
        [
            (Close, SynSent),
            (Close, Listen),
            (SynSent, Established),
            (SynSent, SynRecv),
            (SynSent, Close),
            (Listen, SynRecv),
            (Listen, Close),
            (SynRecv, Established),
            (SynRecv, FinWait1),
            (SynRecv, CloseWait),
            (SynRecv, Close),
            (Established, FinWait1),
            (Established, CloseWait),
            (Established, Close),
            (FinWait1, FinWait2),
            (FinWait1, Closing),
            (FinWait1, Close),
            (FinWait2, Close),
            (CloseWait, LastAck),
            (CloseWait, Close),
            (LastAck, Close),
            (Closing, Close),
        ]
    };

    /// From the kernel's number.
    #[must_use]
    pub const fn from_kernel(number: u8) -> Option<Self> {
        /// `TCP_NEW_SYN_RECV`: a request socket.
        const NEW_SYN_RECV: u8 = 12;
        match number {
            NEW_SYN_RECV => Some(Self::SynRecv),
            1..=11 => Some(Self::ALL[number as usize - 1]),
            _ => None,
        }
    }

    /// As node_exporter spells it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
        }
    }
}
