//! Turns the readings of a counter into what was added.

/// A counter that only rises, as it was read last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counter {
    last: Option<u64>,
}

impl Counter {
    /// Whether it has not been read yet.
    pub(crate) const fn is_new(&self) -> bool {
        self.last.is_none()
    }

    /// How much was added since the last reading. `None` where nothing says from where to count: at
    /// the first reading, and when the counter fell, for then it is another one.
    pub(crate) fn added(&mut self, total: u64) -> Option<u64> {
        let last = self.last.replace(total)?;
        total.checked_sub(last)
    }

    /// Likewise, for a counter that is known to begin at 0, and to begin anew there when it fell.
    pub(crate) fn added_from_zero(&mut self, total: u64) -> u64 {
        self.added(total).unwrap_or(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reading_and_one_that_fell_say_where_to_count_from() {
        let mut counter = Counter::default();
        assert_eq!(counter.added(7), None);
        assert_eq!(counter.added(9), Some(2));
        assert_eq!(counter.added(9), Some(0));
        assert_eq!(counter.added(3), None);
        assert_eq!(counter.added(u64::MAX), Some(u64::MAX - 3));
    }

    #[test]
    fn a_counter_from_zero_counts_in_full_when_it_begins() {
        let mut counter = Counter::default();
        assert_eq!(counter.added_from_zero(7), 7);
        assert_eq!(counter.added_from_zero(9), 2);
        assert_eq!(counter.added_from_zero(3), 3);
    }
}
