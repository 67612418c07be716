//! Lists the sockets of a selection, with the processes that hold them.
//!
//! The kernel side selects by state, ports, addresses and conditions, counts what matches and
//! copies up a bounded number. Here the processes are looked up, the oldest sockets come first, and
//! those beyond the limit are cut. The one pass, where it is there, lists all namespaces at once; else
//! it enters the selected namespaces.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tcpwatch_common::{
    Address, Found, Listing, NamespaceRecord, NamespaceWalk, PORT_WORDS, SocketRecord, Walk,
    listener_flags, listing_only as only, maps, socket_flags as flags,
};

use super::{
    Scope, Walker, bpf,
    clock::{now, thread_cpu_time},
    endpoint,
    error::InventoryError,
    namespaces::{self, FoundNamespace},
    one_pass::{self, OnePass, Purpose},
    settings,
    walk::read_records,
};
use crate::{
    facts::{
        AcceptQueue, ListedSocket, Role, SocketCondition, SocketHolder, SocketListing,
        SocketSelection, TcpState, Timestamp, Transfer,
    },
    plain,
};

/// Sockets that are copied up at most: so many inode numbers one pass over open files takes.
const COPIED: usize = maps::WANTED_LIMIT as usize;

/// A socket that was copied up.
struct Copied {
    socket: ListedSocket,
    /// 0 where no process holds it.
    inode: u64,
    /// Of one that waits in an accept queue: inode number of its listener, 0 where it is unknown.
    queue: u64,
}

/// Sockets of the namespaces that were walked so far.
#[derive(Default)]
struct Tour {
    copied: Vec<Copied>,
    namespaces: usize,
    /// Namespaces that could not be entered or walked.
    left_out: usize,
    matched: u64,
}

/// All that the kernel side shows of a namespace.
#[derive(Default)]
struct Shown {
    records: Vec<SocketRecord>,
    /// Addresses of their sockets.
    seen: HashSet<u64>,
    /// Local ports on which a socket listens.
    listening: HashSet<u16>,
}

impl Shown {
    fn take(&mut self, record: &SocketRecord) {
        // A socket that moves while the table is walked may come twice.
        if self.seen.insert(record.sk) {
            self.records.push(*record);
        }
    }
}

impl Tour {
    /// Takes over the sockets of a namespace that are selected.
    fn copy(&mut self, shown: &Shown, netns: &Arc<str>) {
        let listeners = Listeners::of(&shown.records);
        let is_selected = |it: &&SocketRecord| it.listener & listener_flags::NOT_SELECTED == 0;
        for record in shown.records.iter().filter(is_selected) {
            if let Some(socket) = describe(record, netns, &shown.listening) {
                let queue = if socket.unaccepted { listeners.inode_of(record) } else { 0 };
                self.copied.push(Copied { socket, inode: record.inode, queue });
            }
        }
    }
}

impl Walker {
    /// The network namespaces of this host, by inode number, with their names. Enters none.
    #[must_use]
    pub fn namespace_names(&self) -> Vec<(u32, Arc<str>)> {
        let (others, _) = namespaces::list(&self.home, self.scope);
        let name = |it: &FoundNamespace| (it.inode, Arc::clone(&it.name));
        [name(&self.home)].into_iter().chain(others.iter().map(name)).collect()
    }

