//! `stuck-state`: FIN_WAIT2 whose peer works, the descriptors that it takes, and peers of this host.

use super::*;
use crate::facts::Progress;

fn half_closed(id: u64, process: &Arc<Process>, since: Timestamp, received: u64) -> WaitingSocket {
    WaitingSocket {
        id,
        state: TcpState::FinWait2,
        local: endpoint("10.0.0.1:40000"),
        peer: endpoint("10.0.0.9:443"),
        role: Role::Client,
        since,
        orphan: false,
        progress: Some(Progress { received_bytes: received, ..Progress::default() }),
        owner: owner(process),
        owner_pending: false,
    }
}

#[test]
fn a_peer_that_still_sends_is_half_closed_on_purpose() {
    let mut watch = Watch::new();
    let follower = process(12, "follower");
    // When the agent begins, the last segment is what proves their age.
    let since = START - seconds(20);
    for round in 0..60 {
        // Something comes every 30 s.
        let received = (round / 3) * 200;
        let sockets = (0..25).map(|id| half_closed(id, &follower, since, received)).collect();
        watch.see([Namespace { waiting: sockets, ..host() }]);
        assert_eq!(watch.severities(), [], "round {round}");
        watch.pass(INTERVAL);
    }
}

#[test]
fn one_that_has_fallen_silent_counts_after_ten_times_the_age() {
    let mut watch = Watch::new();
    let follower = process(12, "follower");
    let mut last = START;
    for round in 0..90_u64 {
        let received = round.min(5);
        if received == round {
            last = watch.now;
        }
        let sockets = (0..25).map(|id| half_closed(id, &follower, START, received)).collect();
        watch.see([Namespace { waiting: sockets, ..host() }]);
        let is_over = watch.now.since(last) >= seconds(600);
        assert_eq!(!watch.severities().is_empty(), is_over, "round {round}");
        watch.pass(INTERVAL);
    }
    assert_eq!(watch.severities(), [Severity::Warning]);
}

#[test]
fn clients_that_wait_100_s_for_their_answer_are_info_at_most() {
    let mut watch = Watch::new();
    let client = process(12, "client");
    for age in (0..100).step_by(10) {
        let sockets = (0..12).map(|id| half_closed(id, &client, START, 0)).collect();
        watch.see([Namespace { waiting: sockets, ..host() }]);
        assert!(watch.severities().iter().all(|it| *it == Severity::Info), "at {age} s");
        watch.pass(INTERVAL);
    }
}

/// Findings from `count` sockets of a server, each of another host, with so many descriptors.
fn of_many_hosts(count: u64, open: u64, limit: u64) -> Watch {
    let mut watch = Watch::new();
    let node = process(12, "node");
    let from = |id: u64| WaitingSocket {
        local: endpoint("10.0.0.1:8123"),
        peer: endpoint(&format!("10.1.{}.{}:51000", id / 200, id % 200 + 1)),
        role: Role::Server,
        ..half_closed(id, &node, START - seconds(70), 0)
    };
    let waiting = (0..count).map(from).collect();
    let mut inventory = inventory([Namespace { waiting, ..host() }], watch.now);
    inventory.descriptors.insert(12, DescriptorUse { open, limit, hard_limit: limit });
    watch.take(&inventory);
    watch
}

#[test]
fn a_process_is_judged_by_the_part_of_its_descriptors_that_it_holds_there() {
    use Severity::{Critical, Info, Warning};
    for (count, open, limit, severity) in [
        (300, 320, 330, Critical),
        (300, 320, 1_024, Warning),
        (256, 1_000, 1_024, Critical),
        (255, 1_000, 1_024, Info),
        (300, 40_000, 65_536, Info),
    ] {
        let watch = of_many_hosts(count, open, limit);
        assert_eq!(watch.severities(), [severity], "{count} of {limit}, {open} open");
    }
    let watch = of_many_hosts(300, 320, 330);
    let finding = watch.only();
    assert_says(&finding.title, &["300 hosts do not close: 300 connections of node (pid 12)"]);
    assert_says(&finding.title, &["; 300 of the 330 descriptors, 320 are open"]);
    assert_says(&finding.explanation, &["Each takes a descriptor"]);
    assert_eq!(text_of(finding, "limit_descriptors"), "330");
}

#[test]
fn the_services_of_one_process_are_judged_together_where_none_has_enough() {
    let mut watch = Watch::new();
    let node = process(12, "node");
    let to = |port: u64| WaitingSocket {
        peer: endpoint(&format!("10.1.0.{port}:{}", 9_000 + port)),
        ..half_closed(port, &node, START - seconds(700), 0)
    };
    watch.see([Namespace { waiting: (1..=50).map(to).collect(), ..host() }]);
    assert_eq!(watch.only().severity, Severity::Info);
    assert_says(&watch.only().title, &["50 connections of node (pid 12) to several ports stay"]);
    assert_eq!(watch.only().subject.port, None);
}

#[test]
fn a_peer_of_this_host_is_named_with_its_process() {
    let mut watch = Watch::new();
    let (server, client) = (process(12, "node"), process(13, "client"));
    let ends = (endpoint("10.0.0.1:8123"), endpoint("10.0.0.1:51000"));
    let waiting = WaitingSocket {
        local: ends.0,
        peer: ends.1,
        role: Role::Server,
        ..half_closed(1, &server, START - seconds(700), 0)
    };
    let other = CloseWaitSocket { local: ends.1, peer: ends.0, ..close_wait(&client, START) };
    // Also where the other end is in a container of this host.
    let container = Namespace { close_wait: vec![other], ..namespace(7, "web-1") };
    watch.see([Namespace { waiting: vec![waiting; 12], ..host() }, container]);
    assert_says(&watch.only().title, &["; the peer is client (pid 13) on this host"]);
    assert_says(&remedies_of(watch.only()), &["client (pid 13) on this host holds the other ends"]);
    assert_eq!(text_of(watch.only(), "peer_process"), "process client, pid 13");
}

