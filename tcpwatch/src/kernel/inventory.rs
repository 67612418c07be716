//! The walker: an inventory of every network namespace.
//!
//! It enters one namespace after the other on the thread that runs it, walks its socket tables in
//! the kernel, and comes back to its own. It blocks, so it never runs on the async thread.

use std::{
    fs::File,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap as BpfHashMap, MapData},
    programs::Iter,
};
use tcpwatch_common::{
    BUSY_DESTINATIONS, Destination, DestinationUse as WireUse, RequestUse, SocketRecord, Walk,
    maps, programs,
};

use super::{
    Scope,
    attribution::Attribution,
    clock::now,
    close_look::CloseLook,
    descriptors,
    error::InventoryError,
    memory::{Memory, OwnerPolicy},
    namespaces::{self, FoundNamespace, NetnsIds},
    owners::OwnerBook,
    records::{Copied, estimate_distinct},
    settings::{self, Settings},
    walk::read_records,
};
use crate::facts::{
    DestinationUse, Endpoint, Focus, Inventory, Namespace, PortUse, StateCounts, TableUse,
    TcpState, TimeWaitUse,
};

/// Sockets that are described of the ports that are asked for, in each namespace: enough to see
/// every kind of holder, for listeners come first.
const PORT_HOLDERS: u64 = 256;

/// The maps through which a walker and its programs talk.
pub(super) struct WalkerMaps {
    pub(super) walk: Array<MapData, Walk>,
    pub(super) destinations: BpfHashMap<MapData, Destination, WireUse>,
    pub(super) requests: BpfHashMap<MapData, u32, RequestUse>,
    /// `None` where owners cannot be looked up.
    pub(super) wanted: Option<BpfHashMap<MapData, u64, u8>>,
}

/// Takes inventories.
pub struct Walker {
    ebpf: Ebpf,
    walk: Array<MapData, Walk>,
    destinations: BpfHashMap<MapData, Destination, WireUse>,
    requests: BpfHashMap<MapData, u32, RequestUse>,
    owners: Option<OwnerBook>,
    attribution: Attribution,
    close_look: CloseLook,
    ids: NetnsIds,
    scope: Scope,
    close_wait_limit: usize,
    /// What this inventory is asked to look at.
    focus: Focus,
    generation: u32,
    scratch: Box<Walk>,
    /// The calling thread may be in another namespace than the agent's.
    away: bool,
    /// Ends an inventory under way.
    stop: Arc<AtomicBool>,
    failed_look_ups: u64,
    memory: Memory,
    destinations_seen: u64,
}

impl Walker {
    pub(super) fn new(
        ebpf: Ebpf,
        maps: WalkerMaps,
        (attribution, close_look): (Attribution, CloseLook),
        ids: NetnsIds,
        scope: Scope,
        close_wait_limit: usize,
    ) -> Self {
        let WalkerMaps { walk, destinations, requests, wanted } = maps;
        Self {
            ebpf,
            walk,
            destinations,
            requests,
            owners: wanted.map(OwnerBook::new),
            attribution,
            close_look,
            ids,
            scope,
            close_wait_limit,
            focus: Focus::default(),
            generation: 0,
            scratch: Box::new(Walk::ZERO),
            away: false,
            stop: Arc::default(),
            failed_look_ups: 0,
            memory: Memory::default(),
            destinations_seen: 0,
        }
    }

    /// Takes what a reload changes.
    pub fn reconfigure(&mut self, scope: Scope, close_wait_limit: usize) {
        self.scope = scope;
        self.close_wait_limit = close_wait_limit;
    }

