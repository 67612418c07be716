//! `syn-flood` and `handshake-stall`: half-open connections that stay.
//!
//! Signal: half-open requests of a port whose SYN-ACK had to be sent again, so that it has gone
//! unanswered for a second at least; and about how many sources they have. A handshake that goes
//! well never gets there, so no rate of connections trips it.
//! Trip: `warning` or `critical` of them, or half of the listener's queue where that is less. From
//! at least half as many sources, or from [`MANY_SOURCES`], it is a flood; else a stall: the same
//! clients try again and again and never hear the answer.
//! Cold start: none.
//! Recovery: below 0.9 of the threshold; the kernel gives a request up after about a minute
//! (`tcp_synack_retries` 5), sooner when the queue is half full.
//! Misses: under SYN cookies a flood leaves no more requests than the queue holds, so their number
//! says nothing of its size. A port whose accept queue is or was just full: there the kernel itself
//! drops the answers, and `accept-queue-overflow` says so.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    config::{self, Overridable},
    engine::{
        advice::text,
        finding::{EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject},
        over_time::level::Levels,
    },
    facts::{Inventory, Listener, Namespace, NetnsId, Timestamp},
};

/// Sources that are never few, however often each of them tries. The estimate ends near 7,000
/// (`SOURCE_WORDS`), so in a long queue their share alone would tell a large flood for a stall.
const MANY_SOURCES: f64 = 1_000.0;
/// How far past the border between flood and stall the sources must be for one to become the other.
const BORDER: f64 = 0.2;
/// Fewest requests that crowd a queue, however short it is: a scan leaves as many.
const CROWD_LEAST: u64 = 20;
/// How long requests may stay that a full accept queue left behind: `tcp_synack_retries` 5.
const REQUEST_LIFE: Duration = Duration::from_secs(63);
/// Ports with a full accept queue that are remembered.
const FULL_PORTS: usize = 1_024;

#[derive(Debug)]
pub(crate) struct HalfOpen {
    pub(crate) flood: Overridable<config::SynFlood>,
    pub(crate) stall: Overridable<config::HandshakeStall>,
    levels: Levels,
    /// When a port's accept queue was last seen full.
    full: HashMap<(NetnsId, u16), Timestamp>,
}

impl HalfOpen {
    pub(crate) fn new(
        flood: Overridable<config::SynFlood>,
        stall: Overridable<config::HandshakeStall>,
    ) -> Self {
        Self { flood, stall, levels: Levels::default(), full: HashMap::new() }
    }

    /// The ports that are flooded or stalled at `now`.
    pub(crate) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        self.levels.begin();
        self.full.retain(|_, at| now.since(*at) <= REQUEST_LIFE);
        let mut findings: Vec<Finding> = Vec::new();
        for namespace in &inventory.namespaces {
            // Requests are counted by port, which several listeners may share.
            let mut by_port: BTreeMap<u16, Vec<&Listener>> = BTreeMap::new();
            for listener in &namespace.listeners {
                by_port.entry(listener.local.port).or_default().push(listener);
            }
            for (port, listeners) in by_port {
                let key = (namespace.id, port);
                if listeners.iter().any(|listener| listener.is_full())
                    && (self.full.len() < FULL_PORTS || self.full.contains_key(&key))
                {
                    self.full.insert(key, now);
                }
                findings.extend(self.judge_port(namespace, port, &listeners, now));
            }
        }
        findings.sort_by(|a, b| (Reverse(a.severity), &a.id).cmp(&(Reverse(b.severity), &b.id)));
        let (mut floods, mut stalls): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(|finding| finding.kind == FindingKind::SynFlood);
        floods.truncate(FINDINGS_PER_KIND);
        stalls.truncate(FINDINGS_PER_KIND);
        floods.append(&mut stalls);
        floods
    }

    fn judge_port(
        &mut self,
        namespace: &Namespace,
        port: u16,
        listeners: &[&Listener],
        now: Timestamp,
    ) -> Option<Finding> {
        let unanswered = listeners.iter().map(|listener| listener.unanswered).max()?;
        let sources = listeners.iter().map(|listener| listener.unanswered_sources).max()?;
        let limit = listeners.iter().map(|listener| u64::from(listener.accept_limit)).sum();
        // The one that most wait for; its owner is the one to ask.
        let listener = listeners.iter().max_by_key(|listener| listener.half_open)?;
        let process = listener.owner.as_ref().map(|owner| &*owner.process);
        let id = |kind: FindingKind| format!("{}/{}/{port}", kind.name(), namespace.id);
        let (flood, stall) = (id(FindingKind::SynFlood), id(FindingKind::HandshakeStall));
        // What stands already keeps its name near the border.
        let border = match (self.levels.is_held(&flood), self.levels.is_held(&stall)) {
            (true, false) => 1.0 - BORDER,
            (false, true) => 1.0 + BORDER,
            (false, false) if self.full.contains_key(&(namespace.id, port)) => return None,
            _ => 1.0,
        };
        let (id, kind, enabled, warning, critical) = if spread(unanswered, sources) >= border {
            let config = self.flood.of(process, port);
            (flood, FindingKind::SynFlood, config.enabled, config.warning, config.critical)
        } else {
            let config = self.stall.of(process, port);
            (stall, FindingKind::HandshakeStall, config.enabled, config.warning, config.critical)
        };
        let warning = warning.min(CROWD_LEAST.max(limit / 2)) as f64;
        let severity = self.levels.judge(&id, f64::from(unanswered), warning, critical as f64)?;
        let crowd = Crowd { kind, namespace, listener, listeners, unanswered, sources, limit };
        enabled.then(|| crowd.finding(id, severity, now))
    }
}

