//! Overrides and `[ignore]` apply to the owners that they name, in every kind, and to no others.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A process and the port of its service.
pub(super) type Service = (Arc<Process>, u16);

fn backupd() -> Service {
    (process_in(12, "backupd", "backup.service"), 1_001)
}

fn restored() -> Service {
    (process_in(13, "restored", "restore.service"), 1_002)
}

/// The ways to name `backupd` and not `restored`.
const NAMES_OF_BACKUPD: [&str; 4] = [
    "process = \"backupd\"",
    "unit = \"backup.service\"",
    "port = 1001",
    "process = \"backupd\"\nunit = \"backup.service\"\nport = 1001",
];

/// Every kind whose findings have an owner.
fn kinds() -> impl Iterator<Item = FindingKind> {
    FindingKind::ALL.into_iter().filter(|kind| kind.has_owner())
}

/// A kind that has owners, as its own tests know it.
#[derive(Clone, Copy)]
pub(super) struct Owned {
    pub(super) kind: FindingKind,
    /// Brings it about for one owner.
    pub(super) make: fn(&mut Making, &Service),
    /// A threshold that it does not reach then; `None` where it has none.
    pub(super) milder: Option<&'static str>,
    /// Most memory that it holds for each listener of a crowded host; 0 where it follows none.
    pub(super) listener_bytes: usize,
}

/// Two looks, a minute apart, and all that happens between them, further looks included.
pub(super) struct Making {
    pub(super) began: Timestamp,
    pub(super) now: Namespace,
    /// A second apart.
    pub(super) between: Vec<Namespace>,
    pub(super) then: Namespace,
    pub(super) resets: Vec<ResetCount>,
    pub(super) services: Vec<ServiceCount>,
    pub(super) events: Vec<Event>,
}

fn owned(kind: FindingKind) -> &'static Owned {
    OWNED.iter().find(|owned| owned.kind == kind).expect("each kind with owners is in the list")
}

fn section(kind: FindingKind) -> String {
    format!("detect.{}", kind.name().replace('-', "_"))
}

/// A listener of the service.
pub(super) fn listener((process, port): &Service) -> Listener {
    let local = Endpoint { address: address("0.0.0.0"), port: *port };
    Listener { accept_limit: 4_096, owner: owner(process), ..Listener::at(local) }
}

/// Brings `kind` about for both, and says at whose ports it is found a minute later.
fn ports_found(watch: &mut Watch, kind: FindingKind) -> BTreeSet<u16> {
    // The baseline must be known first.
    watch.resets = Some(Vec::new());
    watch.see([host()]);
    watch.pass(seconds(600));
    let mut making = Making {
        began: watch.now,
        now: host(),
        between: Vec::new(),
        then: host(),
        resets: Vec::new(),
        services: Vec::new(),
        events: Vec::new(),
    };
    for service in [backupd(), restored()] {
        (owned(kind).make)(&mut making, &service);
    }
    let Making { began, now, between, then, resets, services, events } = making;
    events.iter().for_each(|event| watch.engine.handle_event(event));
    watch.see([now]);
    for look in between {
        watch.pass(seconds(1));
        watch.see([look]);
    }
    watch.now = began + seconds(60);
    watch.resets = Some(resets);
    watch.services = Some(services);
    let found = watch.see([then]).iter().filter(|finding| finding.kind == kind);
    found.filter_map(|finding| finding.subject.port).collect()
}

#[test]
fn every_kind_is_found_without_overrides() {
    for kind in kinds() {
        assert_eq!(ports_found(&mut Watch::new(), kind), [1_001, 1_002].into(), "{kind:?}");
    }
}

#[test]
fn every_kind_can_be_switched_off_and_on_for_one_process_unit_or_port() {
    for kind in kinds() {
        let section = section(kind);
        for name in NAMES_OF_BACKUPD {
            let file = format!("[[{section}.override]]\n{name}\nenabled = false");
            let mut watch = Watch::configured(&file);
            assert_eq!(ports_found(&mut watch, kind), [1_002].into(), "{file}");
            let file = format!("[{section}]\nenabled = false\n{}", file.replace("false", "true"));
            let mut watch = Watch::configured(&file);
            assert_eq!(ports_found(&mut watch, kind), [1_001].into(), "{file}");
        }
    }
}

