//! The one ring behind every window of time.
//!
//! Values that come close together are one part, so memory is bounded by the number of parts and
//! not by the number of values. The caller decides what a part holds, and when it has left the
//! window.

use std::{collections::VecDeque, time::Duration};

use crate::facts::Timestamp;

/// Parts in the order of time, the oldest first.
#[derive(Clone, Debug)]
pub(crate) struct Window<T> {
    parts: VecDeque<Part<T>>,
}

/// The value of a stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Part<T> {
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
    pub(crate) value: T,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { parts: VecDeque::new() }
    }
}

impl<T> Window<T> {
    /// Adds what came from `began` to `ended`. It joins the newest part by `merge` while that is
    /// younger than `width`.
    pub(crate) fn add(
        &mut self,
        value: T,
        (began, ended): (Timestamp, Timestamp),
        width: Duration,
        merge: impl FnOnce(&mut T, T),
    ) {
        match self.parts.back_mut() {
            Some(part) if ended.since(part.began) < width => {
                merge(&mut part.value, value);
                part.ended = part.ended.max(ended);
            }
            _ => self.parts.push_back(Part { began, ended, value }),
        }
    }

    /// Removes the oldest parts for which `is_over` holds, and returns them.
    pub(crate) fn forget(&mut self, is_over: impl Fn(&Part<T>) -> bool) -> Vec<Part<T>> {
        let over = self.parts.iter().take_while(|part| is_over(part)).count();
        self.parts.drain(..over).collect()
    }

    /// Removes what is older than `begin`, but for the last part that began at or before it: that
    /// one says what was at `begin`.
    pub(crate) fn keep_from(&mut self, begin: Timestamp) {
        while self.parts.get(1).is_some_and(|part| part.began <= begin) {
            self.parts.pop_front();
        }
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Part<T>> + ExactSizeIterator {
        self.parts.iter()
    }

    pub(crate) fn oldest(&self) -> Option<&Part<T>> {
        self.parts.front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

impl<T> Part<T> {
    /// The share of it that falls after `time`, as if it had come evenly.
    pub(crate) fn share_after(&self, time: Timestamp) -> f64 {
        let lasted = self.ended.since(self.began);
        let after = self.ended.since(time.max(self.began));
        if lasted <= after { 1.0 } else { after.as_secs_f64() / lasted.as_secs_f64() }
    }
}
