//! `kernel-limit`: by part, losses, growth and resource.

use super::*;
use crate::facts::{Conntrack, SharedLimits};

const LIMIT: u64 = 262_144;

fn tracked(entries: u64, dropped: u64) -> Namespace {
    let conntrack = Conntrack {
        entries,
        limit: Some(LIMIT),
        dropped: Some(dropped),
        early_dropped: Some(0),
        insert_failed: Some(0),
    };
    Namespace { conntrack: Some(conntrack), ..host() }
}

/// The severity, where there is a finding.
fn severity(watch: &Watch) -> Option<Severity> {
    watch.severities().first().copied()
}

fn shared(watch: &mut Watch, limits: SharedLimits, namespace: Namespace) -> Option<Severity> {
    let mut seen = inventory([namespace], watch.now);
    seen.shared_limits = Some(Box::new(limits));
    watch.take(&seen);
    severity(watch)
}

#[test]
fn a_full_table_that_drops_is_critical_and_a_gateway_that_stands_near_it_is_info() {
    let mut watch = Watch::new();
    let mut look = |entries, dropped| {
        watch.see([tracked(entries, dropped)]);
        let found = severity(&watch);
        watch.pass(INTERVAL);
        found
    };
    // Drops from before the first look.
    assert_eq!(look(100_000, 70), None);
    assert_eq!(look(223_000, 70), Some(Severity::Info));
    // A packet that is dropped for another reason.
    assert_eq!(look(223_000, 71), Some(Severity::Info));
    assert_eq!(look(LIMIT, 79), Some(Severity::Warning));
    assert_eq!(look(LIMIT, 1_154), Some(Severity::Critical));
    let finding = watch.only().clone();
    assert_says(
        &finding.title,
        &[
            "262,144 of at most 262,144 entries of connection tracking exist (100 %)",
            "1,084 packets dropped for want of an entry within 60 s",
        ],
    );
    assert_says(&finding.explanation, &["first packet of each new connection", "pass through"]);
    assert_says(&remedies_of(&finding), &["nf_conntrack_max=524288", "conntrack -L"]);
    // The cure, and a window later.
    for _ in 0..7 {
        watch.see([tracked(100_000, 1_154)]);
        watch.pass(INTERVAL);
    }
    assert_eq!(watch.severities(), []);
}

#[test]
fn drops_of_clashes_and_drops_far_from_the_limit_are_nothing() {
    let with = |dropped, clashed| {
        let mut namespace = tracked(250_000, dropped);
        namespace.conntrack.as_mut().unwrap().insert_failed = Some(clashed);
        namespace
    };
    let mut watch = Watch::new();
    watch.see([with(0, 0)]);
    watch.pass(INTERVAL);
    watch.see([with(500, 500)]);
    assert_eq!(severity(&watch), Some(Severity::Info));
    assert_says(&watch.only().explanation, &["500 packets lost against an equal one"]);
    let mut watch = Watch::new();
    watch.see([tracked(1_000, 0)]);
    watch.pass(INTERVAL);
    watch.see([tracked(1_000, 500)]);
    assert_eq!(watch.severities(), []);
}

#[test]
fn a_table_that_was_full_between_two_looks_is_found_by_what_it_evicted() {
    let with = |dropped, evicted| {
        let mut namespace = tracked(60_000, dropped);
        namespace.conntrack.as_mut().unwrap().early_dropped = Some(evicted);
        namespace
    };
    let mut watch = Watch::new();
    let mut look = |dropped, evicted| {
        watch.see([with(dropped, evicted)]);
        watch.pass(INTERVAL);
        severity(&watch)
    };
    assert_eq!(look(0, 0), None);
    assert_eq!(look(0, 3_000), Some(Severity::Info));
    assert_eq!(look(40, 4_000), Some(Severity::Critical));
    assert_says(&watch.only().explanation, &["removed 4,000 entries for new ones"]);
}

#[test]
fn growth_that_reaches_the_limit_soon_is_a_warning_with_its_time() {
    let mut watch = Watch::new();
    let mut entries = 235_000;
    for _ in 0..70 {
        watch.see([tracked(entries, 0)]);
        watch.pass(INTERVAL);
        entries += 100;
    }
    assert_eq!(severity(&watch), Some(Severity::Warning));
    assert_says(&watch.only().title, &["the limit is reached in about"]);
    // The same number, reached and held.
    for _ in 0..70 {
        watch.see([tracked(entries, 0)]);
        watch.pass(INTERVAL);
    }
    assert_eq!(severity(&watch), Some(Severity::Info));
}

