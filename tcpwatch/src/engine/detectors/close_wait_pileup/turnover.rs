//! How many of a group's sockets leave it.
//!
//! A number that stands still says nothing by itself: the same sockets may stay for ever, or each
//! may be closed late and another take its place. So a few sockets are followed one by one. Which
//! of the two it means is said in the parent module.

use std::{
    collections::BTreeSet,
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
pub(crate) struct Present(BTreeSet<u64>);

impl Present {
    /// All sockets in CLOSE_WAIT of a namespace: one that another look finds with another owner
    /// has not left.
    pub(crate) fn new(sockets: &[CloseWaitSocket]) -> Self {
        Self(sockets.iter().map(identity).collect())
    }
}

/// The kernel may give the memory of one socket to the next, so `id` is not enough. As a hash,
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
    /// Takes the group as it is now, in the order of the walk, with all sockets that are there. These
    /// may be cut: then only the first of the walk are there, and one that comes after the last
    /// that is still there has perhaps not left. `None` until half a window has been watched: what
    /// stays longer than `min_age` may still leave soon.
    pub(crate) fn observe(
        &mut self,
        group: &[&CloseWaitSocket],
        (present, is_cut): (&Present, bool),
        window: Duration,
        now: Timestamp,
    ) -> Option<Leaving> {
        // The order of the walk is that of the kernel's table, where no socket moves.
        let is_there = |id: &u64| present.0.contains(id);
        let last = self.followed.iter().rposition(is_there);
        let seen = if is_cut { last.map_or(0, |last| last + 1) } else { self.followed.len() };
        let had_some = !self.followed.is_empty();
        let gone = self.followed[..seen].iter().filter(|id| !is_there(id)).count();
        let left = self.left.observe(gone as u64, window, now).in_window;
        let mut ids: Vec<(u64, usize)> =
            group.iter().enumerate().map(|(place, socket)| (identity(socket), place)).collect();
        // Those with the smallest hashes are a sample of all that are there now, and mostly the
        // same at the next look.
        if ids.len() > FOLLOWED {
            ids.select_nth_unstable(FOLLOWED);
            ids.truncate(FOLLOWED);
        }
        ids.sort_unstable_by_key(|(_, place)| *place);
        self.followed = ids.into_iter().map(|(id, _)| id).collect();
        self.followed.shrink_to_fit();
        if seen == 0 && had_some {
            // All of them may have been cut off: it begins again.
            *self = Self { followed: std::mem::take(&mut self.followed), ..Self::default() };
        }
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
            progress: None,
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
        let group: Vec<_> = sockets.iter().collect();
        turnover.observe(&group, (&present, false), WINDOW, at(second))
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
        // No socket leaves from then on.
        let leaving = see(&mut turnover, 5_000..15_000, 901).expect("still watched");
        assert_eq!(leaving.left, 0);
    }

    fn see_cut(turnover: &mut Turnover, sockets: &[CloseWaitSocket], second: u64) -> Leaving {
        let group: Vec<_> = sockets.iter().collect();
        let present = (&Present::new(sockets), true);
        turnover
            .observe(&group, present, WINDOW, at(second))
            .unwrap_or(Leaving { followed: 0, left: 0 })
    }

    #[test]
    fn a_socket_that_is_cut_off_has_not_left_and_one_between_has() {
        let all = sockets(0..100);
        let mut turnover = Turnover::default();
        see_cut(&mut turnover, &all, 0);
        // Others have come in front, so fewer of the old ones are described.
        let mut later = sockets(1_000..1_060);
        later.extend_from_slice(&all[..40]);
        assert_eq!(see_cut(&mut turnover, &later, 300).left, 0);

        let mut turnover = Turnover::default();
        see_cut(&mut turnover, &all, 0);
        let every_other: Vec<_> = all.iter().step_by(2).cloned().collect();
        let Leaving { followed, left } = see_cut(&mut turnover, &every_other, 300);
        assert_eq!(followed, 50);
        assert!((16..48).contains(&left), "{left}");
    }

    #[test]
    fn a_socket_whose_memory_is_used_again_has_left() {
        let mut turnover = Turnover::default();
        see(&mut turnover, 0..1, 0);
        let socket = sockets(0..1).remove(0);
        let mut other = socket.clone();
        other.local.port += 1;
        let present = Present::new(std::slice::from_ref(&other));
        let leaving = turnover.observe(&[&other], (&present, false), WINDOW, at(300));
        assert_eq!(leaving, Some(Leaving { followed: 1, left: 1 }));
        // One that another group has now is still there.
        let both = [socket, other];
        let leaving = turnover.observe(&[&both[0]], (&Present::new(&both), false), WINDOW, at(310));
        assert_eq!(leaving, Some(Leaving { followed: 1, left: 1 }));
    }
}
