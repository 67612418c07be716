//! `close-wait-pileup`: thresholds, age, growth, grouping, words.

use super::*;

/// Findings after one look at `count` sockets that are `age` old.
fn look_at(count: usize, age: Duration) -> Option<Severity> {
    let mut watch = Watch::new();
    let leak = close_wait(&process(12, "backupd"), watch.now - age);
    watch.see_close_wait(times(count, &leak));
    watch.severities().first().copied()
}

/// Sockets of one owner that have long been in CLOSE_WAIT, as many as `count_at` says for each
/// second; the seconds at which a finding stood. One look every `INTERVAL`.
fn growth(edit: impl FnOnce(&mut Detect), last: u64, count_at: impl Fn(u64) -> usize) -> Vec<u64> {
    let mut watch = Watch::with(edit);
    let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
    let mut stood = Vec::new();
    for second in (0..=last).step_by(10) {
        watch.now = START + seconds(second);
        if !watch.see_close_wait(times(count_at(second), &leak)).is_empty() {
            stood.push(second);
        }
    }
    stood
}

#[test]
fn pileup_is_judged_by_the_number_of_old_sockets() {
    let hour = seconds(3_600);
    let table = [
        (0, None),
        (1, None),
        (19, None),
        (20, Some(Severity::Info)),
        (32, Some(Severity::Info)),
        (33, Some(Severity::Warning)),
        (9_999, Some(Severity::Warning)),
        (10_000, Some(Severity::Critical)),
    ];
    for (count, severity) in table {
        assert_eq!(look_at(count, hour), severity, "{count} sockets");
    }
}

#[test]
fn pileup_counts_a_socket_from_min_age_on() {
    assert_eq!(look_at(20, seconds(60) - Duration::from_nanos(1)), None);
    assert_eq!(look_at(20, seconds(60)), Some(Severity::Info));
}

#[test]
fn pileup_ignores_a_burst_that_closes_within_min_age() {
    let mut watch = Watch::new();
    let leak = close_wait(&process(12, "backupd"), watch.now);
    for _ in 0..6 {
        watch.see_close_wait(times(1_000, &leak));
        watch.pass(INTERVAL);
    }
    assert_eq!(watch.see_close_wait(Vec::new()), []);
    assert_eq!(watch.changes(), []);
}

#[test]
fn pileup_counts_only_the_old_of_young_and_old() {
    let mut watch = Watch::new();
    let backupd = process(12, "backupd");
    let mut sockets = times(19, &close_wait(&backupd, watch.now - seconds(3_600)));
    sockets.extend(times(100, &close_wait(&backupd, watch.now - seconds(59))));
    assert_eq!(watch.see_close_wait(sockets), []);
}

#[test]
fn pileup_takes_its_thresholds_from_the_configuration() {
    let mut watch = Watch::with(|detect| {
        detect.close_wait_pileup.warning = 3;
        detect.close_wait_pileup.critical = 4;
        detect.close_wait_pileup.min_age = seconds(5);
    });
    let leak = close_wait(&process(12, "backupd"), watch.now - seconds(5));
    for (count, expected) in
        [(2, None), (3, Some(Severity::Warning)), (4, Some(Severity::Critical))]
    {
        watch.see_close_wait(times(count, &leak));
        assert_eq!(watch.severities().first().copied(), expected, "{count} sockets");
    }
}

#[test]
fn disabled_pileup_raises_nothing_and_clears_what_it_had_raised() {
    let mut watch = Watch::new();
    let leak = close_wait(&process(12, "backupd"), watch.now - seconds(3_600));
    watch.see_close_wait(times(500, &leak));
    assert_eq!(watch.reported(), ["raised warning"]);
    watch.reconfigure(|detect| detect.close_wait_pileup.enabled = false);
    assert_eq!(watch.see_close_wait(times(500, &leak)), []);
    assert_eq!(watch.reported(), ["cleared warning"]);
}

#[test]
fn growth_in_every_quarter_warns_once_the_window_is_full() {
    let stood = growth(|_| {}, 900, |second| 1 + second as usize / 60);
    // From then on until the end, where there are 16: growth by itself raises it.
    let expected: Vec<u64> = (600..=900).step_by(10).collect();
    assert_eq!(stood, expected);
}

#[test]
fn growth_by_one_socket_in_each_quarter_is_the_slowest_that_warns() {
    let edit = |detect: &mut Detect| detect.close_wait_pileup.growing = 5;
    let slowest = growth(edit, 1_200, |second| 1 + second as usize / 150);
    assert_eq!(slowest.first(), Some(&600));
    assert!(slowest.contains(&1_200));
    // One in 310 s leaves a quarter of the window without growth.
    assert_eq!(growth(edit, 3_000, |second| 1 + second as usize / 310), [0_u64; 0]);
}

