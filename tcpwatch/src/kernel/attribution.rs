//! Who sends and receives resets, and who closes first: the kernel side's tables, as facts.
//!
//! Both are LRU tables, so an origin that was dropped and has come back counts from 0 again. Here
//! such counts are joined, so that what is handed on only grows while the origin is known.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use tcpwatch_common::{Closer, CloserUse, ResetOrigin, ResetOriginUse};

use super::{
    ProcessReader, counters::reason_of, events::wire_text, lru::LruTable, namespaces::NetnsIds,
    process::start_ticks,
};
use crate::facts::{
    CloserCount, Endpoint, Namespace, NetnsId, Owner, Process, ResetCause, ResetCount,
    ResetObservation, ResetReason, Role, SeenReset, TcpState,
};

pub(super) struct Attribution {
    /// `None` where no hook fills it.
    origins: Option<[OriginTable; 2]>,
    closers: LruTable<Closer, CloserUse>,
    reset_reasons: Vec<ResetReason>,
    ids: NetnsIds,
    processes: ProcessReader,
    /// By pid and name, as long as the tables name them and they live.
    known: HashMap<(u32, [u8; 16]), Known>,
    /// What each origin counted when it was read last, and in which reading. One that a reading has
    /// missed, because the table moved under it, is kept for the next.
    last: HashMap<ResetOrigin, (u64, u64)>,
    reading: u64,
    totals: HashMap<Group, u64>,
}

type OriginTable = LruTable<ResetOrigin, ResetOriginUse>;

/// What one [`ResetCount`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Group {
    netns: NetnsId,
    tgid: u32,
    role: Role,
    port: u16,
    what: SeenReset,
}

/// A process that was read.
struct Known {
    process: Arc<Process>,
    /// See [`start_ticks`].
    started: Option<u64>,
}

/// What a group is told with.
struct Described {
    process: Option<Arc<Process>>,
    last_peer: Option<IpAddr>,
}

impl Attribution {
    pub(super) fn new(
        origins: Option<[OriginTable; 2]>,
        closers: LruTable<Closer, CloserUse>,
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

    /// Resets by process and service, `None` without the hooks. Where no process was noted, who
    /// listens on the port is responsible.
    pub(super) fn resets(&mut self, namespaces: &[Namespace]) -> Option<Vec<ResetCount>> {
        let tables = self.origins.as_ref()?;
        let entries: HashMap<_, _> = tables.iter().flat_map(OriginTable::read).collect();
        let mut groups: HashMap<Group, (u64, Described)> = HashMap::new();
        self.reading += 1;
        let reading = self.reading;
        for (origin, entry) in &entries {
            let Some(group) = self.group_of(origin) else { continue };
            let (before, _) = self.last.get(origin).copied().unwrap_or_default();
            let added = if entry.count >= before { entry.count - before } else { entry.count };
            self.last.insert(*origin, (entry.count, reading));
            let total = groups.entry(group).or_insert_with(|| {
                let process = match origin.tgid {
                    0 => listener_of(namespaces, &group),
                    tgid => Some(self.process(tgid, entry.comm)),
                };
                let before = self.totals.get(&group).copied().unwrap_or(0);
                (before, Described { process, last_peer: None })
            });
            total.0 += added;
            if added > 0 {
                let peer = Endpoint::from_kernel(entry.peer, 0).address;
                total.1.last_peer = Some(peer);
            }
        }
        self.last.retain(|_, (_, read)| reading - *read <= 1);
        self.totals = groups.iter().map(|(group, (total, _))| (*group, *total)).collect();
        self.forget_processes(entries.iter().map(|(origin, entry)| (origin.tgid, entry.comm)));
        let counts = groups.into_iter().map(|(group, (count, described))| ResetCount {
            netns: group.netns,
            role: group.role,
            port: group.port,
            what: group.what,
            process: described.process,
            last_peer: described.last_peer,
            count,
        });
        Some(counts.collect())
    }

    fn group_of(&self, origin: &ResetOrigin) -> Option<Group> {
        let what = if origin.received == 1 {
            SeenReset::Received(TcpState::from_kernel(origin.seen.state)?)
        } else {
            let reason_of = |number| reason_of(&self.reset_reasons, number);
            SeenReset::Sent(ResetObservation::decode(origin.seen, reason_of).cause())
        };
        Some(Group {
            netns: self.ids.of_event(origin.netns_cookie, origin.netns),
            tgid: origin.tgid,
            role: if origin.is_client == 1 { Role::Client } else { Role::Server },
            port: origin.port,
            what,
        })
    }

    /// Who closed first, since it was asked for.
    pub(super) fn closers(&mut self) -> Vec<CloserCount> {
        let entries = self.closers.read();
        let count_of = |(closer, entry): (Closer, CloserUse)| {
            let is_client = closer.is_client == 1;
            CloserCount {
                netns: self.ids.of_event(closer.netns_cookie, closer.netns),
                process: self.process(closer.tgid, entry.comm),
                role: if is_client { Role::Client } else { Role::Server },
                peer: is_client.then(|| Endpoint::from_kernel(closer.peer, 0).address),
                port: closer.port,
                count: entry.count,
            }
        };
        entries.into_iter().map(count_of).collect()
    }

    /// What was counted is of no use when it is asked for again.
    pub(super) fn forget_closers(&mut self) {
        self.closers.clear();
    }

    fn process(&mut self, tgid: u32, comm: [u8; 16]) -> Arc<Process> {
        let processes = &self.processes;
        let read = || {
            let process = processes.read(tgid, wire_text(&comm), None);
            Known { process: Arc::new(process), started: start_ticks(tgid) }
        };
        Arc::clone(&self.known.entry((tgid, comm)).or_insert_with(read).process)
    }

    /// The number of one that has ended may be another process's by now.
    fn forget_processes(&mut self, named: impl Iterator<Item = (u32, [u8; 16])>) {
        let named: HashSet<_> = named.collect();
        self.known.retain(|process, known| {
            named.contains(process) && start_ticks(process.0) == known.started
        });
    }
}

/// Who listens on the port; nobody is blamed where several do.
fn listener_of(namespaces: &[Namespace], group: &Group) -> Option<Arc<Process>> {
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
