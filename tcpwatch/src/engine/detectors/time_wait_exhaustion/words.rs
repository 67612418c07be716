//! The TIME_WAIT of a namespace in words: title, explanation, evidence, remedies.

use super::harm::Harm;
use crate::{
    engine::{
        advice::{text, tw_reuse::TimeWaitReuse},
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
        groups::destinations::worst_destinations,
        observers::closers::{self, Closer},
    },
    facts::{Namespace, Role, TcpState, TimeWaitUse},
};

/// Least limit that is proposed where the present one is tiny: enough for 68 closes per second, each
/// held for 60 s.
const LIMIT_LEAST: u64 = 4_096;
/// Most: the setting is an `int`.
const LIMIT_MOST: u64 = i32::MAX as u64;

/// The TIME_WAIT of a namespace, to be put into words.
pub(crate) struct Crowd<'a> {
    pub(crate) namespace: &'a Namespace,
    /// Part of the limit, where there is one.
    pub(crate) ratio: Option<f64>,
    /// Connections that ended without it lately.
    pub(crate) overflowed: u64,
    /// Until the limit is met; `None` while their number does not grow.
    pub(crate) minutes_left: Option<f64>,
    pub(super) harm: Harm,
    /// The closing programs, the one to be named first.
    pub(crate) closers: Vec<Closer<'a>>,
}

impl Crowd<'_> {
    pub(crate) fn verdict(&self, id: String, severity: Severity) -> Verdict {
        let mut subject = Subject { netns: self.namespace.name.clone(), ..Subject::default() };
        if let Some(closer) = self.closers.first() {
            closer.name_in(&mut subject);
            subject.role = Some(closer.role);
            subject.port = closer.port();
            subject.peer = closer.destination().map(|peer| peer.to_string());
        }
        Verdict {
            id,
            kind: FindingKind::TimeWaitExhaustion,
            severity,
            title: self.title(),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies: self.remedies(&subject),
            subject,
        }
    }

    fn title(&self) -> String {
        let netns = text::in_netns(&self.namespace.name);
        let TimeWaitUse { used, limit } = self.namespace.time_wait;
        let (used, limit) = (text::number(used), limit.map(text::number));
        let closer = self.closers.first().map(|closer| format!("; {}", closer.in_words()));
        let closer = closer.unwrap_or_default();
        if self.overflowed > 0 {
            let of_limit = limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
            let without = text::count(self.overflowed, "connection");
            return format!(
                "TIME_WAIT is at its limit{netns}: {without} ended without it, {used}{of_limit} \
                 sockets are in it now{closer}"
            );
        }
        let of_limit = limit.map(|limit| format!(" of at most {limit}")).unwrap_or_default();
        let percent = (self.ratio.unwrap_or_default() * 100.0).floor();
        format!("{used}{of_limit} sockets are in TIME_WAIT{netns} ({percent} %){closer}")
    }

    fn explanation(&self) -> String {
        let mut text = "The side that closes first keeps each connection for 60 s in TIME_WAIT (a \
            constant of Linux; tcp_fin_timeout does not change it). Beyond tcp_max_tw_buckets the \
            kernel destroys the socket at once, and a late segment of it can meet a new connection \
            of the same ports (RFC 9293 section 3.6.1)."
            .to_owned();
        text.push_str(match self.harm {
            Harm::None => {
                " No program fails by it: no connect() lacks a port because of TIME_WAIT."
            }
            Harm::PortsRunOut => {
                " A destination nears its last local port, and TIME_WAIT has some."
            }
            Harm::ConnectsFail => " connect() fails for want of a local port that TIME_WAIT has.",
        });
        if let Some(minutes) = self.minutes_left {
            let left = text::minutes(minutes);
            text.push_str(&format!(" At this rate the limit is met in {left}."));
        }
        text
    }

    fn evidence(&self) -> EvidenceMap {
        let TimeWaitUse { used, limit } = self.namespace.time_wait;
        let mut evidence = EvidenceMap::default();
        evidence
            .count("time_wait_sockets", self.namespace.sockets.get(TcpState::TimeWait))
            .count("minisockets", used);
        if let Some(limit) = limit {
            evidence.count("limit_sockets", limit);
        }
        if let Some(ratio) = self.ratio {
            evidence.number("used_ratio", ratio);
        }
        evidence.count("overflows", self.overflowed);
        if let Some(minutes) = self.minutes_left {
            evidence.number("time_to_limit_minutes", minutes);
        }
        evidence
            .list("closers", closers::evidence(&self.closers))
            .list("worst_destinations", worst_destinations(self.namespace));
        evidence
    }

    fn remedies(&self, subject: &Subject) -> Vec<String> {
        let ports = &self.namespace.ports;
        let limit = self.namespace.time_wait.limit.unwrap_or_default();
        let higher = limit.saturating_mul(2).clamp(LIMIT_LEAST, LIMIT_MOST);
        let closer = self.closers.first();
        let purpose = match self.harm {
            Harm::None => "No action is needed now. For fewer sockets in TIME_WAIT",
            Harm::PortsRunOut | Harm::ConnectsFail => "Fewer connections",
        };
        let how = match closer.map(|closer| (closer.role, closer.who())) {
            Some((Role::Client, who)) => format!("keep-alive or a connection pool in {who}."),
            Some((Role::Server, who)) => format!(
                "keep-alive in {who}, with an idle timeout longer than its clients', so that they \
                 close first."
            ),
            None => "keep-alive or a connection pool at the client that opens and closes the most."
                .to_owned(),
        };
        let mut remedies = vec![format!("{purpose}: {how}")];
        // A server's ports in TIME_WAIT are not taken by any connect().
        if closer.is_none_or(|closer| closer.role == Role::Client) {
            let peer = closer.and_then(Closer::destination);
            let is_loopback = peer.map(|peer| peer.address.is_loopback());
            remedies.push(TimeWaitReuse::new(ports, is_loopback).remedy(subject));
        }
        let set = format!("sysctl -w net.ipv4.tcp_max_tw_buckets={higher}");
        let set = text::in_its_namespace(subject, &set);
        remedies
            .push(format!("A higher limit: {set}; each takes about 0.25 KiB of kernel memory."));
        remedies.push(
            "Not by tcp_tw_recycle (gone since 4.12, it broke clients behind NAT) and not by \
             SO_LINGER 0 (it turns each close into a reset and can lose data)."
                .to_owned(),
        );
        remedies
    }
}
