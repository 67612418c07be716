//! `time-wait-exhaustion`: TIME_WAIT near its limit.
//!
//! Signal: minisockets of a namespace (TIME_WAIT and orphaned FIN_WAIT2) against its
//! `tcp_max_tw_buckets`, and `TCPTimeWaitOverflow`.
//! Trip: a part of the limit; critical when the overflow counter has moved within `window`, because
//! then the limit was met. From 0.8 of the warning on those who close are counted, see `closers`.
//! Cold start: overflows before the first inventory are not counted. The minutes to the limit need
//! a minute of growth.
//! Recovery: below 0.9 of the threshold, and `window` after the last overflow.
//! Misses: nothing of what the kernel counts; who closed before it was counted.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use super::{
    EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject,
    closers::{self, Closer, Closers, Nearing},
    ephemeral_port_exhaustion::worst_destinations,
    level::Levels,
    moved::Moved,
    text,
    trend::Trend,
    tw_reuse::TimeWaitReuse,
};
use crate::{
    config,
    facts::{Inventory, Namespace, NetnsId, Role, TcpState, TimeWaitUse, Timestamp},
};

/// From this part of the limit on growth is followed.
const HALF: f64 = 0.5;
/// The time over which growth is taken: twice the life of TIME_WAIT, so that the rise that comes
/// with a new load, and ends after 60 s, does not count for long.
const GROWTH_WINDOW: Duration = Duration::from_secs(120);
/// Least limit that is proposed where the present one is tiny: enough for 68 closes per second, each
/// held for 60 s.
const ROOM_LEAST: u64 = 4_096;
/// Most: the setting is an `int`.
const ROOM_MOST: u64 = i32::MAX as u64;

#[derive(Debug)]
pub(super) struct TimeWaitExhaustion {
    pub(super) config: config::TimeWaitExhaustion,
    levels: Levels,
    overflows: HashMap<NetnsId, Overflows>,
    /// Growth, of those that hold half of their limit.
    trends: HashMap<NetnsId, Trend>,
    nearing: Nearing,
}

/// What the overflow counter of a namespace did.
#[derive(Clone, Debug)]
struct Overflows {
    total: u64,
    moved: Moved,
}

impl TimeWaitExhaustion {
    pub(super) fn new(config: config::TimeWaitExhaustion) -> Self {
        Self {
            config,
            levels: Levels::default(),
            overflows: HashMap::new(),
            trends: HashMap::new(),
            nearing: Nearing::default(),
        }
    }

    /// Whether it is to be counted who closes connections.
    pub(super) fn wants_closers(&self) -> bool {
        self.config.enabled && self.nearing.is_near()
    }

    /// The namespaces near their limit at `now`.
    pub(super) fn judge(
        &mut self,
        inventory: &Inventory,
        closers: &Closers,
        now: Timestamp,
    ) -> Vec<Finding> {
        self.levels.begin();
        // Namespaces that have gone are forgotten.
        let mut before = std::mem::take(&mut self.overflows);
        let mut trends = std::mem::take(&mut self.trends);
        let mut findings = Vec::new();
        let mut fullest = 0.0_f64;
        for namespace in &inventory.namespaces {
            let overflowed = self.follow(namespace, before.remove(&namespace.id), now);
            if !self.config.enabled {
                continue;
            }
            let TimeWaitUse { used, limit } = namespace.time_wait;
            // Without a limit, and with a limit of 0, there is no ratio; the counter moves all the
            // same.
            let limit = limit.filter(|limit| *limit > 0);
            let ratio = limit.map(|limit| used as f64 / limit as f64);
            fullest = fullest.max(ratio.unwrap_or_default());
            let minutes_left = limit.filter(|_| ratio >= Some(HALF)).and_then(|limit| {
                let mut trend = trends.remove(&namespace.id).unwrap_or_default();
                trend.observe(now, used, GROWTH_WINDOW);
                let minutes = trend.minutes_to(limit, GROWTH_WINDOW);
                self.trends.insert(namespace.id, trend);
                minutes
            });
            let closers = closers.of_namespace(namespace.id);
            let crowd = Crowd { namespace, ratio, overflowed, minutes_left, closers };
            findings.extend(self.judge_namespace(&crowd, now));
        }
        self.nearing.observe(fullest / self.config.warning, !findings.is_empty());
        findings.sort_by_key(|finding: &Finding| Reverse(finding.severity));
        findings.truncate(FINDINGS_PER_KIND);
        findings
    }

