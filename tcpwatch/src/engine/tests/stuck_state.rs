//! `stuck-state`: ages, thresholds, grouping, what does not count, words.

use super::*;

/// A client's socket to 10.0.0.9:443 that has been in `state` since `since`.
fn waiting(state: TcpState, process: &Arc<Process>, since: Timestamp) -> WaitingSocket {
    WaitingSocket {
        id: 0,
        state,
        local: endpoint("10.0.0.1:40000"),
        peer: endpoint("10.0.0.9:443"),
        role: Role::Client,
        since,
        orphan: false,
        progress: None,
        owner: owner(process),
        owner_pending: false,
    }
}

/// A socket that a server on port 8080 has left behind of a connection from `peer`.
fn left_behind(state: TcpState, peer: &str, since: Timestamp) -> WaitingSocket {
    WaitingSocket {
        local: endpoint("10.0.0.1:8080"),
        peer: endpoint(peer),
        role: Role::Server,
        orphan: true,
        progress: None,
        owner: None,
        ..waiting(state, &process(1, ""), since)
    }
}

fn see(watch: &mut Watch, sockets: Vec<WaitingSocket>) -> Vec<Severity> {
    watch.see([Namespace { waiting: sockets, ..host() }]);
    watch.severities()
}

fn many(count: usize, socket: &WaitingSocket) -> Vec<WaitingSocket> {
    vec![socket.clone(); count]
}

/// Findings after one look at `count` sockets in `state` that are `age` old.
fn look_at(state: TcpState, count: usize, age: Duration) -> Option<Severity> {
    let mut watch = Watch::new();
    let stuck = waiting(state, &process(12, "api"), watch.now - age);
    see(&mut watch, many(count, &stuck)).first().copied()
}

const STATES: [TcpState; 4] =
    [TcpState::SynSent, TcpState::FinWait2, TcpState::LastAck, TcpState::Closing];

#[test]
fn sockets_are_judged_by_how_many_wait() {
    use Severity::{Critical, Warning};
    for state in STATES {
        // States that the kernel ends by itself are never critical.
        let holds_descriptors = matches!(state, TcpState::SynSent | TcpState::FinWait2);
        let many = if holds_descriptors { Critical } else { Warning };
        let table =
            [(0, None), (9, None), (10, Some(Warning)), (199, Some(Warning)), (200, Some(many))];
        for (count, severity) in table {
            let found = look_at(state, count, seconds(3_600));
            assert_eq!(found, severity, "{count} in {}", state.label());
        }
    }
}

#[test]
fn an_unanswered_connect_counts_after_3_s_and_the_others_after_a_minute() {
    for state in STATES {
        let age = if state == TcpState::SynSent { seconds(3) } else { seconds(60) };
        let nearly = age - Duration::from_nanos(1);
        // A client may shut down its side and wait for its answer.
        let is_half_closed = state == TcpState::FinWait2;
        let severity = if is_half_closed { Severity::Info } else { Severity::Warning };
        assert_eq!(look_at(state, 100, nearly), None, "{}", state.label());
        assert_eq!(look_at(state, 100, age), Some(severity), "{}", state.label());
    }
    assert_eq!(look_at(TcpState::FinWait2, 100, seconds(599)), Some(Severity::Info));
    assert_eq!(look_at(TcpState::FinWait2, 100, seconds(600)), Some(Severity::Warning));
}

#[test]
fn a_server_that_closes_5_s_after_its_peer_is_nothing() {
    let mut watch = Watch::new();
    let client = process(12, "api");
    for _ in 0..60 {
        // A thousand connections, each in FIN_WAIT2 for 5 s.
        let sockets =
            (0..5).map(|age| waiting(TcpState::FinWait2, &client, watch.now - seconds(age)));
        let sockets = sockets.flat_map(|socket| many(200, &socket)).collect();
        assert_eq!(see(&mut watch, sockets), []);
        watch.pass(INTERVAL);
    }
    assert_eq!(watch.changes(), []);
}