#[test]
fn tcp_memory_above_its_pressure_mark_for_a_window_is_a_warning_and_at_the_limit_critical() {
    let mut watch = Watch::new();
    let mut look = |pages| {
        let limits = SharedLimits {
            tcp_memory_pages: Some(pages),
            tcp_memory_pressure_pages: Some(250_000),
            tcp_memory_limit_pages: Some(375_000),
            page_bytes: Some(4_096),
            ..SharedLimits::default()
        };
        let app = process(7, "app");
        let silent = stalled_send::stalled(&app, 1, 5, watch.now);
        let silent = crate::facts::StalledSocket { unacked_bytes: 900_000_000, ..silent };
        let found = shared(&mut watch, limits, Namespace { stalled: vec![silent], ..host() });
        watch.pass(INTERVAL);
        found
    };
    assert_eq!(look(190_000), None);
    assert_eq!(look(210_000), Some(Severity::Info));
    for _ in 0..6 {
        assert_eq!(look(260_000), Some(Severity::Info));
    }
    assert_eq!(look(260_000), Some(Severity::Warning));
    assert_eq!(look(370_000), Some(Severity::Critical));
    let finding = watch.only().clone();
    assert_says(
        &finding.title,
        &["1.4 GiB of at most 1.4 GiB of memory for TCP queues", "858 MiB of app (pid 7)"],
    );
    assert_says(&finding.explanation, &["(here 977 MiB)"]);
}

#[test]
fn orphans_that_the_kernel_ends_are_a_warning_from_a_quarter_of_the_limit_on() {
    let look = |orphans: u64, ended: u64| {
        let mut watch = Watch::new();
        let limits = SharedLimits {
            orphans: Some(orphans),
            orphans_limit: Some(8_192),
            ..SharedLimits::default()
        };
        let namespace = |ended: u64| {
            let netstat = NetstatCounters { memory_aborts: Some(ended), ..Default::default() };
            Namespace { netstat: Some(netstat), ..host() }
        };
        shared(&mut watch, limits, namespace(5));
        watch.pass(INTERVAL);
        shared(&mut watch, limits, namespace(5 + ended))
    };
    assert_eq!(look(1_000, 500), None);
    assert_eq!(look(3_000, 0), None);
    assert_eq!(look(3_000, 500), Some(Severity::Warning));
    assert_eq!(look(7_000, 0), Some(Severity::Info));
    assert_eq!(look(8_000, 500), Some(Severity::Critical));
}

#[test]
fn stalled_sockets_lead_the_limit_of_orphans_that_they_fill() {
    let mut watch = Watch::new();
    let gone = process(1, "gone");
    let orphan = crate::facts::StalledSocket {
        role: Role::Server,
        local: endpoint("10.0.0.1:8388"),
        orphan: true,
        owner: None,
        ..stalled_send::stalled(&gone, 1, 60, watch.now)
    };
    let limits =
        SharedLimits { orphans: Some(85), orphans_limit: Some(100), ..SharedLimits::default() };
    let namespace = Namespace { stalled: vec![orphan; 80], ..host() };
    shared(&mut watch, limits, namespace);
    let of = |kind| watch.engine.findings().iter().find(|it| it.kind == kind).unwrap();
    let (leader, led) = (of(FindingKind::StalledSend), of(FindingKind::KernelLimit));
    assert_eq!(led.led_by.as_ref(), Some(&leader.id));
    assert_says(&led.title, &["85 of at most 100 orphaned sockets exist (85 %); 80 of port 8388"]);
    assert_says(&remedies_of(led), &["ss -tno state fin-wait-1 '( sport = :8388 )'"]);
}

#[test]
fn a_full_table_leads_the_connects_whose_syns_it_drops() {
    let leader = |dropped| {
        let mut watch = Watch::new();
        watch.see([tracked(LIMIT, 0)]);
        watch.pass(INTERVAL);
        let waiting = WaitingSocket {
            id: 1,
            state: TcpState::SynSent,
            local: endpoint("10.0.0.1:40000"),
            peer: endpoint("10.0.0.9:443"),
            role: Role::Client,
            since: watch.now - seconds(30),
            orphan: false,
            progress: None,
            owner: owner(&process(7, "app")),
            owner_pending: false,
        };
        watch.see([Namespace { waiting: vec![waiting; 20], ..tracked(LIMIT, dropped) }]);
        let mut findings = watch.engine.findings().iter();
        findings.find(|it| it.kind == FindingKind::StuckState).unwrap().led_by.clone()
    };
    assert_eq!(leader(40).as_deref(), Some(&*format!("kernel-limit/conntrack/{HOST}")));
    assert_eq!(leader(5), None, "more connects wait than packets were dropped");
}

#[test]
fn open_files_near_the_limit_of_the_host_are_found_and_no_limit_is_nothing() {
    let look = |files, limit| {
        let limits =
            SharedLimits { files: Some(files), files_limit: limit, ..SharedLimits::default() };
        shared(&mut Watch::new(), limits, host())
    };
    assert_eq!(look(79_000, Some(100_000)), None);
    assert_eq!(look(80_000, Some(100_000)), Some(Severity::Info));
    assert_eq!(look(98_500, Some(100_000)), Some(Severity::Critical));
    assert_eq!(look(98_500, Some(i64::MAX as u64)), None);
    assert_eq!(look(98_500, None), None);
    assert_eq!(look(98_500, Some(0)), None);
}
