//! A received segment: `struct sk_buff` with its TCP and IP headers.
//!
//! The headers lie at addresses that are made of numbers, so they go through
//! `bpf_probe_read_kernel`.

use core::{ffi::c_void, ptr::with_exposed_provenance};

use aya_ebpf::helpers::bpf_probe_read_kernel;
use tcpwatch_common::{Address, Tuple};

use crate::{
    log,
    memory::{Object, field},
    sock::Namespace,
};

/// `struct sk_buff` of a segment, its headers found.
pub(crate) struct Segment(Object);

/// The first 14 bytes of a TCP header (RFC 9293 section 3.1), in network byte order.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TcpHeader {
    source: u16,
    destination: u16,
    sequence: [u16; 2],
    acknowledgment: [u16; 2],
    offset_and_flags: [u8; 2],
}

impl TcpHeader {
    const ZERO: Self = Self {
        source: 0,
        destination: 0,
        sequence: [0; 2],
        acknowledgment: [0; 2],
        offset_and_flags: [0; 2],
    };
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;

    /// The port that it was sent to, host byte order.
    pub(crate) fn destination(&self) -> u16 {
        u16::from_be(self.destination)
    }

    /// The port that it came from, host byte order.
    pub(crate) fn source(&self) -> u16 {
        u16::from_be(self.source)
    }

    /// Bytes of the header, options included.
    pub(crate) fn bytes(&self) -> u32 {
        u32::from(self.offset_and_flags[0] >> 4) * 4
    }

    pub(crate) fn is_syn(&self) -> bool {
        self.offset_and_flags[1] & Self::SYN != 0
    }

    pub(crate) fn is_rst(&self) -> bool {
        self.offset_and_flags[1] & Self::RST != 0
    }
}

impl Segment {
    /// Wraps an argument of a hook. `None` for NULL.
    #[inline(always)]
    pub(crate) fn new(skb: *const c_void) -> Option<Self> {
        if skb.is_null() { None } else { Some(Self(Object::typed(skb))) }
    }

    /// Zeros where it cannot be read.
    #[inline(always)]
    pub(crate) fn tcp_header(&self) -> TcpHeader {
        let transport = field!(self.0, skb_transport_header: u16);
        read(self.head() + u64::from(transport), TcpHeader::ZERO)
    }

    /// Bytes of data.
    #[inline(always)]
    pub(crate) fn payload(&self, header: &TcpHeader) -> u32 {
        field!(self.0, skb_len: u32).saturating_sub(header.bytes())
    }

    /// The sender; zeros where the header cannot be read.
    #[inline(always)]
    pub(crate) fn source(&self) -> Address {
        // `saddr` is at 12 of `struct iphdr` and at 8 of `struct ipv6hdr`.
        self.address(12, 8)
    }

    /// Both ends, seen from the receiver, with the ports of the TCP header.
    #[inline(always)]
    pub(crate) fn tuple(&self, local_port: u16, peer_port: u16) -> Tuple {
        // `daddr` follows `saddr`.
        Tuple { local: self.address(16, 24), peer: self.source(), local_port, peer_port }
    }

    /// An address at these offsets of the header of IPv4 and of IPv6.
    #[inline(always)]
    fn address(&self, v4: u64, v6: u64) -> Address {
        let header = self.head() + u64::from(field!(self.0, skb_network_header: u16));
        // The version is the upper half of the first byte of both.
        let version = read(header, 0_u8) >> 4;
        if version == 4 {
            Address::from_v4(read(header + v4, 0_u32))
        } else {
            Address { words: read(header + v6, [0_u32; 4]) }
        }
    }

    /// The network namespace of the device that received it.
    #[inline(always)]
    pub(crate) fn namespace(&self) -> Option<Namespace> {
        let device = Object::typed(field!(self.0, skb_dev: *const c_void));
        if device.0.is_null() {
            return None;
        }
        Some(Namespace(Object::typed(field!(device, dev_net: *const c_void))))
    }

    #[inline(always)]
    fn head(&self) -> u64 {
        field!(self.0, skb_head: u64)
    }
}

#[inline(always)]
fn read<T: Copy>(address: u64, otherwise: T) -> T {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_kernel(with_exposed_provenance::<T>(address as usize)) } {
        Ok(value) => value,
        Err(_) => {
            log::header_unreadable();
            otherwise
        }
    }
}
