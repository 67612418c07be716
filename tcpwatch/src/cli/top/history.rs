//! Rates over the last minutes of the session, from counters.
//!
//! A rate is the growth of a counter between two snapshots, by the time between them. It is unknown
//! at a counter's first snapshot, after a gap, and where the counter has fallen: the agent was
//! started anew. Each counter has one place for each snapshot, so that all graphs share their time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::snapshot::Counter;

/// Snapshots that are kept: twenty minutes at the default interval, and more than columns.
const MOST: usize = 600;
/// The rate of now is the mean of so long, else it jumps with each snapshot.
const NOW: Duration = Duration::from_secs(6);

/// The rates so far.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    lines: BTreeMap<Counter, VecDeque<Option<f64>>>,
    last: Option<(Duration, BTreeMap<Counter, f64>)>,
    /// Time between the last two snapshots.
    step: Duration,
    /// Snapshots and gaps so far, as far as they are kept.
    places: usize,
}

impl History {
    /// Takes over the counters at a time of the session.
    pub(super) fn push(&mut self, now: Duration, counters: &BTreeMap<Counter, f64>) {
        let last = self.last.take();
        let rate = |counter: &Counter, value: f64| {
            let (then, before) = last.as_ref()?;
            let grown = value - before.get(counter)?;
            let seconds = now.checked_sub(*then)?.as_secs_f64();
            (grown >= 0.0 && seconds > 0.0).then(|| grown / seconds)
        };
        let rates: BTreeMap<&Counter, Option<f64>> =
            counters.iter().map(|(counter, value)| (counter, rate(counter, *value))).collect();
        for counter in counters.keys() {
            if !self.lines.contains_key(counter) {
                self.lines.insert(counter.clone(), vec![None; self.places].into());
            }
        }
        self.place(|counter| rates.get(counter).copied().flatten());
        if let Some((then, _)) = last {
            self.step = now.saturating_sub(then);
        }
        self.last = Some((now, counters.clone()));
    }

    /// There was no snapshot when one was due.
    pub(super) fn push_gap(&mut self) {
        self.last = None;
        self.place(|_| None);
    }

    /// Gives each line its next place. A counter without any rate left is forgotten.
    fn place(&mut self, rate: impl Fn(&Counter) -> Option<f64>) {
        self.places = (self.places + 1).min(MOST);
        self.lines.retain(|counter, line| {
            line.push_back(rate(counter));
            line.drain(..line.len().saturating_sub(MOST));
            line.iter().any(Option::is_some)
        });
    }

    /// The rates of the sum of some counters, the latest last. Unknown where none is known.
    pub(super) fn rates(&self, is_part: impl Fn(&Counter) -> bool) -> Vec<Option<f64>> {
        let mut sums = vec![None; self.places];
        for (_, line) in self.lines.iter().filter(|(counter, _)| is_part(counter)) {
            for (sum, rate) in sums.iter_mut().zip(line) {
                if let Some(rate) = rate {
                    *sum = Some(sum.unwrap_or(0.0) + rate);
                }
            }
        }
        sums
    }

    /// The present rate of the sum of some counters, per second.
    pub(super) fn now(&self, is_part: impl Fn(&Counter) -> bool) -> Option<f64> {
        self.mean_of_last(&self.rates(is_part))
    }

    /// The mean of the last seconds of such rates.
    pub(super) fn mean_of_last(&self, rates: &[Option<f64>]) -> Option<f64> {
        let places = (NOW.as_secs_f64() / self.step.as_secs_f64().max(0.1)).ceil() as usize;
        let last = &rates[rates.len().saturating_sub(places.max(1))..];
        mean(last)
    }

    /// Time that so many places cover.
    pub(super) fn covers(&self, places: usize) -> Duration {
        self.step.saturating_mul(u32::try_from(places).unwrap_or(u32::MAX))
    }

    /// The counters that have a rate above 0 in what is kept.
    pub(super) fn moving(&self) -> impl Iterator<Item = &Counter> {
        let moves = |line: &VecDeque<Option<f64>>| line.iter().flatten().any(|rate| *rate > 0.0);
        self.lines.iter().filter(move |(_, line)| moves(line)).map(|(counter, _)| counter)
    }

    /// Whether a counter is published at all.
    pub(super) fn has(&self, is_part: impl Fn(&Counter) -> bool) -> bool {
        let published = self.last.iter().flat_map(|(_, counters)| counters.keys());
        published.chain(self.lines.keys()).any(is_part)
    }
}

/// The mean of the known ones.
pub(super) fn mean(rates: &[Option<f64>]) -> Option<f64> {
    let known: Vec<f64> = rates.iter().copied().flatten().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(connects: f64) -> BTreeMap<Counter, f64> {
        [(Counter::Connects, connects)].into()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn connects(counter: &Counter) -> bool {
        *counter == Counter::Connects
    }

    #[test]
    fn rate_is_growth_by_time_and_unknown_at_first_after_a_gap_and_after_a_restart() {
        let mut history = History::default();
        history.push(at(0), &counters(100.0));
        history.push(at(2), &counters(110.0));
        history.push_gap();
        history.push(at(6), &counters(200.0));
        history.push(at(8), &counters(0.0));
        history.push(at(10), &counters(4.0));
        assert_eq!(history.rates(connects), [None, Some(5.0), None, None, None, Some(2.0)]);
        assert_eq!(history.now(connects), Some(2.0));
    }

    #[test]
    fn a_counter_that_comes_later_shares_the_time_of_the_others() {
        let mut history = History::default();
        history.push(at(0), &BTreeMap::new());
        history.push(at(2), &counters(0.0));
        history.push(at(4), &counters(2.0));
        assert_eq!(history.rates(connects), [None, None, Some(1.0)]);
    }

    #[test]
    fn history_is_bounded_and_forgets_counters_that_are_gone() {
        let mut history = History::default();
        for step in 0..5 {
            history.push(at(step), &counters(step as f64));
        }
        for step in 5..2 * MOST as u64 {
            history.push(at(step), &BTreeMap::new());
        }
        assert_eq!(history.rates(connects).len(), MOST);
        assert!(!history.has(connects));
    }
}