    /// Lists the sockets of `selection`, at most `limit` of them. Blocks as an inventory does. With the
    /// iterator the calling thread's network namespace changes while it runs; at the end it is the
    /// agent's own again.
    ///
    /// # Errors
    ///
    /// When the walk is not available on this kernel, or fails.
    pub fn list_sockets(
        &mut self,
        selection: &SocketSelection,
        limit: usize,
    ) -> Result<SocketListing, InventoryError> {
        if selection.is_by_process() && self.owners.is_none() {
            return Err(InventoryError::NoOwners);
        }
        let before = thread_cpu_time();
        let mut tour = Tour::default();
        match self.one_pass.take() {
            Some(mut pass) => {
                let listed = self.list_at_once(&mut pass, selection, &mut tour);
                self.one_pass = Some(pass);
                listed?;
            }
            None => {
                let toured = self.list_everywhere(selection, &mut tour);
                self.come_home()?;
                toured?;
            }
        }
        let taken = now();
        let Tour { mut copied, namespaces, left_out, matched } = tour;
        // A socket whose age is not known is as old as it is idle, behind the others.
        copied.sort_by_key(|Copied { socket, .. }| {
            (socket.since.is_none(), socket.since.or(socket.transfer.map(|it| it.last_segment)))
        });
        let examined = copied.len();
        let all_copied = matched <= examined as u64;
        let total = if selection.is_by_process() {
            self.name_holders(&mut copied)?;
            let is_of = |holder: &SocketHolder| selection.is_of(&holder.process, plain::same);
            copied.retain(|it| it.socket.holders.iter().any(is_of));
            copied.len() as u64
        } else {
            matched
        };
        copied.truncate(limit);
        if !selection.is_by_process() {
            self.name_holders(&mut copied)?;
        }
        Ok(SocketListing {
            taken,
            cpu_time: thread_cpu_time().saturating_sub(before),
            namespaces,
            left_out,
            total,
            total_is_exact: all_copied || !selection.is_by_process(),
            examined,
            sockets: copied.into_iter().map(|it| it.socket).collect(),
        })
    }

    fn list_at_once(
        &mut self,
        pass: &mut OnePass,
        selection: &SocketSelection,
        tour: &mut Tour,
    ) -> Result<(), InventoryError> {
        if !pass.lists() {
            return Err(InventoryError::NoListing);
        }
        let names: HashMap<u32, Arc<str>> = self.namespace_names().into_iter().collect();
        let name_of =
            |record: &NamespaceRecord| names.get(&record.inode).cloned().unwrap_or_default();
        let is_selected = |name: &str| {
            selection.netns.as_deref().is_none_or(|selected| plain::same(selected, name))
        };
        let mut records = pass.list(&self.stop)?;
        if self.scope == Scope::Host {
            records.retain(|it| it.inode == self.home.inode);
        }
        records.retain(|it| is_selected(&name_of(it)));
        // The agent's own comes first, as everywhere.
        records.sort_by_key(|it| (it.inode != self.home.inode, it.cookie));
        tour.left_out = records.len().saturating_sub(one_pass::entries() as usize);
        records.truncate(one_pass::entries() as usize);
        tour.namespaces = records.len();
        if records.is_empty() {
            return Ok(());
        }
        pass.look_at(
            (0..)
                .zip(&records)
                .map(|(slot, record)| (record.net, NamespaceWalk { slot, ..NamespaceWalk::ZERO })),
        )?;

        let mut listing = self.begin_listing(selection, tour)?;
        self.listing.set(0, *listing, 0)?;
        let mut of_slots: BTreeMap<u32, Shown> = BTreeMap::new();
        pass.walk_tables(Purpose::Listing, &records, &self.stop, |found| {
            let shown = of_slots.entry(found.slot).or_default();
            if found.kind == Found::PORT_LISTENS {
                shown.listening.insert(found.socket.tuple.local_port);
            } else {
                shown.take(&found.socket);
            }
        })?;
        *listing = self.listing.get(&0, 0)?;
        tour.matched = listing.matched;
        for (slot, shown) in &of_slots {
            let record = records.get(*slot as usize);
            tour.copy(shown, &record.map(name_of).unwrap_or_default());
        }
        Ok(())
    }

    /// Sets the parameters of a walk, and makes those of the listing.
    fn begin_listing(
        &mut self,
        selection: &SocketSelection,
        tour: &Tour,
    ) -> Result<Box<Listing>, InventoryError> {
        self.generation = self.generation.wrapping_add(1).max(1);
        *self.scratch = Walk::ZERO;
        self.scratch.generation = self.generation;
        self.scratch.now_ns = now().as_ns();
        self.walk.set(0, *self.scratch, 0)?;
        let mut listing = Box::new(to_wire(selection));
        listing.left = COPIED.saturating_sub(tour.copied.len()) as u64;
        Ok(listing)
    }

