//! Closers of connections: when they are counted, their rates, and which of them is named.

use super::*;

/// One process's closes to 10.0.0.9:5432 in the agent's own namespace.
fn to_database(process: &Arc<Process>, count: u64) -> CloserCount {
    CloserCount {
        netns: HOST,
        process: Arc::clone(process),
        role: Role::Client,
        peer: Some(address("10.0.0.9")),
        port: 5_432,
        count,
        others: 0,
        since: None,
    }
}

/// A server's on port 80.
fn as_server(process: &Arc<Process>, count: u64) -> CloserCount {
    CloserCount { role: Role::Server, peer: None, port: 80, ..to_database(process, count) }
}

/// The agent's own namespace with so many of 1000 minisockets, and of the ports to the database.
fn crowded(time_wait: u64, ports: u32) -> Namespace {
    let mut namespace = host();
    namespace.time_wait.used = time_wait;
    namespace.ports.busy = vec![destination("10.0.0.1", "10.0.0.9:5432", ports)];
    namespace
}

/// TIME_WAIT at its warning, and these counts, an interval later.
fn see(watch: &mut Watch, closers: Vec<CloserCount>) {
    watch.pass(INTERVAL);
    let inventory = Inventory { closers, ..inventory([crowded(850, 0)], watch.now) };
    watch.take(&inventory);
}

/// Whether the closers of the agent's own namespace are to be counted.
fn asks(watch: &Watch) -> bool {
    watch.engine.focus().closers_in.contains(&HOST)
}

fn closers_of(watch: &Watch) -> String {
    text_of(watch.only(), "closers")
}

/// The evidence of a client of the database.
fn of_client(name: &str, pid: u32, rate: &str) -> String {
    format!(
        "process {name}, pid {pid}, role client, port 5432, peer 10.0.0.9:5432, \
         closes per second {rate}"
    )
}

/// The evidence of `app` and its pid, which serves port 80.
fn of_server((pid, rate): (u32, u32)) -> String {
    format!("process app{pid}, pid {pid}, role server, port 80, closes per second {rate}")
}

#[test]
fn closers_are_counted_when_a_threshold_nears_and_until_it_is_far() {
    // 0.8 and 0.72 of the warning at 0.8: 640 and 576 of 1000.
    let steps = [
        (0, false),
        (639, false),
        (641, true),
        (577, true),
        (575, false),
        (639, false),
        (641, true),
    ];
    let mut watch = Watch::new();
    for (used, expected) in steps {
        watch.see([crowded(used, 0)]);
        assert_eq!(asks(&watch), expected, "{used} of 1000");
    }
    // Of 28232 ports 0.64 and 0.576 are 18068.48 and 16261.6.
    let steps = [(18_068, false), (18_069, true), (16_262, true), (16_261, false)];
    let mut watch = Watch::new();
    for (ports, expected) in steps {
        watch.see([crowded(0, ports)]);
        assert_eq!(asks(&watch), expected, "{ports} ports");
    }
}

#[test]
fn closers_are_counted_while_a_finding_stands() {
    let mut watch = Watch::new();
    watch.see([host()]);
    assert!(watch.engine.focus().is_empty());
    watch.engine.handle_event(&no_port(watch.now, HOST, "10.0.0.1", "10.0.0.9:5432", None));
    watch.see([host()]);
    assert!(asks(&watch));
    watch.pass(seconds(61));
    watch.see([host()]);
    assert!(watch.engine.focus().is_empty());
}

#[test]
fn closers_are_not_counted_for_a_kind_that_is_disabled() {
    let mut watch = Watch::new();
    watch.see([crowded(1_000, 28_000)]);
    watch.reconfigure(|detect| detect.time_wait_exhaustion.enabled = false);
    watch.see([crowded(1_000, 28_000)]);
    assert!(asks(&watch), "the other kind asks");
    watch.reconfigure(|detect| detect.ephemeral_port_exhaustion.enabled = false);
    watch.see([crowded(1_000, 28_000)]);
    assert!(!asks(&watch));
}

