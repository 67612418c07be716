//! The numbers: grouped by their labels, cut by owners, counted from zero.

use std::collections::BTreeMap;

use super::{super::OTHER, *};
use crate::engine::{NamespaceTotals, Samples};

fn watch_with_owners(owners: usize) -> Watch {
    let detect = Detect::default();
    Watch { engine: Engine::new(&detect, &Ignore::default(), owners), ..Watch::counting() }
}

fn netstat(overflows: u64) -> Option<NetstatCounters> {
    Some(NetstatCounters {
        memory_pressures: None,
        memory_aborts: None,
        time_wait_overflows: overflows,
        listen_overflows: overflows * 2,
        listen_drops: overflows * 3,
        syncookies_sent: overflows * 4,
    })
}

fn totals(samples: &Samples, netns: &str) -> NamespaceTotals {
    let mut found = samples.namespace_totals.iter().filter(|totals| &*totals.netns == netns);
    let totals = found.next().unwrap_or_else(|| panic!("{netns:?} in {samples:#?}")).clone();
    assert_eq!(found.next(), None);
    totals
}

fn failed(process: Option<&Arc<Process>>, reason: ConnectFailure) -> Event {
    let ends = (endpoint("10.0.0.1:40000"), endpoint("10.0.0.9:443"));
    ended(START, HOST, ends, reason, process.cloned())
}

fn self_connected(netns: NetnsId) -> Event {
    Event::SelfConnection { at: START, netns, endpoint: endpoint("127.0.0.1:4"), process: None }
}

#[test]
fn close_wait_rows_are_the_groups_of_their_labels_young_sockets_included() {
    let mut watch = Watch::counting();
    let backupd = process_in(12, "backupd", "backup.service");
    let sockets = vec![
        close_wait(&backupd, START - seconds(5)),
        close_wait(&process_in(13, "backupd", "backup.service"), START - seconds(30)),
        accepted(&backupd, START - seconds(2)),
    ];
    watch.see_close_wait(sockets);
    let rows: Vec<_> = watch
        .engine
        .samples()
        .close_wait
        .into_iter()
        .map(|row| (row.owner.process, row.owner.unit, row.role, row.port, row.sockets, row.oldest))
        .collect();
    let of = |role, port, sockets, oldest| {
        let (process, unit) = ("backupd".to_owned(), "backup.service".to_owned());
        (process, unit, Some(role), Some(port), sockets, seconds(oldest))
    };
    assert_eq!(rows, [of(Role::Client, 443, 2, 30), of(Role::Server, 8_080, 1, 2)]);
}

#[test]
fn close_wait_is_cut_to_the_largest_and_the_others_are_summed() {
    let mut watch = watch_with_owners(2);
    let mut sockets = Vec::new();
    for (pid, name, count) in [(1, "a", 1), (2, "b", 5), (3, "c", 3), (4, "d", 2)] {
        let age = seconds(u64::from(pid) * 10);
        sockets.extend(times(count, &close_wait(&process(pid, name), START - age)));
    }
    watch.see_close_wait(sockets);
    let samples = watch.engine.samples();
    let rows: Vec<_> =
        samples.close_wait.iter().map(|row| (&*row.owner.process, row.sockets)).collect();
    assert_eq!(rows, [("b", 5), ("c", 3), (OTHER, 3)]);
    let other = &samples.close_wait[2];
    assert_eq!((other.role, other.port, other.oldest), (None, None, seconds(40)));
}

/// Sockets that were not described, of one service.
fn beyond(count: u64) -> BTreeMap<(Role, u16), u64> {
    BTreeMap::from([((Role::Client, 443), count)])
}

#[test]
fn close_wait_beyond_the_description_is_counted_under_other() {
    let mut watch = Watch::counting();
    let socket = close_wait(&process(1, "a"), START);
    watch.see([Namespace { close_wait: vec![socket], close_wait_beyond: beyond(1_000), ..host() }]);
    let samples = watch.engine.samples();
    let rows: Vec<_> = samples
        .close_wait
        .iter()
        .map(|row| (&*row.netns, &*row.owner.process, row.sockets))
        .collect();
    assert_eq!(rows, [("host", OTHER, 1_000), ("host", "a", 1)]);
}

