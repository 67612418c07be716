//! `bind-conflict`: when it stands, what it asks for, what holds the port, words.

use super::*;

/// A bind() to `local` by `process` that failed at `at`.
fn refused(at: Timestamp, local: &str, process: &Arc<Process>) -> Event {
    Event::BindFailed {
        at,
        netns: HOST,
        local: endpoint(local),
        process: Some(Arc::clone(process)),
    }
}

fn holder(state: TcpState, local: &str, peer: &str, owner: Option<Owner>) -> PortHolder {
    PortHolder { state, local: endpoint(local), peer: endpoint(peer), owner }
}

fn held_by(holders: impl Into<Vec<PortHolder>>) -> Namespace {
    Namespace { port_holders: holders.into(), ..host() }
}

fn listening(local: &str, owner: Option<Owner>) -> Namespace {
    Namespace { listeners: vec![Listener { owner, ..Listener::at(endpoint(local)) }], ..host() }
}

/// The finding after one refusal of nginx at `local`, seen in `namespace`.
fn finding(local: &str, namespace: Namespace) -> Finding {
    let mut watch = Watch::new();
    watch.engine.handle_event(&refused(START, local, &process(31, "nginx")));
    watch.see([namespace]);
    watch.only().clone()
}

#[test]
fn one_refusal_is_info_and_the_third_within_a_minute_a_warning() {
    let mut watch = Watch::new();
    for (second, severity) in [
        (0, Severity::Info),
        (20, Severity::Info),
        (40, Severity::Warning),
        (50, Severity::Warning),
    ] {
        watch.now = START + seconds(second);
        // Restarted each time.
        let nginx = process(31 + second as u32, "nginx");
        watch.engine.handle_event(&refused(watch.now, "0.0.0.0:80", &nginx));
        watch.see([host()]);
        assert_eq!(watch.severities(), [severity], "at {second} s");
    }
    assert_eq!(watch.only().subject.pid, Some(81));
    assert_says(&watch.only().title, &["nginx (pid 81) cannot bind 0.0.0.0:80", "refused 4 times"]);
    assert_eq!(text_of(watch.only(), "failed_binds"), "4");
    assert_eq!(watch.reported(), ["raised info", "info to warning"]);
}

#[test]
fn it_stands_for_the_window_after_the_last_refusal() {
    let mut watch = Watch::new();
    for _ in 0..3 {
        watch.engine.handle_event(&refused(START, "0.0.0.0:80", &process(31, "nginx")));
    }
    for second in (0..=60).step_by(10) {
        watch.now = START + seconds(second);
        watch.see([host()]);
        assert_eq!(watch.severities(), [Severity::Warning], "at {second} s");
    }
    watch.now = START + seconds(61);
    assert_eq!(watch.see([host()]), []);
    assert_eq!(watch.reported(), ["raised warning", "cleared warning"]);
    assert!(watch.engine.focus().is_empty());
}

#[test]
fn a_program_that_tries_the_next_port_is_never_more_than_info() {
    let mut watch = Watch::new();
    for port in 5_173..5_193 {
        let local = format!("127.0.0.1:{port}");
        watch.engine.handle_event(&refused(START, &local, &process(31, "vite")));
    }
    watch.see([host()]);
    assert_eq!(watch.severities(), vec![Severity::Info; 20]);
}

#[test]
fn a_refusal_while_the_tables_were_walked_waits_for_the_next_inventory() {
    let mut watch = Watch::new();
    let late = START + seconds(1);
    watch.engine.handle_event(&refused(late, "0.0.0.0:80", &process(31, "nginx")));
    watch.engine.handle_inventory(&inventory([host()], START), START + seconds(2));
    assert_eq!(watch.engine.findings(), []);
    assert_eq!(watch.engine.focus().ports, [80]);
    watch.pass(INTERVAL);
    watch.see([listening("0.0.0.0:80", owner(&process(9, "caddy")))]);
    assert_says(&watch.only().title, &["caddy (pid 9) listens on 0.0.0.0:80"]);
}

