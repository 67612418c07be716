//! Ports that are taken for every destination, in words: a condition of the whole namespace.
//!
//! connect() passes over a port that bind() has taken (`__inet_hash_connect`), whatever the
//! destination: listeners in the range, and connections that called bind() before connect(). Where
//! these are most of the range every program of the namespace fails, and none of them is at fault
//! but the one that binds.

use super::failures::Failures;
use crate::{
    engine::{
        advice::{reserved_ports, text},
        evidence::EvidenceMap,
        groups::port_users::{self, Users},
    },
    facts::{Namespace, PortUser},
};

/// The pinned ports of a namespace.
pub(crate) struct Pinned<'a> {
    pub(crate) namespace: &'a Namespace,
    /// Connects that found no port, whatever their destination.
    pub(crate) failures: Option<&'a Failures>,
}

impl<'a> Pinned<'a> {
    pub(super) fn sample(&self) -> impl Iterator<Item = &'a PortUser> {
        self.namespace.port_users.iter().filter(|user| user.pinned)
    }

    /// Ports of connections that called bind() before connect().
    pub(crate) fn bound(&self) -> Users<'a> {
        Users::new(self.namespace.ports.bound_before_connect.into(), self.sample())
    }

    /// Ports of listeners, and of connections that these have accepted.
    pub(crate) fn listening(&self) -> u64 {
        let ports = &self.namespace.ports;
        let in_time_wait = ports.pinned_in_time_wait.unwrap_or_default();
        ports.pinned.saturating_sub(ports.bound_before_connect.saturating_add(in_time_wait)).into()
    }

    /// `200 by bind() before connect() by envoy (pid 7), 3 by listeners`.
    fn by_what(&self) -> String {
        let bound = self.bound();
        let in_time_wait = self.namespace.ports.pinned_in_time_wait.unwrap_or_default();
        let mut parts = Vec::new();
        if bound.ports > 0 {
            parts.push(format!(
                "{} by bind() before connect(){}",
                text::number(bound.ports),
                bound.by_whom()
            ));
        }
        if self.listening() > 0 {
            parts.push(format!("{} by listeners", text::number(self.listening())));
        }
        if in_time_wait > 0 {
            parts.push(format!("{} still in TIME_WAIT", text::number(in_time_wait)));
        }
        parts.join(", ")
    }

    pub(super) fn title(&self) -> String {
        let ports = &self.namespace.ports;
        let netns = text::in_netns(&self.namespace.name);
        let state = format!(
            "{} of {} local ports{netns} are taken for every destination, {}",
            text::number(ports.pinned),
            text::number(ports.available),
            self.by_what()
        );
        let Some(failures) = self.failures else { return state };
        let who = text::named(failures.worst_process());
        let most = if failures.are_of_one_process() { "" } else { "most " };
        let times = text::count(failures.count, "connect() call");
        format!("{state}; {times}, {most}by {who}, found none")
    }

    pub(super) fn explanation(&self) -> String {
        let (low, high) = self.namespace.ports.range;
        let mut text = format!(
            "connect() passes over each port of ip_local_port_range {low}-{high} that bind() has \
             taken, whatever the destination."
        );
        if self.bound().ports > 0 {
            text.push_str(
                " bind() with a source address and port 0 takes one at once, because it does not \
                 know the destination yet. At the end bind() fails with EADDRINUSE, and connect() \
                 of any other program with EADDRNOTAVAIL.",
            );
        }
        text
    }

    pub(super) fn evidence(&self) -> EvidenceMap {
        let ports = &self.namespace.ports;
        let sample: Vec<&PortUser> = self.sample().collect();
        let mut evidence = EvidenceMap::default();
        evidence
            .count("available_ports", ports.available.into())
            .count("pinned_ports", ports.pinned.into())
            .count("bound_before_connect_ports", ports.bound_before_connect.into())
            .list("holders", port_users::evidence(&sample))
            .object("port_range", reserved_ports::evidence_of_range(ports));
        if let Some(failures) = self.failures {
            failures.add_to(&mut evidence);
        }
        evidence
    }
}