#[test]
fn what_is_beyond_in_a_nameless_namespace_is_among_the_others_not_beside_them() {
    let mut watch = watch_with_owners(1);
    let sockets = vec![
        close_wait(&process(1, "a"), START),
        close_wait(&process(2, "b"), START),
        close_wait(&process(2, "b"), START),
    ];
    watch.see([Namespace {
        close_wait: sockets,
        close_wait_beyond: beyond(1_000),
        ..namespace(5, "")
    }]);
    let samples = watch.engine.samples();
    let rows: Vec<_> =
        samples.close_wait.iter().map(|row| (&*row.owner.process, row.sockets)).collect();
    assert_eq!(rows, [("b", 2), (OTHER, 1_001)]);
}

#[test]
fn listeners_of_one_owner_and_port_are_summed() {
    let mut watch = Watch::counting();
    let nginx = process(80, "nginx");
    let listener = |port: u16, accept_queue| Listener {
        accept_queue,
        accept_limit: 128,
        half_open: 3,
        owner: owner(&nginx),
        ..Listener::at(Endpoint { address: address("0.0.0.0"), port })
    };
    let listeners = vec![listener(80, 1), listener(80, 2), listener(443, 0)];
    watch.see([Namespace { listeners, ..host() }]);
    let rows: Vec<_> = watch
        .engine
        .samples()
        .listeners
        .iter()
        .map(|row| (row.port, row.half_open, row.accept_queue, row.accept_limit))
        .collect();
    assert_eq!(rows, [(Some(80), 6, 3, 256), (Some(443), 3, 0, 128)]);
}

#[test]
fn of_the_listeners_the_fullest_stay_then_the_widest() {
    let mut watch = watch_with_owners(2);
    let listener = |pid, name, accept_queue, accept_limit| Listener {
        accept_queue,
        accept_limit,
        owner: owner(&process(pid, name)),
        ..Listener::at(endpoint("0.0.0.0:80"))
    };
    let listeners = vec![
        listener(1, "narrow", 0, 5),
        listener(2, "wide", 0, 4_000_000_000),
        listener(3, "full", 1, 1),
        listener(4, "garbage", u32::MAX, u32::MAX),
    ];
    watch.see([Namespace { listeners, ..host() }]);
    let samples = watch.engine.samples();
    let names: Vec<_> = samples.listeners.iter().map(|row| &*row.owner.process).collect();
    assert_eq!(names, ["garbage", "full", OTHER]);
    assert_eq!(samples.listeners[2].accept_limit, 4_000_000_005);
    assert_eq!(samples.listeners[2].port, None);
}

#[test]
fn namespaces_of_one_name_are_summed_and_show_the_ports_of_the_nearest_to_its_end() {
    let mut watch = Watch::counting();
    let nameless = |id, established, available, used, limit| {
        let mut namespace = namespace(id, "");
        namespace.sockets.set(TcpState::Established, established);
        namespace.ports.available = available;
        namespace.ports.worst = Some(destination("10.0.0.1", "10.0.0.9:443", used));
        namespace.time_wait.limit = limit;
        namespace
    };
    watch.see([
        host(),
        nameless(5, 3, 100, 50, Some(4_000)),
        nameless(6, 4, 10_000, 4_999, Some(2_000)),
        nameless(7, 5, 10, 6, None),
    ]);
    let samples = watch.engine.samples();
    assert_eq!(samples.namespaces.len(), 2);
    let sum = samples.namespaces.iter().find(|row| row.netns.is_empty()).unwrap();
    assert_eq!(sum.sockets.get(TcpState::Established), 12);
    assert_eq!((sum.ports_used, sum.ports_available), (6, 10));
    assert_eq!(sum.time_wait_limit, Some(2_000));
}

