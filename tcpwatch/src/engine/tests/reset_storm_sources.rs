//! `reset-storm`: resets that no socket sends, by where they come from.

use super::{reset_storm::*, *};
use crate::facts::{RecordedReset, ResetObservation, ResetReason};

/// Answers to segments of unknown connections.
fn stray(role: Role, port: u16, peers: u32) -> ResetCount {
    let seen = ResetObservation {
        reason: Some(ResetReason::NoSocket),
        segment: true,
        ..ResetObservation::default()
    };
    ResetCount {
        role,
        port,
        what: RecordedReset::Seen(seen),
        process: None,
        other_port: Some(41_000),
        peers: Some(peers),
        other_ports: Some(30),
        ..row(NO_LISTENER)
    }
}

#[test]
fn a_scan_is_one_info_of_its_source_and_no_service_is_named() {
    let mut host = Host::quiet([]);
    host.rows = (1..=1_000).map(|port| stray(Role::Server, port, 1)).collect();
    for _ in 0..4 {
        host.rows.iter_mut().for_each(|row| row.count += 1);
        host.add(&[]);
    }
    let finding = host.only();
    assert_eq!(finding.severity, Severity::Info);
    assert_says(&finding.title, &["10.0.0.7 scans this host", "4,000 probes of many ports"]);
    assert_eq!(finding.subject.peer.as_deref(), Some("10.0.0.7:41000"));
    assert_eq!((finding.subject.port, finding.subject.local.as_deref()), (None, None));
    assert!(!finding.title.contains("port 0"), "{}", finding.title);
    assert_eq!(host.watch.reported(), ["raised info"]);
}

#[test]
fn former_peers_of_a_service_are_a_storm_with_both_ports() {
    let mut host = Host::quiet([stray(Role::Server, 5_432, 12)]);
    host.storm(900);
    let finding = host.only();
    assert_eq!(finding.severity, Severity::Warning);
    assert_says(&finding.title, &["this host sent 900 resets from port 5432"]);
    assert_says(
        &finding.explanation,
        &["They go to about 12 addresses", "about 30 ports of theirs"],
    );
    assert_eq!(text_of(finding, "last_local_port"), "5432");
    assert_eq!(text_of(finding, "last_peer_port"), "41000");
    assert_eq!(text_of(finding, "conntrack_invalid_packets"), "absent");
}

#[test]
fn connection_tracking_is_named_where_it_finds_packets_invalid_meanwhile() {
    for (grows, named) in [(0, false), (40, false), (280, true)] {
        let mut host = Host::quiet([stray(Role::Client, 80, 1)]);
        for step in 0..4 {
            host.rows[0].count += 300;
            host.watch.pass(INTERVAL);
            host.watch.resets = Some(host.rows.clone());
            host.watch
                .see([Namespace { conntrack_invalid: Some(7 + grows * step), ..super::host() }]);
        }
        let finding = host.only();
        assert_says(&finding.title, &["this host sent 1,200 resets to port 80"]);
        assert_eq!(finding.explanation.contains("conntrack"), named, "{}", finding.explanation);
        assert_eq!(remedies_of(finding).contains("ctstate INVALID"), named);
        assert_eq!(text_of(finding, "last_local_port"), "41000");
        assert_eq!(text_of(finding, "last_peer_port"), "80");
    }
}

#[test]
fn former_peers_at_many_ports_are_no_scan_because_they_send_data() {
    use crate::facts::{Amount, RecordedReset, ResetObservation, ResetReason};
    for (data, is_scan) in [(Amount::Nothing, true), (Amount::Few, false), (Amount::Some, false)] {
        let what = RecordedReset::Seen(ResetObservation {
            reason: Some(ResetReason::NoSocket),
            segment: true,
            unread: Some(data),
            ..ResetObservation::default()
        });
        let mut host = Host::quiet([]);
        // A balancer with a pool to each of 25 services, whose address has moved here.
        host.rows = (1..=25)
            .map(|port| ResetCount { what, other_port: None, ..stray(Role::Server, port, 1) })
            .collect();
        for _ in 0..3 {
            host.rows.iter_mut().for_each(|row| row.count += 300);
            host.add(&[]);
        }
        let findings = host.watch.engine.findings();
        let scans = findings.iter().filter(|it| it.title.contains("scans this host"));
        assert_eq!(scans.count() == 1, is_scan, "{data:?}: {findings:#?}");
        assert_eq!(findings.len(), if is_scan { 1 } else { 25 });
        if is_scan {
            assert_eq!(host.only().subject.peer.as_deref(), Some("10.0.0.7"), "no port 0");
        }
    }
}
