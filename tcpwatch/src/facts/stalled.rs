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
    /// When it last got an acknowledgement, as far as the kernel shows that. A segment that failed to
    /// leave this host leaves `delivered` as it was, maybe hours ago; the times that the timer was
    /// doubled bound the age then, from a first interval of a second.
    #[must_use]
    pub fn quiet_since(&self) -> Timestamp {
        let doubled = self.backoff.max(self.retransmits).max(self.probes);
        let tried = Duration::from_secs(1_u64 << (doubled.min(30) + 1));
        let first = self.last_segment - tried;
        self.delivered.unwrap_or(self.last_segment).max(first)
    }

    /// Whether the peer has closed its window: it is there, and its process does not read. The kernel
    /// probes the window, and the peer's kernel answers. Each answer sets `probes` to 0; a peer that
    /// vanishes then is silent.
    #[must_use]
    pub const fn is_window_closed(&self) -> bool {
        self.peer_window_bytes == 0 && self.probes < 2
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
