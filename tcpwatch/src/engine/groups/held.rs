//! Sockets that processes hold: how the kinds that judge such group and name them.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    engine::{evidence::EvidenceMap, finding::Subject},
    facts::{
        CloseWaitSocket, Endpoint, Owner, Process, Role, StalledSocket, Timestamp, WaitingSocket,
    },
};

/// Descriptors named in the subject.
const FDS: usize = 8;
/// Sockets described in the evidence: enough to find them with `ss`.
const SAMPLES: usize = 3;

/// A socket that a process may hold.
pub(crate) trait Held {
    fn owner(&self) -> Option<&Owner>;
    fn local(&self) -> Endpoint;
    fn peer(&self) -> Endpoint;
    fn role(&self) -> Role;
    fn service_port(&self) -> u16;
    fn since(&self) -> Timestamp;

    fn process(&self) -> Option<&Process> {
        self.owner().map(|owner| &*owner.process)
    }
}

macro_rules! held {
    ($($socket:ty: $since:expr),+) => {
        $(impl Held for $socket {
            fn owner(&self) -> Option<&Owner> {
                self.owner.as_ref()
            }

            fn local(&self) -> Endpoint {
                self.local
            }

            fn peer(&self) -> Endpoint {
                self.peer
            }

            fn role(&self) -> Role {
                self.role
            }

            fn service_port(&self) -> u16 {
                self.service_port()
            }

            fn since(&self) -> Timestamp {
                let since: fn(&$socket) -> Timestamp = $since;
                since(self)
            }
        })+
    };
}
held!(
    CloseWaitSocket: |it| it.since,
    WaitingSocket: |it| it.since,
    StalledSocket: |it| it.quiet_since()
);

/// Sockets by process, those of the largest first, the oldest of each first.
pub(crate) type Holders<'a, S> = Vec<(u32, Vec<&'a S>)>;

pub(crate) fn holders<'a, S: Held>(sockets: &[&'a S]) -> Holders<'a, S> {
    let mut by_pid: BTreeMap<u32, Vec<&S>> = BTreeMap::new();
    for socket in sockets {
        if let Some(process) = socket.process() {
            by_pid.entry(process.pid).or_default().push(socket);
        }
    }
    let mut holders: Holders<'a, S> = by_pid.into_iter().collect();
    holders.iter_mut().for_each(|(_, held)| held.sort_by_key(|socket| socket.since()));
    holders.sort_by_key(|(_, held)| Reverse(held.len()));
    holders
}

/// Fills in the process that holds most, with the descriptors of its oldest sockets.
pub(crate) fn name_holder(subject: &mut Subject, holders: &Holders<'_, impl Held>) {
    let Some((_, held)) = holders.first() else { return };
    let owners = || held.iter().filter_map(|socket| socket.owner());
    if let Some(owner) = owners().next() {
        subject.set_process(&owner.process);
    }
    subject.fds = owners().flat_map(|owner| owner.fds.iter().copied()).take(FDS).collect();
}

/// The oldest sockets as evidence, each with what `add` knows of it besides.
pub(crate) fn oldest_samples<S: Held>(
    sockets: &[&S],
    now: Timestamp,
    add: impl Fn(&S, &mut EvidenceMap),
) -> Vec<EvidenceMap> {
    let mut oldest_first = sockets.to_vec();
    oldest_first.sort_by_key(|socket| socket.since());
    let sample = |socket: &S| {
        let mut sample = EvidenceMap::default();
        sample
            .text("local", socket.local().to_string())
            .text("peer", socket.peer().to_string())
            .number("age_seconds", now.since(socket.since()).as_secs_f64());
        add(socket, &mut sample);
        if let Some(owner) = socket.owner() {
            sample.process(&owner.process);
            if let Some(fd) = owner.fds.first() {
                sample.count("fd", u64::from(*fd));
            }
        }
        sample
    };
    oldest_first.into_iter().take(SAMPLES).map(sample).collect()
}
