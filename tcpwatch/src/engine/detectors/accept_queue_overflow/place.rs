//! The listeners of one address and port, which the kernel may choose between (`SO_REUSEPORT`).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::facts::{Listener, Namespace, Process};

/// The listeners at one place.
pub(crate) struct Place<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) listeners: Vec<&'a Listener>,
}

impl Place<'_> {
    pub(crate) fn drops(&self) -> u32 {
        self.listeners.iter().fold(0, |sum, listener| sum.wrapping_add(listener.drops))
    }

    /// The drops since the counter showed `before`. It is 32 bits wide: a step of more than
    /// half of that is one back, because a listener has gone.
    pub(crate) fn dropped_since(&self, before: u32) -> u64 {
        let step = self.drops().wrapping_sub(before);
        if step <= i32::MAX as u32 {
            return step.into();
        }
        match &*self.listeners {
            // Another one at the same place: all that it has dropped is new.
            [listener] => listener.drops.into(),
            // Which of several has gone is unknown.
            _ => 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.listeners.iter().any(|listener| listener.is_full())
    }

    /// Whether the kernel tells what each listener dropped: if `ListenOverflows` moved and none has
    /// dropped anything, it does not.
    pub(crate) fn drops_are_known(&self) -> bool {
        self.namespace.listeners.iter().any(|listener| listener.drops > 0)
    }

    /// The one with the longest queue; the fullest of those.
    pub(crate) fn worst(&self) -> Option<&Listener> {
        let order = |listener: &&Listener| {
            (listener.is_full(), listener.accept_queue, Reverse(listener.accept_limit))
        };
        self.listeners.iter().copied().max_by_key(order)
    }

    /// The one with the longest queue of those that accept nothing, and for how long.
    pub(crate) fn stalled(
        &self,
        stalled: &BTreeMap<u64, Duration>,
    ) -> Option<(&Listener, Duration)> {
        let of = |listener: &&Listener| Some((listener.accept_queue, *stalled.get(&listener.id)?));
        let longest =
            self.listeners.iter().copied().filter(|it| of(it).is_some()).max_by_key(of)?;
        Some((longest, *stalled.get(&longest.id)?))
    }

    /// The one with the longest queue of those that are `slow`.
    pub(crate) fn slow(&self, slow: &BTreeSet<u64>) -> Option<&Listener> {
        let slow = self.listeners.iter().copied().filter(|it| slow.contains(&it.id));
        slow.max_by_key(|it| it.accept_queue)
    }

    /// The one to ask why.
    pub(crate) fn process(&self) -> Option<&Process> {
        self.worst()?.accepting()
    }
}
