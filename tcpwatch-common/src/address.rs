//! Addresses and four-tuples, one representation for both families.

/// `AF_INET` of Linux.
pub const AF_INET: u16 = 2;
/// An IP address in network byte order; IPv4 as IPv4-mapped (`::ffff:a.b.c.d`, RFC 4291 section
/// 2.5.5.2), which is also how the kernel compares ports of the two families.
///
/// 16 bytes, aligned to 4: the kernel side copies it as four words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// The four words of the address, each in network byte order.
    pub words: [u32; 4],
}

impl Address {
    /// The IPv4-mapped form of `addr`, which is in network byte order.
    #[inline(always)]
    pub const fn from_v4(addr: u32) -> Self {
        Self { words: [0, 0, 0xffff_u32.to_be(), addr] }
    }
}

/// Both ends of a connection. 36 bytes, aligned to 4.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// This host's address.
    pub local: Address,
    /// The other end's address.
    pub peer: Address,
    /// This host's port, host byte order.
    pub local_port: u16,
    /// The other end's port, host byte order.
    pub peer_port: u16,
}

impl Tuple {
    /// Nothing at either end.
    pub const ZERO: Self = Self {
        local: Address { words: [0; 4] },
        peer: Address { words: [0; 4] },
        local_port: 0,
        peer_port: 0,
    };

    /// Whether a socket with these ends is connected to itself.
    #[inline(always)]
    pub fn is_self(&self) -> bool {
        self.local_port == self.peer_port
            && self.local_port != 0
            && self.local.words[3] == self.peer.words[3]
            && self.local.words[2] == self.peer.words[2]
            && self.local.words[1] == self.peer.words[1]
            && self.local.words[0] == self.peer.words[0]
    }
}

const _: () = assert!(size_of::<Tuple>() == 36);