#[test]
fn without_a_destination_the_ports_bound_explicitly_are_those_used() {
    let mut watch = Watch::counting();
    let mut namespace = host();
    namespace.ports.pinned = 3;
    watch.see([namespace.clone()]);
    assert_eq!(watch.engine.samples().namespaces[0].ports_used, 3);
    namespace.ports.worst = Some(destination("10.0.0.1", "10.0.0.9:443", 5));
    watch.see([namespace]);
    assert_eq!(watch.engine.samples().namespaces[0].ports_used, 5);
}

#[test]
fn a_namespace_named_other_is_among_the_others_not_beside_them() {
    let mut watch = watch_with_owners(1);
    let with = |id, name, count| {
        let mut namespace = namespace(id, name);
        namespace.sockets.set(TcpState::Established, count);
        namespace
    };
    watch.see([with(1, "host", 5), with(2, OTHER, 100), with(3, "blue", 1)]);
    let samples = watch.engine.samples();
    let rows: Vec<_> =
        samples.namespaces.iter().map(|row| (&*row.netns, row.sockets.total())).collect();
    assert_eq!(rows, [("host", 5), (OTHER, 101)]);
}

#[test]
fn netstat_counters_start_at_zero_and_count_what_comes_after() {
    let mut watch = Watch::counting();
    watch.see([Namespace { netstat: netstat(1_000), ..host() }]);
    let first = totals(&watch.engine.samples(), "host");
    assert_eq!(first.netstat, Some(NetstatCounters::default()));
    watch.see([Namespace { netstat: netstat(1_005), ..host() }]);
    assert_eq!(totals(&watch.engine.samples(), "host").netstat, netstat(5));
}

#[test]
fn netstat_counters_outlive_their_namespace_for_a_while_then_are_part_of_other() {
    let mut watch = Watch::counting();
    let blue = |overflows| Namespace { netstat: netstat(overflows), ..namespace(5, "blue") };
    watch.see([blue(10)]);
    watch.see([blue(13)]);
    watch.see([host()]);
    assert_eq!(totals(&watch.engine.samples(), "blue").netstat, netstat(3));
    // A new namespace of that name begins at its first look, and adds to what the name had.
    watch.see([Namespace { id: 6, ..blue(100) }]);
    watch.see([Namespace { id: 6, ..blue(101) }]);
    assert_eq!(totals(&watch.engine.samples(), "blue").netstat, netstat(4));
    for _ in 0..20 {
        watch.see([host()]);
    }
    let samples = watch.engine.samples();
    assert_eq!(totals(&samples, OTHER).netstat, netstat(4));
    assert!(samples.namespace_totals.iter().all(|totals| &*totals.netns != "blue"));
}

#[test]
fn pods_that_come_and_go_leave_names_for_those_that_are_there() {
    let mut watch = watch_with_owners(10);
    let pod = |id: u64, overflows| Namespace {
        netstat: netstat(overflows),
        ..namespace(id, &format!("pod-{id}"))
    };
    for minute in 0..60 {
        for look in 0..12 {
            watch.see([host(), pod(1, minute * 12 + look), pod(100 + minute, look)]);
        }
    }
    // A pod that starts now has a name, and one that was always there has kept its own.
    watch.see([host(), pod(1, 720), pod(999, 0)]);
    watch.see([host(), pod(1, 720), pod(999, 1_000_000)]);
    let samples = watch.engine.samples();
    assert_eq!(totals(&samples, "pod-999").netstat, netstat(1_000_000));
    assert_eq!(totals(&samples, "pod-1").netstat, netstat(720));
    assert!(samples.namespace_totals.len() <= 11, "{samples:#?}");
}

