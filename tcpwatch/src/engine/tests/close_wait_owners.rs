//! `close-wait-pileup`: whose sockets are judged together, how severely, and what is named.

use super::*;

const HOUR: Duration = seconds(3_600);

/// A client's socket to a port of a host of its own.
fn to(process: &Arc<Process>, host: usize, port: u16) -> CloseWaitSocket {
    let peer = Endpoint { address: address(&format!("10.0.1.{}", host % 250 + 1)), port };
    CloseWaitSocket { peer, ..close_wait(process, START - HOUR) }
}

fn boxed(pid: u32, name: &str) -> Arc<Process> {
    let container = Some("be11ca57be11".to_owned());
    Arc::new(Process { container, ..(*process(pid, name)).clone() })
}

/// Every worker with as many sockets to one service.
fn workers(count: u32, each: usize, of: impl Fn(u32) -> Arc<Process>) -> Vec<CloseWaitSocket> {
    (1..=count).flat_map(|pid| times(each, &close_wait(&of(pid), START - HOUR))).collect()
}

#[test]
fn one_process_is_judged_over_all_its_ports_and_peers() {
    let mut watch = Watch::new();
    let parity = process(12, "parity");
    let sockets = (0..50).map(|host| to(&parity, host, 20_000 + 7 * host as u16));
    watch.see_close_wait(sockets.collect());
    let finding = watch.only();
    assert_eq!(finding.severity, Severity::Warning);
    let title = "parity (pid 12) keeps 50 connections to 50 ports of 50 hosts in CLOSE_WAIT, the \
                 oldest for";
    assert_says(&finding.title, &[title]);
    assert_eq!(text_of(finding, "sockets"), "50");
    assert_eq!((finding.subject.role, finding.subject.port), (Some(Role::Client), None));
    assert_eq!((&finding.subject.peer, &finding.subject.local), (&None, &None));
    assert_says(&finding.remedies[0], &["ss -tnpo state close-wait | grep -F pid=12,"]);
    let services = text_of(finding, "services");
    assert!(services.starts_with("role client, port 20000, sockets 1; "), "{services}");
}

#[test]
fn a_service_that_has_three_quarters_is_named_with_the_others_counted() {
    let app = process(12, "app");
    let look = |main, others| {
        let mut watch = Watch::new();
        let mut sockets = times(main, &close_wait(&app, START - HOUR));
        sockets.extend(times(others, &accepted(&app, START - HOUR)));
        watch.see_close_wait(sockets);
        watch.only().clone()
    };
    let all = look(40, 0);
    assert_says(&all.title, &["keeps 40 connections to 10.0.0.9:443 in CLOSE_WAIT, the oldest"]);
    assert_eq!(text_of(&all, "services"), "absent");
    let most = look(30, 10);
    assert_says(
        &most.title,
        &["keeps 40 connections in CLOSE_WAIT, 30 of them to 10.0.0.9:443, the oldest"],
    );
    assert_eq!((most.subject.role, most.subject.port), (Some(Role::Client), Some(443)));
    assert_eq!(text_of(&most, "sockets"), "40");
    let both = look(29, 11);
    assert_says(&both.title, &["keeps 40 connections (11 accepted, 29 outgoing) in CLOSE_WAIT"]);
    assert_eq!((both.subject.role, both.subject.port), (None, None));
    assert_eq!([&all.id, &all.id], [&most.id, &both.id]);
}

#[test]
fn a_process_is_one_whatever_its_names_and_two_of_one_name_are_two() {
    let mut watch = Watch::new();
    // Threads that call prctl() change the name that the kernel shows of one and the same pid.
    let names = ["http-1", "http-2", "http-3", "http-4"];
    let sockets =
        names.iter().flat_map(|name| times(9, &close_wait(&process(7, name), START - HOUR)));
    watch.see_close_wait(sockets.collect());
    assert_eq!(
        (watch.only().severity, text_of(watch.only(), "sockets").as_str()),
        (Severity::Warning, "36")
    );

    let mut watch = Watch::new();
    let two = |each| workers(2, each, |pid| process(pid, "python3"));
    assert_eq!(watch.see_close_wait(two(12)), [], "two pools of 12 of two programs");
    assert_eq!(watch.see_close_wait(two(40)).len(), 2, "each is its own");
}

