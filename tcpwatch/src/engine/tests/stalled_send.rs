//! `stalled-send`: by age, owner, host and cause.

use super::*;
use crate::facts::{SharedLimits, StalledSocket, StateCounts};

pub(super) fn stalled(
    process: &Arc<Process>,
    host: usize,
    age: u64,
    now: Timestamp,
) -> StalledSocket {
    StalledSocket {
        id: 1,
        state: TcpState::Established,
        local: endpoint("10.0.0.1:40000"),
        peer: Endpoint { address: address(&format!("10.0.9.{host}")), port: 5_432 },
        role: Role::Client,
        orphan: false,
        unacked_bytes: 100,
        segment_sent: Some(true),
        peer_window_bytes: 64_000,
        retransmits: 10,
        backoff: 10,
        probes: 0,
        user_timeout: None,
        delivered: Some(now - seconds(age)),
        last_segment: now,
        owner: owner(process),
        owner_pending: false,
    }
}

/// The severities of one look at these.
fn look_at(sockets: impl Fn(Timestamp) -> Vec<StalledSocket>, open: u64) -> Vec<Severity> {
    let mut watch = Watch::new();
    let mut states = StateCounts::default();
    states.set(TcpState::Established, open);
    let stalled = sockets(watch.now);
    watch.see([Namespace { stalled, sockets: states, ..host() }]);
    watch.severities()
}

#[test]
fn silence_of_one_host_is_info_after_10_s_and_a_warning_after_30_s() {
    let app = process(7, "app");
    let table: [(usize, u64, &[Severity]); 7] = [
        (10, 9, &[]),
        (9, 60, &[]),
        (10, 10, &[Severity::Info]),
        (10, 29, &[Severity::Info]),
        (10, 30, &[Severity::Warning]),
        (199, 900, &[Severity::Warning]),
        (200, 30, &[Severity::Critical]),
    ];
    for (count, age, expected) in table {
        let found = look_at(|now| vec![stalled(&app, 1, age, now); count], 1_000);
        assert_eq!(found, expected, "{count} for {age} s");
    }
}

#[test]
fn clients_that_vanish_one_by_one_are_nothing_beside_many_and_info_beside_few() {
    let nginx = process(80, "nginx");
    let vanished = |now| -> Vec<StalledSocket> {
        (1..=30)
            .map(|host| StalledSocket {
                role: Role::Server,
                local: endpoint("10.0.0.1:443"),
                ..stalled(&nginx, host, 300, now)
            })
            .collect()
    };
    assert_eq!(look_at(vanished, 10_000), []);
    assert_eq!(look_at(vanished, 1_000), [Severity::Info]);
}

#[test]
fn a_laptop_that_sleeps_is_info_and_a_balancer_that_vanishes_a_warning() {
    let server = process(80, "tool");
    let vanished = |now| -> Vec<StalledSocket> {
        let local = endpoint("10.0.0.1:443");
        vec![StalledSocket { role: Role::Server, local, ..stalled(&server, 1, 300, now) }; 30]
    };
    assert_eq!(look_at(vanished, 100), [Severity::Info]);
    assert_eq!(look_at(vanished, 60), [Severity::Warning]);
    assert_eq!(look_at(|now| vanished(now)[..29].to_vec(), 60), [Severity::Info]);
}

#[test]
fn a_closed_window_is_no_silence_and_is_info() {
    let app = process(7, "app");
    let mut watch = Watch::new();
    let closed = StalledSocket {
        peer_window_bytes: 0,
        segment_sent: Some(false),
        ..stalled(&app, 1, 300, watch.now)
    };
    let silent = stalled(&app, 1, 300, watch.now);
    let mut both = vec![closed; 20];
    both.extend(vec![silent; 20]);
    watch.see([Namespace { stalled: both, ..host() }]);
    let of = |cause: &str| {
        let mut findings = watch.engine.findings().iter();
        findings.find(|it| text_of(it, "cause") == cause).unwrap().clone()
    };
    let (window, silence) = (of("zero_window"), of("silence"));
    assert_eq!((window.severity, silence.severity), (Severity::Info, Severity::Warning));
    assert_says(
        &window.title,
        &["10.0.9.1:5432 does not read 20 connections of app (pid 7): ESTABLISHED"],
    );
    assert_says(
        &window.remedies[1],
        &["Find the process that does not read, at 10.0.9.1: `ss -tnp"],
    );
    assert_says(
        &silence.title,
        &[
            "10.0.9.1:5432 does not acknowledge 20 connections of app (pid 7): ESTABLISHED",
            "2 KiB unacknowledged, the oldest for 5 min",
        ],
    );
    assert_says(&silence.explanation, &["about 15 min (tcp_retries2 is 15)"]);
    assert_says(&remedies_of(&silence), &["tcpdump", "TCP_USER_TIMEOUT", "restart"]);
}

#[test]
fn orphans_are_named_by_their_port_with_the_limit_of_the_host() {
    let mut watch = Watch::new();
    let gone = process(1, "gone");
    let orphan = StalledSocket {
        state: TcpState::FinWait1,
        role: Role::Server,
        local: endpoint("10.0.0.1:8388"),
        orphan: true,
        peer_window_bytes: 0,
        segment_sent: Some(false),
        owner: None,
        ..stalled(&gone, 1, 60, watch.now)
    };
    let mut found = inventory([Namespace { stalled: vec![orphan; 80], ..host() }], watch.now);
    found.shared_limits = Some(Box::new(SharedLimits {
        orphans: Some(81),
        orphans_limit: Some(8_192),
        ..SharedLimits::default()
    }));
    watch.take(&found);
    let finding = watch.only();
    assert_eq!(finding.severity, Severity::Info);
    assert_says(
        &finding.title,
        &[
            "10.0.9.1 does not read 80 connections that no process holds any more on port 8388",
            ": FIN_WAIT1",
        ],
    );
    assert_says(&finding.explanation, &["tcp_orphan_retries is 0", "81 orphans of at most 8,192"]);
    assert_eq!(text_of(finding, "host_orphans"), "81");
}

#[test]
fn last_ack_is_of_stuck_state_and_a_program_with_a_time_out_says_it() {
    let app = process(7, "app");
    let last_ack =
        |now| vec![StalledSocket { state: TcpState::LastAck, ..stalled(&app, 1, 300, now) }; 30];
    assert_eq!(look_at(last_ack, 100), []);
    let mut watch = Watch::new();
    let timed =
        StalledSocket { user_timeout: Some(seconds(20)), ..stalled(&app, 1, 15, watch.now) };
    watch.see([Namespace { stalled: vec![timed; 12], ..host() }]);
    assert_says(&watch.only().explanation, &["gives up after 20 s (TCP_USER_TIMEOUT"]);
    // It is cured.
    watch.pass(INTERVAL);
    assert_eq!(watch.see([host()]), []);
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned = Owned {
    kind: FindingKind::StalledSend,
    make: send_into_silence,
    milder: Some("min_age = \"21s\""),
    listener_bytes: 0,
};

fn send_into_silence(making: &mut Making, (process, port): &Service) {
    let peer = Endpoint { address: address("10.0.0.9"), port: *port };
    let silent = StalledSocket { peer, ..stalled(process, 1, 20, making.began + seconds(60)) };
    making.then.stalled.extend(vec![silent; 10]);
}
