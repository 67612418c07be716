//! Observations of a reset and of its process; the agent concludes the cause.

use crate::{Address, TallyKey, Words};

/// Bits of [`ResetKey::flags`].
pub mod reset_flags {
    /// A segment provoked the reset (passive).
    pub const SEGMENT: u8 = 1 << 0;
    /// The segment carries SYN.
    pub const SEGMENT_SYN: u8 = 1 << 1;
    /// SOCK_LINGER is set and the time is 0.
    pub const LINGER_ZERO: u8 = 1 << 2;
    /// `SOCK_DEAD`: the process has closed it.
    pub const DEAD: u8 = 1 << 3;
    /// `sk_socket` is set: a process has it, or had.
    pub const HAS_SOCKET: u8 = 1 << 4;
    /// Both directions are shut down.
    pub const SHUT_DOWN: u8 = 1 << 5;
    /// The kernel gives a reason (6.10 and later).
    pub const HAS_REASON: u8 = 1 << 6;
    /// [`ResetKey::sizes`](super::ResetKey::sizes) was read.
    pub const HAS_SIZES: u8 = 1 << 7;
}

/// Parts of [`ResetKey::sizes`]: three amounts of bytes, each a class of two bits, and two bits.
pub mod reset_sizes {
    /// Upper bounds of the first three classes; the last has none. 64 holds any close_notify of TLS
    /// (24 to 31 bytes with AEAD, RFC 8446 section 6.1) with the FIN that counts one; 4,096 a health
    /// check with its answer.
    pub const BOUNDS: [u32; 3] = [0, 64, 4_096];
    /// Shift: bytes received that no process will read. Of a closed socket, those of the segment.
    pub const UNREAD: u32 = 0;
    /// Shift: bytes written and not sent; of a reset received, bytes not acknowledged.
    pub const UNSENT: u32 = 2;
    /// Shift: bytes acknowledged and received during the connection, together.
    pub const CARRIED: u32 = 4;
    /// Bit: the peer's FIN had come (`SOCK_DONE`).
    pub const PEER_CLOSED: u8 = 1 << 6;
    /// Bit: the peer has sent data, and this side has sent none since.
    pub const ANSWERED: u8 = 1 << 7;
}

/// One way in which resets were seen; the key under which they are counted. 4 bytes, aligned as a number
/// of them, so that the kernel side compares it at once.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResetKey {
    /// `enum sk_rst_reason`, a number of the running kernel: translate it by BTF. 0 without
    /// [`reset_flags::HAS_REASON`].
    pub reason: u8,
    /// State of the socket as reported, 0 without a socket.
    pub state: u8,
    /// [`reset_sizes`]; 0 without [`reset_flags::HAS_SIZES`].
    pub sizes: u8,
    /// [`reset_flags`].
    pub flags: u8,
}

impl ResetKey {
    /// All that it consists of, in one number.
    #[must_use]
    #[inline(always)]
    pub const fn word(self) -> u32 {
        u32::from_ne_bytes([self.reason, self.state, self.sizes, self.flags])
    }
}

/// Whose resets are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResetOrigin {
    /// Cookie of the network namespace; 0 where the kernel has none.
    pub netns_cookie: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Thread-group id of the caller of close() or connect(); 0 where neither is known.
    pub tgid: u32,
    /// Sent: as in [`RESETS`](crate::maps::RESETS), with sizes. Received: state and sizes.
    pub seen: ResetKey,
    /// The service: a client's peer port, a server's local port. Host byte order. Where the
    /// connection is unknown, the lower port of both, which a service has as a rule.
    pub port: u16,
    /// 1 where this host is the client, 0 where it is the server.
    pub is_client: u8,
    /// 1 for resets received, 0 for those sent.
    pub received: u8,
}

/// Resets of one origin. 64 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ResetOriginUse {
    /// How many.
    pub count: u64,
    /// The peer of the last one.
    pub peer: Address,
    /// `comm` of the leader of [`ResetOrigin::tgid`], NUL-padded.
    pub comm: [u8; 16],
    /// A bit for each hash of a peer's address: about how many there were, up to 200.
    pub peers: u64,
    /// Likewise of the other port than [`ResetOrigin::port`].
    pub other_ports: u64,
    /// The other port of the last reset.
    pub other_port: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

const _: () = assert!(size_of::<ResetOriginUse>() == 64);

