//! `accept-queue-overflow`: drops that are overflows, queues that stay full, words.

use super::*;

const AT: &str = "0.0.0.0:8080";

fn listener(accept_queue: u32, drops: u32) -> Listener {
    Listener {
        accept_queue,
        accept_limit: 5,
        drops,
        owner: owner(&process(12, "orders-api")),
        ..Listener::at(endpoint(AT))
    }
}

/// The agent's own namespace with these listeners, and `ListenOverflows`.
fn listening(listeners: impl Into<Vec<Listener>>, overflows: u64) -> Namespace {
    let netstat = NetstatCounters { listen_overflows: overflows, ..NetstatCounters::default() };
    Namespace { listeners: listeners.into(), netstat: Some(netstat), ..host() }
}

/// One listener that dropped `drops`, all of them overflows.
fn dropped(drops: u32) -> Namespace {
    listening([listener(0, drops)], drops.into())
}

#[test]
fn drops_that_go_on_are_judged_by_their_number_within_the_window() {
    use Severity::{Critical, Warning};
    let table =
        [(0, None), (9, None), (10, Some(Warning)), (999, Some(Warning)), (1_000, Some(Critical))];
    for (drops, severity) in table {
        let mut watch = Watch::new();
        watch.see([dropped(100)]);
        // One with each look but the last, in which all others come.
        for more in [1, 2, drops] {
            watch.pass(INTERVAL);
            watch.see([dropped(100 + more.min(drops))]);
        }
        assert_eq!(watch.severities().first().copied(), severity, "{drops}");
    }
}

#[test]
fn a_burst_that_is_served_in_seconds_is_info_however_often_it_comes() {
    let mut watch = Watch::new();
    let mut drops = 0;
    watch.see([dropped(drops)]);
    // Every 47 s: in one look, or in two of which the first finds the queue full.
    for second in 1..1_000_u64 {
        watch.pass(seconds(1));
        if matches!(second % 47, 9 | 10) {
            drops += 60;
        }
        if second % 10 == 0 {
            let waiting = if second % 47 == 9 { 6 } else { 0 };
            watch.see([listening([listener(waiting, drops)], drops.into())]);
        }
    }
    assert_eq!(watch.only().severity, Severity::Info);
    assert_says(&watch.only().title, &["the accept queue of orders-api (pid 12) overflowed"]);
    assert_says(&watch.only().explanation, &["no longer than a burst"]);
    assert_eq!(watch.reported(), ["raised info"]);
}

#[test]
fn drops_that_have_gone_on_for_min_age_are_no_burst_until_the_window_is_over() {
    for (interval, looks) in [(seconds(10), 3), (seconds(1), 7)] {
        let mut watch = Watch::new();
        watch.see([dropped(0)]);
        for look in 1..=looks {
            watch.pass(interval);
            watch.see([dropped(look * 20)]);
            let expected = if look < looks { Severity::Info } else { Severity::Warning };
            assert_eq!(watch.only().severity, expected, "{look} of {looks}");
        }
        // Bursts that come later are bursts.
        watch.pass(seconds(5));
        watch.see([dropped(looks * 20)]);
        watch.pass(seconds(45));
        watch.see([dropped(looks * 20 + 20)]);
        assert_eq!(watch.only().severity, Severity::Warning);
        watch.pass(seconds(11));
        watch.see([dropped(looks * 20 + 20)]);
        assert_eq!(watch.reported(), ["raised info", "info to warning", "warning to info"]);
    }
}

/// A queue in which `waiting` wait, the first of them being `first`.
fn waiting(waiting: u32, limit: u32, first: u64) -> Listener {
    Listener { id: 1, accept_limit: limit, first_waiting: Some(first), ..listener(waiting, 0) }
}

#[test]
fn a_queue_of_which_nothing_is_accepted_is_a_warning_before_any_peer_gives_up() {
    let table = [(99, 4_096, false), (100, 4_096, true), (64, 128, true), (63, 128, false)];
    for (count, limit, is_warning) in table {
        let mut watch = Watch::new();
        assert_eq!(watch.see([listening([waiting(count, limit, 7)], 0)]), []);
        assert!(watch.engine.focus().is_empty(), "one look tells nothing");
        watch.pass(INTERVAL);
        watch.see([listening([waiting(count, limit, 7)], 0)]);
        let expected: &[Severity] = if is_warning { &[Severity::Warning] } else { &[] };
        assert_eq!(watch.severities(), expected, "{count} of {limit}");
        assert_eq!(watch.engine.focus().ports, [8_080], "its processes are requested");
    }
}