    /// How many overflows there were since the counter was last still for a `window`; 0 while it is.
    fn follow(&mut self, namespace: &Namespace, before: Option<Overflows>, now: Timestamp) -> u64 {
        let read = namespace.netstat.as_ref().map(|netstat| netstat.time_wait_overflows);
        // A counter that could not be read this once is taken not to have moved.
        let known = before.as_ref().map(|overflows| overflows.total);
        let Some(total) = read.or(known) else { return 0 };
        let mut overflows = before.unwrap_or(Overflows { total, moved: Moved::default() });
        let added = total.saturating_sub(overflows.total);
        overflows.total = total;
        let sum = overflows.moved.observe(added, self.config.window, now).total;
        self.overflows.insert(namespace.id, overflows);
        sum
    }

    fn judge_namespace(&mut self, crowd: &Crowd<'_>, now: Timestamp) -> Option<Finding> {
        let id = format!("{}/{}", FindingKind::TimeWaitExhaustion.name(), crowd.namespace.id);
        let config = &self.config;
        let by_ratio = crowd
            .ratio
            .and_then(|ratio| self.levels.judge(&id, ratio, config.warning, config.critical));
        let by_overflow = (crowd.overflowed > 0).then_some(Severity::Critical);
        Some(crowd.finding(id, by_ratio.max(by_overflow)?, now))
    }
}

/// The TIME_WAIT of a namespace, to be put into words.
struct Crowd<'a> {
    namespace: &'a Namespace,
    /// Part of the limit, where there is one.
    ratio: Option<f64>,
    /// Connections that skipped it lately.
    overflowed: u64,
    /// Until the limit is met; `None` while their number does not grow.
    minutes_left: Option<f64>,
    /// Who closes, the one to be named first.
    closers: Vec<Closer<'a>>,
}

impl Crowd<'_> {
    fn finding(&self, id: String, severity: Severity, now: Timestamp) -> Finding {
        let mut subject = Subject { netns: self.namespace.name.clone(), ..Subject::default() };
        if let Some(closer) = self.closers.first() {
            subject.set_process(closer.process);
            subject.role = Some(closer.role);
            subject.port = Some(closer.port);
            subject.peer = closer.destination().map(|peer| peer.to_string());
        }
        Finding {
            id,
            kind: FindingKind::TimeWaitExhaustion,
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
        let netns = text::in_netns(&self.namespace.name);
        let TimeWaitUse { used, limit } = self.namespace.time_wait;
        let closer = self.closers.first().map(|closer| format!("; {}", closer.in_words()));
        let closer = closer.unwrap_or_default();
        if self.overflowed > 0 {
            let of_limit = limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
            let skipped = text::count(self.overflowed, "connection");
            return format!(
                "TIME_WAIT met its limit{netns}: {skipped} skipped it, {used}{of_limit} sockets \
                 are held now{closer}"
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
        if let Some(minutes) = self.minutes_left {
            let left = text::minutes(minutes);
            text.push_str(&format!(" At this rate the limit is met in {left}."));
        }
        if let Some(closer) = self.closers.first() {
            text.push_str(&format!(" Of those who close first, {}.", closer.in_words()));
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
            evidence.number("minutes_to_limit", minutes);
        }
        if !self.closers.is_empty() {
            evidence.list("closers", closers::list(&self.closers));
        }
        let worst = worst_destinations(self.namespace);
        if !worst.is_empty() {
            evidence.list("worst_destinations", worst);
        }
        evidence
    }

    fn remedies(&self, subject: &Subject) -> Vec<String> {
        let ports = &self.namespace.ports;
        let limit = self.namespace.time_wait.limit.unwrap_or_default();
        let room = limit.saturating_mul(2).clamp(ROOM_LEAST, ROOM_MOST);
        let closer = self.closers.first();
        let mut remedies = vec![match closer.map(|closer| (closer.role, closer.process)) {
            Some((Role::Client, process)) => format!(
                "Fewer connections: keep-alive or a connection pool in {}.",
                text::named(Some(process))
            ),
            Some((Role::Server, process)) => format!(
                "Fewer connections: keep-alive in {}, with an idle timeout longer than its \
                 clients', so that they close first.",
                text::named(Some(process))
            ),
            None => "Fewer connections: keep-alive or a connection pool at the client that opens \
                     and closes the most."
                .to_owned(),
        }];
        // A server's ports in TIME_WAIT are not taken by any connect().
        if closer.is_none_or(|closer| closer.role == Role::Client) {
            let peer = closer.and_then(|closer| closer.peer);
            let is_loopback = peer.map(|peer| peer.is_loopback());
            remedies.push(TimeWaitReuse::new(ports, is_loopback).remedy(subject));
        }
        let set = format!("sysctl -w net.ipv4.tcp_max_tw_buckets={room}");
        let set = text::in_its_namespace(subject, &set);
        remedies.push(format!("Room: {set}; each takes about 0.25 KiB of kernel memory."));
        remedies.push(
            "Not by tcp_tw_recycle (gone since 4.12, it broke clients behind NAT) and not by \
             SO_LINGER 0 (it turns each close into a reset and can lose data)."
                .to_owned(),
        );
        remedies
    }
}
