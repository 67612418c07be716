//! The rare events that go up one by one.

use crate::Tuple;

/// The kind of an [`Event`]. New kinds are appended: the numbers are part of recorded streams.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A socket in simultaneous open has both its ends at the same address and port.
    SelfConnection = 1,
    /// A connect() ended without a connection, after SYN_SENT.
    ConnectFailed = 2,
    /// A bind() or listen() found its port taken.
    BindFailed = 3,
}

/// Details of the socket of an [`Event`] whose connect() failed.
pub mod connect_flags {
    /// The process was noted when connect() began: [`BOUND`] and [`NEW_SEQUENCE`] are known.
    pub const NOTED: u8 = 1 << 0;
    /// It had a local port when connect() was called.
    pub const BOUND: u8 = 1 << 1;
    /// A SYN is in its queue: connect() came as far as sending one.
    pub const SYN_QUEUED: u8 = 1 << 2;
    /// close() has begun: both directions are shut down already.
    pub const CLOSED: u8 = 1 << 3;
    /// It had no initial sequence number when connect() was called and has one now: a port and a
    /// route were found.
    pub const NEW_SEQUENCE: u8 = 1 << 4;
    /// It had no initial sequence number when connect() was called: it was not used before.
    pub const UNUSED_BEFORE: u8 = 1 << 5;
    /// The kernel shows whether a SYN is queued, and the sequence number.
    pub const SYN_KNOWN: u8 = 1 << 6;
}

/// One event. 96 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// When, CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// Cookie of the network namespace (`SO_NETNS_COOKIE`, 5.14 and later), which is never used
    /// again; 0 where the kernel has none.
    pub netns_cookie: u64,
    /// Inode number of the network namespace, which another one may get later.
    pub netns: u32,
    /// An [`EventKind`] as its number.
    pub kind: u8,
    /// [`connect_flags`] of a failed connect.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// The socket's ends. A `local_port` of 0 on a failed connect means that none was free; on a
    /// failed bind, where there is no peer, that any would have done.
    pub tuple: Tuple,
    /// `sk_err`: the errno that the application will get, 0 where the kernel set none.
    pub error: i32,
    /// Thread-group id of the process that called connect() or bind(); 0 where it was not noted.
    pub tgid: u32,
    /// `comm` of that process's thread-group leader, NUL-padded.
    pub comm: [u8; 16],
    /// Of a failed connect: milliseconds since its first SYN, where one was sent; else without
    /// meaning.
    pub since_syn_ms: u32,
    /// Of a failed connect: the socket's own range of local ports (IP_LOCAL_PORT_RANGE, 6.3 and
    /// later), the last one in the upper half and the first in the lower; 0 without one.
    pub own_port_range: u32,
    /// Zero.
    pub reserved2: u32,
}

const _: () = assert!(size_of::<Event>() == 96);

#[cfg(feature = "user")]
// SAFETY: repr(C), the fields fill all of the 96 bytes, and every bit pattern is valid.
unsafe impl aya::Pod for Event {}