/// How many sources there are, 1 being the border between few and many.
fn spread(unanswered: u32, sources: u32) -> f64 {
    let sources = f64::from(sources);
    (sources * 2.0 / f64::from(unanswered.max(1))).max(sources / MANY_SOURCES)
}

/// A crowded port, to be put into words.
struct Crowd<'a> {
    kind: FindingKind,
    namespace: &'a Namespace,
    listener: &'a Listener,
    listeners: &'a [&'a Listener],
    unanswered: u32,
    sources: u32,
    limit: u64,
}

impl Crowd<'_> {
    fn finding(&self, id: String, severity: Severity, now: Timestamp) -> Finding {
        let subject = Subject::of_listener(self.namespace, self.listener);
        Finding {
            id,
            kind: self.kind,
            severity,
            title: self.title(),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies: self.remedies(&subject),
            subject,
            since: now,
            last_seen: now,
        }
    }

    fn title(&self) -> String {
        let requests = text::count(u64::from(self.unanswered), "half-open connection");
        let about = if self.sources == 1 { "" } else { "about " };
        let sources = format!("{about}{}", text::count(u64::from(self.sources), "source"));
        let port = self.listener.local.port;
        let who = text::named(self.listener.owner.as_ref().map(|owner| &*owner.process));
        let netns = text::in_netns(&self.namespace.name);
        if self.kind == FindingKind::SynFlood {
            format!("{requests} from {sources} crowd port {port} of {who}{netns}")
        } else {
            format!(
                "{requests} from {sources} to port {port} of {who}{netns} stay: its \
                 SYN-ACKs are not answered"
            )
        }
    }

    fn explanation(&self) -> String {
        if self.kind == FindingKind::HandshakeStall {
            return "SYNs come in, SYN-ACKs go out and are sent again, and no ACK comes back. A \
                 firewall or a route on the way back drops them, or the client's own host does: \
                 packets pass in one direction only. Or a few hosts send SYNs and want no \
                 connection."
                .to_owned();
        }
        let cookies = match self.namespace.syncookies {
            Some(0) => {
                "SYN cookies are off (tcp_syncookies 0), so when the queue is full real clients \
                 are turned away."
            }
            Some(_) => {
                "SYN cookies are on, so real clients are still served when the queue is full, but \
                 without some TCP options."
            }
            None => "Whether SYN cookies are on could not be read.",
        };
        format!(
            "Many addresses send a SYN and never answer the SYN-ACK: they are forged, or belong to \
             hosts that take part in a flood, or the way back to all of them is broken. {cookies}"
        )
    }

    fn evidence(&self) -> EvidenceMap {
        let half_open = self.listeners.iter().map(|listener| u64::from(listener.half_open)).sum();
        let mut evidence = EvidenceMap::default();
        evidence
            .count("unanswered_connections", u64::from(self.unanswered))
            .count("half_open_connections", half_open)
            .count("sources_about", u64::from(self.sources))
            .count("limit_connections", self.limit);
        if let Some(syncookies) = self.namespace.syncookies {
            evidence.count("tcp_syncookies", syncookies);
        }
        evidence
    }

    fn remedies(&self, subject: &Subject) -> Vec<String> {
        let port = self.listener.local.port;
        let here = |command: &str| text::in_its_namespace(subject, command);
        let list = format!("ss -Htn state syn-recv '( sport = :{port} )'");
        let look = format!("Look at them: {}", here(&list));
        if self.kind == FindingKind::HandshakeStall {
            return vec![
                look,
                format!(
                    "Follow one client, here with {} and at its end likewise: where the SYN-ACK or \
                     the ACK is missing is the hop that drops it.",
                    here(&format!("tcpdump -ni any 'tcp port {port}'"))
                ),
                "Look for asymmetric routes, rp_filter, connection tracking that is full, and \
                 firewall rules that know one direction only."
                    .to_owned(),
            ];
        }
        let mut remedies = vec![look];
        if self.namespace.syncookies == Some(0) {
            remedies.push(format!("Now: {}", here("sysctl -w net.ipv4.tcp_syncookies=1")));
        }
        remedies.push(
            "Filter upstream, or limit SYNs by source in the firewall; addresses that are forged \
             cannot be blocked one by one."
                .to_owned(),
        );
        remedies.push(
            "A longer queue (net.ipv4.tcp_max_syn_backlog, net.core.somaxconn, the backlog of \
             listen()) helps against a short wave alone."
                .to_owned(),
        );
        remedies
    }
}
