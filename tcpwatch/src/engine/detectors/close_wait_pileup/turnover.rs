//! How many of a group's sockets leave it.
//!
//! A number that stands still says nothing by itself: the same sockets may stay for ever, or each
//! may be closed late and another take its place. So a few sockets are followed one by one. Which
//! of the two it means is said in the parent module.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::{
    engine::over_time::moved::Moved,
    facts::{CloseWaitSocket, Timestamp},
};

/// Sockets of a group that are followed. If a tenth of all leave, 64 show it nearly always.
const FOLLOWED: usize = 64;

/// The sockets that are there, by what tells one from another.
#[derive(Debug, Default)]
pub(crate) struct Present(HashSet<u64>);

impl Present {
    /// All sockets in CLOSE_WAIT of a namespace: one that another look finds with another owner
    /// has not left.
    pub(crate) fn new(sockets: &[CloseWaitSocket]) -> Self {
        Self(sockets.iter().map(identity).collect())
    }
}

/// The kernel may give the memory of one socket to the next, so `id` alone is not enough. As a hash,
/// because it is short, and because its order is by chance.
fn identity(socket: &CloseWaitSocket) -> u64 {
    let mut hasher = DefaultHasher::new();
    (socket.id, socket.local, socket.peer).hash(&mut hasher);
    hasher.finish()
}

/// The sockets of a group that are followed, and how many of them have left.
#[derive(Debug, Default)]
pub(crate) struct Turnover {
    /// Since when sockets are followed without a gap.
    since: Option<Timestamp>,
    followed: Vec<u64>,
    left: Moved,
}

/// How many leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// Sockets that are followed.
    pub(crate) followed: u64,
    /// Of these and those before them, which left within the window.
    pub(crate) left: u64,
}

impl Turnover {
    /// Takes the group as it is now. `None` until half a window has been watched: what stays
    /// longer than `min_age` may still leave soon.
    pub(crate) fn observe(
        &mut self,
        group: &[&CloseWaitSocket],
        present: &Present,
        window: Duration,
        now: Timestamp,
    ) -> Option<Leaving> {
        let gone = self.followed.iter().filter(|id| !present.0.contains(id)).count();
        let left = self.left.observe(gone as u64, window, now).in_window;
        let mut ids: Vec<u64> = group.iter().map(|socket| identity(socket)).collect();
        // Those with the smallest hashes are a sample of all that are there now, and mostly the
        // same at the next look.
        if ids.len() > FOLLOWED {
            ids.select_nth_unstable(FOLLOWED);
            ids.truncate(FOLLOWED);
        }
        ids.shrink_to_fit();
        self.followed = ids;
        let since = *self.since.get_or_insert(now);
        let followed = self.followed.len() as u64;
        (now.since(since) >= window / 2).then_some(Leaving { followed, left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Endpoint, Role};

    const WINDOW: Duration = Duration::from_secs(600);

    fn at(second: u64) -> Timestamp {
        Timestamp::from_ns(second * 1_000_000_000)
    }

    fn sockets(ids: std::ops::Range<u64>) -> Vec<CloseWaitSocket> {
        let end = |port| Endpoint { address: std::net::Ipv4Addr::LOCALHOST.into(), port };
        let socket = |id| CloseWaitSocket {
            id,
            local: end(40_000),
            peer: end(443),
            role: Role::Client,
            since: at(0),
            since_exact: true,
            recv_queue: 0,
            unaccepted: false,
            owner: None,
            owner_pending: false,
            stack: None,
        };
        ids.map(socket).collect()
    }

    fn see(turnover: &mut Turnover, ids: std::ops::Range<u64>, second: u64) -> Option<Leaving> {
        let sockets = sockets(ids);
        let present = Present::new(&sockets);
        turnover.observe(&sockets.iter().collect::<Vec<_>>(), &present, WINDOW, at(second))
    }

    #[test]
    fn nothing_is_said_before_half_a_window_was_watched() {
        let mut turnover = Turnover::default();
        assert_eq!(see(&mut turnover, 0..10, 0), None);
        assert_eq!(see(&mut turnover, 5..15, 299), None);
        assert_eq!(
            see(&mut turnover, 5..15, 300),
            Some(Leaving { followed: 10, left: 5 }),
            "those that left before count"
        );
    }

    #[test]
    fn a_sample_shows_the_share_that_leaves_and_is_bounded() {
        let mut turnover = Turnover::default();
        see(&mut turnover, 0..10_000, 0);
        // Half of them are others now.
        let leaving = see(&mut turnover, 5_000..15_000, 300).expect("half a window has passed");
        assert_eq!(leaving.followed, 64);
        assert!((16..48).contains(&leaving.left), "{leaving:?}");
        assert!(turnover.followed.capacity() <= FOLLOWED);
        // And nobody leaves from then on.
        let leaving = see(&mut turnover, 5_000..15_000, 901).expect("still watched");
        assert_eq!(leaving.left, 0);
    }

    #[test]
    fn a_socket_whose_memory_is_used_again_has_left() {
        let mut turnover = Turnover::default();
        see(&mut turnover, 0..1, 0);
        let socket = sockets(0..1).remove(0);
        let mut other = socket.clone();
        other.local.port += 1;
        let present = Present::new(std::slice::from_ref(&other));
        let leaving = turnover.observe(&[&other], &present, WINDOW, at(300));
        assert_eq!(leaving, Some(Leaving { followed: 1, left: 1 }));
        // One that another group has now is still there.
        let both = [socket, other];
        let leaving = turnover.observe(&[&both[0]], &Present::new(&both), WINDOW, at(310));
        assert_eq!(leaving, Some(Leaving { followed: 1, left: 1 }));
    }
}
