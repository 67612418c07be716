//! `ephemeral-port-exhaustion`: a destination is near the end of its local ports.
//!
//! Signal: ports taken for one (source, destination, destination port) against those that
//! `ip_local_port_range` has less the reserved ones; and connect() that failed with EADDRNOTAVAIL,
//! which shows as CLOSE -> SYN_SENT -> CLOSE without a source port.
//! Trip: a part of the usable ports; critical when a connect() has failed within `window`.
//! Cold start: none; the ports are counted, not their rate.
//! Recovery: below 0.9 of the threshold, and `window` after the last failure.
//! Misses: ports of sockets that are bound but neither listen nor are connected are in no table
//! that the inventory walks, and of many busy destinations the inventory names 32 and the worst; a
//! real failure outranks the count.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject, level::Levels, text,
};
use crate::{
    config::{self, Overridable},
    facts::{
        ConnectFailure, DestinationUse, Endpoint, Event, Inventory, Namespace, NetnsId, Process,
        Timestamp, TwReuse,
    },
};

/// Destinations whose failures are remembered.
const DESTINATIONS: usize = 256;
/// Processes told apart for each.
const PROCESSES: usize = 16;

#[derive(Debug)]
pub(super) struct EphemeralPortExhaustion {
    pub(super) config: Overridable<config::EphemeralPortExhaustion>,
    levels: Levels,
    failures: HashMap<Destination, Failures>,
}

/// What has its own set of local ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Destination {
    netns: NetnsId,
    local: IpAddr,
    peer: Endpoint,
}

#[derive(Debug)]
struct Failures {
    count: u64,
    last: Timestamp,
    /// Failures by process; the first few processes.
    processes: Vec<(Arc<Process>, u64)>,
}

impl Failures {
    /// The known one with most of them.
    fn worst_process(&self) -> Option<&Process> {
        let (process, _) = self.processes.iter().max_by_key(|(_, count)| *count)?;
        Some(process)
    }

    /// Or of nobody known at all.
    fn are_of_one_process(&self) -> bool {
        match &*self.processes {
            [] => true,
            [(_, count)] => *count == self.count,
            _ => false,
        }
    }
}

impl EphemeralPortExhaustion {
    pub(super) fn new(config: Overridable<config::EphemeralPortExhaustion>) -> Self {
        Self { config, levels: Levels::default(), failures: HashMap::new() }
    }

    pub(super) fn handle_event(&mut self, event: &Event) {
        let Event::ConnectFailed { at, netns, local, peer, reason, process } = event else {
            return;
        };
        if *reason != ConnectFailure::NoLocalPort {
            return;
        }
        let key = Destination { netns: *netns, local: local.address, peer: *peer };
        let known = self.failures.contains_key(&key);
        if !known && self.failures.len() >= DESTINATIONS {
            return;
        }
        let failures = self.failures.entry(key).or_insert_with(|| Failures {
            count: 0,
            last: *at,
            processes: Vec::new(),
        });
        failures.count += 1;
        failures.last = failures.last.max(*at);
        let Some(process) = process else { return };
        let processes = &mut failures.processes;
        if let Some((_, count)) = processes.iter_mut().find(|(known, _)| known.pid == process.pid) {
            *count += 1;
        } else if processes.len() < PROCESSES {
            processes.push((Arc::clone(process), 1));
        }
    }

    /// The destinations near their end at `now`.
    pub(super) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        self.levels.begin();
        self.failures.retain(|destination, failures| {
            let config = self.config.of(failures.worst_process(), destination.peer.port);
            now.since(failures.last) <= config.window
        });
        let mut findings = Vec::new();
        for namespace in &inventory.namespaces {
            let mut used: BTreeMap<Destination, Option<&DestinationUse>> = BTreeMap::new();
            // The worst need not be among the busy: those are the first, not the largest.
            for destination in namespace.ports.busy.iter().chain(&namespace.ports.worst) {
                used.insert(key_of(namespace, destination), Some(destination));
            }
            for key in self.failures.keys().filter(|key| key.netns == namespace.id) {
                used.entry(*key).or_default();
            }
            for (key, destination) in used {
                findings.extend(self.judge_destination(namespace, key, destination, now));
            }
        }
        findings.sort_by_key(|finding: &Finding| std::cmp::Reverse(finding.severity));
        findings.truncate(FINDINGS_PER_KIND);
        findings
    }

    fn judge_destination(
        &mut self,
        namespace: &Namespace,
        key: Destination,
        destination: Option<&DestinationUse>,
        now: Timestamp,
    ) -> Option<Finding> {
        // The ports are nobody's: only what failed is known to be of a process.
        let config = self.config.of(None, key.peer.port);
        let available = namespace.ports.available;
        let used = destination.map(|destination| destination.used);
        let ratio = used.map_or(0.0, |used| f64::from(used) / f64::from(available.max(1)));
        let Destination { netns, local, peer } = key;
        let id = format!("ephemeral-port-exhaustion/{netns}/{local}/{peer}");
        let by_ratio = if config.enabled {
            self.levels.judge(&id, ratio, config.warning, config.critical)
        } else {
            None
        };
        let failures = self.wanted_failures(key);
        let severity = by_ratio.max(failures.as_ref().map(|_| Severity::Critical))?;
        let shortage = Shortage { namespace, key, used, failures: failures.as_ref() };
        Some(shortage.finding(id, severity, now))
    }

    /// The failures towards a destination without those of processes for which this is switched
    /// off: they must not hide what another one suffers.
    fn wanted_failures(&self, key: Destination) -> Option<Failures> {
        let all = self.failures.get(&key)?;
        let is_wanted = |process: Option<&Process>| self.config.of(process, key.peer.port).enabled;
        let known: u64 = all.processes.iter().map(|(_, count)| count).sum();
        let nobodys = if is_wanted(None) { all.count - known } else { 0 };
        let mut processes = all.processes.clone();
        processes.retain(|(process, _)| is_wanted(Some(process)));
        let count = nobodys + processes.iter().map(|(_, count)| count).sum::<u64>();
        (count > 0).then_some(Failures { count, last: all.last, processes })
    }
}