#[test]
fn namespaces_units_and_containers_are_owners_of_their_own() {
    let base = close_wait(&process_in(12, "backupd", "a.service"), START - HOUR);
    let table = [
        ("pid", process_in(13, "backupd", "a.service"), 1),
        ("name", process_in(15, "restored", "a.service"), 1),
        ("unit", process_in(14, "backupd", "b.service"), 0),
        ("container", boxed(16, "backupd"), 0),
    ];
    for (what, other, findings) in table {
        let mut watch = Watch::new();
        let mut sockets = times(15, &base);
        sockets.extend(times(15, &close_wait(&other, START - HOUR)));
        assert_eq!(watch.see_close_wait(sockets).len(), findings, "another {what}");
    }
    let mut watch = Watch::new();
    let half = |id, name| Namespace { close_wait: times(15, &base), ..namespace(id, name) };
    assert_eq!(watch.see([half(1, "host"), half(2, "blue")]), []);
    let full = |id, name| Namespace { close_wait: times(20, &base), ..namespace(id, name) };
    assert_eq!(watch.see([full(1, ""), full(2, "")]).len(), 2);
}

#[test]
fn what_a_session_or_a_whole_system_runs_is_not_added_up() {
    let session = |pid| process_in(pid, "python3", "session-3.scope");
    let user = |pid| process_in(pid, "firefox", "user@1000.service");
    let system = |pid| {
        let container = Some("web01".to_owned());
        Arc::new(Process { container, ..(*process(pid, "httpd")).clone() })
    };
    for sockets in [workers(5, 15, session), workers(5, 15, user), workers(5, 15, system)] {
        assert_eq!(Watch::new().see_close_wait(sockets), []);
    }
}

#[test]
fn workers_of_a_container_that_name_themselves_are_one_finding() {
    let mut watch = Watch::new();
    watch.see_close_wait(workers(10, 8, |pid| boxed(pid, &format!("ray::task_{pid}"))));
    let finding = watch.only();
    assert_eq!(finding.severity, Severity::Info);
    let title = "ray::task_1 (pid 1) and 9 more processes of container be11ca57be11 keep 80 \
                 connections to 10.0.0.9:443 in CLOSE_WAIT";
    assert_says(&finding.title, &[title]);
    assert_eq!(text_of(finding, "processes"), "10");
    assert!(text_of(finding, "holders").starts_with("process ray::task_1, pid 1, sockets 8; "));
    assert_says(&finding.explanation, &["No process has more than 8"]);
    let restart = "restart container or pod be11ca57be11: 10 processes in it hold them.";
    assert_says(finding.remedies.last().unwrap(), &[restart]);
}

#[test]
fn stale_pools_are_no_more_than_info() {
    let gunicorn = |pid| process_in(pid, "gunicorn", "shop.service");
    let one = process(12, "exporter");
    let hosts: Vec<_> = (0..25).map(|host| to(&one, host, 443)).collect();
    let table = [
        ("24 workers with one connection", workers(24, 1, gunicorn)),
        ("22 workers with ten each", workers(22, 10, gunicorn)),
        ("one connection to each of 25 hosts", hosts),
        ("a pool of 30", workers(1, 30, gunicorn)),
        ("a pool of 32", workers(1, 32, |pid| process(pid, "app"))),
    ];
    for (what, sockets) in table {
        let mut watch = Watch::new();
        for _ in 0..100 {
            watch.see_close_wait(sockets.clone());
            watch.pass(INTERVAL);
        }
        assert_eq!(watch.severities(), [Severity::Info], "{what}");
        assert_eq!(watch.reported(), ["raised info"], "{what}");
        let explanation = &watch.only().explanation;
        assert_says(explanation, &["It is a leak if ever more come."]);
        assert!(!explanation.contains("This is a leak"), "{what}: {explanation}");
    }
}

#[test]
fn a_pool_of_ten_that_fills_slowly_is_nothing_and_one_that_goes_on_is_a_leak() {
    let stood = |most: u64| {
        let mut watch = Watch::new();
        let leak = close_wait(&process(12, "app"), START - HOUR);
        for second in (0..=3_600).step_by(10) {
            watch.now = START + seconds(second);
            let count = (1 + second / 90).min(most) as usize;
            let sockets = (0..count as u64).map(|id| CloseWaitSocket { id, ..leak.clone() });
            watch.see_close_wait(sockets.collect());
        }
        (watch.severities().first().copied(), watch.reported())
    };
    assert_eq!(stood(10), (None, Vec::new()));
    let (severity, reported) = stood(1_000);
    assert_eq!((severity, reported), (Some(Severity::Warning), vec!["raised warning".to_owned()]));
}

