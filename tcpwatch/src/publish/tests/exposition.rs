//! The exposition: names, values, absence, and counters that do not fall.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use super::{owner, samples, states, wall};
use crate::{
    engine::{NamespaceTotals, Samples},
    facts::{
        CloseWaitDurations, Inventory, KernelCounters, Namespace, PassTotals, ResetObservation,
        TableUse, TcpState,
    },
    publish::{CATALOG, Metrics, catalog_markdown},
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.txt");

fn counters() -> KernelCounters {
    // Its port has no listener.
    let observation = ResetObservation { segment: true, syn: true, ..ResetObservation::default() };
    KernelCounters {
        runs: vec![("set_state", 4_000), ("send_reset", 11)],
        unseen_causes: &[],
        transitions: vec![
            ((TcpState::Established, TcpState::CloseWait), 900),
            // Not among those a working kernel reports, and yet seen.
            ((TcpState::LastAck, TcpState::Listen), 1),
        ],
        close_wait: CloseWaitDurations {
            buckets: vec![
                (Duration::from_millis(1), 500),
                (Duration::from_secs(1), 100),
                (Duration::from_secs(60), 0),
            ],
            beyond: 90,
            sum: Duration::from_millis(1_234_500),
        },
        resets_sent: Some(vec![(observation, 5), (observation, 6)]),
        resets_received: Some(vec![(TcpState::Established, 8)]),
        tables: vec![TableUse { table: "resets", entries: 9, limit: 256 }],
        lost: vec![("ring_buffer", 0), ("owner_cache", 4)],
    }
}

fn inventory() -> Inventory {
    let namespace = |name: &str, established| Namespace {
        name: name.into(),
        sockets: states(&[(TcpState::Established, established)]),
        ..Namespace::default()
    };
    Inventory {
        namespaces: vec![namespace("host", 1_000), namespace("", 3), namespace("", 4)],
        ..Inventory::default()
    }
}

fn metrics() -> Metrics {
    Metrics::new("0.1.0", "abc1234").unwrap()
}

fn full() -> Metrics {
    let mut metrics = metrics();
    metrics.observe_samples(&samples(), wall());
    metrics.observe_counters(&counters());
    metrics.observe_inventory(Duration::from_millis(12), 1_795_000_000.5, &inventory());
    metrics.observe_inventory_cpu(Duration::from_millis(9));
    metrics.observe_inventory_cpu(Duration::from_millis(11));
    metrics.observe_passes(&PassTotals {
        slices: 1_400,
        longest_slice: Duration::from_micros(140),
        read_again: 3,
        given_up: 0,
    });
    metrics.observe_loop(Duration::from_secs(10), Duration::from_millis(1_500));
    metrics.observe_external_url("https://watch.example.org/web-7/");
    metrics.observe_scope("host", "own", "iterator");
    metrics.observe_handover("adopted", true);
    metrics.observe_hooks(&[("inet_sock_set_state", true), ("tcp_send_reset", false)]);
    metrics.observe_reload(Some(1_700.5));
    metrics.observe_tables(&[TableUse { table: "close_wait", entries: 210, limit: 65_536 }]);
    metrics
}

/// The value of one series, written as in the text.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    metrics.encode_own().lines().find_map(|line| {
        let value = line.strip_prefix(series)?.strip_prefix(' ')?;
        Some(value.parse().unwrap())
    })
}

#[test]
fn exposition_is_what_it_was() {
    let text = full().encode_own();
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(GOLDEN, &text).unwrap();
    }
    let golden = fs::read_to_string(GOLDEN).unwrap();
    assert!(
        text == golden,
        "differs from {GOLDEN}; if that is meant, run with UPDATE_GOLDEN=1:\n{text}"
    );
}

#[test]
fn promtool_finds_nothing_to_say() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) if env::var_os("TCPWATCH_REQUIRE_ALL").is_none() => {
            eprintln!("skipped: no promtool: {error}");
            return;
        }
        Err(error) => panic!("TCPWATCH_REQUIRE_ALL is set, and there is no promtool: {error}"),
    };
    let text = full().encode();
    assert!(text.contains("process_resident_memory_bytes "));
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{:?}: {said}", output.status);
}

