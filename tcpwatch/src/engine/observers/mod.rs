//! Facts that are followed for several kinds at once, before they judge.

pub(crate) mod closers;
pub(crate) mod half_open;
pub(crate) mod reset_counts;
