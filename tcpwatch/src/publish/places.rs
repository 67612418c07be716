//! Places for connections: which connection is closed when all are taken.
//!
//! A new connection always gets a place, so that no client keeps a scraper out by holding
//! connections. When all places are taken one connection is closed: a stream of events, whose page
//! connects again, else one that waits for its client's request, else one whose TLS handshake has begun, else one with a client that does not read, else
//! any. Among such it is one of the peer that has most, and the one that waits longest, or is oldest.
//! A peer that has its share closes one of its own. A client has a moment to send its
//! request; a burst of others waits for the end of it.

use std::{
    cmp::Reverse,
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

/// No connection that waits for its request is closed within this time. The agent reads a request
/// that came with the connection far sooner, and so a burst does not close the connection of a
/// scraper before its request is read. A full queue of 1,024 connections still gets its 56 places
/// in turn within half a second.
const MOMENT: Duration = Duration::from_millis(25);

/// The same for each step of a TLS handshake: the client's next message takes a way there and back,
/// which is 200 ms around half the earth. A silent client has [`MOMENT`] only.
const HANDSHAKE_MOMENT: Duration = Duration::from_millis(200);

/// One client: this host, an IPv4 address, or the network of an IPv6 address, of
/// which a host can use each address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer(IpAddr);

impl Peer {
    /// Stands for a request whose peer is not known.
    pub(super) const UNKNOWN: Self = Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED));

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

    fn is_this_host(self) -> bool {
        self.0.is_loopback()
    }

    /// How many of `places` it can have.
    fn share(self, places: usize) -> usize {
        if self.is_this_host() {
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
    /// The client: its next message of a TLS handshake that it has begun, or its first request.
    Handshake,
    /// The agent: an answer.
    Answer,
    /// The client: that it reads the answer.
    Reading {
        /// The whole answer is in the buffers of the connection.
        is_complete: bool,
    },
    /// A change of the agent: a stream of events goes on.
    Change,
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

    /// The client has sent something of a TLS handshake, or has finished it.
    pub(super) fn handshake_goes_on(&self) {
        self.enter(Phase::Handshake);
    }

    /// A whole request has come.
    pub(super) fn request_came(&self) {
        self.enter(Phase::Answer);
    }

    /// The answer begins to be written.
    pub(super) fn answer_begins(&self) {
        self.enter(Phase::Reading { is_complete: false });
    }

    /// A stream of events begins.
    pub(super) fn stream_begins(&self) {
        self.enter(Phase::Change);
    }

    /// Whether the answer is a stream of events.
    pub(super) fn streams(&self) -> bool {
        self.state().phase == Phase::Change
    }

    /// Nothing is added to the answer any more.
    pub(super) fn answer_is_complete(&self) {
        let mut state = self.state();
        match &mut state.phase {
            Phase::Reading { is_complete } => *is_complete = true,
            Phase::Change => {
                let now = Instant::now();
                *state =
                    State { phase: Phase::Reading { is_complete: true }, since: now, read: now };
            }
            Phase::Request | Phase::Handshake | Phase::Answer => {}
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
            Phase::Request | Phase::Handshake | Phase::Answer | Phase::Change => Duration::ZERO,
        }
    }

    /// Until when the connection keeps its place, whatever comes.
    fn kept_until(&self) -> Option<Instant> {
        let state = self.state();
        match state.phase {
            Phase::Request => Some(state.since + MOMENT),
            Phase::Handshake => Some(state.since + HANDSHAKE_MOMENT),
            Phase::Answer | Phase::Reading { .. } | Phase::Change => None,
        }
    }

    /// A class, of which the least is closed first, and within it the time that decides.
    fn worth(&self, began: Instant) -> (u8, Instant) {
        let state = self.state();
        match state.phase {
            Phase::Change => (0, began),
            Phase::Request => (1, state.since),
            Phase::Handshake => (2, state.since),
            Phase::Reading { .. } if state.read.elapsed() >= STALLED => (3, state.read),
            Phase::Reading { .. } | Phase::Answer => (4, began),
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

    /// Whether a connection of `peer` gets a place only if another is closed.
    pub(super) fn are_taken(&self, peer: Peer) -> bool {
        self.taken.len() >= self.limit || self.share_is_taken(peer)
    }

    fn share_is_taken(&self, peer: Peer) -> bool {
        let own = self.taken.values().filter(|place| place.peer == peer).count();
        own >= peer.share(self.limit)
    }

    /// Makes a place for a connection of `peer`, which it must [`take`](Self::take) then.
    ///
    /// # Errors
    ///
    /// Each connection that may be closed is new: the time to come again.
    pub(super) fn make(&mut self, peer: Peer) -> Result<(), Instant> {
        let is_full = self.taken.len() >= self.limit;
        if self.share_is_taken(peer) {
            // The clients of others do not wait for one that has its share.
            return self.close_one(|place| place.peer == peer, is_full || peer.is_this_host());
        }
        if is_full {
            return self.close_one(|_| true, true);
        }
        Ok(())
    }

    /// `may_wait`: a connection whose moment is not over keeps its place.
    fn close_one(&mut self, may: impl Fn(&Place) -> bool, may_wait: bool) -> Result<(), Instant> {
        let mut places_of = HashMap::<Peer, usize>::new();
        for place in self.taken.values() {
            *places_of.entry(place.peer).or_default() += 1;
        }
        let now = Instant::now();
        let candidates = self.taken.iter().filter(|(_, place)| may(place));
        let worst = candidates.min_by_key(|(_, place)| {
            let (class, since) = place.activity.worth(place.began);
            let is_kept = place.activity.kept_until().is_some_and(|until| now < until);
            (class, is_kept, Reverse(places_of.get(&place.peer).copied()), since)
        });
        let Some((id, place)) = worst else { return Ok(()) };
        match place.activity.kept_until() {
            Some(until) if may_wait && now < until => return Err(until),
            Some(_) | None => {}
        }
        let id = *id;
        if let Some(place) = self.taken.remove(&id) {
            place.task.abort();
        }
        Ok(())
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

    #[tokio::test]
    async fn connection_that_waits_for_its_request_is_closed_after_a_moment() {
        let peer = Peer::of("192.0.2.1".parse().expect("an address"));
        let mut places = Places::new(1);
        let activity = Activity::new();
        let task = tokio::spawn(std::future::pending::<()>());
        assert!(!places.are_taken(peer) && places.make(peer).is_ok());
        places.take(peer, activity.clone(), task.abort_handle());
        assert!(places.are_taken(peer));
        let until = places.make(peer).expect_err("it came just now");
        assert!(until - Instant::now() <= MOMENT);

        tokio::time::sleep_until(until).await;
        assert!(places.make(peer).is_ok() && !places.are_taken(peer));
        assert!(task.await.is_err_and(|error| error.is_cancelled()));

        // A connection with an answer under way gives its place at once if all are alike.
        activity.request_came();
        let task = tokio::spawn(std::future::pending::<()>());
        places.take(peer, activity, task.abort_handle());
        assert!(places.make(peer).is_ok());
    }

    #[tokio::test]
    async fn silent_connection_is_closed_before_one_whose_handshake_goes_on() {
        let peer = Peer::of("192.0.2.1".parse().expect("an address"));
        let mut places = Places::new(2);
        let take = |activity: &Activity, places: &mut Places| {
            let task = tokio::spawn(std::future::pending::<()>());
            places.take(peer, activity.clone(), task.abort_handle());
            task
        };
        let handshake = Activity::new();
        handshake.handshake_goes_on();
        let in_handshake = take(&handshake, &mut places);
        let silent = take(&Activity::new(), &mut places);
        // The silent one came last, and is closed first.
        let until = places.make(peer).expect_err("it came just now");
        assert!(until - Instant::now() <= MOMENT);
        tokio::time::sleep_until(until).await;
        assert!(places.make(peer).is_ok());
        assert!(silent.await.is_err_and(|error| error.is_cancelled()));

        // Between two handshakes the older one goes, once its moment is over.
        let _other = take(&handshake, &mut places);
        let until = places.make(peer).expect_err("it went on just now");
        assert!(until - Instant::now() > MOMENT);
        tokio::time::sleep_until(until).await;
        assert!(places.make(peer).is_ok());
        drop(in_handshake);
    }

    #[tokio::test]
    async fn peer_with_most_connections_gives_way_first() {
        let (one, other, new) = ("192.0.2.1", "192.0.2.2", "192.0.2.3");
        let peer = |address: &str| Peer::of(address.parse().expect("an address"));
        let mut places = Places::new(3);
        let mut tasks = Vec::new();
        for address in [other, one, one] {
            let activity = Activity::new();
            activity.handshake_goes_on();
            let task = tokio::spawn(std::future::pending::<()>());
            places.take(peer(address), activity, task.abort_handle());
            tasks.push(task);
        }
        let until = places.make(peer(new)).expect_err("all came just now");
        tokio::time::sleep_until(until + HANDSHAKE_MOMENT).await;
        assert!(places.make(peer(new)).is_ok());
        tokio::task::yield_now().await;
        let closed: Vec<_> = tasks.iter().map(tokio::task::JoinHandle::is_finished).collect();
        assert_eq!(closed, [false, true, false]);
    }

    #[tokio::test]
    async fn others_do_not_wait_for_a_peer_that_has_its_share() {
        let peer = Peer::of("192.0.2.1".parse().expect("an address"));
        let mut places = Places::new(64);
        let tasks: Vec<_> = (0..peer.share(64))
            .map(|_| {
                let activity = Activity::new();
                activity.handshake_goes_on();
                let task = tokio::spawn(std::future::pending::<()>());
                places.take(peer, activity, task.abort_handle());
                task
            })
            .collect();
        // Each has gone on just now, and yet one of them gives way at once.
        assert!(places.make(peer).is_ok());
        assert_eq!(places.taken.len(), tasks.len() - 1);
        assert!(places.make(Peer::of("192.0.2.2".parse().expect("an address"))).is_ok());
        assert_eq!(places.taken.len(), tasks.len() - 1);
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
