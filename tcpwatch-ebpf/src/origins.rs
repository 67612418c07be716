//! Whose resets they are: tables of the busiest origins, for the agent to see a storm by.
//!
//! The exact totals are in `RESETS` and in the counters. Here an origin that is rare is dropped for
//! another one, uncounted; a storm's is not rare. Resets that no socket sends have a table of their
//! own: who scans ports fills that one, and no other storm is hidden.
//!
//! Missed: a server whose backlog is 0. Its connections look like a client's, so each is a service of
//! its own.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, maps::LruHashMap};
use tcpwatch_common::{Address, ResetKey, ResetOrigin, ResetOriginUse};

use crate::{
    log,
    maps::{RESET_ORIGINS, STRAY_RESETS},
    sock::{Namespace, Sock, TcpSock, current_leader_comm, state},
};

/// Who did it.
#[derive(Clone, Copy)]
pub(crate) struct Culprit {
    pub(crate) tgid: u32,
    pub(crate) comm: [u8; 16],
}

impl Culprit {
    /// Where the hook runs in softirq, or in whoever was interrupted by it.
    pub(crate) const UNKNOWN: Self = Self { tgid: 0, comm: [0; 16] };

    /// Where the hook runs in the system call that did it.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        Self { tgid: (bpf_get_current_pid_tgid() >> 32) as u32, comm: current_leader_comm() }
    }
}

/// The service that a full socket belongs to: its port, and whether this host is its client.
#[inline(always)]
pub(crate) fn service_of(sk: Sock, tcp: TcpSock) -> (u16, u8) {
    if sk.state() == state::LISTEN || sk.accept_limit() != 0 {
        (tcp.source_port(), 0)
    } else {
        (sk.peer_port(), 1)
    }
}

/// Counts the reset of a socket.
#[inline(always)]
pub(crate) fn count(
    namespace: Namespace,
    (port, is_client): (u16, u8),
    (seen, received): (ResetKey, u8),
    peer: Address,
    culprit: Culprit,
) {
    let origin = ResetOrigin {
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        tgid: culprit.tgid,
        seen,
        port,
        is_client,
        received,
    };
    add(&RESET_ORIGINS, &origin, peer, culprit.comm);
}

/// Counts a reset that no socket sends. `port` is 0 where that of the segment says nothing.
#[inline(always)]
pub(crate) fn count_stray(namespace: Namespace, port: u16, seen: ResetKey, peer: Address) {
    let origin = ResetOrigin {
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        tgid: 0,
        seen,
        port,
        is_client: 0,
        received: 0,
    };
    add(&STRAY_RESETS, &origin, peer, [0; 16]);
}

#[inline(always)]
fn add(
    table: &LruHashMap<ResetOrigin, ResetOriginUse>,
    origin: &ResetOrigin,
    peer: Address,
    comm: [u8; 16],
) {
    match table.get_ptr_mut(origin) {
        Some(entry) => {
            // SAFETY: an entry of the map. Of two CPUs that add at once one is lost, which a rate
            // bears; the address is an example for a person. The name may have become another one:
            // by execve(), or because the number is another process's now.
            unsafe {
                (*entry).count += 1;
                (*entry).peer = peer;
                (*entry).comm = comm;
            }
        }
        // An LRU map makes room; that it cannot is not to be expected, and costs one count.
        None => {
            if table.insert(origin, ResetOriginUse { count: 1, peer, comm }, 0).is_err() {
                log::origins_full(origin.port);
            }
        }
    }
}
