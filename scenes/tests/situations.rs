//! Each situation against `ss -tan` in its namespace: what this crate claims
//! to make is there, and nothing else is.
//!
//! Needs root, `ip` and `ss`; without root every test says that it skips.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    path::Path,
    time::{Duration, Instant},
};

use scenes::{
    CloseWaitLeak, Established, Keeper, Namespace, PortRange, SelfConnection, SimultaneousOpen,
    State, Stuck, TakenPort, TimeWaits, bind, orphaned_fin_wait2, root_or_skip, simultaneous_open,
    wait_until,
};

/// `ss -tan` as a table: state to number of sockets.
fn ss_states(ns: &Namespace) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for line in ns.ss(&["-tanH"]).unwrap().lines() {
        let state = line.split(' ').next().unwrap().to_owned();
        *states.entry(state).or_insert(0) += 1;
    }
    states
}

fn table(rows: &[(&str, usize)]) -> BTreeMap<String, usize> {
    rows.iter().map(|(state, n)| ((*state).to_owned(), *n)).collect()
}

#[test]
fn a_namespace_is_named_entered_and_deleted() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-ns").unwrap();
    let path = ns.path();
    assert!(path.exists());
    let inside = ns.enter(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(inside.to_str().unwrap(), format!("net:[{}]", ns.inode().unwrap()));
    assert_ne!(inside, std::fs::read_link("/proc/thread-self/ns/net").unwrap());

    ns.sysctl_set("net.ipv4.ip_local_port_range", "40000 40059").unwrap();
    assert_eq!(ns.sysctl("net.ipv4.ip_local_port_range").unwrap(), "40000\t40059");
    assert!(ns.sysctl_set("net.ipv4.ip_local_port_range", "5 1").is_err());
    assert_eq!(ns.netstat_counter("TCPTimeWaitOverflow").unwrap(), 0);
    assert_eq!(ns.snmp_counter("OutRsts").unwrap(), 0);
    assert_eq!(ss_states(&ns), table(&[]));

    let same = Namespace::existing(ns.name()).unwrap();
    assert_eq!(same.inode().unwrap(), ns.inode().unwrap());
    drop(same);
    assert!(path.exists(), "a namespace of another maker stays");
    drop(ns);
    assert!(!path.exists());
    assert!(!Path::new("/run/netns/tw-t-ns").exists());
}

#[test]
fn a_client_keeps_what_its_server_closed() {
    if !root_or_skip() {
        return;
    }
    for ipv6 in [false, true] {
        let ns = Namespace::new("t-cw").unwrap();
        let mut leak = CloseWaitLeak::client(&ns, 37, 3306, ipv6).unwrap();
        assert_eq!(ss_states(&ns), table(&[("CLOSE-WAIT", 37), ("FIN-WAIT-2", 37), ("LISTEN", 1)]));
        let listing = ns.ss(&["-tanH", "state", "close-wait", "dport", "=", ":3306"]).unwrap();
        assert_eq!(listing.lines().count(), 37, "the client's port is not 3306");

        leak.add(3).unwrap();
        assert_eq!(ns.ss_count(State::CloseWait).unwrap(), 40);
        leak.close(10).unwrap();
        assert_eq!(leak.count(), 30);
        assert_eq!(ns.ss_count(State::CloseWait).unwrap(), 30);
        drop(leak);
        assert_eq!(ns.ss_count(State::CloseWait).unwrap(), 0);
    }
}

#[test]
fn a_server_keeps_what_its_clients_closed() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-cws").unwrap();
    let mut leak = CloseWaitLeak::server(&ns, 20, 8080, false).unwrap();
    let listing = ns.ss(&["-tanH", "state", "close-wait", "sport", "=", ":8080"]).unwrap();
    assert_eq!(listing.lines().count(), 20);
    leak.close(usize::MAX).unwrap();
    assert_eq!(ns.ss_count(State::CloseWait).unwrap(), 0);
}

#[test]
fn unread_data_shows_in_the_receive_queue_and_resets_on_close() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-cwu").unwrap();
    let queues = |ns: &Namespace| -> Vec<u32> {
        let sockets = ns.sockets().unwrap();
        sockets.iter().filter(|s| s.state == State::CloseWait).map(|s| s.recv_queue).collect()
    };
    let mut plain = CloseWaitLeak::client(&ns, 2, 3306, false).unwrap();
    assert_eq!(queues(&ns), [1, 1], "the FIN counts one byte");
    plain.read_to_end().unwrap();
    assert_eq!(queues(&ns), [0, 0]);
    drop(plain);

    let unread = CloseWaitLeak::make(&ns, Keeper::Client, 2, 3307, false, 100).unwrap();
    assert_eq!(queues(&ns), [101, 101]);
    let resets = ns.snmp_counter("OutRsts").unwrap();
    drop(unread);
    // On a machine that stands still for a while a peer sends its FIN again, finds no socket, and is
    // answered by a reset too.
    let sent = ns.snmp_counter("OutRsts").unwrap() - resets;
    assert!((2..=4).contains(&sent), "{sent} resets");
}

