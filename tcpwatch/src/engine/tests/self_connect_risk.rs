//! `self-connect-risk`: listeners in the range, ports that are retried while nothing listens, the exact
//! remedy.

use super::*;

const AT: &str = "127.0.0.1:40000";

fn listener(at: &str) -> Listener {
    Listener {
        in_port_range: true,
        owner: owner(&process(12, "orders-api")),
        ..Listener::at(endpoint(at))
    }
}

fn with_local_clients(clients: u32) -> Listener {
    Listener { local_clients: clients, ..listener(AT) }
}

fn listening(listeners: impl Into<Vec<Listener>>) -> Namespace {
    Namespace { listeners: listeners.into(), ..host() }
}

/// `listeners`, which have been there for `min_age`.
fn long_listening(listeners: impl Into<Vec<Listener>>) -> (Watch, Namespace) {
    let mut watch = Watch::new();
    let namespace = listening(listeners);
    assert_eq!(watch.see([namespace.clone()]), []);
    watch.pass(seconds(60));
    (watch, namespace)
}

/// A connect() to `peer` that was refused.
fn refused_from(at: Timestamp, local: &str, peer: &str) -> Event {
    Event::ConnectFailed {
        at,
        netns: HOST,
        local: Endpoint { address: address(local), port: 51_000 },
        peer: endpoint(peer),
        reason: ConnectFailure::Refused,
        waited: None,
        no_connect: None,
        process: Some(process(70, "worker")),
    }
}

fn refused(at: Timestamp, peer: &str) -> Event {
    refused_from(at, &endpoint(peer).address.to_string(), peer)
}

impl Watch {
    /// `count` refusals by `peer`, `pause` apart; the last is now.
    fn refuse(&mut self, peer: &str, count: u32, pause: Duration) {
        for number in 0..count {
            if number > 0 {
                self.pass(pause);
            }
            self.engine.handle_event(&refused(self.now, peer));
        }
    }
}

#[test]
fn a_listener_in_the_range_is_info_once_it_is_old_enough() {
    let mut watch = Watch::new();
    let namespace = || [listening([listener(AT)])];
    assert_eq!(watch.see(namespace()), [], "its age counts from the first look");
    watch.pass(seconds(60) - Duration::from_nanos(1));
    assert_eq!(watch.see(namespace()), []);
    watch.pass(Duration::from_nanos(1));
    watch.see(namespace());
    assert_eq!(watch.only().severity, Severity::Info);
    watch.pass(seconds(1_000));
    watch.see(namespace());
    assert_eq!(watch.reported(), ["raised info"]);
}

#[test]
fn a_listener_that_is_reserved_or_outside_the_range_or_has_gone_is_none() {
    let outside = Listener { in_port_range: false, ..listener(AT) };
    let (mut watch, namespace) = long_listening([outside]);
    assert_eq!(watch.see([namespace]), []);

    let (mut watch, namespace) = long_listening([listener(AT)]);
    assert_eq!(watch.see([namespace.clone()]).len(), 1);
    let reserved = listening([Listener { in_port_range: false, ..listener(AT) }]);
    assert_eq!(watch.see([reserved]), []);
    assert_eq!(watch.reported(), ["raised info", "cleared info"]);
    // Not reserved any more: it is as if it had come now.
    assert_eq!(watch.see([namespace.clone()]), []);
    watch.pass(seconds(60));
    assert_eq!(watch.see([namespace]).len(), 1);
    assert_eq!(watch.see([host()]), []);
}

#[test]
fn a_listener_with_local_clients_is_info_as_well() {
    let (mut watch, namespace) = long_listening([listener(AT)]);
    watch.see([namespace]);
    assert_eq!(text_of(watch.only(), "local_connections"), "0");
    watch.pass(INTERVAL);
    watch.see([listening([with_local_clients(3)])]);
    assert_eq!(text_of(watch.only(), "local_connections"), "3");
    assert_says(&watch.only().title, &["is not reserved; clients on this host are connected"]);
    assert_eq!(watch.reported(), ["raised info"]);
}

#[test]
fn a_port_that_the_kernel_picked_is_no_risk_and_one_that_bind_named_is() {
    for (picked, expected) in [(Some(true), 0), (Some(false), 1), (None, 1)] {
        let (mut watch, namespace) =
            long_listening([Listener { port_picked: picked, ..with_local_clients(5) }]);
        assert_eq!(watch.see([namespace]).len(), expected, "{picked:?}");
    }
}

