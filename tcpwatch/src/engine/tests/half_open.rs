//! `syn-flood` and `handshake-stall`: how many, from how many sources, words.

use super::*;

const AT: &str = "0.0.0.0:443";

/// A listener with a queue of 4096 and `unanswered` half-open connections from `sources`.
fn crowded(unanswered: u32, sources: u32) -> Listener {
    Listener {
        accept_limit: 4_096,
        half_open: unanswered,
        unanswered,
        unanswered_sources: sources,
        owner: owner(&process(80, "nginx")),
        ..Listener::at(endpoint(AT))
    }
}

fn listening(listeners: impl Into<Vec<Listener>>) -> Namespace {
    Namespace { listeners: listeners.into(), syncookies: Some(1), ..host() }
}

/// The finding of a listener with so many unanswered connections from so many sources.
fn raised(unanswered: u32, sources: u32) -> Option<(FindingKind, Severity)> {
    let mut watch = Watch::new();
    watch.see([listening([crowded(unanswered, sources)])]);
    assert!(watch.engine.findings().len() <= 1);
    watch.engine.findings().first().map(|finding| (finding.kind, finding.severity))
}

#[test]
fn many_sources_are_a_flood_from_its_thresholds_on() {
    let flood = |severity| Some((FindingKind::SynFlood, severity));
    let table = [
        (199, None),
        (200, flood(Severity::Warning)),
        (999, flood(Severity::Warning)),
        (1_000, flood(Severity::Critical)),
    ];
    for (unanswered, expected) in table {
        assert_eq!(raised(unanswered, unanswered), expected, "{unanswered}");
    }
}

#[test]
fn few_sources_are_a_stall_from_its_thresholds_on() {
    let stall = |severity| Some((FindingKind::HandshakeStall, severity));
    let table = [
        (99, None),
        (100, stall(Severity::Warning)),
        (999, stall(Severity::Warning)),
        (1_000, stall(Severity::Critical)),
    ];
    for (unanswered, expected) in table {
        assert_eq!(raised(unanswered, 1), expected, "{unanswered}");
    }
}

#[test]
fn the_border_between_few_and_many_is_half_as_many_sources() {
    let kind = |unanswered, sources| raised(unanswered, sources).map(|(kind, _)| kind);
    assert_eq!(kind(300, 150), Some(FindingKind::SynFlood));
    assert_eq!(kind(300, 149), Some(FindingKind::HandshakeStall));
    // Between the thresholds: enough for a stall, too few for a flood.
    assert_eq!(kind(150, 74), Some(FindingKind::HandshakeStall));
    assert_eq!(kind(150, 75), None);
}

#[test]
fn a_thousand_sources_are_many_whatever_their_share() {
    // The estimate of sources ends near 7000, however many there are.
    assert_eq!(raised(60_000, 7_098), Some((FindingKind::SynFlood, Severity::Critical)));
    assert_eq!(raised(60_000, 1_000), Some((FindingKind::SynFlood, Severity::Critical)));
    assert_eq!(raised(60_000, 999), Some((FindingKind::HandshakeStall, Severity::Critical)));
}

#[test]
fn a_short_queue_is_crowded_when_half_full() {
    let raised = |limit, unanswered, sources| {
        let mut watch = Watch::new();
        let listener = Listener { accept_limit: limit, ..crowded(unanswered, sources) };
        watch.see([listening([listener])]);
        watch.engine.findings().first().map(|finding| (finding.kind, finding.severity))
    };
    let flood = Some((FindingKind::SynFlood, Severity::Warning));
    assert_eq!(raised(128, 63, 63), None);
    assert_eq!(raised(128, 64, 64), flood);
    assert_eq!(raised(128, 64, 1), Some((FindingKind::HandshakeStall, Severity::Warning)));
    // A scan of a listener with hardly any queue is not worth a word.
    assert_eq!(raised(5, 19, 19), None);
    assert_eq!(raised(5, 20, 20), flood);
    assert_eq!(raised(0, 19, 1), None);
    // In a long queue the configured thresholds count.
    assert_eq!(raised(398, 199, 199), flood);
    assert_eq!(raised(4_096, 199, 199), None);
}

#[test]
fn handshakes_that_go_well_are_nothing_however_many() {
    let busy = Listener { half_open: 4_000, accept_queue: 4_000, ..crowded(0, 0) };
    let mut watch = Watch::new();
    assert_eq!(watch.see([listening([busy])]), []);
}

#[test]
fn it_is_released_below_nine_tenths_and_reported_once() {
    let mut watch = Watch::new();
    let steps = [
        (1_000, "critical"),
        (900, "critical"),
        (899, "warning"),
        (180, "warning"),
        (199, "warning"),
    ];
    for (unanswered, severity) in steps {
        watch.pass(INTERVAL);
        watch.see([listening([crowded(unanswered, unanswered)])]);
        assert_eq!(watch.only().severity.label(), severity, "{unanswered}");
    }
    assert_eq!(watch.see([listening([crowded(179, 179)])]), []);
    assert_eq!(watch.reported(), ["raised critical", "critical to warning", "cleared warning"]);
    assert_eq!(watch.see([listening([crowded(199, 199)])]), []);
}

