//! `reset-storm`: against the baseline, from cumulative counts.

use super::*;
use crate::facts::{ResetCause, SeenReset};

/// How long must be watched before anything is raised: ten windows.
pub(super) const COLD: Duration = seconds(600);
pub(super) const HOUR: u64 = 360;

pub(super) const REFUSED: SeenReset = SeenReset::Received(TcpState::SynSent);
pub(super) const NO_LISTENER: SeenReset = SeenReset::Sent(ResetCause::NoListener);
pub(super) const LINGER: SeenReset = SeenReset::Sent(ResetCause::LingerZero);
pub(super) const UNREAD: SeenReset = SeenReset::Sent(ResetCause::UnreadData);

/// Resets of nginx on port 443.
pub(super) fn row(what: SeenReset) -> ResetCount {
    ResetCount {
        netns: HOST,
        role: Role::Server,
        port: 443,
        what: what.into(),
        process: Some(process_in(80, "nginx", "nginx.service")),
        last_peer: Some(address("10.0.0.7")),
        count: 0,
        other_port: None,
        peers: None,
        other_ports: None,
    }
}

/// A host whose resets are counted in rows.
pub(super) struct Host {
    pub(super) watch: Watch,
    pub(super) rows: Vec<ResetCount>,
}

impl Host {
    /// Just begun to be watched.
    pub(super) fn new(rows: impl Into<Vec<ResetCount>>) -> Self {
        let mut host = Self { watch: Watch::new(), rows: rows.into() };
        host.look();
        host
    }

    /// Watched for long enough, and quiet.
    pub(super) fn quiet(rows: impl Into<Vec<ResetCount>>) -> Self {
        let mut host = Self::new(rows);
        host.watch.pass(COLD);
        host.look();
        host
    }

    pub(super) fn look(&mut self) -> &[Finding] {
        self.watch.resets = Some(self.rows.clone());
        self.watch.see([super::host(), namespace(5, "blue")])
    }

    /// The next inventory finds that so many were added to each row.
    pub(super) fn add(&mut self, added: &[u64]) -> &[Finding] {
        for (row, added) in self.rows.iter_mut().zip(added) {
            row.count += added;
        }
        self.watch.pass(INTERVAL);
        self.look()
    }

    pub(super) fn repeat(&mut self, inventories: u64, added: &[u64]) {
        for _ in 0..inventories {
            self.add(added);
        }
    }

    /// So many of the first row, in three inventories one after the other.
    pub(super) fn storm(&mut self, resets: u64) {
        let third = resets / 3;
        for added in [third, third, resets - 2 * third] {
            self.add(&[added]);
        }
    }

    #[track_caller]
    pub(super) fn only(&self) -> &Finding {
        self.watch.only()
    }
}

/// The history is kept in sixty buckets, so its mean is true to two in a hundred.
#[track_caller]
pub(super) fn assert_baseline(finding: &Finding, per_second: f64) {
    let baseline: f64 = text_of(finding, "baseline_resets_per_second").parse().unwrap();
    assert!((baseline / per_second - 1.0).abs() < 0.02, "{baseline} per second");
}

#[test]
fn a_storm_where_none_were_before_is_judged_by_its_number() {
    use Severity::{Critical, Warning};
    let table = [
        (599, None),
        (600, Some(Warning)),
        (5_999, Some(Warning)),
        (6_000, Some(Critical)),
        (u64::MAX, Some(Critical)),
    ];
    for (resets, severity) in table {
        let mut host = Host::quiet([row(NO_LISTENER)]);
        host.storm(resets);
        assert_eq!(host.watch.severities().first().copied(), severity, "{resets}");
    }
}

#[test]
fn those_of_a_whole_window_count_together() {
    let mut host = Host::quiet([row(LINGER)]);
    host.repeat(5, &[100]);
    assert_eq!(host.watch.severities(), []);
    host.add(&[100]);
    assert_eq!(host.watch.severities(), [Severity::Warning]);
    let mut slower = Host::quiet([row(LINGER)]);
    slower.repeat(HOUR, &[99]);
    assert_eq!(slower.watch.reported(), Vec::<String>::new());
}

#[test]
fn a_constant_rate_is_never_a_storm_however_high_and_however_uneven_the_looks() {
    let mut host = Host::new([row(LINGER)]);
    for step in 0..4 * HOUR {
        // Inventories take their time: from 1 s to 20 min, 100 resets a second.
        let pause = [1, 10, 10, 9, 11, 60, 10, 1_200][step as usize % 8];
        host.rows[0].count += pause * 100;
        host.watch.pass(seconds(pause));
        assert_eq!(host.look(), [], "step {step}");
    }
    assert_eq!(host.watch.reported(), Vec::<String>::new());
}