#[test]
fn it_says_that_nothing_was_accepted_and_clears_when_something_is() {
    let mut watch = Watch::new();
    watch.see([listening([waiting(230, 511, 7)], 0)]);
    watch.pass(INTERVAL);
    watch.see([listening([waiting(240, 511, 7)], 0)]);
    assert_eq!(
        watch.only().title,
        "orders-api (pid 12) accepted nothing on 0.0.0.0:8080 for at least 10 s: 240 wait now, the \
         limit is 511"
    );
    assert_eq!(text_of(watch.only(), "nothing_accepted_seconds"), "10");
    assert_says(&watch.only().explanation, &["head of the queue is the same"]);
    // Hundreds wait, but one after the other is accepted: slow, and no drop yet.
    watch.pass(INTERVAL);
    watch.see([listening([waiting(250, 511, 8)], 0)]);
    assert_says(&watch.only().title, &["does not accept fast enough on 0.0.0.0:8080: 250 wait"]);
    watch.pass(INTERVAL);
    assert_eq!(watch.see([listening([waiting(260, 511, 9)], 0)]), []);
    assert_eq!(watch.reported(), ["raised warning", "cleared warning"]);
}

#[test]
fn a_queue_of_which_one_is_accepted_now_and_then_does_not_flap() {
    let mut watch = Watch::new();
    // One each 30 s, at an interval of 10 s.
    for look in 0..60 {
        watch.pass(INTERVAL);
        watch.see([listening([waiting(240, 511, look / 3)], 0)]);
    }
    assert_eq!(watch.reported(), ["raised warning"]);
    // It is served at last, if not all of it.
    watch.pass(INTERVAL);
    assert_eq!(watch.see([listening([waiting(80, 511, 700)], 0)]), []);
    assert_eq!(watch.reported(), ["cleared warning"]);
}

#[test]
fn of_listeners_that_share_a_port_the_one_that_accepts_nothing_is_named() {
    let mut watch = Watch::new();
    let hung = Listener { owner: owner(&process(13, "hung")), ..waiting(120, 256, 7) };
    // The other is longer, and moves on.
    let busy = |first| Listener { id: 2, ..waiting(200, 256, first) };
    watch.see([listening([hung.clone(), busy(1)], 0)]);
    watch.pass(INTERVAL);
    watch.see([listening([hung, busy(2)], 0)]);
    assert_eq!(watch.only().subject.pid, Some(13));
    assert_eq!(text_of(watch.only(), "waiting_connections"), "120");
}

#[test]
fn of_several_holders_those_that_accept_are_named() {
    let mut watch = Watch::new();
    let master = Owner { holders: 3, ..owner(&process(12, "gunicorn")).unwrap() };
    let workers = vec![process(13, "worker"), process(14, "worker")];
    let queue = Listener { owner: Some(master), acceptors: workers, ..waiting(120, 256, 7) };
    watch.see([listening([queue.clone()], 0)]);
    watch.pass(INTERVAL);
    watch.see([listening([queue], 0)]);
    assert_says(&watch.only().title, &["worker (pid 13) and 1 more process accepted nothing"]);
    assert_eq!(watch.only().subject.pid, Some(13));
    assert_eq!(text_of(watch.only(), "listener_processes"), "3");
    assert_says(&text_of(watch.only(), "acceptors"), &["13", "14"]);
}

