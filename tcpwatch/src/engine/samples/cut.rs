//! Keeps label sets small: the largest few by name, the others under `other`. Counters have rules
//! of their own, see `named_totals`.

use std::cmp::Reverse;

/// Cuts gauges: the `limit` largest stay, the others are folded into one row. Order is by size,
/// then as given.
pub(crate) fn largest<T, Size: Ord>(
    mut rows: Vec<T>,
    limit: usize,
    size: impl Fn(&T) -> Size,
    fold: impl Fn(Vec<T>) -> T,
) -> Vec<T> {
    rows.sort_by_key(|row| Reverse(size(row)));
    if rows.len() > limit {
        let others = rows.split_off(limit);
        rows.push(fold(others));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stay_and_the_others_are_summed() {
        let rows = vec![("a", 1), ("b", 5), ("c", 3), ("d", 2)];
        let sum = |others: Vec<(_, i32)>| ("other", others.iter().map(|row| row.1).sum());
        let cut = largest(rows, 2, |row| row.1, sum);
        assert_eq!(cut, [("b", 5), ("c", 3), ("other", 3)]);
    }
}