#[test]
fn a_process_at_the_other_end_of_a_few_is_not_the_peer() {
    for (local, is_named) in [(2, false), (6, false), (7, true)] {
        let ends =
            |port: u16| (endpoint("10.0.0.1:8123"), Endpoint { port, ..endpoint("10.0.0.1:1") });
        let of = |number: u16| WaitingSocket {
            local: ends(number).0,
            peer: ends(number).1,
            role: Role::Server,
            ..half_closed(1, &process(12, "node"), START - seconds(700), 0)
        };
        let client = process(13, "client");
        let close_wait = (1..=local)
            .map(|it| CloseWaitSocket {
                local: ends(it).1,
                peer: ends(it).0,
                ..close_wait(&client, START)
            })
            .collect();
        let mut watch = Watch::new();
        watch.see([Namespace { waiting: (1..=12).map(of).collect(), close_wait, ..host() }]);
        assert_eq!(watch.only().title.contains("the peer is client"), is_named, "{local} of 12");
    }
}

#[test]
fn a_fin_that_this_host_does_not_acknowledge_points_to_its_own_rules() {
    for (peer, is_local) in [
        ("127.0.0.1:2822", true),
        ("10.0.0.1:2822", true),
        ("10.0.0.5:2822", true),
        ("10.0.0.9:2822", false),
    ] {
        for state in [TcpState::LastAck, TcpState::Closing, TcpState::SynSent] {
            let mut watch = Watch::new();
            let stuck = WaitingSocket {
                state,
                peer: endpoint(peer),
                orphan: state != TcpState::SynSent,
                ..half_closed(1, &process(12, "monit"), START - seconds(90), 0)
            };
            let listeners = vec![Listener::at(endpoint("10.0.0.5:80"))];
            watch.see([Namespace { waiting: vec![stuck; 30], listeners, ..host() }]);
            let finding = watch.only();
            let remedies = remedies_of(finding);
            assert_eq!(finding.title.contains("the peer is this host itself"), is_local, "{peer}");
            assert_eq!(remedies.contains("nft list ruleset"), is_local, "{remedies}");
            assert_eq!(finding.explanation.contains("no network is involved"), is_local, "{peer}");
            assert_eq!(
                finding.explanation.contains("vanished"),
                !is_local && state != TcpState::SynSent
            );
        }
    }
}

#[test]
fn all_ports_of_a_process_count_for_its_descriptors() {
    // 20 to each of two services: none has a quarter of 100 by itself.
    let client = process(12, "crawler");
    let to = |port: u16| {
        let peer = Endpoint { port, ..endpoint("10.0.0.9:1") };
        WaitingSocket { peer, ..half_closed(1, &client, START - seconds(90), 0) }
    };
    let mut waiting = vec![to(80); 20];
    waiting.extend(vec![to(443); 21]);
    for (limit, severities) in
        [(100, [Severity::Warning, Severity::Info]), (1_000, [Severity::Info, Severity::Info])]
    {
        let mut watch = Watch::new();
        let namespace = Namespace { waiting: waiting.clone(), ..host() };
        let mut found = inventory([namespace], watch.now);
        found.descriptors = [(12, DescriptorUse { open: 60, limit, hard_limit: limit })].into();
        watch.take(&found);
        assert_eq!(watch.severities(), severities, "{limit}");
        let said = watch.engine.findings()[0].title.contains("; 41 of the 100 descriptors");
        assert_eq!(said, limit == 100, "{}", watch.engine.findings()[0].title);
    }
}

#[test]
fn services_that_are_judged_together_stay_so_around_the_threshold() {
    let client = process(12, "crawler");
    let to = |port: u16| {
        let peer = Endpoint { port, ..endpoint("10.0.0.9:1") };
        WaitingSocket { peer, ..half_closed(1, &client, START - seconds(90), 0) }
    };
    let mut watch = Watch::new();
    for look in 0..20 {
        watch.pass(INTERVAL);
        // Nine and ten in turn, beside nine of another service.
        let mut waiting = vec![to(80); 9 + look % 2];
        waiting.extend(vec![to(443); 9]);
        watch.see([Namespace { waiting, ..host() }]);
    }
    assert_eq!(watch.reported(), ["raised info"]);
}

#[test]
fn a_full_accept_queue_of_this_host_is_the_reason_and_no_firewall() {
    let mut watch = Watch::new();
    let waits = WaitingSocket {
        state: TcpState::SynSent,
        local: endpoint("127.0.0.1:51000"),
        peer: endpoint("127.0.0.1:8080"),
        ..half_closed(1, &process(12, "client"), START - seconds(9), 0)
    };
    let full = Listener {
        accept_queue: 6,
        accept_limit: 5,
        owner: owner(&process(80, "reports")),
        ..Listener::at(endpoint("0.0.0.0:8080"))
    };
    watch.see([Namespace { waiting: vec![waits; 12], listeners: vec![full], ..host() }]);
    let mut findings = watch.engine.findings().iter();
    let stuck = findings.find(|it| it.kind == FindingKind::StuckState).unwrap();
    assert_says(&stuck.explanation, &["the accept queue of reports (pid 80) is full", "6 wait"]);
    assert!(!stuck.explanation.contains("nftables"), "{}", stuck.explanation);
    assert!(!remedies_of(stuck).contains("nft list"), "{:?}", stuck.remedies);
}