#[test]
fn inventories_further_apart_than_the_window_lose_no_refusal() {
    let mut watch = Watch::new();
    watch.see([host()]);
    watch.now = START + seconds(1);
    for _ in 0..3 {
        watch.engine.handle_event(&refused(watch.now, "0.0.0.0:80", &process(31, "nginx")));
    }
    watch.pass(seconds(200));
    watch.see([listening("0.0.0.0:80", owner(&process(9, "caddy")))]);
    assert_eq!(watch.severities(), [Severity::Warning]);
    assert_says(&watch.only().title, &["caddy (pid 9) listens on 0.0.0.0:80", "refused 3 times"]);
    watch.pass(INTERVAL);
    watch.see([host()]);
    assert_eq!(watch.reported(), ["raised warning", "cleared warning"]);
}

#[test]
fn a_refusal_is_judged_by_a_first_inventory_that_comes_late() {
    let mut watch = Watch::new();
    watch.engine.handle_event(&refused(START, "0.0.0.0:80", &process(31, "nginx")));
    watch.pass(seconds(200));
    watch.see([host()]);
    assert_eq!(watch.severities(), [Severity::Info]);
    watch.pass(INTERVAL);
    watch.see([host()]);
    assert_eq!(watch.reported(), ["raised info", "cleared info"]);
}

#[test]
fn the_focus_has_the_ports_of_the_latest_refusals() {
    let mut watch = Watch::new();
    assert!(watch.engine.focus().is_empty());
    for number in 0..12_u16 {
        let at = START + seconds(number.into());
        let local = format!("127.0.0.1:{}", 7_000 + number);
        watch.engine.handle_event(&refused(at, &local, &process(31, "nginx")));
        // Another process at the same port, and one that requested any port.
        watch.engine.handle_event(&refused(at, &local, &process(32, "caddy")));
        watch.engine.handle_event(&refused(at, "127.0.0.1:0", &process(33, "client")));
    }
    let expected: Vec<u16> = (7_004..7_012).rev().collect();
    assert_eq!(watch.engine.focus().ports, expected);
    watch.reconfigure(|detect| detect.bind_conflict.enabled = false);
    assert!(watch.engine.focus().is_empty());
}

#[test]
fn who_has_got_the_port_after_all_is_spoken_of_no_more() {
    let later = |pid, name| {
        let started = START + seconds(5);
        Arc::new(Process { started, ..(*process(pid, name)).clone() })
    };
    let table = [
        ("the same process", process(31, "nginx"), true),
        ("its successor", later(40, "nginx"), true),
        ("the one that was there before", process(40, "nginx"), false),
        ("another program, started since", later(41, "caddy"), false),
    ];
    for (who, listener, is_over) in table {
        let mut watch = Watch::new();
        for _ in 0..3 {
            watch.engine.handle_event(&refused(START, "0.0.0.0:80", &process(31, "nginx")));
        }
        watch.see([host()]);
        watch.pass(INTERVAL);
        watch.see([listening("0.0.0.0:80", owner(&listener))]);
        assert_eq!(watch.engine.findings().is_empty(), is_over, "{who}");
        assert_eq!(watch.engine.focus().is_empty(), is_over, "{who}");
    }
}

#[test]
fn a_program_that_binds_both_families_and_has_the_port_already_raises_nothing() {
    let mut watch = Watch::new();
    watch.engine.handle_event(&refused(START, "0.0.0.0:80", &process(31, "nginx")));
    assert_eq!(watch.see([listening("[::]:80", owner(&process(31, "nginx")))]), []);
    assert_eq!(watch.changes(), []);
}

