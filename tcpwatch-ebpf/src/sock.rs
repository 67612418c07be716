//! Sockets and their namespaces, by the fields of the kernel's structures.
//!
//! A [`Sock`] is an address and how memory there is read, see [`memory`](crate::memory). `tcp_sock.rs` has
//! the fields of `struct tcp_sock`, `accept_queue.rs` what waits in the queue of a listener.

use core::{ffi::c_void, ptr::with_exposed_provenance};

use aya_ebpf::helpers::{
    bpf_get_current_task, bpf_probe_read_kernel,
    generated::{
        bpf_get_current_task_btf, bpf_skc_to_tcp_request_sock, bpf_skc_to_tcp_sock,
        bpf_skc_to_tcp_timewait_sock,
    },
};
use tcpwatch_common::{AF_INET, Address, Tuple};

use crate::{
    log,
    memory::{Copied, Memory, Object, Typed, address_of, field, has, offset},
};

/// `IPPROTO_TCP`; `inet_sock_set_state` also fires for SCTP, DCCP and MPTCP.
pub(crate) const IPPROTO_TCP: u16 = 6;

/// States of `include/net/tcp_states.h`.
pub(crate) mod state {
    pub(crate) const ESTABLISHED: u32 = 1;
    pub(crate) const SYN_SENT: u32 = 2;
    pub(crate) const SYN_RECV: u32 = 3;
    pub(crate) const FIN_WAIT1: u32 = 4;
    pub(crate) const FIN_WAIT2: u32 = 5;
    pub(crate) const TIME_WAIT: u32 = 6;
    pub(crate) const CLOSE: u32 = 7;
    pub(crate) const CLOSE_WAIT: u32 = 8;
    pub(crate) const LAST_ACK: u32 = 9;
    pub(crate) const LISTEN: u32 = 10;
    pub(crate) const CLOSING: u32 = 11;
    pub(crate) const NEW_SYN_RECV: u32 = 12;
}

/// A `struct in6_addr`.
macro_rules! v6 {
    ($self:expr, $field:ident) => {
        Address {
            words: [
                field!($self, $field + 0: u32),
                field!($self, $field + 4: u32),
                field!($self, $field + 8: u32),
                field!($self, $field + 12: u32),
            ],
        }
    };
}

/// `SOCK_DEAD` and `SOCK_LINGER` of `enum sock_flags` (include/net/sock.h): 0 and 4 from 5.10 to
/// 7.3.
pub(crate) const SOCK_DEAD: u64 = 1 << 0;
pub(crate) const SOCK_LINGER: u64 = 1 << 4;
/// `SOCK_DONE`, 1: the peer's FIN has come (`tcp_fin`, net/ipv4/tcp_input.c).
pub(crate) const SOCK_DONE: u64 = 1 << 1;

/// How a socket is taken for one of its kinds.
pub(crate) trait Sockets: Memory {
    /// As a full TCP socket; NULL for a minisocket or another protocol.
    fn as_tcp(sk: *const c_void) -> *const c_void;
    /// As a half-open request; NULL if it is none.
    fn as_request(sk: *const c_void) -> *const c_void;
    /// As a minisocket; NULL if it is none.
    fn as_time_wait(sk: *const c_void) -> *const c_void;
}

// The helpers are there since 5.9.
impl Sockets for Typed {
    #[inline(always)]
    fn as_tcp(sk: *const c_void) -> *const c_void {
        // SAFETY: the helper takes any `sock_common` and checks what it is.
        unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) }.cast_const().cast()
    }

    #[inline(always)]
    fn as_request(sk: *const c_void) -> *const c_void {
        // SAFETY: as above.
        unsafe { bpf_skc_to_tcp_request_sock(sk.cast_mut()) }.cast_const().cast()
    }

    #[inline(always)]
    fn as_time_wait(sk: *const c_void) -> *const c_void {
        // SAFETY: as above.
        unsafe { bpf_skc_to_tcp_timewait_sock(sk.cast_mut()) }.cast_const().cast()
    }
}

// The state says which kind it is.
impl Sockets for Copied {
    #[inline(always)]
    fn as_tcp(sk: *const c_void) -> *const c_void {
        sk
    }

    #[inline(always)]
    fn as_request(sk: *const c_void) -> *const c_void {
        sk
    }

    #[inline(always)]
    fn as_time_wait(sk: *const c_void) -> *const c_void {
        sk
    }
}

/// `struct sock`, or what a pointer to one may point to: with a socket in TIME_WAIT or a request
/// socket only what `struct sock_common` has is readable.
#[derive(Clone, Copy)]
pub(crate) struct Sock<M = Typed>(pub(crate) *const c_void, pub(crate) M);

impl Sock {
    /// Wraps an argument of a hook. `None` for NULL.
    #[inline(always)]
    pub(crate) fn new(sk: *const c_void) -> Option<Self> {
        if sk.is_null() { None } else { Some(Self(sk, Typed)) }
    }

    #[inline(always)]
    pub(crate) fn namespace(self) -> Namespace {
        Namespace(Object::typed(field!(self, skc_net: *const c_void)))
    }
}

