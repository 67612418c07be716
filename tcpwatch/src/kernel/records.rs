//! Records of a walk, decoded: listeners, sockets in CLOSE_WAIT, self-connections, sockets that
//! wait for their peer, stalled ones, holders of a port, users of scarce ports.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tcpwatch_common::{SocketRecord, listener_flags, socket_flags as flags};

use super::{
    acceptors::acceptors,
    endpoint,
    owners::OwnerBook,
    serving::{Listeners, Serving, acceptor_of},
};
use crate::facts::{
    CloseWaitSocket, Listener, Namespace, PortHolder, PortUser, Progress, Role,
    SelfConnectedSocket, StalledSocket, TcpState, Timestamp, WaitingSocket,
};

/// Described listeners in one namespace; likewise self-connections, sockets that wait for their
/// peer, and stalled ones. A real host has fewer. A process that opens more on purpose fills this
/// and no more.
const DESCRIBED: usize = 16_384;
/// One service (role and port) gets at most so large a part of the descriptions of CLOSE_WAIT, so
/// that the largest leak does not hide another.
const SERVICE_PART: usize = 4;

/// How many sockets in CLOSE_WAIT may be described.
#[derive(Clone, Copy, Debug)]
pub(super) struct CloseWaitLimits {
    /// In this namespace: the number that earlier namespaces have left.
    namespace: usize,
    /// Of one service, which does not hang on other namespaces.
    service: usize,
}

impl CloseWaitLimits {
    /// `all` in every namespace together, of which `left` are left.
    pub(super) fn of(all: usize, left: usize) -> Self {
        Self { namespace: left, service: all.div_ceil(SERVICE_PART) }
    }
}

/// A socket as it is described, with the inode number by which its owner is found.
#[derive(Debug)]
pub(super) struct Seen<T> {
    pub(super) fact: T,
    /// 0 where no process holds it.
    pub(super) inode: u64,
    /// The listener in whose accept queue it waits; 0 where none is known.
    queue: u64,
}

/// Records of a walk.
#[derive(Default)]
pub(super) struct Copied {
    /// The namespace without these sockets.
    pub(super) namespace: Namespace,
    pub(super) close_wait: Vec<Seen<CloseWaitSocket>>,
    pub(super) listeners: Vec<Seen<Listener>>,
    pub(super) self_connected: Vec<Seen<SelfConnectedSocket>>,
    pub(super) waiting: Vec<Seen<WaitingSocket>>,
    pub(super) stalled: Vec<Seen<StalledSocket>>,
    pub(super) port_holders: Vec<Seen<PortHolder>>,
    pub(super) port_users: Vec<Seen<PortUser>>,
    /// Listeners, self-connections and sockets that wait for their peer beyond [`DESCRIBED`].
    pub(super) undescribed: u64,
    /// Kernel addresses of what is described: a socket that moves while the table is walked may
    /// come twice.
    seen: HashSet<u64>,
    listening: HashSet<u16>,
    described_of: HashMap<(Role, u16), usize>,
}

impl Copied {
    /// Nothing copied up yet; `namespace` holds what was read of its settings.
    pub(super) fn of(namespace: Namespace) -> Self {
        Self { namespace, ..Self::default() }
    }

    /// Takes one record, in the order of the walk: listeners come first, so their ports are known
    /// before the role of any other socket is needed. At most `close_wait_limit` sockets in
    /// CLOSE_WAIT are described, the others are counted.
    pub(super) fn take(
        &mut self,
        record: &SocketRecord,
        close_wait: CloseWaitLimits,
        requested_ports: &[u16],
    ) {
        let Some(state) = TcpState::from_kernel(record.state) else { return };
        if self.seen.contains(&record.sk) {
            return;
        }
        if requested_ports.contains(&record.tuple.local_port) {
            self.take_port_holder(record, state);
        }
        if record.flags & flags::PORT_USER != 0 {
            self.take_port_user(record, state);
        }
        // It was copied only for its port.
        if record.flags & flags::MINISOCKET != 0 {
            return;
        }
        if record.stalled != 0 {
            self.take_stalled(record, state);
        }
        if is_waiting(state) && record.since_ns != 0 {
            self.take_waiting(record, state);
        }
        if state == TcpState::Listen {
            self.take_listener(record);
            return;
        }
        if record.tuple.is_self() {
            self.take_self_connected(record, state);
        }
        if state == TcpState::CloseWait && record.flags & flags::ORPHAN == 0 {
            self.take_close_wait(record, close_wait);
        }
    }

