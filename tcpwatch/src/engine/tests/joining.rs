//! One incident below another: a full accept queue and the clients that it fails, and a leak and
//! the sockets that wait for it.

use super::{super::finding::FINDINGS_PER_KIND, *};

/// A namespace whose listener is full, and ten connects of curl to `peer` that stay in SYN_SENT.
fn scene(netns: NetnsId, at: &str, peer: &str, now: Timestamp) -> Namespace {
    let listener = Listener {
        accept_queue: 6,
        accept_limit: 5,
        owner: owner(&process(12, "orders-api")),
        ..Listener::at(endpoint(at))
    };
    let connect = WaitingSocket {
        id: 0,
        state: TcpState::SynSent,
        local: endpoint("10.0.0.1:40000"),
        peer: endpoint(peer),
        role: Role::Client,
        since: now - seconds(30),
        orphan: false,
        progress: None,
        owner: owner(&process(70, "curl")),
        owner_pending: false,
    };
    Namespace { listeners: vec![listener], waiting: vec![connect; 10], ..namespace(netns, "blue") }
}

/// The finding of this kind.
fn of(watch: &Watch, kind: FindingKind) -> Finding {
    let found = watch.engine.findings().iter().find(|finding| finding.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind:?} in {:#?}", watch.engine.findings())).clone()
}

/// Findings after two looks, which a full queue takes.
fn judged(namespaces: impl Fn(Timestamp) -> Vec<Namespace>) -> Watch {
    let mut watch = Watch::new();
    watch.see(namespaces(watch.now));
    watch.pass(INTERVAL);
    watch.see(namespaces(watch.now));
    assert_eq!(watch.engine.findings().len(), 2, "{:#?}", watch.engine.findings());
    watch
}

fn is_joined(watch: &Watch) -> bool {
    let overflow = of(watch, FindingKind::AcceptQueueOverflow);
    let stuck = of(watch, FindingKind::StuckState);
    assert_eq!((&overflow.led_by, &*stuck.related), (&None, &[][..]));
    let is_led = stuck.led_by.as_ref() == Some(&overflow.id);
    assert_eq!(overflow.related.contains(&stuck.id), is_led, "both ends say it");
    is_led
}

#[test]
fn a_full_queue_leads_the_connects_to_that_very_listener() {
    let table = [
        ("10.0.0.1:8080", "10.0.0.1:8080", true),
        ("0.0.0.0:8080", "127.0.0.1:8080", true),
        ("[::]:8080", "[::1]:8080", true),
        ("[::]:8080", "127.0.0.1:8080", true),
        ("0.0.0.0:8080", "[::1]:8080", false),
        // Another host may have this one.
        ("0.0.0.0:8080", "10.0.0.9:8080", false),
        ("10.0.0.1:8080", "10.0.0.9:8080", false),
        ("10.0.0.1:8080", "10.0.0.1:8081", false),
        ("127.0.0.2:8080", "127.0.0.1:8080", false),
    ];
    for (at, peer, expected) in table {
        let watch = judged(|now| vec![scene(5, at, peer, now)]);
        assert_eq!(is_joined(&watch), expected, "{at} and {peer}");
    }
}

#[test]
fn a_listener_on_the_very_address_takes_the_connects_from_one_on_every_address() {
    let at = "127.0.0.1:8080";
    let watch = judged(|now| {
        let mut namespace = scene(5, "0.0.0.0:8080", at, now);
        namespace.listeners.push(Listener::at(endpoint(at)));
        vec![namespace]
    });
    assert!(!is_joined(&watch));
}

#[test]
fn namespaces_of_one_name_are_two_places() {
    let at = "127.0.0.1:8080";
    let watch = judged(|now| {
        let queue = Namespace { waiting: Vec::new(), ..scene(5, at, at, now) };
        let client = Namespace { listeners: Vec::new(), ..scene(50, at, at, now) };
        vec![queue, client]
    });
    assert!(!is_joined(&watch));
}

#[test]
fn connects_to_several_hosts_have_no_one_cause() {
    let at = "127.0.0.1:8080";
    let watch = judged(|now| {
        let mut namespace = scene(5, at, at, now);
        namespace.waiting[0].peer = endpoint("10.0.0.9:8080");
        vec![namespace]
    });
    assert!(!is_joined(&watch));
}

#[test]
fn other_states_are_not_left_by_a_full_queue() {
    let at = "127.0.0.1:8080";
    let watch = judged(|now| {
        let mut namespace = scene(5, at, at, now);
        for socket in &mut namespace.waiting {
            (socket.state, socket.since) = (TcpState::FinWait2, now - seconds(3_600));
        }
        vec![namespace]
    });
    assert!(!is_joined(&watch));
}

#[test]
fn a_leader_that_is_ignored_leads_nothing() {
    let at = "127.0.0.1:8080";
    let mut watch = judged(|now| vec![scene(5, at, at, now)]);
    assert!(is_joined(&watch));
    let since = of(&watch, FindingKind::StuckState).since;
    let ignore = Ignore { processes: vec!["orders-api".to_owned()].into(), ..Ignore::default() };
    watch.engine.reconfigure(&Detect::default(), &ignore, 100);
    watch.see([scene(5, at, at, watch.now)]);
    let stuck = watch.only().clone();
    assert_eq!((stuck.kind, &stuck.led_by), (FindingKind::StuckState, &None));
    assert_eq!(stuck.since, since, "it goes on as it was");
}

#[test]
fn a_leader_that_is_cut_leads_nothing() {
    let at = "127.0.0.1:8080";
    let mut watch = Watch::new();
    for _ in 0..2 {
        let mut namespace = scene(5, at, at, watch.now);
        let full = namespace.listeners[0].clone();
        // As bad as the leader, and before it by their ids.
        namespace.listeners.extend((0..FINDINGS_PER_KIND).map(|number| Listener {
            local: endpoint(&format!("10.0.0.1:{}", 1_000 + number)),
            ..full.clone()
        }));
        watch.pass(INTERVAL);
        watch.see([namespace]);
    }
    assert_eq!(watch.engine.findings().len(), FINDINGS_PER_KIND + 1);
    assert_eq!(of(&watch, FindingKind::StuckState).led_by, None);
}

#[test]
fn changes_of_a_led_finding_are_reported_and_name_its_leader() {
    let at = "127.0.0.1:8080";
    let mut watch = Watch::new();
    let queue = |now| Namespace { waiting: Vec::new(), ..scene(5, at, at, now) };
    watch.see([queue(watch.now)]);
    watch.pass(INTERVAL);
    watch.see([queue(watch.now)]);
    let leader = watch.only().id.clone();
    watch.changes();
    watch.see([scene(5, at, at, watch.now)]);
    let raised = watch.changes();
    let [FindingChange::Raised(led)] = &*raised else { panic!("{raised:#?}") };
    assert_eq!(led.led_by.as_ref(), Some(&leader));
    // Past the window of connects; the queue is full throughout.
    for _ in 0..20 {
        watch.pass(INTERVAL);
        watch.see([queue(watch.now)]);
    }
    let cleared = watch.changes();
    let [FindingChange::Cleared(led)] = &*cleared else { panic!("{cleared:#?}") };
    assert_eq!(led.led_by.as_ref(), Some(&leader));
    assert_eq!(watch.only().related, [""; 0]);
}

#[test]
fn a_stalled_queue_leads_the_clients_that_left_it_before_they_were_accepted() {
    for (unaccepted, port, expected) in [(40, 8_080, true), (10, 8_080, false), (40, 9_090, false)]
    {
        let app = process(12, "orders-api");
        let mut watch = Watch::new();
        for _ in 0..3 {
            watch.pass(INTERVAL);
            let stalled = Listener {
                id: 1,
                accept_queue: 200,
                accept_limit: 511,
                first_waiting: Some(7),
                owner: owner(&app),
                ..Listener::at(endpoint("0.0.0.0:8080"))
            };
            let mut close_wait = times(40, &accepted(&app, START - seconds(3_600)));
            for socket in &mut close_wait {
                socket.local.port = port;
            }
            for socket in &mut close_wait[..unaccepted] {
                socket.unaccepted = true;
            }
            watch.see([Namespace { listeners: vec![stalled], close_wait, ..host() }]);
        }
        let (queue, pileup) = (
            of(&watch, FindingKind::AcceptQueueOverflow),
            of(&watch, FindingKind::CloseWaitPileup),
        );
        let leader = pileup.led_by.as_ref();
        assert_eq!(leader == Some(&queue.id), expected, "{unaccepted} of 40, port {port}");
        assert_eq!(queue.led_by, None);
    }
}

#[test]
fn a_leak_leads_the_sockets_that_wait_for_its_close() {
    for (same_host, expected) in [(true, true), (false, false)] {
        let (client, server) = (process(12, "mailer"), process(80, "broker"));
        let ends = |number: u16| {
            let of_client = Endpoint { port: 40_000 + number, ..endpoint("127.0.0.1:1") };
            (of_client, endpoint("127.0.0.1:5672"))
        };
        let waits = |number| WaitingSocket {
            id: 1,
            state: TcpState::FinWait2,
            local: ends(number).0,
            peer: ends(number).1,
            role: Role::Client,
            since: START - seconds(3_600),
            orphan: false,
            progress: None,
            owner: owner(&client),
            owner_pending: false,
        };
        let keeps = |number| CloseWaitSocket {
            local: ends(if same_host { number } else { number + 1_000 }).1,
            peer: ends(if same_host { number } else { number + 1_000 }).0,
            ..accepted(&server, START - seconds(3_600))
        };
        let mut watch = Watch::new();
        watch.see([Namespace {
            waiting: (0..40).map(waits).collect(),
            close_wait: (0..40).map(keeps).collect(),
            ..host()
        }]);
        let (leak, stuck) =
            (of(&watch, FindingKind::CloseWaitPileup), of(&watch, FindingKind::StuckState));
        assert_eq!(stuck.led_by.as_ref() == Some(&leak.id), expected);
    }
}