#[test]
fn all_ports_of_an_owner_are_one_finding_however_many_processes_listen() {
    let proxy = |number: u16| Listener {
        owner: owner(&process_in(100 + u32::from(number), "docker-proxy", "docker.service")),
        ..listener(&format!("0.0.0.0:{}", 32_768 + number))
    };
    let mut listeners: Vec<Listener> = (0..60).map(proxy).collect();
    listeners.push(listener(AT));
    let (mut watch, namespace) = long_listening(listeners);
    let findings = watch.see([namespace]).to_vec();
    assert_eq!(findings.len(), 2);
    let many = findings.iter().find(|it| it.title.contains("docker-proxy")).unwrap();
    assert_eq!(many.severity, Severity::Info);
    assert_eq!(
        many.title,
        "docker-proxy (pid 100) and 59 more processes listen on 60 ports inside \
         ip_local_port_range 32768-60999 that are not reserved: 32768-32827"
    );
    assert_eq!(text_of(many, "listening_ports"), "60");
    assert_eq!(text_of(many, "processes"), "60");
    assert_eq!(text_of(many, "port_list"), "32768-32827");
    assert_says(&many.remedies[0], &["off them", "${old:+$old,}32768-32827"]);
    assert_eq!((many.subject.local.as_deref(), many.subject.port), (None, None));
    assert_eq!(watch.reported(), ["raised info", "raised info"]);
}

#[test]
fn a_service_that_starts_after_its_clients_is_reported_once() {
    let mut watch = Watch::new();
    // Ten clients that retry each second, for half a minute.
    for _ in 0..3 {
        watch.refuse(AT, 100, Duration::from_millis(100));
        watch.see([host()]);
    }
    assert_eq!(watch.only().severity, Severity::Info);
    for _ in 0..20 {
        watch.pass(INTERVAL);
        watch.see([listening([with_local_clients(10)])]);
        assert_eq!(watch.only().severity, Severity::Info);
    }
    assert_says(&watch.only().title, &["port 40000 of orders-api (pid 12) lies inside"]);
    // It restarts, and its clients retry for a moment.
    watch.refuse(AT, 100, Duration::from_millis(100));
    watch.see([host()]);
    watch.pass(INTERVAL);
    watch.see([listening([with_local_clients(10)])]);
    assert_eq!(watch.reported(), ["raised info"]);
}

#[test]
fn listeners_on_one_port_are_one_finding() {
    let (mut watch, namespace) = long_listening([listener(AT), listener("[::1]:40000")]);
    let blue = Namespace { id: 5, name: "blue".into(), ..namespace.clone() };
    watch.see([namespace.clone(), blue.clone()]);
    assert_eq!(watch.only().id, format!("self-connect-risk/{HOST}/orders-api/"));
    watch.pass(seconds(60));
    let ids: Vec<&str> = watch.see([namespace, blue]).iter().map(|it| &*it.id).collect();
    let of = |netns: NetnsId| format!("self-connect-risk/{netns}/orders-api/");
    assert_eq!(ids, [of(HOST), of(5)]);
}

#[test]
fn a_listener_is_reported_with_owner_range_and_what_happens() {
    let (mut watch, mut namespace) = long_listening([listener(AT)]);
    namespace.ports.reserved = "8080,50000-50010".to_owned();
    watch.see([namespace]);
    let finding = watch.only();
    assert_eq!(
        finding.title,
        "port 40000 of orders-api (pid 12) lies inside ip_local_port_range 32768-60999 and is not \
         reserved"
    );
    assert_says(
        &finding.explanation,
        &["While orders-api (pid 12) restarts", "address already in use", "connected to itself"],
    );
    assert_eq!(text_of(finding, "port_range"), "low port 32768, high port 60999");
    assert_eq!(text_of(finding, "reserved_ports"), "8080,50000-50010");
    assert_eq!(finding.subject.role, Some(Role::Server));
    assert_eq!(finding.subject.local.as_deref(), Some(AT));
    assert_eq!(finding.subject.fds, [7]);
}