#[test]
fn fin_wait2_that_no_process_holds_and_a_socket_connected_to_itself_do_not_count() {
    let mut watch = Watch::new();
    let since = watch.now - seconds(3_600);
    let timed = left_behind(TcpState::FinWait2, "10.0.0.7:51000", since);
    let mut itself = waiting(TcpState::Closing, &process(12, "api"), since);
    itself.peer = itself.local;
    let mut pending = waiting(TcpState::FinWait2, &process(12, "api"), since);
    pending.owner_pending = true;
    for socket in [timed, itself, pending] {
        assert_eq!(see(&mut watch, many(500, &socket)), [], "{socket:?}");
    }
}

#[test]
fn clients_that_vanish_one_by_one_are_info_and_those_of_one_host_a_warning() {
    for state in STATES {
        let since = START - seconds(if state == TcpState::FinWait2 { 600 } else { 90 });
        let from = |host: usize| WaitingSocket {
            orphan: state != TcpState::FinWait2,
            ..left_behind(state, &format!("10.0.7.{host}:51000"), since)
        };
        let mut watch = Watch::new();
        assert_eq!(see(&mut watch, (0..9).map(from).collect()), []);
        assert_eq!(see(&mut watch, (0..200).map(from).collect()), [Severity::Info]);
        let mut of_one = many(10, &from(7));
        of_one.extend((100..200).map(from));
        assert_eq!(see(&mut watch, of_one), [Severity::Warning]);
        // Of that host nine are left, near enough to the threshold.
        let mut fewer = many(9, &from(7));
        fewer.extend((100..200).map(from));
        assert_eq!(see(&mut watch, fewer), [Severity::Warning]);
        assert_eq!(see(&mut watch, (100..200).map(from).collect()), [Severity::Info]);
        assert_eq!(
            watch.reported(),
            ["raised info", "info to warning", "warning to info"],
            "{}",
            state.label()
        );
    }
}

#[test]
fn groups_are_of_namespace_state_unit_and_role() {
    let since = START - seconds(3_600);
    let base = waiting(TcpState::FinWait2, &process_in(12, "api", "a.service"), since);
    let with = |process: Arc<Process>| WaitingSocket { owner: owner(&process), ..base.clone() };
    let table = [
        ("peer address", WaitingSocket { peer: endpoint("10.0.0.8:443"), ..base.clone() }, 1),
        ("local port", WaitingSocket { local: endpoint("10.0.0.1:4"), ..base.clone() }, 1),
        ("pid", with(process_in(13, "api", "a.service")), 1),
        ("service port", WaitingSocket { peer: endpoint("10.0.0.9:80"), ..base.clone() }, 1),
        ("unit", with(process_in(14, "api", "b.service")), 0),
        ("process", with(process_in(15, "web", "a.service")), 1),
        ("process of no unit", with(process(16, "api")), 0),
        ("state", WaitingSocket { state: TcpState::Closing, ..base.clone() }, 0),
        ("role", WaitingSocket { role: Role::Server, local: base.peer, ..base.clone() }, 0),
    ];
    for (what, other, findings) in table {
        let mut watch = Watch::new();
        let mut sockets = many(6, &base);
        sockets.extend(many(6, &other));
        assert_eq!(see(&mut watch, sockets).len(), findings, "another {what}");
    }
    let mut watch = Watch::new();
    let six = |id, name| Namespace { waiting: many(6, &base), ..namespace(id, name) };
    assert_eq!(watch.see([six(1, "host"), six(2, "blue")]), []);
}