#[test]
fn every_kind_is_judged_by_the_thresholds_of_the_override() {
    for kind in kinds() {
        let Some(milder) = owned(kind).milder else { continue };
        for name in NAMES_OF_BACKUPD {
            let file = format!("[[{}.override]]\n{name}\n{milder}", section(kind));
            let mut watch = Watch::configured(&file);
            assert_eq!(ports_found(&mut watch, kind), [1_002].into(), "{file}");
        }
    }
}

#[test]
fn the_severity_of_a_self_connection_is_that_of_the_override() {
    for name in NAMES_OF_BACKUPD {
        let file = format!("[[detect.self_connection.override]]\n{name}\nseverity = \"critical\"");
        let mut watch = Watch::configured(&file);
        ports_found(&mut watch, FindingKind::SelfConnection);
        let findings = watch.engine.findings().iter();
        let severities: Vec<_> = findings.map(|it| (it.subject.port, it.severity)).collect();
        let expected = [(Some(1_001), Severity::Critical), (Some(1_002), Severity::Warning)];
        assert_eq!(severities, expected, "{name}");
    }
}

#[test]
fn overrides_are_taken_and_dropped_at_a_reload_with_the_history_kept() {
    let off = "[[detect.close_wait_pileup.override]]\nport = 1001\nenabled = false";
    let mut watch = Watch::new();
    let (backupd, port) = backupd();
    let peer = Endpoint { address: address("10.0.0.9"), port };
    let leak = CloseWaitSocket { peer, ..close_wait(&backupd, START - seconds(3_600)) };
    for file in ["", off, ""] {
        watch.reload(file);
        watch.see_close_wait(times(20, &leak));
        watch.pass(INTERVAL);
    }
    assert_eq!(watch.reported(), ["raised info", "cleared info", "raised info"]);
}

#[test]
fn a_severity_is_kept_down_to_nine_tenths_of_the_threshold_of_the_override() {
    let file = "[[detect.close_wait_pileup.override]]\nprocess = \"backupd\"\nwarning = 10";
    let mut watch = Watch::configured(file);
    let since = START - seconds(3_600);
    let (lowered, plain) = (close_wait(&backupd().0, since), close_wait(&restored().0, since));
    for (count, found) in [(9, false), (10, true), (9, true), (8, false), (9, false)] {
        let mut sockets = times(count, &lowered);
        sockets.extend(times(19, &plain));
        let findings = watch.see_close_wait(sockets);
        let names: Vec<_> = findings.iter().map(|it| it.subject.process.as_deref()).collect();
        assert_eq!(names, if found { vec![Some("backupd")] } else { vec![] }, "{count} sockets");
    }
}

#[test]
fn the_growth_of_a_pileup_is_judged_by_the_window_and_the_number_of_the_override() {
    // One more socket in 30 s grows in every quarter of 10 min and of 2 min; seven are there at 180
    // s.
    let file = "[[detect.close_wait_pileup.override]]\nprocess = \"backupd\"\n\
                window = \"2m\"\ngrowing = 7";
    let mut watch = Watch::configured(file);
    let since = START - seconds(3_600);
    let (quick, plain) = (close_wait(&backupd().0, since), close_wait(&restored().0, since));
    let mut first = BTreeMap::new();
    for second in (0..=900).step_by(10) {
        watch.now = START + seconds(second);
        let count = 1 + second as usize / 30;
        let mut sockets = times(count.min(19), &quick);
        sockets.extend(times(count.min(19), &plain));
        for finding in watch.see_close_wait(sockets) {
            first.entry(finding.subject.process.clone().unwrap()).or_insert(second);
        }
    }
    let expected = [("backupd".to_owned(), 180), ("restored".to_owned(), 600)];
    assert_eq!(first, BTreeMap::from(expected));
}

#[test]
fn the_container_stands_in_for_the_unit_of_an_override() {
    let file = "[[detect.close_wait_pileup.override]]\nunit = \"0123456789ab\"\nenabled = false";
    let mut watch = Watch::configured(file);
    let boxed = |container: &str| {
        let container = Some(container.to_owned());
        let process = Process { container, ..(*process(12, "app")).clone() };
        close_wait(&Arc::new(process), START - seconds(3_600))
    };
    assert_eq!(watch.see_close_wait(times(20, &boxed("0123456789ab"))), []);
    assert_eq!(watch.see_close_wait(times(20, &boxed("0123456789ac"))).len(), 1);
}