#[test]
fn a_rate_is_the_difference_of_two_counts() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    let pgbench = process(12, "pgbench");
    // Counts from before the first look say nothing of a rate.
    see(&mut watch, vec![to_database(&pgbench, 90_000)]);
    assert_eq!(closers_of(&watch), "absent");
    see(&mut watch, vec![to_database(&pgbench, 94_100)]);
    assert_eq!(closers_of(&watch), of_client("pgbench", 12, "410"));
    // Over a minute: ten seconds of pause are a sixth of it.
    for count in [98_200, 102_300, 106_400, 110_500, 110_500] {
        see(&mut watch, vec![to_database(&pgbench, count)]);
    }
    assert_eq!(closers_of(&watch), of_client("pgbench", 12, "341.667"));
}

#[test]
fn a_count_that_falls_began_again() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    let pgbench = process(12, "pgbench");
    for count in [90_000, 91_000, 500] {
        see(&mut watch, vec![to_database(&pgbench, count)]);
    }
    // 1000 and 500 in 20 s.
    assert_eq!(closers_of(&watch), of_client("pgbench", 12, "75"));
}

#[test]
fn who_is_new_has_counted_since_its_first_close() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    see(&mut watch, Vec::new());
    let pgbench = process(12, "pgbench");
    let since = Some(watch.now + seconds(2));
    see(&mut watch, vec![CloserCount { since, ..to_database(&pgbench, 88) }]);
    // 88 in eight seconds.
    assert_eq!(closers_of(&watch), of_client("pgbench", 12, "11"));
    // Where that is not known it counts from here.
    see(&mut watch, vec![to_database(&process(13, "curl"), 1_000)]);
    assert!(!closers_of(&watch).contains("curl"), "{}", closers_of(&watch));
    see(&mut watch, vec![to_database(&process(13, "curl"), 2_000)]);
    assert!(closers_of(&watch).contains("100"), "{}", closers_of(&watch));
}

#[test]
fn processes_of_one_name_are_one_closer() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    // A process for each connection: the first that lives is another one each time.
    for look in 0..6_u32 {
        let curl = process(100 + look, "curl");
        let count = u64::from(look) * 810;
        see(&mut watch, vec![CloserCount { others: count, ..to_database(&curl, count) }]);
    }
    let title = &watch.only().title;
    assert!(title.ends_with("; curl (several processes) closes 81/s to 10.0.0.9:5432"), "{title}");
    assert_eq!(watch.only().subject.process.as_deref(), Some("curl"));
    assert_eq!(watch.only().subject.pid, None);
    let evidence = "process curl, several processes yes, role client, port 5432, \
                    peer 10.0.0.9:5432, closes per second 81";
    assert_eq!(closers_of(&watch), evidence);
    // Another takes the name for good: a minute later it is that one.
    for look in 6..14_u64 {
        let last = process(105, "curl");
        see(&mut watch, vec![CloserCount { others: 4_050, ..to_database(&last, look * 810) }]);
    }
    assert_eq!(closers_of(&watch), of_client("curl", 105, "81"));
}

#[test]
fn a_client_of_many_peers_is_judged_by_the_sum() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    let crawler = process(12, "crawler");
    let mut rows: Vec<CloserCount> = Vec::new();
    for look in 0..6_u8 {
        // Each second 80 connections, each to another host; quiet ones are not forgotten yet.
        for host in 0..160_u8 {
            let peer = Some([10, look, 0, host].into());
            let since = Some(watch.now + Duration::from_millis(62 * u64::from(host)));
            rows.push(CloserCount { peer, since, ..to_database(&crawler, 5) });
        }
        see(&mut watch, rows.clone());
    }
    let title = &watch.only().title;
    assert!(title.ends_with("; crawler (pid 12) closes 80/s to several destinations"), "{title}");
    assert_eq!(watch.only().subject.peer, None);
    assert_eq!(
        text_of(watch.only(), "closers"),
        "process crawler, pid 12, role client, closes per second 80"
    );
}