#[test]
fn netstat_that_could_not_be_read_is_absent_or_as_it_was() {
    let mut watch = Watch::counting();
    let unread = || Namespace { netstat: None, ..host() };
    watch.see([unread()]);
    assert_eq!(totals(&watch.engine.samples(), "host").netstat, None);
    watch.see([Namespace { netstat: netstat(10), ..host() }]);
    watch.see([unread()]);
    assert_eq!(totals(&watch.engine.samples(), "host").netstat, netstat(0));
    // Moves while the counters could not be read are not lost.
    watch.see([Namespace { netstat: netstat(12), ..host() }]);
    assert_eq!(totals(&watch.engine.samples(), "host").netstat, netstat(2));
}

#[test]
fn namespace_totals_beyond_the_limit_share_a_name() {
    let mut watch = watch_with_owners(1);
    let with = |overflows| {
        [
            Namespace { netstat: netstat(overflows), ..host() },
            Namespace { netstat: netstat(overflows), ..namespace(5, "blue") },
            Namespace { netstat: netstat(overflows), ..namespace(6, "green") },
        ]
    };
    watch.see(with(1));
    watch.see(with(3));
    let samples = watch.engine.samples();
    assert_eq!(samples.namespace_totals.len(), 2);
    assert_eq!(totals(&samples, "host").netstat, netstat(2));
    assert_eq!(totals(&samples, OTHER).netstat, netstat(4));
}

#[test]
fn self_connections_are_counted_even_if_no_inventory_finds_them() {
    let mut watch = Watch::counting();
    // Before the first inventory names the namespace.
    watch.engine.handle_event(&self_connected(HOST));
    assert_eq!(watch.engine.samples().namespace_totals, []);
    watch.see([host(), namespace(5, "blue")]);
    assert_eq!(totals(&watch.engine.samples(), "host").self_connections, 1);
    assert_eq!(totals(&watch.engine.samples(), "blue").self_connections, 0);
    // Afterwards at once.
    watch.engine.handle_event(&self_connected(5));
    assert_eq!(totals(&watch.engine.samples(), "blue").self_connections, 1);
    // One that came and went between two inventories has no name.
    watch.engine.handle_event(&self_connected(99));
    watch.see([host()]);
    assert_eq!(totals(&watch.engine.samples(), "").self_connections, 1);
    assert_eq!(watch.engine.findings(), []);
}

#[test]
fn a_flood_of_self_connections_in_unknown_namespaces_is_counted_to_the_last() {
    let mut watch = Watch::counting();
    for netns in 0..5_000 {
        watch.engine.handle_event(&self_connected(netns + 1));
    }
    watch.see([host()]);
    assert_eq!(totals(&watch.engine.samples(), "").self_connections, 5_000);
}

#[test]
fn connect_failures_are_counted_by_owner_and_reason() {
    let mut watch = Watch::counting();
    watch.see([host()]);
    let curl = process_in(70, "curl", "sync.service");
    for reason in ConnectFailure::ALL {
        watch.engine.handle_event(&failed(Some(&curl), reason));
    }
    watch.engine.handle_event(&failed(Some(&curl), ConnectFailure::Refused));
    watch.engine.handle_event(&failed(None, ConnectFailure::Refused));
    let mut rows: Vec<_> = watch
        .engine
        .samples()
        .connect_failures
        .into_iter()
        .map(|row| (row.owner.process, row.owner.unit, row.reason, row.total))
        .collect();
    rows.sort();
    let of = |process: &str, unit: &str, reason, total| {
        (process.to_owned(), unit.to_owned(), reason, total)
    };
    let mut expected: Vec<_> = ConnectFailure::ALL
        .map(|reason| {
            of(
                "curl",
                "sync.service",
                reason,
                if reason == ConnectFailure::Refused { 2 } else { 1 },
            )
        })
        .to_vec();
    expected.insert(0, of("", "", ConnectFailure::Refused, 1));
    assert_eq!(rows, expected);
}

