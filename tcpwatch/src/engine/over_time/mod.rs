//! Numbers over time: thresholds that do not flap, moves within a window, growth.

pub(crate) mod counter;
pub(crate) mod level;
pub(crate) mod moved;
pub(crate) mod trend;
pub(crate) mod window;