    fn take_listener(&mut self, record: &SocketRecord) {
        let local = endpoint(record.tuple.local, record.tuple.local_port);
        self.listening.insert(local.port);
        if self.listeners.len() >= DESCRIBED {
            self.undescribed += 1;
            return;
        }
        self.seen.insert(record.sk);
        let fact = Listener {
            id: record.sk,
            port_picked: one_of(
                record.listener,
                listener_flags::PORT_PICKED,
                listener_flags::PORT_NAMED,
            ),
            first_waiting: (record.queue != 0).then_some(record.queue),
            awaited: one_of(record.listener, listener_flags::AWAITED, listener_flags::NOT_AWAITED),
            accept_queue: record.accept_queue,
            accept_limit: record.accept_limit,
            half_open: record.half_open,
            drops: record.drops,
            ..Listener::at(local)
        };
        self.listeners.push(Seen::of(record, fact));
    }

    fn take_self_connected(&mut self, record: &SocketRecord, state: TcpState) {
        if self.self_connected.len() >= DESCRIBED {
            self.undescribed += 1;
            return;
        }
        self.seen.insert(record.sk);
        let fact = SelfConnectedSocket {
            id: record.sk,
            endpoint: endpoint(record.tuple.local, record.tuple.local_port),
            state,
            owner: None,
        };
        self.self_connected.push(Seen::of(record, fact));
    }

    fn take_waiting(&mut self, record: &SocketRecord, state: TcpState) {
        if self.waiting.len() >= DESCRIBED {
            self.undescribed += 1;
            return;
        }
        self.seen.insert(record.sk);
        let local = endpoint(record.tuple.local, record.tuple.local_port);
        let peer = endpoint(record.tuple.peer, record.tuple.peer_port);
        let fact = WaitingSocket {
            id: record.sk,
            state,
            local,
            peer,
            role: self.role_of(record, local.port),
            since: Timestamp::from_ns(record.since_ns),
            orphan: record.flags & flags::ORPHAN != 0,
            progress: progress_of(record),
            owner: None,
            owner_pending: false,
        };
        self.waiting.push(Seen::of(record, fact));
    }

    fn take_stalled(&mut self, record: &SocketRecord, state: TcpState) {
        if self.stalled.len() >= DESCRIBED {
            self.undescribed += 1;
            return;
        }
        self.seen.insert(record.sk);
        let local = endpoint(record.tuple.local, record.tuple.local_port);
        let fact = StalledSocket {
            id: record.sk,
            state,
            local,
            peer: endpoint(record.tuple.peer, record.tuple.peer_port),
            role: self.role_of(record, local.port),
            orphan: record.flags & flags::ORPHAN != 0,
            unacked_bytes: record.unacked,
            segment_sent: (record.segments_out != u32::MAX).then_some(record.segments_out != 0),
            peer_window_bytes: record.peer_window,
            retransmits: record.retransmits,
            backoff: record.backoff,
            probes: record.probes,
            user_timeout: (record.user_timeout_ms != 0)
                .then(|| Duration::from_millis(record.user_timeout_ms.into())),
            delivered: progress_of(record).map(|progress| progress.delivered),
            last_segment: Timestamp::from_ns(record.last_segment_ns),
            owner: None,
            owner_pending: false,
        };
        self.stalled.push(Seen::of(record, fact));
    }

    fn take_port_holder(&mut self, record: &SocketRecord, state: TcpState) {
        self.seen.insert(record.sk);
        let fact = PortHolder {
            state,
            local: endpoint(record.tuple.local, record.tuple.local_port),
            peer: endpoint(record.tuple.peer, record.tuple.peer_port),
            owner: None,
        };
        self.port_holders.push(Seen::of(record, fact));
    }

    /// A sample is bounded by the walk.
    fn take_port_user(&mut self, record: &SocketRecord, state: TcpState) {
        self.seen.insert(record.sk);
        let fact = PortUser {
            state,
            local: endpoint(record.tuple.local, record.tuple.local_port),
            peer: endpoint(record.tuple.peer, record.tuple.peer_port),
            pinned: record.flags & flags::PINNED != 0,
            owner: None,
        };
        self.port_users.push(Seen::of(record, fact));
    }

    fn role_of(&self, record: &SocketRecord, local_port: u16) -> Role {
        let accepted = record.flags & flags::ACCEPTED != 0;
        if accepted || self.listening.contains(&local_port) { Role::Server } else { Role::Client }
    }

    fn take_close_wait(&mut self, record: &SocketRecord, limits: CloseWaitLimits) {
        let local = endpoint(record.tuple.local, record.tuple.local_port);
        let peer = endpoint(record.tuple.peer, record.tuple.peer_port);
        let socket = CloseWaitSocket {
            id: record.sk,
            local,
            peer,
            role: self.role_of(record, local.port),
            since: Timestamp::from_ns(record.since_ns),
            since_exact: record.flags & flags::SINCE_EXACT != 0,
            recv_queue: record.recv_queue,
            progress: progress_of(record),
            unaccepted: record.flags & flags::UNACCEPTED != 0,
            owner: None,
            owner_pending: false,
            stack: None,
        };
        let service = (socket.role, socket.service_port());
        let described = self.described_of.entry(service).or_default();
        let is_full = self.close_wait.len() >= limits.namespace;
        if is_full || *described >= limits.service {
            *self.namespace.close_wait_beyond.entry(service).or_default() += 1;
            return;
        }
        *described += 1;
        self.seen.insert(record.sk);
        self.close_wait.push(Seen::of(record, socket));
    }