#[test]
fn an_unknown_owner_is_matched_only_by_the_port() {
    let mut unowned = close_wait(&backupd().0, START - seconds(3_600));
    unowned.owner = None;
    for (name, found) in [("process = \"backupd\"", 1), ("port = 443", 0), ("port = 80", 1)] {
        let file = format!("[[detect.close_wait_pileup.override]]\n{name}\nenabled = false");
        let mut watch = Watch::configured(&file);
        assert_eq!(watch.see_close_wait(times(20, &unowned)).len(), found, "{name}");
    }
}

#[test]
fn taken_ports_are_judged_by_the_destination_and_failures_by_the_process() {
    let used = || {
        let busy = vec![destination("10.0.0.1", "10.0.0.9:443", 25_000)];
        Namespace { ports: PortUse { busy, ..host().ports }, ..host() }
    };
    let kind = "[[detect.ephemeral_port_exhaustion.override]]";
    let by_port = format!("{kind}\nport = 443\nwarning = 0.9");
    let by_process = format!("{kind}\nprocess = \"backupd\"\nenabled = false");
    let (backupd, _) = backupd();
    for (file, fails, expected) in [
        ("", false, Some(Severity::Warning)),
        (&*by_port, false, None),
        (&*by_port, true, Some(Severity::Critical)),
        ("", true, Some(Severity::Critical)),
        // Nearly all ports are taken, whichever process fails.
        (&*by_process, true, Some(Severity::Warning)),
    ] {
        let mut watch = Watch::configured(file);
        if fails {
            let failed = no_port(START, HOST, "10.0.0.1", "10.0.0.9:443", Some(&backupd));
            watch.engine.handle_event(&failed);
        }
        watch.see([used()]);
        assert_eq!(watch.severities().first().copied(), expected, "{file}, fails: {fails}");
    }
}

#[test]
fn a_process_whose_failures_are_ignored_hides_no_others() {
    let file = "[[detect.ephemeral_port_exhaustion.override]]\nprocess = \"backupd\"\n\
                enabled = false";
    let (mut watch, peer) = (Watch::configured(file), "10.0.0.9:443");
    let (backupd, restored) = (backupd().0, restored().0);
    let mut fail = |count, process: Option<&Arc<Process>>| {
        for _ in 0..count {
            watch.engine.handle_event(&no_port(START, HOST, "10.0.0.1", peer, process));
        }
        let findings = watch.see([host()]);
        findings.first().map(|it| (it.subject.pid, text_of(it, "failed_connects")))
    };
    assert_eq!(fail(9, Some(&backupd)), None);
    assert_eq!(fail(2, Some(&restored)), Some((Some(13), "2".to_owned())));
    assert_eq!(fail(3, None), Some((Some(13), "5".to_owned())));
}

#[test]
fn a_refused_port_is_judged_by_the_process_that_connects() {
    let kind = "[[detect.self_connect_risk.override]]";
    for (keys, found) in [
        ("process = \"backupd\"\nwarning = 6", true),
        ("process = \"restored\"\nwarning = 6", false),
        ("port = 40000\nwarning = 6", true),
        ("port = 40001\nwarning = 6", false),
        // Five within the window that ends with the last.
        ("process = \"backupd\"\nwarning = 6\nwindow = \"4s\"", false),
        ("process = \"backupd\"\nwarning = 6\nenabled = false", false),
    ] {
        let mut watch = Watch::configured(&format!("{kind}\n{keys}"));
        for second in 0..6 {
            watch.engine.handle_event(&Event::ConnectFailed {
                at: START + seconds(second),
                netns: HOST,
                local: endpoint("127.0.0.1:51000"),
                peer: endpoint("127.0.0.1:40000"),
                reason: ConnectFailure::Refused,
                waited: None,
                no_connect: None,
                process: Some(backupd().0),
            });
        }
        watch.now = START + seconds(5);
        assert_eq!(!watch.see([host()]).is_empty(), found, "{keys}");
    }
}

#[test]
fn dropped_connections_count_within_the_window_of_the_override() {
    let file = "[[detect.accept_queue_overflow.override]]\nport = 1001\nwindow = \"5s\"";
    let mut watch = Watch::configured(file);
    let dropping = |drops| {
        let listeners = [backupd(), restored()];
        let listeners = listeners.map(|who| Listener { drops, ..listener(&who) }).into();
        let listen_overflows = u64::from(drops) * 2;
        let netstat = NetstatCounters { listen_overflows, ..NetstatCounters::default() };
        Namespace { listeners, netstat: Some(netstat), ..host() }
    };
    for (drops, found) in [(1, 0), (41, 2), (41, 1)] {
        assert_eq!(watch.see([dropping(drops)]).len(), found, "{drops} drops");
        watch.pass(INTERVAL);
    }
    assert_eq!(watch.only().subject.port, Some(1_002));
}

