//! How many connections each process and service opens and closes: what its resets are measured by.
//!
//! connect(), close() and shutdown() run in the process that calls them, so each transition names
//! it: to SYN_SENT with connect(), to FIN_WAIT1 or LAST_ACK with the FIN (`tcp_close_state`,
//! net/ipv4/tcp.c). A service that is rare is dropped for another one.
//!
//! A server that closes first leaves how long the connection had been idle: since its last segment
//! in either direction, keep-alive probes and a close_notify of TLS among them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use tcpwatch_common::{IDLE_BUCKETS_MS, IdleCloses, Service, ServiceUse};

use crate::{
    log,
    maps::SERVICES,
    origins,
    sock::{Sock, current_leader_comm},
    tcp_sock::TcpSock,
};

/// Counts a connect().
#[inline(always)]
pub(crate) fn count_opened(sk: Sock) {
    count(sk, (sk.peer_port(), 1), true, None);
}

/// Counts an orderly close. `is_first` if the peer has not closed before.
#[inline(always)]
pub(crate) fn count_closed(sk: Sock, is_first: bool) {
    if let Some(tcp) = sk.tcp() {
        let service = origins::service_of(sk, tcp);
        let idle = is_first && service.1 == 0;
        count(sk, service, false, if idle { Some(tcp) } else { None });
    }
}

/// Adds the time since the last segment of `tcp` to its bucket.
///
/// # Safety
///
/// `entry` is an entry of the map.
#[inline(always)]
unsafe fn add_idle(entry: *mut ServiceUse, tcp: TcpSock) {
    // SAFETY: no arguments, no effects.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let idle_ms = (now_ns.saturating_sub(tcp.last_segment_ns()) / 1_000_000) as u32;
    let mut bucket = 0;
    while bucket < IDLE_BUCKETS_MS.len() && idle_ms > IDLE_BUCKETS_MS[bucket] {
        bucket += 1;
    }
    // SAFETY: the caller's entry, and a bucket that there is: the loop ends at the last one.
    unsafe {
        let idle = &raw mut (*entry).idle[bucket];
        atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(&raw mut (*idle).count, 1);
        // The last of two CPUs is as good as the other.
        (*idle).last_ms = idle_ms;
    }
}

#[inline(always)]
fn count(sk: Sock, (port, is_client): (u16, u8), is_opened: bool, idle: Option<TcpSock>) {
    let namespace = sk.namespace();
    let service = Service {
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        port,
        is_client: u16::from(is_client),
        reserved: 0,
    };
    let Some(entry) = entry_of(&service) else {
        log::origins_full(port);
        return;
    };
    // SAFETY: an entry of the map, whose counts are aligned and only changed like this. A share of
    // resets would be too large if connections that two CPUs count at once were lost.
    unsafe {
        let sum = if is_opened { &raw mut (*entry).opened } else { &raw mut (*entry).closed };
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(sum, 1);
        if let Some(tcp) = idle {
            add_idle(entry, tcp);
        }
    }
}

/// The entry of a service, which begins here if there is none. Two CPUs may begin the same: one
/// insertion fails then, and both find the entry of the other.
#[inline(always)]
fn entry_of(service: &Service) -> Option<*mut ServiceUse> {
    /// `BPF_NOEXIST`: an entry that is there stays.
    const NO_EXIST: u64 = 1;
    if let Some(entry) = SERVICES.get_ptr_mut(service) {
        return Some(entry);
    }
    let idle = [IdleCloses { count: 0, last_ms: 0 }; IDLE_BUCKETS_MS.len() + 1];
    let first = ServiceUse { opened: 0, closed: 0, comm: current_leader_comm(), idle };
    let _ = SERVICES.insert(service, first, NO_EXIST);
    SERVICES.get_ptr_mut(service)
}
