//! Memory: whatever comes, no table grows beyond its bound.
//!
//! The engine's memory is measured by its `Debug` text, which shows every table in full.

use super::{super::finding::FINDINGS_PER_KIND, *};
use crate::facts::{Conntrack, ResetCause, SeenReset};

const GARBAGE: u32 = 100_000;

/// An address that differs for each number.
fn peer(number: u32) -> Endpoint {
    Endpoint { address: std::net::Ipv4Addr::from_bits(number).into(), port: 443 }
}

/// Resets that a process of its own sent from a port of its own.
fn sent(number: u32, count: u64) -> ResetCount {
    ResetCount {
        netns: HOST,
        role: Role::Server,
        port: number as u16,
        what: SeenReset::Sent(ResetCause::LingerZero).into(),
        process: Some(process(number, &format!("p{number:09}"))),
        last_peer: Some(peer(number).address),
        count,
        other_port: None,
        peers: None,
        other_ports: None,
    }
}

fn memory(watch: &Watch) -> usize {
    format!("{:?}", watch.engine).len()
}

fn findings_of(watch: &Watch, kind: FindingKind) -> usize {
    watch.engine.findings().iter().filter(|finding| finding.kind == kind).count()
}

#[test]
fn a_flood_of_events_fills_the_tables_and_no_more() {
    let mut watch = Watch::new();
    watch.see([host()]);
    let mut flood = |from: u32| {
        for number in from..from + GARBAGE {
            let process = Some(process(number, &format!("p{number:09}")));
            watch.engine.handle_event(&Event::ConnectFailed {
                at: watch.now,
                netns: number.into(),
                local: peer(number),
                peer: peer(number),
                reason: ConnectFailure::NoLocalPort,
                waited: None,
                no_connect: None,
                process: process.clone(),
            });
            watch.engine.handle_event(&Event::SelfConnection {
                at: watch.now,
                netns: number.into(),
                endpoint: peer(number),
                process: process.clone(),
            });
            // Refused connects, each from its own address.
            watch.engine.handle_event(&Event::ConnectFailed {
                at: watch.now,
                netns: number.into(),
                local: peer(number),
                peer: peer(number),
                reason: ConnectFailure::Refused,
                waited: None,
                no_connect: None,
                process: process.clone(),
            });
            watch.engine.handle_event(&Event::BindFailed {
                at: watch.now,
                netns: number.into(),
                local: peer(number),
                process: process.clone(),
            });
            // One destination with very many processes.
            watch.engine.handle_event(&no_port(
                watch.now,
                HOST,
                "10.0.0.1",
                "10.0.0.9:443",
                process.as_ref(),
            ));
        }
        memory(&watch)
    };
    let once = flood(1_000_000);
    let twice = flood(2_000_000);
    // Only numbers that count may have become longer.
    assert!(twice <= once + 200, "{once}, then {twice}");
    assert!(once < 1_000_000, "{once}");
    watch.pass(seconds(3_600));
    watch.see([]);
    assert!(memory(&watch) < 100_000, "{} after all has gone", memory(&watch));
}

#[test]
fn a_maker_is_remembered_for_256_self_connections() {
    let mut watch = Watch::new();
    let mut sockets = Vec::new();
    for number in 1..=1_000 {
        let process = Some(process(number, "worker"));
        let endpoint = peer(number);
        let event = Event::SelfConnection { at: START, netns: HOST, endpoint, process };
        watch.engine.handle_event(&event);
        sockets.push(SelfConnectedSocket {
            id: 1,
            endpoint,
            state: TcpState::Established,
            owner: None,
        });
    }
    // The clock stands still, so the makers stay known from look to look.
    let mut named = |sockets: &[SelfConnectedSocket]| {
        let findings = watch.see([Namespace { self_connected: sockets.to_vec(), ..host() }]);
        findings.iter().filter(|finding| finding.subject.pid.is_some()).count()
    };
    // Of the findings of one kind a hundred are kept, so the makers are counted in parts.
    assert_eq!(named(&sockets[..100]), 100);
    assert_eq!(named(&sockets[200..300]), 56);
    assert_eq!(named(&sockets[300..]), 0);
}

