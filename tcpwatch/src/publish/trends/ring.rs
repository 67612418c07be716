//! One number over the last hour, in memory of fixed size.
//!
//! Time is cut into slots of [`SLOT`]; a slot keeps the largest of its values, so that no peak is
//! lost. A slot without a value stays empty: nothing is guessed.

use std::time::Duration;

use crate::facts::Timestamp;

/// The default interval of inventories: a shorter slot would have gaps.
pub const SLOT: Duration = Duration::from_secs(10);

/// An hour of slots.
pub const SLOTS: usize = 360;

/// Empty slots that a line goes across: two minutes, so that it does not break between the
/// inventories of a busy host.
const GAP: u64 = 12;

/// A number over the last hour.
#[derive(Clone, Debug)]
pub struct Ring {
    /// The slot of the last value, counted from the beginning of the clock.
    newest: u64,
    /// By slot modulo [`SLOTS`]; NaN where there is no value.
    values: [f32; SLOTS],
}

/// Points that a line joins: how far from the left edge to the right, 0 to 1, and the value.
pub type Line = Vec<(f32, f32)>;

impl Ring {
    /// Without any value.
    #[must_use]
    pub const fn new() -> Self {
        Self { newest: 0, values: [f32::NAN; SLOTS] }
    }

    /// Adds a value; one from before the newest slot is dropped.
    pub fn record(&mut self, now: Timestamp, value: f64) {
        let slot = slot(now);
        if slot < self.newest {
            return;
        }
        let first = (self.newest + 1).max((slot + 1).saturating_sub(SLOTS as u64));
        for passed in first..=slot {
            self.values[index(passed)] = f32::NAN;
        }
        self.newest = slot;
        let kept = &mut self.values[index(slot)];
        // `max` takes the other number where one is NaN.
        *kept = kept.max(value as f32);
    }

    /// The values of the last `slots` slots, as at most `most` points. Of slots that share a point
    /// the largest value is shown. A line ends where values are missing for two minutes.
    #[must_use]
    pub fn lines(&self, now: Timestamp, slots: usize, most: usize) -> Vec<Line> {
        let slots = slots.clamp(2, SLOTS) as u64;
        let end = slot(now);
        let start = (end + 1).saturating_sub(slots);
        let step = slots.div_ceil(most.max(1) as u64);
        let mut lines: Vec<Line> = Vec::new();
        let mut last: Option<u64> = None;
        for slot in start..=end {
            let Some(value) = self.value(slot) else { continue };
            let x = (slot - start) as f32 / (slots - 1) as f32;
            match (lines.last_mut().and_then(|line| line.last_mut()), last) {
                // Steps are counted from the beginning of the clock, so that points stay as they
                // are while the window moves over them.
                (Some(point), Some(last)) if last / step == slot / step => {
                    *point = (x, point.1.max(value));
                }
                (Some(_), Some(last)) if slot - last <= GAP.max(2 * step) => {
                    if let Some(line) = lines.last_mut() {
                        line.push((x, value));
                    }
                }
                _ => lines.push(vec![(x, value)]),
            }
            last = Some(slot);
        }
        lines
    }

    /// The newest value, if it is no older than a line may be interrupted.
    #[must_use]
    pub fn last(&self, now: Timestamp) -> Option<f32> {
        let is_fresh = slot(now).saturating_sub(self.newest) <= GAP;
        self.value(self.newest).filter(|_| is_fresh)
    }

    fn value(&self, slot: u64) -> Option<f32> {
        let is_kept = slot <= self.newest && self.newest - slot < SLOTS as u64;
        let value = self.values[index(slot)];
        (is_kept && !value.is_nan()).then_some(value)
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

fn slot(at: Timestamp) -> u64 {
    at.as_ns() / SLOT.as_nanos() as u64
}

fn index(slot: u64) -> usize {
    (slot % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slot: u64) -> Timestamp {
        Timestamp::from_ns(slot * SLOT.as_nanos() as u64)
    }

    fn values(ring: &Ring, now: u64, slots: usize) -> Vec<Vec<f32>> {
        let lines = ring.lines(at(now), slots, SLOTS);
        lines.into_iter().map(|line| line.into_iter().map(|point| point.1).collect()).collect()
    }

    #[test]
    fn a_slot_keeps_its_largest_value_and_an_hour_is_all() {
        let mut ring = Ring::new();
        assert!(ring.lines(at(5), SLOTS, SLOTS).is_empty());
        assert_eq!(ring.last(at(5)), None);
        for value in [2.0, 7.0, 3.0] {
            ring.record(at(1_000), value);
        }
        ring.record(at(999), 50.0);
        assert_eq!(values(&ring, 1_000, SLOTS), [[7.0]]);
        ring.record(at(1_001), 1.0);
        assert_eq!(values(&ring, 1_001, SLOTS), [[7.0, 1.0]]);
        assert_eq!(ring.last(at(1_001)), Some(1.0));
        // The oldest slot goes when the hour is over.
        ring.record(at(1_000 + SLOTS as u64), 4.0);
        let last = 1_000 + SLOTS as u64;
        assert_eq!(values(&ring, last, SLOTS), [vec![1.0], vec![4.0]]);
        // So does all of it after a long time.
        ring.record(at(1_000_000), 9.0);
        assert_eq!(values(&ring, 1_000_000, SLOTS), [[9.0]]);
    }

    #[test]
    fn a_line_ends_where_values_are_missing_for_more_than_two_minutes() {
        let mut ring = Ring::new();
        for slot in [100, 101, 101 + GAP, 102 + 2 * GAP] {
            ring.record(at(slot), slot as f64);
        }
        let now = 102 + 2 * GAP;
        assert_eq!(values(&ring, now, SLOTS), [vec![100.0, 101.0, 113.0], vec![126.0]]);
        // No value is newer than the last, and a window begins later.
        assert_eq!(values(&ring, now + 5, 10), [[126.0]]);
        assert_eq!(ring.last(at(now + GAP)), Some(126.0));
        assert_eq!(ring.last(at(now + GAP + 1)), None);
    }

    #[test]
    fn points_are_few_and_show_the_peak() {
        let mut ring = Ring::new();
        for slot in 0..SLOTS as u64 {
            ring.record(at(10_000 + slot), if slot == 177 { 99.0 } else { 1.0 });
        }
        let now = 10_000 + SLOTS as u64 - 1;
        let lines = ring.lines(at(now), SLOTS, 60);
        assert_eq!(lines.len(), 1);
        assert!((60..=61).contains(&lines[0].len()), "{}", lines[0].len());
        assert!(lines[0].iter().any(|point| point.1 == 99.0));
        assert_eq!(lines[0].last(), Some(&(1.0, 1.0)));
        assert!(lines[0].iter().map(|point| point.0).is_sorted());
    }
}