#[test]
fn another_listener_is_named_with_its_pid_and_unit() {
    let caddy = process_in(9, "caddy", "caddy.service");
    let found = finding("127.0.0.1:80", listening("0.0.0.0:80", owner(&caddy)));
    assert_eq!(
        found.title,
        "nginx (pid 31) cannot bind 127.0.0.1:80: caddy (pid 9) listens on 0.0.0.0:80"
    );
    assert_says(&found.explanation, &["A listener on 0.0.0.0:80", "neither SO_REUSEADDR"]);
    let remedies = remedies_of(&found);
    let parts = ["ss -Htlnp '( sport = :80 )'", "systemctl stop -- caddy.service", "another port"];
    assert_says(&remedies, &parts);
    assert_eq!(text_of(&found, "holder.kind"), "listener");
    assert_eq!(text_of(&found, "holder.pid"), "9");
    assert!(!found.explanation.contains("running already"));
    assert_eq!(found.subject.local.as_deref(), Some("127.0.0.1:80"));
    assert_eq!((found.subject.pid, found.subject.port), (Some(31), Some(80)));

    let twice = finding("0.0.0.0:80", listening("0.0.0.0:80", owner(&process(9, "nginx"))));
    assert_says(&twice.explanation, &["The same program is running already: "]);
    assert_says(
        &remedies_of(&twice),
        &["Keep the one that serves, which is nginx (pid 9) as a rule"],
    );
    assert!(!remedies_of(&twice).contains("systemctl stop"), "{:#?}", twice.remedies);
    let unknown = finding("0.0.0.0:80", listening("0.0.0.0:80", None));
    assert_says(&remedies_of(&unknown), &["Stop the process that listens"]);
}

#[test]
fn a_listener_on_another_address_or_port_is_not_in_the_way() {
    for elsewhere in ["127.0.0.2:80", "127.0.0.1:81", "[::1]:80"] {
        let found = finding("127.0.0.1:80", listening(elsewhere, owner(&process(9, "caddy"))));
        assert_says(&found.title, &["no socket that can be seen holds it"]);
    }
}

#[test]
fn the_listener_at_the_very_address_is_named_before_one_that_may_be_of_ipv6_only() {
    let mut namespace = listening("[::]:80", owner(&process(8, "six")));
    namespace.listeners.extend(listening("127.0.0.1:80", owner(&process(9, "four"))).listeners);
    assert_says(
        &finding("127.0.0.1:80", namespace).title,
        &["four (pid 9) listens on 127.0.0.1:80"],
    );
}

#[test]
fn time_wait_of_accepted_connections_is_cured_by_so_reuseaddr() {
    let holders = [
        holder(TcpState::TimeWait, "10.0.0.1:80", "10.0.0.7:51000", None),
        holder(TcpState::TimeWait, "10.0.0.1:80", "10.0.0.8:51000", None),
        holder(TcpState::TimeWait, "10.0.0.1:81", "10.0.0.8:51000", None),
    ];
    let found = finding("0.0.0.0:80", held_by(holders));
    assert_eq!(
        found.title,
        "nginx (pid 31) cannot bind 0.0.0.0:80: 2 connections there in TIME_WAIT"
    );
    let parts = ["Wait for a minute", "SO_REUSEADDR before bind()", "Not by SO_LINGER 0"];
    assert_says(&remedies_of(&found), &parts);
    assert!(!remedies_of(&found).contains("ip_local_reserved_ports"));
    assert_eq!(text_of(&found, "holder.sockets"), "2");
}

#[test]
fn time_wait_of_an_outgoing_connection_is_not_cured_by_so_reuseaddr() {
    let holders = [holder(TcpState::TimeWait, "10.0.0.1:50000", "10.0.0.9:443", None)];
    let found = finding("0.0.0.0:50000", held_by(holders));
    assert_says(&found.title, &["a connection from that port to 10.0.0.9:443 is in TIME_WAIT"]);
    let remedies = remedies_of(&found);
    assert_says(&remedies, &["${old:+$old,}50000", "SO_REUSEADDR does not help"]);
    // A client of this port: its own is one of the range.
    let holders = [holder(TcpState::TimeWait, "10.0.0.1:50000", "10.0.0.7:40000", None)];
    let found = finding("0.0.0.0:50000", held_by(holders));
    assert_eq!(text_of(&found, "holder.kind"), "accepted_time_wait");
}