    /// Walks every namespace and names the owners of the sockets that matter. What `focus` asks for
    /// is looked at from now on, until another one asks for something else. Blocks for some
    /// milliseconds for each 10,000 sockets. The calling thread's network namespace changes while
    /// it runs; at the end it is the agent's own again.
    pub fn inventory(
        &mut self,
        policy: OwnerPolicy,
        focus: &Focus,
    ) -> Result<Inventory, InventoryError> {
        let started = now();
        if self.focus.closers && !focus.closers {
            self.attribution.forget_closers();
        }
        self.close_look.ask(focus);
        self.focus = focus.clone();
        let began = Instant::now();
        self.destinations_seen = 0;
        let host = FoundNamespace::host().map_err(InventoryError::Namespace)?;
        self.come_home(&host)?;
        let mut room = self.close_wait_limit;
        let mut copied = vec![self.walk_namespace(&host, &mut room)?];
        let (others, mut unseen_namespaces) = namespaces::list(&host, self.scope);
        for namespace in &others {
            if self.stop.load(Ordering::Relaxed) {
                return Err(InventoryError::Stopped);
            }
            let entered = namespace.enter().map_err(InventoryError::Namespace);
            self.away |= matches!(entered, Ok(true));
            let walked = match entered {
                Ok(true) => self.walk_namespace(namespace, &mut room).map(Some),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            match walked {
                Ok(walked) => copied.extend(walked),
                Err(error) => {
                    tracing::debug!(netns = %namespace.name, %error, "namespace left out");
                    unseen_namespaces += 1;
                }
            }
        }
        self.come_home(&host)?;
        let walked = began.elapsed();
        self.name_owners(&mut copied, policy);
        self.memory.keep_since(&mut copied);
        self.close_look.name_stacks(&mut copied);
        let undescribed = copied.iter().map(|copied| copied.undescribed).sum();
        let namespaces: Vec<Namespace> =
            copied.into_iter().map(|copied| copied.namespace).collect();
        Ok(Inventory {
            descriptors: descriptors::of_close_wait(&namespaces),
            resets: self.attribution.resets(&namespaces),
            closers: if focus.closers { self.attribution.closers() } else { Vec::new() },
            started,
            finished: now(),
            walked,
            namespaces,
            unseen_namespaces,
            undescribed,
        })
    }

    /// Moves the calling thread back into the agent's namespace, if it may be in another one.
    fn come_home(&mut self, host: &FoundNamespace) -> Result<(), InventoryError> {
        if self.away {
            host.enter().map_err(InventoryError::Namespace)?;
            self.away = false;
        }
        Ok(())
    }

    /// A flag that ends an inventory under way at the next namespace.
    #[must_use]
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Owner look-ups that failed.
    #[must_use]
    pub fn failed_look_ups(&self) -> u64 {
        self.failed_look_ups
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

    /// Walks the namespace that the calling thread is in. `room` is what is left of the sockets in
    /// CLOSE_WAIT that may be described.
    fn walk_namespace(
        &mut self,
        handle: &FoundNamespace,
        room: &mut usize,
    ) -> Result<Copied, InventoryError> {
        let settings = Settings::read();
        let available = settings.available_ports();
        let mut copied = Copied::of(Namespace {
            id: self.ids.of_thread(handle.inode),
            name: handle.name.clone(),
            time_wait: TimeWaitUse { used: 0, limit: settings.time_wait_limit },
            ports: PortUse {
                range: settings.port_range,
                available,
                reserved: settings.reserved.clone(),
                tw_reuse: settings.tw_reuse,
                timestamps: settings.timestamps,
                ..PortUse::default()
            },
            netstat: settings::read_netstat(),
            syncookies: settings.syncookies,
            ..Namespace::default()
        });
        if !settings::has_tcp_sockets() {
            return Ok(copied);
        }
        self.prepare(&settings, available)?;
        let asked_ports = self.focus.ports.clone();
        self.run(|record| copied.take(record, *room, &asked_ports))?;
        *room -= copied.namespace.close_wait.len();
        *self.scratch = self.walk.get(&0, 0)?;
        self.destinations_seen = self.destinations_seen.max(self.scratch.destinations);
        self.take_aggregates(&mut copied.namespace);
        self.describe_listeners(&mut copied.namespace, &settings);
        Ok(copied)
    }

    fn prepare(&mut self, settings: &Settings, available: u32) -> Result<(), InventoryError> {
        self.generation = self.generation.wrapping_add(1).max(1);
        let walk = &mut *self.scratch;
        *walk = Walk::ZERO;
        walk.generation = self.generation;
        (walk.port_low, walk.port_high) = settings.port_range;
        walk.tw_reuse = settings.tw_reuse.number();

        // Half: far below any threshold that means something, and few enough to copy.
        walk.busy_at = available.div_ceil(2).max(1);
        walk.tw_reuse_delay_ms = settings.tw_reuse_delay_ms;
        walk.reserved_ports = *settings.reserved_ports;
        walk.now_ns = now().as_ns();
        walk.asked_room = if self.focus.ports.is_empty() { 0 } else { PORT_HOLDERS };
        for port in &self.focus.ports {
            walk.asked_ports[usize::from(port / 64)] |= 1 << (port % 64);
        }
        self.walk.set(0, *walk, 0)?;
        Ok(())
    }

    /// Runs the walk to its end and hands on what it copies up.
    fn run(&mut self, each: impl FnMut(&SocketRecord)) -> Result<(), InventoryError> {
        let program: &mut Iter = self
            .ebpf
            .program_mut(programs::INVENTORY)
            .expect("the walker exists only where the program was loaded")
            .try_into()?;
        // Opening it binds it to the calling thread's namespace, so each walk opens its own.
        let link = program.attach()?;
        let mut file: File = program.take_link(link)?.into_file()?;
        read_records(&mut file, each)
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
        ports.bound_before_connect = u32::try_from(walk.bound_ports).unwrap_or(u32::MAX);
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

    /// What the walk counted for the ports of listeners.
    fn describe_listeners(&self, namespace: &mut Namespace, settings: &Settings) {
        let generation = self.scratch.generation;
        for listener in &mut namespace.listeners {
            let port = listener.local.port;
            listener.in_port_range = settings.is_ephemeral(port);
            if let Ok(requests) = self.requests.get(&u32::from(port), 0)
                && requests.generation == generation
            {
                listener.unanswered = requests.unanswered;
                listener.unanswered_sources = estimate_distinct(&requests.sources);
            }
            if listener.in_port_range {
                listener.local_clients = self.loopback_clients(port, generation);
            }
        }
    }

    /// Connections over loopback to a port of this namespace.
    fn loopback_clients(&self, port: u16, generation: u32) -> u32 {
        let ipv4 = tcpwatch_common::Address::from_v4(u32::from(Ipv4Addr::LOCALHOST).to_be());
        let ipv6 = tcpwatch_common::Address { words: [0, 0, 0, 1_u32.to_be()] };
        let clients = [ipv4, ipv6].map(|loopback| {
            let destination =
                Destination { local: loopback, peer: loopback, peer_port: port, reserved: 0 };
            match self.destinations.get(&destination, 0) {
                Ok(entry) if entry.generation == generation => entry.used,
                _ => 0,
            }
        });
        clients.iter().sum()
    }

    /// Without owners an inventory is still one.
    fn name_owners(&mut self, copied: &mut [Copied], policy: OwnerPolicy) {
        let wanted = self.memory.wanted(copied, policy);
        let Some(owners) = &mut self.owners else { return };
        if policy == OwnerPolicy::AtOnce {
            owners.allow_pass();
        }
        if let Err(error) = owners.look_up(&mut self.ebpf, &wanted) {
            self.failed_look_ups += 1;
            tracing::debug!(%error, "owners not looked up");
        }
        for namespace in copied {
            namespace.set_owners(owners);
        }
    }
}
