//! `time-wait-exhaustion`: TIME_WAIT near its limit.
//!
//! Signal: minisockets of a namespace (TIME_WAIT and orphaned FIN_WAIT2) against its
//! `tcp_max_tw_buckets`, and `TCPTimeWaitOverflow`.
//! Trip: a part of the limit; critical when the overflow counter has moved within `window`, because
//! then the limit was met.
//! Cold start: overflows before the first inventory are not counted.
//! Recovery: below 0.9 of the threshold, and `window` after the last overflow.
//! Misses: nothing of what the kernel counts.

use std::collections::HashMap;

use super::{
    EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject, level::Levels,
    moved::Moved, text,
};
use crate::{
    config,
    facts::{Inventory, Namespace, NetnsId, TcpState, TimeWaitUse, Timestamp},
};

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
}

/// What the overflow counter of a namespace did.
#[derive(Clone, Debug)]
struct Overflows {
    total: u64,
    moved: Moved,
}

impl TimeWaitExhaustion {
    pub(super) fn new(config: config::TimeWaitExhaustion) -> Self {
        Self { config, levels: Levels::default(), overflows: HashMap::new() }
    }

    /// The namespaces near their limit at `now`.
    pub(super) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        self.levels.begin();
        // Namespaces that have gone are forgotten.
        let mut before = std::mem::take(&mut self.overflows);
        let mut findings = Vec::new();
        for namespace in &inventory.namespaces {
            let overflowed = self.follow(namespace, before.remove(&namespace.id), now);
            if self.config.enabled {
                findings.extend(self.judge_namespace(namespace, overflowed, now));
            }
        }
        findings.sort_by_key(|finding: &Finding| std::cmp::Reverse(finding.severity));
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

    fn judge_namespace(
        &mut self,
        namespace: &Namespace,
        overflowed: u64,
        now: Timestamp,
    ) -> Option<Finding> {
        let TimeWaitUse { used, limit } = namespace.time_wait;
        // Without a limit, and with a limit of 0, there is no ratio; the counter moves all the same.
        let ratio = limit.filter(|limit| *limit > 0).map(|limit| used as f64 / limit as f64);
        let id = format!("time-wait-exhaustion/{}", namespace.id);
        let config = &self.config;
        let by_ratio =
            ratio.and_then(|ratio| self.levels.judge(&id, ratio, config.warning, config.critical));
        let by_overflow = (overflowed > 0).then_some(Severity::Critical);
        let severity = by_ratio.max(by_overflow)?;
        let netns = text::in_netns(&namespace.name);
        let of_limit = limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
        let title = if overflowed > 0 {
            let skipped = text::count(overflowed, "connection");
            format!(
                "TIME_WAIT met its limit{netns}: {skipped} skipped it, {used}{of_limit} sockets \
                 are held now"
            )
        } else {
            let percent = (ratio.unwrap_or_default() * 100.0).floor();
            format!("TIME_WAIT holds {used}{of_limit} sockets{netns} ({percent} %)")
        };
        let mut evidence = EvidenceMap::default();
        evidence
            .count("time_wait_sockets", namespace.sockets.get(TcpState::TimeWait))
            .count("minisockets", used);
        if let Some(limit) = limit {
            evidence.count("limit_sockets", limit);
        }
        if let Some(ratio) = ratio {
            evidence.number("used_ratio", ratio);
        }
        evidence.count("overflows", overflowed);
        let room = limit.unwrap_or_default().saturating_mul(2).clamp(ROOM_LEAST, ROOM_MOST);
        Some(Finding {
            id,
            kind: FindingKind::TimeWaitExhaustion,
            severity,
            title,
            explanation: "The side that closes first keeps each connection for 60 s in TIME_WAIT \
                (a constant of Linux; tcp_fin_timeout does not change it). Beyond \
                tcp_max_tw_buckets the kernel destroys the socket at once, and a late segment of \
                it can meet a new connection of the same ports (RFC 9293 section 3.6.1)."
                .to_owned(),
            evidence,
            subject: Subject { netns: namespace.name.clone(), ..Subject::default() },
            remedies: vec![
                "Fewer connections: keep-alive or a connection pool at the client that opens and \
                 closes the most."
                    .to_owned(),
                format!(
                    "Room: sysctl -w net.ipv4.tcp_max_tw_buckets={room} in that namespace; each \
                     takes about 0.25 KiB of kernel memory."
                ),
                "Not by tcp_tw_recycle (gone since 4.12, it broke clients behind NAT) and not by \
                 SO_LINGER 0 (it turns each close into a reset and can lose data)."
                    .to_owned(),
            ],
            since: now,
            last_seen: now,
        })
    }
}