    fn list_everywhere(
        &mut self,
        selection: &SocketSelection,
        tour: &mut Tour,
    ) -> Result<(), InventoryError> {
        self.come_home()?;
        let home = Arc::clone(&self.home);
        let is_selected = |name: &str| {
            selection.netns.as_deref().is_none_or(|selected| plain::same(selected, name))
        };
        if is_selected(&home.name) {
            self.list_here(&home.name, selection, tour)?;
            if selection.netns.is_some() {
                // No other one has that name.
                return Ok(());
            }
        }
        let (others, _) = namespaces::list(&home, self.scope);
        for namespace in others.iter().filter(|it| is_selected(&it.name)) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(InventoryError::Stopped);
            }
            let entered = namespace.enter().map_err(InventoryError::Namespace);
            self.away |= matches!(entered, Ok(true));
            let listed = match entered {
                Ok(true) => self.list_here(&namespace.name, selection, tour),
                // It has gone.
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            match listed {
                // No other namespace has it either.
                Err(InventoryError::NoListing) => return Err(InventoryError::NoListing),
                // The inventory says which, and why.
                Err(error) => {
                    let netns = plain::text(&namespace.name);
                    tracing::debug!(%netns, %error, "namespace left out");
                    tour.left_out += 1;
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Walks the namespace that the calling thread is in.
    fn list_here(
        &mut self,
        netns: &Arc<str>,
        selection: &SocketSelection,
        tour: &mut Tour,
    ) -> Result<(), InventoryError> {
        if !settings::has_tcp_sockets() {
            tour.namespaces += 1;
            return Ok(());
        }
        let mut listing = self.begin_listing(selection, tour)?;
        let program = self.lister.as_ref().ok_or(InventoryError::NoListing)?;
        self.listing.set(0, *listing, 0)?;
        let mut file = bpf::open_walk(program.as_fd()).map_err(InventoryError::Open)?;
        let mut shown = Shown::default();
        read_records(&mut file, |record: &SocketRecord| shown.take(record))?;
        *listing = self.listing.get(&0, 0)?;
        shown.listening = ports_of(&listing.listening).collect();
        tour.matched += listing.matched;
        tour.namespaces += 1;
        tour.copy(&shown, netns);
        Ok(())
    }

    /// Looks up which processes hold these sockets.
    fn name_holders(&mut self, copied: &mut [Copied]) -> Result<(), InventoryError> {
        let Some(owners) = &mut self.owners else { return Ok(()) };
        let inodes = copied.iter().flat_map(|it| [it.inode, it.queue]).filter(|inode| *inode != 0);
        let inodes: HashSet<u64> = inodes.collect();
        let inodes: Vec<u64> = inodes.into_iter().collect();
        let holders = owners.holders_of(&inodes)?;
        for Copied { socket, inode, queue } in copied {
            socket.holders = match (holders.get(inode), holders.get(queue)) {
                (Some(holders), _) => holders.clone(),
                // They hold the listener, not yet the connection.
                (None, Some(of_listener)) => of_listener
                    .iter()
                    .map(|it| SocketHolder { process: Arc::clone(&it.process), fds: Vec::new() })
                    .collect(),
                (None, None) => Vec::new(),
            };
        }
        Ok(())
    }
}

/// Listeners that were copied up, by identity and by port.
struct Listeners<'a> {
    by_sk: HashMap<u64, &'a SocketRecord>,
    /// By port, longest queue first.
    by_port: HashMap<u16, Vec<&'a SocketRecord>>,
}

impl<'a> Listeners<'a> {
    fn of(records: &'a [SocketRecord]) -> Self {
        let (mut by_sk, mut by_port) = (HashMap::new(), HashMap::<_, Vec<&SocketRecord>>::new());
        for record in records.iter().filter(|it| it.state == TcpState::Listen as u8) {
            by_sk.insert(record.sk, record);
            by_port.entry(record.tuple.local_port).or_default().push(record);
        }
        for of_port in by_port.values_mut() {
            of_port.sort_by_key(|it| Reverse(it.accept_queue));
        }
        Self { by_sk, by_port }
    }

    /// Inode number of the listener for which this connection waits, 0 where none is known.
    fn inode_of(&self, record: &SocketRecord) -> u64 {
        let known = self.by_sk.get(&record.queue).copied();
        let listener = known.or_else(|| {
            let of_port = self.by_port.get(&record.tuple.local_port)?;
            // Of several that share a port and an address the one with the longest queue, as in an
            // inventory. One at the very address comes before one at all addresses.
            let at = |address: Address| of_port.iter().find(|it| it.tuple.local == address);
            at(record.tuple.local).or_else(|| at(ANY)).or_else(|| at(ANY_IPV4)).copied()
        });
        listener.map_or(0, |listener| listener.inode)
    }
}

/// The selection as the kernel side takes it.
fn to_wire(selection: &SocketSelection) -> Listing {
    let states = match &*selection.states {
        [] => &TcpState::ALL[..],
        states => states,
    };
    let bit = |condition: &SocketCondition| match condition {
        SocketCondition::Stalled => only::STALLED,
        SocketCondition::SelfConnected => only::SELF_CONNECTED,
        SocketCondition::Unaccepted => only::UNACCEPTED,
        SocketCondition::Orphan => only::ORPHAN,
        SocketCondition::Unanswered => only::UNANSWERED,
        SocketCondition::Pinned => only::PINNED,
    };
    Listing {
        states: states.iter().fold(0, |bits, state| bits | 1 << *state as u32),
        only: selection.conditions.iter().fold(0, |bits, condition| bits | bit(condition)),
        local: selection.local_address.map_or(ANY, address),
        peer: selection.peer_address.map_or(ANY, address),
        local_port: selection.local_port.unwrap_or(0),
        peer_port: selection.peer_port.unwrap_or(0),
        port: selection.port.unwrap_or(0),
        ..Listing::ZERO
    }
}

const ANY: Address = Address { words: [0; 4] };
/// 0.0.0.0, in the kernel side's form.
const ANY_IPV4: Address = Address { words: [0, 0, 0xffff_u32.to_be(), 0] };

/// The kernel side's form: IPv4 is mapped into IPv6.
fn address(address: IpAddr) -> Address {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().expect("a chunk of four bytes"));
    }
    Address { words }
}