#[test]
fn growth_must_be_in_each_of_the_four_quarters() {
    for stalled in [None, Some(0), Some(1), Some(2), Some(3)] {
        // One socket more in the middle of each quarter, but for one of them.
        let grown = |second: u64| {
            let quarters = (0..4).filter(|quarter| Some(*quarter) != stalled);
            quarters.filter(|quarter| second >= quarter * 150 + 70).count()
        };
        let stood = growth(|_| {}, 600, |second| 10 + grown(second));
        assert_eq!(stood.contains(&600), stalled.is_none(), "stalled: {stalled:?}");
    }
}

#[test]
fn growth_that_stalls_for_a_while_does_not_warn() {
    // One socket a minute, but none from 300 s to 620 s: two quarters, wherever they begin.
    let stalls = |second: u64| 1 + (second.min(300) + second.saturating_sub(620)) as usize / 60;
    let stood = growth(|_| {}, 1_400, stalls);
    // The last stalled quarter leaves the window some 150 s before the stall as a whole does.
    assert!(stood.first().is_some_and(|first| (1_040..1_240).contains(first)), "{stood:?}");
    assert!(stood.contains(&1_400), "{stood:?}");
    assert_eq!(growth(|_| {}, 2_000, |_| 19), [0_u64; 0]);
    assert_eq!(growth(|_| {}, 900, |second| 19 - second as usize / 60), [0_u64; 0]);
}

#[test]
fn growth_that_pauses_stands_until_sockets_are_closed() {
    // Eleven at 600 s; a night of quiet; one in ten is closed, and then another.
    let closes = |second: u64| match second {
        0..6_000 => 1 + second.min(600) as usize / 60,
        6_000..6_500 => 10,
        _ => 9,
    };
    let stood = growth(|_| {}, 7_000, closes);
    let expected: Vec<u64> = (600..6_500).step_by(10).collect();
    assert_eq!(stood, expected);
    // The text gives the reason.
    let mut watch = Watch::counting();
    for second in (0..=3_000).step_by(10) {
        watch.now = START + seconds(second);
        let kept = close_wait(&process(12, "backupd"), START - seconds(3_600));
        watch.see_close_wait(times(closes(second), &kept));
    }
    assert_eq!(watch.only().severity, Severity::Warning);
    assert_says(
        &watch.only().explanation,
        &["has grown to 11. The growth pauses, and the finding"],
    );
    assert_eq!(text_of(watch.only(), "sockets_grown_to"), "11");
}

#[test]
fn growth_needs_the_least_number() {
    let edit = |detect: &mut Detect| detect.close_wait_pileup.growing = 6;
    // Five at 600 s, six at 750 s.
    let stood = growth(edit, 900, |second| 1 + second as usize / 150);
    assert_eq!(stood.first(), Some(&750));
}

#[test]
fn growth_is_of_sockets_older_than_min_age() {
    // A socket every 30 s from START on. The first is old at 60 s; a window later it is a leak.
    let mut watch = Watch::with(|detect| {
        detect.close_wait_pileup.info = 1_000;
        detect.close_wait_pileup.warning = 1_000;
    });
    let backupd = process(12, "backupd");
    let raised = (0..=1_200).step_by(10).find(|&second| {
        watch.now = START + seconds(second);
        let sockets = (0..=second).step_by(30);
        let sockets = sockets.map(|since| close_wait(&backupd, START + seconds(since)));
        !watch.see_close_wait(sockets.collect()).is_empty()
    });
    assert_eq!(raised, Some(660));
    assert_says(&watch.only().explanation, &["keeps growing"]);
    assert_eq!(text_of(watch.only(), "growth_sockets_per_minute"), "2");
}

#[test]
fn growth_is_forgotten_with_the_group() {
    let mut watch = Watch::new();
    let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
    for second in (0..=900).step_by(10) {
        watch.now = START + seconds(second);
        // Gone for one inventory at 500 s, so the window is full again at 1110 s.
        let count = if second == 500 { 0 } else { 1 + second as usize / 60 };
        assert_eq!(watch.see_close_wait(times(count, &leak)), [], "at {second} s");
    }
}