#[test]
fn only_the_parity_that_connect_takes_first_can_become_itself() {
    for (at, itself) in [("127.0.0.1:40000", true), ("127.0.0.1:40001", false)] {
        let (mut watch, namespace) = long_listening([listener(at)]);
        watch.see([namespace.clone()]);
        assert_eq!(watch.only().explanation.contains("connected to itself"), itself, "{at}");
        // The range begins with an odd port.
        let (mut watch, mut namespace) = long_listening([listener(at)]);
        namespace.ports.range = (32_769, 60_999);
        watch.see([namespace]);
        assert_eq!(watch.only().explanation.contains("connected to itself"), !itself, "{at}");
    }
}

#[test]
fn the_remedy_adds_the_port_to_what_is_reserved() {
    let (mut watch, namespace) = long_listening([listener(AT)]);
    watch.see([namespace]);
    let command = "sysctl -w net.ipv4.ip_local_reserved_ports=\"${old:+$old,}40000\"` (";
    assert_says(&watch.only().remedies[0], &[command, "/etc/sysctl.d"]);
    let (mut watch, namespace) = long_listening([listener(AT)]);
    watch.see([Namespace { name: "blue".into(), ..namespace }]);
    let remedy = &watch.only().remedies[0];
    assert_says(remedy, &["old=$(ip netns exec blue sysctl -n ", "ip netns exec blue sysctl -w "]);
    assert!(!remedy.contains("/etc/sysctl.d"), "{remedy}");
    assert_says(&remedies_of(watch.only()), &["below 32768", "getsockname() equals"]);
}

#[test]
fn ten_refusals_within_the_window_are_info_nine_are_none() {
    for (count, severity) in [(9, None), (10, Some(Severity::Info))] {
        let mut watch = Watch::new();
        watch.refuse(AT, count, seconds(6));
        watch.see([host()]);
        assert_eq!(watch.severities().first().copied(), severity, "{count}");
    }
}

#[test]
fn retries_are_a_warning_once_they_had_one_chance_in_twenty() {
    // Half of 28232 ports are tried first.
    for (count, severity) in [(705, Severity::Info), (706, Severity::Warning)] {
        let mut watch = Watch::new();
        watch.refuse(AT, count, Duration::from_millis(50));
        watch.see([host()]);
        assert_eq!(watch.only().severity, severity, "{count}");
    }
    // One a second comes to it in twelve minutes.
    let mut watch = Watch::new();
    for _ in 0..80 {
        watch.refuse(AT, 10, seconds(1));
        watch.pass(seconds(1));
        watch.see([host()]);
    }
    assert_eq!(watch.reported(), ["raised info", "info to warning"]);
}

#[test]
fn refusals_that_are_further_apart_than_the_window_do_not_add_up() {
    let mut watch = Watch::new();
    // Five within the window, for an hour: a check of a service that is down.
    for number in 0..240 {
        watch.refuse(AT, 1, seconds(0));
        assert_eq!(watch.see([host()]), [], "{number}");
        watch.pass(seconds(15));
    }
}

#[test]
fn it_stands_until_the_window_after_the_last_refusal_is_over() {
    let mut watch = Watch::new();
    watch.refuse(AT, 20, seconds(1));
    watch.see([host()]);
    // It goes on, but slowly.
    for _ in 0..3 {
        watch.pass(seconds(50));
        watch.refuse(AT, 1, seconds(0));
        watch.see([host()]);
        assert_eq!(watch.only().severity, Severity::Info);
    }
    assert_eq!(text_of(watch.only(), "refused_connects"), "23");
    assert_eq!(text_of(watch.only(), "refused_connects_in_window"), "2");
    watch.pass(seconds(60));
    assert_eq!(watch.see([host()]).len(), 1, "at the window's end");
    watch.pass(Duration::from_nanos(1));
    assert_eq!(watch.see([host()]), []);
    assert_eq!(watch.reported(), ["raised info", "cleared info"]);
    // And counts anew.
    watch.refuse(AT, 9, seconds(1));
    assert_eq!(watch.see([host()]), []);
}