#[test]
fn nothing_is_raised_before_ten_windows_have_been_watched() {
    for (watched, raised) in [(580, false), (590, true)] {
        let mut host = Host::new([row(NO_LISTENER)]);
        host.watch.pass(seconds(watched));
        host.look();
        assert_eq!(!host.add(&[50_000]).is_empty(), raised, "{watched}");
    }
}

#[test]
fn a_history_is_enough_where_it_is_shorter_than_ten_windows() {
    let mut host = Host::new([row(NO_LISTENER)]);
    host.watch.reconfigure(|detect| detect.reset_storm.history = seconds(120));
    host.repeat(11, &[0]);
    assert_eq!(host.add(&[50_000]).len(), 1);
}

#[test]
fn an_agent_that_starts_in_the_middle_of_a_storm_takes_it_for_the_baseline() {
    let mut host = Host::new([ResetCount { count: 1_000_000, ..row(NO_LISTENER) }]);
    host.repeat(2 * HOUR, &[5_000]);
    assert_eq!(host.watch.reported(), Vec::<String>::new());
}

#[test]
fn what_was_counted_before_the_first_inventory_is_not_known() {
    let mut host = Host::quiet([ResetCount { count: 1_000_000, ..row(NO_LISTENER) }]);
    assert_eq!(host.add(&[599]), []);
}

#[test]
fn a_service_that_is_new_on_a_watched_host_can_storm_at_once() {
    let mut host = Host::quiet([]);
    host.rows.push(ResetCount { count: 700, ..row(NO_LISTENER) });
    host.add(&[]);
    assert_eq!(text_of(host.only(), "resets_in_window"), "700");
    assert_eq!(text_of(host.only(), "baseline_resets_per_second"), "0");
    assert_eq!(text_of(host.only(), "baseline_ratio"), "absent");
}

#[test]
fn a_group_with_a_baseline_storms_at_ten_times_as_many() {
    // 600 a minute are the baseline.
    for (added, raised) in [(950, false), (1_050, true)] {
        let mut host = Host::new([row(LINGER)]);
        host.repeat(HOUR, &[100]);
        host.repeat(6, &[added]);
        assert_eq!(!host.watch.severities().is_empty(), raised, "{added}");
        if raised {
            // 6300 are critical by number, and enough above the baseline.
            assert_eq!(host.only().severity, Severity::Critical);
            assert_eq!(text_of(host.only(), "baseline_ratio"), "10.5");
            assert_baseline(host.only(), 10.0);
        }
    }
}

#[test]
fn a_day_that_grows_busy_is_no_storm_and_a_rate_that_doubles_each_minute_is() {
    let mut day = Host::new([row(UNREAD)]);
    for step in 0..2 * HOUR {
        assert_eq!(day.add(&[100 + 5 * step]), [], "{step}");
    }
    let mut doubling = Host::new([row(UNREAD)]);
    doubling.repeat(HOUR, &[5]);
    let found = (0..12).position(|minute| {
        doubling.repeat(6, &[5 << minute]);
        !doubling.watch.severities().is_empty()
    });
    // 10, 20, 40 ... a minute: above 600 in the fifth.
    assert_eq!(found, Some(5), "in minute");
}

#[test]
fn it_stands_as_it_was_until_the_window_after_the_last_is_over() {
    let mut host = Host::quiet([row(NO_LISTENER)]);
    host.storm(7_000);
    host.watch.reported();
    for _ in 0..6 {
        // A few more are none of the storm.
        host.add(&[1]);
        assert_eq!(host.only().severity, Severity::Critical);
        assert_eq!(text_of(host.only(), "resets_in_window"), "7000");
    }
    assert_says(&host.only().explanation, &["It has been over for 60 s."]);
    assert_eq!(text_of(host.only(), "quiet_seconds"), "60");
    assert_eq!(host.add(&[1]), []);
    assert_eq!(host.watch.reported(), ["cleared critical"]);
}

#[test]
fn a_storm_that_becomes_smaller_becomes_milder() {
    let mut host = Host::quiet([row(NO_LISTENER)]);
    host.repeat(6, &[1_000]);
    // Nine tenths of critical still are.
    host.repeat(12, &[910]);
    assert_eq!(host.watch.severities(), [Severity::Critical]);
    host.repeat(6, &[100]);
    assert_eq!(host.watch.severities(), [Severity::Warning]);
    assert_eq!(
        host.watch.reported(),
        ["raised info", "info to warning", "warning to critical", "critical to warning"]
    );
}

