//! Who sends and receives resets, and who closes first: the kernel side's tables, as facts.
//!
//! Those of resets are LRU tables, so an origin that was dropped and has come back counts from 0
//! again. Here such counts are joined, so that what is handed on only grows while the origin is known.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use tcpwatch_common::{Closer, ResetOrigin, ResetOriginUse};

use super::{
    ProcessReader,
    clock::now,
    closers::{ClosersTable, Count},
    counters::reason_of,
    events::wire_text,
    lru::LruTable,
    namespaces::NetnsIds,
    process::start_ticks,
};
use crate::facts::{
    CloserCount, Endpoint, Namespace, NetnsId, Owner, Process, ResetCause, ResetCount,
    ResetObservation, ResetReason, Role, SeenReset, TableUse, TcpState, Timestamp,
};

/// Inventories after which a count that has not moved is forgotten: ten minutes at the default
/// interval, as long as `reset-storm` remembers. If it moves again it counts on from 0.
const QUIET_AFTER: u64 = 120;

pub(super) struct Attribution {
    /// `None` where no hook fills it.
    origins: Option<[OriginTable; 2]>,
    closers: ClosersTable,
    reset_reasons: Vec<ResetReason>,
    ids: NetnsIds,
    processes: ProcessReader,
    /// By pid and name, as long as they are handed on and live.
    known: HashMap<(u32, [u8; 16]), Known>,
    /// What each origin counted when it was read last, and in which reading. One that a reading has
    /// missed, because the table moved under it, is kept for the next.
    last: HashMap<ResetOrigin, (u64, u64)>,
    reading: u64,
    totals: HashMap<Group, Total>,
}

type OriginTable = LruTable<ResetOrigin, ResetOriginUse>;

/// What one [`ResetCount`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Group {
    service: Service,
    tgid: u32,
}

/// The same, by any process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Service {
    netns: NetnsId,
    role: Role,
    port: u16,
    what: SeenReset,
}

/// A group's count, which only grows while it is remembered.
#[derive(Clone, Copy, Debug)]
struct Total {
    count: u64,
    /// The reading that found it grown.
    grown: u64,
    comm: [u8; 16],
    last_peer: Option<IpAddr>,
}

/// A process that was read.
struct Known {
    process: Arc<Process>,
    /// See [`start_ticks`].
    started: Option<u64>,
    /// The reading that handed it on last.
    used: u64,
}

impl Attribution {
    pub(super) fn new(
        origins: Option<[OriginTable; 2]>,
        closers: ClosersTable,
        reset_reasons: Vec<ResetReason>,
        ids: NetnsIds,
    ) -> Self {
        Self {
            origins,
            closers,
            reset_reasons,
            ids,
            processes: ProcessReader::new(),
            known: HashMap::new(),
            last: HashMap::new(),
            reading: 0,
            totals: HashMap::new(),
        }
    }

    /// How full the tables were when they were read last.
    pub(super) fn table_use(&self) -> Vec<TableUse> {
        let origins = self.origins.iter().flatten().map(OriginTable::table_use);
        origins.chain(self.closers.table_use()).collect()
    }

    /// Resets by process and service, `None` without the hooks: every row of each service of which
    /// one has grown since the last reading. Where no process was noted, who listens on the port is
    /// responsible.
    pub(super) fn resets(&mut self, namespaces: &[Namespace]) -> Option<Vec<ResetCount>> {
        self.read_origins()?;
        let reading = self.reading;
        let moved: HashSet<Service> = self
            .totals
            .iter()
            .filter(|(_, total)| total.grown == reading)
            .map(|(group, _)| group.service)
            .collect();
        let is_moved = |group: &Group| moved.contains(&group.service);
        let rows: Vec<(Group, Total)> = self
            .totals
            .iter()
            .filter(|(group, _)| is_moved(group))
            .map(|(group, total)| (*group, *total))
            .collect();
        self.forget_processes(rows.iter().map(|(group, total)| (group.tgid, total.comm)));
        let row_of = |(group, total): (Group, Total)| ResetCount {
            netns: group.service.netns,
            role: group.service.role,
            port: group.service.port,
            what: group.service.what,
            process: match group.tgid {
                0 => listener_of(namespaces, &group.service),
                tgid => Some(self.process(tgid, total.comm)),
            },
            last_peer: total.last_peer,
            count: total.count,
        };
        Some(rows.into_iter().map(row_of).collect())
    }

