//! One end of a connection, from the kernel side's form.

use std::net::Ipv6Addr;

use crate::facts::Endpoint;

/// IPv4-mapped IPv6 addresses become IPv4.
pub(super) fn endpoint(address: tcpwatch_common::Address, port: u16) -> Endpoint {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(address.words) {
        // The words are in network byte order already.
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Endpoint { address: Ipv6Addr::from(octets).to_canonical(), port }
}
