//! `time-wait-exhaustion`: the ratio, the overflow counter, what fails by it, words.

use super::*;

/// The agent's own namespace with `used` of 1000 minisockets and an overflow counter.
fn time_wait(used: u64, overflows: u64) -> Namespace {
    let netstat = NetstatCounters { time_wait_overflows: overflows, ..NetstatCounters::default() };
    Namespace {
        time_wait: TimeWaitUse { used, limit: Some(1_000) },
        netstat: Some(netstat),
        ..host()
    }
}

/// The same beside a destination that has taken so many of 28232 ports, some in TIME_WAIT.
fn with_ports(used: u64, overflows: u64, ports: u32, in_time_wait: u64) -> Namespace {
    let mut states = StateCounts::default();
    states.set(TcpState::TimeWait, in_time_wait);
    states.set(TcpState::Established, u64::from(ports) - in_time_wait);
    let mut namespace = time_wait(used, overflows);
    let destination = destination("10.0.0.1", "10.0.0.9:443", ports);
    namespace.ports.busy = vec![DestinationUse { states: Some(states), ..destination }];
    namespace
}

/// A watch in which a connect() to that destination fails for want of a port.
fn failing() -> Watch {
    let mut watch = Watch::with(|detect| detect.ephemeral_port_exhaustion.enabled = false);
    watch.engine.handle_event(&no_port(START, HOST, "10.0.0.1", "10.0.0.9:443", None));
    watch
}

#[test]
fn a_limit_that_is_met_is_info_while_nothing_fails() {
    // A virtual machine of 1 GiB that closes 81 connections a second, all day.
    let mut watch = Watch::new();
    let mut overflows = 0;
    for look in 0..60 {
        overflows += 130;
        let namespace = Namespace {
            time_wait: TimeWaitUse { used: 4_096, limit: Some(4_096) },
            ..with_ports(0, overflows, 4_096, 4_096)
        };
        watch.see([namespace]);
        assert_eq!(watch.only().severity, Severity::Info, "look {look}");
        watch.pass(INTERVAL);
    }
    assert_says(&watch.only().explanation, &["No program fails by it"]);
    assert_eq!(watch.reported(), ["raised info"]);
}

#[test]
fn time_wait_is_a_warning_where_it_takes_the_last_ports_of_a_destination() {
    use Severity::{Info, Warning};
    // A destination warns from 22585.6 ports on; a tenth of 25000 is 2500.
    for (ports, in_time_wait, severity) in [
        (22_585, 20_000, Info),
        (22_586, 20_000, Warning),
        (25_000, 2_500, Warning),
        (25_000, 2_499, Info),
        (25_000, 0, Info),
    ] {
        let mut watch = Watch::with(|detect| detect.ephemeral_port_exhaustion.enabled = false);
        watch.see([with_ports(960, 0, ports, in_time_wait)]);
        assert_eq!(watch.only().severity, severity, "{in_time_wait} of {ports}");
    }
}

#[test]
fn time_wait_is_critical_only_while_connects_fail_for_its_ports() {
    let mut watch = failing();
    watch.see([with_ports(960, 0, 28_000, 28_000)]);
    assert_eq!(watch.only().severity, Severity::Critical);
    watch.pass(seconds(61));
    watch.see([with_ports(960, 0, 20_000, 20_000)]);
    assert_eq!(watch.only().severity, Severity::Info);
    // Ports that others hold are no reason to be afraid of TIME_WAIT.
    let mut watch = failing();
    watch.see([with_ports(960, 0, 28_000, 9)]);
    assert_eq!(watch.only().severity, Severity::Info);
}

#[test]
fn time_wait_is_judged_by_its_part_of_the_limit() {
    use Severity::{Critical, Warning};
    let table = [
        (0, None),
        (799, None),
        (800, Some(Warning)),
        (949, Some(Warning)),
        (950, Some(Critical)),
        (1_000, Some(Critical)),
        (2_000, Some(Critical)),
    ];
    for (used, severity) in table {
        let mut watch = failing();
        watch.see([with_ports(used, 0, 9, 9)]);
        assert_eq!(watch.severities().first().copied(), severity, "{used} of 1000");
        // The same without harm.
        let mut watch = Watch::new();
        watch.see([time_wait(used, 0)]);
        let info = severity.map(|_| Severity::Info);
        assert_eq!(watch.severities().first().copied(), info, "{used} of 1000");
    }
}

