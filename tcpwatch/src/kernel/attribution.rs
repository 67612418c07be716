//! Resets and active closes by process: the kernel side's tables, as facts.
//!
//! The tables of resets drop what is rare: an origin that was dropped and has come back counts from 0
//! again. Here such counts are joined, so that a count only grows while its origin is known.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use tcpwatch_common::{
    Closer, IdleCloses, ResetOrigin, ResetOriginUse, Service as ServiceKey, ServiceUse,
};

use super::{
    ProcessReader,
    clock::now,
    closers::{ClosersTable, Count},
    counters::decode_reset,
    endpoint,
    events::wire_text,
    heap::{keep_latest, shrink_sparse},
    namespaces::NetnsIds,
    process::start_ticks,
    reset_totals::{Group, Place, QUIET_AFTER, Service, Total, Totals},
    tally::TallyTable,
};
use crate::facts::{
    CloserCount, IdleClosed, Namespace, NetnsId, Owner, Process, RecordedReset, ResetCount,
    ResetReason, Role, ServiceCount, TableUse, Timestamp,
};

/// Processes that are remembered; others are read again.
const MOST_PROCESSES: usize = 16_384;

/// A process has nearly all connections of a service from nine in ten on: then a reset whose own
/// process is not known is most likely one of its connections.
const NEARLY_ALL: (u64, u64) = (9, 10);

pub(super) struct Attribution {
    /// `None` where no hook fills it.
    origins: Option<[OriginTable; 2]>,
    closers: ClosersTable,
    services: TallyTable<ServiceKey, ServiceUse>,
    /// The services in the last reading and in the one before.
    service_uses: [HashMap<ServiceKey, ServiceUse>; 2],
    reset_reasons: Vec<ResetReason>,
    ids: NetnsIds,
    processes: ProcessReader,
    /// By pid and name, as long as they are handed on and live.
    known: HashMap<(u32, [u8; 16]), Known>,
    /// The count of each origin at its last reading, and the number of that reading. An origin that
    /// a reading has missed, because the table moved under it, is kept for the next.
    last: HashMap<ResetOrigin, (u64, u64)>,
    reading: u64,
    totals: Totals,
}

type OriginTable = TallyTable<ResetOrigin, ResetOriginUse>;

/// Connections of one service by the name of the process.
type NamedUses = HashMap<[u8; 16], NamedUse>;

