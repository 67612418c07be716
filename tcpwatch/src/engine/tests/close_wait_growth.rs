//! `close-wait-pileup`: leak, stuck or slow; the limit of open files; whose stacks are requested.

use super::*;

/// The sockets of one owner with these identities, long in CLOSE_WAIT.
fn sockets(ids: std::ops::Range<u64>) -> Vec<CloseWaitSocket> {
    let socket = close_wait(&process(12, "backupd"), START - seconds(3_600));
    ids.map(|id| CloseWaitSocket { id, ..socket.clone() }).collect()
}

/// Looks every `INTERVAL` up to and including `last` at the sockets that are there at each second.
fn watch_until(last: u64, ids_at: impl Fn(u64) -> std::ops::Range<u64>) -> Watch {
    let mut watch = Watch::counting();
    for second in (0..=last).step_by(10) {
        watch.now = START + seconds(second);
        watch.see_close_wait(sockets(ids_at(second)));
    }
    watch
}

/// The same with open descriptors of their process; `per_minute` more sockets and descriptors.
fn watch_descriptors(last: u64, first: u64, per_minute: u64, limit: u64) -> Watch {
    let mut watch = Watch::counting();
    for second in (0..=last).step_by(10) {
        watch.now = START + seconds(second);
        see_with_descriptors(&mut watch, 20 + second * per_minute / 60, first, limit);
    }
    watch
}

/// So many sockets, and `base` descriptors more.
fn see_with_descriptors(watch: &mut Watch, count: u64, base: u64, limit: u64) {
    let close_wait = sockets(0..count);
    let mut inventory = inventory([Namespace { close_wait, ..host() }], watch.now);
    let descriptors = DescriptorUse { open: base + count, limit, hard_limit: 0 };
    inventory.descriptors.insert(12, descriptors);
    watch.take(&inventory);
}

#[test]
fn there_is_no_verdict_before_enough_has_been_watched() {
    for second in [0, 10, 290] {
        let watch = watch_until(second, |_| 0..30);
        assert_eq!(text_of(watch.only(), "verdict"), "absent", "at {second} s");
        assert_eq!(text_of(watch.only(), "sockets_watched"), "absent", "at {second} s");
    }
    // The watch shows by then that none leaves, but not yet whether more come.
    let watch = watch_until(300, |_| 0..30);
    assert_eq!(text_of(watch.only(), "sockets_watched"), "30");
    assert_eq!(text_of(watch.only(), "verdict"), "absent");
}

#[test]
fn a_number_that_grows_while_none_leave_is_a_leak() {
    for last in [300, 900] {
        let watch = watch_until(last, |second| 0..20 + second / 30);
        assert_eq!(text_of(watch.only(), "verdict"), "leak", "after {last} s");
        assert_says(&watch.only().explanation, &["This is a leak", "none of", "watched left"]);
    }
    // A leak stays one when its process closes one socket.
    let watch = watch_until(900, |second| u64::from(second > 500)..20 + second / 30);
    assert_eq!(text_of(watch.only(), "verdict"), "leak");
    assert_says(&watch.only().explanation, &["only 1 left while"]);
}

#[test]
fn a_number_that_neither_grows_nor_falls_is_stuck() {
    let watch = watch_until(600, |_| 0..30);
    assert_eq!(text_of(watch.only(), "verdict"), "stuck");
    assert_says(&watch.only().explanation, &["a thread hangs, or a pool keeps them"]);
    // A burst that came within one quarter of the window is no growth that lasts.
    let watch = watch_until(900, |second| 0..if second < 400 { 20 } else { 50 });
    assert_eq!(text_of(watch.only(), "verdict"), "stuck");
}

#[test]
fn sockets_that_leave_late_are_slow_whether_or_not_more_come() {
    // One a minute goes and another comes.
    let watch = watch_until(900, |second| second / 60..second / 60 + 30);
    assert_eq!(text_of(watch.only(), "verdict"), "slow");
    // Ten minutes, both ends counted.
    assert_eq!(text_of(watch.only(), "sockets_left_in_window"), "11");
    assert_says(&watch.only().explanation, &["closed in the end, but late", "11 left while 30"]);
    // Two come for each that goes.
    let watch = watch_until(900, |second| second / 60..second / 30 + 30);
    assert_eq!(text_of(watch.only(), "verdict"), "slow");
}

#[test]
fn sockets_that_were_too_many_to_describe_have_not_left() {
    let mut watch = Watch::counting();
    for second in (0..=900).step_by(10) {
        watch.now = START + seconds(second);
        // Other ones are described each time.
        let close_wait = sockets(second * 1_000..second * 1_000 + 30);
        let close_wait_beyond = [((Role::Client, 443), 5_000)].into();
        watch.see([Namespace { close_wait, close_wait_beyond, ..host() }]);
    }
    assert_eq!(text_of(watch.only(), "verdict"), "absent");
}