#[test]
fn catalog_agrees_with_the_exposition() {
    let text = full().encode_own();
    let mut help = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    let mut labels = BTreeMap::<_, BTreeSet<Vec<_>>>::new();
    for line in text.lines() {
        if let Some(row) = line.strip_prefix("# HELP ") {
            let (name, text) = row.split_once(' ').unwrap();
            help.insert(name, text);
        } else if let Some(row) = line.strip_prefix("# TYPE ") {
            let (name, kind) = row.split_once(' ').unwrap();
            kinds.insert(name, kind);
        } else if let Some((name, labelled)) = line.split_once('{')
            && !name.ends_with("_bucket")
        {
            let names = labelled.split(',').map(|label| label.split_once('=').unwrap().0);
            labels.entry(name).or_default().insert(names.collect());
        }
    }
    assert_eq!(help.len(), CATALOG.len(), "the fixture shows every metric");
    for row in CATALOG {
        assert_eq!(help[row.name], row.help);
        assert_eq!(kinds[row.name], row.kind.label());
        let expected = (!row.labels.is_empty()).then(|| BTreeSet::from([row.labels.to_vec()]));
        assert_eq!(labels.get(row.name), expected.as_ref(), "labels of {}", row.name);
        assert!(row.help.ends_with('.') && !row.help.contains("  "), "HELP of {}", row.name);
        assert!(catalog_markdown().contains(row.help));
    }
}

#[test]
fn no_label_could_hold_a_pid_or_an_address() {
    // The URL is the operator's own, and one for each agent.
    const ALLOWED: [&str; 21] = [
        "cause",
        "external_url",
        "from",
        "hook",
        "kind",
        "netns",
        "outcome",
        "part",
        "pidns",
        "port",
        "process",
        "reason",
        "revision",
        "role",
        "severity",
        "stage",
        "state",
        "table",
        "to",
        "unit",
        "walk",
    ];
    for row in CATALOG.iter().filter(|row| row.name != "tcpwatch_build_info") {
        for label in row.labels {
            assert!(ALLOWED.contains(label), "{} has {label}", row.name);
        }
    }
}

#[test]
fn what_was_never_seen_is_absent() {
    let text = metrics().encode_own();
    let series: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        series,
        [
            r#"tcpwatch_build_info{version="0.1.0",revision="abc1234"} 1"#,
            "tcpwatch_config_last_reload_successful 1",
        ]
    );
}

#[test]
fn what_a_missing_hook_would_have_seen_is_absent() {
    let mut metrics = full();
    let missing =
        KernelCounters { resets_sent: None, resets_received: None, ..KernelCounters::default() };
    metrics.observe_counters(&missing);
    assert!(!metrics.encode_own().contains("tcpwatch_resets_"));
}

