//! Places for connections: which connection is closed when all are taken.
//!
//! A new connection always gets a place, so that no client keeps a scraper out by holding
//! connections. When all places are taken one connection is closed. It is the one that waits
//! longest for its client, else the one with the client that has not read for longest, else the
//! oldest. A peer that has its share closes one of its own.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::{AbortHandle, Id},
    time::Instant,
};

/// The share of one peer is a quarter of all places, so that three misbehaving scrapers leave a
/// quarter to others.
const SHARES: usize = 4;

/// A share is no smaller than this if there are as many places: a browser opens six connections.
const SMALLEST_SHARE: usize = 8;

/// One place of so many is not for loopback. All processes of this host are one peer there, so
/// their share is large; and a scraper from elsewhere always finds a place.
const NOT_FOR_LOOPBACK: usize = 8;

/// A client that reads takes a written answer within this time.
const STALLED: Duration = Duration::from_secs(1);

/// One client: this host, an IPv4 address, or the network of an IPv6 address, of
/// which a host can use each address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer(IpAddr);

impl Peer {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            address if address.is_loopback() => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Ipv6Addr::from_bits(network).into()
            }
        })
    }

    /// How many of `places` it can have.
    fn share(self, places: usize) -> usize {
        if self.0.is_loopback() {
            return places - places / NOT_FOR_LOOPBACK;
        }
        (places / SHARES).max(SMALLEST_SHARE).min(places)
    }
}

/// The event that a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client: its next request, or the missing part of it.
    Request,
    /// The agent: an answer.
    Answer,
    /// The client: that it reads the answer.
    Reading {
        /// The whole answer is in the buffers of the connection.
        is_complete: bool,
    },
}

/// The activity of one connection, reported by its parts.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Since when.
    since: Instant,
    /// When the client last read.
    read: Instant,
}

impl Activity {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(State { phase: Phase::Request, since: now, read: now })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let now = Instant::now();
        *self.state() = State { phase, since: now, read: now };
    }

    /// A whole request has come.
    pub(super) fn request_came(&self) {
        self.enter(Phase::Answer);
    }

    /// The answer begins to be written.
    pub(super) fn answer_begins(&self) {
        self.enter(Phase::Reading { is_complete: false });
    }

    /// Nothing is added to the answer any more.
    pub(super) fn answer_is_complete(&self) {
        let mut state = self.state();
        if let Phase::Reading { is_complete } = &mut state.phase {
            *is_complete = true;
        }
    }

    /// The client, or the kernel for it, has taken something.
    pub(super) fn client_has_read(&self) {
        self.state().read = Instant::now();
    }

    /// Nothing is left to be written for now.
    pub(super) fn all_is_written(&self) {
        let phase = self.state().phase;
        if phase == (Phase::Reading { is_complete: true }) {
            self.enter(Phase::Request);
        }
    }

    /// How long an answer has been under way to a client that does not read fast enough.
    pub(super) fn reading_for(&self) -> Duration {
        let state = self.state();
        match state.phase {
            Phase::Reading { .. } => state.since.elapsed(),
            Phase::Request | Phase::Answer => Duration::ZERO,
        }
    }

    /// The least is closed first.
    fn worth(&self, began: Instant) -> (u8, Instant) {
        let state = self.state();
        match state.phase {
            Phase::Request => (0, state.since),
            Phase::Reading { .. } if state.read.elapsed() >= STALLED => (1, state.read),
            Phase::Reading { .. } | Phase::Answer => (2, began),
        }
    }
}

struct Place {
    peer: Peer,
    began: Instant,
    activity: Activity,
    task: AbortHandle,
}

/// All places that are taken.
pub(super) struct Places {
    limit: usize,
    taken: HashMap<Id, Place>,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: HashMap::with_capacity(limit) }
    }

    /// Makes a place for a connection of `peer`, which it must [`take`](Self::take) then.
    pub(super) fn make(&mut self, peer: Peer) {
        let own = self.taken.values().filter(|place| place.peer == peer).count();
        if own >= peer.share(self.limit) {
            self.close_one(|place| place.peer == peer);
        } else if self.taken.len() >= self.limit {
            self.close_one(|_| true);
        }
    }

    fn close_one(&mut self, may: impl Fn(&Place) -> bool) {
        let candidates = self.taken.iter().filter(|(_, place)| may(place));
        let worst = candidates.min_by_key(|(_, place)| place.activity.worth(place.began));
        let Some(id) = worst.map(|(id, _)| *id) else { return };
        if let Some(place) = self.taken.remove(&id) {
            place.task.abort();
        }
    }

    pub(super) fn take(&mut self, peer: Peer, activity: Activity, task: AbortHandle) {
        self.taken.insert(task.id(), Place { peer, began: Instant::now(), activity, task });
    }

    /// A connection has ended.
    pub(super) fn free(&mut self, task: Id) {
        self.taken.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(address: &str, places: usize) -> usize {
        Peer::of(address.parse().expect("an address")).share(places)
    }

    #[test]
    fn loopback_leaves_an_eighth_and_another_peer_has_a_quarter() {
        assert_eq!((share("127.0.0.1", 64), share("192.0.2.1", 64)), (56, 16));
        assert_eq!((share("::ffff:127.0.0.9", 64), share("2001:db8::1", 64)), (56, 16));
        assert_eq!((share("127.0.0.1", 1), share("192.0.2.1", 1)), (1, 1));
        assert_eq!((share("127.0.0.1", 10), share("192.0.2.1", 10)), (9, 8));
    }

    #[test]
    fn hosts_of_an_ipv6_network_are_one_peer() {
        let peer = |address: &str| Peer::of(address.parse().expect("an address"));
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!(peer("127.0.0.1"), peer("::1"));
    }
}