/// The ports whose bits are set.
fn ports_of(words: &[u64; PORT_WORDS]) -> impl Iterator<Item = u16> {
    let is_set = |port: &u16| words[usize::from(port / 64)] & 1 << (port % 64) != 0;
    (0..=u16::MAX).filter(is_set)
}

fn describe(
    record: &SocketRecord,
    netns: &Arc<str>,
    listening: &HashSet<u16>,
) -> Option<ListedSocket> {
    let state = TcpState::from_kernel(record.state)?;
    let has = |flag: u8| record.flags & flag != 0;
    let port = record.tuple.local_port;
    let listens = listening.contains(&port);
    let is_listener = state == TcpState::Listen;
    // A request has no timer counts but that of its SYN-ACK; it is no full socket.
    let is_request = state == TcpState::SynRecv && record.last_segment_ns == 0;
    let accept_queue = is_listener.then_some(AcceptQueue {
        waiting: record.accept_queue,
        limit: record.accept_limit,
        half_open: record.half_open,
        drops: record.drops,
    });
    let is_full = !(is_listener || is_request || has(flags::MINISOCKET));
    let transfer = is_full.then(|| Transfer {
        recv_queue: record.recv_queue,
        send_queue: record.unacked,
        last_segment: Timestamp::from_ns(record.last_segment_ns),
        delivered: has(flags::PROGRESS).then(|| Timestamp::from_ns(record.delivered_ns)),
        retransmits: record.retransmits,
        probes: record.probes,
        peer_window: record.peer_window,
        user_timeout: (record.user_timeout_ms != 0)
            .then(|| Duration::from_millis(record.user_timeout_ms.into())),
        stalled: record.stalled != 0,
    });
    Some(ListedSocket {
        netns: Arc::clone(netns),
        state,
        local: endpoint(record.tuple.local, port),
        peer: (!is_listener).then(|| endpoint(record.tuple.peer, record.tuple.peer_port)),
        role: if has(flags::ACCEPTED) || listens { Role::Server } else { Role::Client },
        since: (record.since_ns != 0).then(|| Timestamp::from_ns(record.since_ns)),
        since_exact: has(flags::SINCE_EXACT),
        accept_queue,
        transfer,
        synack_retransmits: is_request.then_some(record.retransmits),
        // A minisocket in FIN_WAIT2 is an orphan by definition.
        orphan: has(flags::ORPHAN) || has(flags::MINISOCKET) && state == TcpState::FinWait2,
        unaccepted: has(flags::UNACCEPTED),
        holders: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_same_form_on_both_sides() {
        for text in ["127.0.0.1", "::1", "2001:db8::7", "10.1.2.3"] {
            let ip: IpAddr = text.parse().expect("an address");
            assert_eq!(endpoint(address(ip), 0).address, ip);
        }
    }
}
