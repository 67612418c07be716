//! The walker: an inventory of every network namespace.
//!
//! It enters one namespace after the other on the thread that runs it, walks its socket tables in
//! the kernel, and comes back to its own. It blocks, so it never runs on the async thread.

use std::{
    collections::HashSet,
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
    BUSY_DESTINATIONS, Destination, DestinationUse as WireUse, Listing, RequestUse, SocketRecord,
    Walk, maps, port_state, programs, scope as counted,
};

use super::{
    Scope,
    answers::Answers,
    attribution::Attribution,
    clock::now,
    close_look::CloseLook,
    descriptors, endpoint,
    error::InventoryError,
    limits,
    memory::{Memory, OwnerPolicy},
    namespaces::{self, FoundNamespace, NetnsIds},
    notes::NoteTables,
    owners::OwnerBook,
    process::container_of,
    reach::{LeftOut, Reach, Step, Whose},
    records::{CloseWaitLimits, Copied, Seen, estimate_distinct},
    settings::{self, Settings},
    walk::read_records,
};
use crate::facts::{
    DestinationUse, Focus, Inventory, Listener, Namespace, NotSeen, PortUse, StateCounts, TableUse,
    TcpState, TimeWaitUse, Unseen,
};

/// How the tables are walked: a label of `tcpwatch_scope_info`.
pub const WALK: &str = "iterator";

/// Described sockets of the requested ports, in each namespace: enough to see every kind of
/// holder, for listeners come first.
const PORT_HOLDERS: u64 = 256;

/// Described sockets that take ports of busy destinations, in each namespace: as many as eight
/// destinations give (`DESTINATION_USERS`).
const PORT_USERS: u64 = 1_024;
/// Sockets with pinned ports that are described where these are many, in each namespace: a share is
/// known within 6 %.
const PINNED_USERS: u64 = 256;

/// The maps through which a walker and its programs talk.
pub(super) struct WalkerMaps {
    pub(super) walk: Array<MapData, Walk>,
    /// `None` where sockets cannot be listed.
    pub(super) listing: Option<Array<MapData, Listing>>,
    pub(super) destinations: BpfHashMap<MapData, Destination, WireUse>,
    pub(super) requests: BpfHashMap<MapData, u32, RequestUse>,
    pub(super) answers: Answers,
    /// `None` where owners cannot be looked up.
    pub(super) selected: Option<BpfHashMap<MapData, u64, u8>>,
    /// Which namespaces the hooks count.
    pub(super) counted_netns: Array<MapData, u32>,
    pub(super) notes: NoteTables,
}

/// Takes inventories.
pub struct Walker {
    pub(super) ebpf: Ebpf,
    pub(super) walk: Array<MapData, Walk>,
    pub(super) listing: Option<Array<MapData, Listing>>,
    destinations: BpfHashMap<MapData, Destination, WireUse>,
    requests: BpfHashMap<MapData, u32, RequestUse>,
    answers: Answers,
    pub(super) owners: Option<OwnerBook>,
    counted_netns: Array<MapData, u32>,
    notes: NoteTables,
    attribution: Attribution,
    close_look: CloseLook,
    reach: Reach,
    missing_hooks: Vec<NotSeen>,
    ids: NetnsIds,
    /// The agent's own namespace.
    pub(super) home: Arc<FoundNamespace>,
    pub(super) scope: Scope,
    close_wait_limit: usize,
    /// Requests of this inventory.
    focus: Focus,
    pub(super) generation: u32,
    pub(super) scratch: Box<Walk>,
    /// The calling thread may be in another namespace than the agent's.
    pub(super) away: bool,
    /// Ends an inventory under way.
    pub(super) stop: Arc<AtomicBool>,
    failed_look_ups: u64,
    memory: Memory,
    destinations_seen: u64,
    /// Ports with unanswered requests, of the namespace that had most.
    requests_seen: u64,
}