#[test]
fn a_hundred_thousand_owners_are_no_more_than_the_groups_that_are_followed() {
    let mut watch = Watch::new();
    let since = START - seconds(3_600);
    let sockets = |from: u32| {
        let owners = (from..from + GARBAGE).map(|pid| process(pid, &format!("p{pid:09}")));
        owners.map(|process| close_wait(&process, since)).collect::<Vec<_>>()
    };
    assert_eq!(watch.see_close_wait(sockets(1_000_000)), []);
    let once = memory(&watch);
    for round in 2..5 {
        watch.pass(INTERVAL);
        watch.see_close_wait(sockets(round * 1_000_000));
    }
    // 1024 groups, each of a new owner, so each of one point and one socket.
    assert!(memory(&watch) <= once + 2_000, "{once}, then {}", memory(&watch));
    assert!(once < 1_024 * 420 + 50_000, "{once}");
    assert_eq!(watch.engine.samples().close_wait.len(), OWNERS + 1);
}

#[test]
fn a_hundred_thousand_closers_and_destinations_are_no_more_than_those_that_are_followed() {
    let mut watch = Watch::new();
    let mut look = |from: u32| {
        let closers = (from..from + GARBAGE).map(|number| CloserCount {
            netns: HOST,
            process: process(number, &format!("p{number:09}")),
            role: Role::Client,
            peer: Some(peer(number).address),
            port: 443,
            count: u64::from(number),
            others: 0,
            since: None,
        });
        let mut namespace = host();
        namespace.time_wait.used = 900;
        let taken = |number| destination_at(peer(1), peer(number), 15_000);
        namespace.ports.busy = (from..from + GARBAGE).map(taken).collect();
        let closers = closers.collect();
        let inventory = Inventory { closers, ..inventory([namespace], watch.now) };
        watch.take(&inventory);
        watch.pass(INTERVAL);
        memory(&watch)
    };
    look(1_000_000);
    let once = look(1_000_000);
    let twice = look(2_000_000);
    assert!(twice <= once + 10_000, "{once}, then {twice}");
    // As many closers as the tables hold, each of two scopes, and 256 destinations.
    assert!(once < 1_152 * 1_250 + 50_000, "{once}");
    watch.see([]);
    watch.see([]);
    assert!(memory(&watch) < 10_000, "{} after all has gone", memory(&watch));
}

#[test]
fn many_sockets_of_one_owner_are_no_more_than_those_that_are_followed() {
    let mut watch = Watch::new();
    let socket = close_wait(&process(12, "leaky"), START - seconds(3_600));
    let mut look = |from: u32| {
        let ids = from..from + GARBAGE;
        // Each by another stack.
        let sockets = ids.map(|number| CloseWaitSocket {
            id: number.into(),
            stack: Some([format!("open_{number}")].into()),
            ..socket.clone()
        });
        watch.see_close_wait(sockets.collect());
        watch.pass(INTERVAL);
        memory(&watch)
    };
    let once = look(1_000_000);
    for round in 2..4 {
        assert!(look(round * 1_000_000) <= once + 1_000);
    }
    assert!(once < 20_000, "{once}");
}

#[test]
fn a_hundred_thousand_listeners_are_no_more_than_those_that_are_followed() {
    let mut watch = Watch::new();
    let mut look = |from: u32, drops: u32| {
        // Each full, in the range, and dropping.
        let listeners = (from..from + GARBAGE).map(|number| Listener {
            accept_queue: 7,
            drops,
            in_port_range: true,
            local_clients: 1,
            ..Listener::at(Endpoint { port: number as u16, ..peer(number) })
        });
        let netstat =
            NetstatCounters { listen_overflows: drops.into(), ..NetstatCounters::default() };
        let listeners = listeners.collect();
        watch.see([Namespace { listeners, netstat: Some(netstat), ..host() }]);
        watch.pass(INTERVAL);
        watch.changes();
        memory(&watch)
    };
    look(1_000_000, 1_000);
    let once = look(1_000_000, 2_000);
    look(2_000_000, 3_000);
    let twice = look(2_000_000, 4_000);
    // Only numbers that count, and the seven parts of 1024 windows, may have become longer.
    assert!(twice <= once + 20_000 + 1_024 * 7 * 40, "{once}, then {twice}");
    // 8192 listeners (480 bytes each are queues with their levels), 4096 ages, 1024 ports that were
    // full.
    let listener: usize = OWNED.iter().map(|owned| owned.listener_bytes).sum();
    assert!(once < 8_192 * listener + 4_096 * 150 + 1_024 * 200 + 100_000, "{once}");
    watch.pass(seconds(3_600));
    // A severity that was reached last time is known for one more look.
    watch.see([]);
    watch.see([]);
    watch.changes();
    assert!(memory(&watch) < 100_000, "{} after all has gone", memory(&watch));
}

