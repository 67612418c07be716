//! The resets of one group now, against its baseline.
//!
//! Now is the window that ends with the last inventory, by cause. The baseline is the mean of the
//! history before that window. While a storm lasts, the baseline stays as it was, so that a storm
//! is never measured by itself. Afterwards it counts as one window of it: what comes back again and
//! again raises the baseline of that group, a single one does not. One that lasts for a whole
//! history is the new baseline. This file also knows whether a storm is more than one burst. The
//! thresholds are those of `reset_storm`.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    engine::over_time::window::{Part, Window},
    facts::{SeenReset, Timestamp},
};

/// Parts of a window that are kept apart; the share of the oldest one that the window still holds
/// is taken in proportion.
pub(super) const PARTS: u32 = 6;
/// Buckets of a history that are kept apart: a minute each with the default hour.
const BUCKETS: u32 = 60;
/// A storm is over when for a whole window its rate has come down by this part of the way from what
/// raises it to the baseline. Half, so that a rate that wavers around the threshold, by chance or
/// because clients pause before they try again, is one storm and not many.
const COOL: f64 = 0.5;
/// A storm that lasts for this part of a window is more than a restart. Half, 30 s with the default:
/// a service that is stopped and started is away for seconds, and all its clients meet that at once,
/// so that one burst falls into two inventories at most.
const LASTING: u32 = 2;
/// Inventories in a row with the rate of a storm that a lasting one has at least: a burst between
/// two of them is in both.
const IN_A_ROW: u32 = 3;

/// The times by which a rate is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) window: Duration,
    pub(crate) history: Duration,
    /// Since when the group's resets are known.
    pub(crate) known: Timestamp,
    /// When they were judged last.
    pub(crate) before: Timestamp,
    pub(crate) now: Timestamp,
}

impl Times {
    /// How many windows, or which part of one, `time` is.
    fn windows(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.window.as_secs_f64()
    }

    /// How wide a part of the window is.
    pub(crate) fn part(&self) -> Duration {
        self.window / PARTS
    }

    /// How wide a bucket of the past is.
    fn bucket(&self) -> Duration {
        self.window.max(self.history / BUCKETS)
    }
}

#[derive(Debug, Default)]
pub(crate) struct ResetRate {
    /// Those of the window.
    recent: Window<Counts>,
    /// How many have left the window.
    past: Window<f64>,
    /// Those since the inventory before.
    latest: f64,
    /// Inventories in a row whose resets had the rate of a storm, and when the first of them began.
    row: Option<(Timestamp, u32)>,
    storm: Option<Storm>,
}

/// Resets by what happened.
type Counts = BTreeMap<SeenReset, u64>;

/// A storm under way.
#[derive(Debug)]
pub(crate) struct Storm {
    since: Timestamp,
    /// When its rate was last that of a storm.
    pub(crate) hot: Timestamp,
    /// It has lasted for longer than a restart takes.
    pub(crate) lasts: bool,
    /// The resets of the window that ended then, by what happened, most first; at least one.
    pub(crate) counts: Vec<(SeenReset, u64)>,
    /// Resets of a window before it, on average.
    pub(crate) baseline: f64,
    /// Resets since a window before it was raised.
    total: f64,
}

impl ResetRate {
    /// Takes what was added since the last time.
    pub(crate) fn observe(&mut self, added: &Counts, times: &Times) {
        let Times { window, history, before, now, .. } = *times;
        for part in self.recent.forget(|part| now.since(part.ended) >= window) {
            // Resets that have left the window during a storm belong to that storm.
            if self.storm.is_none() {
                add(&mut self.past, sum(&part.value), times);
            }
        }
        if let Some(storm) = &mut self.storm {
            storm.total += sum(added);
            add(&mut self.past, storm.baseline * times.windows(now.since(before)), times);
        }
        self.past.forget(|part| now.since(part.began) > history);
        self.latest = sum(added);
        if !added.is_empty() {
            self.recent.add(added.clone(), (before, now), times.part(), merge);
        }
    }