#[test]
fn a_self_connection_is_the_first_to_blame_after_a_listener() {
    let client = owner(&process(70, "client"));
    let at = "127.0.0.1:40000";
    let holders = [
        holder(TcpState::TimeWait, at, "127.0.0.1:443", None),
        holder(TcpState::Established, at, "10.0.0.9:443", owner(&process(71, "other"))),
        holder(TcpState::Established, at, at, client),
    ];
    let mut namespace = held_by(holders);
    namespace.ports.reserved = "39999".to_owned();
    let found = finding(at, namespace.clone());
    assert_says(&found.title, &["client (pid 70) is connected to itself there"]);
    assert_says(&found.explanation, &["32768-60999", "connected to this very port"]);
    let close =
        "ss -tK 'src 127.0.0.1:40000 and dst 127.0.0.1:40000'`, or restart client (pid 70).";
    assert_says(&remedies_of(&found), &[close, "${old:+$old,}40000"]);
    namespace.listeners = listening(at, None).listeners;
    assert_says(&finding(at, namespace).title, &["an unknown process listens on 127.0.0.1:40000"]);
}

#[test]
fn a_self_connection_outside_the_range_is_not_blamed_on_it() {
    let at = "127.0.0.1:8080";
    let found = finding(at, held_by([holder(TcpState::Established, at, at, None)]));
    assert_says(&found.title, &["an unknown process is connected to itself there"]);
    assert_says(&found.explanation, &["bound port 8080 before connect()"]);
    assert_says(&found.remedies[0], &["Free the port now: `ss -tK"]);
    assert!(!remedies_of(&found).contains("reserved_ports"));
}

#[test]
fn the_source_port_of_another_programs_connection_is_to_be_reserved() {
    let held = |name: &str| {
        let owner = owner(&process(70, name));
        held_by([holder(TcpState::Established, "10.0.0.1:50000", "10.0.0.9:443", owner)])
    };
    let found = finding("0.0.0.0:50000", held("crawler"));
    let title = "crawler (pid 70) is connected from that port to 10.0.0.9:443";
    assert_says(&found.title, &[title]);
    let kill = "ss -tK 'src 10.0.0.1:50000 and dst 10.0.0.9:443'";
    assert_says(&remedies_of(&found), &["${old:+$old,}50000", kill]);
    // Of the same name it is what an older one has accepted; and so it is where the kernel could
    // not have given the port away.
    let held_by_it = |found: &Finding| text_of(found, "holder.kind");
    assert_eq!(held_by_it(&finding("0.0.0.0:50000", held("nginx"))), "accepted_connection");
    let mut reserved = held("crawler");
    reserved.ports.reserved = "50000".to_owned();
    assert_eq!(held_by_it(&finding("0.0.0.0:50000", reserved)), "accepted_connection");
}

#[test]
fn connections_that_an_old_process_accepted_are_named_with_it() {
    let old = owner(&process(12, "nginx"));
    let accepted = |state| holder(state, "10.0.0.1:80", "10.0.0.7:51000", old.clone());
    let holders = [
        accepted(TcpState::Established),
        accepted(TcpState::CloseWait),
        accepted(TcpState::FinWait2),
        holder(TcpState::TimeWait, "10.0.0.1:80", "10.0.0.7:51001", None),
    ];
    let found = finding("0.0.0.0:80", held_by(holders));
    assert_says(&found.title, &["3 connections there still open, held by nginx (pid 12)"]);
    let parts = ["end what is left of nginx (pid 12)", "SO_REUSEADDR", "SO_LINGER 0"];
    assert_says(&remedies_of(&found), &parts);
    let orphan = holder(TcpState::LastAck, "10.0.0.1:80", "10.0.0.7:51000", None);
    let found = finding("0.0.0.0:80", held_by([orphan]));
    assert_says(&found.title, &["1 connection there still open, held by no process"]);
}