#[test]
fn reconfiguring_keeps_the_history_of_growth() {
    let mut watch = Watch::new();
    let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
    for second in (0..=600).step_by(10) {
        watch.now = START + seconds(second);
        watch.see_close_wait(times(1 + second as usize / 60, &leak));
        if second == 590 {
            assert_eq!(watch.engine.findings(), []);
            watch.reconfigure(|detect| detect.close_wait_pileup.warning = 100);
        }
    }
    assert_eq!(watch.severities(), [Severity::Warning]);
}

#[test]
fn sockets_whose_owner_is_still_looked_for_are_counted_but_not_judged() {
    let mut watch = Watch::new();
    let mut pending = close_wait(&process(12, "backupd"), watch.now - seconds(3_600));
    pending.owner = None;
    pending.owner_pending = true;
    assert_eq!(watch.see_close_wait(times(500, &pending)), []);
    let samples = watch.engine.samples();
    assert_eq!(samples.close_wait.len(), 1);
    assert_eq!(samples.close_wait[0].sockets, 500);
    // Looked for and not found is judged, without a name.
    pending.owner_pending = false;
    watch.see_close_wait(times(500, &pending));
    assert_says(&watch.only().title, &["an unknown process keeps 500 connections"]);
    assert_eq!(watch.only().subject.process, None);
    assert_eq!(watch.only().subject.pid, None);
}

#[test]
fn a_container_stands_in_for_the_unit() {
    let mut watch = Watch::new();
    let app = |pid, container: &str| {
        let container = Some(container.to_owned());
        let process = Process { container, ..(*process(pid, "app")).clone() };
        close_wait(&Arc::new(process), START - seconds(3_600))
    };
    let mut sockets = times(15, &app(1, "aaaaaaaaaaaa"));
    sockets.extend(times(15, &app(2, "bbbbbbbbbbbb")));
    assert_eq!(watch.see_close_wait(sockets), []);
    watch.see_close_wait(times(20, &app(1, "aaaaaaaaaaaa")));
    assert_eq!(watch.only().subject.container.as_deref(), Some("aaaaaaaaaaaa"));
    assert_eq!(watch.only().subject.unit_label(), "aaaaaaaaaaaa");
}

#[test]
fn of_several_processes_the_one_that_holds_most_is_named() {
    let mut watch = Watch::new();
    let since = START - seconds(3_600);
    let fpm = |pid| process_in(pid, "php-fpm", "php.service");
    let mut sockets = times(9, &close_wait(&fpm(11), since - seconds(60)));
    for fd in 0..12 {
        let mut socket = close_wait(&fpm(12), since + seconds(u64::from(fd)));
        socket.owner.as_mut().unwrap().fds = vec![100 - fd];
        sockets.push(socket);
    }
    sockets.extend(times(3, &close_wait(&fpm(13), since)));
    watch.see_close_wait(sockets);
    let finding = watch.only();
    assert_eq!(finding.subject.pid, Some(12));
    // Descriptors of its oldest sockets, not of another process.
    assert_eq!(finding.subject.fds, [100, 99, 98, 97, 96, 95, 94, 93]);
    assert_eq!(text_of(finding, "processes"), "3");
    let title = "php-fpm (pid 12) and 2 more processes of php.service keep 24 connections";
    assert_says(&finding.title, &[title]);
}

#[test]
fn the_title_of_a_client_names_number_owner_peer_and_age() {
    let mut watch = Watch::new();
    let nine = close_wait(&process(12, "backupd"), START - seconds(180));
    watch.see_close_wait(times(20, &nine));
    assert_eq!(
        watch.only().title,
        "backupd (pid 12) keeps 20 connections to 10.0.0.9:443 in CLOSE_WAIT, the oldest for 3 min"
    );
    assert_eq!(watch.only().subject.peer.as_deref(), Some("10.0.0.9:443"));
    assert_eq!(watch.only().subject.local, None);
    assert_says(&watch.only().remedies[0], &["ss -tnpo state close-wait '( dport = :443 )'"]);

    let mut sockets = times(20, &nine);
    sockets.push(CloseWaitSocket { peer: endpoint("10.0.0.8:443"), ..nine });
    watch.see_close_wait(sockets);
    assert_says(
        &watch.only().title,
        &["keeps 21 connections to port 443 of 2 hosts in CLOSE_WAIT"],
    );
    assert_eq!(watch.only().subject.peer.as_deref(), Some("*:443"));
}