#[test]
fn an_ignored_owner_is_so_in_every_kind_and_no_other_is() {
    for kind in kinds() {
        for entry in ["processes = [\"backupd\"]", "units = [\"backup.service\"]", "ports = [1001]"]
        {
            // Ports are the destination's, whichever process uses them up.
            let is_unowned = kind == FindingKind::EphemeralPortExhaustion;
            let expected = match is_unowned && !entry.starts_with("ports") {
                true => [1_001, 1_002].into(),
                false => [1_002].into(),
            };
            let mut watch = Watch::configured(&format!("[ignore]\n{entry}"));
            assert_eq!(ports_found(&mut watch, kind), expected, "{kind:?}: {entry}");
        }
        let mut watch = Watch::configured("[ignore]\nnamespaces = [\"blue\"]");
        assert_eq!(ports_found(&mut watch, kind), [1_001, 1_002].into(), "{kind:?}");
        let mut watch = Watch::configured("[ignore]\nnamespaces = [\"blue\", \"host\"]");
        assert_eq!(ports_found(&mut watch, kind), [].into(), "{kind:?}");
    }
}

#[test]
fn a_namespace_is_ignored_by_its_name_also_where_the_finding_is_unowned() {
    let mut watch = Watch::configured("[ignore]\nnamespaces = [\"blue\"]");
    let full = |id, name| Namespace {
        time_wait: TimeWaitUse { used: 900, limit: Some(1_000) },
        ..namespace(id, name)
    };
    watch.see([full(1, "blue"), full(2, "green"), full(3, "")]);
    let names: Vec<_> = watch.engine.findings().iter().map(|it| &*it.subject.netns).collect();
    assert_eq!(names, ["green", ""]);
}

#[test]
fn what_becomes_ignored_at_a_reload_is_cleared_once_and_its_numbers_stay() {
    let mut watch = Watch::new();
    let leak = close_wait(&backupd().0, START - seconds(3_600));
    watch.see_close_wait(times(200, &leak));
    let before = watch.engine.samples().close_wait;
    assert_eq!(watch.reported(), ["raised warning"]);
    watch.reload("[ignore]\nprocesses = [\"backupd\"]");
    assert_eq!(watch.engine.findings().len(), 1, "it is judged with the next inventory");
    watch.see_close_wait(times(200, &leak));
    watch.see_close_wait(times(200, &leak));
    assert_eq!(watch.reported(), ["cleared warning"]);
    assert_eq!(watch.engine.samples().close_wait, before);
    assert_eq!(before[0].sockets, 200);
    watch.reload("");
    watch.see_close_wait(times(200, &leak));
    assert_eq!(watch.reported(), ["raised warning"]);
}

#[test]
fn what_is_a_namespaces_or_a_destinations_does_not_come_and_go_with_who_leads() {
    let file = "[ignore]\nprocesses = [\"backupd\"]\nunits = [\"backup.service\"]\nports = [1001]";
    let mut watch = Watch::configured(file);
    let peer = "10.0.0.9:443";
    let full = || Namespace {
        time_wait: TimeWaitUse { used: 900, limit: Some(1_000) },
        ports: PortUse { busy: vec![destination("10.0.0.1", peer, 27_000)], ..host().ports },
        ..host()
    };
    let (backupd, restored) = (backupd().0, restored().0);
    // First one closes most, and its connects fail, then the other.
    let mut counts = [0_u64, 0];
    for step in 0..6 {
        let leader = usize::from(step >= 3);
        counts[leader] += 5_000;
        let closers = [(&backupd, 1_001), (&restored, 1_002)].into_iter().zip(counts);
        let closers = closers.map(|((process, port), count)| CloserCount {
            netns: HOST,
            process: Arc::clone(process),
            role: Role::Client,
            peer: Some(address("10.0.0.9")),
            port,
            count,
            others: 0,
            since: None,
        });
        let process = [&backupd, &restored][leader];
        watch.engine.handle_event(&no_port(watch.now, HOST, "10.0.0.1", peer, Some(process)));
        let facts = Inventory { closers: closers.collect(), ..inventory([full()], watch.now) };
        assert_eq!(watch.take(&facts).len(), 2, "step {step}");
        watch.pass(INTERVAL);
    }
    assert_eq!(watch.reported(), ["raised warning", "raised critical"]);
}