#[test]
fn resets_of_a_hundred_thousand_processes_are_no_more_than_those_that_are_followed() {
    let mut watch = Watch::new();
    let mut look = |from: u32, count: u64| {
        watch.resets = Some((from..from + GARBAGE).map(|number| sent(number, count)).collect());
        watch.see([host()]);
        watch.pass(seconds(600));
        watch.changes();
        memory(&watch)
    };
    look(1_000_000, 1);
    let once = look(1_000_000, 10_000_000);
    // Those that have gone, beside those that have come.
    look(2_000_000, 10_000_000);
    let twice = look(2_000_000, 20_000_000);
    assert!(twice <= once * 2, "{once}, then {twice}");
    // 16384 counts, 1024 groups with the findings of a hundred.
    assert!(twice < 16_384 * 250 + 1_024 * 1_500 + 100 * 5_000, "{twice}");
    watch.resets = Some(Vec::new());
    // A counter that does not move is forgotten after some time.
    for _ in 0..132 {
        watch.pass(seconds(3_600));
        watch.see([]);
    }
    watch.changes();
    assert!(memory(&watch) < 100_000, "{} after all has gone", memory(&watch));
}

#[test]
fn ignored_findings_take_no_place_of_others() {
    let mut watch = Watch::configured("[ignore]\nunits = [\"chaos.service\"]");
    let since = START - seconds(3_600);
    let mut sockets = Vec::new();
    for number in 1..=150 {
        let process = process_in(number, &format!("p{number}"), "chaos.service");
        sockets.extend(times(200, &close_wait(&process, since)));
    }
    sockets.extend(times(20, &close_wait(&process(999, "real"), since)));
    watch.see_close_wait(sockets);
    assert_eq!(watch.only().subject.process.as_deref(), Some("real"));
}