#[test]
fn five_closers_are_listed_the_fastest_first() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    for count in [0, 100] {
        let of = |pid: u32| as_server(&process(pid, &format!("app{pid}")), u64::from(pid) * count);
        see(&mut watch, (1..=7).map(of).collect());
    }
    assert_eq!(
        closers_of(&watch),
        [(7, 70), (6, 60), (5, 50), (4, 40), (3, 30)].map(of_server).join("; ")
    );
}

#[test]
fn a_name_stays_until_another_closes_twice_as_much() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    let (red, blue) = (process(1, "red"), process(2, "blue"));
    see(&mut watch, vec![to_database(&red, 0), to_database(&blue, 0)]);
    let mut counts = [0, 0];
    let mut named = |added: [u64; 2]| {
        counts = [counts[0] + added[0], counts[1] + added[1]];
        see(&mut watch, vec![to_database(&red, counts[0]), to_database(&blue, counts[1])]);
        watch.only().subject.process.clone()
    };
    assert_eq!(named([110, 100]).as_deref(), Some("red"));
    for _ in 0..10 {
        assert_eq!(named([100, 190]).as_deref(), Some("red"));
    }
    let last = (0..7).map(|_| named([100, 210])).last().flatten();
    assert_eq!(last.as_deref(), Some("blue"));
    assert_eq!(watch.reported(), ["raised info"]);
}

#[test]
fn a_client_that_makes_time_wait_is_named_and_advised_to_keep_its_connections() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    let pgbench = process_in(12, "pgbench", "bench.service");
    see(&mut watch, vec![to_database(&pgbench, 0)]);
    see(&mut watch, vec![to_database(&pgbench, 4_100)]);
    let finding = watch.only();
    let closes = "pgbench (pid 12) closes 410/s to 10.0.0.9:5432";
    assert_eq!(
        finding.title,
        format!("850 of at most 1,000 sockets are in TIME_WAIT (85 %); {closes}")
    );
    assert_eq!(finding.subject.unit.as_deref(), Some("bench.service"));
    assert_eq!(finding.subject.peer.as_deref(), Some("10.0.0.9:5432"));
    assert_says(
        &finding.remedies[0],
        &["No action is needed now", "connection pool in pgbench (pid 12)."],
    );
    assert_says(
        &finding.remedies[1],
        &["tcp_tw_reuse=1", "2: loopback only, and this destination"],
    );
    assert_says(&finding.remedies[2], &["tcp_max_tw_buckets=4096"]);
}

#[test]
fn a_server_that_makes_time_wait_is_to_let_its_clients_close_first() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    for count in [0, 9_000] {
        see(&mut watch, vec![as_server(&process(80, "nginx"), count)]);
    }
    let finding = watch.only();
    assert_says(&finding.title, &["; nginx (pid 80) closes 900/s on port 80"]);
    assert_says(
        &finding.remedies[0],
        &["keep-alive in nginx (pid 80)", "so that they close first"],
    );
    assert!(!remedies_of(finding).contains("tcp_tw_reuse"), "connect() takes none of its ports");
}

