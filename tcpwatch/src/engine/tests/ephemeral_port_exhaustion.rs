//! `ephemeral-port-exhaustion`: the ratio, connects that failed, words.

use super::{time_wait_exhaustion::assert_recycle_is_only_warned_of, *};
use crate::facts::NoConnect;

const SOURCE: &str = "10.0.0.1";
const PEER: &str = "10.0.0.9:443";

/// The agent's own namespace with these busy destinations.
fn busy(busy: impl Into<Vec<DestinationUse>>) -> Namespace {
    let mut namespace = host();
    namespace.ports.busy = busy.into();
    namespace
}

fn used(used: u32) -> Namespace {
    busy([destination(SOURCE, PEER, used)])
}

#[test]
fn a_destination_is_judged_by_its_part_of_the_usable_ports() {
    use Severity::{Critical, Warning};
    // 0.8 and 0.95 of 28,232 are 22585.6 and 26820.4.
    let table = [
        (0, None),
        (22_585, None),
        (22_586, Some(Warning)),
        (26_820, Some(Warning)),
        (26_821, Some(Critical)),
        (28_232, Some(Critical)),
    ];
    for (ports, severity) in table {
        let mut watch = Watch::new();
        watch.see([used(ports)]);
        assert_eq!(watch.severities().first().copied(), severity, "{ports} ports");
        // The worst by itself says as much, where the first 32 busy ones leave it out.
        let mut watch = Watch::new();
        let mut namespace = host();
        namespace.ports.worst = Some(destination(SOURCE, PEER, ports));
        watch.see([namespace]);
        assert_eq!(watch.severities().first().copied(), severity, "{ports} ports of the worst");
    }
}

#[test]
fn a_range_without_a_usable_port_is_no_division_by_zero() {
    let mut watch = Watch::new();
    let mut namespace = used(0);
    namespace.ports.available = 0;
    assert_eq!(watch.see([namespace]), []);
}

#[test]
fn a_destination_is_released_below_nine_tenths_of_the_threshold() {
    let mut watch = Watch::new();
    // 0.72 and 0.855 of 28,232 are 20327.04 and 24138.36.
    let steps =
        [(26_821, "critical"), (24_139, "critical"), (24_138, "warning"), (20_328, "warning")];
    for (ports, severity) in steps {
        assert_eq!(watch.see([used(ports)])[0].severity.label(), severity, "{ports} ports");
    }
    assert_eq!(watch.see([used(20_327)]), []);
}

#[test]
fn the_worst_among_the_busy_is_one_finding() {
    let mut watch = Watch::new();
    let mut namespace = used(25_000);
    namespace.ports.worst = Some(destination(SOURCE, PEER, 25_000));
    assert_eq!(watch.see([namespace]).len(), 1);
}

#[test]
fn each_source_destination_and_port_is_a_finding_of_its_own() {
    let mut watch = Watch::new();
    let full = [
        destination(SOURCE, PEER, 25_000),
        destination("10.0.0.2", PEER, 25_000),
        destination(SOURCE, "10.0.0.8:443", 25_000),
        destination(SOURCE, "10.0.0.9:80", 25_000),
        destination("fe80::1", "[fe80::9]:443", 25_000),
    ];
    let other = Namespace { id: 5, name: "blue".into(), ..used(25_000) };
    let findings = watch.see([busy(full), other]);
    let mut ids: Vec<&str> = findings.iter().map(|finding| &*finding.id).collect();
    ids.sort_unstable();
    let of =
        |netns: NetnsId, local, peer| format!("ephemeral-port-exhaustion/{netns}/{local}/{peer}");
    let mut expected = [
        of(HOST, SOURCE, PEER),
        of(HOST, "10.0.0.2", PEER),
        of(HOST, SOURCE, "10.0.0.8:443"),
        of(HOST, SOURCE, "10.0.0.9:80"),
        of(HOST, "fe80::1", "fe80::9:443"),
        of(5, SOURCE, PEER),
    ];
    expected.sort();
    assert_eq!(ids, expected);
}

