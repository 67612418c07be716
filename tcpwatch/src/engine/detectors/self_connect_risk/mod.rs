//! `self-connect-risk`: a port from which a socket may come to be connected to itself.
//!
//! Signal: a listener inside `ip_local_port_range` that is not reserved; and a port in there that
//! a local client dials again and again while nobody listens (ECONNREFUSED from its own address).
//! Trip: info for a listener that has been there for `min_age`, warning where a local client
//! dials it; warning for `warning` refused connections within `window`, info where connect() takes
//! the other ports first (see [`Parity`]).
//! Cold start: a listener's age counts from the first inventory that saw it.
//! Recovery: the port is reserved, the listener gone, or `window` after the last refusal.
//! Misses: local clients of a listener that dial another address of this host than loopback, until
//! they are refused.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    config::{self, Overridable},
    engine::{
        advice::{reserved_ports, text},
        finding::{EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject},
        over_time::{
            level::Levels,
            moved::{Moved, Moves},
        },
    },
    facts::{
        ConnectFailure, Endpoint, Event, Inventory, Listener, Namespace, NetnsId, PortUse, Process,
        Role, Timestamp,
    },
};

/// Listeners whose age is followed.
const LISTENERS: usize = 4_096;
/// Ports whose refusals are remembered.
const DIALLED: usize = 256;
/// How long a listener counts as dialled by local clients after the last of them was seen: a client
/// that comes once a day, and an hour more, shall not make the severity go up and down.
const CLIENT_MEMORY: Duration = Duration::from_secs(25 * 3_600);

#[derive(Debug)]
pub(crate) struct SelfConnectRisk {
    pub(crate) config: Overridable<config::SelfConnectRisk>,
    levels: Levels,
    /// Ports of the range on which somebody listens.
    listening: HashMap<(NetnsId, u16), Listening>,
    dialled: HashMap<(NetnsId, Endpoint), Dialled>,
}

/// A port of the range on which somebody listens.
#[derive(Clone, Copy, Debug)]
struct Listening {
    since: Timestamp,
    /// When a local client was seen last.
    dialled: Option<Timestamp>,
}

/// A port of this host that refused.
#[derive(Debug)]
struct Dialled {
    refused: Moved,
    last: Timestamp,
    process: Option<Arc<Process>>,
}

impl SelfConnectRisk {
    pub(crate) fn new(config: Overridable<config::SelfConnectRisk>) -> Self {
        Self {
            config,
            levels: Levels::default(),
            listening: HashMap::new(),
            dialled: HashMap::new(),
        }
    }

    pub(crate) fn handle_event(&mut self, event: &Event) {
        let Event::ConnectFailed { at, netns, local, peer, reason, process } = event else {
            return;
        };
        // From another address it can never be its own peer: 127.0.0.5 is dialled from 127.0.0.1.
        if *reason != ConnectFailure::Refused || peer.address != local.address {
            return;
        }
        let key = (*netns, *peer);
        if !self.dialled.contains_key(&key) && self.dialled.len() >= DIALLED {
            return;
        }
        let dialled = self.dialled.entry(key).or_insert_with(|| Dialled {
            refused: Moved::default(),
            last: *at,
            process: None,
        });
        dialled.last = dialled.last.max(*at);
        if process.is_some() {
            dialled.process.clone_from(process);
        }
        let config = self.config.of(dialled.process.as_deref(), peer.port);
        dialled.refused.observe(1, config.window, *at);
    }

