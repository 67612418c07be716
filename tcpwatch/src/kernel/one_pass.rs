//! The walk that sees every namespace at once: runs the program in slices and takes what it copies up.
//!
//! Nothing is entered. The kernel side walks the list of namespaces, which has each one that is alive,
//! and the tables that they share; a namespace with a table of its own (`tcp_child_ehash_entries`) has
//! that walked too. Counts lie in [`NamespaceWalk`]; sockets that are judged come as [`Found`].

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError, RingBuf};
use tcpwatch_common::{
    Found, LIST_AGAIN, NamespaceRecord, NamespaceWalk, Offsets, PORT_WORDS, Pass, Walk, maps,
    phase, progress,
};

use super::{bpf, error::InventoryError, lru};
use crate::facts::PassTotals;

/// The maps of the walk and what is kept between two.
pub(super) struct OnePass {
    program: OwnedFd,
    /// The program that selects sockets; `None` where it is not loaded.
    listing: Option<OwnedFd>,
    pass: Array<MapData, Pass>,
    namespaces: Array<MapData, NamespaceWalk>,
    slots: BpfHashMap<MapData, u64, u32>,
    found: RingBuf<MapData>,
    /// Contents of `slots`, where they are known.
    known: Option<HashMap<u64, u32>>,
    /// Where the list of namespaces and the tables are that all share.
    roots: Box<Pass>,
    /// Of the last walk.
    cost: PassCost,
}

/// The purpose of a walk. Each has a program of its own, and both programs take the same steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Every socket is counted, and those that are judged are copied up.
    Inventory,
    /// Those that match [`Listing`](tcpwatch_common::Listing) are copied up.
    Listing,
}

/// Cost of a walk.
#[derive(Clone, Copy, Debug, Default)]
struct PassCost {
    /// Runs of the program.
    slices: u64,
    /// The longest of them, nanoseconds in the kernel. Interrupts within it count.
    longest_ns: u64,
    /// Chains that moved while they were read, and were read again.
    read_again: u64,
    /// Chains whose end was not seen.
    given_up: u64,
}

/// Namespaces that the walk looks at on this machine.
pub(super) fn entries() -> u32 {
    lru::entries(maps::NAMESPACES_LIMIT).min(maps::NAMESPACES_MOST)
}

/// Whether the running kernel has every field that the walk needs.
pub(super) fn has_fields(offsets: &Offsets) -> bool {
    let needed = [
        offsets.skc_hash,
        offsets.skc_nulls_node,
        offsets.skc_bind_node,
        offsets.net_cookie,
        offsets.net_list,
        offsets.net_hash_mix,
        offsets.net_hashinfo,
        offsets.net_max_tw_buckets,
        offsets.net_local_ports,
        offsets.net_reserved_ports,
        offsets.net_syncookies,
        offsets.net_abort_on_overflow,
        offsets.net_retries2,
        offsets.net_orphan_retries,
        offsets.net_tw_reuse,
        offsets.net_timestamps,
        offsets.net_somaxconn,
        offsets.ehash,
        offsets.ehash_mask,
        offsets.bhash,
        offsets.bhash_size,
        offsets.lhash2,
        offsets.lhash2_mask,
        offsets.ib_net,
        offsets.ib_port,
        offsets.ib_node,
        offsets.real_parent,
        offsets.nsproxy,
        offsets.nsproxy_net,
        offsets.fastreuse,
        offsets.fastreuseport,
    ];
    // A lock of four bytes before the head: a kernel that debugs its locks has larger ones.
    const HEAD: u32 = 8;
    let addresses = [offsets.ib_addresses, offsets.ib2_node, offsets.ib2_owners];
    needed.iter().all(|it| *it != tcpwatch_common::ABSENT)
        && (offsets.ib_owners != tcpwatch_common::ABSENT
            || addresses.iter().all(|it| *it != tcpwatch_common::ABSENT))
        && offsets.bhash_chain == HEAD
        && offsets.lhash2_head == HEAD
}

impl OnePass {
    pub(super) fn new(
        program: OwnedFd,
        pass: Array<MapData, Pass>,
        namespaces: Array<MapData, NamespaceWalk>,
        slots: BpfHashMap<MapData, u64, u32>,
        found: RingBuf<MapData>,
    ) -> Self {
        Self {
            program,
            listing: None,
            pass,
            namespaces,
            slots,
            found,
            known: None,
            roots: Box::new(Pass::ZERO),
            cost: PassCost::default(),
        }
    }

    /// Finds the list of namespaces and the tables. Once is enough: they stay where they are.
    ///
    /// # Errors
    ///
    /// When the kernel does not have them where they are looked for.
    pub(super) fn find_tables(&mut self) -> Result<(), InventoryError> {
        // Of a process before that ended in the middle of a walk.
        while self.found.next().is_some() {}
        self.pass.set(0, Pass::ZERO, 0)?;
        if self.run(Purpose::Inventory, phase::ROOTS, 0)? != progress::DONE {
            return Err(InventoryError::NoTables);
        }
        *self.roots = self.pass.get(&0, 0)?;
        Ok(())
    }

    /// Every namespace of the host.
    ///
    /// # Errors
    ///
    /// When namespaces go faster than the list can be read.
    pub(super) fn list(
        &mut self,
        stop: &AtomicBool,
    ) -> Result<Vec<NamespaceRecord>, InventoryError> {
        self.cost = PassCost::default();
        let start = Pass { table: self.roots.table, ..Pass::ZERO };
        let mut records = Vec::new();
        let mut seen = HashSet::new();
        let pass = self.walk(Purpose::Inventory, phase::NAMESPACES, start, stop, |bytes| {
            // The list is begun again when a namespace goes that was next.
            if let Some(record) = decode::<NamespaceRecord>(bytes)
                && seen.insert(record.net)
            {
                records.push(record);
            }
        })?;
        if pass.again > LIST_AGAIN {
            return Err(InventoryError::TornList);
        }
        Ok(records)
    }