#[test]
fn time_wait_is_released_below_nine_tenths_of_the_threshold() {
    let mut watch = failing();
    let steps = [(950, "critical"), (856, "critical"), (854, "warning"), (721, "warning")];
    for (used, severity) in steps {
        assert_eq!(watch.see([with_ports(used, 0, 9, 9)])[0].severity.label(), severity, "{used}");
    }
    assert_eq!(watch.see([with_ports(719, 0, 9, 9)]), []);
    assert_eq!(watch.reported(), ["raised critical", "critical to warning", "cleared warning"]);
}

#[test]
fn overflows_before_the_first_look_are_not_counted() {
    let mut watch = Watch::new();
    assert_eq!(watch.see([time_wait(10, 5_000)]), []);
    watch.pass(INTERVAL);
    assert_eq!(watch.see([time_wait(10, 5_000)]), []);
}

#[test]
fn an_overflow_is_reported_until_the_window_after_the_last_one_is_over() {
    let mut watch = Watch::new();
    watch.see([time_wait(10, 5_000)]);
    watch.pass(INTERVAL);
    assert_eq!(watch.see([time_wait(10, 5_001)])[0].severity, Severity::Info);
    assert_says(&watch.only().title, &["1 connection ended without it"]);
    // It goes on: the window begins anew and the count adds up.
    watch.pass(seconds(60));
    watch.see([time_wait(10, 5_007)]);
    assert_eq!(text_of(watch.only(), "overflows"), "7");
    watch.pass(seconds(60));
    assert_eq!(watch.see([time_wait(10, 5_007)]).len(), 1, "at the window's end");
    watch.pass(Duration::from_nanos(1));
    assert_eq!(watch.see([time_wait(10, 5_007)]), []);
    assert_eq!(watch.reported(), ["raised info", "cleared info"]);
    // Overflows from before are not counted again.
    watch.pass(INTERVAL);
    watch.see([time_wait(10, 5_009)]);
    assert_eq!(text_of(watch.only(), "overflows"), "2");
}

#[test]
fn an_overflow_whose_counter_cannot_be_read_once_still_stands() {
    let mut watch = Watch::new();
    let unread = || Namespace { netstat: None, ..time_wait(10, 0) };
    watch.see([time_wait(10, 5)]);
    watch.see([time_wait(10, 6)]);
    watch.pass(INTERVAL);
    assert_eq!(watch.see([unread()]).len(), 1);
    // The next look that can read the counters sees moves meanwhile.
    watch.pass(INTERVAL);
    watch.see([time_wait(10, 9)]);
    assert_eq!(text_of(watch.only(), "overflows"), "4");
    watch.pass(seconds(61));
    assert_eq!(watch.see([unread()]), []);
}

#[test]
fn an_overflow_counter_that_falls_is_a_new_baseline() {
    let mut watch = Watch::new();
    watch.see([time_wait(10, 5_000)]);
    assert_eq!(watch.see([time_wait(10, 3)]), []);
    assert_eq!(watch.see([time_wait(10, 4)]).len(), 1);
}

#[test]
fn a_namespace_that_has_gone_takes_its_overflows_along() {
    let mut watch = Watch::new();
    watch.see([time_wait(10, 1)]);
    assert_eq!(watch.see([time_wait(10, 2)]).len(), 1);
    assert_eq!(watch.see([]), []);
    // Another one with the same number begins anew.
    assert_eq!(watch.see([time_wait(10, 900)]), []);
}

#[test]
fn overflows_count_without_a_limit_that_means_something() {
    for limit in [None, Some(0)] {
        let mut watch = Watch::new();
        let with = |overflows| Namespace {
            time_wait: TimeWaitUse { used: 3, limit },
            ..time_wait(0, overflows)
        };
        assert_eq!(watch.see([with(1)]), [], "{limit:?}");
        watch.see([with(3)]);
        assert_eq!(watch.only().severity, Severity::Info);
        assert_says(&watch.only().title, &["2 connections ended without it", "3"]);
        assert_eq!(text_of(watch.only(), "used_ratio"), "absent");
        assert_says(&remedies_of(watch.only()), &["tcp_max_tw_buckets=4096`; "]);
    }
}

#[test]
fn time_wait_says_how_many_of_how_many_where() {
    let mut watch = Watch::new();
    let mut blue = Namespace { name: "blue".into(), ..time_wait(859, 0) };
    blue.sockets.set(TcpState::TimeWait, 850);
    watch.see([blue]);
    let finding = watch.only();
    assert_eq!(
        finding.title,
        "859 of at most 1,000 sockets are in TIME_WAIT in network namespace blue (85 %)"
    );
    assert_eq!(finding.id, format!("time-wait-exhaustion/{HOST}"));
    // Orphaned FIN_WAIT2 sockets count against the limit too.
    assert_eq!(text_of(finding, "time_wait_sockets"), "850");
    assert_eq!(text_of(finding, "minisockets"), "859");
    assert_eq!(text_of(finding, "limit_sockets"), "1000");
    assert_eq!(text_of(finding, "used_ratio"), "0.859");

    let mut watch = Watch::new();
    watch.see([time_wait(1_000, 5)]);
    watch.see([time_wait(1_000, 8)]);
    assert_eq!(
        watch.only().title,
        "TIME_WAIT is at its limit: 3 connections ended without it, 1,000 of 1,000 sockets are in it now"
    );
}

