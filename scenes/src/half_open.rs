//! Half-open requests: SYNs whose answers reach nobody.
//!
//! The SYNs are forged on a raw socket, from addresses behind a link that
//! leads nowhere, so the SYN-ACKs vanish and each request stays until its
//! retransmissions end (about a minute).

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{Namespace, dead_link};

/// `IPPROTO_RAW`: the IP header comes from us (raw(7)).
const IPPROTO_RAW: i32 = 255;

/// Sends SYNs to `port` in `ns` from `sources` addresses, `each` from every
/// one; a listener on that port, at any address, holds them half open.
/// At most 60,000 sources.
///
/// # Errors
/// When the kernel refuses a step.
pub fn half_open(ns: &Namespace, sources: u16, each: u16, port: u16) -> Result<()> {
    ensure!(sources <= 60_000, "{sources} sources do not fit into 198.18.0.0/16");
    ns.enter(|| -> Result<()> {
        dead_link::make()?;
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
            .context("opening a raw socket")?;
        let target = SocketAddrV4::new(dead_link::HERE, port);
        for source in 0..sources {
            let [high, low] = (source + 256).to_be_bytes();
            let from = Ipv4Addr::new(198, 18, high, low);
            for number in 0..each {
                let packet = syn(SocketAddrV4::new(from, 20_000 + number), target);
                send(&socket, &packet, target)
                    .with_context(|| format!("sending a SYN from {from}"))?;
            }
        }
        Ok(())
    })?
}

/// The socket's queue is short; loopback empties it at once.
fn send(socket: &Socket, packet: &[u8], to: SocketAddrV4) -> io::Result<()> {
    socket.send_to(packet, &std::net::SocketAddr::V4(to).into()).map(drop)
}

/// An IPv4 packet with a TCP header that carries SYN (RFC 791 section 3.1,
/// RFC 9293 section 3.1).
fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(1_u32.to_be_bytes());
    tcp.extend(0_u32.to_be_bytes());
    // Header of five words, SYN, a window.
    tcp.extend([5 << 4, 0x02]);
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
