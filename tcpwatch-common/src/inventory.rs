//! A walk over the socket tables: the requests of the agent and the results of the walk.

use crate::{Address, STATES, Tuple};

/// Words of a bit set over all ports.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Entries of [`Walk::busy`].
pub const BUSY_DESTINATIONS: usize = 32;

/// A walk: its parameters, and what is counted beside the namespaces. The agent writes it whole before
/// a walk of one namespace by the iterator, or before one pass over all of them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// In: the walk's number; entries of [`DESTINATIONS`](crate::maps::DESTINATIONS) that carry
    /// another one are stale.
    pub generation: u32,
    /// Zero.
    pub reserved0: u32,
    /// In: CLOCK_MONOTONIC nanoseconds at its beginning.
    pub now_ns: u64,
    /// In: ports whose sockets are copied up whatever their state, a bit each.
    pub requested_ports: [u64; PORT_WORDS],
    /// In, for the iterator: ports in `ip_local_reserved_ports`, a bit each. Out, where the one pass is
    /// requested to copy those of a namespace.
    pub reserved_ports: [u64; PORT_WORDS],
    /// The pinned ports, a bit each: of the namespace, or of any namespace in the one pass.
    pub pinned: [u64; PORT_WORDS],
    /// Ports whose bucket has been looked at, a bit each: its sockets share it. In the one pass, ports
    /// that have a listener in any namespace.
    pub looked_at: [u64; PORT_WORDS],
    /// Where the walk turns a pointer into a number.
    pub scratch: u64,
    /// Where a record is made before it is copied up.
    pub found: Found,
    /// The iterator's namespace. The one pass has its own in [`NAMESPACES`](crate::maps::NAMESPACES).
    pub namespace: NamespaceWalk,
    /// Out, from the iterator: the first destinations that reached `busy_at`. The one pass copies each
    /// up.
    pub busy: [Destination; BUSY_DESTINATIONS],
}

impl Walk {
    /// A walk that has not begun.
    pub const ZERO: Self = Self {
        generation: 0,
        reserved0: 0,
        now_ns: 0,
        requested_ports: [0; PORT_WORDS],
        reserved_ports: [0; PORT_WORDS],
        pinned: [0; PORT_WORDS],
        looked_at: [0; PORT_WORDS],
        scratch: 0,
        found: Found { slot: 0, kind: Found::SOCKET, socket: SocketRecord::ZERO },
        namespace: NamespaceWalk::ZERO,
        busy: [Destination::ZERO; BUSY_DESTINATIONS],
    };
}

const _: () = assert!(
    size_of::<Walk>()
        == 16
            + 4 * PORT_WORDS * 8
            + 8
            + size_of::<Found>()
            + size_of::<NamespaceWalk>()
            + BUSY_DESTINATIONS * 36
);

/// One namespace in a walk: its settings in, what was counted there out. 176 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NamespaceWalk {
    /// In, for the one pass: kernel address of `ip_local_reserved_ports`, 0 where no port is reserved.
    pub reserved_at: u64,
    /// In, for the one pass: what the namespace adds to the hash of its sockets (`net_hash_mix`).
    pub hash_mix: u32,
    /// In: `ip_local_port_range`, both ends inclusive.
    pub port_low: u16,
    /// In: see [`port_low`](Self::port_low).
    pub port_high: u16,
    /// In: `tcp_tw_reuse` (0 never, 1 always, 2 loopback only).
    pub tw_reuse: u16,
    /// In: its number among the namespaces of this walk; 0 for the iterator.
    pub slot: u16,
    /// In: `tcp_tw_reuse_delay` in milliseconds (6.14 and later; it was one second before).
    pub tw_reuse_delay_ms: u32,
    /// In: a destination is busy when its ports and the pinned ones together reach this.
    pub busy_at: u32,
    /// In: how many sockets of requested ports are copied up at most; the walk counts down.
    pub requested_left: u32,
    /// In: how many sockets of busy destinations are copied up at most; the walk counts down.
    pub users_left: u32,
    /// In: how many sockets with a port bound before connect() at most, once these and the other
    /// pinned ports reach `busy_at`; the walk counts down.
    pub pinned_left: u32,
    /// Out: sockets by state; an orphan in FIN_WAIT2 counts there although it is a minisocket.
    pub states: [u32; STATES],
    /// Out: minisockets (TIME_WAIT and orphaned FIN_WAIT2), which `tcp_max_tw_buckets` bounds.
    pub time_wait_buckets: u32,
    /// Out: ports in the range, not reserved, that were bound explicitly; connect() skips them
    /// for every destination (`__inet_hash_connect`, `fastreuse >= 0`).
    pub pinned_ports: u32,
    /// Out: of these, ports of outgoing connections that called bind() before connect().
    pub bound_ports: u32,
    /// Out: of these, ports that only minisockets hold.
    pub pinned_minisockets: u32,
    /// Out: destinations counted for the first time in this walk.
    pub destinations: u32,
    /// Out: ports of the destination with most ports taken, without the pinned ones.
    pub worst_used: u32,
    /// Out: destinations that reached `busy_at`; more than fit in [`Walk::busy`] are only counted.
    pub busy_count: u32,
    /// Out: the destination with most ports taken.
    pub worst: Destination,
    /// Zero.
    pub reserved: u32,
}