#[test]
fn a_connect_that_found_no_port_is_critical_for_a_window_after_the_last() {
    let mut watch = Watch::new();
    let curl = process(70, "curl");
    watch.engine.handle_event(&no_port(START, HOST, SOURCE, PEER, Some(&curl)));
    assert_eq!(watch.engine.findings(), [], "it is judged with the next inventory");
    watch.pass(INTERVAL);
    assert_eq!(watch.see([host()])[0].severity, Severity::Critical);
    watch.engine.handle_event(&no_port(START + seconds(20), HOST, SOURCE, PEER, Some(&curl)));
    // Events of several CPUs may come out of order; the last one counts.
    watch.engine.handle_event(&no_port(START + seconds(15), HOST, SOURCE, PEER, Some(&curl)));
    watch.now = START + seconds(80);
    watch.see([host()]);
    assert_eq!(text_of(watch.only(), "failed_connects"), "3");
    watch.pass(Duration::from_nanos(1));
    assert_eq!(watch.see([host()]), []);
    assert_eq!(watch.reported(), ["raised critical", "cleared critical"]);
    // A new one counts from one.
    watch.engine.handle_event(&no_port(watch.now, HOST, SOURCE, PEER, None));
    watch.see([host()]);
    assert_eq!(text_of(watch.only(), "failed_connects"), "1");
}

#[test]
fn a_connect_that_failed_for_another_reason_is_no_want_of_ports() {
    for reason in ConnectFailure::ALL {
        let mut watch = Watch::new();
        let Event::ConnectFailed { at, netns, local, peer, process, .. } =
            no_port(START, HOST, SOURCE, PEER, None)
        else {
            unreachable!("that is what it makes");
        };
        watch.engine.handle_event(&ended(at, netns, (local, peer), reason, process));
        let raised = !watch.see([host()]).is_empty();
        assert_eq!(raised, reason == ConnectFailure::NoLocalPort, "{reason:?}");
    }
}

#[test]
fn a_failed_connect_and_its_busy_destination_are_one_finding() {
    let mut watch = Watch::new();
    watch.see([used(25_000)]);
    let id = watch.only().id.clone();
    watch.engine.handle_event(&no_port(START, HOST, SOURCE, PEER, Some(&process(70, "curl"))));
    watch.see([used(25_000)]);
    assert_eq!(watch.only().id, id);
    assert_eq!(
        watch.only().title,
        "1 connect() call to 10.0.0.9:443 found no free local port, by curl (pid 70): 25,000 of \
         28,232 local ports from 10.0.0.1 to 10.0.0.9:443 are taken"
    );
    assert_eq!(watch.reported(), ["raised warning", "warning to critical"]);
    // When the window is over the ratio still stands.
    watch.pass(seconds(61));
    watch.see([used(25_000)]);
    assert_eq!(watch.reported(), ["critical to warning"]);
}

#[test]
fn failures_in_a_namespace_that_has_gone_clear() {
    let mut watch = Watch::new();
    watch.engine.handle_event(&no_port(START, 5, SOURCE, PEER, None));
    assert_eq!(watch.see([host()]), [], "no inventory has seen it");
    assert_eq!(watch.see([host(), namespace(5, "blue")]).len(), 1);
    assert_eq!(watch.see([host()]), []);
}

#[test]
fn the_process_that_failed_most_is_named() {
    let mut watch = Watch::new();
    let (curl, wget) = (process(70, "curl"), process_in(71, "wget", "sync.service"));
    for process in [&curl, &wget, &curl, &wget, &wget] {
        watch.engine.handle_event(&no_port(START, HOST, SOURCE, PEER, Some(process)));
    }
    watch.see([host()]);
    let finding = watch.only();
    assert_eq!(
        finding.title,
        "5 connect() calls to 10.0.0.9:443 found no free local port, most by wget (pid 71)"
    );
    assert_eq!(finding.subject.pid, Some(71));
    assert_eq!(finding.subject.unit.as_deref(), Some("sync.service"));
    let by_process =
        "process curl, pid 70, failed connects 2; process wget, pid 71, failed connects 3";
    assert_eq!(text_of(finding, "failed_connects_by_process"), by_process);
}

