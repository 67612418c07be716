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
    sock::{Namespace, Sock, current_leader_comm, state},
    tcp_sock::TcpSock,
};

/// The process that caused a reset.
#[derive(Clone, Copy)]
pub(crate) struct Culprit {
    pub(crate) tgid: u32,
    pub(crate) comm: [u8; 16],
}

impl Culprit {
    /// Where the hook runs in softirq, or in a process that it interrupted.
    pub(crate) const UNKNOWN: Self = Self { tgid: 0, comm: [0; 16] };

    /// Where the hook runs in the system call that did it.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        Self { tgid: (bpf_get_current_pid_tgid() >> 32) as u32, comm: current_leader_comm() }
    }
}

/// The connection that a reset ends or refuses, as far as its service is known.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// The service's port.
    pub(crate) port: u16,
    pub(crate) is_client: u8,
    pub(crate) other_port: u16,
    pub(crate) peer: Address,
}

impl Ends {
    /// The ends of a full socket.
    #[inline(always)]
    pub(crate) fn of(sk: Sock, tcp: TcpSock) -> Self {
        let (port, is_client) = service_of(sk, tcp);
        let other_port = if is_client == 1 { tcp.source_port() } else { sk.peer_port() };
        Self { port, is_client, other_port, peer: sk.addresses().1 }
    }

    /// The ends of a socket in TIME_WAIT. A server's port has been bound, a client's as a rule not.
    #[inline(always)]
    pub(crate) fn of_time_wait(sk: Sock) -> Option<Self> {
        let is_server = sk.time_wait()?.is_port_pinned();
        let (local, remote, peer) = (sk.local_port(), sk.peer_port(), sk.addresses().1);
        Some(if is_server {
            Self { port: local, is_client: 0, other_port: remote, peer }
        } else {
            Self { port: remote, is_client: 1, other_port: local, peer }
        })
    }

    /// The ends of a segment for which there is no socket. A SYN names the service's port as its
    /// destination. Of any other segment the lower port is taken for the service's, because clients
    /// get theirs from the upper half.
    #[inline(always)]
    pub(crate) fn of_stray(local: u16, remote: u16, is_syn: bool, peer: Address) -> Self {
        if is_syn || local <= remote {
            Self { port: local, is_client: 0, other_port: remote, peer }
        } else {
            Self { port: remote, is_client: 1, other_port: local, peer }
        }
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
    ends: Ends,
    (seen, received): (ResetKey, u8),
    culprit: Culprit,
) {
    let origin = ResetOrigin {
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        tgid: culprit.tgid,
        seen,
        port: ends.port,
        is_client: ends.is_client,
        received,
    };
    add(&RESET_ORIGINS, &origin, ends, culprit.comm);
}

/// Counts a reset that no socket sends.
#[inline(always)]
pub(crate) fn count_stray(namespace: Namespace, ends: Ends, seen: ResetKey) {
    let origin = ResetOrigin {
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        tgid: 0,
        seen,
        port: ends.port,
        is_client: ends.is_client,
        received: 0,
    };
    add(&STRAY_RESETS, &origin, ends, [0; 16]);
}

#[inline(always)]
fn add(
    table: &LruHashMap<ResetOrigin, ResetOriginUse>,
    origin: &ResetOrigin,
    ends: Ends,
    comm: [u8; 16],
) {
    let [a, b, c, d] = ends.peer.words;
    let peers = bit_of(a ^ b ^ c ^ d);
    let other_ports = bit_of(u32::from(ends.other_port));
    match table.get_ptr_mut(origin) {
        Some(entry) => {
            // SAFETY: an entry of the map. Of two CPUs that add at once one is lost, which a rate
            // bears; the address is an example for a person. The name may have become another one:
            // by execve(), or because the number is another process's now.
            unsafe {
                (*entry).count += 1;
                (*entry).peer = ends.peer;
                (*entry).comm = comm;
                (*entry).peers |= peers;
                (*entry).other_ports |= other_ports;
                (*entry).other_port = ends.other_port;
            }
        }
        // An LRU map makes place; that it cannot is not to be expected, and costs one count.
        None => {
            let first = ResetOriginUse {
                count: 1,
                peer: ends.peer,
                comm,
                peers,
                other_ports,
                other_port: ends.other_port,
                reserved: [0; 3],
            };
            if table.insert(origin, first, 0).is_err() {
                log::origins_full(origin.port);
            }
        }
    }
}

/// One of 64 bits, by the upper bits of a product with 2^32 divided by the golden ratio (Knuth).
#[inline(always)]
fn bit_of(word: u32) -> u64 {
    1 << (word.wrapping_mul(0x9e37_79b9) >> 26)
}