    /// Ports that a namespace reserves; `None` where there is none.
    pub(super) fn reserved_ports(
        &self,
        walk: &Array<MapData, Walk>,
        record: &NamespaceRecord,
    ) -> Result<Option<Box<[u64; PORT_WORDS]>>, InventoryError> {
        if record.reserved_at == 0 {
            return Ok(None);
        }
        self.run(Purpose::Inventory, phase::RESERVED_PORTS, record.reserved_at)?;
        Ok(Some(Box::new(walk.get(&0, 0)?.reserved_ports)))
    }

    /// Sets the namespaces that are looked at, each at its place.
    pub(super) fn look_at(
        &mut self,
        namespaces: impl IntoIterator<Item = (u64, NamespaceWalk)>,
    ) -> Result<(), InventoryError> {
        let mut now = HashMap::new();
        for (net, namespace) in namespaces {
            let slot = u32::from(namespace.slot);
            self.namespaces.set(slot, namespace, 0)?;
            now.insert(net, slot);
        }
        // After an error in the middle only the map itself knows them.
        let read = || self.slots.iter().filter_map(Result::ok).collect();
        let known: HashMap<u64, u32> = self.known.take().unwrap_or_else(read);
        for gone in known.keys().filter(|net| !now.contains_key(net)) {
            match self.slots.remove(gone) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for (net, slot) in &now {
            if known.get(net) != Some(slot) {
                self.slots.insert(net, slot, 0)?;
            }
        }
        self.known = Some(now);
        Ok(())
    }

    /// Takes the program that lists sockets.
    pub(super) fn list_by(&mut self, program: Option<OwnedFd>) {
        self.listing = program;
    }

    /// Whether sockets can be listed.
    pub(super) fn lists(&self) -> bool {
        self.listing.is_some()
    }

    /// Walks every table: listeners, ports if an inventory is taken, and then the connections in the
    /// tables of `records`.
    pub(super) fn walk_tables(
        &mut self,
        purpose: Purpose,
        records: &[NamespaceRecord],
        stop: &AtomicBool,
        mut each: impl FnMut(&Found),
    ) -> Result<(), InventoryError> {
        let mut take = |bytes: &[u8]| {
            if let Some(found) = decode::<Found>(bytes) {
                each(&found);
            }
        };
        let table = |table, mask| Pass { table, mask, ..Pass::ZERO };
        let roots = &self.roots;
        let listeners = table(roots.listener_table, roots.listener_mask);
        let ports = table(roots.bound_table, roots.bound_mask);
        self.walk(purpose, phase::LISTENERS, listeners, stop, &mut take)?;
        if purpose == Purpose::Inventory {
            self.walk(purpose, phase::BOUND, ports, stop, &mut take)?;
        }
        let tables: BTreeSet<_> = records.iter().map(|it| (it.table, it.mask)).collect();
        for (address, mask) in tables {
            self.walk(purpose, phase::ESTABLISHED, table(address, mask), stop, &mut take)?;
        }
        tracing::debug!(cost = ?self.cost, "tables walked");
        Ok(())
    }

    /// Counts of the namespace at this place.
    pub(super) fn counted(&self, slot: u16) -> Result<NamespaceWalk, InventoryError> {
        Ok(self.namespaces.get(&slot.into(), 0)?)
    }

    /// Adds the cost of the last walk.
    pub(super) fn add_cost(&self, totals: &mut PassTotals) {
        let PassCost { slices, longest_ns, read_again, given_up } = self.cost;
        totals.slices += slices;
        totals.longest_slice = Duration::from_nanos(longest_ns);
        totals.read_again += read_again;
        totals.given_up += given_up;
    }

    /// Runs slices of a phase until its end, and hands on what each copies up.
    fn walk(
        &mut self,
        purpose: Purpose,
        phase: u64,
        start: Pass,
        stop: &AtomicBool,
        mut each: impl FnMut(&[u8]),
    ) -> Result<Pass, InventoryError> {
        self.pass.set(0, start, 0)?;
        let ended = loop {
            let progress = self.run(purpose, phase, 0)?;
            self.cost.slices += 1;
            while let Some(record) = self.found.next() {
                each(&record);
            }
            match progress {
                progress::DONE => break Ok(()),
                progress::MORE if stop.load(Ordering::Relaxed) => {
                    break Err(InventoryError::Stopped);
                }
                progress::MORE => {}
                _ => break Err(InventoryError::NoTables),
            }
        };
        let pass = self.pass.get(&0, 0)?;
        self.cost.longest_ns = self.cost.longest_ns.max(pass.longest_ns);
        self.cost.read_again += pass.moved;
        self.cost.given_up += pass.given_up;
        ended.map(|()| pass)
    }

    /// Runs one slice in the calling thread, on its CPU.
    fn run(&self, purpose: Purpose, phase: u64, of: u64) -> Result<u32, InventoryError> {
        let program = match purpose {
            Purpose::Inventory => &self.program,
            Purpose::Listing => self.listing.as_ref().ok_or(InventoryError::NoListing)?,
        };
        bpf::run(program.as_fd(), [phase, of]).map_err(InventoryError::Run)
    }
}

/// A record of exactly that size.
fn decode<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: the slice has the size of `T`, the read is unaligned, and `Pod` says that every bit
    // pattern is a `T`.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<T>()) })
}

// A record is decoded by its size.
const _: () = assert!(size_of::<Found>() != size_of::<NamespaceRecord>());
// A slot has 16 bits.
const _: () = assert!(maps::NAMESPACES_MOST <= 1 << 16);
