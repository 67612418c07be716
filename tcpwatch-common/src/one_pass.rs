//! One pass over the sockets of every network namespace: what the agent requests of a run, where the
//! pass is, and what a namespace is known by.

use crate::SocketRecord;

/// First argument of a run of [`ONE_PASS`](crate::programs::ONE_PASS): the work of that run.
pub mod phase {
    /// Finds the list of namespaces and the tables of the first one.
    pub const ROOTS: u64 = 1;
    /// Copies up a [`NamespaceRecord`](super::NamespaceRecord) of each namespace.
    pub const NAMESPACES: u64 = 2;
    /// Copies the reserved ports of the namespace at the second argument into
    /// [`Walk::reserved_ports`](crate::Walk::reserved_ports).
    pub const RESERVED_PORTS: u64 = 3;
    /// Walks the table of listeners.
    pub const LISTENERS: u64 = 4;
    /// Walks the table of ports that are bound.
    pub const BOUND: u64 = 5;
    /// Walks a table of connections, minisockets and requests.
    pub const ESTABLISHED: u64 = 6;
}

/// Values that a run returns.
pub mod progress {
    /// It has found nothing to begin with, or there is no such phase.
    pub const FAILED: u32 = 0;
    /// The phase is at its end.
    pub const DONE: u32 = 1;
    /// The slice is over: the next run goes on.
    pub const MORE: u32 = 2;
}

/// Words that are read at once of a table's heads.
pub const HEAD_WORDS: usize = 128;

/// Buckets whose sockets are loaded ahead of their turn. Of the time that a walk of 600,000 sockets took
/// without it, it took 0.66 with 8 buckets, 0.56 with 16, 0.66 with 32, and all with 64.
pub const AHEAD: usize = 16;

/// Times that the list of namespaces is begun again, because the one that was next has gone.
pub const LIST_AGAIN: u32 = 8;

/// Where a pass is. The agent writes it whole before each phase; the kernel side keeps it from slice
/// to slice. 1,608 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// In: address of the table, or of the list of namespaces. ROOTS: out, that of the list.
    pub table: u64,
    /// In: buckets of the table less one; a power of two less one.
    pub mask: u32,
    /// The bucket that is next, or under way.
    pub bucket: u32,
    /// The node that is next; 0 where the bucket has not begun.
    pub node: u64,
    /// Of the bucket of a port: the next one in its chain.
    pub next_port: u64,
    /// Nodes of the bucket that are behind it.
    pub index: u32,
    /// Nodes of the bucket that were judged before it was begun again.
    pub judged: u32,
    /// How often the bucket was begun again.
    pub again: u32,
    /// First bucket whose head is in `heads`, and the one behind the last.
    pub heads_from: u32,
    /// See [`heads_from`](Self::heads_from).
    pub heads_to: u32,
    /// Steps of this slice.
    pub steps: u32,
    /// Not 0: the phase is at its end.
    pub at_end: u32,
    /// Place of `last_net`, [`u32::MAX`] where it is not looked at.
    pub last_slot: u32,
    /// Address of the namespace that was looked up last.
    pub last_net: u64,
    /// When this slice began.
    pub began_ns: u64,
    /// Of the bucket of a port: the list of owners that is next, and the owner.
    pub owners: u64,
    /// See [`owners`](Self::owners).
    pub owner: u64,
    /// Of it: the port, owners seen, and which kinds of owner.
    pub bound_port: u32,
    /// See [`bound_port`](Self::bound_port).
    pub bound_seen: u32,
    /// See [`bound_port`](Self::bound_port).
    pub bound_kinds: u32,
    /// Zero.
    pub reserved: u32,
    /// Out: chains that moved while they were read, and were read again.
    pub moved: u64,
    /// Out: chains that moved again and again, whose end was not seen.
    pub given_up: u64,
    /// Out: sockets, or namespaces, that were met.
    pub met: u64,
    /// Out: the longest slice, without what interrupts it.
    pub longest_ns: u64,
    /// Out, ROOTS: tables of the first namespace: bound ports, and listeners.
    pub bound_table: u64,
    /// See [`bound_table`](Self::bound_table).
    pub listener_table: u64,
    /// Out, ROOTS: buckets of these, less one.
    pub bound_mask: u32,
    /// See [`bound_mask`](Self::bound_mask).
    pub listener_mask: u32,
    /// Where a field is read to.
    pub word: u64,
    /// Heads of buckets.
    pub heads: [u64; HEAD_WORDS],
    /// For each bucket of a group, the node to load next.
    pub ahead: [u64; AHEAD],
    /// The bucket behind the group.
    pub ahead_to: u32,
    /// Nodes of each bucket that are still to be loaded, at most.
    pub ahead_turns: u32,
    /// Whether any bucket has another node.
    pub ahead_left: u64,
    /// The beginning of a socket or of the bucket of a port.
    pub head: [u64; 24],
    /// A namespace before it is copied up.
    pub namespace: NamespaceRecord,
}

