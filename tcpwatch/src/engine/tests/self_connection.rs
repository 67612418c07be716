//! `self-connection`: one per endpoint, its maker, words.

use super::*;

const SELF: &str = "127.0.0.1:40000";

fn socket(at: &str, owner: Option<Owner>) -> SelfConnectedSocket {
    SelfConnectedSocket { id: 1, endpoint: endpoint(at), state: TcpState::Established, owner }
}

fn connected(sockets: impl Into<Vec<SelfConnectedSocket>>) -> Namespace {
    Namespace { self_connected: sockets.into(), ..host() }
}

fn made(at: Timestamp, process: Option<&Arc<Process>>) -> Event {
    Event::SelfConnection { at, netns: HOST, endpoint: endpoint(SELF), process: process.cloned() }
}

#[test]
fn each_endpoint_in_each_namespace_is_one_finding() {
    let mut watch = Watch::new();
    let sockets = [socket(SELF, None), socket(SELF, None), socket("[::1]:40000", None)];
    let other = Namespace { id: 5, name: "blue".into(), ..connected([socket(SELF, None)]) };
    let ids: Vec<&str> =
        watch.see([connected(sockets), other]).iter().map(|finding| &*finding.id).collect();
    let of = |netns: NetnsId, at| format!("self-connection/{netns}/{at}");
    assert_eq!(ids, [of(HOST, SELF), of(HOST, "::1:40000"), of(5, SELF)]);
}

#[test]
fn its_severity_is_the_configured_one() {
    for severity in Severity::ALL {
        let mut watch = Watch::with(|detect| detect.self_connection.severity = severity);
        assert_eq!(watch.see([connected([socket(SELF, None)])])[0].severity, severity);
    }
}

#[test]
fn it_clears_with_the_first_inventory_that_does_not_find_it() {
    let mut watch = Watch::new();
    watch.see([connected([socket(SELF, None)])]);
    watch.see([host()]);
    assert_eq!(watch.reported(), ["raised warning", "cleared warning"]);
}

#[test]
fn an_event_by_itself_raises_nothing() {
    let mut watch = Watch::new();
    watch.engine.handle_event(&made(START, Some(&process(70, "worker"))));
    assert_eq!(watch.see([host()]), []);
}

#[test]
fn the_maker_is_named_until_the_inventory_names_the_owner() {
    let mut watch = Watch::new();
    watch.engine.handle_event(&made(START, Some(&process(70, "worker"))));
    for _ in 0..3 {
        watch.pass(INTERVAL);
        watch.see([connected([socket(SELF, None)])]);
        assert_eq!(watch.only().subject.pid, Some(70));
        assert_eq!(watch.only().subject.fds, [0_u32; 0]);
    }
    assert_eq!(watch.only().title, "worker (pid 70) is connected to itself at 127.0.0.1:40000");
    // Handed to a child since.
    watch.see([connected([socket(SELF, owner(&process(71, "child")))])]);
    assert_eq!(watch.only().subject.pid, Some(71));
    assert_eq!(watch.only().subject.fds, [7]);
    assert_says(&watch.only().title, &["child (pid 71)"]);
    assert_eq!(watch.reported(), ["raised warning"]);
}

#[test]
fn a_maker_is_forgotten_with_its_socket() {
    let mut watch = Watch::new();
    watch.engine.handle_event(&made(START, Some(&process(70, "worker"))));
    watch.pass(INTERVAL);
    watch.see([connected([socket(SELF, None)])]);
    watch.pass(INTERVAL);
    watch.see([host()]);
    watch.see([connected([socket(SELF, None)])]);
    assert_eq!(watch.only().subject.pid, None);
}

#[test]
fn a_maker_noted_while_the_tables_were_walked_is_kept_for_the_next_inventory() {
    let mut watch = Watch::new();
    watch.engine.handle_event(&made(START + seconds(1), Some(&process(70, "worker"))));
    let walked_before = inventory([host()], START);
    watch.engine.handle_inventory(&walked_before, START + seconds(2));
    watch.pass(INTERVAL);
    watch.see([connected([socket(SELF, None)])]);
    assert_eq!(watch.only().subject.pid, Some(70));
}

