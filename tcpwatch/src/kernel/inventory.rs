//! The walker: an inventory of every network namespace.
//!
//! It enters one namespace after the other on the thread that runs it, walks its socket tables in
//! the kernel, and comes back to its own. It blocks, so it never runs on the async thread.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    time::Instant,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, MapData, MapError},
    programs::{Iter, ProgramError, links::LinkError},
};
use tcpwatch_common::{
    BUSY_DESTINATIONS, Destination, DestinationUse as WireUse, SocketRecord, Walk, maps, programs,
    socket_flags as flags,
};

use super::{
    Scope,
    clock::now,
    namespaces::{self, NamespaceHandle},
    owners::OwnerBook,
    settings::{self, Settings},
};
use crate::facts::{
    CloseWaitSocket, DestinationUse, Endpoint, Inventory, Listener, Namespace, Owner, PortUse,
    Role, SelfConnectedSocket, StateCounts, TableUse, TcpState, TimeWaitUse, Timestamp, TwReuse,
};

/// Why an inventory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// A namespace could not be entered.
    #[error("cannot enter the agent's own network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// The walk's program.
    #[error("cannot attach the walk: {0}")]
    Attach(#[from] ProgramError),
    /// Its link.
    #[error("cannot open the walk: {0}")]
    Open(#[from] LinkError),
    /// Its map.
    #[error("cannot exchange the walk's parameters: {0}")]
    Map(#[from] MapError),
    /// Reading it.
    #[error("cannot read the walk: {0}")]
    Read(#[source] io::Error),
}

/// When the owner of a socket in CLOSE_WAIT is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerPolicy {
    /// When a second inventory sees it: what comes and goes costs nothing.
    OfThoseThatStay,
    /// At once: there will be no second inventory.
    AtOnce,
}

/// Takes inventories.
pub struct Walker {
    ebpf: Ebpf,
    walk: Array<MapData, Walk>,
    destinations: BpfHashMap<MapData, Destination, WireUse>,
    owners: Option<OwnerBook>,
    scope: Scope,
    close_wait_limit: usize,
    generation: u32,
    scratch: Box<Walk>,
    /// Inodes of sockets that the last inventory saw in CLOSE_WAIT.
    last_close_wait: HashSet<u64>,
    destinations_seen: u64,
}

/// What a walk copied up, with the inode numbers that owners are found by.
#[derive(Default)]
struct Copied {
    namespace: Namespace,
    close_wait_inodes: Vec<u64>,
    listener_inodes: Vec<u64>,
    self_connected_inodes: Vec<u64>,
}

impl Walker {
    pub(super) fn new(
        ebpf: Ebpf,
        walk: Array<MapData, Walk>,
        destinations: BpfHashMap<MapData, Destination, WireUse>,
        wanted: Option<BpfHashMap<MapData, u64, u8>>,
        scope: Scope,
        close_wait_limit: usize,
    ) -> Self {
        Self {
            ebpf,
            walk,
            destinations,
            owners: wanted.map(OwnerBook::new),
            scope,
            close_wait_limit,
            generation: 0,
            scratch: Box::new(Walk::ZERO),
            last_close_wait: HashSet::new(),
            destinations_seen: 0,
        }
    }

    /// Takes what a reload changes.
    pub fn reconfigure(&mut self, scope: Scope, close_wait_limit: usize) {
        self.scope = scope;
        self.close_wait_limit = close_wait_limit;
    }

    /// Walks every namespace and names the owners of the sockets that matter. Blocks for some
    /// milliseconds for each 10,000 sockets. The calling thread's network namespace changes while
    /// it runs; at the end it is the agent's own again.
    pub fn inventory(&mut self, policy: OwnerPolicy) -> Result<Inventory, InventoryError> {
        let started = now();
        let began = Instant::now();
        self.destinations_seen = 0;
        let host = NamespaceHandle::host().map_err(InventoryError::Namespace)?;
        let mut copied = vec![self.walk_namespace(&host)?];
        let (others, mut unseen_namespaces) = namespaces::list(&host, self.scope);
        for namespace in &others {
            let walked = namespace.enter().map_err(InventoryError::Namespace);
            match walked.and_then(|()| self.walk_namespace(namespace)) {
                Ok(namespace) => copied.push(namespace),
                Err(error) => {
                    tracing::debug!(netns = %namespace.name, %error, "namespace left out");
                    unseen_namespaces += 1;
                }
            }
        }
        if !others.is_empty() {
            host.enter().map_err(InventoryError::Namespace)?;
        }
        let walked = began.elapsed();
        self.name_owners(&mut copied, policy)?;
        let namespaces = copied.into_iter().map(|copied| copied.namespace).collect();
        Ok(Inventory { started, finished: now(), walked, namespaces, unseen_namespaces })
    }

    /// How full the tables of the last walk were.
    #[must_use]
    pub fn table_use(&self) -> Vec<TableUse> {
        vec![TableUse {
            table: "destinations",
            entries: self.destinations_seen,
            limit: u64::from(maps::DESTINATIONS_LIMIT),
        }]
    }

    /// Walks the namespace that the calling thread is in.
    fn walk_namespace(&mut self, handle: &NamespaceHandle) -> Result<Copied, InventoryError> {
        let settings = Settings::read();
        let available = settings.available_ports();
        let mut copied = Copied {
            namespace: Namespace {
                id: namespaces::cookie().unwrap_or(u64::from(handle.inode)),
                name: handle.name.clone(),
                time_wait: TimeWaitUse { used: 0, limit: settings.time_wait_limit },
                ports: PortUse {
                    range: settings.port_range,
                    available,
                    tw_reuse: settings.tw_reuse,
                    timestamps: settings.timestamps,
                    ..PortUse::default()
                },
                netstat: settings::read_netstat(),
                ..Namespace::default()
            },
            ..Copied::default()
        };
        if !settings::has_tcp_sockets() {
            return Ok(copied);
        }
        self.prepare(&settings, available)?;
        let records = self.run()?;
        copied.take_records(&records, self.close_wait_limit);
        *self.scratch = self.walk.get(&0, 0)?;
        self.destinations_seen = self.destinations_seen.max(self.scratch.destinations);
        self.take_aggregates(&mut copied.namespace);
        Ok(copied)
    }

    fn prepare(&mut self, settings: &Settings, available: u32) -> Result<(), InventoryError> {
        self.generation = self.generation.wrapping_add(1).max(1);
        let walk = &mut *self.scratch;
        *walk = Walk::ZERO;
        walk.generation = self.generation;
        (walk.port_low, walk.port_high) = settings.port_range;
        walk.tw_reuse = match settings.tw_reuse {
            TwReuse::Never => 0,
            TwReuse::Always => 1,
            TwReuse::Loopback => 2,
        };
        // Half: far below any threshold that means something, and few enough to copy.
        walk.busy_at = available.div_ceil(2).max(1);
        walk.reserved_ports = *settings.reserved_ports;
        self.walk.set(0, *walk, 0)?;
        Ok(())
    }

    /// Runs the walk to its end and returns what it copied up.
    fn run(&mut self) -> Result<Vec<SocketRecord>, InventoryError> {
        let program: &mut Iter = self
            .ebpf
            .program_mut(programs::INVENTORY)
            .expect("the walker exists only where the program was loaded")
            .try_into()?;
        // Opening it binds it to the calling thread's namespace, so each walk opens its own.
        let link = program.attach()?;
        let mut file: File = program.take_link(link)?.into_file()?;
        let mut records = Vec::new();
        read_records(&mut file, |record: &SocketRecord| records.push(*record))?;
        Ok(records)
    }

    fn take_aggregates(&self, namespace: &mut Namespace) {
        let walk = &*self.scratch;
        let mut sockets = StateCounts::default();
        for state in TcpState::ALL {
            sockets.set(state, walk.states[state as usize]);
        }
        namespace.sockets = sockets;
        namespace.time_wait.used = walk.time_wait_buckets;
        let ports = &mut namespace.ports;
        ports.pinned = u32::try_from(walk.pinned_ports).unwrap_or(u32::MAX);
        let described = |destination: &Destination, used: u32| DestinationUse {
            local: Endpoint::from_kernel(destination.local, 0),
            peer: Endpoint::from_kernel(destination.peer, destination.peer_port),
            used: used.saturating_add(ports.pinned).min(ports.available),
        };
        let worst = (walk.worst_used > 0).then(|| described(&walk.worst, walk.worst_used));
        let busy_count = (walk.busy_count as usize).min(BUSY_DESTINATIONS);
        let mut busy = Vec::with_capacity(busy_count);
        for destination in &walk.busy[..busy_count] {
            // One that was evicted since was not that busy after all.
            if let Ok(entry) = self.destinations.get(destination, 0)
                && entry.generation == walk.generation
            {
                busy.push(described(destination, entry.used));
            }
        }
        ports.worst = worst;
        ports.busy = busy;
    }

    fn name_owners(
        &mut self,
        copied: &mut [Copied],
        policy: OwnerPolicy,
    ) -> Result<(), InventoryError> {
        let mut wanted = HashSet::new();
        let mut close_wait = HashSet::new();
        for namespace in &*copied {
            close_wait.extend(namespace.close_wait_inodes.iter().copied());
            wanted.extend(namespace.listener_inodes.iter().copied());
            wanted.extend(namespace.self_connected_inodes.iter().copied());
        }
        wanted.extend(
            close_wait.iter().copied().filter(|inode| {
                policy == OwnerPolicy::AtOnce || self.last_close_wait.contains(inode)
            }),
        );
        wanted.remove(&0);
        self.last_close_wait = close_wait;
        let Some(owners) = &mut self.owners else { return Ok(()) };
        if policy == OwnerPolicy::AtOnce {
            owners.allow_pass();
        }
        owners.look_up(&mut self.ebpf, &wanted)?;
        for namespace in copied {
            namespace.set_owners(owners);
        }
        Ok(())
    }
}

impl Copied {
    fn take_records(&mut self, records: &[SocketRecord], close_wait_limit: usize) {
        let namespace = &mut self.namespace;
        // Listeners come first in a walk, so their ports are known before any other socket's role
        // is asked; but a socket that was moved while walking may come twice.
        let mut seen = HashSet::new();
        let mut listening = HashSet::new();
        for record in records {
            if !seen.insert(record.sk) {
                continue;
            }
            let local = Endpoint::from_kernel(record.tuple.local, record.tuple.local_port);
            let peer = Endpoint::from_kernel(record.tuple.peer, record.tuple.peer_port);
            let Some(state) = TcpState::from_kernel(record.state) else { continue };
            if state == TcpState::Listen {
                listening.insert(local.port);
                namespace.listeners.push(Listener {
                    local,
                    accept_queue: record.accept_queue,
                    accept_limit: record.accept_limit,
                    half_open: record.half_open,
                    owner: None,
                });
                self.listener_inodes.push(record.inode);
                continue;
            }
            if record.tuple.is_self() {
                let id = record.sk;
                namespace.self_connected.push(SelfConnectedSocket {
                    id,
                    endpoint: local,
                    state,
                    owner: None,
                });
                self.self_connected_inodes.push(record.inode);
            }
            if state != TcpState::CloseWait || record.flags & flags::ORPHAN != 0 {
                continue;
            }
            if namespace.close_wait.len() >= close_wait_limit {
                namespace.close_wait_beyond += 1;
                continue;
            }
            let accepted = record.flags & flags::ACCEPTED != 0;
            let is_server = accepted || listening.contains(&local.port);
            namespace.close_wait.push(CloseWaitSocket {
                id: record.sk,
                local,
                peer,
                role: if is_server { Role::Server } else { Role::Client },
                since: Timestamp::from_ns(record.since_ns),
                since_exact: record.flags & flags::SINCE_EXACT != 0,
                recv_queue: record.recv_queue,
                unaccepted: record.flags & flags::UNACCEPTED != 0,
                owner: None,
                owner_pending: false,
            });
            self.close_wait_inodes.push(record.inode);
        }
    }

    fn set_owners(&mut self, owners: &OwnerBook) {
        let owner_of = |inode| owners.get(inode).cloned();
        let namespace = &mut self.namespace;
        for (listener, &inode) in namespace.listeners.iter_mut().zip(&self.listener_inodes) {
            listener.owner = owner_of(inode);
        }
        for (socket, &inode) in namespace.self_connected.iter_mut().zip(&self.self_connected_inodes)
        {
            socket.owner = owner_of(inode);
        }
        let listener_owners: HashMap<u16, &Owner> = namespace
            .listeners
            .iter()
            .filter_map(|listener| Some((listener.local.port, listener.owner.as_ref()?)))
            .collect();
        for (socket, &inode) in namespace.close_wait.iter_mut().zip(&self.close_wait_inodes) {
            socket.owner_pending = inode != 0 && !owners.was_looked_for(inode);
            socket.owner = if socket.unaccepted {
                // Nobody holds it yet; whoever listens is who does not accept.
                listener_owners
                    .get(&socket.local.port)
                    .map(|&owner| Owner { fds: Vec::new(), ..owner.clone() })
            } else {
                owner_of(inode)
            };
        }
    }
}

/// Reads a walk to its end. The kernel writes whole records, so a read returns whole records.
pub(super) fn read_records<T: aya::Pod>(
    file: &mut dyn Read,
    mut each: impl FnMut(&T),
) -> Result<(), InventoryError> {
    let mut buffer = vec![0; 32 * 1024 / size_of::<T>() * size_of::<T>()];
    loop {
        let length = match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            // EAGAIN: a million objects without a record (`MAX_ITER_OBJECTS`); it goes on.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                continue;
            }
            Err(error) => return Err(InventoryError::Read(error)),
        };
        for bytes in buffer[..length].chunks_exact(size_of::<T>()) {
            // SAFETY: the chunk has the size of `T`, the read is unaligned, and `Pod` says that
            // every bit pattern is a `T`.
            each(&unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<T>()) });
        }
    }
}
