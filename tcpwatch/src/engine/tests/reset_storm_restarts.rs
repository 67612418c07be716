//! `reset-storm`: services that are replaced and programs that crash in a loop.

use super::{reset_storm::*, *};

/// A server in a container that started at `started`.
fn boxed(container: &str, started: Timestamp) -> ResetCount {
    let container = Some(container.to_owned());
    let process = Process { container, started, ..(*process(80, "nginx")).clone() };
    ResetCount { process: Some(Arc::new(process)), ..row(LINGER) }
}

#[test]
fn a_rollout_of_containers_with_an_ordinary_rate_is_no_storm() {
    let mut host = Host::new([boxed("0123456789ab", START)]);
    host.repeat(HOUR, &[200]);
    for rollout in 0..3 {
        host.rows = vec![boxed(&format!("0123456789a{rollout}"), host.watch.now)];
        host.repeat(HOUR, &[200]);
        assert_eq!(host.watch.reported(), Vec::<String>::new(), "{rollout}");
    }
    // More than the last one is reported.
    host.repeat(6, &[2_100]);
    assert_eq!(host.watch.reported().first().map(String::as_str), Some("raised critical"));
    assert_baseline(host.only(), 20.0);
}

#[test]
fn a_container_can_storm_once_it_has_been_watched_for_ten_windows() {
    let since = START + COLD;
    for (started, at, raised) in [
        (since, 580, false),
        (since, 590, true),
        // Older than the watch.
        (START - seconds(3_600), 0, true),
        // Its start could not be read: it counts from the first reset.
        (Timestamp::default(), 590, false),
    ] {
        let mut host = Host::quiet([]);
        host.watch.pass(seconds(at));
        host.look();
        host.rows = vec![ResetCount { count: 50_000, ..boxed("0123456789ab", started) }];
        assert_eq!(!host.add(&[]).is_empty(), raised, "{started:?} after {at} s");
    }
}

#[test]
fn a_service_that_is_restarted_can_storm_at_once_and_a_session_cannot() {
    for (unit, raised) in
        [(Some("nginx.service"), true), (Some("session-4.scope"), false), (None, true)]
    {
        let mut host = Host::quiet([]);
        let unit = unit.map(str::to_owned);
        let started = host.watch.now;
        let process = Process { unit, started, ..(*process(81, "nginx")).clone() };
        host.rows.push(ResetCount { process: Some(Arc::new(process)), count: 700, ..row(LINGER) });
        assert_eq!(!host.add(&[]).is_empty(), raised, "{:?}", host.rows[0].process);
    }
}

#[test]
fn a_burst_is_info_for_a_window_and_no_longer_however_often_it_comes() {
    // 700 clients of a service that is stopped and started, twice in ten minutes.
    let mut host = Host::quiet([row(NO_LISTENER)]);
    for _ in 0..2 {
        host.add(&[400]);
        host.add(&[300]);
        assert_eq!(host.watch.severities(), [Severity::Info]);
        assert_says(&host.only().explanation, &["not lasted for longer than a restart takes"]);
        host.repeat(6, &[0]);
        assert_eq!(host.only().severity, Severity::Info);
        host.repeat(20, &[0]);
        assert_eq!(host.watch.reported(), ["raised info", "cleared info"]);
    }
}

#[test]
fn a_service_that_crashes_in_a_loop_is_a_warning_in_the_third_inventory() {
    let mut host = Host::quiet([row(NO_LISTENER)]);
    host.add(&[500]);
    host.add(&[500]);
    assert_eq!(host.watch.severities(), [Severity::Info]);
    host.add(&[500]);
    assert_eq!(host.watch.severities(), [Severity::Warning]);
}

/// The severity at each look at resets that come so many a look, at an interval of so many seconds.
fn severities_at(interval: u64, looks: &[u64]) -> Vec<Option<Severity>> {
    let mut host = Host::quiet([row(NO_LISTENER)]);
    // The interval is the same from long before on.
    for _ in 0..3 {
        host.watch.pass(seconds(interval));
        host.look();
    }
    let look = |added: &u64| {
        host.rows[0].count += added;
        host.watch.pass(seconds(interval));
        host.look().first().map(|finding| finding.severity)
    };
    looks.iter().map(look).collect()
}

#[test]
fn a_storm_is_a_warning_at_every_interval_and_a_burst_in_two_looks_at_none() {
    for (interval, warning_at) in [(5, 5), (10, 2), (15, 2), (30, 2), (60, 2)] {
        let storm = vec![100 * interval; 12];
        let severities = severities_at(interval, &storm);
        let first = severities.iter().position(|it| *it >= Some(Severity::Warning));
        assert_eq!(first, Some(warning_at), "{interval} s: {severities:?}");
        let raised = severities.iter().position(Option::is_some);
        assert!(raised.is_some_and(|look| look <= 1), "{interval} s: {severities:?}");

        let mut burst = vec![0; 12];
        burst[0] = 3_000;
        burst[1] = 3_000;
        let severities = severities_at(interval, &burst);
        assert!(severities.contains(&Some(Severity::Info)), "{interval} s: {severities:?}");
        assert!(
            severities.iter().all(|it| *it <= Some(Severity::Info)),
            "{interval} s: {severities:?}"
        );
    }
}
