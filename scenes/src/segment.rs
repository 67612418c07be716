//! TCP segments that no socket of ours would send, forged on a raw socket of
//! the thread's namespace.

use std::{io, net::SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

/// `IPPROTO_RAW`: the IP header comes from us (raw(7)).
const IPPROTO_RAW: i32 = 255;

/// The flags of a segment (RFC 9293 section 3.1).
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Flags {
    Syn = 0x02,
    Ack = 0x10,
}

/// Sends forged segments.
pub(crate) struct Forger(Socket);

impl Forger {
    pub(crate) fn new() -> io::Result<Self> {
        let protocol = Some(Protocol::from(IPPROTO_RAW));
        Ok(Self(Socket::new(Domain::IPV4, Type::RAW, protocol)?))
    }

    /// The socket's queue is short; loopback empties it at once.
    pub(crate) fn send(
        &self,
        flags: Flags,
        from: SocketAddrV4,
        to: SocketAddrV4,
    ) -> io::Result<()> {
        let address = std::net::SocketAddr::V4(to).into();
        self.0.send_to(&packet(flags, from, to), &address).map(drop)
    }
}

/// An IPv4 packet with a TCP header and nothing else (RFC 791 section 3.1,
/// RFC 9293 section 3.1).
fn packet(flags: Flags, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    // Sequence numbers, of which none is expected.
    tcp.extend(1_u32.to_be_bytes());
    tcp.extend(0_u32.to_be_bytes());
    // Header of five words, flags, a window.
    tcp.extend([5 << 4, flags as u8]);
    tcp.extend(64_240_u16.to_be_bytes());
    tcp.extend([0; 4]);
    let mut pseudo = Vec::with_capacity(32);
    pseudo.extend(from.ip().octets());
    pseudo.extend(to.ip().octets());
    pseudo.extend([0, 6, 0, 20]);
    pseudo.extend(&tcp);
    tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());

    // The kernel fills in length, identification and checksum (raw(7)).
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(tcp);
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
