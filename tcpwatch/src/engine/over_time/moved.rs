//! How far a counter has moved lately.
//!
//! A finding from a counter, or from events that are counted, is raised by how far the counter
//! moved within a window. It holds for that window after the last move.

use std::time::Duration;

use crate::{engine::over_time::window::Window, facts::Timestamp};

/// Parts that a window is split into: a move is forgotten at most a sixth of the window late.
const PARTS: u32 = 6;

/// The moves of one counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moved {
    /// Since it began to move, without a pause of a window.
    total: u64,
    /// Those of the last window.
    recent: Window<u64>,
}

/// The moves as they are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves {
    /// Since it began to move; 0 when it has been still for a window.
    pub(crate) total: u64,
    /// Within the window.
    pub(crate) in_window: u64,
    /// From the first move within the window to the last.
    pub(crate) lasted: Duration,
}

impl Moved {
    /// Takes what has been added since the last time, and says how much it is altogether.
    pub(crate) fn observe(&mut self, added: u64, window: Duration, now: Timestamp) -> Moves {
        self.recent.forget(|part| now.since(part.ended) > window);
        if self.recent.is_empty() {
            self.total = 0;
        }
        if added > 0 {
            self.total = self.total.saturating_add(added);
            let merge = |sum: &mut u64, added| *sum = sum.saturating_add(added);
            self.recent.add(added, (now, now), window / PARTS, merge);
        }
        let first = self.recent.iter().next().map_or(now, |part| part.began);
        let last = self.recent.iter().next_back().map_or(now, |part| part.ended);
        Moves {
            total: self.total,
            in_window: self.recent.iter().fold(0, |sum, part| sum.saturating_add(part.value)),
            lasted: last.since(first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn at(second: u64) -> Timestamp {
        Timestamp::from_ns(second * 1_000_000_000)
    }

    #[test]
    fn moves_are_reported_for_a_window_after_the_last_move_and_summed_within_one() {
        let mut moved = Moved::default();
        let mut reported = |added, second| {
            let moves = moved.observe(added, WINDOW, at(second));
            (moves.total, moves.in_window, moves.lasted.as_secs())
        };
        assert_eq!(reported(0, 0), (0, 0, 0));
        assert_eq!(reported(3, 100), (3, 3, 0));
        assert_eq!(reported(2, 109), (5, 5, 9), "one part of the window");
        assert_eq!(reported(1, 110), (6, 6, 10), "another");
        assert_eq!(reported(0, 169), (6, 6, 10), "the last of the first part is a window ago");
        assert_eq!(reported(0, 170), (6, 1, 0));
        assert_eq!(reported(4, 170), (10, 5, 60));
        assert_eq!(reported(0, 230), (10, 4, 0));
        assert_eq!(reported(0, 231), (0, 0, 0));
        assert_eq!(reported(7, 231), (7, 7, 0));
    }

    #[test]
    fn moves_are_kept_in_few_parts_however_many_there_are() {
        let mut moved = Moved::default();
        for second in 0..10_000 {
            let moves = moved.observe(2, WINDOW, at(second));
            assert!(moves.in_window <= 2 * 71, "{moves:?}");
            assert!(moves.in_window >= 2 * 61 || second < 60, "{moves:?}");
            assert!(moved.recent.iter().len() <= 8, "{}", moved.recent.iter().len());
        }
        // Time that runs backwards adds to what is there.
        assert_eq!(moved.observe(1, WINDOW, at(0)).total, 20_001);
        let all = moved.observe(u64::MAX, WINDOW, at(10_000));
        assert_eq!((all.total, all.in_window), (u64::MAX, u64::MAX));
    }
}
