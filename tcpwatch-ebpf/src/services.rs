//! How many connections each process and service opens and closes: what its resets are measured by.
//!
//! connect(), close() and shutdown() run in the process that calls them, so each transition names
//! it: to SYN_SENT with connect(), to FIN_WAIT1 or LAST_ACK with the FIN (`tcp_close_state`,
//! net/ipv4/tcp.c). A service that is rare is dropped for another one.
//!
//! A server that closes first leaves how long the connection had been idle: since its last segment
//! in either direction, keep-alive probes and a close_notify of TLS among them.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use tcpwatch_common::{IDLE_BUCKETS_MS, IdleCloses, Service, ServiceUse};

use crate::{
    log,
    maps::SERVICES,
    origins,
    sock::{Sock, TcpSock, current_leader_comm},
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
#[inline(always)]
fn add_idle(idle: &mut [IdleCloses; IDLE_BUCKETS_MS.len() + 1], tcp: TcpSock) {
    // SAFETY: no arguments, no effects.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let idle_ms = (now_ns.saturating_sub(tcp.last_segment_ns()) / 1_000_000) as u32;
    let mut bucket = 0;
    while bucket < IDLE_BUCKETS_MS.len() && idle_ms > IDLE_BUCKETS_MS[bucket] {
        bucket += 1;
    }
    idle[bucket].count = idle[bucket].count.wrapping_add(1);
    idle[bucket].last_ms = idle_ms;
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
    let (opened, closed) = (u64::from(is_opened), u64::from(!is_opened));
    match SERVICES.get_ptr_mut(&service) {
        // SAFETY: an entry of the map. Of two CPUs that add at once one is lost, which a share bears.
        Some(entry) => unsafe {
            (*entry).opened += opened;
            (*entry).closed += closed;
            if let Some(tcp) = idle {
                add_idle(&mut (*entry).idle, tcp);
            }
        },
        None => {
            // The first one's time is left out: one close of a service decides nothing.
            let idle = [IdleCloses { count: 0, last_ms: 0 }; IDLE_BUCKETS_MS.len() + 1];
            let first = ServiceUse { opened, closed, comm: current_leader_comm(), idle };
            if SERVICES.insert(&service, first, 0).is_err() {
                log::origins_full(port);
            }
        }
    }
}
