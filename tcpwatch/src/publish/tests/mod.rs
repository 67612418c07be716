//! Tests of published texts, and the host that they show.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod exposition;
mod listings;
mod live;
mod server;
mod text;

use std::{sync::Arc, time::Duration};

use crate::{
    engine::{
        CloseWaitSample, ConnectFailureSample, EvidenceMap, Finding, FindingKind, FindingSample,
        ListenerSample, NamespaceSample, NamespaceTotals, OTHER, OwnerLabels, Samples, Severity,
        Subject,
    },
    facts::{
        ConnectFailure, NetstatCounters, NotSeen, Role, StateCounts, TcpState, Timestamp, Unseen,
    },
    publish::{HookState, Origin, WallClock},
};

fn owner(process: &str, unit: &str) -> OwnerLabels {
    OwnerLabels { process: process.to_owned(), unit: unit.to_owned() }
}

fn states(counts: &[(TcpState, u64)]) -> StateCounts {
    let mut states = StateCounts::default();
    for &(state, count) in counts {
        states.set(state, count);
    }
    states
}

/// A host where backupd leaks, and a namespace whose `/proc/net/netstat` could not be read.
pub(super) fn samples() -> Samples {
    let host: Arc<str> = "host".into();
    let pod: Arc<str> = "0a1b2c3d4e5f".into();
    Samples {
        namespaces: vec![
            NamespaceSample {
                netns: host.clone(),
                sockets: states(&[
                    (TcpState::Established, 1_204),
                    (TcpState::CloseWait, 210),
                    (TcpState::TimeWait, 8_000),
                    (TcpState::Listen, 12),
                ]),
                time_wait_limit: Some(262_144),
                ports_used: 3_100,
                ports_available: 28_232,
                self_connected: 1,
            },
            NamespaceSample {
                netns: pod.clone(),
                sockets: states(&[(TcpState::Established, 3)]),
                ports_available: 28_232,
                ..NamespaceSample::default()
            },
        ],
        namespace_totals: vec![
            NamespaceTotals {
                netns: host.clone(),
                self_connections: 2,
                netstat: Some(NetstatCounters {
                    listen_overflows: 17,
                    listen_drops: 19,
                    ..NetstatCounters::default()
                }),
            },
            NamespaceTotals { netns: pod.clone(), ..NamespaceTotals::default() },
        ],
        close_wait: vec![
            CloseWaitSample {
                netns: host.clone(),
                owner: owner("backupd", "backup.service"),
                role: Some(Role::Client),
                port: Some(443),
                sockets: 207,
                oldest: Duration::from_millis(86_400_500),
            },
            CloseWaitSample {
                netns: host.clone(),
                owner: owner(OTHER, ""),
                role: None,
                port: None,
                sockets: 3,
                oldest: Duration::from_secs(12),
            },
        ],
        listeners: vec![ListenerSample {
            netns: host.clone(),
            owner: owner("nginx", "nginx.service"),
            port: Some(80),
            half_open: 4,
            accept_queue: 129,
            accept_limit: 128,
        }],
        connect_failures: vec![
            ConnectFailureSample {
                netns: "host".into(),
                owner: owner("backupd", "backup.service"),
                reason: ConnectFailure::Refused,
                total: 41,
            },
            ConnectFailureSample {
                netns: "host".into(),
                owner: owner("backupd", "backup.service"),
                reason: ConnectFailure::NoLocalPort,
                total: 2,
            },
        ],
        reset_rows_lost: 0,
        findings: vec![
            FindingSample {
                kind: FindingKind::CloseWaitPileup,
                severity: Severity::Critical,
                netns: host.clone(),
                owner: owner("backupd", "backup.service"),
                port: Some(443),
                is_led: false,
                count: 1,
                since: Timestamp::from_ns(1_000_000_000),
            },
            FindingSample {
                kind: FindingKind::SelfConnection,
                severity: Severity::Warning,
                netns: host,
                owner: owner("", ""),
                port: None,
                is_led: false,
                count: 1,
                since: Timestamp::from_ns(1_000_000_000),
            },
            FindingSample {
                kind: FindingKind::StuckState,
                severity: Severity::Warning,
                netns: "".into(),
                owner: owner("", ""),
                port: None,
                is_led: true,
                count: 2,
                since: Timestamp::from_ns(2_000_000_000),
            },
        ],
    }
}

pub(super) fn finding() -> Finding {
    let mut evidence = EvidenceMap::default();
    evidence.count("sockets", 207).number("oldest_seconds", 86_400.5);
    evidence.names("peers", ["192.0.2.7:443".to_owned(), "192.0.2.8:443".to_owned()]);
    Finding {
        id: "close-wait-pileup-1".to_owned(),
        kind: FindingKind::CloseWaitPileup,
        severity: Severity::Critical,
        title: "backupd keeps 207 sockets in CLOSE_WAIT to port 443".to_owned(),
        explanation: "The peer has closed; backupd has read the end and did not close.".to_owned(),
        evidence,
        subject: Subject {
            netns: "host".into(),
            process: Some("backupd".to_owned()),
            pid: Some(4_711),
            role: Some(Role::Client),
            fds: vec![7, 8],
            port: Some(443),
            ..Subject::default()
        },
        remedies: vec!["Restart backup.service.".to_owned()],
        related: Vec::new(),
        led_by: None,
        since: Timestamp::from_ns(1_000_000_000),
        last_seen: Timestamp::from_ns(3_500_000_000),
    }
}

pub(super) const ORIGIN: Origin<'_> = Origin {
    host: Some("web1"),
    version: "0.1.0",
    kernel: "6.18.5",
    sockets: 1_085,
    namespaces: 3,
    url: "http://192.0.2.1:10743",
    hooks: None,
    not_seen: &[],
};

/// One hook that is attached and one that is not.
pub(super) fn hooks() -> [HookState; 2] {
    let attached = HookState {
        hook: "set_state".to_owned(),
        attached: true,
        why_not: None,
        lost_without: None,
    };
    let missing = HookState {
        hook: "bind".to_owned(),
        attached: false,
        why_not: Some("fexit is refused (EPERM)".to_owned()),
        lost_without: Some("bind() that fails".to_owned()),
    };
    [attached, missing]
}

/// A list of one thing that is not seen.
pub(super) fn not_seen() -> Vec<NotSeen> {
    vec![
        NotSeen::new(Unseen::Namespaces, "2 network namespaces", "setns() is refused (EPERM)")
            .counted(2)
            .named(["<pod>", "other"])
            .errno(Some("EPERM".to_owned())),
    ]
}

/// 2026-11-20T08:00:00Z, four seconds after boot.
pub(super) fn wall() -> WallClock {
    WallClock::new(Timestamp::from_ns(4_000_000_000), 1_795_161_600_000_000_000)
}

/// A warning, a warning that leads a critical finding and an info, and one whose leader is gone.
pub(super) fn led() -> [Finding; 5] {
    let named = |id: &str, severity| Finding {
        id: id.to_owned(),
        severity,
        title: format!("title of {id}"),
        ..finding()
    };
    let led_by = |leader: &str, finding| Finding { led_by: Some(leader.to_owned()), ..finding };
    [
        led_by("cause", named("effect", Severity::Critical)),
        named("another", Severity::Warning),
        Finding {
            related: vec!["effect".to_owned(), "mild".to_owned()],
            ..named("cause", Severity::Warning)
        },
        led_by("gone", named("orphan", Severity::Warning)),
        led_by("cause", named("mild", Severity::Info)),
    ]
}