/// Connections of processes of one name.
#[derive(Clone, Copy, Debug, Default)]
struct NamedUse {
    connections: u64,
    /// The most that one of them has, and which.
    most: u64,
    tgid: u32,
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
        services: TallyTable<ServiceKey, ServiceUse>,
        reset_reasons: Vec<ResetReason>,
        ids: NetnsIds,
    ) -> Self {
        Self {
            origins,
            closers,
            services,
            service_uses: [HashMap::new(), HashMap::new()],
            reset_reasons,
            ids,
            processes: ProcessReader::new(),
            known: HashMap::new(),
            last: HashMap::new(),
            reading: 0,
            totals: Totals::default(),
        }
    }

    /// How full the tables were when they were read last.
    pub(super) fn table_use(&self) -> Vec<TableUse> {
        let origins = self.origins.iter().flatten().map(OriginTable::table_use);
        let services = [self.services.table_use()];
        origins.chain(self.closers.table_use()).chain(services).collect()
    }

    /// Resets by process and service, `None` without the hooks: every row of each service of which
    /// one has grown since the last reading. Where no process was noted, the listener of the port
    /// is responsible.
    pub(super) fn resets(&mut self, namespaces: &[Namespace]) -> Option<Vec<ResetCount>> {
        self.read_origins()?;
        self.read_services();
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
        let users = self.users();
        let row_of = |(group, total): (Group, Total)| ResetCount {
            netns: group.service.netns,
            role: group.service.role,
            port: group.service.port,
            what: RecordedReset::Seen(group.service.seen),
            process: match group.tgid {
                0 => listener_of(namespaces, &group.service).or_else(|| {
                    let user = users.get(&group.service.place()).copied().flatten();
                    let (tgid, comm) = user.filter(|_| group.service.has_connection())?;
                    Some(self.process(tgid, comm))
                }),
                tgid => Some(self.process(tgid, total.comm)),
            },
            last_peer: total.last_peer,
            count: total.count,
            other_port: Some(total.other_port),
            peers: Some(about(total.peers)),
            other_ports: Some(about(total.other_ports)),
        };
        Some(rows.into_iter().map(row_of).collect())
    }

    /// Adds what the tables have counted since the last reading.
    fn read_origins(&mut self) -> Option<()> {
        self.reading += 1;
        let mut tables = self.origins.take()?;
        let reading = self.reading;
        self.totals.drop_idle_services();
        for table in &mut tables {
            table.for_each(|origin, entry| self.add(&origin, &entry));
        }
        self.origins = Some(tables);
        self.last.retain(|_, (_, read)| reading - *read <= 1);
        shrink_sparse(&mut self.last);
        self.totals.forget(reading);
        Some(())
    }

    fn add(&mut self, origin: &ResetOrigin, entry: &ResetOriginUse) {
        let last = self.last.insert(*origin, (entry.count, self.reading));
        let before = last.map_or(0, |(before, _)| before);
        let added = if entry.count >= before { entry.count - before } else { entry.count };
        if added == 0 {
            return;
        }
        let group = self.group_of(origin);
        let total = self.totals.of(group);
        total.count += added;
        total.grown = self.reading;
        total.comm = entry.comm;
        total.last_peer = Some(endpoint(entry.peer, 0).address);
        total.other_port = entry.other_port;
        total.peers |= entry.peers;
        total.other_ports |= entry.other_ports;
    }

    fn group_of(&self, origin: &ResetOrigin) -> Group {
        let service = Service {
            netns: self.ids.of_event(origin.netns_cookie, origin.netns),
            role: if origin.is_client == 1 { Role::Client } else { Role::Server },
            port: origin.port,
            seen: decode_reset(origin.seen, origin.received == 1, &self.reset_reasons),
        };
        Group { service, tgid: origin.tgid }
    }

    /// Reads the connections that are counted: the next reading says what was added since.
    pub(super) fn read_services(&mut self) {
        let now = self.services.read();
        let [last, _] = std::mem::take(&mut self.service_uses);
        self.service_uses = [now, last];
    }

    fn place_of(&self, key: &ServiceKey) -> Place {
        let role = if key.is_client == 1 { Role::Client } else { Role::Server };
        (self.ids.of_event(key.netns_cookie, key.netns), role, key.port)
    }

    /// The process that opens and closes nearly all connections of a service, by service; `None`
    /// where there are several.
    fn users(&self) -> HashMap<Place, Option<(u32, [u8; 16])>> {
        let mut uses: HashMap<Place, NamedUses> = HashMap::new();
        for (key, used) in &self.service_uses[0] {
            let by_name = uses.entry(self.place_of(key)).or_default();
            let of_name = by_name.entry(used.comm).or_default();
            let connections = used.opened + used.closed;
            of_name.connections += connections;
            if connections > of_name.most {
                of_name.most = connections;
                of_name.tgid = key.tgid;
            }
        }
        let only = |by_name: NamedUses| {
            let total: u64 = by_name.values().map(|used| used.connections).sum();
            let (comm, used) = by_name.into_iter().max_by_key(|(_, used)| used.connections)?;
            let is_nearly_all = used.connections * NEARLY_ALL.1 >= total * NEARLY_ALL.0;
            is_nearly_all.then_some((used.tgid, comm))
        };
        uses.into_iter().map(|(place, by_name)| (place, only(by_name))).collect()
    }

    /// Connections since the last reading, of services that have had resets.
    pub(super) fn services(&mut self) -> Option<Vec<ServiceCount>> {
        self.origins.as_ref()?;
        let places = self.totals.places();
        let [now, last] = &self.service_uses;
        let added: Vec<_> = now
            .iter()
            .filter(|(key, _)| places.contains(&self.place_of(key)))
            .map(|(key, used)| {
                // One that was dropped and has come back counts from 0 again.
                let before = last
                    .get(key)
                    .filter(|last| last.opened <= used.opened && last.closed <= used.closed);
                let opened = used.opened - before.map_or(0, |before| before.opened);
                let closed = used.closed - before.map_or(0, |before| before.closed);
                (*key, used, before, opened, closed)
            })
            .filter(|(_, _, _, opened, closed)| opened + closed > 0)
            .collect();
        let mut counts = Vec::with_capacity(added.len());
        for (key, used, before, opened, closed) in added {
            let (netns, role, port) = self.place_of(&key);
            let idle = (role == Role::Server).then(|| idle_closed(used, before));
            let (comm, tgid) = (used.comm, key.tgid);
            counts.push((netns, role, port, tgid, comm, opened, closed, idle));
        }
        let count_of = |(netns, role, port, tgid, comm, opened, closed, idle)| {
            let process = self.process(tgid, comm);
            ServiceCount { netns, role, port, process, opened, closed, idle }
        };
        Some(counts.into_iter().map(count_of).collect())
    }

    /// Active closes by process, since they were requested.
    pub(super) fn closers(&mut self) -> Vec<CloserCount> {
        let counts = self.closers.read(now());
        self.forget_processes(counts.iter().map(|(_, closer, count)| (count.tgid, closer.comm)));
        let count_of = |(netns, closer, count): (NetnsId, Closer, Count)| {
            let is_client = closer.is_client == 1;
            let peer = endpoint(closer.peer, 0).address;
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

    /// Removes the counts of other namespaces: they are stale when requested again.
    pub(super) fn forget_closers_beside(&mut self, requested: &BTreeSet<NetnsId>) {
        self.closers.forget_beside(requested);
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

    /// Forgets ended processes, whose numbers may belong to others by now. Only processes that are
    /// about to be named are checked; the others go when their counts do.
    fn forget_processes(&mut self, named: impl Iterator<Item = (u32, [u8; 16])>) {
        let named: HashSet<_> = named.collect();
        let reading = self.reading;
        self.known.retain(|process, known| {
            reading - known.used <= QUIET_AFTER
                && (!named.contains(process) || start_ticks(process.0) == known.started)
        });
        keep_latest(&mut self.known, MOST_PROCESSES, |known| known.used);
    }
}

/// Closes since `before`, the buckets without any left out.
fn idle_closed(now: &ServiceUse, before: Option<&ServiceUse>) -> Vec<IdleClosed> {
    let added = |(bucket, idle): (usize, &IdleCloses)| {
        let count = idle.count.wrapping_sub(before.map_or(0, |before| before.idle[bucket].count));
        let (bucket, last_ms) = (bucket as u8, idle.last_ms);
        (count > 0).then_some(IdleClosed { bucket, count: count.into(), last_ms })
    };
    now.idle.iter().enumerate().filter_map(added).collect()
}

/// About how many hashes have set these of 64 bits (linear counting: Whang and others, 1990).
fn about(bits: u64) -> u32 {
    let free = f64::from(bits.count_zeros().max(1));
    (64.0 * (64.0 / free).ln()).round() as u32
}

/// The process that listens on the port; `None` where several do.
fn listener_of(namespaces: &[Namespace], group: &Service) -> Option<Arc<Process>> {
    if group.role == Role::Client {
        return None;
    }
    // It listens at another address, if at all.
    if group.seen.is_of_no_listener() {
        return None;
    }
    let namespace = namespaces.iter().find(|namespace| namespace.id == group.netns)?;
    let listeners = namespace.listeners.iter().filter(|it| it.local.port == group.port);
    let owners: Vec<&Owner> = listeners.map(|it| it.owner.as_ref()).collect::<Option<_>>()?;
    let first = owners.first()?;
    let is_one = owners.iter().all(|owner| owner.process.pid == first.process.pid);
    is_one.then(|| Arc::clone(&first.process))
}