    /// Adds what the tables have counted since the last reading.
    fn read_origins(&mut self) -> Option<()> {
        self.reading += 1;
        let mut tables = self.origins.take()?;
        let reading = self.reading;
        for table in &mut tables {
            table.for_each(|origin, entry| self.add(&origin, &entry));
        }
        self.origins = Some(tables);
        self.last.retain(|_, (_, read)| reading - *read <= 1);
        self.totals.retain(|_, total| reading - total.grown <= QUIET_AFTER);
        Some(())
    }

    fn add(&mut self, origin: &ResetOrigin, entry: &ResetOriginUse) {
        let last = self.last.insert(*origin, (entry.count, self.reading));
        let before = last.map_or(0, |(before, _)| before);
        let added = if entry.count >= before { entry.count - before } else { entry.count };
        if added == 0 {
            return;
        }
        let Some(group) = self.group_of(origin) else { return };
        let total = self.totals.entry(group).or_insert(Total {
            count: 0,
            grown: 0,
            comm: entry.comm,
            last_peer: None,
        });
        total.count += added;
        total.grown = self.reading;
        total.comm = entry.comm;
        total.last_peer = Some(Endpoint::from_kernel(entry.peer, 0).address);
    }

    fn group_of(&self, origin: &ResetOrigin) -> Option<Group> {
        let what = if origin.received == 1 {
            SeenReset::Received(TcpState::from_kernel(origin.seen.state)?)
        } else {
            let reason_of = |number| reason_of(&self.reset_reasons, number);
            SeenReset::Sent(ResetObservation::decode(origin.seen, reason_of).cause())
        };
        let service = Service {
            netns: self.ids.of_event(origin.netns_cookie, origin.netns),
            role: if origin.is_client == 1 { Role::Client } else { Role::Server },
            port: origin.port,
            what,
        };
        Some(Group { service, tgid: origin.tgid })
    }

    /// Who closed first, since it was asked for.
    pub(super) fn closers(&mut self) -> Vec<CloserCount> {
        let counts = self.closers.read(now());
        self.forget_processes(counts.iter().map(|(_, closer, count)| (count.tgid, closer.comm)));
        let count_of = |(netns, closer, count): (NetnsId, Closer, Count)| {
            let is_client = closer.is_client == 1;
            let peer = Endpoint::from_kernel(closer.peer, 0).address;
            CloserCount {
                netns,
                process: self.process(count.tgid, closer.comm),
                role: if is_client { Role::Client } else { Role::Server },
                peer: (is_client && closer.port != 0).then_some(peer),
                port: closer.port,
                count: count.count,
                others: count.others,
                since: Some(Timestamp::from_ns(count.since_ns)),
            }
        };
        counts.into_iter().map(count_of).collect()
    }

    /// What other namespaces have counted is of no use when they are asked for again.
    pub(super) fn forget_closers_beside(&mut self, asked: &BTreeSet<NetnsId>) {
        self.closers.forget_beside(asked);
    }

    fn process(&mut self, tgid: u32, comm: [u8; 16]) -> Arc<Process> {
        let (processes, used) = (&self.processes, self.reading);
        let read = || {
            let process = processes.read(tgid, wire_text(&comm), None);
            Known { process: Arc::new(process), started: start_ticks(tgid), used }
        };
        let known = self.known.entry((tgid, comm)).or_insert_with(read);
        known.used = used;
        Arc::clone(&known.process)
    }

    /// The number of one that has ended may be another process's by now. Only those that are about
    /// to be named are looked at; the others go when their counts do.
    fn forget_processes(&mut self, named: impl Iterator<Item = (u32, [u8; 16])>) {
        let named: HashSet<_> = named.collect();
        let reading = self.reading;
        self.known.retain(|process, known| {
            reading - known.used <= QUIET_AFTER
                && (!named.contains(process) || start_ticks(process.0) == known.started)
        });
    }
}

/// Who listens on the port; nobody is blamed where several do.
fn listener_of(namespaces: &[Namespace], group: &Service) -> Option<Arc<Process>> {
    if group.role == Role::Client {
        return None;
    }
    // It listens at another address, if at all.
    if group.what == SeenReset::Sent(ResetCause::NoListener) {
        return None;
    }
    let namespace = namespaces.iter().find(|namespace| namespace.id == group.netns)?;
    let listeners = namespace.listeners.iter().filter(|it| it.local.port == group.port);
    let owners: Vec<&Owner> = listeners.map(|it| it.owner.as_ref()).collect::<Option<_>>()?;
    let first = owners.first()?;
    let is_one = owners.iter().all(|owner| owner.process.pid == first.process.pid);
    is_one.then(|| Arc::clone(&first.process))
}