#[test]
fn it_clears_as_soon_as_a_picked_port_is_listened_on_or_the_port_is_reserved() {
    let mut watch = Watch::new();
    watch.refuse(AT, 20, seconds(1));
    assert_eq!(watch.see([host()]).len(), 1);
    let picked = Listener { port_picked: Some(true), ..listener(AT) };
    assert_eq!(watch.see([listening([picked])]), []);
    assert_eq!(watch.see([host()]).len(), 1);
    for reserved in ["40000", "39000-40000,50000", "8080,40000-40010"] {
        let mut namespace = host();
        namespace.ports.reserved = reserved.to_owned();
        assert_eq!(watch.see([namespace]), [], "{reserved}");
    }
}

#[test]
fn only_a_port_of_the_range_connected_from_its_own_address_and_refused_counts() {
    let mut reasons = ConnectFailure::ALL.to_vec();
    reasons.retain(|reason| *reason != ConnectFailure::Refused);
    for reason in reasons {
        let mut watch = Watch::new();
        for _ in 0..100 {
            let local = Endpoint { port: 51_000, ..endpoint(AT) };
            let (at, netns, peer) = (watch.now, HOST, endpoint("127.0.0.1:40002"));
            let event = ended(at, netns, (local, peer), reason, None);
            watch.engine.handle_event(&event);
        }
        watch.see([host()]);
        let kinds = watch.engine.findings().iter().map(|finding| finding.kind);
        assert!(kinds.clone().all(|kind| kind != FindingKind::SelfConnectRisk), "{reason:?}");
    }
    let table = [
        ("127.0.0.1", "127.0.0.1:32767", false),
        ("127.0.0.1", "127.0.0.1:32768", true),
        ("127.0.0.1", "127.0.0.1:60998", true),
        ("127.0.0.1", "127.0.0.1:61000", false),
        ("10.0.0.1", "10.0.0.1:40000", true),
        ("::1", "[::1]:40000", true),
        ("10.0.0.1", "10.0.0.9:40000", false),
        // The kernel connects to all of 127.0.0.0/8 from 127.0.0.1.
        ("127.0.0.1", "127.0.0.5:40000", false),
    ];
    for (local, peer, at_risk) in table {
        let mut watch = Watch::new();
        for _ in 0..10 {
            watch.engine.handle_event(&refused_from(watch.now, local, peer));
        }
        assert_eq!(watch.see([host()]).len(), usize::from(at_risk), "{local} to {peer}");
    }
}

#[test]
fn the_expected_time_is_half_the_range_at_the_present_rate() {
    let mut watch = Watch::new();
    // One a second for a minute.
    watch.refuse(AT, 61, seconds(1));
    watch.see([host()]);
    let finding = watch.only();
    assert_eq!(text_of(finding, "self_connection_expected_connects"), "14116");
    assert_eq!(text_of(finding, "refused_connects_per_second"), "1");
    assert_eq!(text_of(finding, "self_connection_expected_seconds"), "14116");
    assert_eq!(
        finding.title,
        "worker (pid 70) keeps connecting to 127.0.0.1:40000, where nothing listens: refused 61 times, \
         and at this rate connected to itself in about 3 h 55 min"
    );
    assert_says(&finding.explanation, &["about once in 14,116 times", "cannot bind"]);
    assert_eq!(finding.subject.role, Some(Role::Client));
    assert_eq!(finding.subject.peer.as_deref(), Some(AT));
    assert_eq!(finding.subject.pid, Some(70));

    // Ten times as often from now on: the window says so when it is over.
    watch.refuse(AT, 620, Duration::from_millis(100));
    watch.pass(seconds(9));
    watch.see([host()]);
    let rate: f64 = text_of(watch.only(), "refused_connects_per_second").parse().unwrap();
    assert!((9.9..10.1).contains(&rate), "{rate}");
    assert_says(&watch.only().title, &["23 min"]);
}

#[test]
fn fewer_ports_come_sooner_and_a_burst_is_divided_by_a_second() {
    let mut watch = Watch::new();
    watch.refuse("127.0.0.1:40002", 11, seconds(0));
    let mut namespace = host();
    namespace.ports.range = (40_000, 40_059);
    namespace.ports.available = 60;
    watch.see([namespace.clone()]);
    assert_eq!(text_of(watch.only(), "self_connection_expected_connects"), "30");
    assert_eq!(text_of(watch.only(), "refused_connects_per_second"), "10");
    assert_says(&watch.only().title, &["in about 3 s"]);
    // Nothing left to choose from divides nothing by zero.
    namespace.ports.available = 0;
    watch.see([namespace]);
    assert_eq!(text_of(watch.only(), "self_connection_expected_connects"), "1");
}