    /// Gives each socket its owner, where one is known.
    pub(super) fn set_owners(&mut self, owners: &OwnerBook) {
        let owner_of = |inode| owners.get(inode).cloned();
        let is_pending = |inode: u64| inode != 0 && !owners.was_looked_for(inode);
        for Seen { fact, inode, .. } in &mut self.self_connected {
            fact.owner = owner_of(*inode);
        }
        for Seen { fact, inode, .. } in &mut self.waiting {
            fact.owner_pending = is_pending(*inode);
            fact.owner = owner_of(*inode);
        }
        for Seen { fact, inode, .. } in &mut self.stalled {
            fact.owner_pending = is_pending(*inode);
            fact.owner = owner_of(*inode);
        }
        for Seen { fact, inode, .. } in &mut self.port_holders {
            fact.owner = owner_of(*inode);
        }
        for Seen { fact, inode, .. } in &mut self.port_users {
            fact.owner = owner_of(*inode);
        }
        for Seen { fact, inode, .. } in &mut self.close_wait {
            fact.owner_pending = is_pending(*inode);
            fact.owner = owner_of(*inode);
        }
        let holders = self.port_holders.iter().map(|it| &it.fact);
        let mut serving = Serving::of(holders, self.close_wait.iter().map(|it| &it.fact));
        for Seen { fact, inode, .. } in &mut self.listeners {
            fact.owner = owner_of(*inode);
            fact.acceptors = acceptors(owners.candidates(*inode), serving.at(fact.local.port));
        }
        let listeners = Listeners::of(self.listeners.iter().map(|it| &it.fact));
        for Seen { fact, queue, .. } in &mut self.close_wait {
            if fact.unaccepted {
                // No process holds it yet; the process that should accept it is named.
                fact.owner = listeners.of_queue(*queue, fact.local).and_then(acceptor_of);
            }
        }
    }

    /// The namespace with all that was described.
    pub(super) fn into_namespace(self) -> Namespace {
        Namespace {
            close_wait: facts(self.close_wait),
            listeners: facts(self.listeners),
            self_connected: facts(self.self_connected),
            waiting: facts(self.waiting),
            stalled: facts(self.stalled),
            port_holders: facts(self.port_holders),
            port_users: facts(self.port_users),
            ..self.namespace
        }
    }
}

impl<T> Seen<T> {
    fn of(record: &SocketRecord, fact: T) -> Self {
        Self { fact, inode: record.inode, queue: record.queue }
    }
}

fn facts<T>(seen: Vec<Seen<T>>) -> Vec<T> {
    seen.into_iter().map(|it| it.fact).collect()
}

/// Bytes that the socket has carried, where the kernel shows them.
fn progress_of(record: &SocketRecord) -> Option<Progress> {
    (record.flags & flags::PROGRESS != 0).then(|| Progress {
        acked_bytes: record.bytes_acked,
        sent_bytes: record.bytes_sent,
        received_bytes: record.bytes_received,
        unacked_bytes: record.unacked,
        delivered: Timestamp::from_ns(record.delivered_ns),
    })
}

/// Whether the first of a pair of bits is set, or the second; `None` for neither.
const fn one_of(bits: u8, yes: u8, no: u8) -> Option<bool> {
    match (bits & yes != 0, bits & no != 0) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

/// Whether a socket in this state waits for its peer, or for a timer.
const fn is_waiting(state: TcpState) -> bool {
    matches!(state, TcpState::SynSent | TcpState::FinWait2 | TcpState::LastAck | TcpState::Closing)
}

/// How many distinct things set these bits, each one of them by its hash: linear counting (Whang,
/// Vander-Zanden and Taylor 1990). When all are set it is the highest possible estimate.
pub(super) fn estimate_distinct(words: &[u64]) -> u32 {
    let bits = words.len() as f64 * 64.0;
    let unset = bits - words.iter().map(|word| f64::from(word.count_ones())).sum::<f64>();
    // A float of this size converts exactly; without an unset bit one is assumed.
    (-bits * (unset.max(1.0) / bits).ln()).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_sources_are_estimated_within_a_tenth() {
        for sources in [1_u64, 10, 120, 300, 1_000, 3_000] {
            let mut words = [0_u64; 16];
            for source in 0..sources {
                // Any good hash will do: splitmix64's finaliser.
                let mut hash = (source + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                hash = (hash ^ (hash >> 27)) >> 54;
                words[(hash >> 6) as usize] |= 1 << (hash & 63);
            }
            let estimate = f64::from(estimate_distinct(&words));
            let error = (estimate - sources as f64).abs();
            assert!(error <= 1.0 + sources as f64 / 10.0, "{estimate} for {sources}");
        }
        assert!(estimate_distinct(&[u64::MAX; 16]) > 5_000);
    }
}