#[test]
fn several_processes_warn_when_they_grow_beyond_a_pool_for_each() {
    let grow = |most: usize| {
        let mut watch = Watch::new();
        for second in (0..=3_000).step_by(10) {
            watch.now = START + seconds(second);
            // Ten workers, one after the other gets one more.
            let all = (second as usize / 10).min(most);
            let of = |pid: usize| {
                let worker = process_in(pid as u32, "worker", "jobs.service");
                times((all + 10 - pid) / 10, &close_wait(&worker, START - HOUR))
            };
            watch.see_close_wait((1..=10).flat_map(of).collect());
        }
        watch
    };
    assert_eq!(grow(100).severities(), [Severity::Info], "ten pools of ten have filled");
    let watch = grow(300);
    assert_eq!(watch.severities(), [Severity::Warning]);
    assert_says(&watch.only().title, &["and 9 more processes of jobs.service keep 300"]);
    assert_says(&watch.only().explanation, &["This is a leak"]);
}

#[test]
fn of_several_processes_the_one_that_leaks_is_reported_without_the_others() {
    let web = |pid| process_in(pid, "web", "shop.service");
    let of = |pid, count| times(count, &close_wait(&web(pid), START - HOUR));
    // The others have too few for a finding, or a tenth at most.
    for (others, count) in [(12, 40), (25, 400)] {
        let mut watch = Watch::new();
        watch.see_close_wait([of(1, count), of(2, others)].concat());
        let finding = watch.only();
        assert_eq!(finding.severity, Severity::Warning);
        assert_says(&finding.title, &[&format!("web (pid 1) keeps {count} connections")]);
        assert_eq!(text_of(finding, "sockets"), count.to_string());
    }
    // When a second one leaks it is still the same finding, and of the unit.
    let mut watch = Watch::new();
    watch.see_close_wait([of(1, 40), of(2, 12)].concat());
    let id = watch.only().id.clone();
    watch.pass(INTERVAL);
    watch.see_close_wait([of(1, 40), of(2, 45)].concat());
    assert_eq!((watch.only().id.clone(), text_of(watch.only(), "sockets")), (id, "85".to_owned()));
    assert_says(&watch.only().title, &["web (pid 2) and 1 more process of shop.service keep 85"]);
    assert_eq!(watch.reported(), ["raised warning"]);
}

#[test]
fn a_quarter_of_the_descriptors_is_a_warning_and_nearly_all_are_critical() {
    let look = |count: usize, open: u64, limit: u64| {
        let mut watch = Watch::new();
        let close_wait = times(count, &close_wait(&process(12, "app"), START - HOUR));
        let mut inventory = inventory([Namespace { close_wait, ..host() }], watch.now);
        inventory.descriptors.insert(12, DescriptorUse { open, limit, hard_limit: limit });
        watch.take(&inventory);
        watch.severities().first().copied()
    };
    assert_eq!(look(24, 40, 100), Some(Severity::Info));
    assert_eq!(look(25, 40, 100), Some(Severity::Warning), "a quarter of 100");
    assert_eq!(look(16, 20, 64), Some(Severity::Warning), "a quarter of 64");
    assert_eq!(look(300, 400, 1_024), Some(Severity::Warning));
    // accept() fails already, so nothing can grow any more.
    assert_eq!(look(300, 1_024, 1_024), Some(Severity::Critical));
    assert_eq!(look(300, 922, 1_024), Some(Severity::Critical));
    assert_eq!(look(40, 1_000, 1_024), Some(Severity::Warning), "others have the descriptors");
    assert_eq!(look(3_500, 3_600, 1_048_576), Some(Severity::Warning));
}

#[test]
fn what_is_ignored_counts_for_nothing() {
    let mut watch = Watch::configured("[ignore]\nports = [443]\nprocesses = [\"cron\"]");
    let app = |pid, name| process_in(pid, name, "shop.service");
    let mut sockets = times(30, &close_wait(&app(1, "web"), START - HOUR));
    sockets.extend(times(15, &accepted(&app(1, "web"), START - HOUR)));
    sockets.extend(times(30, &accepted(&app(2, "cron"), START - HOUR)));
    assert_eq!(watch.see_close_wait(sockets), []);
    watch.reload("");
    assert_eq!(watch.see([]), []);
}