fn key_of(namespace: &Namespace, destination: &DestinationUse) -> Destination {
    Destination { netns: namespace.id, local: destination.local.address, peer: destination.peer }
}

/// A shortage, to be put into words.
struct Shortage<'a> {
    namespace: &'a Namespace,
    key: Destination,
    /// `None` where the inventory does not name it: fewer than half of the ports are taken, as a
    /// rule.
    used: Option<u32>,
    failures: Option<&'a Failures>,
}

impl Shortage<'_> {
    fn finding(&self, id: String, severity: Severity, now: Timestamp) -> Finding {
        let mut subject = Subject {
            netns: self.namespace.name.clone(),
            local: Some(self.key.local.to_string()),
            peer: Some(self.key.peer.to_string()),
            port: Some(self.key.peer.port),
            ..Subject::default()
        };
        if let Some(process) = self.worst_process() {
            subject.set_process(process);
        }
        Finding {
            id,
            kind: FindingKind::EphemeralPortExhaustion,
            severity,
            title: self.title(),
            explanation: self.explanation(),
            evidence: self.evidence(),
            subject,
            remedies: self.remedies(),
            since: now,
            last_seen: now,
        }
    }

    fn worst_process(&self) -> Option<&Process> {
        self.failures?.worst_process()
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
                let who = text::named(self.worst_process());
                let most = if failures.are_of_one_process() { "" } else { "most " };
                let times = text::count(failures.count, "connect() call");
                let state = state.map(|state| format!(": {state}")).unwrap_or_default();
                format!("{times} to {peer} found no free local port{netns}, {most}by {who}{state}")
            }
            (None, state) => format!("{}{netns}", state.unwrap_or_default()),
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
        text.push_str(match ports.tw_reuse {
            TwReuse::Never => " TIME_WAIT holds a port for 60 s more, because tcp_tw_reuse is 0.",
            TwReuse::Always if ports.timestamps => {
                " Ports in TIME_WAIT are free again after a second (tcp_tw_reuse is 1), so these \
                 are open connections."
            }
            TwReuse::Loopback if self.is_loopback() && ports.timestamps => {
                " Ports in TIME_WAIT are free again after a second, because this destination is \
                 loopback and tcp_tw_reuse is 2."
            }
            TwReuse::Loopback if ports.timestamps => {
                " TIME_WAIT holds a port for 60 s more: tcp_tw_reuse is 2, which means loopback \
                 alone, and this destination is not."
            }
            TwReuse::Always | TwReuse::Loopback => {
                " TIME_WAIT holds a port for 60 s more: tcp_tw_reuse needs tcp_timestamps, which \
                 are off."
            }
        });
        text
    }

    fn time_wait_is_reused(&self) -> bool {
        let ports = &self.namespace.ports;
        let allowed = match ports.tw_reuse {
            TwReuse::Never => false,
            TwReuse::Always => true,
            TwReuse::Loopback => self.is_loopback(),
        };
        allowed && ports.timestamps
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
            .text("port_range", format!("{}-{}", ports.range.0, ports.range.1))
            .text(
                "tcp_tw_reuse",
                match ports.tw_reuse {
                    TwReuse::Never => "0",
                    TwReuse::Always => "1",
                    TwReuse::Loopback => "2",
                },
            );
        if let Some(failures) = self.failures {
            evidence.count("failed_connects", failures.count);
            let by_process = failures
                .processes
                .iter()
                .map(|(process, count)| format!("{} (pid {}): {count}", process.name, process.pid));
            evidence.list("failed_connects_by_process", by_process.collect());
        }
        evidence
    }

    fn remedies(&self) -> Vec<String> {
        let ports = &self.namespace.ports;
        let mut remedies = vec![
            "Fewer connections: keep-alive or a connection pool, so that one connection serves \
             many requests."
                .to_owned(),
        ];
        if ports.range != (1_024, 65_535) {
            remedies.push(
                "More ports: sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\" in that \
                 namespace, with the ports of its listeners in ip_local_reserved_ports."
                    .to_owned(),
            );
        }
        if !self.time_wait_is_reused() {
            let timestamps = if ports.timestamps { "" } else { "net.ipv4.tcp_timestamps=1 " };
            remedies.push(format!(
                "Ports in TIME_WAIT again after a second: sysctl -w \
                 {timestamps}net.ipv4.tcp_tw_reuse=1 (safe for outgoing connections with \
                 timestamps, RFC 6191)."
            ));
        }
        remedies.push(
            "More destinations or sources: a second address on either side has a set of ports of \
             its own."
                .to_owned(),
        );
        remedies.push(
            "Not by tcp_tw_recycle (gone since 4.12) and not by SO_LINGER 0, which turns each \
             close into a reset and can lose data."
                .to_owned(),
        );
        remedies
    }
}