impl<M: Memory> Sock<M> {
    /// The kernel address, as an identity, see [`address_of`].
    /// A softirq that runs another hook between these two instructions leaves its own socket's
    /// address; then a note is another socket's, which is rare enough to bear.
    #[inline(always)]
    pub(crate) fn address(self, scratch: &mut u64) -> u64 {
        address_of(self.0, scratch)
    }

    #[inline(always)]
    pub(crate) fn protocol(self) -> u16 {
        field!(self, sk_protocol: u16)
    }

    #[inline(always)]
    pub(crate) fn state(self) -> u32 {
        u32::from(field!(self, skc_state: u8))
    }

    #[inline(always)]
    pub(crate) fn local_port(self) -> u16 {
        field!(self, skc_num: u16)
    }

    #[inline(always)]
    pub(crate) fn peer_port(self) -> u16 {
        u16::from_be(field!(self, skc_dport: u16))
    }

    /// Local and peer address. The family decides: before 6.12 the IPv4 fields of an IPv6 socket
    /// are junk.
    #[inline(always)]
    pub(crate) fn addresses(self) -> (Address, Address) {
        if field!(self, skc_family: u16) == AF_INET {
            (
                Address::from_v4(field!(self, skc_rcv_saddr: u32)),
                Address::from_v4(field!(self, skc_daddr: u32)),
            )
        } else {
            (v6!(self, skc_v6_rcv_saddr), v6!(self, skc_v6_daddr))
        }
    }

    /// Both ends, with `local_port` from the caller: which field holds it depends on the state.
    #[inline(always)]
    pub(crate) fn tuple(self, local_port: u16) -> Tuple {
        let (local, peer) = self.addresses();
        Tuple { local, peer, local_port, peer_port: self.peer_port() }
    }

    /// A structure to which the socket points.
    #[inline(always)]
    fn follow(self, pointer: *const c_void) -> Object<M::Beyond> {
        Object(pointer, self.1.beyond())
    }

    #[inline(always)]
    pub(crate) fn error(self) -> i32 {
        field!(self, sk_err: i32)
    }

    #[inline(always)]
    pub(crate) fn flags(self) -> u64 {
        field!(self, skc_flags: u64)
    }

    #[inline(always)]
    pub(crate) fn linger_time(self) -> u32 {
        field!(self, sk_lingertime: u32)
    }

    #[inline(always)]
    pub(crate) fn shutdown(self) -> u8 {
        field!(self, sk_shutdown: u8)
    }

    #[inline(always)]
    pub(crate) fn accept_queue(self) -> u32 {
        field!(self, sk_ack_backlog: u32)
    }

    #[inline(always)]
    pub(crate) fn accept_limit(self) -> u32 {
        field!(self, sk_max_ack_backlog: u32)
    }

    /// Connections that a listener has dropped; 0 where the kernel does not show them.
    #[inline(always)]
    pub(crate) fn drops(self) -> u32 {
        if has!(sk_drops) { field!(self, sk_drops: u32) } else { 0 }
    }

    /// Whether bind() named the local port of a listener; `None` where the kernel does not show it.
    #[inline(always)]
    pub(crate) fn is_port_named(self) -> Option<bool> {
        /// `SOCK_BINDPORT_LOCK` (include/uapi/linux/socket.h): bind() with a port other than 0.
        const SOCK_BINDPORT_LOCK: u8 = 8;
        if !has!(sk_userlocks_bit) {
            return None;
        }
        let bit = offset!(sk_userlocks_bit);
        // SAFETY: the byte of `struct sock` in which the bit-field begins.
        let byte = unsafe { self.1.load::<u8>(self.0, bit / 8) };
        Some((byte >> (bit % 8)) & SOCK_BINDPORT_LOCK != 0)
    }

    /// Whether any thread waits for the socket; `None` where the kernel does not show it.
    #[inline(always)]
    pub(crate) fn is_awaited(self, scratch: &mut u64) -> Option<bool> {
        if !has!(sk_wq) || !has!(wq_first) {
            return None;
        }
        let queue = self.follow(field!(self, sk_wq: *const c_void));
        if queue.0.is_null() {
            return None;
        }
        let first = address_of(field!(queue, wq_first: *const c_void), scratch);
        let head = address_of(queue.0, scratch) + u64::from(offset!(wq_first));
        // 0: the load failed.
        if first == 0 { None } else { Some(first != head) }
    }

    /// Address of its `struct socket`, 0 without one; see [`address_of`].
    #[inline(always)]
    pub(crate) fn socket(self, scratch: &mut u64) -> u64 {
        address_of(field!(self, sk_socket: *const c_void), scratch)
    }

    #[inline(always)]
    pub(crate) fn has_socket(self) -> bool {
        !field!(self, sk_socket: *const c_void).is_null()
    }

    /// Inode number of the socket's file; 0 without one.
    #[inline(always)]
    pub(crate) fn inode(self) -> u64 {
        let socket = self.follow(field!(self, sk_socket: *const c_void));
        if socket.0.is_null() {
            return 0;
        }
        let file = self.follow(field!(socket, socket_file: *const c_void));
        if file.0.is_null() {
            return 0;
        }
        let inode = self.follow(field!(file, file_inode: *const c_void));
        if inode.0.is_null() {
            return 0;
        }
        field!(inode, i_ino: u64)
    }
}