#[test]
fn the_newest_maker_of_an_endpoint_counts() {
    let mut watch = Watch::new();
    watch.engine.handle_event(&made(START, Some(&process(70, "worker"))));
    watch.engine.handle_event(&made(START, None));
    watch.engine.handle_event(&made(START, Some(&process(71, "worker"))));
    watch.see([connected([socket(SELF, None), socket(SELF, None)])]);
    assert_eq!(watch.only().subject.pid, Some(71));
}

#[test]
fn the_words_depend_on_who_chose_the_port() {
    let table = [
        (SELF, "the kernel picked the same port", "ip_local_reserved_ports", "yes"),
        ("127.0.0.1:32768", "the kernel picked", "${old:+$old,}32768", "yes"),
        ("127.0.0.1:60999", "the kernel picked", "out of 32768-60999", "yes"),
        ("127.0.0.1:32767", "had bound the same port", "do not bind()", "no"),
        ("127.0.0.1:61000", "had bound the same port", "do not bind()", "no"),
    ];
    for (at, why, remedy, inside) in table {
        let mut watch = Watch::new();
        watch.see([connected([socket(at, None)])]);
        assert_says(&watch.only().explanation, &[why, at]);
        assert_says(&remedies_of(watch.only()), &[remedy]);
        assert_eq!(text_of(watch.only(), "port_is_in_range"), inside);
        assert_eq!(remedies_of(watch.only()).contains("reserved_ports"), inside == "yes");
    }
}

#[test]
fn the_command_that_closes_it_touches_no_other_socket() {
    let mut watch = Watch::new();
    watch.see([connected([socket("[::1]:40000", None)])]);
    assert_eq!(
        watch.only().remedies[1],
        "Close it: `ss -tK 'src [::1]:40000 and dst [::1]:40000'`"
    );
    let blue = Namespace {
        name: "blue".into(),
        ..connected([socket(SELF, owner(&process(71, "child")))])
    };
    watch.see([blue]);
    assert_eq!(
        watch.only().remedies[1],
        "Close it: `ip netns exec blue ss -tK 'src 127.0.0.1:40000 and dst 127.0.0.1:40000'`, or \
         restart child (pid 71)."
    );
}

#[test]
fn disabled_self_connection_raises_nothing_and_keeps_the_maker() {
    let mut watch = Watch::with(|detect| detect.self_connection.enabled = false);
    watch.engine.handle_event(&made(START, Some(&process(70, "worker"))));
    assert_eq!(watch.see([connected([socket(SELF, None)])]), []);
    watch.pass(INTERVAL);
    watch.see([connected([socket(SELF, None)])]);
    watch.reconfigure(|detect| detect.self_connection.enabled = true);
    watch.see([connected([socket(SELF, None)])]);
    assert_eq!(watch.only().subject.pid, Some(70));
}

#[test]
fn the_whole_list_of_reserved_ports_is_printed_before_anything_is_ended() {
    let mut watch = Watch::new();
    let mut blue = Namespace {
        name: "blue".into(),
        ..connected([socket(SELF, owner(&process(71, "child")))])
    };
    blue.ports.reserved = "8080,39999".to_owned();
    watch.see([blue]);
    let set =
        "ip netns exec blue sysctl -w net.ipv4.ip_local_reserved_ports=\"${old:+$old,}40000\"";
    assert_says(&watch.only().remedies[0], &[set]);
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned =
    Owned { kind: FindingKind::SelfConnection, make: meet_itself, milder: None, listener_bytes: 0 };

fn meet_itself(making: &mut Making, (process, port): &Service) {
    making.then.self_connected.push(SelfConnectedSocket {
        id: 1,
        endpoint: Endpoint { address: address("10.0.0.9"), port: *port },
        state: TcpState::Established,
        owner: owner(process),
    });
}
