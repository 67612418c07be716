//! What is seen of a reset that this host sends; the agent concludes the cause.

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

#[cfg(feature = "user")]
// SAFETY: four bytes, every bit pattern is valid.
unsafe impl aya::Pod for ResetKey {}
