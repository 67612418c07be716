//! Whether a number grows, and how fast.

use std::{collections::VecDeque, time::Duration};

use crate::facts::Timestamp;

/// Points that are kept of a window. With the default window that is one in 9.4 s, so that every
/// inventory of the default interval is one and the quarters end where they should.
const POINTS: u32 = 64;

/// A number over a window of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Trend {
    points: VecDeque<(Timestamp, u64)>,
    last: Option<(Timestamp, u64)>,
}

impl Trend {
    /// Takes the number as it is now. `now` must not go back.
    pub(super) fn observe(&mut self, now: Timestamp, value: u64, window: Duration) {
        self.last = Some((now, value));
        let due = self.points.back().is_none_or(|(at, _)| now.since(*at) >= window / POINTS);
        if due {
            self.points.push_back((now, value));
        }
        // One point older than the window is its beginning.
        while self.points.get(1).is_some_and(|(at, _)| now.since(*at) >= window) {
            self.points.pop_front();
        }
    }

    /// Whether it grew in each quarter of the window that ends with the last observation. `false`
    /// until a whole window has been seen.
    pub(super) fn grew_in_every_quarter(&self, window: Duration) -> bool {
        let Some((now, last)) = self.last else { return false };
        if self.points.front().is_none_or(|(at, _)| now.since(*at) < window) {
            return false;
        }
        let mut later = last;
        for quarter in 1..=4 {
            let earlier = self.at(now - window / 4 * quarter);
            if earlier >= later {
                return false;
            }
            later = earlier;
        }
        true
    }

    /// Growth per minute since the oldest point; `None` before a tenth of the window has passed.
    pub(super) fn per_minute(&self, window: Duration) -> Option<f64> {
        let ((from, first), (to, last)) = (*self.points.front()?, self.last?);
        let elapsed = to.since(from);
        if elapsed < window / 10 {
            return None;
        }
        Some((last as f64 - first as f64) * 60.0 / elapsed.as_secs_f64())
    }

    /// The value at `time`: that of the last point at or before it.
    fn at(&self, time: Timestamp) -> u64 {
        let before = self.points.iter().rev().find(|(at, _)| *at <= time);
        before.or(self.points.front()).map_or(0, |(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    fn trend_of(value_at: impl Fn(u64) -> u64, seconds: u64) -> Trend {
        let mut trend = Trend::default();
        for second in (0..=seconds).step_by(10) {
            let now = Timestamp::from_ns(second * 1_000_000_000);
            trend.observe(now, value_at(second), WINDOW);
        }
        trend
    }

    #[test]
    fn steady_growth_grew_in_every_quarter_once_the_window_is_full() {
        assert!(!trend_of(|second| second / 60, 590).grew_in_every_quarter(WINDOW));
        let trend = trend_of(|second| second / 60, 1_800);
        assert!(trend.grew_in_every_quarter(WINDOW));
        let rate = trend.per_minute(WINDOW).expect("a window has passed");
        assert!((rate - 1.0).abs() < 0.2, "{rate}");
    }

    #[test]
    fn growth_that_stops_for_a_quarter_is_none() {
        let stops = |second: u64| second.min(1_600);
        assert!(!trend_of(stops, 1_800).grew_in_every_quarter(WINDOW));
        assert!(!trend_of(|_| 7, 1_800).grew_in_every_quarter(WINDOW));
    }

    #[test]
    fn memory_is_bounded_however_often_it_is_observed() {
        let mut trend = Trend::default();
        for millisecond in 0..2_000_000 {
            trend.observe(Timestamp::from_ns(millisecond * 1_000_000), 0, WINDOW);
        }
        assert!(trend.points.len() <= POINTS as usize + 2, "{}", trend.points.len());
    }
}
