//! Records of a walk, decoded: listeners, sockets in CLOSE_WAIT, self-connections, sockets that
//! wait for their peer, stalled ones, holders of a port, users of scarce ports.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use tcpwatch_common::{SocketRecord, listener_flags, socket_flags as flags};

use super::{acceptors::acceptors, owners::OwnerBook};
use crate::facts::{
    CloseWaitSocket, Endpoint, Listener, Namespace, Owner, PortHolder, PortUser, Progress, Role,
    SelfConnectedSocket, StalledSocket, TcpState, Timestamp, WaitingSocket,
};

/// Described listeners in one namespace; likewise self-connections, sockets that wait for their
/// peer, and stalled ones. A real host has fewer. A process that opens more on purpose fills this and no more.
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

/// Records of a walk, with the inode numbers by which owners are found.
#[derive(Default)]
pub(super) struct Copied {
    pub(super) namespace: Namespace,
    pub(super) close_wait_inodes: Vec<u64>,
    /// Of each of these, the listener in whose queue it waits; 0 where none is known.
    close_wait_queues: Vec<u64>,
    pub(super) listener_inodes: Vec<u64>,
    pub(super) self_connected_inodes: Vec<u64>,
    pub(super) waiting_inodes: Vec<u64>,
    pub(super) stalled_inodes: Vec<u64>,
    pub(super) port_holder_inodes: Vec<u64>,
    pub(super) port_user_inodes: Vec<u64>,
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
        let local = Endpoint::from_kernel(record.tuple.local, record.tuple.local_port);
        self.listening.insert(local.port);
        if self.listener_inodes.len() >= DESCRIBED {
            self.undescribed += 1;
            return;
        }
        self.seen.insert(record.sk);
        self.listener_inodes.push(record.inode);
        self.namespace.listeners.push(Listener {
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
        });
    }

    fn take_self_connected(&mut self, record: &SocketRecord, state: TcpState) {
        if self.self_connected_inodes.len() >= DESCRIBED {
            self.undescribed += 1;
            return;
        }
        self.seen.insert(record.sk);
        self.self_connected_inodes.push(record.inode);
        self.namespace.self_connected.push(SelfConnectedSocket {
            id: record.sk,
            endpoint: Endpoint::from_kernel(record.tuple.local, record.tuple.local_port),
            state,
            owner: None,
        });
    }

    fn take_waiting(&mut self, record: &SocketRecord, state: TcpState) {
        if self.waiting_inodes.len() >= DESCRIBED {
            self.undescribed += 1;
            return;
        }
        self.seen.insert(record.sk);
        self.waiting_inodes.push(record.inode);
        let local = Endpoint::from_kernel(record.tuple.local, record.tuple.local_port);
        let peer = Endpoint::from_kernel(record.tuple.peer, record.tuple.peer_port);
        self.namespace.waiting.push(WaitingSocket {
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
        });
    }

    fn take_stalled(&mut self, record: &SocketRecord, state: TcpState) {
        if self.stalled_inodes.len() >= DESCRIBED {
            self.undescribed += 1;
            return;
        }
        self.seen.insert(record.sk);
        self.stalled_inodes.push(record.inode);
        let local = Endpoint::from_kernel(record.tuple.local, record.tuple.local_port);
        self.namespace.stalled.push(StalledSocket {
            id: record.sk,
            state,
            local,
            peer: Endpoint::from_kernel(record.tuple.peer, record.tuple.peer_port),
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
        });
    }

    fn take_port_holder(&mut self, record: &SocketRecord, state: TcpState) {
        self.seen.insert(record.sk);
        self.port_holder_inodes.push(record.inode);
        self.namespace.port_holders.push(PortHolder {
            state,
            local: Endpoint::from_kernel(record.tuple.local, record.tuple.local_port),
            peer: Endpoint::from_kernel(record.tuple.peer, record.tuple.peer_port),
            owner: None,
        });
    }

    /// A sample is bounded by the walk.
    fn take_port_user(&mut self, record: &SocketRecord, state: TcpState) {
        self.seen.insert(record.sk);
        self.port_user_inodes.push(record.inode);
        self.namespace.port_users.push(PortUser {
            state,
            local: Endpoint::from_kernel(record.tuple.local, record.tuple.local_port),
            peer: Endpoint::from_kernel(record.tuple.peer, record.tuple.peer_port),
            pinned: record.flags & flags::PINNED != 0,
            owner: None,
        });
    }

    fn role_of(&self, record: &SocketRecord, local_port: u16) -> Role {
        let accepted = record.flags & flags::ACCEPTED != 0;
        if accepted || self.listening.contains(&local_port) { Role::Server } else { Role::Client }
    }

    fn take_close_wait(&mut self, record: &SocketRecord, limits: CloseWaitLimits) {
        let local = Endpoint::from_kernel(record.tuple.local, record.tuple.local_port);
        let peer = Endpoint::from_kernel(record.tuple.peer, record.tuple.peer_port);
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
        let is_full = self.namespace.close_wait.len() >= limits.namespace;
        if is_full || *described >= limits.service {
            *self.namespace.close_wait_beyond.entry(service).or_default() += 1;
            return;
        }
        *described += 1;
        self.seen.insert(record.sk);
        self.namespace.close_wait.push(socket);
        self.close_wait_inodes.push(record.inode);
        self.close_wait_queues.push(record.queue);
    }

    pub(super) fn set_owners(&mut self, owners: &OwnerBook) {
        let owner_of = |inode| owners.get(inode).cloned();
        let namespace = &mut self.namespace;
        for (socket, &inode) in namespace.self_connected.iter_mut().zip(&self.self_connected_inodes)
        {
            socket.owner = owner_of(inode);
        }
        for (socket, &inode) in namespace.waiting.iter_mut().zip(&self.waiting_inodes) {
            socket.owner_pending = inode != 0 && !owners.was_looked_for(inode);
            socket.owner = owner_of(inode);
        }
        for (socket, &inode) in namespace.stalled.iter_mut().zip(&self.stalled_inodes) {
            socket.owner_pending = inode != 0 && !owners.was_looked_for(inode);
            socket.owner = owner_of(inode);
        }
        for (holder, &inode) in namespace.port_holders.iter_mut().zip(&self.port_holder_inodes) {
            holder.owner = owner_of(inode);
        }
        for (user, &inode) in namespace.port_users.iter_mut().zip(&self.port_user_inodes) {
            user.owner = owner_of(inode);
        }
        for (socket, &inode) in namespace.close_wait.iter_mut().zip(&self.close_wait_inodes) {
            socket.owner_pending = inode != 0 && !owners.was_looked_for(inode);
            socket.owner = owner_of(inode);
        }
        let mut serving = Serving::of(namespace);
        for (listener, &inode) in namespace.listeners.iter_mut().zip(&self.listener_inodes) {
            listener.owner = owner_of(inode);
            let serving = serving.0.entry(listener.local.port).or_default();
            listener.acceptors = acceptors(owners.candidates(inode), serving);
        }
        let listeners = Listeners::of(&namespace.listeners);
        for (socket, &queue) in namespace.close_wait.iter_mut().zip(&self.close_wait_queues) {
            if socket.unaccepted {
                // No process holds it yet; the process that should accept it is named.
                socket.owner = listeners.of_queue(queue, socket.local).and_then(acceptor_of);
            }
        }
    }
}

