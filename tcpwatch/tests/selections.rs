//! Which sockets are behind each kind of finding, by the findings of the recorded incidents.

use std::{
    collections::BTreeSet,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tcpwatch::{
    config::Config,
    engine::{Engine, Finding, FindingChange, FindingKind, selection_of},
    incident::Recording,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents")
}

/// The first finding in a recording of the kind with which the recording's name begins.
fn finding(incident: &str) -> Result<Finding> {
    let config = Config::load(&folder().join("tcpwatch.toml"))?;
    let mut engine = Engine::new(&config.detect, &config.ignore, config.limits.owners);
    let path = folder().join(format!("{incident}.jsonl"));
    for fact in Recording::open(BufReader::new(File::open(&path)?), &path)? {
        fact?.give_to(&mut engine);
        while let Some(change) = engine.poll_change() {
            if let FindingChange::Raised(finding) = change
                && incident.starts_with(finding.kind.name())
            {
                return Ok(finding);
            }
        }
    }
    anyhow::bail!("{incident} raises no such finding")
}

/// The selection without its namespace, whose name each recording has made.
fn selected(finding: &Finding) -> Result<Value> {
    let selection = selection_of(finding).map_err(anyhow::Error::msg)?;
    let mut selection = serde_json::to_value(selection)?;
    let netns = selection.as_object_mut().context("an object")?.remove("netns");
    let is_its = netns.is_none_or(|netns| netns == *finding.subject.netns);
    ensure!(is_its, "the namespace is that of the finding");
    Ok(selection)
}

#[test]
fn each_kind_selects_the_sockets_that_it_is_about() -> Result<()> {
    let table = [
        ("close-wait-pileup", json!({"states": ["close_wait"], "pid": 6227})),
        ("close-wait-pileup-unaccepted", json!({"states": ["close_wait"], "pid": 21604})),
        ("time-wait-exhaustion", json!({"states": ["time_wait"]})),
        (
            "ephemeral-port-exhaustion",
            json!({"local_address": "127.0.0.1", "peer_address": "127.0.0.1", "peer_port": 8443}),
        ),
        (
            "ephemeral-port-exhaustion-bound",
            json!({"conditions": ["pinned"], "local_address": "127.0.0.1"}),
        ),
        (
            "self-connection",
            json!({
                "conditions": ["self_connected"],
                "local_address": "127.0.0.1",
                "local_port": 41004
            }),
        ),
        ("self-connect-risk", json!({"port": 45454})),
        ("self-connect-risk-retried", json!({"port": 45454})),
        (
            "syn-flood",
            json!({"states": ["syn_recv"], "conditions": ["unanswered"], "local_port": 443}),
        ),
        (
            "handshake-stall",
            json!({"states": ["syn_recv"], "conditions": ["unanswered"], "local_port": 443}),
        ),
        ("accept-queue-overflow", json!({"conditions": ["unaccepted"], "local_port": 8080})),
        ("reset-storm", json!({"local_port": 8080})),
        ("reset-storm-linger", json!({"local_port": 8080, "pid": 22937})),
        ("bind-conflict", json!({"local_port": 8080})),
        (
            "stuck-state",
            json!({
                "states": ["syn_sent"],
                "peer_address": "198.18.7.7",
                "peer_port": 5432,
                "pid": 24618
            }),
        ),
        (
            "stuck-state-last-ack",
            json!({"states": ["fin_wait2"], "local_port": 6000, "pid": 22404}),
        ),
        ("keepalive-race", json!({"states": ["established"], "local_port": 8080})),
        (
            "stalled-send",
            json!({
                "conditions": ["stalled"],
                "peer_address": "127.0.0.1",
                "peer_port": 5432,
                "pid": 29641
            }),
        ),
        ("stalled-send-unread", json!({"conditions": ["stalled", "orphan"], "local_port": 8388})),
    ];
    let mut kinds = BTreeSet::from([FindingKind::KernelLimit]);
    for (incident, expected) in table {
        let finding = finding(incident)?;
        assert_eq!(selected(&finding)?, expected, "{incident}");
        kinds.insert(finding.kind);
    }
    assert_eq!(kinds, BTreeSet::from(FindingKind::ALL), "a kind is missing above");
    Ok(())
}

#[test]
fn a_service_owns_the_sockets_of_all_its_processes() -> Result<()> {
    let mut finding = finding("close-wait-pileup")?;
    finding.subject.unit = Some("orders.service".to_owned());
    let states = json!(["close_wait"]);
    assert_eq!(selected(&finding)?, json!({"states": states, "unit": "orders.service"}));
    // A session is no application.
    finding.subject.unit = Some("session-3.scope".to_owned());
    assert_eq!(selected(&finding)?, json!({"states": states, "pid": 6227}));
    finding.subject.container = Some("0123456789ab".to_owned());
    assert_eq!(selected(&finding)?, json!({"states": states, "container": "0123456789ab"}));
    Ok(())
}

#[test]
fn a_limit_has_sockets_only_where_it_is_one_of_sockets() -> Result<()> {
    let mut finding = finding("kernel-limit")?;
    let why = selection_of(&finding).expect_err("a limit of conntrack");
    assert!(why.contains("of the whole host"), "{why}");
    finding.evidence = serde_json::from_value(json!({"resource": "orphans"}))?;
    let selection = serde_json::to_value(selection_of(&finding).map_err(anyhow::Error::msg)?)?;
    assert_eq!(selection, json!({"conditions": ["orphan"]}), "in every namespace");
    finding = self::finding("bind-conflict")?;
    finding.subject.port = None;
    assert!(selection_of(&finding).is_err(), "bind() to port 0");
    Ok(())
}
