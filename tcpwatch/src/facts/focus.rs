//! Observations that the engine requests from the kernel side, for now.

use std::collections::BTreeSet;

use super::{Endpoint, NetnsId};

/// The requests of one inventory. An observation ends when the next inventory does not request it
/// again. A healthy host has an empty focus and pays for none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Focus {
    /// Processes whose calls of connect() and accept() are to be recorded with their user stack;
    /// [`STACKS`](Self::STACKS) at most.
    pub stacks_of: Vec<u32>,
    /// Namespaces in which active closes are counted, because they make TIME_WAIT;
    /// [`CLOSERS_IN`](Self::CLOSERS_IN) at most.
    pub closers_in: BTreeSet<NetnsId>,
    /// Local ports whose sockets are to be described, whatever their state; a few at most.
    pub ports: Vec<u16>,
    /// Destinations whose connections are to be counted when they are established;
    /// [`ANSWERS`](Self::ANSWERS) at most.
    pub answers: BTreeSet<(NetnsId, Endpoint)>,
}

impl Focus {
    /// Limit of processes whose stacks are recorded at a time. Each costs a little with every
    /// connection that it opens. Where many leak at once, the largest are enough.
    pub const STACKS: usize = 8;

    /// Most destinations whose connections are counted at a time.
    pub const ANSWERS: usize = 256;

    /// Most namespaces whose closers are counted at a time.
    pub const CLOSERS_IN: usize = 128;

    /// Most counts of closers that an inventory has: by program in the namespaces of
    /// [`closers_in`](Self::closers_in), and of all others together.
    pub const CLOSERS: usize = 1_024 + 128;

    /// Whether nothing is requested.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stacks_of.is_empty()
            && self.closers_in.is_empty()
            && self.ports.is_empty()
            && self.answers.is_empty()
    }
}