#[test]
fn a_refused_port_that_connect_takes_last_is_info_without_a_time() {
    let mut watch = Watch::new();
    watch.refuse("127.0.0.1:40001", 20, seconds(1));
    watch.see([host()]);
    let finding = watch.only();
    assert_eq!(finding.severity, Severity::Info);
    assert_eq!(
        finding.title,
        "worker (pid 70) keeps connecting to 127.0.0.1:40001, where nothing listens: refused 20 times"
    );
    assert_says(&finding.explanation, &["other parity first", "bind() with port 0"]);
    assert_eq!(text_of(finding, "self_connection_expected_seconds"), "absent");
    assert_says(&finding.remedies[0], &["${old:+$old,}40001"]);
}

#[test]
fn the_last_caller_that_is_known_is_named() {
    let mut watch = Watch::new();
    let mut call = |process: Option<Arc<Process>>| {
        let Event::ConnectFailed { at, netns, local, peer, reason, .. } = refused(START, AT) else {
            unreachable!()
        };
        watch.engine.handle_event(&ended(at, netns, (local, peer), reason, process));
    };
    (0..10).for_each(|_| call(None));
    call(Some(process(71, "first")));
    call(Some(process(72, "second")));
    call(None);
    watch.see([host()]);
    assert_eq!(watch.only().subject.pid, Some(72));
    let mut watch = Watch::new();
    for _ in 0..10 {
        let Event::ConnectFailed { at, netns, local, peer, reason, .. } = refused(START, AT) else {
            unreachable!()
        };
        let event = ended(at, netns, (local, peer), reason, None);
        watch.engine.handle_event(&event);
    }
    watch.see([host()]);
    assert_says(&watch.only().title, &["an unknown process keeps connecting to"]);
}

#[test]
fn each_address_and_namespace_that_refuses_is_a_finding() {
    let mut watch = Watch::new();
    watch.refuse(AT, 10, seconds(0));
    watch.refuse("[::1]:40000", 10, seconds(0));
    watch.see([host(), namespace(5, "blue")]);
    let ids: Vec<&str> = watch.engine.findings().iter().map(|finding| &*finding.id).collect();
    let of = |peer| format!("self-connect-risk/{HOST}/{peer}");
    assert_eq!(ids, [of(AT), of("::1:40000")]);
}

#[test]
fn disabled_it_raises_nothing_but_keeps_ages_and_counts() {
    let mut watch = Watch::with(|detect| detect.self_connect_risk.enabled = false);
    let look = || [listening([listener("127.0.0.1:50000")])];
    watch.see(look());
    watch.pass(seconds(60));
    watch.refuse(AT, 10, seconds(0));
    assert_eq!(watch.see(look()), []);
    watch.reconfigure(|detect| detect.self_connect_risk.enabled = true);
    assert_eq!(watch.see(look()).len(), 2);
}

#[test]
fn new_ages_and_thresholds_count_from_the_next_look_on() {
    let mut watch = Watch::new();
    let look = || [listening([listener("127.0.0.1:50000")])];
    watch.refuse(AT, 5, seconds(0));
    watch.see(look());
    watch.pass(seconds(5));
    assert_eq!(watch.see(look()), []);
    watch.reconfigure(|detect| {
        detect.self_connect_risk.warning = 5;
        detect.self_connect_risk.min_age = seconds(5);
    });
    assert_eq!(watch.see(look()).len(), 2);
    watch.reconfigure(|detect| {
        detect.self_connect_risk.window = seconds(4);
        detect.self_connect_risk.min_age = seconds(6);
    });
    assert_eq!(watch.see(look()), []);
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned = Owned {
    kind: FindingKind::SelfConnectRisk,
    make: listen_in_the_range,
    milder: Some("min_age = \"61s\""),
    listener_bytes: 0,
};

fn listen_in_the_range(making: &mut Making, service: &Service) {
    let listener = Listener { in_port_range: true, ..overrides::listener(service) };
    making.now.listeners.push(listener.clone());
    making.then.listeners.push(listener);
}
