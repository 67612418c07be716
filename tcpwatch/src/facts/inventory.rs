//! Results of a walk over the socket tables; the truth for every gauge.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    CloseWaitSocket, Conntrack, DescriptorUse, Endpoint, Listener, NotSeen, PortHolder, PortUser,
    Process, ResetCount, Role, SelfConnectedSocket, ServiceCount, SharedLimits, StalledSocket,
    TcpState, Timestamp, WaitingSocket,
};

/// All namespaces, walked one after the other.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// When the first walk began.
    pub started: Timestamp,
    /// When the last one ended.
    pub finished: Timestamp,
    /// Time spent walking, without the look-up of owners.
    pub walked: Duration,
    /// The namespaces.
    pub namespaces: Vec<Namespace>,
    /// Things that this inventory could not see.
    pub not_seen: Vec<NotSeen>,
    /// Listeners and self-connections that were too many to describe.
    pub undescribed: u64,
    /// Descriptors of the processes that hold sockets in CLOSE_WAIT or FIN_WAIT2, by pid, as far as
    /// /proc shows them.
    pub descriptors: BTreeMap<u32, DescriptorUse>,
    /// Resets by process and service; `None` where no hook counts them.
    pub resets: Option<Vec<ResetCount>>,
    /// Connections that services with resets have opened and closed; `None` where nothing counts
    /// them, as in recordings of earlier versions.
    pub services: Option<Vec<ServiceCount>>,
    /// Active closes by process, in the namespaces of
    /// [`Focus::closers_in`](super::Focus::closers_in).
    pub closers: Vec<CloserCount>,
    /// Connections to the destinations of [`Focus::answers`](super::Focus::answers).
    pub answers: Vec<AnswerCount>,
    /// Limits that all namespaces share; `None` in recordings of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_limits: Option<Box<SharedLimits>>,
}

/// Identifies a network namespace: its cookie, which is never used again (`SO_NETNS_COOKIE`, 5.14
/// and later), else the inode number of its file, which another one may get when it is gone.
pub type NetnsId = u64;

/// One network namespace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Which one it is.
    pub id: NetnsId,
    /// `host`, the name of its bind mount, a container's or pod's id, or empty.
    pub name: Arc<str>,
    /// Sockets by state.
    pub sockets: StateCounts,
    /// Minisockets and their limit.
    pub time_wait: TimeWaitUse,
    /// Ports of outgoing connections.
    pub ports: PortUse,
    /// Sockets in CLOSE_WAIT, up to a limit.
    pub close_wait: Vec<CloseWaitSocket>,
    /// Sockets in CLOSE_WAIT beyond that limit: counted by role and service port, not described.
    #[serde(with = "super::written::beyond")]
    pub close_wait_beyond: BTreeMap<(Role, u16), u64>,
    /// Listening sockets.
    pub listeners: Vec<Listener>,
    /// Sockets connected to themselves, in whatever state.
    pub self_connected: Vec<SelfConnectedSocket>,
    /// Sockets that wait for their peer: in SYN_SENT, FIN_WAIT2, LAST_ACK or CLOSING for a second at
    /// least, up to a limit.
    pub waiting: Vec<WaitingSocket>,
    /// Sockets whose data or FIN the peer does not acknowledge, up to a limit. Empty in older
    /// recordings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stalled: Vec<StalledSocket>,
    /// Sockets on the ports of [`Focus::ports`](super::Focus::ports).
    pub port_holders: Vec<PortHolder>,
    /// A sample of the sockets that take ports of busy destinations, or pinned ports where these
    /// are many.
    pub port_users: Vec<PortUser>,
    /// `/proc/net/netstat`, where it could be read.
    pub netstat: Option<NetstatCounters>,
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when a queue is full, 2 always.
    pub syncookies: Option<u64>,
    /// `net.core.somaxconn`, which cuts the backlog of listen().
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_abort_on_overflow`: a full accept queue answers with a reset.
    pub abort_on_overflow: Option<bool>,
    /// `net.ipv4.tcp_retries2`: how often a segment is sent again before the connection ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries2: Option<u64>,
    /// `net.ipv4.tcp_orphan_retries`: the same for an orphan; 0 stands for 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphan_retries: Option<u64>,
    /// Packets that connection tracking could not match and left untranslated (`invalid` of
    /// `/proc/net/stat/nf_conntrack`); `None` without connection tracking.
    pub conntrack_invalid: Option<u64>,
    /// Connection tracking; `None` without it, and in recordings of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<Conntrack>,
    /// When `netstat` and `conntrack` were read, where that was before this inventory: on a host with
    /// many namespaces they are read in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters_read: Option<Timestamp>,
}

/// Sockets by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<TcpState, u64>", into = "BTreeMap<TcpState, u64>")]
pub struct StateCounts([u64; TcpState::ALL.len()]);

impl StateCounts {
    /// Sockets in `state`.
    #[must_use]
    pub const fn get(&self, state: TcpState) -> u64 {
        self.0[state as usize - 1]
    }

    /// Sets the number of sockets in `state`.
    pub const fn set(&mut self, state: TcpState, count: u64) {
        self.0[state as usize - 1] = count;
    }

    /// Adds another namespace's counts.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(count);
        }
    }

    /// Sockets in any state.
    #[must_use]
    pub fn total(&self) -> u64 {
        saturating_sum(self.0)
    }
}

/// The sum of counts. No host has so many sockets that it overflows, but a recording can.
#[must_use]
pub fn saturating_sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

/// Minisockets: TIME_WAIT and orphaned FIN_WAIT2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeWaitUse {
    /// How many there are.
    pub used: u64,
    /// `net.ipv4.tcp_max_tw_buckets`; beyond it a socket is destroyed instead.
    pub limit: Option<u64>,
}

/// The network namespaces that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every one that is found.
    All,
    /// The agent's own.
    Host,
}

/// `net.ipv4.tcp_tw_reuse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TwReuse {
    /// 0: a port in TIME_WAIT stays taken for its destination.
    Never,
    /// 1: connect() may take it after a second, if timestamps are on.
    Always,
    /// 2, the default since 4.19: likewise, but only over loopback.
    #[default]
    Loopback,
}