#[test]
fn a_program_that_gives_up_and_connects_again_raises_one_finding() {
    // Twenty workers give up together after 7 s: they are old at 3 to 7 s of each round, which an
    // inventory every 10 s meets in 4 of 7 looks, and never misses twice.
    let mut watch = Watch::new();
    let api = process(12, "api");
    let (mut looks, mut met) = (0, 0);
    for second in (3..=600).step_by(10) {
        watch.now = START + seconds(second);
        let since = watch.now - seconds(second % 7);
        let is_met = second % 7 >= 3;
        (looks, met) = (looks + 1, met + u32::from(is_met));
        assert_eq!(
            see(&mut watch, many(20, &waiting(TcpState::SynSent, &api, since))),
            [Severity::Warning],
            "at {second} s"
        );
    }
    assert!(met < looks * 3 / 4, "{met} of {looks}");
    assert_eq!(watch.reported(), ["raised warning"]);
}

#[test]
fn a_job_that_connects_each_minute_raises_one_finding_and_its_cure_shows_after_two() {
    let mut watch = Watch::new();
    let job = process(12, "sync");
    for second in (0..=1_200).step_by(10) {
        watch.now = START + seconds(second);
        let (round, age) = (second / 60, second % 60);
        // Each connect takes 15 s; the inventories miss every other round.
        let is_met = (3..15).contains(&age) && round % 2 == 0;
        let connecting = waiting(TcpState::SynSent, &job, watch.now - seconds(age));
        see(&mut watch, if is_met { many(20, &connecting) } else { Vec::new() });
        assert_eq!(watch.severities().len(), usize::from(second >= 10), "at {second} s");
    }
    assert_eq!(watch.reported(), ["raised warning"]);
    // It was met at 1090 s, and not before 1210 s again.
    assert_says(&watch.only().explanation, &["So many were there last 110 s ago."]);
    watch.now = START + seconds(1_210);
    assert_eq!(see(&mut watch, Vec::new()), [Severity::Warning]);
    watch.pass(INTERVAL);
    assert_eq!(see(&mut watch, Vec::new()), []);
    assert_eq!(watch.reported(), ["cleared warning"]);
}

#[test]
fn what_waits_for_the_peer_in_another_state_is_over_with_the_second_look() {
    for state in [TcpState::FinWait2, TcpState::LastAck, TcpState::Closing] {
        let mut watch = Watch::new();
        let stuck = waiting(state, &process(12, "api"), START - seconds(3_600));
        for (count, stands) in [(20, true), (0, true), (0, false)] {
            let found = see(&mut watch, many(count, &stuck));
            assert_eq!(!found.is_empty(), stands, "{count} in {}", state.label());
            watch.pass(INTERVAL);
        }
    }
}

#[test]
fn a_host_that_connects_to_many_of_which_some_are_dead_is_info_and_one_dead_service_is_not() {
    let since = START - seconds(20);
    let crawler = process(12, "crawler");
    let to = |host: usize| WaitingSocket {
        peer: endpoint(&format!("10.1.{}.{}:443", host / 250, host % 250)),
        ..waiting(TcpState::SynSent, &crawler, since)
    };
    let mut watch = Watch::new();
    // Nine towards each of a hundred.
    let mut sockets: Vec<_> = (0..900).map(|number| to(number % 100)).collect();
    assert_eq!(see(&mut watch, sockets.clone()), [Severity::Info]);
    sockets.push(to(7));
    assert_eq!(see(&mut watch, sockets.clone()), [Severity::Warning]);
    sockets.extend(many(190, &to(7)));
    assert_eq!(see(&mut watch, sockets), [Severity::Critical]);
}

#[test]
fn what_trembles_around_the_threshold_is_one_finding() {
    let mut watch = Watch::new();
    let stuck = waiting(TcpState::FinWait2, &process(12, "api"), START - seconds(3_600));
    for count in [10, 9, 10, 9, 9, 10] {
        assert_eq!(see(&mut watch, many(count, &stuck)), [Severity::Warning], "{count}");
    }
    for count in [8, 8] {
        see(&mut watch, many(count, &stuck));
    }
    assert_eq!(watch.reported(), ["raised warning", "cleared warning"]);
}