#[test]
fn most_is_said_only_where_others_failed_too() {
    let table = [
        (vec![Some(process(70, "curl")); 2], ", by curl (pid 70)"),
        (vec![Some(process(70, "curl")), None], ", most by curl (pid 70)"),
        (vec![None, None], ", by an unknown process"),
    ];
    for (processes, who) in table {
        let mut watch = Watch::new();
        for process in &processes {
            watch.engine.handle_event(&no_port(START, HOST, SOURCE, PEER, process.as_ref()));
        }
        watch.see([host()]);
        assert!(watch.only().title.ends_with(who), "{}", watch.only().title);
    }
}

#[test]
fn the_title_of_a_ratio_names_both_ends_in_either_family() {
    let table = [
        (SOURCE, PEER, "25,000 of 28,232 local ports from 10.0.0.1 to 10.0.0.9:443 are taken"),
        (
            "fe80::1",
            "[fe80::9]:80",
            "25,000 of 28,232 local ports from fe80::1 to [fe80::9]:80 are taken",
        ),
    ];
    for (local, peer, title) in table {
        let mut watch = Watch::new();
        watch.see([busy([destination(local, peer, 25_000)])]);
        assert_eq!(watch.only().title, title);
        assert_eq!(watch.only().subject.local.as_deref(), Some(local));
        assert_eq!(watch.only().subject.peer.as_deref(), Some(peer));
    }
    let mut watch = Watch::new();
    watch.see([Namespace { name: "blue".into(), ..used(25_000) }]);
    assert!(watch.only().title.ends_with(" in network namespace blue"), "{}", watch.only().title);
}

#[test]
fn time_wait_is_explained_by_tcp_tw_reuse() {
    use TwReuse::{Always, Loopback, Never};
    let (far, near) = ((SOURCE, PEER), ("127.0.0.1", "127.0.0.1:443"));
    let near6 = ("::1", "[::1]:443");
    // The explanation, and the sysctl that is proposed where one would help.
    let on = Some("sysctl -w net.ipv4.tcp_tw_reuse=1` ");
    let both = Some("sysctl -w net.ipv4.tcp_timestamps=1 net.ipv4.tcp_tw_reuse=1` ");
    let table = [
        (Never, true, far, "because tcp_tw_reuse is 0", on),
        (Never, true, near, "because tcp_tw_reuse is 0", on),
        (Never, false, far, "because tcp_tw_reuse is 0", both),
        (Always, true, far, "(tcp_tw_reuse is 1), so these are open connections", None),
        (Always, false, far, "tcp_tw_reuse needs tcp_timestamps, which are off", both),
        (Loopback, true, far, "tcp_tw_reuse is 2 (loopback only), and this", on),
        (Loopback, true, near, "this destination is loopback and tcp_tw_reuse is 2", None),
        (Loopback, true, near6, "this destination is loopback and tcp_tw_reuse is 2", None),
        (Loopback, false, near, "tcp_tw_reuse needs tcp_timestamps, which are off", both),
    ];
    for (tw_reuse, timestamps, (local, peer), text, remedy) in table {
        let mut watch = Watch::new();
        let mut namespace = busy([destination(local, peer, 28_000)]);
        (namespace.ports.tw_reuse, namespace.ports.timestamps) = (tw_reuse, timestamps);
        watch.see([namespace]);
        let finding = watch.only();
        let case = format!("{tw_reuse:?} {timestamps} {peer}");
        assert!(finding.explanation.contains(text), "{case}: {}", finding.explanation);
        let remedies = remedies_of(finding);
        match remedy {
            Some(remedy) => assert!(remedies.contains(remedy), "{case}: {remedies}"),
            None => {
                assert!(!remedies.contains("tcp_tw_reuse="), "{case}: {remedies}");
                assert!(remedies.contains("already effective for this destination"), "{case}");
            }
        }
        assert_recycle_is_only_warned_of(finding);
    }
}