    /// The ports at risk at `now`.
    pub(crate) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        self.levels.begin();
        self.dialled.retain(|(_, peer), dialled| {
            let config = self.config.of(dialled.process.as_deref(), peer.port);
            now.since(dialled.last) <= config.window
        });
        let mut before = std::mem::take(&mut self.listening);
        let mut findings = Vec::new();
        for namespace in &inventory.namespaces {
            let mut seen = HashSet::new();
            for listener in namespace.listeners.iter().filter(|listener| listener.in_port_range) {
                if !seen.insert(listener.local.port) {
                    continue;
                }
                let key = (namespace.id, listener.local.port);
                let listening = self.follow(key, listener, before.remove(&key), now);
                let process = listener.owner.as_ref().map(|owner| &*owner.process);
                let config = self.config.of(process, listener.local.port);
                if config.enabled && now.since(listening.since) >= config.min_age {
                    let is_dialled = listening.dialled.is_some();
                    findings.push(listener_at_risk(namespace, listener, is_dialled, now));
                }
            }
            findings.extend(self.dialled_ports(namespace, &seen, now));
        }
        findings.sort_by(|a, b| (Reverse(a.severity), &a.id).cmp(&(Reverse(b.severity), &b.id)));
        findings.truncate(FINDINGS_PER_KIND);
        findings
    }

    /// Since when somebody listens there, and whether local clients dial it.
    fn follow(
        &mut self,
        key: (NetnsId, u16),
        listener: &Listener,
        before: Option<Listening>,
        now: Timestamp,
    ) -> Listening {
        let mut listening = before.unwrap_or(Listening { since: now, dialled: None });
        let (netns, port) = key;
        let has_refused =
            || self.dialled.keys().any(|(id, peer)| (*id, peer.port) == (netns, port));
        if listener.local_clients > 0 || has_refused() {
            listening.dialled = Some(now);
        }
        listening.dialled = listening.dialled.filter(|at| now.since(*at) <= CLIENT_MEMORY);
        if self.listening.len() < LISTENERS {
            self.listening.insert(key, listening);
        }
        listening
    }

    /// Ports that are dialled again and again while nobody listens.
    fn dialled_ports(
        &mut self,
        namespace: &Namespace,
        listening: &HashSet<u16>,
        now: Timestamp,
    ) -> Vec<Finding> {
        let (low, high) = namespace.ports.range;
        let mut findings = Vec::new();
        for ((netns, peer), dialled) in &mut self.dialled {
            let in_range = (low..=high).contains(&peer.port)
                && !reserved_ports::contain(&namespace.ports.reserved, peer.port);
            if *netns != namespace.id || !in_range || listening.contains(&peer.port) {
                continue;
            }
            let process = dialled.process.as_deref();
            let config = self.config.of(process, peer.port);
            let refused = dialled.refused.observe(0, config.window, now);
            if !config.enabled {
                continue;
            }
            let id = format!("self-connect-risk/{netns}/{peer}");
            let threshold = config.warning as f64;
            if self.levels.judge_moves(&id, refused, threshold, f64::INFINITY).is_some() {
                findings.push(dialled_port(id, namespace, *peer, process, refused, now));
            }
        }
        findings
    }
}

fn listener_at_risk(
    namespace: &Namespace,
    listener: &Listener,
    is_dialled: bool,
    now: Timestamp,
) -> Finding {
    let port = listener.local.port;
    let subject = Subject::of_listener(namespace, listener);
    let who = text::named(listener.owner.as_ref().map(|owner| &*owner.process));
    let netns = text::in_netns(&namespace.name);
    let (low, high) = namespace.ports.range;
    let mut evidence = evidence_of_range(&namespace.ports);
    evidence.count("local_connections", u64::from(listener.local_clients));
    let dialled = if is_dialled { ", and local clients dial it" } else { "" };
    let becomes_itself = match Parity::of(&namespace.ports, port) {
        Parity::First => {
            " A local client that dials it at that time may be given the same port, and is then \
             connected to itself (simultaneous open, RFC 9293 section 3.5)."
        }
        Parity::Second => "",
    };
    Finding {
        id: format!("self-connect-risk/{}/{port}", namespace.id),
        kind: FindingKind::SelfConnectRisk,
        severity: if is_dialled { Severity::Warning } else { Severity::Info },
        title: format!(
            "port {port} of {who}{netns} lies inside ip_local_port_range {low}-{high} and is not \
             reserved{dialled}"
        ),
        explanation: format!(
            "While {who} restarts, the kernel may give port {port} to an outgoing connection: the \
             restart then fails with \"address already in use\".{becomes_itself}"
        ),
        evidence,
        remedies: remedies(&subject, &namespace.ports, port),
        subject,
        since: now,
        last_seen: now,
    }
}

