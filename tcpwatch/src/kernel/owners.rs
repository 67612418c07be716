//! Which process holds a socket.
//!
//! Only sockets that stay are looked up: one pass over the open files of all processes, in the
//! kernel (`iter/task_file`), finds all that are selected at once. An owner that was found is kept
//! while the socket and the process live, and once longer. One that was not found is tried again
//! after a while.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use aya::maps::{HashMap as BpfHashMap, MapData};
use rustix::thread::CapabilitySet;
use tcpwatch_common::{OwnerRecord, maps};

use super::{
    OwnerPolicy, ProcessReader,
    acceptors::Holder as Candidate,
    bpf,
    error::{InventoryError, errno_name},
    events::wire_text,
    heap::shrink_sparse,
    holds,
    process::{parent_of, start_ticks},
    walk::read_records,
};
use crate::facts::{NotSeen, Owner, Process, SocketHolder, TableUse, Timestamp, Unseen};

/// Descriptors that are kept of a socket.
const FDS: usize = 8;
/// Holders of one socket that are read: more workers than that are one pool all the same.
const CANDIDATES: usize = 64;
/// Inventories after which a socket is looked up again: its owner may have handed it on. A socket
/// without an owner may be held in a pid namespace that the agent does not see: no retry helps.
const RETRY_AFTER: u64 = 30;
/// Length of the pause after a pass, in durations of that pass. Passes so take at most a twentieth
/// of a core, however many files are open.
const PAUSE: u32 = 20;

/// Owners that are known.
pub(super) struct OwnerBook {
    selected: BpfHashMap<MapData, u64, u8>,
    /// The walk over open files.
    program: OwnedFd,
    processes: ProcessReader,
    known: HashMap<u64, Entry>,
    /// Processes whose executable may not be read.
    unreadable: HashSet<u32>,
    generation: u64,
    next_pass: Instant,
    /// Sockets that the last pass looked for.
    looked_for: u64,
}

struct Entry {
    /// `None`: looked for and not found.
    owner: Option<Owner>,
    /// All holders where there are several, the oldest first; at most [`CANDIDATES`].
    candidates: Vec<Candidate>,
    /// When it was looked for.
    looked_up: u64,
    /// When the socket was seen last.
    seen: u64,
    /// Of the process, see [`start_ticks`].
    start_ticks: Option<u64>,
    /// The process has ended. Its name stands until the next look-up: it is what held the socket
    /// when it was walked.
    ended: bool,
}

impl Entry {
    fn is_due(&self, generation: u64, policy: OwnerPolicy) -> bool {
        let is_urgent = match policy {
            OwnerPolicy::AtOnce => self.owner.is_none(),
            OwnerPolicy::OfThoseThatStay => false,
        };
        is_urgent || generation - self.looked_up >= RETRY_AFTER || self.ended && self.looked_up == 0
    }
}

/// The answer of /proc about a holder.
#[derive(Clone)]
struct Found {
    process: Arc<Process>,
    /// See [`start_ticks`].
    start_ticks: Option<u64>,
    parent: Option<u32>,
}

/// A process's descriptors for one socket.
struct Holder {
    pid: u32,
    start_ns: u64,
    name: String,
    fds: Vec<u32>,
}

/// The processes that hold one socket.
#[derive(Default)]
struct Holders {
    /// The oldest, in no order; at most [`CANDIDATES`].
    oldest: Vec<Holder>,
    /// All of them.
    count: u32,
    /// The process of the last record: a process shows all its descriptors in a row.
    last: u32,
}

impl Holders {
    fn add(&mut self, record: &OwnerRecord) {
        let Self { oldest, count, last } = self;
        match oldest.iter_mut().find(|holder| holder.pid == record.tgid) {
            // Threads that share their files may all show them.
            Some(holder) if holder.fds.len() < FDS && !holder.fds.contains(&record.fd) => {
                holder.fds.push(record.fd);
            }
            Some(_) => {}
            // It is counted and left out already.
            None if *last == record.tgid && *count > 0 => {}
            None => {
                *count = count.saturating_add(1);
                let holder = || Holder {
                    pid: record.tgid,
                    start_ns: record.start_ns,
                    name: wire_text(&record.comm),
                    fds: vec![record.fd],
                };
                if oldest.len() < CANDIDATES {
                    oldest.push(holder());
                } else if let Some(youngest) = oldest.iter_mut().max_by_key(|it| age(it)) {
                    let holder = holder();
                    if age(&holder) < age(youngest) {
                        *youngest = holder;
                    }
                }
            }
        }
        *last = record.tgid;
    }
}

impl OwnerBook {
    pub(super) fn new(selected: BpfHashMap<MapData, u64, u8>, program: OwnedFd) -> Self {
        Self {
            selected,
            program,
            processes: ProcessReader::new(),
            known: HashMap::new(),
            unreadable: HashSet::new(),
            generation: 0,
            next_pass: Instant::now(),
            looked_for: 0,
        }
    }