/// The first sockets of the walk are described, and those beyond grow by ten a minute.
fn watch_beyond(described: impl Fn() -> Vec<CloseWaitSocket>) -> Watch {
    let mut watch = Watch::counting();
    for second in (0..=900).step_by(10) {
        watch.now = START + seconds(second);
        let close_wait_beyond = [((Role::Client, 443), 5_000 + second / 6)].into();
        watch.see([Namespace { close_wait: described(), close_wait_beyond, ..host() }]);
    }
    watch
}

#[test]
fn growth_beyond_the_description_counts_for_the_only_owner() {
    let watch = watch_beyond(|| sockets(0..40));
    let finding = watch.only();
    assert_eq!(text_of(finding, "verdict"), "leak");
    assert_eq!(text_of(finding, "growth_sockets_per_minute"), "10");
    assert!(finding.explanation.contains("keeps growing"), "{}", finding.explanation);
}

#[test]
fn growth_beyond_the_description_is_of_neither_of_two_owners() {
    let watch = watch_beyond(|| {
        let mut both = sockets(0..80);
        for socket in &mut both[..40] {
            socket.owner = close_wait(&process(13, "other"), START).owner;
        }
        both
    });
    let findings = watch.engine.findings();
    assert_eq!(findings.len(), 2, "{findings:#?}");
    for finding in findings {
        assert_eq!(text_of(finding, "verdict"), "stuck");
        assert_eq!(text_of(finding, "growth_sockets_per_minute"), "0");
    }
}

#[test]
fn a_leak_that_grows_pauses_and_grows_is_raised_and_cleared_once() {
    let mut watch = watch_until(5_000, |second| {
        let working = second % 1_500;
        0..second / 1_500 * 10 + working.min(600) / 60
    });
    assert_eq!(watch.reported(), ["raised warning"]);
    watch.pass(INTERVAL);
    watch.see_close_wait(Vec::new());
    assert_eq!(watch.reported(), ["cleared warning"]);
}

#[test]
fn the_minutes_to_the_limit_follow_from_the_growth() {
    // Six a minute: 80 of 1024 at the end, 944 are left.
    let watch = watch_descriptors(600, 0, 6, 1_024);
    let finding = watch.only();
    assert_eq!(finding.severity, Severity::Warning);
    assert_eq!(text_of(finding, "open_descriptors"), "80");
    assert_eq!(text_of(finding, "limit_descriptors"), "1024");
    assert_eq!(text_of(finding, "time_to_limit_minutes"), "157.333");
    let said =
        "80 of 1,024 descriptors are open; at this growth socket() and open() fail in 2 h 37 min.";
    assert_says(&finding.explanation, &[said]);
    assert!(!finding.title.contains("descriptors"), "{}", finding.title);
}

#[test]
fn without_growth_there_are_no_minutes_to_the_limit() {
    let watch = watch_descriptors(600, 900, 0, 1_024);
    assert_eq!(watch.only().severity, Severity::Warning, "nearly full, but it stays so");
    assert_eq!(text_of(watch.only(), "open_descriptors"), "920");
    assert_eq!(text_of(watch.only(), "time_to_limit_minutes"), "absent");
    assert_says(&watch.only().explanation, &["920 of 1,024 descriptors are open."]);
    // So it is where /proc tells nothing, and where there is no limit.
    let watch = watch_until(600, |second| 0..20 + second / 10);
    assert_eq!(text_of(watch.only(), "open_descriptors"), "absent");
    let watch = watch_descriptors(600, 0, 6, u64::MAX);
    assert_eq!(text_of(watch.only(), "time_to_limit_minutes"), "absent");
}

#[test]
fn a_limit_that_is_ten_minutes_away_is_critical() {
    // The descriptors at 150 s, when two eighths of the window have grown by six a minute: 35.
    let table = [(96, Severity::Warning), (94, Severity::Critical)];
    for (limit, severity) in table {
        let watch = watch_descriptors(150, 0, 6, limit);
        assert_eq!(watch.only().severity, severity, "limit {limit}");
        let early = watch_descriptors(140, 0, 6, limit);
        assert_eq!(early.only().severity, Severity::Warning, "two eighths have not grown yet");
    }
    let watch = watch_descriptors(150, 0, 6, 94);
    assert_says(&watch.only().title, &["; 35 of 94 descriptors are open"]);
    assert_says(&remedies_of(watch.only()), &["prlimit --pid 12 --nofile=188:` "]);
}

#[test]
fn more_descriptors_are_proposed_up_to_the_hard_limit_and_beyond_it_as_root() {
    let table = [
        (0, "--nofile=188:` (the soft limit, up to the hard one)."),
        (94, "--nofile=188:188` (as root: the hard limit is no higher"),
        (100, "--nofile=100:` (the soft limit, up to the hard one of 100)."),
        (524_288, "--nofile=188:` (the soft limit, up to the hard one of 524288)."),
        (u64::MAX, "--nofile=188:` (the soft limit, up to the hard one)."),
    ];
    for (hard_limit, command) in table {
        let mut watch = watch_descriptors(150, 0, 6, 94);
        let close_wait = sockets(0..35);
        let mut inventory = inventory([Namespace { close_wait, ..host() }], watch.now);
        inventory.descriptors.insert(12, DescriptorUse { open: 35, limit: 94, hard_limit });
        watch.take(&inventory);
        assert_says(&remedies_of(watch.only()), &[&format!("`prlimit --pid 12 {command}")]);
    }
}