/// Processes that hold accepted connections, by local port.
struct Serving(HashMap<u16, HashSet<u32>>);

impl Serving {
    fn of(namespace: &Namespace) -> Self {
        let mut serving = Self(HashMap::new());
        for holder in &namespace.port_holders {
            if holder.state != TcpState::Listen {
                serving.add(holder.local.port, holder.owner.as_ref());
            }
        }
        for socket in &namespace.close_wait {
            if socket.role == Role::Server {
                serving.add(socket.local.port, socket.owner.as_ref());
            }
        }
        serving
    }

    fn add(&mut self, port: u16, owner: Option<&Owner>) {
        if let Some(owner) = owner {
            self.0.entry(port).or_default().insert(owner.process.pid);
        }
    }
}

/// The process that is to accept what waits for this listener. It has no descriptor for it yet.
fn acceptor_of(listener: &Listener) -> Option<Owner> {
    let owner = listener.owner.as_ref()?;
    let process = listener.acceptors.first().unwrap_or(&owner.process);
    Some(Owner { process: Arc::clone(process), fds: Vec::new(), holders: owner.holders })
}

/// The listeners of a namespace, by identity and by where they listen.
struct Listeners<'a> {
    by_id: HashMap<u64, &'a Listener>,
    by_place: HashMap<Endpoint, &'a Listener>,
}