/// The remedy that widens the range, if there is one.
fn wider(namespace: Namespace) -> Option<String> {
    let mut watch = Watch::new();
    watch.see([namespace]);
    watch.only().remedies.iter().find(|it| it.starts_with("More ports: ")).cloned()
}

#[test]
fn a_wider_range_is_proposed_that_keeps_clear_of_most_services() {
    let table = [
        ((32_768, 60_999), Some("16384 60999")),
        ((10_000, 50_000), Some("10000 60999")),
        ((40_000, 65_535), Some("16384 65535")),
        ((16_384, 60_999), None),
        ((1_024, 65_535), None),
    ];
    for (range, proposed) in table {
        let mut namespace = used(28_000);
        namespace.ports.range = range;
        let remedy = wider(namespace);
        let command = proposed.map(|it| format!("sysctl -w net.ipv4.ip_local_port_range=\"{it}\""));
        assert_eq!(remedy.is_some(), command.is_some(), "{range:?}");
        if let (Some(remedy), Some(command)) = (remedy, command) {
            assert_says(
                &remedy,
                &[&command, "reserve 30000-32767 too: NodePorts have no listener"],
            );
            assert!(!remedy.contains("ip_local_reserved_ports="), "no listener: {remedy}");
        }
    }
}

#[test]
fn what_listens_in_the_wider_range_is_reserved_first() {
    let mut namespace = used(28_000);
    // The first is below, the last was in the range before, and one is reserved already.
    let ports = [8_080, 16_384, 19_000, 19_001, 20_000, 32_767, 40_000];
    let listeners = ports.map(|port| Listener::at(endpoint(&format!("0.0.0.0:{port}"))));
    namespace.listeners = listeners.into();
    namespace.ports.reserved = "20000,50000".to_owned();
    assert_says(
        &wider(namespace.clone()).unwrap(),
        &[
            "first reserve the ports of the listeners there: `old=$(sysctl -n ",
            "\"${old:+$old,}16384,19000-19001,32767\"`; then `sysctl -w \
             net.ipv4.ip_local_port_range=\"16384 60999\"",
        ],
    );
    // Too many for a command.
    let many = (20_000..20_100).map(|port| Listener::at(endpoint(&format!("0.0.0.0:{port}"))));
    namespace.listeners = many.collect();
    let remedy = wider(namespace).unwrap();
    assert_says(&remedy, &["first reserve the 99 ports of the listeners there (`ss -Htln`)"]);
}

#[test]
fn settings_are_changed_in_the_namespace_that_is_short_of_ports() {
    let mut watch = Watch::new();
    let blue = Namespace { id: 5, name: "blue".into(), ..used(28_000) };
    watch.see([blue.clone()]);
    let commands = [
        "ip netns exec blue sysctl -w net.ipv4.ip_local_port_range=",
        "ip netns exec blue sysctl -w net.ipv4.tcp_tw_reuse=1` ",
    ];
    assert_says(&remedies_of(watch.only()), &commands);
    let failed = no_port(START, 5, SOURCE, PEER, Some(&process(70, "curl")));
    watch.engine.handle_event(&failed);
    watch.see([blue]);
    assert_says(
        &remedies_of(watch.only()),
        &["ip netns exec blue sysctl -w net.ipv4.tcp_tw_reuse=1` "],
    );
}

#[test]
fn the_remedy_says_what_the_present_value_of_tcp_tw_reuse_means() {
    use TwReuse::{Always, Loopback, Never};
    let table = [
        (Never, true, "Now it is 0: never."),
        (Always, false, "Now it is 1: always, but without tcp_timestamps it does nothing."),
        (Loopback, true, "Now it is 2: loopback only, and this destination is not loopback."),
        (Loopback, false, "Now it is 2: loopback only, and this destination is not loopback."),
    ];
    for (tw_reuse, timestamps, said) in table {
        let mut watch = Watch::new();
        let mut namespace = used(28_000);
        (namespace.ports.tw_reuse, namespace.ports.timestamps) = (tw_reuse, timestamps);
        watch.see([namespace]);
        assert_says(&remedies_of(watch.only()), &[said]);
        let flag = watch.only().evidence.get("tcp_timestamps_enabled");
        assert_eq!(flag, Some(&Evidence::Flag(timestamps)));
    }
}