    /// The resets of the window by what happened, most first.
    fn in_window(&self, times: &Times) -> Vec<(SeenReset, u64)> {
        let begin = times.now - times.window;
        let mut sums = BTreeMap::<SeenReset, f64>::new();
        for part in self.recent.iter() {
            let share = part.share_after(begin);
            for (what, count) in &part.value {
                *sums.entry(*what).or_default() += *count as f64 * share;
            }
        }
        let rounded = sums.into_iter().map(|(what, sum)| (what, sum.round() as u64));
        let mut counts: Vec<_> = rounded.filter(|(_, count)| *count > 0).collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    /// How many the window has.
    pub(crate) fn now(&self, times: &Times) -> u64 {
        self.in_window(times).iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Resets of a window, on average.
    pub(crate) fn baseline(&self, times: &Times) -> f64 {
        if let Some(storm) = &self.storm {
            return storm.baseline;
        }
        let Times { window, history, known, now, .. } = *times;
        let begin = now - window;
        let left = |part: &Part<Counts>| sum(&part.value) * (1.0 - part.share_after(begin));
        let before = self.recent.iter().map(left).fold(self.past(), |sum, left| sum + left);
        // A group that was not there had none: the time counts all the same.
        before / times.windows(begin.since(known).min(history).max(window))
    }

    /// The storm, if there is one. `limit` resets within a window raise it; `may_begin` where
    /// enough of the past is known.
    pub(crate) fn judge(&mut self, limit: f64, may_begin: bool, times: &Times) -> Option<&Storm> {
        let Times { window, history, before, now, .. } = *times;
        let counts = self.in_window(times);
        let in_window = counts.iter().map(|(_, count)| *count as f64).sum();
        let baseline = self.baseline(times);
        let cool = limit - COOL * (limit - baseline);
        let latest = self.latest / times.windows(now.since(before));
        let is_hot = latest >= cool && !counts.is_empty();
        let (began, row) = self.row.unwrap_or((before, 0));
        self.row = is_hot.then_some((began, row + 1));
        let lasts = self.lasts(cool, times);
        let Some(storm) = &mut self.storm else {
            if may_begin && in_window >= limit {
                let (since, hot, total) = (now, now, in_window);
                self.storm = Some(Storm { since, hot, lasts, counts, baseline, total });
            }
            return self.storm.as_ref();
        };
        storm.lasts |= lasts;
        if is_hot {
            storm.hot = now;
            storm.counts = counts;
        }
        let per_window = storm.total / times.windows(storm.hot.since(storm.since) + window);
        if now.since(storm.hot) > window {
            // However long it was, it counts as one window.
            add(&mut self.past, per_window, times);
            self.storm = None;
        } else if now.since(storm.since) >= history {
            // As if there had never been anything else.
            let sum = per_window * times.windows(history);
            self.past = Window::default();
            add(&mut self.past, sum, times);
            self.storm = None;
        }
        self.storm.as_ref()
    }

    /// Whether the rate of a storm has gone on for long enough: for enough inventories in a row, or,
    /// where these are so short that a rate wavers between them, in the newest parts of the window,
    /// each at the rate of `cool` a window at least.
    fn lasts(&self, cool: f64, times: &Times) -> bool {
        let long = times.window / LASTING;
        if self.row.is_some_and(|(began, row)| row >= IN_A_ROW && times.now.since(began) >= long) {
            return true;
        }
        let mut began = times.now;
        let mut parts = 0;
        for part in self.recent.iter().rev() {
            let lasted = part.ended.since(part.began);
            let is_hot = sum(&part.value) >= cool * times.windows(lasted);
            if part.ended != began || !is_hot {
                break;
            }
            began = part.began;
            parts += 1;
        }
        parts >= IN_A_ROW && times.now.since(began) >= long
    }

    /// How much would be lost if it were forgotten; 0 for a group that has been quiet for so long
    /// that nothing would be.
    pub(crate) fn weight(&self) -> f64 {
        if self.storm.is_some() {
            return f64::INFINITY;
        }
        self.recent.iter().fold(self.past(), |total, part| total + sum(&part.value))
    }

    /// Resets that have left the window within the history.
    fn past(&self) -> f64 {
        self.past.iter().fold(0.0, |sum, part| sum + part.value)
    }
}

fn merge(counts: &mut Counts, added: Counts) {
    for (what, count) in added {
        let sum = counts.entry(what).or_default();
        *sum = sum.saturating_add(count);
    }
}

fn sum(counts: &Counts) -> f64 {
    counts.values().map(|count| *count as f64).sum()
}

/// Adds to the history what has left the window.
fn add(past: &mut Window<f64>, amount: f64, times: &Times) {
    if amount > 0.0 {
        past.add(amount, (times.now, times.now), times.bucket(), |sum, amount| *sum += amount);
    }
}