#[test]
fn a_socket_that_is_only_bound_is_named_with_its_process() {
    let bound = |pid, name| {
        let owner = owner(&process(pid, name));
        held_by([holder(TcpState::Close, "0.0.0.0:80", "0.0.0.0:0", owner)])
    };
    let found = finding("0.0.0.0:80", bound(12, "module-b"));
    assert_says(&found.title, &["module-b (pid 12) has bound 0.0.0.0:80, and does not listen"]);
    assert_says(&found.explanation, &["until it is closed"]);
    assert_says(&remedies_of(&found), &["ss -HtnpB '( sport = :80 )'", "`kill 12`"]);
    assert_eq!(text_of(&found, "holder.kind"), "bound_only");
    // The very process that asks.
    let found = finding("0.0.0.0:80", bound(31, "nginx"));
    assert_says(&found.title, &["it has bound that port itself, with another socket"]);
    assert_says(&found.remedies[0], &["the same port twice", "IPV6_V6ONLY"]);
}

#[test]
fn where_nothing_is_seen_it_says_how_to_look() {
    let found = finding("0.0.0.0:80", host());
    assert_eq!(
        found.title,
        "nginx (pid 31) cannot bind 0.0.0.0:80: no socket that can be seen holds it"
    );
    assert_says(&found.explanation, &["bound but neither listens nor is connected"]);
    let parts = ["ss -Htanp '( sport = :80 )'", "lsof -nP | grep 'protocol: TCP'"];
    assert_says(&remedies_of(&found), &parts);
    assert_eq!(text_of(&found, "holder"), "absent");
}

#[test]
fn the_holder_of_the_port_is_named_after_it_has_gone() {
    let mut watch = Watch::new();
    watch.engine.handle_event(&refused(START, "0.0.0.0:80", &process(31, "nginx")));
    watch.see([listening("0.0.0.0:80", owner(&process(9, "caddy")))]);
    watch.pass(INTERVAL);
    watch.see([host()]);
    assert_says(&watch.only().title, &["caddy (pid 9) listens on 0.0.0.0:80"]);
}

#[test]
fn no_port_at_all_is_a_warning_at_once() {
    let found = finding("10.0.0.1:0", host());
    assert_eq!(found.severity, Severity::Warning);
    assert_eq!(
        found.title,
        "nginx (pid 31) cannot bind 10.0.0.1:0: no port of 32768-60999 is free for it"
    );
    assert_says(&found.explanation, &["bind() with port 0", "28232 of them"]);
    assert_says(&remedies_of(&found), &["IP_BIND_ADDRESS_NO_PORT", "ip_local_port_range="]);
    assert_eq!(found.subject.port, None);
}

#[test]
fn commands_run_in_the_namespace_of_the_one_that_holds_the_port() {
    let nginx = process(31, "nginx");
    let event = |netns| Event::BindFailed {
        at: START,
        netns,
        local: endpoint("0.0.0.0:80"),
        process: Some(Arc::clone(&nginx)),
    };
    let mut watch = Watch::new();
    watch.engine.handle_event(&event(5));
    let blue = |namespace| Namespace { id: 5, name: "blue".into(), ..namespace };
    // The process that failed has mostly ended, so the namespace is not entered through it.
    watch.see([blue(host())]);
    assert_says(&remedies_of(watch.only()), &["ip netns exec blue ss -Htanp"]);
    assert_says(&watch.only().title, &["0.0.0.0:80 in network namespace blue: "]);
    watch.see([blue(listening("0.0.0.0:80", owner(&process(9, "caddy"))))]);
    assert_says(&remedies_of(watch.only()), &["ip netns exec blue ss -Htlnp"]);
}

#[test]
fn each_process_and_port_in_each_namespace_is_one_finding() {
    let mut watch = Watch::new();
    let local = endpoint("0.0.0.0:80");
    for (netns, name) in [(HOST, "a"), (HOST, "b"), (5, "a")] {
        for local in [local, Endpoint { port: 81, ..local }] {
            let process = Some(process(31, name));
            watch.engine.handle_event(&Event::BindFailed { at: START, netns, local, process });
        }
    }
    let unknown = Event::BindFailed { at: START, netns: HOST, local, process: None };
    watch.engine.handle_event(&unknown);
    assert_eq!(watch.see([host(), namespace(5, "blue")]).len(), 7);
    let titles: Vec<_> = watch.engine.findings().iter().map(|it| &*it.title).collect();
    assert!(titles.iter().any(|title| title.starts_with("an unknown process cannot bind")));
}