#[test]
fn a_rate_that_wavers_around_the_threshold_is_one_storm() {
    let mut host = Host::quiet([row(NO_LISTENER)]);
    host.repeat(6, &[105]);
    for step in 0..HOUR / 2 {
        // From half of the threshold to all of it, and clients that pause for 50 s.
        let added = [95, 105, 60, 0, 0, 0, 0, 0, 150][step as usize % 9];
        assert_eq!(host.add(&[added]).len(), 1, "{step}");
    }
    // Above half of it, it goes on; below, it is over a window later.
    host.repeat(20, &[51]);
    assert_eq!(host.watch.reported(), ["raised warning"]);
    host.repeat(6, &[49]);
    assert_eq!(host.watch.severities().len(), 1);
    assert_eq!(host.add(&[49]), []);
}

#[test]
fn a_storm_is_not_measured_by_itself_and_leaves_the_baseline_as_it_was() {
    let mut host = Host::new([row(LINGER)]);
    host.repeat(HOUR, &[100]);
    // Fifty minutes at thirty times the baseline.
    host.repeat(HOUR * 5 / 6, &[3_000]);
    assert_baseline(host.only(), 10.0);
    // As always, for a long time.
    host.repeat(3 * HOUR, &[100]);
    assert_eq!(host.watch.reported(), ["raised info", "info to critical", "cleared critical"]);
    // And it can storm again.
    host.repeat(6, &[3_000]);
    assert_eq!(host.watch.reported(), ["raised info", "info to critical"]);
    assert_baseline(host.only(), 10.0);
}

#[test]
fn after_a_long_storm_the_baseline_is_no_storm() {
    let mut host = Host::new([row(LINGER)]);
    host.watch.reconfigure(|detect| detect.reset_storm.factor = 2);
    host.repeat(HOUR, &[100]);
    // So long that hardly anything else is left in the history.
    host.repeat(HOUR - 10, &[300]);
    host.repeat(HOUR, &[100]);
    assert_eq!(host.watch.reported(), ["raised warning", "cleared warning"]);
}

#[test]
fn the_next_storm_of_a_service_is_reported_too() {
    let mut host = Host::quiet([row(NO_LISTENER)]);
    host.repeat(HOUR, &[0]);
    for storm in 0..5 {
        // Ten minutes in each half hour.
        host.repeat(60, &[1_000]);
        host.repeat(120, &[0]);
        let reported = host.watch.reported();
        assert!(
            reported.first().is_some_and(|it| it.starts_with("raised")),
            "{storm}: {reported:?}"
        );
        assert_eq!(reported.last().map(String::as_str), Some("cleared critical"), "{storm}");
    }
}

#[test]
fn bursts_that_come_back_every_five_minutes_become_the_baseline() {
    let mut host = Host::quiet([row(LINGER)]);
    host.repeat(HOUR, &[0]);
    let mut hours = Vec::new();
    for _ in 0..4 {
        for _ in 0..12 {
            host.add(&[700]);
            host.repeat(29, &[0]);
        }
        hours.push(host.watch.reported().iter().filter(|it| it.starts_with("raised")).count());
    }
    // Six bursts an hour make it so many a window that 700 are not ten times as many.
    assert_eq!(hours, [6, 0, 0, 0]);
}

#[test]
fn a_storm_that_lasts_for_the_whole_history_has_become_the_baseline() {
    let mut host = Host::quiet([row(LINGER)]);
    host.repeat(HOUR, &[1_000]);
    assert_eq!(host.watch.severities().len(), 1);
    assert_says(&host.only().explanation, &["stays like this for 60 min is no change any more"]);
    host.repeat(4 * HOUR, &[1_000]);
    let reported = host.watch.reported();
    assert_eq!(
        reported,
        ["raised info", "info to warning", "warning to critical", "cleared critical"]
    );
    // Ten times that is the next one.
    host.repeat(6, &[12_000]);
    assert_eq!(host.watch.reported(), ["raised critical"]);
}

#[test]
fn a_count_that_began_again_counts_from_nothing() {
    let mut host = Host::quiet([ResetCount { count: 1_000_000, ..row(NO_LISTENER) }]);
    host.rows[0].count = 0;
    assert_eq!(host.add(&[599]), []);
    host.rows[0].count = 0;
    assert_eq!(host.add(&[598]).len(), 1, "two times in one window");
    assert_eq!(text_of(host.only(), "resets_in_window"), "1197");
}