impl<'a> Listeners<'a> {
    fn of(listeners: &'a [Listener]) -> Self {
        let mut by_place: HashMap<_, &Listener> = HashMap::new();
        for listener in listeners {
            // With SO_REUSEPORT several listeners share an address. Where the listener of a
            // connection is unknown, the one with the longest queue is taken.
            let place = by_place.entry(listener.local).or_insert(listener);
            let known = |it: &Listener| (it.owner.is_some(), it.accept_queue);
            if known(listener) > known(place) {
                *place = listener;
            }
        }
        Self { by_id: listeners.iter().map(|it| (it.id, it)).collect(), by_place }
    }

    /// The listener with this identity, else the one at this address.
    fn of_queue(&self, id: u64, local: Endpoint) -> Option<&'a Listener> {
        let known = if id == 0 { None } else { self.by_id.get(&id).copied() };
        known.or_else(|| self.at(local))
    }

    /// The listener at this address, else at every one, as the kernel chooses (`compute_score`,
    /// net/ipv4/inet_hashtables.c). A socket of IPv6 takes IPv4 too unless it says otherwise.
    fn at(&self, local: Endpoint) -> Option<&'a Listener> {
        let at = |address: IpAddr| self.by_place.get(&Endpoint { address, ..local }).copied();
        let any_v4 = || local.address.is_ipv4().then(|| at(Ipv4Addr::UNSPECIFIED.into())).flatten();
        at(local.address).or_else(any_v4).or_else(|| at(Ipv6Addr::UNSPECIFIED.into()))
    }
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

    fn listener(address: &str, name: &str) -> Listener {
        let local = address.parse().expect("an address with a port");
        let local: std::net::SocketAddr = local;
        let process = std::sync::Arc::new(crate::facts::Process {
            name: name.to_owned(),
            ..crate::facts::Process::default()
        });
        let owner = Some(Owner { process, fds: vec![3], holders: 1 });
        Listener { owner, ..Listener::at(Endpoint { address: local.ip(), port: local.port() }) }
    }

    #[test]
    fn an_unaccepted_socket_belongs_to_the_listener_at_its_address() {
        let all = [
            listener("127.0.0.1:80", "local"),
            listener("[::]:80", "every"),
            listener("10.0.0.1:80", "lan"),
            listener("0.0.0.0:81", "v4"),
        ];
        let listeners = Listeners::of(&all);
        let name_of = |address: &str| {
            let local: std::net::SocketAddr = address.parse().expect("an address with a port");
            let local = Endpoint { address: local.ip(), port: local.port() };
            listeners.at(local).and_then(acceptor_of).map(|owner| owner.process.name.clone())
        };
        assert_eq!(name_of("127.0.0.1:80").as_deref(), Some("local"));
        assert_eq!(name_of("10.0.0.1:80").as_deref(), Some("lan"));
        assert_eq!(name_of("10.0.0.2:80").as_deref(), Some("every"));
        assert_eq!(name_of("[2001:db8::1]:80").as_deref(), Some("every"));
        assert_eq!(name_of("10.0.0.2:81").as_deref(), Some("v4"));
        assert_eq!(name_of("[2001:db8::1]:81"), None);
        assert_eq!(name_of("127.0.0.1:82"), None);
    }

    #[test]
    fn an_unaccepted_socket_belongs_to_the_listener_in_whose_queue_it_waits() {
        let of = |id, name, accept_queue| Listener {
            id,
            accept_queue,
            ..listener("127.0.0.1:80", name)
        };
        let all = [of(1, "serving", 0), of(2, "hung", 7), of(3, "slow", 2)];
        let listeners = Listeners::of(&all);
        let local = all[0].local;
        let name_of = |id| {
            let owner = listeners.of_queue(id, local).and_then(acceptor_of);
            owner.map(|owner| owner.process.name.clone())
        };
        assert_eq!(name_of(3).as_deref(), Some("slow"));
        assert_eq!(name_of(1).as_deref(), Some("serving"));
        assert_eq!(name_of(0).as_deref(), Some("hung"), "unknown: the longest queue");
        assert_eq!(name_of(9).as_deref(), Some("hung"), "a listener that has gone");
    }

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