fn dialled_port(
    id: String,
    namespace: &Namespace,
    peer: Endpoint,
    process: Option<&Process>,
    refused: Moves,
    now: Timestamp,
) -> Finding {
    let ports = &namespace.ports;
    let mut subject = Subject {
        netns: namespace.name.clone(),
        role: Some(Role::Client),
        peer: Some(peer.to_string()),
        port: Some(peer.port),
        ..Subject::default()
    };
    if let Some(process) = process {
        subject.set_process(process);
    }
    let per_second = per_second(refused);
    let mut evidence = evidence_of_range(ports);
    evidence
        .count("refused_connects", refused.total)
        .count("refused_connects_in_window", refused.in_window)
        .number("refused_connects_per_second", per_second);
    let who = text::named(process);
    let netns = text::in_netns(&namespace.name);
    let times = match refused.total {
        1 => "once".to_owned(),
        total => format!("{total} times"),
    };
    let keeps =
        format!("{who} keeps dialling {peer}{netns}, where nobody listens: refused {times}");
    let port = peer.port;
    let (severity, title, explanation) = match Parity::of(ports, port) {
        Parity::First => {
            // Of the ports that connect() tries first each is as likely as another.
            let tries = (ports.available / 2).max(1);
            let expected =
                Duration::try_from_secs_f64(f64::from(tries) / per_second).unwrap_or(Duration::MAX);
            evidence
                .count("expected_connects_to_self_connection", u64::from(tries))
                .number("expected_seconds_to_self_connection", expected.as_secs_f64());
            let expected = text::duration(expected);
            (
                Severity::Warning,
                format!("{keeps}, and at this rate connected to itself in about {expected}"),
                format!(
                    "Port {port} lies inside ip_local_port_range, so connect() may be given it as \
                     its source: about once in {tries} times. TCP then connects the socket to \
                     itself (simultaneous open, RFC 9293 section 3.5), and the service that should \
                     listen there cannot bind."
                ),
            )
        }
        Parity::Second => (
            Severity::Info,
            keeps,
            format!(
                "Port {port} lies inside ip_local_port_range. connect() takes the ports of the \
                 other parity first, so it is given this one as its source only when those are \
                 taken; a program that calls bind() with port 0 before connect() may be given it \
                 at once. The socket is then connected to itself (simultaneous open, RFC 9293 \
                 section 3.5)."
            ),
        ),
    };
    Finding {
        id,
        kind: FindingKind::SelfConnectRisk,
        severity,
        title,
        explanation,
        evidence,
        remedies: remedies(&subject, ports, port),
        subject,
        since: now,
        last_seen: now,
    }
}

/// Refusals per second, between the first and the last of the window; a second is the least that
/// is divided by, so that a burst is not taken for a rate.
fn per_second(refused: Moves) -> f64 {
    let intervals = refused.in_window.saturating_sub(1).max(1);
    intervals as f64 / refused.lasted.max(Duration::from_secs(1)).as_secs_f64()
}

/// Which of the range's ports connect() tries first: those of the parity of its beginning; the
/// others only when these are all taken for the destination. bind() with port 0 does the opposite.
/// (`__inet_hash_connect` and `inet_csk_find_open_port`, since 4.2; seen on 6.18: of 5,000 refused
/// connects to a port of the second parity in a range of 100 none was given that port.)
enum Parity {
    First,
    Second,
}

impl Parity {
    fn of(ports: &PortUse, port: u16) -> Self {
        let (low, _) = ports.range;
        if low % 2 == port % 2 { Self::First } else { Self::Second }
    }
}

fn evidence_of_range(ports: &PortUse) -> EvidenceMap {
    let (low, high) = ports.range;
    let mut evidence = EvidenceMap::default();
    evidence.text("port_range", format!("{low}-{high}"));
    if !ports.reserved.is_empty() {
        evidence.text("reserved_ports", ports.reserved.clone());
    }
    evidence
}

fn remedies(subject: &Subject, ports: &PortUse, port: u16) -> Vec<String> {
    let (low, _) = ports.range;
    vec![
        reserved_ports::remedy(subject, &ports.reserved, port),
        format!("Or let the service listen below {low}."),
        "In the client: wait longer after each refusal, and close a connection whose getsockname() \
         equals its getpeername()."
            .to_owned(),
    ]
}