impl NamespaceWalk {
    /// A namespace without ports, where nothing was counted.
    pub const ZERO: Self = Self {
        reserved_at: 0,
        hash_mix: 0,
        port_low: 0,
        port_high: 0,
        tw_reuse: 0,
        slot: 0,
        tw_reuse_delay_ms: 1_000,
        busy_at: u32::MAX,
        requested_left: 0,
        users_left: 0,
        pinned_left: 0,
        states: [0; STATES],
        time_wait_buckets: 0,
        pinned_ports: 0,
        bound_ports: 0,
        pinned_minisockets: 0,
        destinations: 0,
        worst_used: 0,
        busy_count: 0,
        worst: Destination::ZERO,
        reserved: 0,
    };
}

const _: () = assert!(size_of::<NamespaceWalk>() == 176);

/// The tuple that limits a connect(): in a namespace each pair of addresses and destination port has
/// every local port once. 36 bytes, aligned to 4.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// Source address.
    pub local: Address,
    /// Destination address.
    pub peer: Address,
    /// Destination port, host byte order.
    pub peer_port: u16,
    /// The namespace: [`NamespaceWalk::slot`].
    pub slot: u16,
}

impl Destination {
    /// No destination.
    pub const ZERO: Self = Self {
        local: Address { words: [0; 4] },
        peer: Address { words: [0; 4] },
        peer_port: 0,
        slot: 0,
    };
}

const _: () = assert!(size_of::<Destination>() == 36);

/// Sockets of one destination that are copied up at most. Of 128 a share is known within 9 %, and
/// with the owner pass in mind few destinations are busy at a time.
pub const DESTINATION_USERS: u16 = 128;

/// Classes of states by which the ports of a destination are counted.
pub const PORT_STATES: usize = 8;

/// The class of a TCP state of the kernel. LAST_ACK, CLOSING and CLOSE share one.
#[inline(always)]
#[must_use]
pub const fn port_state(state: u32) -> usize {
    const CLOSE: u32 = 7;
    const CLOSE_WAIT: u32 = 8;
    let state = if state > CLOSE_WAIT { CLOSE } else { state };
    state.wrapping_sub(1) as usize & (PORT_STATES - 1)
}

/// Ports taken for a [`Destination`] in walk `generation`. 24 bytes. There are 65,535 ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct DestinationUse {
    /// The walk that counted.
    pub generation: u32,
    /// Local ports taken, pinned ones not counted.
    pub used: u16,
    /// 0 until it is counted in [`NamespaceWalk::busy_count`], 1 then, and 1 more for each of its sockets that
    /// has been copied up since.
    pub listed: u16,
    /// The same ports by the state of their socket, see [`port_state`].
    pub states: [u16; PORT_STATES],
}

impl DestinationUse {
    /// No port yet.
    pub const ZERO: Self = Self { generation: 0, used: 0, listed: 0, states: [0; PORT_STATES] };
}

const _: () = assert!(size_of::<DestinationUse>() == 24);

/// Words of the bit set by which distinct sources are estimated. With 1,024 bits the estimate is
/// within 3 % for 300 sources and within 10 % for 3,000 (linear counting, Whang et al. 1990).
pub const SOURCE_WORDS: usize = 16;

