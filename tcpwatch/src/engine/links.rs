//! Which finding leads which others: the result of [`joining`](super::joining).

use std::collections::{BTreeMap, BTreeSet};

/// Leading findings and those that they lead, by id.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Links {
    leaders: BTreeMap<String, String>,
    related: BTreeMap<String, Vec<String>>,
    /// Led findings that say nothing of how bad their leader is.
    mild: BTreeSet<String>,
}

impl Links {
    /// The finding that leads `id`.
    pub(crate) fn leader_of(&self, id: &str) -> Option<&String> {
        self.leaders.get(id)
    }

    /// The findings that `id` leads, worst first.
    pub(crate) fn led_by(&self, id: &str) -> &[String] {
        self.related.get(id).map_or(&[], Vec::as_slice)
    }

    /// Whether `leader` may lead `led`: no chains and no cycles.
    pub(crate) fn may_link(&self, leader: &str, led: &str) -> bool {
        let is_free = !self.leaders.contains_key(led) && !self.related.contains_key(led);
        leader != led && is_free && !self.leaders.contains_key(leader)
    }

    /// Whether the leader of `led` is at least as severe as `led`.
    pub(crate) fn raises(&self, led: &str) -> bool {
        !self.mild.contains(led)
    }

    /// Has `led` not raise its leader.
    pub(crate) fn keep_mild(&mut self, led: &str) {
        self.mild.insert(led.to_owned());
    }

    /// Has `leader` lead `led`.
    pub(crate) fn link(&mut self, leader: &str, led: &str) {
        self.leaders.insert(led.to_owned(), leader.to_owned());
        self.related.entry(leader.to_owned()).or_default().push(led.to_owned());
    }
}