#[test]
fn the_title_of_a_server_names_its_port_and_where_the_peers_are() {
    let mut watch = Watch::new();
    let nginx = process_in(80, "nginx", "nginx.service");
    let mut sockets = times(20, &accepted(&nginx, START - seconds(180)));
    watch.see_close_wait(sockets.clone());
    let finding = watch.only();
    assert_eq!(
        finding.title,
        "nginx (pid 80) keeps 20 accepted connections on port 8080 from 10.0.0.7 in CLOSE_WAIT, \
         the oldest for 3 min"
    );
    assert_eq!(finding.subject.local.as_deref(), Some("*:8080"));
    assert_eq!(finding.subject.peer, None);
    assert_says(&finding.remedies[0], &["'( sport = :8080 )'"]);
    assert_says(finding.remedies.last().unwrap(), &["systemctl restart -- nginx.service"]);

    sockets[0].peer = endpoint("10.0.0.6:51000");
    watch.see_close_wait(sockets);
    assert_says(&watch.only().title, &["20 accepted connections on port 8080 from 2 hosts"]);
}

#[test]
fn ipv6_peers_are_written_in_brackets_before_a_port() {
    let mut watch = Watch::new();
    let mut socket = close_wait(&process(12, "backupd"), START - seconds(180));
    socket.local = endpoint("[2001:db8::1]:40000");
    socket.peer = endpoint("[2001:db8::9]:443");
    watch.see_close_wait(times(20, &socket));
    let finding = watch.only();
    assert_says(&finding.title, &["20 connections to [2001:db8::9]:443 in CLOSE_WAIT"]);
    assert_eq!(finding.subject.peer.as_deref(), Some("[2001:db8::9]:443"));
    let sample = "local [2001:db8::1]:40000, peer [2001:db8::9]:443, age seconds 180, \
                  age is lower bound no, recv queue bytes 0, process backupd, pid 12, fd 7";
    assert_eq!(text_of(finding, "sample_sockets"), [sample; 3].join("; "));
}

#[test]
fn an_age_that_the_hook_did_not_see_begin_is_at_least() {
    let mut watch = Watch::new();
    let exact = close_wait(&process(12, "backupd"), START - seconds(100));
    let mut older = close_wait(&process(12, "backupd"), START - seconds(101));
    older.since_exact = false;
    let mut sockets = times(20, &exact);
    watch.see_close_wait(sockets.clone());
    assert!(watch.only().title.ends_with("the oldest for 100 s"), "{}", watch.only().title);
    assert_eq!(text_of(watch.only(), "oldest_age_is_lower_bound"), "no");
    sockets.push(older);
    watch.see_close_wait(sockets);
    assert!(watch.only().title.ends_with("for at least 101 s"), "{}", watch.only().title);
    assert_eq!(text_of(watch.only(), "oldest_age_is_lower_bound"), "yes");
    assert_eq!(text_of(watch.only(), "oldest_age_seconds"), "101");
}

#[test]
fn the_receive_queues_say_why() {
    // Sockets with Recv-Q 0, 1 and more; what the explanation says of the largest part.
    let table = [
        ([20, 0, 0], "20 of 20 were read to the end (Recv-Q 0)"),
        ([10, 10, 0], "10 of 20 were read to the end (Recv-Q 0)"),
        ([9, 11, 0], "11 of 20 were not read since (Recv-Q 1"),
        ([0, 10, 10], "10 of 20 were not read since (Recv-Q 1"),
        ([5, 5, 10], "10 of 20 hold unread data"),
    ];
    for (counts, reading) in table {
        let mut watch = Watch::new();
        let mut sockets = Vec::new();
        for (count, recv_queue) in counts.into_iter().zip([0, 1, 2]) {
            let mut socket = close_wait(&process(12, "backupd"), START - seconds(100));
            socket.recv_queue = recv_queue;
            sockets.extend(times(count, &socket));
        }
        watch.see_close_wait(sockets);
        let finding = watch.only();
        assert_says(&finding.explanation, &[reading]);
        assert!(!finding.explanation.contains("growing"), "{}", finding.explanation);
        let keys = ["sockets_eof_read", "sockets_eof_unread", "data_unread_sockets"];
        for (key, count) in keys.into_iter().zip(counts) {
            assert_eq!(text_of(finding, key), count.to_string(), "{key}");
        }
    }
}

#[test]
fn connections_that_were_not_accepted_are_the_fault_of_the_accepting_thread() {
    let table = [(10, "accepted"), (11, "unaccepted"), (20, "unaccepted")];
    for (unaccepted, what) in table {
        let mut watch = Watch::new();
        let mut sockets = times(20, &accepted(&process(80, "nginx"), START - seconds(100)));
        sockets.iter_mut().take(unaccepted).for_each(|socket| socket.unaccepted = true);
        watch.see_close_wait(sockets);
        let finding = watch.only();
        let most = what == "unaccepted";
        assert_says(&finding.title, &[&format!("keeps 20 {what} connections on port 8080")]);
        assert_eq!(finding.explanation.contains("accept()"), most, "{}", finding.explanation);
        assert_eq!(remedies_of(finding).contains("EMFILE"), most, "{:?}", finding.remedies);
        assert_eq!(text_of(finding, "unaccepted_sockets"), unaccepted.to_string());
    }
}

