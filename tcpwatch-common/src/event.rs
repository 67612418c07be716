//! The rare events that go up one by one.

use crate::Tuple;

/// What an [`Event`] tells. A new kind is appended; the numbers are part of recorded streams.
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

/// One event. 88 bytes, aligned to 8.
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
    /// Zero.
    pub reserved: [u8; 3],
    /// The socket's ends. A `local_port` of 0 on a failed connect means that none was free; on a
    /// failed bind, where there is no peer, that any would have done.
    pub tuple: Tuple,
    /// `sk_err`: the errno that the application will get, 0 where the kernel set none.
    pub error: i32,
    /// Thread-group id of the process that called connect() or bind(); 0 where it was not noted.
    pub tgid: u32,
    /// `comm` of that process's thread-group leader, NUL-padded.
    pub comm: [u8; 16],
    /// Zero.
    pub reserved2: u32,
}

const _: () = assert!(size_of::<Event>() == 88);

#[cfg(feature = "user")]
// SAFETY: repr(C), the fields fill all of the 88 bytes, and every bit pattern is valid.
unsafe impl aya::Pod for Event {}
