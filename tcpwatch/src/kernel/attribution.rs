//! Who sends and receives resets, and who closes first: the kernel side's tables, as facts.
//!
//! Both are LRU tables, so an origin that was dropped and has come back counts from 0 again. Here
//! such counts are joined, so that what is handed on only grows while the origin is known.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use aya::maps::{HashMap as BpfHashMap, MapData};
use tcpwatch_common::{Closer, CloserUse, ResetOrigin, ResetOriginUse};

use super::{ProcessReader, counters::reason_of, events::wire_text, namespaces::NetnsIds};
use crate::facts::{
    CloserCount, Endpoint, Namespace, NetnsId, Process, ResetCount, ResetObservation, ResetReason,
    Role, SeenReset, TcpState,
};

pub(super) struct Attribution {
    /// `None` where no hook fills it.
    origins: Option<BpfHashMap<MapData, ResetOrigin, ResetOriginUse>>,
    closers: BpfHashMap<MapData, Closer, CloserUse>,
    reset_reasons: Vec<ResetReason>,
    ids: NetnsIds,
    processes: ProcessReader,
    /// By pid and name, as long as the tables name them.
    known: HashMap<(u32, [u8; 16]), Arc<Process>>,
    /// What each origin counted last time.
    last: HashMap<ResetOrigin, u64>,
    totals: HashMap<Group, u64>,
}

/// What one [`ResetCount`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Group {
    netns: NetnsId,
    tgid: u32,
    role: Role,
    port: u16,
    what: SeenReset,
}

/// What a group is told with.
struct Described {
    process: Option<Arc<Process>>,
    last_peer: Option<IpAddr>,
}

impl Attribution {
    pub(super) fn new(
        origins: Option<BpfHashMap<MapData, ResetOrigin, ResetOriginUse>>,
        closers: BpfHashMap<MapData, Closer, CloserUse>,
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
            totals: HashMap::new(),
        }
    }

    /// Resets by process and service, `None` without the hooks. Where no process was noted, who
    /// listens on the port is responsible.
    pub(super) fn resets(&mut self, namespaces: &[Namespace]) -> Option<Vec<ResetCount>> {
        let entries: Vec<_> = self.origins.as_ref()?.iter().filter_map(Result::ok).collect();
        let mut groups: HashMap<Group, (u64, Described)> = HashMap::new();
        let mut last = HashMap::with_capacity(entries.len());
        for (origin, entry) in &entries {
            let Some(group) = self.group_of(origin) else { continue };
            let before = self.last.get(origin).copied().unwrap_or(0);
            let added = if entry.count >= before { entry.count - before } else { entry.count };
            last.insert(*origin, entry.count);
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
        self.last = last;
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
        let entries: Vec<_> = self.closers.iter().filter_map(Result::ok).collect();
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
        let keys: Vec<Closer> = self.closers.keys().filter_map(Result::ok).collect();
        for key in keys {
            // One that has just gone is gone.
            let _ = self.closers.remove(&key);
        }
    }

    fn process(&mut self, tgid: u32, comm: [u8; 16]) -> Arc<Process> {
        let processes = self.processes;
        let read = || Arc::new(processes.read(tgid, wire_text(&comm), None));
        Arc::clone(self.known.entry((tgid, comm)).or_insert_with(read))
    }

    fn forget_processes(&mut self, named: impl Iterator<Item = (u32, [u8; 16])>) {
        let named: std::collections::HashSet<_> = named.collect();
        self.known.retain(|process, _| named.contains(process));
    }
}

fn listener_of(namespaces: &[Namespace], group: &Group) -> Option<Arc<Process>> {
    if group.role == Role::Client {
        return None;
    }
    let namespace = namespaces.iter().find(|namespace| namespace.id == group.netns)?;
    let mut listeners = namespace.listeners.iter();
    let listener = listeners.find(|listener| listener.local.port == group.port)?;
    Some(Arc::clone(&listener.owner.as_ref()?.process))
}