impl Walker {
    pub(super) fn new(
        ebpf: Ebpf,
        maps: WalkerMaps,
        (attribution, close_look): (Attribution, CloseLook),
        (reach, missing_hooks): (Reach, Vec<NotSeen>),
        (ids, home): (NetnsIds, FoundNamespace),
        scope: Scope,
        close_wait_limit: usize,
    ) -> Result<Self, InventoryError> {
        let WalkerMaps {
            walk,
            listing,
            destinations,
            requests,
            answers,
            selected,
            counted_netns,
            notes,
        } = maps;
        let mut walker = Self {
            ebpf,
            walk,
            listing,
            destinations,
            requests,
            answers,
            owners: selected.map(OwnerBook::new),
            counted_netns,
            notes,
            attribution,
            close_look,
            reach,
            missing_hooks,
            ids,
            home: Arc::new(home),
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
            requests_seen: 0,
        };
        walker.count_only(scope)?;
        Ok(walker)
    }

    /// Takes what a reload changes.
    pub fn reconfigure(&mut self, scope: Scope, close_wait_limit: usize) {
        self.scope = scope;
        self.close_wait_limit = close_wait_limit;
        if let Err(error) = self.count_only(scope) {
            tracing::error!(%error, "scope of the hooks not changed");
        }
    }

    /// Sets the namespaces that the hooks count. This process keeps its own namespace alive, so
    /// that no other one gets its inode number.
    fn count_only(&mut self, scope: Scope) -> Result<(), InventoryError> {
        let value = match scope {
            Scope::All => counted::ALL,
            Scope::Host => FoundNamespace::host().map_err(InventoryError::Namespace)?.inode,
        };
        self.counted_netns.set(0, value, 0)?;
        Ok(())
    }

    /// Walks every namespace and names the owners of the sockets that matter. The requests of
    /// `focus` apply from now on, until the next focus replaces them. Blocks for some
    /// milliseconds for each 10,000 sockets. The calling thread's network namespace changes while
    /// it runs; at the end it is the agent's own again.
    pub fn inventory(
        &mut self,
        policy: OwnerPolicy,
        focus: &Focus,
    ) -> Result<Inventory, InventoryError> {
        let started = now();
        self.answers.request(&focus.answers);
        self.close_look.request(focus);
        if self.focus.closers_in != focus.closers_in {
            self.attribution.forget_closers_beside(&focus.closers_in);
        }
        self.focus = focus.clone();
        let began = Instant::now();
        self.destinations_seen = 0;
        self.requests_seen = 0;
        let mut not_seen = self.missing_hooks.clone();
        let (mut copied, of_namespaces) = self.tour()?;
        let walked = began.elapsed();
        self.notes.look();
        let mut of_owners = self.name_owners(&mut copied, policy);
        if policy == OwnerPolicy::AtOnce && self.may_have_ended() {
            copied = self.tour()?.0;
            of_owners = self.name_owners(&mut copied, policy);
        }
        not_seen.extend(of_namespaces);
        not_seen.extend(of_owners);
        self.memory.keep_since(&mut copied);
        self.close_look.name_stacks(&mut copied);
        let undescribed = copied.iter().map(|copied| copied.undescribed).sum();
        let namespaces: Vec<Namespace> = copied.into_iter().map(Copied::into_namespace).collect();
        Ok(Inventory {
            descriptors: descriptors::of_holders(&namespaces),
            resets: self.attribution.resets(&namespaces),
            services: self.attribution.services(),
            closers: if focus.closers_in.is_empty() {
                Vec::new()
            } else {
                self.attribution.closers()
            },
            answers: self.answers.read(),
            shared_limits: Some(Box::new(limits::read_shared())),
            started,
            finished: now(),
            walked,
            namespaces,
            not_seen,
            undescribed,
        })
    }