impl TwReuse {
    /// The setting that the sysctl has with this value.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        [Self::Never, Self::Always, Self::Loopback].into_iter().find(|it| it.number() == number)
    }

    /// The value of the sysctl.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Never => 0,
            Self::Always => 1,
            Self::Loopback => 2,
        }
    }
}

/// Local ports of outgoing connections. A connect() needs one that is free for its source address,
/// destination address and destination port together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortUse {
    /// `ip_local_port_range`, both ends inclusive.
    pub range: (u16, u16),
    /// `ip_local_reserved_ports` as the kernel prints it.
    pub reserved: String,
    /// Ports of the range less the reserved ones: what one destination can have.
    pub available: u32,
    /// Of these, bound explicitly: taken for every destination.
    pub pinned: u32,
    /// Pinned ports of outgoing connections that called bind() before connect().
    pub bound_before_connect: u32,
    /// Pinned ports that only TIME_WAIT holds; `None` where it was not counted.
    pub pinned_in_time_wait: Option<u32>,
    /// The destination that has taken most.
    pub worst: Option<DestinationUse>,
    /// Destinations that have taken at least half of what they can have; the first 32.
    pub busy: Vec<DestinationUse>,
    /// How ports in TIME_WAIT count.
    pub tw_reuse: TwReuse,
    /// `net.ipv4.tcp_timestamps` is not 0.
    pub timestamps: bool,
}

/// Ports taken for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationUse {
    /// Source address; the port is 0.
    pub local: Endpoint,
    /// Destination.
    pub peer: Endpoint,
    /// Ports taken, including those bound explicitly; never more than [`PortUse::available`].
    pub used: u32,
    /// Ports taken by the state of their socket, without those bound explicitly. `None` where
    /// it was not counted.
    #[serde(default)]
    pub states: Option<StateCounts>,
}

/// Connections that processes of one name closed first, which leaves them in TIME_WAIT here; counted
/// since [`Focus::closers_in`](super::Focus::closers_in) named the namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloserCount {
    /// The network namespace.
    pub netns: NetnsId,
    /// The process that called close() or shutdown(); the first of them that lives.
    pub process: Arc<Process>,
    /// Which side of the connections it was.
    pub role: Role,
    /// The peer's address for a client; `None` for a server, which has many, and for a client with
    /// more peers than could be counted apart.
    pub peer: Option<IpAddr>,
    /// The service: a client's peer port, a server's local port. It is of no use for a
    /// client without a peer.
    pub port: u16,
    /// How many.
    pub count: u64,
    /// How many of them other processes of that name than `process` closed.
    #[serde(default)]
    pub others: u64,
    /// When the first was closed.
    #[serde(default)]
    pub since: Option<Timestamp>,
}

/// Connections to one destination that were established, counted since
/// [`Focus::answers`](super::Focus::answers) named the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerCount {
    /// The network namespace.
    pub netns: NetnsId,
    /// The destination.
    pub peer: Endpoint,
    /// How many.
    pub count: u64,
}

/// Counters of `/proc/net/netstat` of one namespace, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetstatCounters {
    /// `TCPTimeWaitOverflow`: TIME_WAIT skipped because the limit was reached.
    pub time_wait_overflows: u64,
    /// `ListenOverflows`: connections dropped at a full accept queue.
    pub listen_overflows: u64,
    /// `ListenDrops`: all connections dropped at a listener.
    pub listen_drops: u64,
    /// `SyncookiesSent`.
    pub syncookies_sent: u64,
    /// `TCPMemoryPressures`: how often TCP memory of all namespaces went over its pressure mark,
    /// because of a socket of this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_pressures: Option<u64>,
    /// `TCPAbortOnMemory`: connections that the kernel ended because orphans were too many or TCP
    /// memory was over its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_aborts: Option<u64>,
}