#[test]
fn a_destination_is_explained_by_its_own_closers() {
    let mut watch = Watch::new();
    let namespace = || crowded(0, 25_000);
    let other_host = |process: &Arc<Process>, count| CloserCount {
        peer: Some(address("10.0.0.8")),
        ..to_database(process, count)
    };
    let other_netns =
        |process: &Arc<Process>, count| CloserCount { netns: 5, ..to_database(process, count) };
    let (pgbench, psql) = (process(12, "pgbench"), process(13, "psql"));
    watch.see([namespace()]);
    for count in [0, 4_100] {
        let closers = vec![
            to_database(&pgbench, count),
            to_database(&psql, count / 100),
            other_host(&process(14, "else"), count * 2),
            other_netns(&process(15, "else"), count * 2),
            as_server(&process(16, "else"), count * 2),
        ];
        watch.pass(INTERVAL);
        watch.take(&Inventory { closers, ..inventory([namespace()], watch.now) });
    }
    let finding = watch.only();
    assert_says(&finding.title, &["are taken; pgbench (pid 12) closes 410/s"]);
    let both = [of_client("pgbench", 12, "410"), of_client("psql", 13, "4.1")];
    assert_eq!(closers_of(&watch), both.join("; "));
    assert_eq!(finding.subject.process.as_deref(), Some("pgbench"));
    assert_says(&finding.remedies[0], &["connection pool in pgbench (pid 12), so"]);
    // A failing process goes before one that closes, and an unknown name is not guessed.
    watch.engine.handle_event(&no_port(watch.now, HOST, "10.0.0.1", "10.0.0.9:5432", None));
    watch.pass(INTERVAL);
    watch.take(&Inventory {
        closers: vec![to_database(&pgbench, 8_200)],
        ..inventory([namespace()], watch.now)
    });
    assert_says(&watch.only().title, &["found no free local port, by an unknown process"]);
}

#[test]
fn a_rate_is_right_to_a_tenth_for_a_steady_load_however_it_is_looked_at() {
    use proptest::prelude::*;
    // Tenths of a close per second, milliseconds between two looks, those before the first close.
    let looks = proptest::collection::vec(500_u64..15_000, 2..40);
    let steady = (1_u64..20_000, looks, 0_u64..3, any::<bool>());
    proptest!(ProptestConfig::with_cases(48), |((tenths, looks, idle, says_since) in steady)| {
        let mut watch = Watch::new();
        watch.see([crowded(850, 0)]);
        let (noisy, steady) = (process(7, "noise"), process(12, "pgbench"));
        let begun = watch.now + Duration::from_secs(5 * idle);
        let mut first = None;
        for (number, gap) in (0_u64..).zip(looks) {
            watch.pass(Duration::from_millis(gap));
            let elapsed = watch.now.since(begun);
            let count = (elapsed.as_millis() as u64 * tenths) / 10_000;
            let noise = (0..40_u32).map(|it| {
                let host = Some([10, 1, 0, it as u8].into());
                CloserCount { netns: 5, peer: host, ..to_database(&noisy, number * 90_000) }
            });
            let mut closers: Vec<CloserCount> = noise.collect();
            if count > 0 {
                first.get_or_insert(watch.now);
                let since = says_since.then_some(begun);
                closers.push(CloserCount { since, ..to_database(&steady, count) });
            }
            let facts = Inventory { closers, ..inventory([crowded(850, 0)], watch.now) };
            watch.take(&facts);
            if closers_of(&watch) == "absent" {
                continue;
            }
            let Some(Evidence::List(list)) = watch.only().evidence.get("closers") else {
                panic!("a list")
            };
            let Some(Evidence::Object(closer)) = list.first() else { panic!("of objects") };
            let Some(Evidence::Number(reported)) = closer.get("closes_per_second") else {
                panic!("with a rate")
            };
            let rate = tenths as f64 / 10.0;
            // A count is whole: one at either end may be missing.
            let from = if says_since { begun } else { first.unwrap() };
            let over = watch.now.since(from).as_secs_f64().min(60.0);
            prop_assert!((reported - rate).abs() <= rate * 0.1 + 2.0 / over, "{reported}: {rate}");
        }
    });
}

#[test]
fn rates_of_only_the_largest_are_followed_and_none_is_invented_for_the_others() {
    let mut watch = Watch::new();
    watch.see([crowded(850, 0)]);
    see(&mut watch, Vec::new());
    // 3000 with large counts; then one that had no place comes to the front.
    let of = |pid: u32| as_server(&process(pid, &format!("app{pid}")), 1_000_000 + u64::from(pid));
    see(&mut watch, (1..=3_000).map(of).collect());
    see(&mut watch, vec![of(1)]);
    assert_eq!(closers_of(&watch), "absent");
    assert_eq!(watch.only().subject.process, None);
}
