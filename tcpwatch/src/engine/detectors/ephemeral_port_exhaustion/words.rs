//! A shortage of ports in words: title, explanation, evidence, remedies.

use super::failures::Failures;
use crate::{
    engine::{
        advice::{reserved_ports, text, tw_reuse::TimeWaitReuse},
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
        groups::destinations::{Destination, worst_destinations},
        observers::closers::{self, Closer},
    },
    facts::{Namespace, Process},
};

/// A shortage, to be put into words.
pub(crate) struct Shortage<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) key: Destination,
    /// `None` where the inventory does not name it: fewer than half of the ports are taken, as a
    /// rule.
    pub(crate) used: Option<u32>,
    /// Until the last one is taken; `None` while their number does not grow.
    pub(crate) minutes_left: Option<f64>,
    pub(crate) failures: Option<&'a Failures>,
    /// Who closes connections to it, the one to be named first.
    pub(crate) closers: Vec<Closer<'a>>,
}

impl Shortage<'_> {
    pub(crate) fn verdict(&self, id: String, severity: Severity) -> Verdict {
        let mut subject = Subject {
            netns: self.namespace.name.clone(),
            local: Some(self.key.local.to_string()),
            peer: Some(self.key.peer.to_string()),
            port: Some(self.key.peer.port),
            ..Subject::default()
        };
        if let Some(process) = self.culprit() {
            subject.set_process(process);
        }
        Verdict {
            id,
            kind: FindingKind::EphemeralPortExhaustion,
            severity,
            title: self.title(),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies: self.remedies(&subject),
            subject,
        }
    }

    /// Whose connect() has failed most often.
    fn failed_most(&self) -> Option<&Process> {
        let (process, _) = self.failures?.processes.iter().max_by_key(|(_, count)| *count)?;
        Some(process)
    }

    /// Whose connections they are, as far as that is known: who fails, else who closes most.
    fn culprit(&self) -> Option<&Process> {
        let closer = || self.closers.first().map(|closer| closer.process);
        self.failed_most().or_else(closer)
    }

    fn title(&self) -> String {
        let ports = &self.namespace.ports;
        let netns = text::in_netns(&self.namespace.name);
        let Destination { local, peer, .. } = self.key;
        let state = self.used.map(|used| {
            format!("{used} of {} local ports from {local} to {peer} are taken", ports.available)
        });
        match (self.failures, state) {
            (Some(failures), state) => {
                let who = text::named(self.failed_most());
                let most = if failures.are_of_one_process() { "" } else { "most " };
                let times = text::count(failures.count, "connect() call");
                let state = state.map(|state| format!(": {state}")).unwrap_or_default();
                format!("{times} to {peer} found no free local port{netns}, {most}by {who}{state}")
            }
            (None, state) => {
                let closer = self.closers.first().map(|closer| format!("; {}", closer.and_rate()));
                format!("{}{netns}{}", state.unwrap_or_default(), closer.unwrap_or_default())
            }
        }
    }

    fn explanation(&self) -> String {
        let ports = &self.namespace.ports;
        let (low, high) = ports.range;
        let mut text = format!(
            "A connection needs a local port that is free for its source, destination and \
             destination port; ip_local_port_range {low}-{high} less the reserved ones leaves {}.",
            ports.available
        );
        text.push(' ');
        text.push_str(self.reuse().meaning());
        if let Some(minutes) = self.minutes_left {
            let left = text::minutes(minutes);
            text.push_str(&format!(" At this rate the last one is taken in {left}."));
        }
        if let Some(closer) = self.closers.first() {
            text.push_str(&format!(" {}: these stay in TIME_WAIT.", closer.in_words()));
        }
        text
    }

    fn reuse(&self) -> TimeWaitReuse {
        TimeWaitReuse::new(&self.namespace.ports, Some(self.is_loopback()))
    }

    fn is_loopback(&self) -> bool {
        self.key.peer.address.is_loopback() || self.key.local.is_loopback()
    }

    fn evidence(&self) -> EvidenceMap {
        let ports = &self.namespace.ports;
        let mut evidence = EvidenceMap::default();
        if let Some(used) = self.used {
            evidence.count("used_ports", u64::from(used));
        }
        evidence
            .count("available_ports", u64::from(ports.available))
            .count("pinned_ports", u64::from(ports.pinned))
            .object("port_range", reserved_ports::evidence_of_range(ports))
            .count("tcp_tw_reuse", self.reuse().value())
            .flag("tcp_timestamps_enabled", ports.timestamps);
        if ports.bound_before_connect > 0 {
            evidence.count("bound_before_connect_ports", ports.bound_before_connect.into());
        }
        if let Some(minutes) = self.minutes_left {
            evidence.number("time_to_last_port_minutes", minutes);
        }
        if let Some(failures) = self.failures {
            evidence.count("failed_connects", failures.count);
            let by_process = failures.processes.iter().map(|(process, count)| {
                let mut object = EvidenceMap::default();
                object.process(process).count("failed_connects", *count);
                object
            });
            evidence.list("failed_connects_by_process", by_process);
        }
        evidence
            .list("closers", closers::evidence(&self.closers))
            .list("worst_destinations", worst_destinations(self.namespace));
        evidence
    }

    fn remedies(&self, subject: &Subject) -> Vec<String> {
        let ports = &self.namespace.ports;
        let place = self.culprit().map(|process| format!(" in {}", text::named(Some(process))));
        let mut remedies = vec![format!(
            "Fewer connections: keep-alive or a connection pool{}, so that one connection serves \
             many requests.",
            place.unwrap_or_default()
        )];
        remedies.extend(reserved_ports::widen(subject, self.namespace));
        remedies.push(self.reuse().remedy(subject));
        remedies.push(
            "More destinations or sources: a second address on either side has a set of ports of \
             its own."
                .to_owned(),
        );
        if ports.bound_before_connect > 0 {
            let bound = text::count(ports.bound_before_connect.into(), "port");
            remedies.push(format!(
                "IP_BIND_ADDRESS_NO_PORT (Linux 4.2) before bind() to port 0: {bound} here belong to \
                 connections that called bind() before connect(), which takes a port for every \
                 destination; with it connect() chooses the port."
            ));
        }
        remedies.push(
            "Not by tcp_tw_recycle (gone since 4.12) and not by SO_LINGER 0, which turns each \
             close into a reset and can lose data."
                .to_owned(),
        );
        remedies
    }
}