#[test]
fn disabled_it_raises_nothing_and_counts_on() {
    let mut watch = Watch::with(|detect| detect.bind_conflict.enabled = false);
    for _ in 0..3 {
        watch.engine.handle_event(&refused(START, "0.0.0.0:80", &process(31, "nginx")));
    }
    assert_eq!(watch.see([host()]), []);
    watch.reconfigure(|detect| detect.bind_conflict.enabled = true);
    watch.see([host()]);
    assert_eq!(watch.severities(), [Severity::Warning]);
}

#[test]
fn a_second_instance_of_what_serves_already_is_never_more_than_info() {
    let table = [
        ("the same program", Some("nginx"), Severity::Info),
        ("another one", Some("caddy"), Severity::Warning),
        ("one that is not known", None, Severity::Warning),
    ];
    for (who, name, severity) in table {
        let mut watch = Watch::new();
        for tried in 0..5 {
            // `nginx -t` again and again.
            let nginx = process(31 + tried, "nginx");
            watch.engine.handle_event(&refused(START, "0.0.0.0:80", &nginx));
        }
        let owner = name.and_then(|name| owner(&process(9, name)));
        watch.see([listening("0.0.0.0:80", owner)]);
        assert_eq!(watch.severities(), [severity], "{who}");
    }
}

#[test]
fn connections_of_the_same_program_without_a_listener_are_a_warning() {
    let mut watch = Watch::new();
    for _ in 0..3 {
        watch.engine.handle_event(&refused(START, "0.0.0.0:80", &process(31, "nginx")));
    }
    let old = owner(&process(12, "nginx"));
    watch.see([held_by([holder(TcpState::Established, "10.0.0.1:80", "10.0.0.7:51000", old)])]);
    assert_eq!(watch.severities(), [Severity::Warning]);
}

#[test]
fn who_has_taken_another_port_instead_is_spoken_of_no_more_until_it_fails_again() {
    let mut watch = Watch::new();
    let sshd = process(31, "sshd-session");
    let fail = |watch: &mut Watch| {
        for _ in 0..3 {
            watch.engine.handle_event(&refused(watch.now, "127.0.0.1:6010", &sshd));
        }
    };
    let others = || listening("127.0.0.1:6010", owner(&process(9, "sshd")));
    let mut both = others();
    both.listeners.extend(listening("127.0.0.1:6011", owner(&sshd)).listeners);
    fail(&mut watch);
    assert_eq!(watch.see([both.clone()]), []);
    assert!(watch.engine.focus().is_empty());
    // While it has that, it tries again: it wants both.
    watch.pass(INTERVAL);
    fail(&mut watch);
    watch.see([both]);
    assert_eq!(watch.severities(), [Severity::Warning]);
    assert_eq!(watch.engine.focus().ports, [6_010]);
    // Another process at that port says nothing of it.
    let mut watch = Watch::new();
    fail(&mut watch);
    let mut elsewhere = others();
    elsewhere.listeners.extend(listening("127.0.0.1:6011", owner(&process(32, "x"))).listeners);
    watch.see([elsewhere]);
    assert_eq!(watch.severities(), [Severity::Warning]);
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned =
    Owned { kind: FindingKind::BindConflict, make: be_refused, milder: None, listener_bytes: 0 };

fn be_refused(making: &mut Making, (process, port): &Service) {
    let local = Endpoint { address: address("0.0.0.0"), port: *port };
    for after in [0, 55, 60] {
        let (at, process) = (making.began + seconds(after), Some(Arc::clone(process)));
        making.events.push(Event::BindFailed { at, netns: HOST, local, process });
    }
}