    /// Walks every namespace, and lists those that could not be walked.
    fn tour(&mut self) -> Result<(Vec<Copied>, Vec<NotSeen>), InventoryError> {
        let host = Arc::clone(&self.home);
        self.come_home()?;
        let mut left = self.close_wait_limit;
        let mut copied = vec![self.walk_namespace(&host, &mut left)?];
        let (others, mut hidden) = namespaces::list(&host, self.scope);
        let mut left_out = LeftOut::default();
        let mut inodes = vec![host.inode];
        let forget_if_hidden = |hidden: &mut namespaces::Hidden| {
            // Hardly any host has one, and then it costs nothing.
            if !hidden.is_empty()
                && let Some(identity) = namespaces::identity("thread-self")
            {
                hidden.remove(&identity);
            }
        };
        forget_if_hidden(&mut hidden);
        for namespace in &others {
            if self.stop.load(Ordering::Relaxed) {
                return Err(InventoryError::Stopped);
            }
            let entered = namespace.enter().map_err(InventoryError::Namespace);
            self.away |= matches!(entered, Ok(true));
            let walked = match entered {
                Ok(true) => self.walk_namespace(namespace, &mut left).map(Some),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            match walked {
                Ok(Some(walked)) => {
                    copied.push(walked);
                    inodes.push(namespace.inode);
                    forget_if_hidden(&mut hidden);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(netns = %crate::plain::text(&namespace.name), %error, "namespace left out");
                    match &error {
                        InventoryError::Namespace(error) => {
                            left_out.add(Step::Enter, Some(error), &namespace.name);
                            if let Some(identity) = namespace.identity() {
                                hidden.remove(&identity);
                            }
                        }
                        _ => left_out.add(Step::Walk, None, &namespace.name),
                    }
                }
            }
        }
        self.come_home()?;
        for (pid, error) in hidden.values() {
            left_out.add(Step::Find, Some(error), &container_of(*pid).unwrap_or_default());
        }
        let mut not_seen = self.reach.not_seen(&inodes);
        not_seen.extend(left_out.not_seen());
        Ok((copied, not_seen))
    }

    /// Moves the calling thread back into the agent's namespace, if it may be in another one.
    pub(super) fn come_home(&mut self) -> Result<(), InventoryError> {
        if self.away {
            self.home.enter().map_err(InventoryError::Namespace)?;
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

    /// How full the tables were in the last inventory.
    #[must_use]
    pub fn table_use(&self) -> Vec<TableUse> {
        let mut tables = vec![
            TableUse {
                table: "destinations",
                entries: self.destinations_seen,
                limit: u64::from(maps::DESTINATIONS_LIMIT),
            },
            TableUse {
                table: "requests",
                entries: self.requests_seen,
                limit: u64::from(maps::REQUESTS_LIMIT),
            },
        ];
        tables.extend(self.owners.as_ref().map(OwnerBook::table_use));
        tables.extend(self.notes.table_use());
        tables.extend(self.attribution.table_use());
        tables.push(self.close_look.table_use());
        tables
    }

    /// Walks the namespace that the calling thread is in. `left` is the number of sockets in
    /// CLOSE_WAIT that may still be described.
    fn walk_namespace(
        &mut self,
        handle: &FoundNamespace,
        left: &mut usize,
    ) -> Result<Copied, InventoryError> {
        let settings = Settings::read();
        let available = settings.available_ports();
        let (conntrack, conntrack_invalid) = limits::read_conntrack().unzip();
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
            somaxconn: settings.somaxconn,
            abort_on_overflow: settings.abort_on_overflow,
            retries2: settings.retries2,
            orphan_retries: settings.orphan_retries,
            conntrack_invalid: conntrack_invalid.flatten(),
            conntrack,
            ..Namespace::default()
        });
        if !settings::has_tcp_sockets() {
            return Ok(copied);
        }
        self.prepare(&settings, available)?;
        let requested_ports = self.focus.ports.clone();
        let limits = CloseWaitLimits::of(self.close_wait_limit, *left);
        self.run(|record| copied.take(record, limits, &requested_ports))?;
        *left -= copied.close_wait.len();
        *self.scratch = self.walk.get(&0, 0)?;
        self.destinations_seen = self.destinations_seen.max(self.scratch.destinations);
        self.take_aggregates(&mut copied.namespace);
        self.describe_listeners(&mut copied.listeners, &settings);
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
        walk.requested_left = if self.focus.ports.is_empty() { 0 } else { PORT_HOLDERS };
        (walk.users_left, walk.pinned_left) = (PORT_USERS, PINNED_USERS);
        for port in &self.focus.ports {
            walk.requested_ports[usize::from(port / 64)] |= 1 << (port % 64);
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
        ports.pinned_in_time_wait = u32::try_from(walk.pinned_minisockets).ok();
        let described =
            |destination: &Destination, used: u32, entry: Option<&WireUse>| DestinationUse {
                local: endpoint(destination.local, 0),
                peer: endpoint(destination.peer, destination.peer_port),
                used: used.saturating_add(ports.pinned).min(ports.available),
                states: entry.map(states_of),
            };
        let of_worst = self.destinations.get(&walk.worst, 0).ok();
        let of_worst = of_worst.filter(|entry| entry.generation == walk.generation);
        let worst = (walk.worst_used > 0)
            .then(|| described(&walk.worst, walk.worst_used, of_worst.as_ref()));
        let busy_count = (walk.busy_count as usize).min(BUSY_DESTINATIONS);
        let mut busy = Vec::with_capacity(busy_count);
        for destination in &walk.busy[..busy_count] {
            // One that was evicted since was not that busy after all.
            if let Ok(entry) = self.destinations.get(destination, 0)
                && entry.generation == walk.generation
            {
                busy.push(described(destination, entry.used.into(), Some(&entry)));
            }
        }
        ports.worst = worst;
        ports.busy = busy;
    }

    /// Adds the walk's counts for the ports of listeners.
    fn describe_listeners(&mut self, listeners: &mut [Seen<Listener>], settings: &Settings) {
        let generation = self.scratch.generation;
        let mut ports = HashSet::new();
        for Seen { fact: listener, .. } in listeners {
            let port = listener.local.port;
            listener.in_port_range = settings.is_ephemeral(port);
            if let Ok(requests) = self.requests.get(&u32::from(port), 0)
                && requests.generation == generation
            {
                ports.insert(port);
                listener.unanswered = requests.unanswered;
                listener.unanswered_sources = estimate_distinct(&requests.sources);
            }
            if listener.in_port_range {
                listener.local_clients = self.loopback_clients(port, generation);
            }
        }
        self.requests_seen = self.requests_seen.max(ports.len() as u64);
    }

    /// Connections over loopback to a port of this namespace.
    fn loopback_clients(&self, port: u16, generation: u32) -> u32 {
        let ipv4 = tcpwatch_common::Address::from_v4(u32::from(Ipv4Addr::LOCALHOST).to_be());
        let ipv6 = tcpwatch_common::Address { words: [0, 0, 0, 1_u32.to_be()] };
        let clients = [ipv4, ipv6].map(|loopback| {
            let destination =
                Destination { local: loopback, peer: loopback, peer_port: port, reserved: 0 };
            match self.destinations.get(&destination, 0) {
                Ok(entry) if entry.generation == generation => entry.used.into(),
                _ => 0,
            }
        });
        clients.iter().sum()
    }

    /// Names the owners of the sockets that matter, and lists the unknown ones. An inventory
    /// without owners is still of use.
    fn name_owners(&mut self, copied: &mut [Copied], policy: OwnerPolicy) -> Vec<NotSeen> {
        let selected = self.memory.select(copied, policy);
        let mut not_seen = Vec::new();
        // `missing_hooks` reports it.
        let Some(owners) = &mut self.owners else { return not_seen };
        if let Err(error) = owners.look_up(&mut self.ebpf, &selected, policy) {
            self.failed_look_ups += 1;
            tracing::debug!(%error, "owners not looked up");
            let why = format!("the look-up failed: {error}");
            not_seen.push(NotSeen::new(Unseen::Owners, "owners of sockets", why));
        }
        for namespace in copied {
            namespace.set_owners(owners);
        }
        not_seen.extend(owners.not_seen(&selected));
        not_seen
    }

    /// Whether a process may have ended between the walk and the look-up of owners: its sockets went
    /// with it. Where the host's processes are not seen, sockets without an owner are the rule.
    fn may_have_ended(&self) -> bool {
        let Some(owners) = &self.owners else { return false };
        self.reach.pidns == Whose::Host && owners.has_unfound()
    }
}

fn states_of(entry: &WireUse) -> StateCounts {
    let mut states = StateCounts::default();
    // LAST_ACK is the state of its class that lasts.
    for state in TcpState::ALL {
        if !matches!(state, TcpState::Close | TcpState::Listen | TcpState::Closing) {
            states.set(state, entry.states[port_state(state as u32)].into());
        }
    }
    states
}
