//! Whose resets they are: tables of the busiest origins, for the agent to see a storm by.
//!
//! The exact totals are in the counters and in `RESETS`. Here an origin that is rare is dropped for
//! another one, uncounted; a storm's is not rare. Resets that no socket sends have a table of their
//! own: who scans ports fills that one, and no other storm is hidden.
//!
//! Missed: a server whose backlog is 0. Its connections look like a client's, so each is a service of
//! its own.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use tcpwatch_common::{
    Address, ConnectNote, ResetKey, ResetOrigin, ResetOriginUse, TallyKey, Words, maps as names,
};

use crate::{
    branchless::is_not_zero,
    maps::{RESET_ORIGINS, STRAY_RESETS},
    sock::{Namespace, Sock, current_leader_comm, state},
    tally::Tally,
    tcp_sock::TcpSock,
};

/// The process that caused a reset. All of its fields have values: the compiler spills what is
/// undefined, and the verifier refuses it.
#[derive(Clone, Copy)]
pub(crate) struct Culprit {
    /// 0 for none.
    pub(crate) tgid: u32,
    is_caller: bool,
    comm: [u8; 16],
}

impl Culprit {
    /// Where the hook runs in softirq, or in a process that it interrupted.
    pub(crate) const UNKNOWN: Self = Self { tgid: 0, is_caller: false, comm: [0; 16] };

    /// Where the hook runs in the system call that did it.
    #[inline(always)]
    pub(crate) fn caller() -> Self {
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        Self { tgid, is_caller: true, comm: [0; 16] }
    }

    /// By a note about the socket.
    #[inline(always)]
    pub(crate) fn noted(ConnectNote { tgid, comm, .. }: ConnectNote) -> Self {
        Self { tgid, is_caller: false, comm }
    }

    /// Zeros for none. The caller's name is read when it is needed.
    #[inline(always)]
    pub(crate) fn comm(&self) -> [u8; 16] {
        if self.is_caller { current_leader_comm() } else { self.comm }
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
        let (local, remote) = (tcp.source_port(), sk.peer_port());
        let is_client = is_client(sk);
        let (port, other_port) = if_else(is_client, (remote, local));
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

/// The service that a full socket belongs to, before it is in CLOSE: its port, and whether this host is
/// its client.
#[inline(always)]
pub(crate) fn service_of(sk: Sock) -> (u16, u8) {
    let is_client = is_client(sk);
    let (port, _) = if_else(is_client, (sk.peer_port(), sk.local_port()));
    (port, is_client)
}

/// 1 for a client's socket: it does not listen, and no listener's limit was copied to it.
#[inline(always)]
fn is_client(sk: Sock) -> u8 {
    let does_not_listen = is_not_zero(u64::from(sk.state() ^ state::LISTEN));
    (does_not_listen & (1 - is_not_zero(sk.accept_limit().into()))) as u8
}

/// The two as they are where `is_first` is 1, and the other way round where it is 0; without a branch,
/// whose ways the verifier would follow in all that is called later.
#[inline(always)]
fn if_else(is_first: u8, (first, second): (u16, u16)) -> (u16, u16) {
    let changed = (first ^ second) & u16::from(is_first).wrapping_sub(1);
    (first ^ changed, second ^ changed)
}

/// Counts the reset of a socket.
#[inline(always)]
pub(crate) fn count(
    namespace: Namespace,
    ends: &Ends,
    (seen, received): (ResetKey, u8),
    culprit: &Culprit,
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
    add_to_origins(&origin.words(), ends, culprit);
}

/// Counts a reset that no socket sends.
#[inline(always)]
pub(crate) fn count_stray(namespace: Namespace, ends: &Ends, seen: ResetKey) {
    let origin = ResetOrigin {
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        tgid: 0,
        seen,
        port: ends.port,
        is_client: ends.is_client,
        received: 0,
    };
    let table = Tally { table: &STRAY_RESETS, sets: names::STRAY_RESETS_SETS };
    add(&table, origin.words(), ends, &Culprit::UNKNOWN);
}

/// A function of its own, so that a hook has one copy.
#[inline(never)]
fn add_to_origins(origin: &Words, ends: &Ends, culprit: &Culprit) {
    let table = Tally { table: &RESET_ORIGINS, sets: names::RESET_ORIGINS_SETS };
    add(&table, *origin, ends, culprit);
}

/// Of two CPUs that add at once one is lost, which a rate bears; the address is an example for a person.
#[inline(always)]
fn add(table: &Tally<ResetOriginUse>, origin: Words, ends: &Ends, culprit: &Culprit) {
    /// Resets after which the name is read again: it may be another one by execve(), or because the
    /// number is another process's now.
    const NAME_AGAIN: u64 = 16;
    let Some((used, _)) = table.entry(origin) else { return };
    if used.count % NAME_AGAIN == 0 && culprit.tgid != 0 {
        used.comm = culprit.comm();
    }
    used.count += 1;
    used.peer = ends.peer;
    let [a, b, c, d] = ends.peer.words;
    used.peers |= bit_of(a ^ b ^ c ^ d);
    used.other_ports |= bit_of(u32::from(ends.other_port));
    used.other_port = ends.other_port;
}

/// One of 64 bits, by the upper bits of a product with 2^32 divided by the golden ratio (Knuth).
#[inline(always)]
fn bit_of(word: u32) -> u64 {
    1 << (word.wrapping_mul(0x9e37_79b9) >> 26)
}