#[test]
fn the_remedies_name_twice_the_limit_and_what_not_to_do() {
    for (limit, proposed) in [(1_000, 4_096), (262_144, 524_288), (2_000_000_000, 2_147_483_647)] {
        let mut watch = Watch::new();
        let time_wait = TimeWaitUse { used: limit, limit: Some(limit) };
        watch.see([Namespace { time_wait, ..host() }]);
        assert_says(&remedies_of(watch.only()), &[&format!("tcp_max_tw_buckets={proposed}`; ")]);
        assert_recycle_is_only_warned_of(watch.only());
    }
}

#[test]
fn settings_are_changed_in_the_namespace_that_is_full() {
    let mut watch = Watch::new();
    watch.see([Namespace { name: "blue".into(), ..time_wait(900, 0) }]);
    let commands = [
        "A higher limit: `ip netns exec blue sysctl -w net.ipv4.tcp_max_tw_buckets=4096`; ",
        "ip netns exec blue sysctl -w net.ipv4.tcp_tw_reuse=1` ",
    ];
    assert_says(&remedies_of(watch.only()), &commands);
}

#[test]
fn the_minutes_to_the_limit_are_reported_while_time_wait_grows() {
    let mut watch = Watch::new();
    for step in 0..=6 {
        watch.see([time_wait(800 + step * 10, 0)]);
        watch.pass(INTERVAL);
    }
    // 140 are left, and ten come in ten seconds.
    assert_eq!(text_of(watch.only(), "time_to_limit_minutes"), "2.333");
    assert_says(&watch.only().explanation, &["At this rate the limit is met in 2 min."]);
    for _ in 0..4 {
        watch.see([time_wait(860, 0)]);
        watch.pass(INTERVAL);
    }
    assert_eq!(text_of(watch.only(), "time_to_limit_minutes"), "absent");
}

#[test]
fn tcp_tw_reuse_is_proposed_where_it_does_not_work_and_said_for_what_is_known() {
    use TwReuse::{Always, Loopback, Never};
    let table = [
        (Never, true, "tcp_tw_reuse=1", "Now it is 0: never."),
        (Loopback, true, "tcp_tw_reuse=1", "Now it is 2: loopback only."),
        (Loopback, false, "tcp_timestamps=1 net", "Now it is 2: loopback only, and without"),
        (Always, false, "tcp_timestamps=1 net", "Now it is 1: always, but without"),
        (Always, true, "tcp_tw_reuse is 1, ", "already effective"),
    ];
    for (tw_reuse, timestamps, remedy, value) in table {
        let mut watch = Watch::new();
        let mut namespace = time_wait(900, 0);
        (namespace.ports.tw_reuse, namespace.ports.timestamps) = (tw_reuse, timestamps);
        watch.see([namespace]);
        assert_says(&watch.only().remedies[1], &[remedy, value]);
        assert_recycle_is_only_warned_of(watch.only());
    }
}

#[test]
fn disabled_time_wait_raises_nothing_but_keeps_the_baseline() {
    let mut watch = Watch::with(|detect| detect.time_wait_exhaustion.enabled = false);
    watch.see([time_wait(1_000, 1)]);
    assert_eq!(watch.see([time_wait(1_000, 2)]), []);
    watch.pass(INTERVAL);
    watch.reconfigure(|detect| detect.time_wait_exhaustion.enabled = true);
    watch.see([time_wait(0, 4)]);
    assert_eq!(text_of(watch.only(), "overflows"), "3");
}

/// tcp_tw_recycle has not existed since 4.12 and was never a remedy.
#[track_caller]
pub(super) fn assert_recycle_is_only_warned_of(finding: &Finding) {
    let texts = finding.remedies.iter().chain([&finding.title, &finding.explanation]);
    for text in texts.filter(|text| text.contains("tcp_tw_recycle")) {
        assert!(text.starts_with("Not by tcp_tw_recycle"), "{text}");
    }
    assert!(!remedies_of(finding).contains("tcp_tw_recycle="));
    assert!(!remedies_of(finding).contains("tcp_fin_timeout"));
}