#[test]
fn a_service_that_is_not_mentioned_has_not_moved() {
    let mut host = Host::quiet([ResetCount { count: 1_000_000, ..row(LINGER) }]);
    let mut miss = |readings: u64| {
        let rows = std::mem::take(&mut host.rows);
        host.repeat(readings, &[]);
        host.rows = rows;
        host.add(&[10]).len()
    };
    assert_eq!(miss(1), 0);
    assert_eq!(miss(2), 0);
    assert_eq!(miss(120), 0);
    // After longer the kernel's reader has forgotten it: all that it has is new.
    assert_eq!(miss(140), 1);
}

#[test]
fn a_row_that_its_service_comes_without_once_is_not_new() {
    let another = process(7, "api");
    let mut host = Host::quiet([
        ResetCount { count: 1_000_000, ..row(LINGER) },
        ResetCount { count: 5, process: Some(another), ..row(LINGER) },
    ]);
    let missed = host.rows.remove(0);
    assert_eq!(host.add(&[1]), []);
    host.rows.insert(0, missed);
    assert_eq!(host.add(&[10, 0]), []);
}

#[test]
fn a_storm_is_seen_beside_more_origins_than_fit() {
    let mut host = Host::quiet([row(LINGER)]);
    // A scan from everywhere: as many new rows with each reading as the kernel's tables hold.
    let scanned = |netns: u64, port: u16| ResetCount {
        netns,
        port,
        process: None,
        count: 3,
        ..row(NO_LISTENER)
    };
    let mut raised = 0;
    for reading in 0..10 {
        host.rows.truncate(1);
        if reading >= 5 {
            host.rows.push(ResetCount {
                port: 9_092,
                count: 100_000 * (reading - 4),
                ..row(LINGER)
            });
        }
        let free = 16_384 - host.rows.len() as u16;
        host.rows.extend((0..free).map(|port| scanned(100 + reading, port)));
        let found = host.add(&[]).iter().filter(|it| it.subject.port == Some(9_092)).count();
        assert!(reading < 6 || found == 1, "{found} in reading {reading}");
        raised += found;
    }
    assert!(raised >= 4, "{raised}");
}

#[test]
fn counts_that_move_to_another_process_are_not_new() {
    let mut host = Host::quiet([
        ResetCount { count: 50_000, process: None, ..row(NO_LISTENER) },
        ResetCount { count: 70_000, process: Some(process(7, "api")), ..row(NO_LISTENER) },
    ]);
    // The listener becomes known; then the other ends, and cannot be named any more.
    host.rows[0].process = Some(process(80, "nginx"));
    assert_eq!(host.add(&[20, 0]), []);
    host.rows[1].process = None;
    assert_eq!(host.add(&[0, 30]), []);
    // Both are nameless now, and count together.
    host.rows[0].process = None;
    assert_eq!(host.add(&[10, 10]), []);
    host.add(&[400, 400]);
    // The 30 that came while it changed its name are given up.
    assert_eq!(text_of(host.only(), "resets_in_window"), "820");
}

#[test]
fn another_process_with_the_same_number_begins_anew() {
    let mut host = Host::quiet([ResetCount { count: 100, ..row(LINGER) }]);
    let nginx = (*process_in(80, "nginx", "nginx.service")).clone();
    host.rows.push(ResetCount {
        process: Some(Arc::new(Process { started: START, ..nginx })),
        ..row(LINGER)
    });
    host.add(&[0, 700]);
    assert_eq!(text_of(host.only(), "resets_in_window"), "700");
}

#[test]
fn processes_of_one_name_and_unit_are_one_group_with_the_busiest_in_front() {
    let worker = |pid| ResetCount {
        process: Some(process_in(pid, "nginx", "nginx.service")),
        ..row(LINGER)
    };
    let mut host = Host::quiet([worker(81), worker(82), worker(83)]);
    host.add(&[100, 500, 200]);
    assert_eq!(text_of(host.only(), "resets_in_window"), "800");
    assert_eq!(host.only().subject.pid, Some(82));
}