#[test]
fn a_holder_that_does_nothing_with_the_listener_may_have_inherited_it() {
    let held = |state, peer, by: Option<Owner>| PortHolder {
        state,
        local: endpoint(AT),
        peer: endpoint(peer),
        owner: by,
    };
    let listens = held(TcpState::Listen, "0.0.0.0:0", owner(&process(12, "sleep")));
    let serves = held(TcpState::Established, "10.0.0.7:51000", owner(&process(12, "sleep")));
    let waits = held(TcpState::Established, "10.0.0.7:51001", None);
    let table: [(&[&PortHolder], bool, bool); 4] = [
        (&[&listens, &waits], false, true),
        // It waits for connections, it serves one, or it was not looked at.
        (&[&listens, &waits], true, false),
        (&[&listens, &serves], false, false),
        (&[], false, false),
    ];
    for (holders, awaited, is_inherited) in table {
        let mut watch = Watch::new();
        let queue = Listener {
            awaited: Some(awaited),
            owner: owner(&process(12, "sleep")),
            ..waiting(6, 5, 7)
        };
        let look = || Namespace {
            port_holders: holders.iter().copied().cloned().collect(),
            ..listening([queue.clone()], 0)
        };
        watch.see([look()]);
        watch.pass(INTERVAL);
        watch.see([look()]);
        let finding = watch.only();
        assert_eq!(
            finding.explanation.contains("inherited the listener"),
            is_inherited,
            "{holders:?}"
        );
        assert_eq!(remedies_of(finding).contains("FD_CLOEXEC"), is_inherited);
        assert_eq!(remedies_of(finding).contains("kill 12"), is_inherited);
        assert_eq!(text_of(finding, "listener_unattended") == "yes", is_inherited);
    }
}

#[test]
fn the_remedy_says_which_of_backlog_and_somaxconn_cuts() {
    let table = [
        (511, Some(4_096), "now 511; the program must listen() again. net.core.somaxconn is 4,096"),
        (4_096, Some(4_096), "a larger net.core.somaxconn, which is 4,096 and cuts there"),
        (4_096, Some(128), "net.core.somaxconn is 128 now and was larger"),
        (511, None, "net.core.somaxconn, which cuts it"),
    ];
    for (limit, somaxconn, words) in table {
        let mut watch = Watch::new();
        let look = || Namespace { somaxconn, ..listening([waiting(limit + 1, limit, 7)], 0) };
        watch.see([look()]);
        watch.pass(INTERVAL);
        watch.see([look()]);
        assert_says(&remedies_of(watch.only()), &[words]);
    }
}

#[test]
fn under_tcp_abort_on_overflow_clients_are_refused_and_do_not_wait() {
    for (aborts, words) in [(Some(true), "refused and does not wait"), (Some(false), "and waits")] {
        let mut watch = Watch::new();
        let look = || Namespace { abort_on_overflow: aborts, ..listening([listener(6, 0)], 0) };
        watch.see([look()]);
        watch.pass(INTERVAL);
        watch.see([look()]);
        assert_says(&watch.only().explanation, &[words]);
    }
}

#[test]
fn drops_before_the_first_look_are_not_counted() {
    let mut watch = Watch::new();
    assert_eq!(watch.see([dropped(5_000)]), []);
    watch.pass(INTERVAL);
    assert_eq!(watch.see([dropped(5_000)]), []);
}

#[test]
fn drops_that_are_further_apart_than_the_window_do_not_add_up() {
    let mut watch = Watch::new();
    // One in 15 s is 5 within the window, for however long.
    for drops in 0..400 {
        assert_eq!(watch.see([dropped(drops)]), [], "{drops}");
        watch.pass(seconds(15));
    }
}

#[test]
fn it_stands_until_the_window_after_the_last_drop_is_over() {
    let mut watch = Watch::new();
    for drops in [0, 1, 2, 1_500] {
        watch.pass(INTERVAL);
        watch.see([dropped(drops)]);
    }
    assert_eq!(watch.only().severity, Severity::Critical);
    watch.reported();
    // It goes on, but slowly: no longer critical, and all are counted.
    watch.pass(seconds(59));
    watch.see([dropped(1_501)]);
    assert_eq!(watch.only().severity, Severity::Critical);
    watch.pass(seconds(59));
    watch.see([dropped(1_502)]);
    assert_eq!(watch.only().severity, Severity::Warning);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "1502");
    assert_eq!(text_of(watch.only(), "dropped_attempts_in_window"), "2");
    watch.pass(seconds(60));
    assert_eq!(watch.see([dropped(1_502)]).len(), 1, "at the window's end");
    watch.pass(Duration::from_nanos(1));
    assert_eq!(watch.see([dropped(1_502)]), []);
    assert_eq!(watch.reported(), ["critical to warning", "cleared warning"]);
    // Overflows from before are not counted again.
    watch.pass(INTERVAL);
    watch.see([dropped(1_512)]);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "10");
}