#[test]
fn nine_tenths_of_the_descriptors_are_critical_while_they_grow() {
    // One a minute: 22 at 150 s, of 1000.
    let growing = watch_descriptors(150, 878, 1, 1_000);
    assert_eq!(growing.only().severity, Severity::Critical);
    let growing = watch_descriptors(150, 877, 1, 1_000);
    assert_eq!(growing.only().severity, Severity::Warning);
}

#[test]
fn want_of_descriptors_does_not_flap_when_growth_pauses() {
    let mut watch = watch_descriptors(300, 878, 1, 1_000);
    assert_eq!(watch.reported(), ["raised warning", "warning to critical"]);
    let mut pass = |from: u64, to: u64, count: u64| {
        for second in (from..=to).step_by(10) {
            watch.now = START + seconds(second);
            see_with_descriptors(&mut watch, count, 878, 1_000);
        }
        watch.reported()
    };
    assert_eq!(pass(310, 700, 25), [""; 0]);
    assert_eq!(pass(710, 1_200, 26), [""; 0]);
    // A whole window adds nothing.
    assert_eq!(pass(1_210, 1_320, 26), ["critical to warning"]);
}

#[test]
fn stacks_are_requested_of_processes_whose_sockets_grow_now() {
    let requested = |watch: &Watch| watch.engine.focus().stacks_of;
    assert_eq!(requested(&watch_until(10, |_| 0..30)), [0_u32; 0], "they do not grow");
    assert_eq!(
        requested(&watch_until(10, |second| 0..3 + second / 5)),
        [0_u32; 0],
        "five are less than half of `growing`"
    );
    let mut watch = watch_until(10, |second| 0..5 + second / 10);
    assert_eq!(requested(&watch), [12], "before there is a finding");
    assert_eq!(watch.engine.findings(), []);
    // A quarter of the window later nothing has come.
    watch.now = START + seconds(150);
    watch.see_close_wait(sockets(0..6));
    assert_eq!(requested(&watch), [12]);
    watch.now = START + seconds(160);
    watch.see_close_wait(sockets(0..6));
    assert_eq!(requested(&watch), [0_u32; 0]);
    watch.see_close_wait(sockets(0..7));
    assert_eq!(requested(&watch), [12]);
    watch.see_close_wait(Vec::new());
    assert_eq!(requested(&watch), [0_u32; 0]);
}

#[test]
fn stacks_are_requested_only_where_the_configuration_says_so() {
    let mut watch = watch_until(10, |second| 0..10 + second);
    assert_eq!(watch.engine.focus().stacks_of, [12]);
    watch.reconfigure(|detect| detect.close_wait_pileup.stacks = false);
    watch.see_close_wait(sockets(0..21));
    assert!(watch.engine.focus().is_empty());
    watch.reconfigure(|detect| detect.close_wait_pileup.stacks = true);
    watch.see_close_wait(sockets(0..22));
    assert_eq!(watch.engine.focus().stacks_of, [12]);
    watch.reconfigure(|detect| detect.close_wait_pileup.enabled = false);
    watch.see_close_wait(sockets(0..23));
    assert!(watch.engine.focus().is_empty());
}

#[test]
fn stacks_are_requested_of_the_eight_processes_with_most_sockets() {
    let mut watch = Watch::counting();
    for count in [6, 7] {
        let of = |pid: u32| {
            let owner = process(pid, &format!("p{pid}"));
            times(count + pid as usize, &close_wait(&owner, START - seconds(3_600)))
        };
        watch.see_close_wait((1..=20).flat_map(of).collect());
    }
    let largest: Vec<u32> = (13..=20).collect();
    assert_eq!(watch.engine.focus().stacks_of, largest);
}

#[test]
fn owners_of_one_namespace_take_no_place_of_a_larger_one_elsewhere() {
    let mut watch = Watch::new();
    let since = START - seconds(3_600);
    let sockets = |pid: u32, count| times(count, &close_wait(&process(pid, "worker"), since));
    // More owners than are followed, in the namespace that comes first.
    let crowd: Vec<_> = (1_000..2_100).flat_map(|pid| sockets(pid, 2)).collect();
    for count in 40..110 {
        let crowd = Namespace { close_wait: crowd.clone(), ..host() };
        let leak = Namespace { close_wait: sockets(7, count), ..super::namespace(9, "blue") };
        watch.see([crowd, leak]);
        watch.pass(INTERVAL);
    }
    // Its growth is known.
    assert_says(&watch.only().explanation, &["Their number keeps growing"]);
}
