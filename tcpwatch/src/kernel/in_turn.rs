//! Counters of the namespaces that the one pass sees: files of /proc, of any process there.
//!
//! They cost a quarter of a millisecond a namespace, so on a host with many they are read in turn, and
//! each namespace keeps what was read last. A namespace without a process has them only where the
//! agent may enter it; else they are absent.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Walker,
    error::InventoryError,
    limits,
    namespaces::{FoundNamespace, inode_of_link},
    reach::{LeftOut, Step},
    records::Copied,
    settings,
};
use crate::facts::{Conntrack, NetnsId, NetstatCounters, Timestamp};

/// Time for counters in each inventory: of some 100 namespaces. It is half of the time that the walk takes
/// of some 300,000 sockets: 1,000 namespaces are not to cost more than all of their sockets.
const SHARE: Duration = Duration::from_millis(25);
/// Time for those that have no counters yet, and for those with listeners that are due.
const MOST: Duration = Duration::from_millis(250);
/// A namespace with listeners is due after that, so that its counters are never older than a minute.
const DUE: Duration = Duration::from_secs(30);

/// Counters of one namespace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    netstat: Option<NetstatCounters>,
    conntrack: Option<(Conntrack, Option<u64>)>,
}

/// The last reading of each namespace, and its time.
pub(super) type InTurn = HashMap<NetnsId, (Counters, Timestamp)>;

impl Walker {
    /// Gives each namespace its counters; `found` is where each may be reached. The first is the
    /// agent's own.
    pub(super) fn read_counters(
        &mut self,
        copied: &mut [Copied],
        found: &[Option<&FoundNamespace>],
        left_out: &mut LeftOut,
    ) -> Result<(), InventoryError> {
        let began = Instant::now();
        let now = super::now();
        let age =
            |walker: &Self, id: NetnsId| walker.in_turn.get(&id).map(|(_, read)| now.since(*read));
        let mut turn: Vec<usize> = (0..copied.len()).collect();
        // The oldest first, and those without any before them.
        turn.sort_by_key(|at| {
            let namespace = &copied[*at];
            let age = age(self, namespace.namespace.id);
            let is_due = !namespace.listeners.is_empty() && age.is_none_or(|age| age >= DUE);
            (*at != 0, age.is_some(), !is_due, std::cmp::Reverse(age))
        });
        for at in turn {
            let id = copied[at].namespace.id;
            let age = age(self, id);
            let must = age.is_none_or(|age| age >= DUE && !copied[at].listeners.is_empty());
            let spent = began.elapsed();
            if at != 0 && (spent > MOST || spent > SHARE && !must) {
                break;
            }
            let Some(found) = found[at] else { continue };
            match self.counters_of(found, at == 0) {
                Ok(Some(counters)) => {
                    self.in_turn.insert(id, (counters, now));
                }
                Ok(None) => {}
                Err(error) => left_out.add(Step::Counters, Some(&error), &found.name),
            }
        }
        self.come_home()?;
        let ids: HashSet<NetnsId> = copied.iter().map(|it| it.namespace.id).collect();
        self.in_turn.retain(|id, _| ids.contains(id));
        for copied in copied {
            let namespace = &mut copied.namespace;
            let Some((counters, read)) = self.in_turn.get(&namespace.id) else { continue };
            namespace.netstat = counters.netstat;
            let (conntrack, invalid) = counters.conntrack.unzip();
            (namespace.conntrack, namespace.conntrack_invalid) = (conntrack, invalid.flatten());
            namespace.counters_read = (*read != now).then_some(*read);
        }
        Ok(())
    }

    /// Through a process of the namespace, else by entering it; `None` where it has gone.
    fn counters_of(
        &mut self,
        found: &FoundNamespace,
        is_home: bool,
    ) -> io::Result<Option<Counters>> {
        if is_home {
            let is_home = self.come_home().is_ok();
            return Ok(is_home.then(|| read("thread-self")));
        }
        if let Some(pid) = found.process {
            let counters = read(&pid.to_string());
            // Another process may have its number by now.
            let link = fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns/net"));
            if link.is_ok_and(|link| inode_of_link(&link, "net") == Some(found.inode)) {
                return Ok(Some(counters));
            }
        }
        let entered = found.enter()?;
        self.away |= entered;
        Ok(entered.then(|| read("thread-self")))
    }
}

fn read(process: &str) -> Counters {
    Counters {
        netstat: settings::read_netstat(process),
        conntrack: limits::read_conntrack(process),
    }
}