/// One process and service, whose connections are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// Cookie of the network namespace; 0 where the kernel has none.
    pub netns_cookie: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Thread-group id of the caller of connect(), close() or shutdown().
    pub tgid: u32,
    /// A client's peer port, a server's local port. Host byte order.
    pub port: u16,
    /// 1 where this host is the client.
    pub is_client: u16,
}

/// Upper bounds of all buckets of [`ServiceUse::idle`] but the last, in milliseconds. The first holds
/// what closes after an answer; each other one or two customary time-outs: 1 s, gunicorn's 2 s,
/// Node's 5 s, 10 s, 20 s of Puma and Tomcat, 30 s, 60 s, nginx' 75 s, 120 s, 180 s, 10 min.
pub const IDLE_BUCKETS_MS: [u32; 11] =
    [500, 1_500, 3_500, 8_000, 14_000, 25_000, 45_000, 68_000, 100_000, 150_000, 400_000];

/// Connections of a server that it closed first, after about the same time without a segment.
/// 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleCloses {
    /// How many; wraps around.
    pub count: u32,
    /// How long the last one had been idle, in milliseconds; up to a tick of the kernel's clock too
    /// short.
    pub last_ms: u32,
}

/// Connections of one [`Service`]. 128 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceUse {
    /// Calls of connect().
    pub opened: u64,
    /// Connections that were closed in order: each sends its FIN once.
    pub closed: u64,
    /// `comm` of the leader when the first was counted, NUL-padded.
    pub comm: [u8; 16],
    /// A server's closes before its client's, by [`IDLE_BUCKETS_MS`].
    pub idle: [IdleCloses; IDLE_BUCKETS_MS.len() + 1],
}

const _: () = assert!(size_of::<ServiceUse>() == 128);

impl TallyKey for ResetOrigin {
    #[inline(always)]
    fn words(self) -> Words {
        let ResetKey { reason, state, sizes, flags } = self.seen;
        let seen = u64::from(reason)
            | u64::from(state) << 8
            | u64::from(sizes) << 16
            | u64::from(flags) << 24;
        let ends = u64::from(self.port) << 32
            | u64::from(self.is_client) << 48
            | u64::from(self.received) << 56;
        [self.netns_cookie, u64::from(self.netns) | u64::from(self.tgid) << 32, seen | ends]
    }

    fn from_words([netns_cookie, second, third]: Words) -> Self {
        let [reason, state, sizes, flags, port_low, port_high, is_client, received] =
            third.to_le_bytes();
        Self {
            netns_cookie,
            netns: second as u32,
            tgid: (second >> 32) as u32,
            seen: ResetKey { reason, state, sizes, flags },
            port: u16::from_le_bytes([port_low, port_high]),
            is_client,
            received,
        }
    }
}

impl TallyKey for Service {
    #[inline(always)]
    fn words(self) -> Words {
        let ends = u64::from(self.port) | u64::from(self.is_client) << 16;
        [self.netns_cookie, u64::from(self.netns) | u64::from(self.tgid) << 32, ends]
    }

    fn from_words([netns_cookie, second, third]: Words) -> Self {
        let (netns, tgid) = (second as u32, (second >> 32) as u32);
        let (port, is_client) = (third as u16, (third >> 16) as u16);
        Self { netns_cookie, netns, tgid, port, is_client }
    }
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: four bytes, every bit pattern is valid.
    unsafe impl aya::Pod for super::ResetKey {}
    // SAFETY: repr(C) of 64 bytes without padding, every bit pattern is valid.
    unsafe impl aya::Pod for super::ResetOriginUse {}
    // SAFETY: likewise, 128 bytes.
    unsafe impl aya::Pod for super::ServiceUse {}
}

#[cfg(test)]
mod tests {
    use super::{ResetKey, ResetOrigin, Service};
    use crate::TallyKey;

    #[test]
    fn a_key_is_the_same_after_the_way_through_its_words() {
        let seen = ResetKey { reason: 1, state: 2, sizes: 3, flags: 0xff };
        let origin = ResetOrigin {
            netns_cookie: u64::MAX - 1,
            netns: 0xf000_0001,
            tgid: 0x0102_0304,
            seen,
            port: 0xfedc,
            is_client: 1,
            received: 1,
        };
        assert_eq!(ResetOrigin::from_words(origin.words()), origin);
        let (netns_cookie, netns, tgid) = (7, 0xf000_0002, 0x8000_0001);
        let service = Service { netns_cookie, netns, tgid, port: 0xfedc, is_client: 1 };
        assert_eq!(Service::from_words(service.words()), service);
    }
}