#[test]
fn time_waits_are_the_clients_and_on_distinct_ports() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-tw").unwrap();
    let made = TimeWaits::make(&ns, 500, 8080).unwrap();
    assert_eq!(ss_states(&ns), table(&[("TIME-WAIT", 500)]));
    assert_eq!(made.standing().unwrap(), 500);
    let mut ports: Vec<u16> = ns
        .sockets()
        .unwrap()
        .iter()
        .inspect(|s| assert_eq!(s.peer.port(), 8080))
        .map(|s| s.local.port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 500);
    assert_eq!(ns.sysctl("net.ipv4.tcp_tw_reuse").unwrap(), "2", "it is set back");
}

#[test]
fn a_hundred_thousand_time_waits_stand_at_once() {
    if !root_or_skip() {
        return;
    }
    // An emulated machine (`cargo xtask vm`) takes half a minute for so many.
    let many = if std::env::var_os("TCPWATCH_SLOW").is_some() { 10_000 } else { 100_000 };
    let ns = Namespace::new("t-many").unwrap();
    let started = Instant::now();
    TimeWaits::make_many(&ns, many, 9_000).unwrap();
    println!("{many} TIME_WAIT in {:?}", started.elapsed());
    assert_eq!(ss_states(&ns), table(&[("TIME-WAIT", many)]));
    assert_eq!(ns.netstat_counter("TCPTimeWaitOverflow").unwrap(), 0);
}

#[test]
fn established_connections_are_idle() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-est").unwrap();
    let open = Established::make(&ns, 25).unwrap();
    assert_eq!(open.pairs().len(), 25);
    assert!(open.port().unwrap() > 0);
    assert_eq!(ss_states(&ns), table(&[("ESTAB", 50), ("LISTEN", 1)]));
}

#[test]
fn a_range_of_sixty_ports_is_used_up() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-ports").unwrap();
    assert!(PortRange::new(&ns, 40_000..=40_059, 40_001).is_err());
    let mut range = PortRange::new(&ns, 40_000..=40_059, 3306).unwrap();
    range.use_up(29, 30).unwrap();
    let last = range.connect_once().unwrap();
    assert_eq!((range.used().unwrap(), range.available()), (60, 60));
    for _ in 0..5 {
        let error = range.connect_once().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
    }
    let states = ss_states(&ns);
    assert_eq!(states, table(&[("ESTAB", 60), ("LISTEN", 1), ("TIME-WAIT", 30)]));
    drop(last);
    range.close();
    assert_eq!(range.destination().port(), 3306);
}

#[test]
fn three_sockets_are_connected_to_themselves() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-self").unwrap();
    let addresses: [IpAddr; 3] =
        ["127.0.0.1".parse().unwrap(), Ipv6Addr::LOCALHOST.into(), "127.0.0.9".parse().unwrap()];
    let made: Vec<_> =
        addresses.iter().map(|address| SelfConnection::make(&ns, *address).unwrap()).collect();
    assert_eq!(ns.count(|s| s.local == s.peer).unwrap(), 3);
    assert_eq!(ss_states(&ns), table(&[("ESTAB", 3)]));
    for connection in made {
        connection.close();
    }
    // CLOSING ends as TIME_WAIT.
    wait_until(Duration::from_secs(5), "three TIME_WAIT", || {
        ss_states(&ns) == table(&[("TIME-WAIT", 3)])
    })
    .unwrap();
}

#[test]
fn luck_connects_a_socket_to_itself() {
    if !root_or_skip() {
        return;
    }
    for address in ["127.0.0.1", "::1", "127.0.0.9"] {
        let ns = Namespace::new("t-luck").unwrap();
        let before = ns.sysctl("net.ipv4.ip_local_port_range").unwrap();
        let lucky = SelfConnection::by_luck(&ns, address.parse().unwrap()).unwrap();
        println!("{} after {} tries", lucky.address(), lucky.tries());
        assert_eq!(lucky.address().ip().to_string(), address);
        assert_eq!(ss_states(&ns), table(&[("ESTAB", 1)]));
        assert_eq!(ns.sysctl("net.ipv4.ip_local_port_range").unwrap(), before);
    }
}

