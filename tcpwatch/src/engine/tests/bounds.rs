//! Memory: whatever comes, no table grows beyond its bound.
//!
//! What the engine remembers is measured by its `Debug` text, which shows every table in full.

use super::{super::FINDINGS_PER_KIND, *};

const GARBAGE: u32 = 100_000;

/// An address that differs for each number.
fn peer(number: u32) -> Endpoint {
    Endpoint { address: std::net::Ipv4Addr::from_bits(number).into(), port: 443 }
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
                process: process.clone(),
            });
            watch.engine.handle_event(&Event::SelfConnection {
                at: watch.now,
                netns: number.into(),
                endpoint: peer(number),
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
fn a_hundred_thousand_owners_are_no_more_than_the_trends_that_are_followed() {
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
    // 1024 trends, each of a new owner, so each of one point.
    assert!(memory(&watch) <= once + 2_000, "{once}, then {}", memory(&watch));
    assert!(once < 1_024 * 200 + 50_000, "{once}");
    assert_eq!(watch.engine.samples().close_wait.len(), OWNERS + 1);
}

#[test]
fn the_worst_hundred_findings_of_a_kind_are_kept() {
    let mut watch = Watch::new();
    let since = START - seconds(3_600);
    let mut namespace = host();
    for number in 1..=300 {
        // 20 to 22 sockets; every thirtieth owner has 200.
        let count = if number % 30 == 0 { 200 } else { 20 + number as usize % 3 };
        let name = format!("p{number}");
        namespace.close_wait.extend(times(count, &close_wait(&process(number, &name), since)));
        let taken = if number > 290 { 28_232 } else { 25_000 };
        let busy = DestinationUse { local: peer(1), peer: peer(number), used: taken };
        namespace.ports.busy.push(busy);
        namespace.self_connected.push(SelfConnectedSocket {
            id: 1,
            endpoint: peer(number),
            state: TcpState::Established,
            owner: None,
        });
    }
    let mut namespaces = vec![namespace];
    for id in 1..=300 {
        let used = if id > 290 { 1_000 } else { 900 };
        let time_wait = TimeWaitUse { used, limit: Some(1_000) };
        namespaces.push(Namespace { time_wait, ..super::namespace(id, "") });
    }
    watch.see(namespaces);
    for kind in FindingKind::ALL {
        assert_eq!(findings_of(&watch, kind), FINDINGS_PER_KIND, "{}", kind.name());
        let critical = watch
            .engine
            .findings()
            .iter()
            .filter(|finding| finding.kind == kind && finding.severity == Severity::Critical);
        let expected = if kind == FindingKind::SelfConnection { 0 } else { 10 };
        assert_eq!(critical.count(), expected, "{}", kind.name());
    }
    // Of equal severity the larger stay: 97 have 22 sockets, some may be among the critical.
    let smallest = watch.engine.findings().iter().filter(|finding| {
        finding.kind == FindingKind::CloseWaitPileup && text_of(finding, "sockets") == "20"
    });
    assert_eq!(smallest.count(), 0);
    watch.changes();
    watch.see([]);
    assert_eq!(watch.changes().len(), 4 * FINDINGS_PER_KIND);
}
