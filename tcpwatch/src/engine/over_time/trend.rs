//! Whether a number grows, and how fast.

use std::time::Duration;

use crate::{engine::over_time::window::Window, facts::Timestamp};

/// Points that are kept of a window. With the default window that is one in 9.4 s, so that every
/// inventory of the default interval is one and the quarters end where they should.
const POINTS: u32 = 64;

/// A number over a window of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trend {
    points: Window<u64>,
    last: Option<(Timestamp, u64)>,
}

impl Trend {
    /// Takes the number as it is now. `now` must not go back.
    pub(crate) fn observe(&mut self, now: Timestamp, value: u64, window: Duration) {
        self.last = Some((now, value));
        // A point is the number at the beginning of its part.
        self.points.add(value, (now, now), window / POINTS, |_, _| {});
        // One point older than the window is its beginning.
        self.points.keep_from(now - window);
    }

    /// Whether it grew in each quarter of the window that ends with the last observation. `false`
    /// until a whole window has been seen.
    pub(crate) fn grew_in_every_quarter(&self, window: Duration) -> bool {
        self.parts_grown(4, window / 4) == Some(4)
    }

    /// In how many of the last `parts` stretches of the length `part` it grew; `None` until it has
    /// been seen for all of them.
    pub(crate) fn parts_grown(&self, parts: u32, part: Duration) -> Option<u32> {
        let (now, last) = self.last?;
        let first = self.points.oldest()?.began;
        if now.since(first) < part * parts {
            return None;
        }
        let mut later = last;
        let mut grown = 0;
        for number in 1..=parts {
            let earlier = self.at(now - part * number);
            grown += u32::from(earlier < later);
            later = earlier;
        }
        Some(grown)
    }

    /// Whether it is more than it was `time` ago, or when it was first seen if that is later.
    pub(crate) fn grew_within(&self, time: Duration) -> bool {
        self.last.is_some_and(|(now, last)| last > self.at(now - time))
    }

    /// Whether the last observation is later than `time` by more than `by`.
    pub(crate) fn is_later_by(&self, time: Timestamp, by: Duration) -> bool {
        self.last.is_some_and(|(now, _)| now.since(time) > by)
    }

    /// Growth per minute since the oldest point; `None` before a tenth of the window has passed.
    pub(crate) fn per_minute(&self, window: Duration) -> Option<f64> {
        let (oldest, (to, last)) = (self.points.oldest()?, self.last?);
        let first = oldest.value;
        let elapsed = to.since(oldest.began);
        if elapsed < window / 10 {
            return None;
        }
        Some((last as f64 - first as f64) * 60.0 / elapsed.as_secs_f64())
    }

    /// Minutes until it is `limit` if it goes on like this; `None` while it does not grow, which is
    /// in each of the last two quarters of the window.
    pub(crate) fn minutes_to(&self, limit: u64, window: Duration) -> Option<f64> {
        let (_, last) = self.last?;
        let left = limit.checked_sub(last).filter(|left| *left > 0)?;
        let grows = self.parts_grown(2, window / 4) == Some(2);
        let per_minute = self.per_minute(window).filter(|it| grows && *it > 0.0)?;
        Some(left as f64 / per_minute)
    }

    /// The value at `time`: that of the last point at or before it.
    fn at(&self, time: Timestamp) -> u64 {
        let before = self.points.iter().rev().find(|point| point.began <= time);
        before.or(self.points.oldest()).map_or(0, |point| point.value)
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
    fn the_parts_that_grew_are_counted_once_all_have_been_seen() {
        let quarter = WINDOW / 4;
        // It grows until 300 s and then stands still.
        let stops = |second: u64| second.min(300);
        assert_eq!(trend_of(stops, 140).parts_grown(1, quarter), None);
        assert_eq!(trend_of(stops, 150).parts_grown(1, quarter), Some(1));
        assert_eq!(trend_of(stops, 300).parts_grown(2, quarter), Some(2));
        assert_eq!(trend_of(stops, 600).parts_grown(4, quarter), Some(2));
        assert_eq!(trend_of(stops, 600).parts_grown(2, quarter), Some(0));
        assert_eq!(trend_of(|second| 600 - second, 600).parts_grown(4, quarter), Some(0));
    }

    #[test]
    fn minutes_to_a_limit_are_reported_while_it_grows() {
        // Six a minute.
        let trend = trend_of(|second| second / 10, 600);
        let minutes = |limit| trend.minutes_to(limit, WINDOW).map(|minutes| minutes.round());
        assert_eq!(minutes(120), Some(10.0));
        assert_eq!(minutes(60), None, "it is there");
        assert_eq!(minutes(10), None, "it is beyond");
        assert_eq!(trend_of(|second| second / 10, 290).minutes_to(120, WINDOW), None, "too early");
        assert_eq!(trend_of(|second| second.min(450), 600).minutes_to(900, WINDOW), None);
    }

    #[test]
    fn growth_within_a_time_needs_no_full_window() {
        let time = Duration::from_secs(150);
        assert!(!trend_of(|_| 9, 0).grew_within(time));
        assert!(trend_of(|second| second, 10).grew_within(time));
        assert!(trend_of(|second| second.min(300), 440).grew_within(time));
        assert!(!trend_of(|second| second.min(300), 450).grew_within(time));
    }

    #[test]
    fn memory_is_bounded_however_often_it_is_observed() {
        let mut trend = Trend::default();
        for millisecond in 0..2_000_000 {
            trend.observe(Timestamp::from_ns(millisecond * 1_000_000), 0, WINDOW);
        }
        assert!(trend.points.iter().len() <= POINTS as usize + 2, "{}", trend.points.iter().len());
    }
}