#[test]
fn what_stands_keeps_its_kind_near_the_border() {
    let mut watch = Watch::new();
    // The estimate trembles, and so does the border.
    for sources in [160, 150, 149, 130, 120, 149] {
        watch.see([listening([crowded(300, sources)])]);
        assert_eq!(watch.only().kind, FindingKind::SynFlood, "{sources}");
    }
    assert_eq!(watch.reported(), ["raised warning"]);
    // Beyond the margin it is the other, and has a margin of its own.
    for sources in [119, 150, 179] {
        watch.see([listening([crowded(300, sources)])]);
        assert_eq!(watch.only().kind, FindingKind::HandshakeStall, "{sources}");
    }
    watch.see([listening([crowded(300, 180)])]);
    assert_eq!(watch.only().kind, FindingKind::SynFlood);
}

#[test]
fn a_port_whose_accept_queue_is_or_was_just_full_raises_neither() {
    let mut watch = Watch::new();
    let full = |unanswered| Listener { accept_queue: 4_097, ..crowded(unanswered, 1) };
    let only_half_open = |findings: &[Finding]| {
        findings.iter().any(|finding| finding.kind != FindingKind::AcceptQueueOverflow)
    };
    // The kernel drops the answers itself; the other listener at that port shares the count.
    let other = Listener { local: endpoint("[::]:443"), ..crowded(4_000, 1) };
    assert!(!only_half_open(watch.see([listening([full(4_000), other])])));
    watch.pass(seconds(63));
    assert!(!only_half_open(watch.see([listening([crowded(4_000, 1)])])), "what it left behind");
    watch.pass(Duration::from_nanos(1));
    assert!(only_half_open(watch.see([listening([crowded(4_000, 1)])])), "a stall of its own");
    // One cause, one finding: a stall that stands ends when the queue fills up.
    watch.pass(INTERVAL);
    assert!(!only_half_open(watch.see([listening([full(4_000)])])));
}

#[test]
fn a_port_that_dropped_connections_is_full_though_no_look_shows_it() {
    let mut watch = Watch::new();
    let dropping = |drops, listen_overflows| {
        let listener = Listener { drops, ..crowded(4_000, 1) };
        let netstat = Some(NetstatCounters { listen_overflows, ..NetstatCounters::default() });
        Namespace { netstat, ..listening([listener]) }
    };
    let stalls = |findings: &[Finding]| {
        findings.iter().any(|finding| finding.kind == FindingKind::HandshakeStall)
    };
    assert!(stalls(watch.see([dropping(7, 7)])), "drops before the first look are not known");
    watch.pass(INTERVAL);
    assert!(!stalls(watch.see([dropping(4_007, 9)])), "it overflowed since");
    watch.pass(seconds(60));
    assert!(!stalls(watch.see([dropping(4_007, 9)])), "within the lifetime of a request");
    watch.pass(INTERVAL);
    assert!(stalls(watch.see([dropping(4_007, 9)])));
    watch.pass(INTERVAL);
    assert!(stalls(watch.see([dropping(9_000, 9)])), "drops for another reason than the queue");
    watch.pass(INTERVAL);
    assert!(stalls(watch.see([dropping(9_001, 10)])), "a drop explains one request");
    watch.pass(INTERVAL);
    assert!(stalls(watch.see([dropping(1, 11)])), "another listener");
}

#[test]
fn listeners_that_share_a_port_are_one_finding_with_the_owner_of_the_longest_queue() {
    let mut watch = Watch::new();
    let small = Listener {
        local: endpoint("127.0.0.1:443"),
        half_open: 50,
        accept_limit: 100,
        owner: owner(&process(7, "small")),
        ..crowded(250, 240)
    };
    let large = Listener { half_open: 200, ..crowded(250, 240) };
    let elsewhere = Listener { local: endpoint("0.0.0.0:80"), ..crowded(0, 0) };
    watch.see([listening([small, large, elsewhere])]);
    let finding = watch.only();
    assert_eq!(finding.id, format!("syn-flood/{HOST}/443"));
    assert_eq!(finding.subject.pid, Some(80));
    assert_eq!(finding.subject.local.as_deref(), Some(AT));
    assert_eq!(text_of(finding, "unanswered_connections"), "250");
    assert_eq!(text_of(finding, "half_open_connections"), "250");
    assert_eq!(text_of(finding, "sources_estimate"), "240");
    assert_eq!(text_of(finding, "limit_connections"), "4196");
}