#[test]
fn drops_that_are_no_overflows_are_not_counted() {
    let mut watch = Watch::new();
    watch.see([listening([listener(0, 0)], 7)]);
    for drops in 1..10 {
        watch.pass(INTERVAL);
        // A full queue of half-open connections drops too.
        assert_eq!(watch.see([listening([listener(0, drops * 100)], 7)]), [], "{drops}");
    }
    // Drops that came with overflows are counted up to the number of overflows.
    watch.pass(INTERVAL);
    watch.see([listening([listener(0, 2_000)], 7 + 12)]);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "12");
}

#[test]
fn overflows_of_others_are_not_blamed_on_a_full_queue() {
    let mut watch = Watch::new();
    let others = |drops| Listener { local: endpoint("0.0.0.0:9090"), ..listener(0, drops) };
    let look = |queue, drops: u32| listening([listener(queue, 0), others(drops)], drops.into());
    watch.see([look(0, 50)]);
    watch.pass(INTERVAL);
    watch.see([look(6, 150)]);
    assert_eq!(watch.only().subject.local.as_deref(), Some("0.0.0.0:9090"));
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "100");
}

#[test]
fn where_the_kernel_does_not_tell_who_dropped_it_is_the_full_queue() {
    let mut watch = Watch::new();
    let other = Listener { local: endpoint("0.0.0.0:9090"), ..listener(5, 0) };
    let look = |overflows| listening([listener(6, 0), other.clone()], overflows);
    watch.see([look(3)]);
    // Not two inventories in a row yet, had it not dropped.
    watch.engine = Engine::new(&watch.detect, &watch.ignore, OWNERS);
    watch.see([listening([listener(0, 0), other.clone()], 3)]);
    watch.pass(INTERVAL);
    watch.see([look(23)]);
    assert_eq!(watch.only().subject.local.as_deref(), Some(AT));
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "20");
}

#[test]
fn a_drop_counter_that_wraps_goes_on() {
    let mut watch = Watch::new();
    watch.see([listening([listener(0, u32::MAX - 5)], 100)]);
    watch.pass(INTERVAL);
    watch.see([listening([listener(0, 14)], 120)]);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "20");
}

#[test]
fn another_listener_at_the_same_place_begins_anew() {
    let mut watch = Watch::new();
    let others = |drops| Listener { local: endpoint("0.0.0.0:9090"), ..listener(0, drops) };
    watch.see([listening([listener(0, 5_000), others(0)], 5_000)]);
    watch.pass(INTERVAL);
    // It has dropped 3; the other overflows come from another listener.
    watch.see([listening([listener(0, 3), others(500)], 5_503)]);
    assert_eq!(watch.only().subject.local.as_deref(), Some("0.0.0.0:9090"));
    watch.pass(INTERVAL);
    watch.see([listening([listener(0, 13), others(500)], 5_513)]);
    assert_eq!(watch.engine.findings().len(), 2);
    let of_new = watch.engine.findings().iter().find(|it| it.subject.port == Some(8_080));
    assert_eq!(of_new.map(|it| text_of(it, "dropped_attempts")).as_deref(), Some("13"));
}

#[test]
fn listeners_that_share_a_place_are_one_queue() {
    let mut watch = Watch::new();
    let group = |drops: [u32; 3]| drops.map(|drops| listener(0, drops));
    watch.see([listening(group([10, 500, 70_000]), 70_510)]);
    // In whatever order the walk meets them.
    for drops in [[70_000, 10, 500], [500, 70_000, 10]] {
        watch.pass(INTERVAL);
        assert_eq!(watch.see([listening(group(drops), 70_600)]), []);
    }
    watch.pass(INTERVAL);
    let fullest = Listener { owner: owner(&process(13, "worker")), ..listener(5, 504) };
    let [first, _, third] = group([16, 0, 70_002]);
    watch.see([listening([first, fullest, third], 70_620)]);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "12");
    assert_eq!(text_of(watch.only(), "listeners"), "3");
    assert_eq!(watch.only().subject.pid, Some(13));
    // One of them goes and takes its drops along; its successor has dropped 2.
    watch.pass(INTERVAL);
    watch.see([listening(group([16, 504, 2]), 70_700)]);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "12");
    watch.pass(INTERVAL);
    watch.see([listening(group([16, 504, 5]), 70_703)]);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "15");
}

