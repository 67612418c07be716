//! Resets by process and service, as they are remembered from one reading of the kernel side's tables to the
//! next. A count only grows while it is remembered, and so does the sum of a service's rows.
//!
//! Their number is bounded whatever processes and ports come and go. The engine takes a row that is missing
//! beside others of its service for one that has another process now, so rows are joined and not dropped,
//! and a service goes as a whole.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::heap::shrink_sparse;
use crate::facts::{NetnsId, ResetObservation, Role, TcpState};

/// Readings after which a count that has not moved is forgotten: twenty minutes at the default
/// interval. If it moves again it counts on from 0.
pub(super) const QUIET_AFTER: u64 = 120;

/// Rows that are remembered when a reading begins, which adds 6,144 at most, all that the tables hold.
/// Together they are as many as the engine follows, so that a service is forgotten here first: were it
/// there, all of its resets would look new.
const MOST: usize = 10_240;

/// Rows of one service that have not grown since the last reading, of processes that came and went. More
/// are joined in one without a process.
const MOST_IDLE: usize = 128;

/// A row that is as near to its end stays as it is: the engine may have forgotten it already.
const MARGIN: u64 = 10;

/// The key of one [`ResetCount`](crate::facts::ResetCount).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) service: Service,
    /// 0 for none.
    pub(super) tgid: u32,
}

/// The same, by any process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Service {
    pub(super) netns: NetnsId,
    pub(super) role: Role,
    pub(super) port: u16,
    pub(super) seen: ResetObservation,
}

/// A port in a namespace, on the side of the connection that this host was.
pub(super) type Place = (NetnsId, Role, u16);

impl Service {
    pub(super) const fn place(&self) -> Place {
        (self.netns, self.role, self.port)
    }

    /// Whether there was a connection that a process had. One in TIME_WAIT has no process but the
    /// listener's.
    pub(super) fn has_connection(&self) -> bool {
        self.seen.state.is_some_and(|state| state != TcpState::TimeWait)
    }
}

/// A group's count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    pub(super) count: u64,
    /// The reading that found it grown.
    pub(super) grown: u64,
    pub(super) comm: [u8; 16],
    pub(super) last_peer: Option<IpAddr>,
    pub(super) other_port: u16,
    /// See [`ResetOriginUse::peers`](tcpwatch_common::ResetOriginUse::peers).
    pub(super) peers: u64,
    pub(super) other_ports: u64,
}

/// The counts of all groups.
#[derive(Debug, Default)]
pub(super) struct Totals(HashMap<Group, Total>);

impl Totals {
    /// Those of one group, zeros where it is new.
    pub(super) fn of(&mut self, group: Group) -> &mut Total {
        self.0.entry(group).or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Group, &Total)> {
        self.0.iter()
    }

    /// Places that have had resets.
    pub(super) fn places(&self) -> HashSet<Place> {
        self.0.keys().map(|group| group.service.place()).collect()
    }

    /// Forgets what is quiet, and joins what is idle, at the end of this reading.
    pub(super) fn forget(&mut self, reading: u64) {
        self.0.retain(|_, total| reading - total.grown <= QUIET_AFTER);
        self.join_idle(reading);
        shrink_sparse(&mut self.0);
    }

    /// Joins the rows of each service that have not grown, but for the latest. The row that they are joined
    /// in has grown by that, so that the engine sees all of it in this reading.
    fn join_idle(&mut self, reading: u64) {
        if self.0.len() <= MOST_IDLE {
            return;
        }
        let mut idle: HashMap<Service, Vec<(u64, u32)>> = HashMap::new();
        for (group, total) in &self.0 {
            let age = reading - total.grown;
            if group.tgid != 0 && age > 0 && age < QUIET_AFTER - MARGIN {
                idle.entry(group.service).or_default().push((total.grown, group.tgid));
            }
        }
        for (service, mut rows) in idle {
            if rows.len() <= MOST_IDLE {
                continue;
            }
            rows.sort_unstable();
            let to_join = &rows[..rows.len() - MOST_IDLE / 2];
            for (_, tgid) in to_join {
                let Some(row) = self.0.remove(&Group { service, tgid: *tgid }) else { continue };
                let joined = self.of(Group { service, tgid: 0 });
                joined.count += row.count;
                joined.grown = reading;
                joined.last_peer = joined.last_peer.or(row.last_peer);
                joined.other_port = row.other_port;
                joined.peers |= row.peers;
                joined.other_ports |= row.other_ports;
            }
        }
    }

    /// Drops the services that have grown longest ago, each with all of its rows. Before a reading, when all
    /// that the last one added has been reported.
    pub(super) fn drop_idle_services(&mut self) {
        if self.0.len() <= MOST {
            return;
        }
        let mut services: HashMap<Service, (u64, usize)> = HashMap::new();
        for (group, total) in &self.0 {
            let (grown, rows) = services.entry(group.service).or_default();
            *grown = total.grown.max(*grown);
            *rows += 1;
        }
        let mut latest_first: Vec<_> = services.into_iter().collect();
        latest_first.sort_by_key(|(_, (grown, _))| std::cmp::Reverse(*grown));
        let mut space = MOST;
        let mut kept = HashSet::new();
        for (service, (_, rows)) in latest_first {
            let Some(left) = space.checked_sub(rows) else { break };
            space = left;
            kept.insert(service);
        }
        self.0.retain(|group, _| kept.contains(&group.service));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(port: u16, tgid: u32) -> Group {
        let seen = ResetObservation::default();
        Group {
            service: Service { netns: NetnsId::default(), role: Role::Client, port, seen },
            tgid,
        }
    }

    fn count(totals: &mut Totals, group: Group, count: u64, reading: u64) {
        let total = totals.of(group);
        total.count += count;
        total.grown = reading;
    }

    fn sum(totals: &Totals, port: u16) -> u64 {
        let of_port = totals.iter().filter(|(group, _)| group.service.port == port);
        of_port.map(|(_, total)| total.count).sum()
    }

    /// As many as the tables hold, in each reading.
    #[test]
    fn processes_that_come_and_go_leave_a_bounded_number_of_rows_and_no_reset() {
        let mut totals = Totals::default();
        for reading in 1..=QUIET_AFTER {
            for process in 0..4_096 {
                count(&mut totals, group(80, reading as u32 * 4_096 + process), 1, reading);
            }
            totals.forget(reading);
            assert_eq!(sum(&totals, 80), reading * 4_096, "no reset is lost");
            let rows = totals.iter().count();
            assert!(rows <= 4_096 + 1 + MOST_IDLE, "{rows} rows in reading {reading}");
            let joined = totals.of(group(80, 0)).grown;
            assert!(reading == 1 || joined == reading, "it is reported in this reading");
        }
        totals.forget(2 * QUIET_AFTER + 1);
        assert_eq!((totals.iter().count(), totals.0.capacity() < 2_048), (0, true));
    }

    #[test]
    fn services_go_as_a_whole_and_the_longest_idle_first() {
        let mut totals = Totals::default();
        // An old row beside a new one, and a service that is old.
        count(&mut totals, group(1, 7), 1_000, 1);
        count(&mut totals, group(2, 7), 5, 1);
        count(&mut totals, group(1, 8), 3, 9);
        for port in 0..MOST as u16 - 2 {
            count(&mut totals, group(10 + port, 0), 1, 9);
        }
        totals.forget(9);
        totals.drop_idle_services();
        assert_eq!((sum(&totals, 1), sum(&totals, 2)), (1_003, 0));
        assert_eq!(totals.iter().count(), MOST);
    }
}