#[test]
fn a_fin_wait2_that_lasts_is_the_peers_leak() {
    let mut watch = Watch::new();
    let api = process_in(12, "api", "api.service");
    let stuck = waiting(TcpState::FinWait2, &api, watch.now - seconds(300));
    see(&mut watch, many(25, &stuck));
    let finding = watch.only();
    assert_eq!(
        finding.title,
        "10.0.0.9:443 does not close: 25 connections of api (pid 12) to port 443 stay in \
         FIN_WAIT2, the oldest for at least 5 min"
    );
    assert_says(&finding.explanation, &["CLOSE_WAIT", "shutdown(), not close()"]);
    assert_eq!(finding.remedies[0], "Look at them: `ss -tnpo state fin-wait-2 '( dport = :443 )'`");
    let at_the_peer = "At 10.0.0.9: `ss -tnp state close-wait '( sport = :443 )'` names";
    assert_says(&remedies_of(finding), &[at_the_peer, "systemctl restart -- api.service"]);
    assert_eq!(text_of(finding, "state"), "fin_wait2");
    assert_eq!(text_of(finding, "sockets"), "25");
    assert_eq!(text_of(finding, "oldest_age_seconds"), "300");
    assert_eq!(text_of(finding, "oldest_age_is_lower_bound"), "yes");
    assert_eq!(text_of(finding, "sockets_by_host"), "host 10.0.0.9, sockets 25");
    let sample = "local 10.0.0.1:40000, peer 10.0.0.9:443, age seconds 300, age is lower bound yes, \
                  process api, pid 12, fd 7";
    assert_eq!(text_of(finding, "sample_sockets"), [sample; 3].join("; "));
    assert_eq!(finding.subject.peer.as_deref(), Some("10.0.0.9:443"));
    assert_eq!((finding.subject.pid, finding.subject.port), (Some(12), Some(443)));
    assert_eq!(finding.subject.fds, [7; 8]);
}

#[test]
fn a_server_that_half_closes_names_its_port_and_asks_at_the_client() {
    let mut watch = Watch::new();
    let mut stuck = left_behind(TcpState::FinWait2, "10.0.0.7:51000", watch.now - seconds(300));
    stuck.orphan = false;
    see(&mut watch, many(10, &stuck));
    assert_eq!(
        watch.only().title,
        "10.0.0.7 does not close: 10 connections of an unknown process on port 8080 stay in \
         FIN_WAIT2, the oldest for at least 5 min"
    );
    let remedies = remedies_of(watch.only());
    assert_says(
        &remedies,
        &["'( sport = :8080 )'", "At 10.0.0.7: `ss", "'( dport = :8080 )'` names"],
    );
    assert_eq!(watch.only().subject.local.as_deref(), Some("*:8080"));
}

#[test]
fn an_unanswered_connect_names_the_hosts_and_tells_a_drop_from_a_refusal() {
    let mut watch = Watch::new();
    let (api, web) = (process(12, "api"), process(13, "api"));
    let mut sockets = many(8, &waiting(TcpState::SynSent, &api, watch.now - seconds(12)));
    let other = WaitingSocket {
        peer: endpoint("10.0.0.8:443"),
        ..waiting(TcpState::SynSent, &web, watch.now - seconds(4))
    };
    sockets.extend(many(4, &other));
    let blue = Namespace { waiting: sockets, ..namespace(5, "blue") };
    watch.see([blue]);
    let finding = watch.only();
    // Neither has ten.
    assert_eq!(finding.severity, Severity::Info);
    assert_eq!(
        finding.title,
        "2 hosts do not answer: 12 connections of api (pid 12) and 1 more process to port 443 stay \
         in SYN_SENT in network namespace blue, the oldest for 12 s"
    );
    assert_says(&finding.explanation, &["not even a refusal", "firewall", "accept queue is full"]);
    let remedies = remedies_of(finding);
    let commands = ["ip netns exec blue ip route get 10.0.0.9", "ip netns exec blue tcpdump"];
    assert_says(&remedies, &commands);
    assert_eq!(
        text_of(finding, "sockets_by_host"),
        "host 10.0.0.9, sockets 8; host 10.0.0.8, sockets 4"
    );
    assert_eq!(text_of(finding, "oldest_age_is_lower_bound"), "no");
    assert_eq!(finding.subject.peer.as_deref(), Some("*:443"));
}