#[test]
fn remedies_begin_with_fewer_connections_and_end_with_what_not_to_do() {
    let mut watch = Watch::new();
    let mut namespace = used(28_000);
    // A few explain nothing.
    namespace.ports.bound_before_connect = 12;
    watch.see([namespace.clone()]);
    assert!(!remedies_of(watch.only()).contains("IP_BIND_ADDRESS_NO_PORT"));
    namespace.ports.bound_before_connect = 3_000;
    watch.see([namespace]);
    let begins = [
        "Fewer connections: ",
        "IP_BIND_ADDRESS_NO_PORT ",
        "Look at them: `ss -tanp dst ",
        "More ports: ",
        "Ports in TIME_WAIT again ",
        "More destinations or sources: ",
        "Not by tcp_tw_recycle ",
    ];
    let remedies = &watch.only().remedies;
    assert_eq!(remedies.len(), begins.len(), "{remedies:#?}");
    for (remedy, begin) in remedies.iter().zip(begins) {
        assert!(remedy.starts_with(begin), "{remedy}");
    }
    assert_says(&remedies[1], &["3,000 ports here belong to connections that called bind()"]);
    assert_says(&remedies[6], &["not by SO_LINGER 0"]);
    assert_eq!(text_of(watch.only(), "bound_before_connect_ports"), "3000");
    // Where no process binds before connect() it is no remedy.
    let mut watch = Watch::new();
    watch.see([used(28_000)]);
    assert!(!remedies_of(watch.only()).contains("IP_BIND_ADDRESS_NO_PORT"));
    assert_eq!(text_of(watch.only(), "bound_before_connect_ports"), "absent");
}

#[test]
fn the_minutes_to_the_last_port_are_reported_while_their_number_grows() {
    let mut watch = Watch::new();
    for step in 0..=12 {
        // 100 ports in ten seconds.
        watch.see([used(23_000 + step * 100)]);
        let minutes = text_of(watch.only(), "time_to_last_port_minutes");
        assert_eq!(minutes == "absent", step < 6, "{minutes} after {step} looks");
        watch.pass(INTERVAL);
    }
    // 4032 are left.
    assert_eq!(text_of(watch.only(), "time_to_last_port_minutes"), "6.72");
    assert_says(&watch.only().explanation, &["At this rate the last one is taken in 6 min."]);
    for _ in 0..4 {
        watch.see([used(24_200)]);
        watch.pass(INTERVAL);
    }
    assert_eq!(text_of(watch.only(), "time_to_last_port_minutes"), "absent");
    // Nor is there a rate of what the inventory does not name.
    watch.engine.handle_event(&no_port(watch.now, HOST, SOURCE, "10.0.0.8:80", None));
    watch.see([host()]);
    assert_eq!(text_of(watch.only(), "time_to_last_port_minutes"), "absent");
}

#[test]
fn the_five_worst_destinations_are_listed() {
    let mut watch = Watch::new();
    let mut namespace = busy([
        destination(SOURCE, "10.0.0.1:80", 20_000),
        destination(SOURCE, "10.0.0.2:80", 21_000),
        destination(SOURCE, "10.0.0.3:80", 20_500),
        destination(SOURCE, "10.0.0.4:80", 15_000),
        destination(SOURCE, "10.0.0.5:80", 16_000),
    ]);
    // The worst is one that the first busy ones leave out.
    namespace.ports.worst = Some(destination("fe80::1", "[fe80::9]:443", 25_000));
    watch.see([namespace]);
    let worst = [
        "local fe80::1, peer [fe80::9]:443, ports used 25000, ports available 28232",
        "local 10.0.0.1, peer 10.0.0.2:80, ports used 21000, ports available 28232",
        "local 10.0.0.1, peer 10.0.0.3:80, ports used 20500, ports available 28232",
        "local 10.0.0.1, peer 10.0.0.1:80, ports used 20000, ports available 28232",
        "local 10.0.0.1, peer 10.0.0.5:80, ports used 16000, ports available 28232",
    ];
    assert_eq!(text_of(watch.only(), "worst_destinations"), worst.join("; "));
}

