//! The walker: an inventory of every network namespace.
//!
//! It has the socket tables walked in the kernel, looks up owners and makes the facts. It blocks, and
//! may enter namespaces on the thread that runs it, so it never runs on the async thread. `tour.rs`
//! has the way through the namespaces.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use tcpwatch_common::{
    Destination, DestinationUse as WireUse, Listing, RequestUse, Walk, maps, scope as counted,
};

use super::{
    Scope,
    answers::Answers,
    attribution::Attribution,
    clock::now,
    close_look::CloseLook,
    descriptors,
    error::InventoryError,
    heap,
    in_turn::InTurn,
    limits,
    memory::{Memory, OwnerPolicy},
    namespaces::{FoundNamespace, NetnsIds},
    notes::NoteTables,
    one_pass::OnePass,
    owners::OwnerBook,
    reach::{Reach, Whose},
    records::Copied,
};
use crate::facts::{Focus, Inventory, Namespace, NotSeen, PassTotals, TableUse, Unseen};

/// The programs of a walker and the maps through which they talk.
pub(super) struct WalkerParts {
    /// `None` where the one pass walks.
    pub(super) program: Option<OwnedFd>,
    pub(super) walk: Array<MapData, Walk>,
    /// `None` where the iterator is used.
    pub(super) one_pass: Option<OnePass>,
    pub(super) listing: Array<MapData, Listing>,
    /// The iterator that lists sockets; `None` where the one pass lists them, or none does.
    pub(super) lister: Option<OwnedFd>,
    pub(super) destinations: BpfHashMap<MapData, Destination, WireUse>,
    pub(super) requests: BpfHashMap<MapData, u32, RequestUse>,
    pub(super) answers: Answers,
    /// `None` where owners cannot be looked up.
    pub(super) owners: Option<OwnerBook>,
    /// Which namespaces the hooks count.
    pub(super) counted_netns: Array<MapData, u32>,
    pub(super) notes: NoteTables,
}

/// Memory goes back to the kernel each so many inventories, some ten minutes at the default interval: a
/// storm of names leaves megabytes behind, between what stays.
const RETURNED_EACH: u64 = 64;

/// Takes inventories.
pub struct Walker {
    /// The iterator.
    pub(super) program: Option<OwnedFd>,
    pub(super) walk: Array<MapData, Walk>,
    pub(super) one_pass: Option<OnePass>,
    /// Counters that the one pass needs beside what it sees.
    pub(super) in_turn: InTurn,
    pub(super) listing: Array<MapData, Listing>,
    pub(super) lister: Option<OwnedFd>,
    pub(super) destinations: BpfHashMap<MapData, Destination, WireUse>,
    pub(super) requests: BpfHashMap<MapData, u32, RequestUse>,
    answers: Answers,
    pub(super) owners: Option<OwnerBook>,
    counted_netns: Array<MapData, u32>,
    notes: NoteTables,
    attribution: Attribution,
    close_look: CloseLook,
    pub(super) reach: Reach,
    missing_hooks: Vec<NotSeen>,
    pub(super) ids: NetnsIds,
    /// The agent's own namespace.
    pub(super) home: Arc<FoundNamespace>,
    pub(super) scope: Scope,
    pub(super) close_wait_limit: usize,
    /// Requests of this inventory.
    pub(super) focus: Focus,
    pub(super) generation: u32,
    pub(super) scratch: Box<Walk>,
    /// The calling thread may be in another namespace than the agent's.
    pub(super) away: bool,
    /// Ends an inventory under way.
    pub(super) stop: Arc<AtomicBool>,
    failed_look_ups: u64,
    pub(super) passes: PassTotals,
    memory: Memory,
    /// Inventories so far.
    inventories: u64,
    pub(super) destinations_seen: u64,
    /// Ports with unanswered requests, of the namespace that had most.
    pub(super) requests_seen: u64,
}

impl Walker {
    pub(super) fn new(
        parts: WalkerParts,
        (attribution, close_look): (Attribution, CloseLook),
        (reach, missing_hooks): (Reach, Vec<NotSeen>),
        (ids, home): (NetnsIds, FoundNamespace),
        scope: Scope,
        close_wait_limit: usize,
    ) -> Result<Self, InventoryError> {
        let WalkerParts {
            program,
            walk,
            one_pass,
            listing,
            lister,
            destinations,
            requests,
            answers,
            owners,
            counted_netns,
            notes,
        } = parts;
        // An earlier walker may have left entries in the tables, with lower numbers.
        let generation = walk.get(&0, 0)?.generation;
        let mut walker = Self {
            program,
            walk,
            one_pass,
            in_turn: InTurn::new(),
            listing,
            lister,
            destinations,
            requests,
            answers,
            owners,
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
            generation,
            scratch: Box::new(Walk::ZERO),
            away: false,
            stop: Arc::default(),
            failed_look_ups: 0,
            passes: PassTotals::default(),
            memory: Memory::default(),
            inventories: 0,
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
    /// milliseconds for each 10,000 sockets. The calling thread's network namespace may change while
    /// it runs; at the end it is the agent's own again.
    pub fn inventory(
        &mut self,
        policy: OwnerPolicy,
        focus: &Focus,
    ) -> Result<Inventory, InventoryError> {
        self.inventories += 1;
        if self.inventories.is_multiple_of(RETURNED_EACH) {
            heap::return_free();
        }
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

    /// Slices and chains of the one pass; zeros where the iterator walks.
    #[must_use]
    pub fn passes(&self) -> PassTotals {
        self.passes
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

    /// Names the owners of the sockets that matter, and lists the unknown ones. An inventory
    /// without owners is still of use.
    fn name_owners(&mut self, copied: &mut [Copied], policy: OwnerPolicy) -> Vec<NotSeen> {
        let selected = self.memory.select(copied, policy);
        let mut not_seen = Vec::new();
        // `missing_hooks` reports it.
        let Some(owners) = &mut self.owners else { return not_seen };
        if let Err(error) = owners.look_up(&selected, policy) {
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