#[test]
fn last_ack_of_a_process_that_has_closed_has_no_owner_and_says_so() {
    for (state, name) in [(TcpState::LastAck, "LAST_ACK"), (TcpState::Closing, "CLOSING")] {
        let mut watch = Watch::new();
        let stuck = left_behind(state, "10.0.0.7:51000", watch.now - seconds(90));
        see(&mut watch, many(10, &stuck));
        let finding = watch.only();
        assert_eq!(
            finding.title,
            format!(
                "10.0.0.7 does not acknowledge the close: 10 connections that no process holds \
                 any more on port 8080 stay in {name}, the oldest for at least 90 s"
            )
        );
        assert_says(&finding.explanation, &["vanished", "after about 102 s"]);
        assert_eq!(finding.subject.process, None);
        assert_says(&remedies_of(finding), &["Nothing is to be freed here", "tcpdump"]);
        // Held still, they are given as many tries as any other connection.
        let held = WaitingSocket { orphan: false, owner: owner(&process(12, "api")), ..stuck };
        let mut watch = Watch::new();
        see(&mut watch, many(10, &held));
        assert_says(&watch.only().title, &["of api (pid 12) on port 8080"]);
        assert_says(&watch.only().explanation, &["tcp_retries2"]);
    }
}

#[test]
fn it_takes_its_thresholds_from_the_configuration() {
    let mut watch = Watch::with(|detect| {
        detect.stuck_state.min_age = seconds(5);
        detect.stuck_state.unanswered = seconds(2);
        detect.stuck_state.warning = 3;
        detect.stuck_state.critical = 4;
        detect.stuck_state.window = seconds(1);
    });
    let api = process(12, "api");
    for (state, age) in [(TcpState::SynSent, 2), (TcpState::FinWait2, 50)] {
        let stuck = waiting(state, &api, watch.now - seconds(age));
        for (count, expected) in
            [(3, vec![Severity::Warning]), (4, vec![Severity::Critical]), (0, vec![])]
        {
            see(&mut watch, many(count, &stuck));
            watch.pass(seconds(1) + Duration::from_nanos(1));
            assert_eq!(see(&mut watch, many(count, &stuck)), expected, "{count} {state:?}");
        }
    }
}

#[test]
fn disabled_it_raises_nothing_and_clears_what_it_had_raised() {
    let mut watch = Watch::new();
    let stuck = waiting(TcpState::FinWait2, &process(12, "api"), START - seconds(3_600));
    see(&mut watch, many(500, &stuck));
    watch.reconfigure(|detect| detect.stuck_state.enabled = false);
    assert_eq!(see(&mut watch, many(500, &stuck)), []);
    assert_eq!(watch.reported(), ["raised critical", "cleared critical"]);
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned = Owned {
    kind: FindingKind::StuckState,
    make: wait_for_an_answer,
    milder: Some("unanswered = \"31s\""),
    listener_bytes: 0,
};

fn wait_for_an_answer(making: &mut Making, (process, port): &Service) {
    let waiting = WaitingSocket {
        id: 1,
        state: TcpState::SynSent,
        local: endpoint("10.0.0.1:40000"),
        peer: Endpoint { address: address("10.0.0.9"), port: *port },
        role: Role::Client,
        since: making.began + seconds(30),
        orphan: false,
        progress: None,
        owner: owner(process),
        owner_pending: false,
    };
    making.then.waiting.extend(vec![waiting; 10]);
}