#[test]
fn sockets_older_than_their_process_are_inherited() {
    let started =
        |process: Arc<Process>, started| Arc::new(Process { started, ..(*process).clone() });
    let reportd = started(process(12, "reportd"), START - seconds(3_000));
    let delivered = |at| Some(Progress { acked_bytes: 1, delivered: at, ..Progress::default() });
    let socket = |at| CloseWaitSocket {
        progress: delivered(at),
        ..close_wait(&reportd, START - seconds(2_000))
    };
    let mut watch = Watch::new();
    watch.see_close_wait(times(30, &socket(START - HOUR)));
    let finding = watch.only();
    assert_says(&finding.title, &["reportd (pid 12) keeps 30", "; they are inherited"]);
    assert_says(&finding.explanation, &["30 of 30 are older than the process that holds them"]);
    assert_says(&finding.remedies[1], &["SOCK_CLOEXEC", "started reportd (pid 12)"]);
    assert_eq!(text_of(finding, "inherited_sockets"), "30");
    // Its own: data was acknowledged when it ran.
    let mut watch = Watch::new();
    watch.see_close_wait(times(30, &socket(START - seconds(2_500))));
    assert_eq!(text_of(watch.only(), "inherited_sockets"), "absent");
    assert!(!remedies_of(watch.only()).contains("CLOEXEC"));
}

#[test]
fn a_process_that_does_not_read_is_to_dump_its_threads() {
    let mut watch = Watch::new();
    let mut socket = accepted(&process(12, "exporter"), START - HOUR);
    socket.recv_queue = 60;
    watch.see_close_wait(times(40, &socket));
    let cure = &watch.only().remedies[1];
    assert_says(cure, &["Dump the threads of exporter (pid 12)"]);
    assert!(!cure.contains("read() returns 0"), "{cure}");
}

/// A relay whose 40 clients have closed and whose backend does not.
fn relay(backend: Option<&Arc<Process>>) -> Vec<Namespace> {
    let proxy = process(80, "kube-proxy");
    let ends = |client: usize| {
        let port = 40_000 + client as u16;
        (Endpoint { address: address("10.77.1.1"), port }, endpoint("10.77.1.2:8080"))
    };
    let behind = |client| WaitingSocket {
        id: 1,
        state: TcpState::FinWait2,
        local: ends(client).0,
        peer: ends(client).1,
        role: Role::Client,
        since: START - HOUR,
        orphan: false,
        progress: None,
        owner: owner(&proxy),
        owner_pending: false,
    };
    let front = Namespace {
        close_wait: times(40, &accepted(&proxy, START - HOUR)),
        waiting: (0..40).map(behind).collect(),
        ..namespace(1, "relay")
    };
    let leak = |process: &Arc<Process>| {
        let of = |client| CloseWaitSocket {
            local: ends(client).1,
            peer: ends(client).0,
            ..accepted(process, START - HOUR)
        };
        Namespace { close_wait: (0..40).map(of).collect(), ..namespace(2, "app") }
    };
    std::iter::once(front).chain(backend.map(leak)).collect()
}

#[test]
fn a_relay_mirrors_the_leak_of_what_is_behind_it() {
    let app = boxed(7, "app-mapper");
    let mut watch = Watch::new();
    watch.see(relay(Some(&app)));
    let named = |name: &str| {
        let mut findings = watch.engine.findings().iter();
        let is_pileup = |it: &&Finding| it.kind == FindingKind::CloseWaitPileup;
        let is_of = |it: &&Finding| it.subject.process.as_deref() == Some(name);
        findings.find(|it| is_pileup(it) && is_of(it)).unwrap()
    };
    assert_eq!(named("app-mapper").severity, Severity::Warning);
    let mirror = named("kube-proxy");
    assert_eq!(mirror.severity, Severity::Info);
    assert_says(&mirror.title, &["; app-mapper (pid 7) behind it does not close"]);
    assert_says(&mirror.explanation, &["40 connections in FIN_WAIT2 to 10.77.1.2:8080"]);
    assert_says(&mirror.remedies[1], &["Look at app-mapper (pid 7)", "no cure"]);
    assert_eq!(text_of(mirror, "relay.pid"), "7");
    assert_eq!(mirror.led_by.as_ref(), Some(&named("app-mapper").id));
    assert!(named("app-mapper").related.contains(&mirror.id));

    // On another host it is known by its address only, and nothing else here tells of it.
    let mut watch = Watch::new();
    watch.see(relay(None));
    let pileup = |it: &&Finding| it.kind == FindingKind::CloseWaitPileup;
    let mirror = watch.engine.findings().iter().find(pileup).unwrap();
    assert_eq!(mirror.severity, Severity::Warning);
    assert_says(&mirror.title, &["; 10.77.1.2:8080 behind it does not close"]);
    assert_says(&mirror.remedies[1], &["Look at what is behind 10.77.1.2:8080"]);
}