impl Pass {
    /// Before a phase that takes no table.
    pub const ZERO: Self = Self {
        table: 0,
        mask: 0,
        bucket: 0,
        node: 0,
        next_port: 0,
        index: 0,
        judged: 0,
        again: 0,
        heads_from: 0,
        heads_to: 0,
        steps: 0,
        at_end: 0,
        last_slot: u32::MAX,
        last_net: 0,
        began_ns: 0,
        owners: 0,
        owner: 0,
        bound_port: 0,
        bound_seen: 0,
        bound_kinds: 0,
        reserved: 0,
        moved: 0,
        given_up: 0,
        met: 0,
        longest_ns: 0,
        bound_table: 0,
        listener_table: 0,
        bound_mask: 0,
        listener_mask: 0,
        word: 0,
        heads: [0; HEAD_WORDS],
        ahead: [0; AHEAD],
        ahead_to: 0,
        ahead_turns: 0,
        ahead_left: 0,
        head: [0; 24],
        namespace: NamespaceRecord::ZERO,
    };
}

/// A network namespace, as its `struct net` has it. 72 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NamespaceRecord {
    /// Kernel address of its `struct net`. Never published.
    pub net: u64,
    /// Its cookie.
    pub cookie: u64,
    /// Address of its table of connections, which it shares unless it was made with
    /// `tcp_child_ehash_entries`.
    pub table: u64,
    /// Address of its `ip_local_reserved_ports`, 0 where no port is reserved.
    pub reserved_at: u64,
    /// Buckets of the table less one.
    pub mask: u32,
    /// Inode number of its file.
    pub inode: u32,
    /// `net_hash_mix`.
    pub hash_mix: u32,
    /// `net.core.somaxconn`.
    pub somaxconn: u32,
    /// `tcp_max_tw_buckets`.
    pub time_wait_limit: u32,
    /// `tcp_tw_reuse_delay` in milliseconds, 0 before 6.14.
    pub tw_reuse_delay_ms: u32,
    /// `ip_local_port_range`, both ends inclusive.
    pub port_low: u16,
    /// See [`port_low`](Self::port_low).
    pub port_high: u16,
    /// `tcp_tw_reuse`.
    pub tw_reuse: u8,
    /// `tcp_timestamps`.
    pub timestamps: u8,
    /// `tcp_syncookies`.
    pub syncookies: u8,
    /// `tcp_abort_on_overflow`.
    pub abort_on_overflow: u8,
    /// `tcp_retries2`.
    pub retries2: u8,
    /// `tcp_orphan_retries`.
    pub orphan_retries: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl NamespaceRecord {
    /// Nothing read yet.
    pub const ZERO: Self = Self {
        net: 0,
        cookie: 0,
        table: 0,
        reserved_at: 0,
        mask: 0,
        inode: 0,
        hash_mix: 0,
        somaxconn: 0,
        time_wait_limit: 0,
        tw_reuse_delay_ms: 0,
        port_low: 0,
        port_high: 0,
        tw_reuse: 0,
        timestamps: 0,
        syncookies: 0,
        abort_on_overflow: 0,
        retries2: 0,
        orphan_retries: 0,
        reserved: [0; 6],
    };
}

const _: () = assert!(size_of::<NamespaceRecord>() == 72);
const _: () = assert!(size_of::<Pass>() == 168 + 8 + HEAD_WORDS * 8 + AHEAD * 8 + 16 + 192 + 72);
// A record of either kind fits where one of a socket does.
const _: () = assert!(size_of::<NamespaceRecord>() <= size_of::<SocketRecord>());

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C) without padding, and every bit pattern is valid.
    unsafe impl aya::Pod for super::Pass {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::NamespaceRecord {}
}