#[test]
fn each_direction_role_port_process_unit_and_namespace_is_a_group() {
    let client_row = row(LINGER);
    let api = Some(process(7, "api"));
    let other_unit = Some(process_in(90, "nginx", "blue.service"));
    let client = |row: ResetCount| ResetCount { role: Role::Client, ..row };
    let mut host = Host::quiet([
        client(client_row.clone()),
        ResetCount {
            what: SeenReset::Received(TcpState::Established).into(),
            port: 81,
            ..client(client_row.clone())
        },
        client_row.clone(),
        client(ResetCount { port: 80, ..client_row.clone() }),
        client(ResetCount { process: api, ..client_row.clone() }),
        client(ResetCount { process: other_unit, ..client_row.clone() }),
        client(ResetCount { netns: 5, ..client_row }),
    ]);
    assert_eq!(host.add(&[590; 7]), []);
    host.add(&[590; 7]);
    let mut ids: Vec<_> = host.watch.engine.findings().iter().map(|it| it.id.clone()).collect();
    ids.sort();
    assert_eq!(
        ids,
        [
            format!("reset-storm/{HOST}/api//client/443/sent"),
            format!("reset-storm/{HOST}/nginx/blue.service/client/443/sent"),
            format!("reset-storm/{HOST}/nginx/nginx.service/client/443/sent"),
            format!("reset-storm/{HOST}/nginx/nginx.service/client/80/sent"),
            format!("reset-storm/{HOST}/nginx/nginx.service/client/81/received"),
            format!("reset-storm/{HOST}/nginx/nginx.service/server/443/sent"),
            "reset-storm/5/nginx/nginx.service/client/443/sent".to_owned(),
        ]
    );
}

#[test]
fn without_the_hooks_nothing_is_reported_and_watching_begins_anew() {
    let mut host = Host::quiet([row(NO_LISTENER)]);
    host.add(&[700]);
    host.watch.resets = None;
    assert_eq!(host.watch.see([super::host()]), []);
    assert_eq!(host.watch.reported(), ["raised info", "cleared info"]);
    assert_eq!(host.add(&[90_000]), []);
    assert_eq!(host.add(&[90_000]), []);
}

#[test]
fn disabled_it_raises_nothing_but_knows_the_baseline() {
    let mut host = Host::new([row(LINGER)]);
    host.watch.reconfigure(|detect| detect.reset_storm.enabled = false);
    host.repeat(HOUR, &[1_000]);
    host.watch.reconfigure(|detect| detect.reset_storm.enabled = true);
    host.repeat(6, &[1_000]);
    host.watch.reconfigure(|detect| detect.reset_storm.enabled = false);
    host.repeat(6, &[50_000]);
    assert_eq!(host.watch.reported(), Vec::<String>::new());
    host.watch.reconfigure(|detect| detect.reset_storm.enabled = true);
    assert_eq!(host.add(&[50_000]).len(), 1);
    assert_baseline(host.only(), 100.0);
}

#[test]
fn new_thresholds_and_windows_count_from_the_next_look_on() {
    let mut host = Host::quiet([row(NO_LISTENER)]);
    assert_eq!(host.add(&[300]), []);
    host.watch.reconfigure(|detect| detect.reset_storm.warning = 300);
    assert_eq!(host.add(&[0]).len(), 1);
    host.watch.reconfigure(|detect| detect.reset_storm.window = seconds(5));
    assert_eq!(host.add(&[0]), []);
}

#[test]
fn a_scan_of_all_ports_pushes_no_service_out() {
    let service = row(LINGER);
    let mut host = Host::new([service]);
    host.repeat(HOUR, &[100]);
    for scan in 0..10 {
        host.rows.truncate(1);
        host.rows.extend((0..6_000).map(|number| ResetCount {
            port: 10_000 + number,
            process: None,
            count: 3 * (scan + 1),
            ..row(NO_LISTENER)
        }));
        assert_eq!(host.add(&[100]), [], "{scan}");
    }
    // Its baseline is still known.
    host.repeat(6, &[900]);
    assert_eq!(host.watch.reported(), Vec::<String>::new());
    host.repeat(6, &[1_500]);
    assert_eq!(host.only().subject.port, Some(443));
}

/// For the tests of all kinds.
pub(super) const OWNED: Owned = Owned {
    kind: FindingKind::ResetStorm,
    make: be_reset,
    milder: Some("warning = 701"),
    listener_bytes: 0,
};

fn be_reset(making: &mut Making, (process, port): &Service) {
    making.resets.push(ResetCount {
        netns: HOST,
        role: Role::Client,
        port: *port,
        what: SeenReset::Received(TcpState::SynSent).into(),
        process: Some(Arc::clone(process)),
        last_peer: None,
        count: 700,
        other_port: None,
        peers: None,
        other_ports: None,
    });
}