    /// How full the table of sockets was in the last pass.
    pub(super) fn table_use(&self) -> TableUse {
        let limit = u64::from(maps::WANTED_LIMIT);
        TableUse { table: "wanted", entries: self.looked_for, limit }
    }

    /// Finds the owners of these sockets (by inode number), as far as the bounds allow, and
    /// forgets the owners of all others.
    pub(super) fn look_up(
        &mut self,
        inodes: &HashSet<u64>,
        policy: OwnerPolicy,
    ) -> Result<(), InventoryError> {
        self.generation += 1;
        self.notice_the_dead();
        for inode in inodes {
            if let Some(entry) = self.known.get_mut(inode) {
                entry.seen = self.generation;
            }
        }
        let generation = self.generation;
        self.known.retain(|_, entry| entry.seen == generation);
        shrink_sparse(&mut self.known);
        let missing: Vec<u64> = inodes
            .iter()
            .copied()
            .filter(|inode| {
                self.known.get(inode).is_none_or(|entry| entry.is_due(generation, policy))
            })
            .collect();
        // `AtOnce` has no second inventory, so every owner is looked up before it is judged.
        let (passes, is_time) = match policy {
            OwnerPolicy::AtOnce => (usize::MAX, true),
            OwnerPolicy::OfThoseThatStay => (1, Instant::now() >= self.next_pass),
        };
        if !is_time {
            return Ok(());
        }
        for some in missing.chunks(maps::WANTED_LIMIT as usize).take(passes) {
            let began = Instant::now();
            self.looked_for = some.len() as u64;
            let found = self.pass(some);
            self.next_pass = Instant::now() + began.elapsed() * PAUSE;
            // A pass that failed has found none: they are unknown until the next try.
            let (found, outcome) = match found {
                Ok(found) => (found, Ok(())),
                Err(error) => (HashMap::new(), Err(error)),
            };
            self.remember(some, found);
            outcome?;
        }
        if !self.unreadable.is_empty() {
            let owners = self.known.values().filter_map(|entry| entry.owner.as_ref());
            let pids: HashSet<u32> = owners.map(|owner| owner.process.pid).collect();
            self.unreadable.retain(|pid| pids.contains(pid));
        }
        Ok(())
    }

    /// The processes that hold these sockets now, the owner first; at most [`CANDIDATES`] of each.
    /// The owners that inventories know stay as they are.
    pub(super) fn holders_of(
        &mut self,
        inodes: &[u64],
    ) -> Result<HashMap<u64, Vec<SocketHolder>>, InventoryError> {
        let mut processes = HashMap::new();
        let mut of_sockets = HashMap::new();
        for some in inodes.chunks(maps::WANTED_LIMIT as usize) {
            for (inode, Holders { mut oldest, .. }) in self.pass(some)? {
                oldest.sort_by_key(age);
                let of_socket = oldest.into_iter().map(|holder| SocketHolder {
                    process: self.find(&holder, &mut processes).process,
                    fds: holder.fds,
                });
                of_sockets.insert(inode, of_socket.collect());
            }
        }
        Ok(of_sockets)
    }

    /// Which owners of these sockets are not known, and why.
    pub(super) fn not_seen(&self, inodes: &HashSet<u64>) -> Vec<NotSeen> {
        let mut list = Vec::new();
        let pending = inodes.iter().filter(|inode| !self.known.contains_key(inode)).count();
        if pending > 0 {
            let why = "they are not looked up yet; the next inventories do that";
            list.push(of_sockets(pending, why));
        }
        let unfound = self.known.values().filter(|entry| entry.owner.is_none()).count();
        if unfound > 0 {
            let why = "no process in sight holds them: io_uring or a message may, or a process of \
                       another pid namespace";
            list.push(of_sockets(unfound, why));
        }
        let unreadable = self.unreadable.len();
        if unreadable > 0 {
            let noun = if unreadable == 1 { "process" } else { "processes" };
            let remedy = if holds(CapabilitySet::SYS_PTRACE) {
                "a security policy protects them"
            } else {
                "CAP_SYS_PTRACE allows it"
            };
            list.push(
                NotSeen::new(
                    Unseen::Processes,
                    format!("executable and stacks of {unreadable} {noun} with sockets"),
                    format!("/proc/PID/exe may not be read (EACCES); {remedy}"),
                )
                .counted(unreadable as u64)
                .errno(Some(errno_name(libc::EACCES))),
            );
        }
        list
    }

    /// Whether the owner of some socket was not found.
    pub(super) fn has_unfound(&self) -> bool {
        self.known.values().any(|entry| entry.owner.is_none())
    }

    /// The owner, if it is known.
    pub(super) fn get(&self, inode: u64) -> Option<&Owner> {
        self.known.get(&inode)?.owner.as_ref()
    }

    /// All that hold it, where there are several.
    pub(super) fn candidates(&self, inode: u64) -> &[Candidate] {
        self.known.get(&inode).map_or(&[], |entry| &entry.candidates)
    }