#[test]
fn two_sockets_open_to_each_other() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-sim").unwrap();
    let open = SimultaneousOpen::begin(&ns).unwrap();
    assert_eq!(ss_states(&ns), table(&[("SYN-RECV", 1), ("SYN-SENT", 1)]));
    open.finish().unwrap();
    let (a, b) = open.addresses();
    assert_ne!(a, b);
    assert_eq!(ns.count(|s| s.local == a && s.peer == b).unwrap(), 1);
    assert_eq!(ns.count(|s| s.local == b && s.peer == a).unwrap(), 1);
    assert_eq!(ss_states(&ns), table(&[("ESTAB", 2)]));
    assert_eq!(ns.snmp_counter("PassiveOpens").unwrap(), 0, "no connection was accepted");
    let _second = simultaneous_open(&ns).unwrap();
    assert_eq!(ss_states(&ns), table(&[("ESTAB", 4)]));
}

#[test]
fn an_orphan_waits_in_fin_wait2_as_a_minisocket() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-fw2").unwrap();
    let orphan = orphaned_fin_wait2(&ns).unwrap();
    assert_eq!(ss_states(&ns), table(&[("CLOSE-WAIT", 1), ("FIN-WAIT-2", 1)]));
    assert_eq!(ns.sockstat("tw").unwrap(), 1);
    assert_eq!(orphan.peer().peer_addr().unwrap(), orphan.client_address());
}

/// Two looks, the second after the segments were sent again, and then the end.
fn assert_stuck(ns: &Namespace, stuck: Stuck, expected: &[(&str, usize)]) {
    assert_eq!(ss_states(ns), table(expected));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(ss_states(ns), table(expected), "it does not end by itself so soon");
    stuck.end().unwrap();
}

#[test]
fn connects_without_an_answer_stay_in_syn_sent() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-syn").unwrap();
    let stuck = Stuck::in_syn_sent(&ns, 12, 5432).unwrap();
    assert_eq!((stuck.count(), stuck.server_address().port()), (12, 5432));
    assert_stuck(&ns, stuck, &[("SYN-SENT", 12)]);
    assert!(ns.netstat_counter("TCPSynRetrans").unwrap() >= 12, "the SYNs were sent again");
    assert_eq!(ns.snmp_counter("OutRsts").unwrap(), 0);
}

#[test]
fn half_closed_clients_stay_in_fin_wait2_as_full_sockets() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-half").unwrap();
    let stuck = Stuck::in_fin_wait2(&ns, 12, 5432).unwrap();
    assert_eq!(ns.sockstat("tw").unwrap(), 0);
    assert_stuck(&ns, stuck, &[("FIN-WAIT-2", 12), ("CLOSE-WAIT", 12)]);
}

#[test]
fn a_server_that_vanishes_leaves_last_ack_without_a_holder() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-last").unwrap();
    let stuck = Stuck::in_last_ack(&ns, 12, 5432).unwrap();
    // The kernel counts the orphans of all namespaces together.
    assert!(ns.sockstat("orphan").unwrap() >= 12);
    assert_stuck(&ns, stuck, &[("LAST-ACK", 12), ("FIN-WAIT-2", 12)]);
}

#[test]
fn both_sides_closing_at_once_stay_in_closing_while_one_is_deaf() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-closing").unwrap();
    let stuck = Stuck::in_closing(&ns, 12, 5432).unwrap();
    assert_stuck(&ns, stuck, &[("CLOSING", 12), ("FIN-WAIT-1", 12)]);
}

/// Whether bind() is refused without SO_REUSEADDR, and with it.
fn refusals(ns: &Namespace, taken: &TakenPort) -> (bool, bool) {
    let is_refused = |reuse| {
        let outcome = bind(ns, taken.address(), reuse).unwrap();
        outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    };
    (is_refused(false), is_refused(true))
}

#[test]
fn so_reuseaddr_frees_what_a_listener_with_it_left_behind_and_nothing_else() {
    if !root_or_skip() {
        return;
    }
    let ns = Namespace::new("t-taken").unwrap();
    let address = "127.0.0.1:7000".parse().unwrap();
    let never = (true, true);
    let cured = (true, false);
    let table = [
        ("a listener", TakenPort::by_listener(&ns, address), never),
        ("accepted with it", TakenPort::by_accepted(&ns, 7_001, true), cured),
        ("accepted without", TakenPort::by_accepted(&ns, 7_002, false), never),
        ("TIME_WAIT with it", TakenPort::by_time_wait(&ns, 7_003, true), cured),
        ("TIME_WAIT without", TakenPort::by_time_wait(&ns, 7_004, false), never),
        ("an outgoing connection", TakenPort::by_outgoing(&ns, 7_005), never),
        ("TIME_WAIT of one", TakenPort::by_outgoing_time_wait(&ns, 7_006), never),
    ];
    for (what, taken, expected) in table {
        let taken = taken.unwrap();
        assert_eq!(refusals(&ns, &taken), expected, "{what} at {}", taken.address());
    }
    let itself = SelfConnection::make(&ns, IpAddr::from([127, 0, 0, 1])).unwrap();
    assert!(bind(&ns, itself.address(), true).unwrap().is_err());
}