#[test]
fn a_counter_loses_its_name_with_the_limit_and_other_never_falls() {
    let mut watch = watch_with_owners(1);
    watch.see([host()]);
    let (a, b) = (process(1, "a"), process(2, "b"));
    let total_of = |watch: &Watch, name: &str| {
        let samples = watch.engine.samples();
        let rows = samples.connect_failures.iter();
        rows.filter(|row| row.owner.process == name).map(|row| row.total).sum::<u64>()
    };
    let fail = |watch: &mut Watch, process: &Arc<Process>| {
        watch.engine.handle_event(&failed(Some(process), ConnectFailure::Refused));
    };
    fail(&mut watch, &a);
    fail(&mut watch, &b);
    assert_eq!((total_of(&watch, "a"), total_of(&watch, OTHER)), (1, 1));
    watch.engine.reconfigure(&watch.detect, &watch.ignore, 2);
    fail(&mut watch, &b);
    assert_eq!((total_of(&watch, "b"), total_of(&watch, OTHER)), (1, 1));
    // The smaller loses its name with the next inventory.
    watch.engine.reconfigure(&watch.detect, &watch.ignore, 1);
    fail(&mut watch, &b);
    watch.see([host()]);
    assert_eq!((total_of(&watch, "b"), total_of(&watch, OTHER)), (2, 2));
    assert_eq!(total_of(&watch, "a"), 0);
}

#[test]
fn connect_failures_before_the_first_inventory_get_the_name_of_their_namespace() {
    let mut watch = Watch::counting();
    watch.engine.handle_event(&failed(None, ConnectFailure::Refused));
    watch.see([host()]);
    let rows = watch.engine.samples().connect_failures;
    assert_eq!(rows.iter().map(|row| (&*row.netns, row.total)).collect::<Vec<_>>(), [("host", 1)]);
}

#[test]
fn findings_are_cut_from_the_mildest_and_counted_under_other_by_kind_and_severity() {
    let mut watch = watch_with_owners(2);
    watch.detect.close_wait_pileup.warning = 20;
    watch.detect.close_wait_pileup.critical = 200;
    watch.engine.reconfigure(&watch.detect, &watch.ignore, 2);
    let since = START - seconds(3_600);
    let mut sockets = Vec::new();
    for (pid, name, count) in [(1, "a", 20), (2, "b", 200), (3, "c", 20), (4, "d", 20)] {
        sockets.extend(times(count, &close_wait(&process(pid, name), since)));
    }
    watch.see_close_wait(sockets);
    let samples = watch.engine.samples();
    let rows: Vec<_> = samples
        .findings
        .iter()
        .map(|row| (&*row.netns, &*row.owner.process, row.severity.label(), row.port, row.count))
        .collect();
    assert_eq!(
        rows,
        [
            ("host", "b", "critical", Some(443), 1),
            ("host", "a", "warning", Some(443), 1),
            ("", OTHER, "warning", None, 2),
        ]
    );
}

#[test]
fn findings_of_equal_labels_are_one_row() {
    let mut watch = Watch::counting();
    let mut namespace = host();
    namespace.ports.busy = vec![
        destination("10.0.0.1", "10.0.0.9:443", 28_000),
        destination("10.0.0.1", "10.0.0.8:443", 28_000),
    ];
    let mut first = namespace.clone();
    first.ports.busy.truncate(1);
    watch.see([first]);
    let since = watch.engine.samples().findings[0].since;
    watch.see([namespace]);
    let samples = watch.engine.samples();
    assert_eq!(samples.findings.len(), 1);
    assert_eq!(samples.findings[0].count, 2);
    assert_eq!(samples.findings[0].since, since, "that of the first");
}

#[test]
fn gauges_are_those_of_the_last_inventory() {
    let mut watch = Watch::counting();
    watch.see_close_wait(times(30, &close_wait(&process(1, "a"), START - seconds(3_600))));
    watch.see([]);
    let samples = watch.engine.samples();
    assert_eq!(samples.close_wait, []);
    assert_eq!(samples.namespaces, []);
    assert_eq!(samples.findings, []);
}