/// Key of [`REQUESTS`](crate::maps::REQUESTS): a local port of a namespace.
#[inline(always)]
#[must_use]
pub const fn request_key(slot: u16, port: u16) -> u32 {
    (slot as u32) << 16 | port as u32
}

/// Half-open requests of a local port in walk `generation`. 144 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RequestUse {
    /// The walk that counted.
    pub generation: u32,
    /// Requests whose SYN-ACK was sent again at least once: no answer for a second or more.
    pub unanswered: u32,
    /// Zero.
    pub reserved: u64,
    /// A bit for the hash of each source address of these.
    pub sources: [u64; SOURCE_WORDS],
}

impl RequestUse {
    /// No request yet.
    pub const ZERO: Self =
        Self { generation: 0, unanswered: 0, reserved: 0, sources: [0; SOURCE_WORDS] };
}

const _: () = assert!(size_of::<RequestUse>() == 144);

/// Bits of [`SocketRecord::flags`].
pub mod socket_flags {
    /// Accepted from a listener: `sk_max_ack_backlog`, inherited from it, is not 0.
    pub const ACCEPTED: u8 = 1 << 0;
    /// [`since_ns`](super::SocketRecord::since_ns) is when the state was entered, as the hook saw
    /// it; else it is an upper bound, so the age a lower one.
    pub const SINCE_EXACT: u8 = 1 << 1;
    /// No process holds it any more (`SOCK_DEAD`).
    pub const ORPHAN: u8 = 1 << 2;
    /// No process holds it yet: it waits in an accept queue.
    pub const UNACCEPTED: u8 = 1 << 3;
    /// In TIME_WAIT, or an orphan in FIN_WAIT2: no full socket. It is copied only for its port.
    pub const MINISOCKET: u8 = 1 << 4;
    /// The counts of what it has carried are known.
    pub const PROGRESS: u8 = 1 << 5;
    /// Uses a port of a destination that is busy, or a pinned one where these are many. A sample.
    pub const PORT_USER: u8 = 1 << 6;
    /// Its port is pinned: it called bind() before connect().
    pub const PINNED: u8 = 1 << 7;
}

/// Bits of [`SocketRecord::listener`]. Neither bit of a pair: unknown.
pub mod listener_flags {
    /// bind() named the port.
    pub const PORT_NAMED: u8 = 1 << 0;
    /// The kernel picked the port: bind() with port 0, or listen() without bind().
    pub const PORT_PICKED: u8 = 1 << 1;
    /// Some thread waits for connections: in accept() or poll(), or by epoll.
    pub const AWAITED: u8 = 1 << 2;
    /// No thread does.
    pub const NOT_AWAITED: u8 = 1 << 3;
    /// In a listing: it is not selected, and copied up only for the connections in its queue.
    pub const NOT_SELECTED: u8 = 1 << 4;
}