#[test]
fn a_socket_that_several_processes_hold_says_how_many() {
    let mut watch = Watch::new();
    let mut sockets = times(20, &close_wait(&process(12, "backupd"), START - seconds(100)));
    watch.see_close_wait(sockets.clone());
    assert_eq!(text_of(watch.only(), "shared_socket_processes"), "absent");
    sockets[3].owner.as_mut().unwrap().holders = 4;
    watch.see_close_wait(sockets);
    assert_eq!(text_of(watch.only(), "shared_socket_processes"), "4");
}

#[test]
fn a_pileup_elsewhere_names_its_namespace_and_enters_it() {
    let leak = close_wait(&process(12, "backupd"), START - seconds(100));
    let table = [
        ("host", "in CLOSE_WAIT, the oldest", "Look at them: `ss "),
        ("blue", "in CLOSE_WAIT in network namespace blue, ", "ip netns exec blue ss "),
        ("", "in CLOSE_WAIT in an unnamed network namespace, ", "nsenter -t 12 -n ss "),
    ];
    for (name, title, remedy) in table {
        let mut watch = Watch::new();
        watch.see([Namespace { close_wait: times(20, &leak), ..namespace(5, name) }]);
        assert_says(&watch.only().title, &[title]);
        assert_says(&watch.only().remedies[0], &[remedy]);
        assert_eq!(&*watch.only().subject.netns, name);
    }
    let mut watch = Watch::new();
    let nobodys = CloseWaitSocket { owner: None, ..leak };
    watch.see([Namespace { close_wait: times(20, &nobodys), ..namespace(5, "my netns") }]);
    assert_says(&watch.only().remedies[0], &[": `ss ", "(in that network namespace)"]);
}

#[test]
fn a_pileup_clears_with_its_namespace() {
    let mut watch = Watch::new();
    let leak = close_wait(&process(12, "backupd"), START - seconds(100));
    let blue = Namespace { close_wait: times(20, &leak), ..namespace(5, "blue") };
    assert_eq!(watch.see([host(), blue]).len(), 1);
    assert_eq!(watch.see([host()]), []);
    assert_eq!(watch.reported(), ["raised info", "cleared info"]);
}

#[test]
fn a_process_that_took_its_name_off_still_has_a_number() {
    let mut watch = Watch::new();
    watch.see_close_wait(times(20, &close_wait(&process(12, ""), START - seconds(100))));
    assert_says(&watch.only().title, &["a process without a name (pid 12) keeps 20"]);
}

#[test]
fn a_name_with_control_characters_stays_on_its_line() {
    let mut watch = Watch::new();
    let leak = close_wait(&process(12, "a\nb\u{1b}[2J\u{202e}"), START - seconds(100));
    watch.see_close_wait(times(20, &leak));
    assert_says(&watch.only().title, &[r"a\nb\u{1b}[2J\u{202e} (pid 12) keeps 20"]);
}

#[test]
fn sockets_that_were_too_many_to_describe_are_counted_without_an_owner() {
    let mut watch = Watch::new();
    let old = close_wait(&process(12, "leaky"), START - seconds(3_600));
    let beyond = [((Role::Client, 443), 83_616), ((Role::Client, 80), 5)].into();
    watch.see([Namespace { close_wait: times(20, &old), close_wait_beyond: beyond, ..host() }]);
    let finding = watch.only();
    assert_eq!(finding.severity, Severity::Critical);
    assert!(finding.title.contains("keeps 20 connections"), "{}", finding.title);
    assert!(finding.title.contains("; 83,616 more of that service"), "{}", finding.title);
    let key = "sockets_not_examined";
    assert_eq!(finding.evidence.get(key), Some(&Evidence::Count(83_616)));
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned = Owned {
    kind: FindingKind::CloseWaitPileup,
    make: keep,
    milder: Some("info = 21"),
    listener_bytes: 0,
};

fn keep(making: &mut Making, (process, port): &Service) {
    let peer = Endpoint { address: address("10.0.0.9"), port: *port };
    let since = making.began - seconds(3_600);
    let socket = CloseWaitSocket { peer, ..close_wait(process, since) };
    making.then.close_wait.extend(times(20, &socket));
}