#[test]
fn the_worst_hundred_findings_of_a_kind_are_kept() {
    // Two windows of half a minute are enough to know that there were no resets.
    let mut watch = Watch::with(|detect| {
        detect.reset_storm.window = seconds(30);
        detect.reset_storm.factor = 2;
        detect.close_wait_pileup.critical = 200;
        detect.keepalive_race.critical = 300;
    });
    let since = START - seconds(3_600);
    let mut namespace = host();
    for number in 1..=300 {
        // 20 to 22 sockets; every thirtieth owner has 200.
        let count = if number % 30 == 0 { 200 } else { 20 + number as usize % 3 };
        let name = format!("p{number}");
        namespace.close_wait.extend(times(count, &close_wait(&process(number, &name), since)));
        let taken = if number > 290 { 28_232 } else { 25_000 };
        let busy = destination_at(peer(1), peer(number), taken);
        namespace.ports.busy.push(busy);
        namespace.self_connected.push(SelfConnectedSocket {
            id: 1,
            endpoint: peer(number),
            state: TcpState::Established,
            owner: None,
        });
        let count = if number > 290 { 200 } else { 10 };
        let waiting = WaitingSocket {
            id: 1,
            state: TcpState::FinWait2,
            local: peer(1),
            peer: peer(2),
            role: Role::Client,
            since,
            orphan: false,
            progress: None,
            owner: owner(&process(number, &name)),
            owner_pending: false,
        };
        namespace.waiting.extend(vec![waiting; count]);
        let silent = stalled_send::stalled(&process(number, &name), 1, 60, START + seconds(60));
        namespace.stalled.extend(vec![silent; count]);
        for _ in 0..if number <= 10 { 3 } else { 1 } {
            watch.engine.handle_event(&Event::BindFailed {
                at: START + seconds(60),
                netns: HOST,
                local: peer(number),
                process: Some(process(number, &name)),
            });
        }
    }
    let mut namespaces = vec![namespace];
    for id in 1..=300 {
        let used = if id > 290 { 1_000 } else { 900 };
        let time_wait = TimeWaitUse { used, limit: Some(1_000) };
        let conntrack = Some(Conntrack {
            entries: 960,
            limit: Some(1_000),
            dropped: Some(0),
            ..Conntrack::default()
        });
        namespaces.push(Namespace { time_wait, conntrack, ..super::namespace(id, "") });
    }
    // Each drops, and half-open connections crowd each: a flood of even ports, a stall of odd ones.
    let crowded = |number: u16| {
        let unanswered = if number > 580 { 1_000 } else { 300 };
        Listener {
            half_open: unanswered,
            accept_limit: 4_096,
            unanswered,
            unanswered_sources: if number.is_multiple_of(2) { unanswered } else { 1 },
            in_port_range: true,
            local_clients: u32::from(number > 590),
            owner: owner(&process(100_000 + u32::from(number), &format!("service-{number}"))),
            ..Listener::at(Endpoint { address: address("0.0.0.0"), port: number })
        }
    };
    // Others: a port that drops connections is neither flooded nor stalled. All are full, so that
    // it is no burst.
    let dropping = |number: u16, drops| {
        let port = 1_000 + number;
        Listener {
            drops,
            accept_queue: 1,
            ..Listener::at(Endpoint { address: address("0.0.0.0"), port })
        }
    };
    let listening = |drops: u32| {
        let dropping = (1..=600)
            .map(|number| dropping(number, if number > 590 { drops } else { drops.min(500) }));
        let mut all = namespaces.clone();
        all[0].listeners = (1..=600).map(crowded).chain(dropping).collect();
        let netstat =
            NetstatCounters { listen_overflows: drops.into(), ..NetstatCounters::default() };
        all[0].netstat = Some(netstat);
        for namespace in all.iter_mut().rev().take(10) {
            namespace.conntrack.as_mut().unwrap().dropped = Some(drops.into());
        }
        all
    };
    let server = process(99_999, "node");
    let resets = |factor: u64| {
        let count = |number| if number > 290 { 20_000 } else { 2_000 };
        let storms = (1..=300).map(|number| sent(number, factor * count(number)));
        let late = (1..=300).map(|number| {
            let requests = if number > 290 { 300 } else { 40 };
            keepalive_race::late(
                10_000 + number,
                crate::facts::Amount::Some,
                &server,
                factor * requests,
            )
        });
        storms.chain(late).collect()
    };
    let closes = (1..=300).map(|number| keepalive_race::closes(10_000 + number, &server, 0, 400));
    watch.resets = Some(resets(0));
    for _ in 0..2 {
        watch.see(listening(0));
        watch.pass(seconds(30));
    }
    watch.resets = Some(resets(1));
    watch.services = Some(closes.collect());
    watch.see(listening(1_000));
    let made: Vec<_> =
        FindingKind::ALL.into_iter().filter(|kind| findings_of(&watch, *kind) > 0).collect();
    assert!(made.len() >= 14, "{made:?}");
    for &kind in &made {
        assert_eq!(findings_of(&watch, kind), FINDINGS_PER_KIND, "{}", kind.name());
        let worst = match kind {
            FindingKind::SelfConnectRisk | FindingKind::BindConflict => Severity::Warning,
            _ => Severity::Critical,
        };
        let of_kind = watch.engine.findings().iter().filter(|finding| finding.kind == kind);
        let count = of_kind.filter(|finding| finding.severity == worst).count();
        let expected = match kind {
            // TIME_WAIT does no harm here, and one burst of resets is info.
            FindingKind::SelfConnection
            | FindingKind::SelfConnectRisk
            | FindingKind::TimeWaitExhaustion
            | FindingKind::ResetStorm => 0,
            _ => 10,
        };
        assert_eq!(count, expected, "{}", kind.name());
    }
    // Of equal severity the larger stay: 97 have 22 sockets, some may be among the critical.
    let smallest = watch.engine.findings().iter().filter(|finding| {
        finding.kind == FindingKind::CloseWaitPileup && text_of(finding, "sockets") == "20"
    });
    assert_eq!(smallest.count(), 0);
    // The others are the same at every look, in whatever order the walk meets them.
    watch.changes();
    watch.pass(INTERVAL);
    let mut turned = listening(1_000);
    turned[0].listeners.reverse();
    watch.see(turned);
    assert_eq!(watch.changes(), []);
    watch.resets = None;
    // A stuck state may be between two tries, and is over with the second look.
    watch.see([]);
    watch.see([]);
    assert_eq!(watch.changes().len(), made.len() * FINDINGS_PER_KIND);
}