#[test]
fn drops_while_overflows_cannot_be_read_are_counted_by_the_next_look_that_can() {
    let mut watch = Watch::new();
    let unread = |drops| Namespace { netstat: None, ..dropped(drops) };
    watch.see([dropped(5)]);
    for drops in [15, 25] {
        watch.pass(INTERVAL);
        assert_eq!(watch.see([unread(drops)]), []);
    }
    watch.pass(INTERVAL);
    watch.see([dropped(26)]);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "21");
    watch.pass(seconds(60));
    assert_eq!(watch.see([unread(26)]).len(), 1);
    watch.pass(seconds(1));
    assert_eq!(watch.see([unread(26)]), []);
}

#[test]
fn a_host_without_the_counter_is_judged_by_full_queues_only() {
    let mut watch = Watch::new();
    let unread =
        |queue, drops| Namespace { netstat: None, ..listening([listener(queue, drops)], 0) };
    watch.see([unread(0, 0)]);
    assert_eq!(watch.see([unread(6, 1_000)]), []);
    watch.pass(INTERVAL);
    assert_eq!(watch.see([unread(6, 2_000)]).len(), 1);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "0");
}

#[test]
fn drops_that_come_between_the_counter_and_the_listeners_are_counted_next_time() {
    let mut watch = Watch::new();
    watch.see([dropped(0)]);
    watch.pass(INTERVAL);
    // The counter is read first: 12 were dropped since.
    assert_eq!(watch.see([listening([listener(0, 12)], 0)]), []);
    watch.pass(INTERVAL);
    watch.see([dropped(12)]);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "12");
    // Those that one look later are still not there were dropped for another reason.
    watch.pass(seconds(61));
    watch.see([listening([listener(0, 112)], 12)]);
    watch.pass(INTERVAL);
    watch.see([listening([listener(0, 112)], 12)]);
    watch.pass(INTERVAL);
    assert_eq!(watch.see([listening([listener(0, 112)], 112)]), []);
}

#[test]
fn a_queue_that_two_inventories_in_a_row_find_full_is_a_warning_until_there_is_space() {
    let mut watch = Watch::new();
    let queue = |waiting| listening([listener(waiting, 0)], 0);
    // 5 of 5 is not full: the kernel lets one more in.
    for waiting in [5, 5, 6, 5, 6] {
        assert_eq!(watch.see([queue(waiting)]), [], "{waiting}");
        watch.pass(INTERVAL);
    }
    watch.see([queue(6)]);
    assert_eq!(watch.only().severity, Severity::Warning);
    assert_eq!(
        watch.only().title,
        "orders-api (pid 12) does not accept fast enough on 0.0.0.0:8080: its accept queue is full \
         (6 wait, the limit is 5)"
    );
    watch.pass(INTERVAL);
    assert_eq!(watch.see([queue(5)]), []);
    assert_eq!(watch.reported(), ["raised warning", "cleared warning"]);
}

#[test]
fn a_full_queue_that_dropped_a_few_stands_for_the_window_too() {
    let mut watch = Watch::new();
    watch.see([listening([listener(6, 0)], 0)]);
    watch.pass(INTERVAL);
    watch.see([listening([listener(6, 2)], 2)]);
    assert_eq!(watch.only().severity, Severity::Warning);
    // It trembles around its limit.
    for waiting in [3, 6, 3, 6, 6, 3] {
        watch.pass(INTERVAL);
        watch.see([listening([listener(waiting, 2)], 2)]);
        assert_eq!(watch.severities(), [Severity::Warning]);
    }
    watch.pass(INTERVAL);
    assert_eq!(watch.see([listening([listener(3, 2)], 2)]), []);
    assert_eq!(watch.reported(), ["raised warning", "cleared warning"]);
}

