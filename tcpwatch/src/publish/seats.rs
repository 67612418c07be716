//! Seats for streams: few in all, and shared among the peers.
//!
//! A stream lasts, so the first who come would keep all others out. When all seats are taken, the
//! peer that has most gives its oldest to one that has at least two less. So two peers do not take
//! the same seat from each other in turn.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::places::Peer;

/// All seats of one kind of stream.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Of the next seat.
    number: u64,
    /// By number, so the oldest first.
    all: BTreeMap<u64, (Peer, oneshot::Sender<Infallible>)>,
}

/// A seat, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    of: Arc<Seats>,
    number: u64,
    /// Its sender is dropped when another takes the seat.
    taken_away: oneshot::Receiver<Infallible>,
}

impl Seats {
    /// So many seats.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// A seat for `peer`; `None` where no other peer has too many.
    pub(super) fn take(self: &Arc<Self>, peer: Peer) -> Option<Seat> {
        let mut taken = self.taken();
        if taken.all.len() >= self.most {
            let oldest = taken.oldest_of_most(peer)?;
            taken.all.remove(&oldest);
        }
        let number = taken.number;
        taken.number += 1;
        let (sender, taken_away) = oneshot::channel();
        taken.all.insert(number, (peer, sender));
        Some(Seat { of: Arc::clone(self), number, taken_away })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// The oldest seat of the peer that has most, at least two more than `peer`.
    fn oldest_of_most(&self, peer: Peer) -> Option<u64> {
        let count = |of: Peer| self.all.values().filter(|(it, _)| *it == of).count();
        let of_each = self.all.iter().map(|(number, (it, _))| (count(*it), *number));
        // Of equal counts the first seat.
        let (most, oldest) = of_each.max_by_key(|(count, number)| (*count, u64::MAX - number))?;
        (most >= count(peer) + 2).then_some(oldest)
    }
}

impl Seat {
    /// Returns when another peer has taken the seat.
    pub(super) async fn taken_away(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.taken_away).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.of.taken().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn peer(last: u8) -> Peer {
        Peer::of([192, 0, 2, last].into())
    }

    fn is_taken_away(seat: &mut Seat) -> bool {
        seat.taken_away.try_recv() == Err(TryRecvError::Closed)
    }

    #[test]
    fn a_peer_that_has_all_seats_gives_its_oldest_to_others() {
        let seats = Seats::new(4);
        let mut greedy: Vec<Seat> = (0..4).filter_map(|_| seats.take(peer(1))).collect();
        assert_eq!(greedy.len(), 4);
        assert!(seats.take(peer(1)).is_none(), "it takes none from itself");
        let mut others = [2, 3].map(|last| seats.take(peer(last)).expect("a seat"));
        assert_eq!(
            greedy.iter_mut().map(is_taken_away).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        // It has two now: another peer without a seat may have one of them, and the first takes none back.
        assert!(seats.take(peer(1)).is_none());
        let _fourth = seats.take(peer(4)).expect("a seat");
        assert!(seats.take(peer(5)).is_none(), "each has one");
        assert!(!others.iter_mut().any(is_taken_away));
    }

    #[test]
    fn a_seat_is_free_again_after_its_stream() {
        let seats = Seats::new(1);
        let seat = seats.take(peer(1));
        assert!(seat.is_some() && seats.take(peer(2)).is_none());
        drop(seat);
        assert!(seats.take(peer(2)).is_some());
    }

    #[test]
    fn a_stream_whose_seat_was_taken_away_frees_no_other() {
        let seats = Seats::new(2);
        let first = seats.take(peer(1));
        let _second = seats.take(peer(1));
        let _other = seats.take(peer(2)).expect("a seat");
        drop(first);
        assert!(seats.take(peer(3)).is_none());
    }
}