/// A socket that a walk copies up: in CLOSE_WAIT, in LISTEN, connected to itself, waiting for its
/// peer, stalled, on a requested port, or of a busy destination. 152 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SocketRecord {
    /// TCP state of the kernel.
    pub state: u8,
    /// [`socket_flags`].
    pub flags: u8,
    /// LISTEN: [`listener_flags`].
    pub listener: u8,
    /// Zero.
    pub reserved: u8,
    /// Bytes received and not read (the FIN counts one until recv() has returned 0), as Recv-Q of
    /// `ss`. CLOSE_WAIT only.
    pub recv_queue: u32,
    /// Kernel address of the socket: its identity while it lives. Never published.
    pub sk: u64,
    /// Inode number of the socket's file, 0 without one.
    pub inode: u64,
    /// LISTEN: address of the connection that has waited for accept() longest. A connection that
    /// waits: address of the listener in whose queue it does. 0 where there is none or none is known.
    pub queue: u64,
    /// When the state was entered, nanoseconds of CLOCK_MONOTONIC; 0 where it is not needed.
    pub since_ns: u64,
    /// The socket's ends.
    pub tuple: Tuple,
    /// LISTEN: connections that wait for accept() (`sk_ack_backlog`).
    pub accept_queue: u32,
    /// LISTEN: how many may (`sk_max_ack_backlog`).
    pub accept_limit: u32,
    /// LISTEN: half-open requests (`icsk_accept_queue.qlen`).
    pub half_open: u32,
    /// LISTEN: connections dropped since it was made (`sk_drops`), modulo 2^32.
    pub drops: u32,
    /// Not LISTEN: bytes that the process has written and the peer has not acknowledged.
    pub unacked: u32,
    /// Not LISTEN: data bytes that the peer has acknowledged, SYN and FIN counting one. This and what follows is known where
    /// [`socket_flags::PROGRESS`] is set.
    pub bytes_acked: u64,
    /// Data bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Data bytes received in order, the FIN counting one.
    pub bytes_received: u64,
    /// When data was last acknowledged, or sent while nothing was under way, nanoseconds of
    /// CLOCK_MONOTONIC.
    pub delivered_ns: u64,
    /// When the last segment was sent or received, nanoseconds of CLOCK_MONOTONIC. This and what
    /// follows is 0 unless [`stalled`](Self::stalled) is 1.
    pub last_segment_ns: u64,
    /// The window that the peer has offered last, in bytes.
    pub peer_window: u32,
    /// TCP_USER_TIMEOUT in milliseconds, 0 without one.
    pub user_timeout_ms: u32,
    /// Segments sent and not acknowledged, [`u32::MAX`] where the kernel does not show it.
    pub segments_out: u32,
    /// 1 where the peer acknowledges nothing of what was written, and the timer has sent it again
    /// or probed a closed window.
    pub stalled: u8,
    /// Times that the first unacknowledged segment was sent again (`icsk_retransmits`).
    pub retransmits: u8,
    /// How often the timer was doubled (`icsk_backoff`).
    pub backoff: u8,
    /// Probes of a closed window that have no answer (`icsk_probes_out`).
    pub probes: u8,
}

const _: () = assert!(size_of::<SocketRecord>() == 152);

impl SocketRecord {
    /// Nothing known yet.
    pub const ZERO: Self = Self {
        state: 0,
        flags: 0,
        listener: 0,
        reserved: 0,
        recv_queue: 0,
        sk: 0,
        inode: 0,
        queue: 0,
        since_ns: 0,
        tuple: Tuple {
            local: Address { words: [0; 4] },
            peer: Address { words: [0; 4] },
            local_port: 0,
            peer_port: 0,
        },
        accept_queue: 0,
        accept_limit: 0,
        half_open: 0,
        drops: 0,
        unacked: 0,
        bytes_acked: 0,
        bytes_sent: 0,
        bytes_received: 0,
        delivered_ns: 0,
        last_segment_ns: 0,
        peer_window: 0,
        user_timeout_ms: 0,
        segments_out: 0,
        stalled: 0,
        retransmits: 0,
        backoff: 0,
        probes: 0,
    };
}

/// A record of the one pass. 160 bytes, aligned to 8. The iterator copies the socket only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The namespace: [`NamespaceWalk::slot`].
    pub slot: u32,
    /// [`SOCKET`](Self::SOCKET), [`BUSY`](Self::BUSY) or [`PORT_LISTENS`](Self::PORT_LISTENS).
    pub kind: u32,
    /// The socket. Of a busy destination only its tuple says something, with local port 0.
    pub socket: SocketRecord,
}

impl Found {
    /// A socket.
    pub const SOCKET: u32 = 0;
    /// A destination that has reached [`NamespaceWalk::busy_at`].
    pub const BUSY: u32 = 1;
    /// A port of the namespace on which a socket listens; only that port says something.
    pub const PORT_LISTENS: u32 = 2;
}

const _: () = assert!(size_of::<Found>() == 160);

/// In whose queue a connection waited in walk `generation`. 16 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QueueOf {
    /// Address of the listener.
    pub listener: u64,
    /// The walk that met it.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<QueueOf>() == 16);

/// A descriptor of a selected socket. 40 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OwnerRecord {
    /// Inode number of the socket's file.
    pub inode: u64,
    /// When the process started, nanoseconds of CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// Thread-group id.
    pub tgid: u32,
    /// File descriptor.
    pub fd: u32,
    /// `comm` of the thread-group leader, NUL-padded.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<OwnerRecord>() == 40);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C) without padding, and every bit pattern is valid.
    unsafe impl aya::Pod for super::Walk {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NamespaceWalk {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Found {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Destination {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::DestinationUse {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RequestUse {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SocketRecord {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::OwnerRecord {}
}