impl<M: Sockets> Sock<M> {
    /// How often the SYN-ACK of a half-open request was sent again; `None` if it is no request.
    #[inline(always)]
    pub(crate) fn request_retransmits(self) -> Option<u8> {
        let request = M::as_request(self.0);
        if request.is_null() {
            return None;
        }
        Some(field!(Object(request, self.1), num_retrans: u8))
    }

    /// When the first SYN-ACK of a half-open request was sent, nanoseconds of CLOCK_MONOTONIC; 0
    /// where that is not known.
    #[inline(always)]
    pub(crate) fn request_began_ns(self) -> u64 {
        let request = M::as_request(self.0);
        if request.is_null() || !has!(snt_synack) {
            return 0;
        }
        field!(Object(request, self.1), snt_synack: u64).wrapping_mul(1_000)
    }

    /// As a socket in TIME_WAIT.
    #[inline(always)]
    pub(crate) fn time_wait(self) -> Option<TimeWaitSock<M>> {
        let tw = M::as_time_wait(self.0);
        if tw.is_null() { None } else { Some(TimeWaitSock(tw, self.1)) }
    }
}

/// `struct net`.
#[derive(Clone, Copy)]
pub(crate) struct Namespace(pub(crate) Object);

impl Namespace {
    /// Its inode number, which another one may get later.
    #[inline(always)]
    pub(crate) fn inode(self) -> u32 {
        field!(self.0, net_inum: u32)
    }

    /// Its cookie, 0 without one.
    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        if has!(net_cookie) { field!(self.0, net_cookie: u64) } else { 0 }
    }
}

/// `struct tcp_timewait_sock`.
#[derive(Clone, Copy)]
pub(crate) struct TimeWaitSock<M = Typed>(*const c_void, M);

impl<M: Memory> TimeWaitSock<M> {
    /// TIME_WAIT or FIN_WAIT2.
    #[inline(always)]
    pub(crate) fn substate(self) -> u32 {
        u32::from(field!(self, tw_substate: u8))
    }

    /// Milliseconds of CLOCK_MONOTONIC when TIME_WAIT began; `None` before 6.14.
    #[inline(always)]
    pub(crate) fn entered_ms(&self) -> Option<u32> {
        if has!(tw_entry_stamp) { Some(field!(self, tw_entry_stamp: u32)) } else { None }
    }

    /// Likewise for a socket in TIME_WAIT: see [`Object::is_pinned`].
    #[inline(always)]
    pub(crate) fn is_port_pinned(&self) -> bool {
        has!(tw_tb) && Object(field!(self, tw_tb: *const c_void), self.1.beyond()).is_pinned()
    }

    /// When the peer's timestamp was seen last, seconds of CLOCK_MONOTONIC; 0 without timestamps.
    #[inline(always)]
    pub(crate) fn timestamp_seen(self) -> u32 {
        field!(self, tw_ts_recent_stamp: u32)
    }
}

impl<M: Memory> Object<M> {
    /// Whether a bind() made this `inet_bind_bucket`; `false` for NULL. connect() makes its own with
    /// both fields -1 and passes over any other (`__inet_hash_connect`, net/ipv4/inet_hashtables.c,
    /// 5.10 to 7.3).
    #[inline(always)]
    pub(crate) fn is_pinned(self) -> bool {
        !self.0.is_null()
            && (field!(self, fastreuse: i8) >= 0 || field!(self, fastreuseport: i8) >= 0)
    }
}

/// The name of the running process's thread-group leader, which is the one that people know (a
/// thread may have a name of its own).
#[inline(always)]
pub(crate) fn current_leader_comm() -> [u8; 16] {
    if offset!(has_current_task_btf) != 0 {
        // SAFETY: no arguments; returns a typed pointer to the current task.
        let task = Object::typed(unsafe { bpf_get_current_task_btf() }.cast_const().cast());
        let leader = Object::typed(field!(task, group_leader: *const c_void));
        let words = [field!(leader, comm: u64), field!(leader, comm + 8: u64)];
        // SAFETY: both are 16 bytes without padding.
        return unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(words) };
    }
    // SAFETY: no arguments; returns the address of the current task.
    let task = unsafe { bpf_get_current_task() };
    let leader = task + u64::from(offset!(group_leader));
    // SAFETY: the helper checks the address.
    let leader = unsafe { bpf_probe_read_kernel(with_exposed_provenance::<u64>(leader as usize)) };
    leader_comm(leader.unwrap_or(0))
}

/// `comm` of the task at this address; zeros where it cannot be read.
#[inline(always)]
pub(crate) fn leader_comm(leader: u64) -> [u8; 16] {
    let comm = leader + u64::from(offset!(comm));
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_kernel(with_exposed_provenance::<[u8; 16]>(comm as usize)) } {
        Ok(name) => name,
        Err(_) => {
            log::name_unreadable();
            [0; 16]
        }
    }
}
