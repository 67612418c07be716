//! `keepalive-race`: idle closes that meet requests, and those that do not.

use super::*;
use crate::facts::{Amount, IdleClosed, ResetObservation, ResetReason};

/// The bucket of Node's five seconds.
const FIVE_SECONDS: u8 = 3;

/// A request for a connection that node has closed, as the kernel shows it.
pub(super) fn late(port: u16, unread: Amount, process: &Arc<Process>, count: u64) -> ResetCount {
    let seen = ResetObservation {
        reason: Some(ResetReason::TimeWaitSocket),
        state: Some(TcpState::TimeWait),
        segment: true,
        unread: Some(unread),
        ..ResetObservation::default()
    };
    ResetCount {
        netns: HOST,
        role: Role::Server,
        port,
        what: crate::facts::RecordedReset::Seen(seen),
        process: Some(Arc::clone(process)),
        last_peer: Some(address("10.0.0.7")),
        count,
        other_port: None,
        peers: None,
        other_ports: None,
    }
}

/// Closes of node: so many at once after the answer, so many after 5.1 s.
pub(super) fn closes(port: u16, process: &Arc<Process>, quick: u64, idle: u64) -> ServiceCount {
    let bucket = |bucket, count, last_ms| IdleClosed { bucket, count, last_ms };
    ServiceCount {
        netns: HOST,
        role: Role::Server,
        port,
        process: Arc::clone(process),
        opened: 0,
        closed: quick + idle,
        idle: Some(vec![bucket(0, quick, 2), bucket(FIVE_SECONDS, idle, 5_100)]),
    }
}

fn node() -> Arc<Process> {
    process_in(90, "node", "shop.service")
}

/// Findings after one inventory with so many resets, quick closes and idle closes.
fn found(unread: Amount, resets: u64, quick: u64, idle: u64) -> Vec<Finding> {
    let mut watch = Watch::new();
    watch.resets = Some(vec![late(443, unread, &node(), 0)]);
    watch.see([host()]);
    watch.pass(INTERVAL);
    watch.resets = Some(vec![late(443, unread, &node(), resets)]);
    watch.services = Some(vec![closes(443, &node(), quick, idle)]);
    watch.see([host()]).to_vec()
}

fn severity(unread: Amount, resets: u64, quick: u64, idle: u64) -> Option<Severity> {
    found(unread, resets, quick, idle).first().map(|finding| finding.severity)
}

#[test]
fn requests_on_connections_that_were_closed_idle_are_a_race() {
    let findings = found(Amount::Some, 40, 3, 400);
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!(finding.kind, FindingKind::KeepaliveRace);
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(
        finding.title,
        "node (pid 90) closes idle connections to port 443 after 5.1 s while clients still use \
         them: 40 late requests answered with resets within 60 s, 10 % of 400 idle closes; the \
         last from 10.0.0.7"
    );
    assert_eq!(finding.evidence.get("idle_timeout_seconds"), Some(&Evidence::Number(5.1)));
    assert!(finding.remedies[0].contains("longer than that of the clients' pools at 10.0.0.7"));
    assert_eq!(severity(Amount::Some, 700, 0, 1_000), Some(Severity::Critical));
}

#[test]
fn an_orderly_server_and_late_data_of_another_cause_are_no_race() {
    let table = [
        ("clients reopen", Amount::Some, 0, 0, 400),
        ("a few cross by chance", Amount::Some, 9, 0, 400),
        ("one in a thousand of a busy server", Amount::Some, 40, 0, 40_000),
        ("uploads are refused", Amount::Many, 400, 400, 0),
        ("uploads are refused, some connections idle", Amount::Many, 400, 400, 100),
        ("more resets than idle closes", Amount::Many, 400, 0, 100),
        ("most close with their answer", Amount::Some, 40, 500, 400),
    ];
    for (name, unread, resets, quick, idle) in table {
        assert_eq!(severity(unread, resets, quick, idle), None, "{name}");
    }
}

#[test]
fn late_data_as_small_as_a_close_notify_is_info() {
    assert_eq!(severity(Amount::Few, 40, 0, 400), Some(Severity::Info));
}

#[test]
fn a_race_ends_a_window_after_its_last_reset() {
    let mut watch = Watch::new();
    watch.resets = Some(vec![late(443, Amount::Some, &node(), 0)]);
    watch.see([host()]);
    watch.pass(INTERVAL);
    watch.resets = Some(vec![late(443, Amount::Some, &node(), 40)]);
    watch.services = Some(vec![closes(443, &node(), 0, 400)]);
    watch.see([host()]);
    watch.services = Some(Vec::new());
    watch.pass(seconds(60));
    assert_eq!(watch.see([host()]).len(), 1);
    watch.pass(seconds(10));
    assert_eq!(watch.see([host()]).len(), 0);
}

#[test]
fn a_recording_without_idle_times_is_not_judged() {
    let mut watch = Watch::new();
    watch.resets = Some(vec![late(443, Amount::Some, &node(), 0)]);
    watch.see([host()]);
    watch.pass(INTERVAL);
    watch.resets = Some(vec![late(443, Amount::Some, &node(), 400)]);
    watch.services = Some(vec![ServiceCount { idle: None, ..closes(443, &node(), 0, 400) }]);
    assert_eq!(watch.see([host()]).len(), 0);
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned = Owned {
    kind: FindingKind::KeepaliveRace,
    make: race,
    milder: Some("warning = 41"),
    listener_bytes: 0,
};

fn race(making: &mut Making, (process, port): &Service) {
    making.resets.push(late(*port, Amount::Some, process, 40));
    making.services.push(closes(*port, process, 0, 400));
}