#[test]
fn closed_enums_are_complete_with_zeros() {
    let metrics = full();
    let zero = |series| assert_eq!(value(&metrics, series), Some(0.0), "{series}");
    zero(r#"tcpwatch_sockets{netns="host",state="closing"}"#);
    zero(r#"tcpwatch_state_transitions_total{from="close",to="syn_sent"}"#);
    zero(r#"tcpwatch_resets_sent_total{cause="linger_zero"}"#);
    zero(r#"tcpwatch_resets_received_total{state="close_wait"}"#);
    zero(r#"tcpwatch_findings{kind="time-wait-exhaustion",severity="info"}"#);
    zero(
        r#"tcpwatch_connect_failures_total{netns="host",process="backupd",unit="backup.service",reason="other"}"#,
    );
    assert_eq!(
        value(&metrics, r#"tcpwatch_resets_sent_total{cause="no_listener"}"#),
        Some(11.0),
        "observations of one cause are summed"
    );
}

#[test]
fn gauges_and_counters_by_owner_vanish_with_what_they_measured() {
    let mut metrics = full();
    metrics.observe_samples(&Samples::default(), wall());
    let text = metrics.encode_own();
    assert!(!text.contains("tcpwatch_sockets"));
    assert!(!text.contains("tcpwatch_close_wait_sockets"));
    assert!(!text.contains("tcpwatch_accept_queue"));
    assert!(!text.contains("tcpwatch_finding_"));
    assert!(!text.contains("tcpwatch_listen_overflows_total"));
    assert!(!text.contains("tcpwatch_connect_failures_total"));
    assert_eq!(value(&metrics, r#"tcpwatch_resets_sent_total{cause="no_listener"}"#), Some(11.0));
}

#[test]
fn counters_of_the_kernel_side_never_fall_and_go_on_from_where_their_source_restarted() {
    let mut metrics = metrics();
    let mut seen = Vec::new();
    for total in [10, 4, 6, 6] {
        metrics.observe_counters(&KernelCounters {
            lost: vec![("ring_buffer", total)],
            ..KernelCounters::default()
        });
        let series = r#"tcpwatch_events_lost_total{stage="ring_buffer"}"#;
        seen.push(value(&metrics, series).unwrap());
    }
    assert_eq!(seen, [10.0, 10.0, 12.0, 12.0]);
}

#[test]
fn a_counter_of_an_owner_that_comes_back_begins_anew() {
    let mut metrics = metrics();
    let mut seen = Vec::new();
    for total in [Some(10), None, Some(2)] {
        let row = |self_connections| NamespaceTotals {
            netns: "pod".into(),
            self_connections,
            netstat: None,
        };
        let samples = Samples {
            namespace_totals: total.map(row).into_iter().collect(),
            ..Samples::default()
        };
        metrics.observe_samples(&samples, wall());
        seen.push(value(&metrics, r#"tcpwatch_self_connections_total{netns="pod"}"#));
    }
    assert_eq!(seen, [Some(10.0), None, Some(2.0)]);
}

#[test]
fn owners_whose_labels_run_together_alike_stay_apart() {
    let mut samples = samples();
    samples.close_wait[0].owner = owner("", "nginx");
    samples.close_wait[0].sockets = 1;
    let mut twin = samples.close_wait[0].clone();
    twin.owner = owner("nginx", "");
    twin.sockets = 2;
    samples.close_wait.push(twin);
    let mut metrics = metrics();
    metrics.observe_samples(&samples, wall());
    let series = |process, unit| {
        format!(
            "tcpwatch_close_wait_sockets{{netns=\"host\",process=\"{process}\",unit=\"{unit}\",\
             role=\"client\",port=\"443\"}}"
        )
    };
    assert_eq!(value(&metrics, &series("", "nginx")), Some(1.0));
    assert_eq!(value(&metrics, &series("nginx", "")), Some(2.0));
}

#[test]
fn samples_with_the_same_labels_are_summed() {
    let mut samples = samples();
    samples.close_wait.push(samples.close_wait[1].clone());
    samples.connect_failures.push(samples.connect_failures[0].clone());
    let mut metrics = metrics();
    for _ in 0..3 {
        metrics.observe_samples(&samples, wall());
    }
    let labels = r#"{netns="host",process="other",unit="",role="",port=""}"#;
    assert_eq!(value(&metrics, &format!("tcpwatch_close_wait_sockets{labels}")), Some(6.0));
    assert_eq!(value(&metrics, &format!("tcpwatch_close_wait_oldest_seconds{labels}")), Some(12.0));
    let refused = r#"tcpwatch_connect_failures_total{netns="host",process="backupd",unit="backup.service",reason="refused"}"#;
    assert_eq!(value(&metrics, refused), Some(82.0));
}

#[test]
fn hostile_label_values_are_escaped() {
    let mut samples = Samples::default();
    let mut leak = super::samples().close_wait[0].clone();
    leak.owner = owner("a\"} 1\nb\\ü\u{fffd}\u{9b}\u{202e}", "");
    samples.close_wait.push(leak);
    let mut metrics = metrics();
    metrics.observe_samples(&samples, wall());
    let text = metrics.encode_own();
    assert!(text.lines().all(crate::plain::is_plain), "{text}");
    assert!(text.contains(r#"process="a\"} 1\\nb\\ü�\\u{9b}\\u{202e}""#), "{text}");
    assert!(text.lines().all(|line| line.starts_with("tcpwatch_") || line.starts_with("# ")));
}

#[test]
fn histogram_is_cumulative() {
    let metrics = full();
    let name = "tcpwatch_close_wait_duration_seconds";
    let bucket = |bound| value(&metrics, &format!("{name}_bucket{{le=\"{bound}\"}}"));
    assert_eq!(bucket("0.001"), Some(500.0));
    assert_eq!(bucket("1"), Some(600.0));
    assert_eq!(bucket("60"), Some(600.0));
    assert_eq!(bucket("+Inf"), Some(690.0));
    assert_eq!(value(&metrics, &format!("{name}_count")), Some(690.0));
    assert_eq!(value(&metrics, &format!("{name}_sum")), Some(1_234.5));
}

#[test]
fn refused_configuration_shows() {
    let mut metrics = metrics();
    let accepted = "tcpwatch_config_last_reload_success_timestamp_seconds";
    metrics.observe_reload(Some(1_700.5));
    metrics.observe_reload(None);
    assert_eq!(value(&metrics, "tcpwatch_config_last_reload_successful"), Some(0.0));
    assert_eq!(value(&metrics, accepted), Some(1_700.5));
    metrics.observe_reload(Some(1_701.0));
    assert_eq!(value(&metrics, "tcpwatch_config_last_reload_successful"), Some(1.0));
    assert_eq!(value(&metrics, accepted), Some(1_701.0));
}