#[test]
fn disabled_port_exhaustion_raises_nothing_and_still_forgets() {
    let mut watch = Watch::with(|detect| detect.ephemeral_port_exhaustion.enabled = false);
    watch.engine.handle_event(&no_port(START, HOST, SOURCE, PEER, None));
    assert_eq!(watch.see([used(28_232)]), []);
    watch.reconfigure(|detect| detect.ephemeral_port_exhaustion.enabled = true);
    watch.see([host()]);
    assert_eq!(watch.severities(), [Severity::Critical], "history is kept");
    watch.reconfigure(|detect| detect.ephemeral_port_exhaustion.enabled = false);
    watch.pass(seconds(61));
    watch.see([host()]);
    watch.reconfigure(|detect| detect.ephemeral_port_exhaustion.enabled = true);
    assert_eq!(watch.see([host()]), []);
}

/// A failure like that of [`no_port`], for this reason.
fn failed_apart(reason: ConnectFailure, why: NoConnect, local_port: u16) -> Event {
    let client = process(7, "session");
    let mut event = no_port(START, HOST, "10.0.0.1", "10.0.0.9:6379", Some(&client));
    if let Event::ConnectFailed { reason: known, no_connect, local, .. } = &mut event {
        (*known, *no_connect, local.port) = (reason, Some(why), local_port);
    }
    event
}

#[test]
fn a_range_of_the_sockets_own_is_no_shortage_of_the_namespace() {
    let mut watch = Watch::new();
    let why = NoConnect::OwnRange { first: 40_000, last: 40_007 };
    for _ in 0..4 {
        watch.engine.handle_event(&failed_apart(ConnectFailure::NoLocalPort, why, 0));
    }
    watch.see([host()]);
    let finding = watch.only();
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(
        finding.title,
        "4 connect() calls to 10.0.0.9:6379 by session (pid 7) failed: every port of the program's \
         own range 40000-40007 is taken for this destination"
    );
    assert_says(&finding.explanation, &["IP_LOCAL_PORT_RANGE", "28,232 ports"]);
    assert_says(&finding.remedies[0], &["A wider IP_LOCAL_PORT_RANGE in session (pid 7)"]);
    assert!(!remedies_of(finding).contains("sysctl -w"), "{:?}", finding.remedies);
    assert_eq!(text_of(finding, "own_port_range.first_port"), "40000");
    watch.pass(seconds(61));
    assert_eq!(watch.see([host()]), []);
}

#[test]
fn a_bound_socket_whose_ends_are_taken_is_no_shortage_either() {
    for (times, severity) in [(1, Severity::Info), (9, Severity::Info), (10, Severity::Warning)] {
        let mut watch = Watch::new();
        for _ in 0..times {
            let event = failed_apart(ConnectFailure::Other, NoConnect::EndsTaken, 4_000);
            watch.engine.handle_event(&event);
        }
        watch.see([host()]);
        assert_eq!(watch.only().severity, severity, "{times}");
        let calls = if times == 1 { "1 connect() call" } else { "connect() calls" };
        assert_says(&watch.only().title, &[calls, "local port 4000 is connected to that dest"]);
        assert_eq!(text_of(watch.only(), "bound_port"), "4000");
    }
    let mut watch = Watch::new();
    for reason in [ConnectFailure::Other, ConnectFailure::NoLocalPort] {
        watch.engine.handle_event(&failed_apart(reason, NoConnect::NoMemory, 0));
    }
    let findings = watch.see([host()]);
    assert!(findings.iter().all(|it| !it.id.contains("own_range") && !it.id.contains("ends")));
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned = Owned {
    kind: FindingKind::EphemeralPortExhaustion,
    make: fail,
    milder: Some("window = \"59s\""),
    listener_bytes: 0,
};

fn fail(making: &mut Making, (process, port): &Service) {
    let peer = format!("10.0.0.9:{port}");
    making.events.push(no_port(making.began, HOST, "10.0.0.1", &peer, Some(process)));
}