#[test]
fn each_port_in_each_namespace_is_a_finding() {
    let mut watch = Watch::new();
    let web = Listener { local: endpoint("0.0.0.0:80"), ..crowded(120, 1) };
    let blue = Namespace { id: 5, name: "blue".into(), ..listening([crowded(300, 300)]) };
    let ids: Vec<&str> = watch
        .see([listening([crowded(300, 300), web]), blue])
        .iter()
        .map(|finding| &*finding.id)
        .collect();
    let expected = [
        format!("handshake-stall/{HOST}/80"),
        format!("syn-flood/{HOST}/443"),
        "syn-flood/5/443".to_owned(),
    ];
    assert_eq!(ids, expected);
}

#[test]
fn a_flood_says_how_many_from_where_and_what_cookies_do() {
    let mut watch = Watch::new();
    watch.see([listening([crowded(300, 297)])]);
    let finding = watch.only();
    assert_eq!(
        finding.title,
        "300 half-open connections from about 297 sources crowd port 443 of nginx (pid 80)"
    );
    assert_says(&finding.explanation, &["never answer the SYN-ACK", "SYN cookies are on"]);
    assert_eq!(text_of(finding, "tcp_syncookies"), "1");
    assert_eq!(finding.subject.role, Some(Role::Server));
    assert_eq!(finding.subject.fds, [7]);
    assert_eq!(finding.remedies[0], "Look at them: `ss -Htn state syn-recv '( sport = :443 )'`");
    assert!(!remedies_of(finding).contains("tcp_syncookies=1"), "{:?}", finding.remedies);

    let mut off = Namespace { name: "blue".into(), ..listening([crowded(300, 297)]) };
    off.syncookies = Some(0);
    watch.see([off.clone()]);
    assert_says(&watch.only().title, &["(pid 80) in network namespace blue"]);
    assert_says(&watch.only().explanation, &["SYN cookies are off", "are turned away"]);
    assert_eq!(
        watch.only().remedies[1],
        "Now: `ip netns exec blue sysctl -w net.ipv4.tcp_syncookies=1`"
    );
    off.syncookies = None;
    watch.see([off]);
    assert_says(&watch.only().explanation, &["could not be read"]);
    assert_eq!(text_of(watch.only(), "tcp_syncookies"), "absent");
}

#[test]
fn a_stall_says_that_answers_do_not_arrive_and_how_to_follow_them() {
    let mut watch = Watch::new();
    let listener = Listener { owner: None, ..crowded(120, 1) };
    let blue = Namespace { name: "blue".into(), ..listening([listener]) };
    watch.see([blue]);
    let finding = watch.only();
    assert_eq!(
        finding.title,
        "120 half-open connections from 1 source to port 443 of an unknown process in \
         network namespace blue stay: its SYN-ACKs are not answered"
    );
    assert_says(&finding.explanation, &["one direction only", "want no connection"]);
    let command = "ip netns exec blue tcpdump -ni any 'tcp port 443'";
    assert_says(&remedies_of(finding), &[command, "rp_filter", "asymmetric"]);
    assert_eq!(finding.subject.process, None);
}

#[test]
fn each_of_the_two_can_be_switched_off_and_its_thresholds_set() {
    let mut watch = Watch::with(|detect| detect.syn_flood.enabled = false);
    assert_eq!(watch.see([listening([crowded(300, 300)])]), []);
    assert_eq!(watch.see([listening([crowded(300, 1)])]).len(), 1);
    watch.reconfigure(|detect| {
        detect.syn_flood.enabled = true;
        detect.handshake_stall.enabled = false;
    });
    assert_eq!(watch.see([listening([crowded(300, 1)])]), []);
    assert_eq!(watch.see([listening([crowded(300, 300)])]).len(), 1);
    watch.reconfigure(|detect| {
        detect.syn_flood.warning = 1_000;
        detect.syn_flood.critical = 1_000;
    });
    assert_eq!(watch.see([listening([crowded(300, 300)])]), []);
    watch.reconfigure(|detect| detect.syn_flood.critical = 300);
    assert_eq!(watch.see([listening([crowded(300, 300)])])[0].severity, Severity::Critical);
}

/// For the tests of all kinds.
pub(super) const OWNED: [Owned; 2] = [
    Owned {
        kind: FindingKind::SynFlood,
        make: |making, service| crowd(making, service, 300),
        milder: Some("warning = 301"),
        listener_bytes: 0,
    },
    Owned {
        kind: FindingKind::HandshakeStall,
        make: |making, service| crowd(making, service, 3),
        milder: Some("warning = 301"),
        listener_bytes: 0,
    },
];

fn crowd(making: &mut Making, service: &Service, unanswered_sources: u32) {
    making.then.listeners.push(Listener {
        unanswered: 300,
        half_open: 300,
        unanswered_sources,
        ..overrides::listener(service)
    });
}
