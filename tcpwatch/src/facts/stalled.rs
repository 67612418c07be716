//! Sockets that send and get no acknowledgement.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Endpoint, Owner, Role, TcpState, Timestamp};

/// A socket whose data or FIN the peer does not acknowledge: the timer has sent it again, or probed a
/// closed window, at least twice.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StalledSocket {
    /// The socket's identity while it lives; never to be published.
    pub id: u64,
    /// ESTABLISHED, CLOSE_WAIT, FIN_WAIT1 or LAST_ACK.
    pub state: TcpState,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Which side this is.
    pub role: Role,
    /// Its process has closed it: no process holds it any more.
    pub orphan: bool,
    /// Bytes written and not acknowledged, sent or not; a FIN counts one.
    pub unacked_bytes: u32,
    /// Whether a segment is under way; `None` where the kernel does not show it.
    pub segment_sent: Option<bool>,
    /// The window that the peer has offered last, in bytes.
    pub peer_window_bytes: u32,
    /// Times that the first unacknowledged segment was sent again since the last progress.
    pub retransmits: u8,
    /// How often the timer was doubled.
    pub backoff: u8,
    /// Probes of a closed window without an answer.
    pub probes: u8,
    /// TCP_USER_TIMEOUT, where the process has set one.
    pub user_timeout: Option<Duration>,
    /// When data was last acknowledged, or sent while nothing was under way. `None` where the kernel
    /// does not show it.
    pub delivered: Option<Timestamp>,
    /// When the last segment was sent or received.
    pub last_segment: Timestamp,
    /// The process that holds it, where known.
    pub owner: Option<Owner>,
    /// Its owner has not been looked for yet.
    pub owner_pending: bool,
}

impl StalledSocket {
    /// When it last got an acknowledgement, as far as the kernel shows that.
    #[must_use]
    pub fn quiet_since(&self) -> Timestamp {
        self.delivered.unwrap_or(self.last_segment)
    }

    /// Whether the peer has closed its window: it is there, and its process does not read. Nothing is
    /// under way then, and the kernel probes the window. A peer that has gone leaves the window as
    /// it was.
    #[must_use]
    pub const fn is_window_closed(&self) -> bool {
        self.peer_window_bytes == 0 && !matches!(self.segment_sent, Some(true))
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