#[test]
fn it_names_listener_limit_owner_and_drops() {
    let mut watch = Watch::new();
    let blue = |queue, drops: u32| Namespace {
        name: "blue".into(),
        ..listening([Listener { half_open: 2, ..listener(queue, drops) }], drops.into())
    };
    watch.see([blue(0, 0)]);
    watch.pass(INTERVAL);
    watch.see([blue(6, 44)]);
    let finding = watch.only();
    assert_eq!(
        finding.title,
        "the accept queue of orders-api (pid 12) overflowed on 0.0.0.0:8080 in network namespace \
         blue: it is full (6 wait, the limit is 5), 44 attempts to connect were dropped"
    );
    assert_eq!(finding.id, format!("accept-queue-overflow/{HOST}/{AT}"));
    assert_eq!(finding.subject.pid, Some(12));
    assert_eq!(finding.subject.fds, [7]);
    assert_eq!(finding.subject.role, Some(Role::Server));
    for (key, value) in [
        ("waiting_connections", "6"),
        ("limit_connections", "5"),
        ("dropped_attempts", "44"),
        ("half_open_connections", "2"),
        ("listeners", "absent"),
    ] {
        assert_eq!(text_of(finding, key), value, "{key}");
    }
    assert_says(
        &remedies_of(finding),
        &["ip netns exec blue ss -ltnp '( sport = :8080 )'", "listen(), now 5", "somaxconn"],
    );
    watch.pass(INTERVAL);
    watch.see([blue(0, 45)]);
    assert_says(&watch.only().title, &["blue: 0 wait now, the limit is 5, 45 attempts"]);
}

#[test]
fn each_place_in_each_namespace_is_a_finding() {
    let mut watch = Watch::new();
    let v6 = Listener { local: endpoint("[::]:8080"), ..listener(6, 0) };
    let look = || {
        let host = listening([listener(6, 0), v6.clone()], 0);
        [host.clone(), Namespace { id: 5, name: "blue".into(), ..host }]
    };
    watch.see(look());
    watch.pass(INTERVAL);
    let of = |netns: NetnsId, at| format!("accept-queue-overflow/{netns}/{at}");
    let mut expected = [of(HOST, AT), of(HOST, ":::8080"), of(5, AT), of(5, ":::8080")];
    expected.sort();
    let ids: Vec<&str> = watch.see(look()).iter().map(|finding| &*finding.id).collect();
    assert_eq!(ids, expected);
}

#[test]
fn a_listener_that_has_gone_takes_its_finding_along() {
    let mut watch = Watch::new();
    watch.see([dropped(0)]);
    watch.see([dropped(10)]);
    assert_eq!(watch.see([listening([], 10)]), []);
    assert_eq!(watch.reported(), ["raised info", "cleared info"]);
    // And the one that comes later is not blamed.
    assert_eq!(watch.see([dropped(10)]), []);
}

#[test]
fn disabled_it_raises_nothing_but_keeps_the_baseline() {
    let mut watch = Watch::with(|detect| detect.accept_queue_overflow.enabled = false);
    watch.see([dropped(0)]);
    assert_eq!(watch.see([dropped(50)]), []);
    watch.pass(INTERVAL);
    watch.reconfigure(|detect| detect.accept_queue_overflow.enabled = true);
    watch.see([dropped(51)]);
    assert_eq!(text_of(watch.only(), "dropped_attempts"), "51");
}

#[test]
fn new_thresholds_and_windows_count_from_the_next_look_on() {
    let mut watch = Watch::new();
    watch.see([dropped(0)]);
    assert_eq!(watch.see([dropped(5)]), []);
    watch.reconfigure(|detect| detect.accept_queue_overflow.warning = 5);
    assert_eq!(watch.see([dropped(5)]).len(), 1);
    watch.pass(seconds(10));
    watch.reconfigure(|detect| detect.accept_queue_overflow.window = seconds(9));
    assert_eq!(watch.see([dropped(5)]), []);
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned = Owned {
    kind: FindingKind::AcceptQueueOverflow,
    make: drop_clients,
    milder: Some("warning = 41"),
    listener_bytes: 480,
};

fn drop_clients(making: &mut Making, service: &Service) {
    let dropping = |drops| Listener { drops, ..overrides::listener(service) };
    making.now.listeners.push(dropping(1));
    making.then.listeners.push(dropping(41));
    let overflows = NetstatCounters { listen_overflows: 80, ..Default::default() };
    making.then.netstat = Some(overflows);
}
