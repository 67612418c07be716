//! How many connections each process and service opens and closes: what its resets are measured by.
//!
//! connect(), close() and shutdown() run in the process that calls them, so each transition names
//! it: to SYN_SENT with connect(), to FIN_WAIT1 or LAST_ACK with the FIN (`tcp_close_state`,
//! net/ipv4/tcp.c). A service that is rare is dropped for another one.
//!
//! A server that closes first leaves how long the connection had been idle: since its last segment
//! in either direction, keep-alive probes and a close_notify of TLS among them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use tcpwatch_common::{Counters, IDLE_BUCKETS_MS, Service, ServiceUse, TallyKey, maps as names};

use crate::{
    clock,
    maps::SERVICES,
    origins,
    sock::{Sock, current_leader_comm},
    tally::Tally,
};

/// Counts a connect() of this process.
#[inline(always)]
pub(crate) fn count_opened(sk: Sock, tgid: u32) {
    if let Some(used) = entry(sk, sk.peer_port(), 1, tgid) {
        add(&raw mut used.opened);
    }
}

/// Counts an orderly close. `is_first` if the peer has not closed before.
#[inline(always)]
pub(crate) fn count_closed(sk: Sock, is_first: bool, counters: &mut Counters) {
    let (port, is_client) = origins::service_of(sk);
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(used) = entry(sk, port, is_client, tgid) else { return };
    add(&raw mut used.closed);
    if is_first
        && is_client == 0
        && let Some(tcp) = sk.tcp()
    {
        add_idle(used, clock::about_now_ns(counters).saturating_sub(tcp.last_segment_ns()));
    }
}

/// Adds the time since the last segment to its bucket.
#[inline(always)]
fn add_idle(used: &mut ServiceUse, idle_ns: u64) {
    let idle_ms = (idle_ns / 1_000_000) as u32;
    let mut bucket = 0;
    while bucket < IDLE_BUCKETS_MS.len() && idle_ms > IDLE_BUCKETS_MS[bucket] {
        bucket += 1;
    }
    let idle = &mut used.idle[bucket];
    // SAFETY: a count of the table, which is aligned.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(&raw mut idle.count, 1) };
    // The last of two CPUs is as good as the other.
    idle.last_ms = idle_ms;
}

/// A share of resets would be too large if connections that two CPUs count at once were lost.
#[inline(always)]
fn add(sum: *mut u64) {
    // SAFETY: a count of the table, which is aligned and only changed like this.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(sum, 1) };
}

/// A function of its own: connect() and close() share its code in the cache.
#[inline(never)]
fn entry(sk: Sock, port: u16, is_client: u8, tgid: u32) -> Option<&'static mut ServiceUse> {
    const TABLE: Tally<ServiceUse> = Tally { table: &SERVICES, sets: names::SERVICES_SETS };
    let namespace = sk.namespace();
    let service = Service {
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        tgid,
        port,
        is_client: u16::from(is_client),
    };
    let (used, is_new) = TABLE.entry(service.words())?;
    if is_new {
        used.comm = current_leader_comm();
    }
    Some(used)
}
