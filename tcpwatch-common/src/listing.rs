//! A listing: the sockets that match a selection.

use crate::{Address, PORT_WORDS};

/// One walk, of one namespace by the iterator and of all selected ones by the one pass: the selection
/// in, counts out. The agent writes it whole before the walk and reads it whole after. Matching sockets
/// come up as [`SocketRecord`](crate::SocketRecord), from the one pass within [`Found`](crate::Found).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// In: states, a bit each; the bit of SYN_RECV covers half-open requests.
    pub states: u32,
    /// In: bits of [`listing_only`]; a socket needs each of them.
    pub only: u32,
    /// In: the local address; zeros for any.
    pub local: Address,
    /// In: the peer's address; zeros for any.
    pub peer: Address,
    /// In: the local port; 0 for any.
    pub local_port: u16,
    /// In: the peer's port; 0 for any.
    pub peer_port: u16,
    /// In: the port of either end; 0 for any.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
    /// In: how many sockets are copied up at most; the walk counts down.
    pub left: u64,
    /// Out: sockets that match, copied up or not.
    pub matched: u64,
    /// Out, by the iterator: local ports of listeners, a bit each.
    pub listening: [u64; PORT_WORDS],
}

impl Listing {
    /// A listing of nothing.
    pub const ZERO: Self = Self {
        states: 0,
        only: 0,
        local: Address { words: [0; 4] },
        peer: Address { words: [0; 4] },
        local_port: 0,
        peer_port: 0,
        port: 0,
        reserved: 0,
        left: 0,
        matched: 0,
        listening: [0; PORT_WORDS],
    };
}

const _: () = assert!(size_of::<Listing>() == 64 + PORT_WORDS * 8);

/// Bits of [`Listing::only`].
pub mod listing_only {
    /// Sent again twice or more, and not acknowledged.
    pub const STALLED: u32 = 1 << 0;
    /// Connected to itself.
    pub const SELF_CONNECTED: u32 = 1 << 1;
    /// Waits in an accept queue.
    pub const UNACCEPTED: u32 = 1 << 2;
    /// No process holds it any more.
    pub const ORPHAN: u32 = 1 << 3;
    /// A half-open request whose SYN-ACK was sent again.
    pub const UNANSWERED: u32 = 1 << 4;
    /// Its port was bound before connect().
    pub const PINNED: u32 = 1 << 5;
}

#[cfg(feature = "user")]
// SAFETY: repr(C) without padding, and every bit pattern is valid.
unsafe impl aya::Pod for Listing {}
