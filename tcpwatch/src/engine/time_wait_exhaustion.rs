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
    EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject, level::Levels, text,
};
use crate::{
    config,
    facts::{Inventory, Namespace, TcpState, Timestamp},
};

#[derive(Debug)]
pub(super) struct TimeWaitExhaustion {
    pub(super) config: config::TimeWaitExhaustion,
    levels: Levels,
    overflows: HashMap<u32, Overflows>,
}

/// What the overflow counter of a namespace did.
#[derive(Clone, Copy, Debug)]
struct Overflows {
    total: u64,
    /// Since it began to move, and when it last did.
    moved: Option<(u64, Timestamp)>,
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
            let overflowed = self.follow(namespace, before.remove(&namespace.inode), now);
            if self.config.enabled {
                findings.extend(self.judge_namespace(namespace, overflowed, now));
            }
        }
        findings.sort_by_key(|finding: &Finding| std::cmp::Reverse(finding.severity));
        findings.truncate(FINDINGS_PER_KIND);
        findings
    }

    /// How many overflows there were within `window`, as far as that is known.
    fn follow(&mut self, namespace: &Namespace, before: Option<Overflows>, now: Timestamp) -> u64 {
        let Some(netstat) = &namespace.netstat else { return 0 };
        let total = netstat.time_wait_overflows;
        let mut overflows = before.unwrap_or(Overflows { total, moved: None });
        let new = total.saturating_sub(overflows.total);
        overflows.total = total;
        let lasting = overflows.moved.filter(|(_, last)| now.since(*last) <= self.config.window);
        overflows.moved = match (new, lasting) {
            (0, lasting) => lasting,
            (new, lasting) => Some((lasting.map_or(0, |(sum, _)| sum) + new, now)),
        };
        self.overflows.insert(namespace.inode, overflows);
        overflows.moved.map_or(0, |(sum, _)| sum)
    }

    fn judge_namespace(
        &mut self,
        namespace: &Namespace,
        overflowed: u64,
        now: Timestamp,
    ) -> Option<Finding> {
        let limit = namespace.time_wait.limit.filter(|limit| *limit > 0)?;
        let used = namespace.time_wait.used;
        let ratio = used as f64 / limit as f64;
        let id = format!("time-wait-exhaustion/{}", namespace.inode);
        let config = &self.config;
        let by_ratio = self.levels.judge(&id, ratio, config.warning, config.critical);
        let by_overflow = (overflowed > 0).then_some(Severity::Critical);
        let severity = by_ratio.max(by_overflow)?;
        let netns = text::in_netns(&namespace.name);
        let title = if overflowed > 0 {
            format!(
                "TIME_WAIT is full{netns}: {} skipped it, {used} of {limit} are held",
                text::count(overflowed, "connection")
            )
        } else {
            let percent = (ratio * 100.0).floor();
            format!("TIME_WAIT holds {used} of {limit} sockets{netns} ({percent} %)")
        };
        let mut evidence = EvidenceMap::default();
        evidence
            .count("time_wait_sockets", namespace.sockets.get(TcpState::TimeWait))
            .count("minisockets", used)
            .count("limit_sockets", limit)
            .number("used_ratio", ratio)
            .count("overflows", overflowed);
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
                    "Room: sysctl -w net.ipv4.tcp_max_tw_buckets={} in that namespace; each \
                     takes about 0.25 KiB of kernel memory.",
                    limit.saturating_mul(2)
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
