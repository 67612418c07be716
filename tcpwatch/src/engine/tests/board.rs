//! Findings that are new, worse or gone.

use super::{super::finding::FINDINGS_PER_KIND, *};

fn leak(watch: &Watch, count: usize) -> Vec<CloseWaitSocket> {
    times(count, &close_wait(&process(12, "backupd"), watch.now - seconds(3_600)))
}

#[test]
fn a_finding_is_reported_once_when_raised_changed_and_cleared() {
    let mut watch = Watch::counting();
    let steps: [(usize, &[&str]); 8] = [
        (0, &[]),
        (20, &["raised warning"]),
        (30, &[]),
        (200, &["warning to critical"]),
        (300, &[]),
        (20, &["critical to warning"]),
        (0, &["cleared warning"]),
        (0, &[]),
    ];
    for (count, expected) in steps {
        watch.pass(INTERVAL);
        watch.see_close_wait(leak(&watch, count));
        assert_eq!(watch.reported(), expected, "{count} sockets");
    }
}

#[test]
fn a_finding_keeps_its_id_and_since_while_it_lasts() {
    let mut watch = Watch::counting();
    watch.see_close_wait(leak(&watch, 20));
    let first = watch.only().clone();
    assert_eq!((first.since, first.last_seen), (START, START));
    watch.pass(INTERVAL);
    watch.see_close_wait(leak(&watch, 250));
    let second = watch.only().clone();
    assert_eq!((&second.id, second.since), (&first.id, START));
    assert_eq!(second.last_seen, START + INTERVAL);
    assert_says(&second.title, &["250 connections"]);

    // After it has cleared it is another one under the same id.
    watch.pass(INTERVAL);
    watch.see_close_wait(Vec::new());
    watch.pass(INTERVAL);
    watch.see_close_wait(leak(&watch, 20));
    assert_eq!(watch.only().id, first.id);
    assert_eq!(watch.only().since, START + INTERVAL * 3);
}

#[test]
fn a_change_tells_the_finding_as_it_is_and_a_clear_as_it_was_last() {
    let mut watch = Watch::counting();
    watch.see_close_wait(leak(&watch, 20));
    watch.see_close_wait(leak(&watch, 200));
    watch.see_close_wait(Vec::new());
    let changes = watch.changes();
    let [
        FindingChange::Raised(raised),
        FindingChange::SeverityChanged { finding, from: Severity::Warning },
        FindingChange::Cleared(cleared),
    ] = &*changes
    else {
        panic!("{changes:#?}");
    };
    assert_says(&raised.title, &["20 connections"]);
    assert_says(&finding.title, &["200 connections"]);
    assert_eq!(finding, cleared);
}

#[test]
fn findings_come_worst_first_then_by_id() {
    let mut watch = Watch::counting();
    watch.reconfigure(|detect| detect.self_connection.severity = Severity::Info);
    let socket = SelfConnectedSocket {
        id: 1,
        endpoint: endpoint("127.0.0.1:40000"),
        state: TcpState::Established,
        owner: None,
    };
    let since = START - seconds(3_600);
    let mut sockets = times(20, &close_wait(&process(3, "c"), since));
    sockets.extend(times(200, &close_wait(&process(2, "b"), since)));
    sockets.extend(times(20, &close_wait(&process(1, "a"), since)));
    let findings =
        watch.see([Namespace { close_wait: sockets, self_connected: vec![socket], ..host() }]);
    let order: Vec<_> = findings
        .iter()
        .map(|finding| (finding.severity, finding.subject.process.as_deref()))
        .collect();
    assert_eq!(
        order,
        [
            (Severity::Critical, Some("b")),
            (Severity::Warning, Some("a")),
            (Severity::Warning, Some("c")),
            (Severity::Info, None),
        ]
    );
}

#[test]
fn changes_that_are_not_polled_are_bounded_and_the_newest_stay() {
    let mut watch = Watch::counting();
    for _ in 0..2_000 {
        watch.see_close_wait(leak(&watch, 20));
        watch.see_close_wait(Vec::new());
    }
    watch.see_close_wait(leak(&watch, 200));
    let reported = watch.reported();
    assert_eq!(reported.len(), 2 * FindingKind::ALL.len() * FINDINGS_PER_KIND);
    assert_eq!(reported.last().map(String::as_str), Some("raised critical"));
}

#[test]
fn two_owners_of_one_id_are_one_finding() {
    let mut watch = Watch::counting();
    let leak = close_wait(&process(1, "a"), START - seconds(3_600));
    // A namespace known by its inode number may have the number of one that is gone.
    let of = |name| Namespace { close_wait: times(20, &leak), ..namespace(7, name) };
    watch.see([of("old"), of("new")]);
    watch.see([of("old"), of("new")]);
    watch.see_close_wait(Vec::new());
    assert_eq!(watch.reported(), ["raised warning", "cleared warning"]);
}

#[test]
fn every_kind_names_its_runbook_and_nothing_is_raised_on_a_quiet_host() {
    for kind in FindingKind::ALL {
        assert_eq!(kind.runbook(), format!("docs/runbooks/{}.md", kind.name()));
    }
    let mut watch = Watch::counting();
    assert_eq!(watch.see([host(), namespace(2, "")]), []);
    assert_eq!(watch.changes(), []);
}
