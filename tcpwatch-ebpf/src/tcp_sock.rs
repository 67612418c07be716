//! Fields of `struct tcp_sock`, by the name that a reader of the walk knows.

use core::ffi::c_void;

use crate::{
    accept_queue::Request,
    branchless::is_above,
    memory::{Memory, Object, Typed, address_of, field, has},
    sock::{Sock, Sockets},
};

impl<M: Sockets> Sock<M> {
    /// As a full TCP socket; `None` for a minisocket or another protocol.
    #[inline(always)]
    pub(crate) fn tcp(self) -> Option<TcpSock<M>> {
        let tcp = M::as_tcp(self.0);
        if tcp.is_null() { None } else { Some(TcpSock(Sock(tcp, self.1))) }
    }
}

/// `struct tcp_sock`, which begins with a `struct sock`.
#[derive(Clone, Copy)]
pub(crate) struct TcpSock<M = Typed>(pub(crate) Sock<M>);

impl<M: Memory> TcpSock<M> {
    /// The local port, in host byte order, also after CLOSE has cleared `skc_num`.
    #[inline(always)]
    pub(crate) fn source_port(self) -> u16 {
        u16::from_be(field!(self.0, inet_sport: u16))
    }

    /// Recv-Q as `ss` shows it: bytes not read, the FIN counting one.
    #[inline(always)]
    pub(crate) fn receive_queue(self) -> u32 {
        field!(self.0, rcv_nxt: u32).wrapping_sub(field!(self.0, copied_seq: u32))
    }

    /// Bytes written and not sent yet.
    #[inline(always)]
    pub(crate) fn unsent(self) -> u32 {
        field!(self.0, write_seq: u32).wrapping_sub(field!(self.0, snd_nxt: u32))
    }

    /// Bytes written and not acknowledged, a FIN counting one.
    #[inline(always)]
    pub(crate) fn unacknowledged(self) -> u32 {
        field!(self.0, write_seq: u32).wrapping_sub(field!(self.0, snd_una: u32))
    }

    /// Times that the first unacknowledged segment was sent again, how often the timer was doubled,
    /// and probes of a closed window without an answer. All are 0 after progress.
    #[inline(always)]
    pub(crate) fn timer_counts(self) -> (u8, u8, u8) {
        (
            field!(self.0, icsk_retransmits: u8),
            field!(self.0, icsk_backoff: u8),
            field!(self.0, icsk_probes_out: u8),
        )
    }

    /// The window that the peer has offered last.
    #[inline(always)]
    pub(crate) fn peer_window(self) -> u32 {
        field!(self.0, snd_wnd: u32)
    }

    /// TCP_USER_TIMEOUT in milliseconds, 0 without one.
    #[inline(always)]
    pub(crate) fn user_timeout_ms(self) -> u32 {
        field!(self.0, icsk_user_timeout: u32)
    }

    /// Segments sent and not acknowledged; [`u32::MAX`] where the kernel does not show it.
    #[inline(always)]
    pub(crate) fn segments_out(self) -> u32 {
        if has!(packets_out) { field!(self.0, packets_out: u32) } else { u32::MAX }
    }

    #[inline(always)]
    pub(crate) fn bytes_received(self) -> u64 {
        field!(self.0, bytes_received: u64)
    }

    #[inline(always)]
    pub(crate) fn bytes_acknowledged(self) -> u64 {
        field!(self.0, bytes_acked: u64)
    }

    /// 1 where data came since this side has sent some last, by the tick of the kernel's clock, else 0.
    #[inline(always)]
    pub(crate) fn has_heard_last(self) -> u64 {
        let since = field!(self.0, lrcvtime: u32).wrapping_sub(field!(self.0, lsndtime: u32));
        1 - is_above(since.into(), u64::from(u32::MAX >> 1))
    }

    /// When the first SYN was sent, milliseconds of CLOCK_MONOTONIC; meaningful in SYN_SENT.
    #[inline(always)]
    pub(crate) fn first_syn_ms(self) -> u32 {
        field!(self.0, retrans_stamp: u32)
    }

    /// When the last segment was processed, nanoseconds of CLOCK_MONOTONIC.
    #[inline(always)]
    pub(crate) fn last_segment_ns(self) -> u64 {
        field!(self.0, tcp_mstamp: u64).wrapping_mul(1_000)
    }

    /// Whether the kernel counts the bytes that the socket has carried.
    #[inline(always)]
    pub(crate) fn has_progress(self) -> bool {
        has!(bytes_sent) && has!(delivered_mstamp)
    }

    /// Data bytes acknowledged, sent and received.
    #[inline(always)]
    pub(crate) fn carried(self) -> (u64, u64, u64) {
        (
            field!(self.0, bytes_acked: u64),
            field!(self.0, bytes_sent: u64),
            field!(self.0, bytes_received: u64),
        )
    }

    /// When data was last acknowledged, or sent while nothing was under way, nanoseconds of
    /// CLOCK_MONOTONIC. No keep-alive and no retransmission moves it.
    #[inline(always)]
    pub(crate) fn delivered_ns(self) -> u64 {
        field!(self.0, delivered_mstamp: u64).wrapping_mul(1_000)
    }

    /// Whether a segment is under way; `None` where the kernel does not show it.
    #[inline(always)]
    pub(crate) fn has_sent(self) -> Option<bool> {
        if has!(packets_out) { Some(field!(self.0, packets_out: u32) != 0) } else { None }
    }

    /// Whether it has an initial sequence number: 0 until connect() has found a port and a route
    /// (`tcp_v4_connect`, net/ipv4/tcp_ipv4.c), and never again after.
    #[inline(always)]
    pub(crate) fn is_sequenced(self) -> bool {
        field!(self.0, write_seq: u32) != 0
    }

    /// The range set by IP_LOCAL_PORT_RANGE, the last port in the upper half; 0 without one.
    #[inline(always)]
    pub(crate) fn own_port_range(self) -> u32 {
        if !has!(local_port_range) {
            return 0;
        }
        let first = field!(self.0, local_port_range: u16);
        let last = field!(self.0, local_port_range + 2: u16);
        u32::from(last) << 16 | u32::from(first)
    }

    /// Half-open requests of a listener.
    #[inline(always)]
    pub(crate) fn half_open(self) -> u32 {
        field!(self.0, accept_queue_qlen: u32)
    }

    /// The connection that has waited longest in a listener's accept queue.
    #[inline(always)]
    pub(crate) fn first_in_queue(self, scratch: &mut u64) -> Request {
        if !has!(accept_head) {
            return Request(0);
        }
        Request(address_of(field!(self.0, accept_head: *const c_void), scratch))
    }

    /// Whether connect() skips the local port for every destination.
    #[inline(always)]
    pub(crate) fn is_port_pinned(self) -> bool {
        let bucket = || field!(self.0, icsk_bind_hash: *const c_void);
        has!(icsk_bind_hash) && Object(bucket(), self.0.1.beyond()).is_pinned()
    }
}
