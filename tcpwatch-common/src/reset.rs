//! What is seen of a reset, and of whom; the agent concludes the cause.

use crate::Address;

/// Bits of [`ResetKey::flags`].
pub mod reset_flags {
    /// A segment provoked the reset (passive).
    pub const SEGMENT: u8 = 1 << 0;
    /// That segment carries SYN.
    pub const SEGMENT_SYN: u8 = 1 << 1;
    /// SOCK_LINGER is set and the time is 0.
    pub const LINGER_ZERO: u8 = 1 << 2;
    /// `SOCK_DEAD`: the process has closed it.
    pub const DEAD: u8 = 1 << 3;
    /// `sk_socket` is set: a process has it, or had.
    pub const HAS_SOCKET: u8 = 1 << 4;
    /// Both directions are shut down.
    pub const SHUT_DOWN: u8 = 1 << 5;
    /// The kernel tells a reason (6.10 and later).
    pub const HAS_REASON: u8 = 1 << 6;
}

/// One way in which resets were seen; the key under which they are counted. 4 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResetKey {
    /// `enum sk_rst_reason`, a number of the running kernel: translate it by BTF. 0 without
    /// [`reset_flags::HAS_REASON`].
    pub reason: u8,
    /// State of the socket as reported, 0 without a socket.
    pub state: u8,
    /// Zero.
    pub reserved: u8,
    /// [`reset_flags`].
    pub flags: u8,
}

/// Whose resets are counted together. 24 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResetOrigin {
    /// Cookie of the network namespace; 0 where the kernel has none.
    pub netns_cookie: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Thread-group id of the caller of close() or connect(); 0 where neither is known.
    pub tgid: u32,
    /// Sent: as in [`RESETS`](crate::maps::RESETS). Received: the socket's state alone.
    pub seen: ResetKey,
    /// The service: a client's peer port, a server's local port. Host byte order.
    pub port: u16,
    /// 1 where this host is the client, 0 where it is the server or knows no connection.
    pub is_client: u8,
    /// 1 for resets received, 0 for those sent.
    pub received: u8,
}

/// Resets of one origin. 40 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ResetOriginUse {
    /// How many.
    pub count: u64,
    /// The peer of the last one.
    pub peer: Address,
    /// `comm` of the leader of [`ResetOrigin::tgid`], NUL-padded.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<ResetOrigin>() == 24 && size_of::<ResetOriginUse>() == 40);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: four bytes, every bit pattern is valid.
    unsafe impl aya::Pod for super::ResetKey {}
    // SAFETY: repr(C), the fields fill all of the 24 bytes, and every bit pattern is valid.
    unsafe impl aya::Pod for super::ResetOrigin {}
    // SAFETY: likewise, 40 bytes.
    unsafe impl aya::Pod for super::ResetOriginUse {}
}