    /// Whether a pass has looked for the socket's owner.
    pub(super) fn was_looked_for(&self, inode: u64) -> bool {
        self.known.contains_key(&inode)
    }

    /// A socket outlives its process where another one holds it too: look again.
    fn notice_the_dead(&mut self) {
        let mut alive = HashMap::new();
        for entry in self.known.values_mut().filter(|entry| !entry.ended) {
            let Some(owner) = &entry.owner else { continue };
            let pid = owner.process.pid;
            let is_same = entry.start_ticks.is_some()
                && *alive.entry(pid).or_insert_with(|| start_ticks(pid)) == entry.start_ticks;
            entry.ended = !is_same;
            if entry.ended {
                // Due at once.
                entry.looked_up = 0;
            }
        }
    }

    /// One pass over the open files of all processes.
    fn pass(&mut self, missing: &[u64]) -> Result<HashMap<u64, Holders>, InventoryError> {
        let inserted = missing.iter().try_for_each(|inode| self.selected.insert(inode, 0, 0));
        let result = match inserted {
            Ok(()) => self.walk_files(),
            Err(error) => Err(error.into()),
        };
        for inode in missing {
            // The removal fails for an inode that was not inserted, which does no harm.
            let _ = self.selected.remove(inode);
        }
        result
    }

    fn walk_files(&self) -> Result<HashMap<u64, Holders>, InventoryError> {
        let mut file = bpf::open_walk(self.program.as_fd()).map_err(InventoryError::Open)?;
        let mut holders: HashMap<u64, Holders> = HashMap::new();
        read_records(&mut file as &mut dyn Read, |record: &OwnerRecord| {
            holders.entry(record.inode).or_default().add(record);
        })?;
        Ok(holders)
    }

    fn remember(&mut self, looked_for: &[u64], mut found: HashMap<u64, Holders>) {
        let mut processes: HashMap<u32, Found> = HashMap::new();
        for inode in looked_for {
            let Holders { oldest: mut holders, count, .. } =
                found.remove(inode).unwrap_or_default();
            holders.sort_by_key(age);
            let owner = holders.first().map(|holder| {
                let Found { process, .. } = self.find(holder, &mut processes);
                Owner { process, fds: holder.fds.clone(), holders: count }
            });
            let start = owner.as_ref().and_then(|it| processes.get(&it.process.pid)?.start_ticks);
            let mut candidates = Vec::new();
            if holders.len() > 1 {
                candidates.extend(holders.iter().map(|holder| {
                    let Found { process, parent, .. } = self.find(holder, &mut processes);
                    Candidate { process, parent }
                }));
            }
            let generation = self.generation;
            // The first look-up after a process's end finds no other: the socket goes with it.
            if owner.is_none()
                && let Some(entry) = self.known.get_mut(inode)
                && entry.ended
                && entry.looked_up == 0
            {
                entry.looked_up = generation;
                continue;
            }
            let entry = Entry {
                owner,
                candidates,
                looked_up: generation,
                seen: generation,
                start_ticks: start,
                ended: false,
            };
            self.known.insert(*inode, entry);
        }
    }

    /// The answer of /proc about a holder, read once in each pass.
    fn find(&mut self, holder: &Holder, processes: &mut HashMap<u32, Found>) -> Found {
        if let Some(found) = processes.get(&holder.pid) {
            return found.clone();
        }
        let started = Timestamp::from_ns(holder.start_ns);
        let process = self.processes.read(holder.pid, holder.name.clone(), Some(started));
        if process.exe.is_none() && is_unreadable(holder.pid) {
            self.unreadable.insert(holder.pid);
        } else {
            self.unreadable.remove(&holder.pid);
        }
        let found = Found {
            process: Arc::new(process),
            start_ticks: start_ticks(holder.pid),
            parent: parent_of(holder.pid),
        };
        processes.insert(holder.pid, found.clone());
        found
    }
}

fn of_sockets(count: usize, why: &str) -> NotSeen {
    let noun = if count == 1 { "socket" } else { "sockets" };
    NotSeen::new(Unseen::Owners, format!("owners of {count} {noun}"), why).counted(count as u64)
}

/// Whether /proc refuses to show the executable. Kernel threads have none, and are not refused.
fn is_unreadable(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe"))
        .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The oldest process first; but pid 1 last, which under socket activation holds what others serve.
fn age(holder: &Holder) -> (bool, u64, u32) {
    (holder.pid == 1, holder.start_ns, holder.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pid: u32, start_ns: u64) -> Holder {
        Holder { pid, start_ns, name: String::new(), fds: Vec::new() }
    }

    #[test]
    fn a_shared_socket_belongs_to_the_oldest_process_except_pid_1() {
        let mut holders = [holder(1, 0), holder(300, 9), holder(200, 5)];
        holders.sort_by_key(age);
        assert_eq!(holders.map(|holder| holder.pid), [200, 300, 1]);
    }
}