#[test]
fn a_program_that_is_its_own_client_is_no_relay() {
    let mut namespaces = relay(Some(&process(80, "kube-proxy")));
    // Both ends in one process: its clients are in FIN_WAIT2 and its servers in CLOSE_WAIT.
    namespaces[0].close_wait.clear();
    namespaces[0].close_wait = std::mem::take(&mut namespaces[1].close_wait);
    let mut watch = Watch::new();
    watch.see(namespaces);
    let pileup = |it: &&Finding| it.kind == FindingKind::CloseWaitPileup;
    let finding = watch.engine.findings().iter().find(pileup).unwrap();
    assert_eq!(
        (finding.severity, text_of(finding, "relay").as_str()),
        (Severity::Warning, "absent")
    );
}

#[test]
fn a_server_with_few_backends_in_fin_wait2_is_no_relay() {
    let mut namespaces = relay(None);
    namespaces[0].waiting.truncate(20);
    let mut watch = Watch::new();
    watch.see(namespaces);
    let pileup = |it: &&Finding| it.kind == FindingKind::CloseWaitPileup;
    let finding = watch.engine.findings().iter().find(pileup).unwrap();
    assert_eq!(text_of(finding, "relay"), "absent");
    assert_says(&finding.explanation, &["a code path sees the end of the stream"]);
}

#[test]
fn a_relay_keeps_its_severity_where_the_process_behind_it_has_no_finding() {
    let app = boxed(7, "app-mapper");
    let severity = |config: &str| {
        let mut watch = Watch::configured(config);
        let mut severities = Vec::new();
        for _ in 0..4 {
            watch.pass(INTERVAL);
            let findings = watch.see(relay(Some(&app))).iter();
            let of_proxy =
                findings.filter(|it| it.subject.process.as_deref() == Some("kube-proxy"));
            let mut of_proxy = of_proxy.filter(|it| it.kind == FindingKind::CloseWaitPileup);
            severities.push(of_proxy.next().map(|it| it.severity));
        }
        severities
    };
    assert_eq!(severity(""), [Some(Severity::Info); 4]);
    let silenced =
        "[[detect.close_wait_pileup.override]]\nprocess = \"app-mapper\"\nenabled = false";
    let [info, warning] = [Severity::Info, Severity::Warning].map(Some);
    assert_eq!(severity(silenced), [info, warning, warning, warning]);
}

#[test]
fn all_sockets_of_a_process_count_for_its_descriptors_however_few_are_described() {
    // The process has so many; the inventory describes a few of the service.
    for (beyond, open, severity) in [
        (0, 900, Severity::Warning),
        (8_000, 9_000, Severity::Critical),
        (8_000, 10_000, Severity::Critical),
        (300, 900, Severity::Warning),
    ] {
        let leaky = process(12, "leaky");
        let mut watch = Watch::new();
        for _ in 0..3 {
            watch.pass(INTERVAL);
            let old = close_wait(&leaky, START - HOUR);
            let close_wait_beyond = [((Role::Client, 443), beyond)].into();
            let namespace = Namespace { close_wait: times(40, &old), close_wait_beyond, ..host() };
            let mut found = inventory([namespace], watch.now);
            let limit = DescriptorUse { open, limit: 10_000, hard_limit: 10_000 };
            found.descriptors = [(12, limit)].into();
            watch.take(&found);
        }
        assert_eq!(watch.only().severity, severity, "{beyond} beyond, {open} open");
    }
}
