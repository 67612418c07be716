//! Texts for scripts: times, JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ORIGIN, finding, hooks, led, not_seen, wall};
use crate::{
    engine::{Finding, FindingChange, FindingKind, Severity},
    facts::Timestamp,
    publish::{
        History, Incident, InventoryState, Origin, Status, WallClock, findings_json,
        history::{AGE, MOST},
        history_json, incidents, read_findings, status_json,
    },
};

#[test]
fn times_of_day_follow_the_monotonic_clock() {
    let at = |ms: u64| wall().rfc3339(Timestamp::from_ns(ms * 1_000_000));
    assert_eq!(at(4_000), "2026-11-20T08:00:00.000Z");
    assert_eq!(at(3_999), "2026-11-20T07:59:59.999Z");
    assert_eq!(at(0), "2026-11-20T07:59:56.000Z");
    assert_eq!(wall().unix_seconds(Timestamp::from_ns(4_500_000_000)), 1_795_161_600.5);
    assert_eq!(
        wall().rfc3339(Timestamp::from_ns(u64::MAX)).len(),
        "2611-01-01T00:00:00.000Z".len()
    );
}

#[test]
fn captured_clock_is_the_host_s() {
    let wall = WallClock::at(crate::kernel::now());
    let system = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((wall.unix_seconds(wall.now()) - system.as_secs_f64()).abs() < 1.0);
}

#[test]
fn findings_are_what_the_contract_says() {
    let hooks = hooks();
    let origin = Origin { not_seen: &not_seen(), hooks: Some(&hooks), ..ORIGIN };
    let text = findings_json(&[finding()], &origin, wall());
    assert!(text.ends_with("}\n"));
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json,
        json!({
            "schema_version": 1,
            "generated_at": "2026-11-20T08:00:00.000Z",
            "host": "web1",
            "version": "0.1.0",
            "kernel": "6.18.5",
            "sockets": 1085,
            "network_namespaces": 3,
            "url": "http://192.0.2.1:10743",
            "hooks": [
                {"hook": "set_state", "attached": true},
                {
                    "hook": "bind",
                    "attached": false,
                    "why_not": "fexit is refused (EPERM)",
                    "lost_without": "bind() that fails",
                },
            ],
            "not_seen": [{
                "what": "namespaces",
                "names": ["<pod>", "other"],
                "count": 2,
                "errno": "EPERM",
                "lost": "2 network namespaces",
                "why": "setns() is refused (EPERM)",
                "hides_host": false,
            }],
            "findings": [{
                "id": "close-wait-pileup-1",
                "kind": "close-wait-pileup",
                "severity": "critical",
                "title": "backupd keeps 207 sockets in CLOSE_WAIT to port 443",
                "explanation": "The peer has closed; backupd has read the end and did not close.",
                "evidence": {
                    "sockets": 207,
                    "oldest_seconds": 86400.5,
                    "peers": ["192.0.2.7:443", "192.0.2.8:443"],
                },
                "subject": {
                    "netns": "host",
                    "process": "backupd",
                    "pid": 4711,
                    "port": 443,
                    "role": "client",
                    "fds": [7, 8],
                },
                "remedies": ["Restart backup.service."],
                "runbook": "http://192.0.2.1:10743/runbooks/close-wait-pileup",
                "since": "2026-11-20T07:59:57.000Z",
                "last_seen": "2026-11-20T07:59:59.500Z",
            }],
        })
    );
}

#[test]
fn no_findings_are_an_empty_list() {
    let json: Value =
        serde_json::from_str(&findings_json(&[], &Origin { host: None, ..ORIGIN }, wall()))
            .unwrap();
    assert_eq!(json["findings"], json!([]));
    assert_eq!(json["not_seen"], json!([]));
    assert!(json.get("host").is_none(), "nothing is guessed: {json}");
}

#[test]
fn incidents_have_each_finding_once_and_the_worst_of_all_comes_first() {
    let findings = led();
    let incidents = incidents(&findings);
    let ids = |incident: &Incident<'_>| -> Vec<String> {
        std::iter::once(&incident.leader).chain(&incident.led).map(|it| it.id.clone()).collect()
    };
    let ordered: Vec<_> = incidents.iter().map(ids).collect();
    assert_eq!(ordered, [vec!["cause", "effect", "mild"], vec!["another"], vec!["orphan"]]);
    assert_eq!(incidents[0].severity(), Severity::Critical);
}

#[test]
fn json_has_leaders_only_of_findings_that_are_led() {
    let json: Value = serde_json::from_str(&findings_json(&led(), &ORIGIN, wall())).unwrap();
    let findings = &json["findings"];
    assert_eq!(findings[0]["led_by"], "cause");
    assert_eq!(findings[0].get("related"), None);
    assert_eq!(findings[2]["related"], json!(["effect", "mild"]));
    assert_eq!(findings[2].get("led_by"), None);
    assert_eq!(findings.as_array().unwrap().len(), 5, "all of them, side by side");
}

#[test]
fn a_document_is_read_as_it_was_written() {
    let origin = Origin { not_seen: &not_seen(), ..ORIGIN };
    let read = read_findings(findings_json(&led(), &origin, wall()).as_bytes()).unwrap();
    assert_eq!((read.host.as_deref(), &*read.version), (origin.host, origin.version));
    assert_eq!((read.sockets, read.namespaces), (origin.sockets, origin.namespaces));
    assert_eq!((&*read.kernel, &*read.not_seen), (origin.kernel, origin.not_seen));
    assert_eq!(read.findings.len(), led().len());
    for (read_one, written) in read.findings.iter().zip(led()) {
        let age = |now: Timestamp, at| now.since(at).as_millis();
        assert_eq!(age(read.wall.now(), read_one.since), age(wall().now(), written.since));
        let Finding { since, last_seen, .. } = read_one.clone();
        assert_eq!(*read_one, Finding { since, last_seen, ..written });
    }
}

#[test]
fn a_document_of_another_kind_is_refused() {
    let good = findings_json(&[finding()], &ORIGIN, wall());
    assert!(read_findings(good.as_bytes()).is_ok());
    for (part, other) in [
        ("\"schema_version\":1", "\"schema_version\":2"),
        ("close-wait-pileup\"", "gamma-rays\""),
        ("\"generated_at\":\"2", "\"generated_at\":\"x"),
        ("\"since\":\"2", "\"since\":\"-"),
        ("\"severity\":\"", "\"severity\":\"un"),
        ("\"title\"", "\"titel\""),
    ] {
        let bad = good.replacen(part, other, 1);
        assert_ne!(bad, good, "{part}");
        assert!(read_findings(bad.as_bytes()).is_err(), "{other}");
    }
    assert!(read_findings(b"<html>").is_err());
}

#[test]
fn findings_that_have_ended_are_kept_for_a_day_the_newest_first() {
    let mut history = History::default();
    let start = wall().now();
    for number in 0..MOST as u64 + 10 {
        let ended = Finding { id: number.to_string(), ..finding() };
        let at = start + Duration::from_secs(number);
        history.observe(&FindingChange::Raised(ended.clone()), at);
        history.observe(&FindingChange::Cleared(ended), at);
    }
    let last = start + Duration::from_secs(MOST as u64 + 9);
    assert_eq!(history.ended(last).count(), MOST);
    let newest = history.ended(last).next().map(|it| it.finding.id.clone());
    assert_eq!(newest, Some((MOST + 9).to_string()));
    assert_eq!(history.ended(last + AGE).count(), 1);
    assert_eq!(history.ended(last + AGE + Duration::from_secs(1)).count(), 0);
}

#[test]
fn many_ended_findings_of_one_kind_push_out_no_other_kind() {
    let mut history = History::default();
    let at = wall().now();
    let other = Finding { kind: FindingKind::SelfConnection, id: "other".to_owned(), ..finding() };
    history.observe(&FindingChange::Cleared(other), at);
    for number in 0..2 * MOST {
        let ended = Finding { id: number.to_string(), ..finding() };
        history.observe(&FindingChange::Cleared(ended), at);
    }
    let ids: Vec<_> = history.ended(at).map(|it| it.finding.id.as_str()).collect();
    assert_eq!(ids.len(), MOST);
    assert_eq!(ids.last(), Some(&"other"));
    assert_eq!(ids.first(), Some(&&*(2 * MOST - 1).to_string()));
}

#[test]
fn findings_that_have_ended_are_in_the_history() {
    let mut history = History::default();
    let ended = Finding { id: "ended".to_owned(), ..finding() };
    history.observe(&FindingChange::Cleared(ended), wall().now());
    let json = history_json(&led(), &history, &ORIGIN, wall());
    let json: Value = serde_json::from_str(&json).unwrap();
    let findings = json["findings"].as_array().unwrap();
    assert_eq!((findings.len(), &findings[5]["id"]), (6, &"ended".into()));
    assert_eq!(findings[5]["cleared_at"], json["generated_at"]);
    assert!(findings[..5].iter().all(|it| it.get("cleared_at").is_none()));
}

#[test]
fn status_says_what_the_agent_is_and_whether_it_is_ready() {
    let hooks = hooks();
    let origin = Origin { hooks: Some(&hooks), ..ORIGIN };
    let status = Status {
        revision: "abc",
        started: Timestamp::from_ns(1_000_000_000),
        not_ready: None,
        inventory: InventoryState {
            interval: Duration::from_secs(10),
            last: Some((Timestamp::from_ns(3_000_000_000), Duration::from_millis(20))),
            failures: 1,
        },
        findings: &[finding()],
        lost: &[("log", 2)],
        configuration_accepted: true,
    };
    let of = |status: &Status<'_>| -> Value {
        serde_json::from_str(&status_json(status, &origin, wall())).unwrap()
    };
    let ready = of(&status);
    assert_eq!(ready["started_at"], "2026-11-20T07:59:57.000Z");
    assert_eq!((&ready["uptime_seconds"], &ready["ready"]), (&json!(3.0), &json!(true)));
    assert_eq!(
        ready["inventory"],
        json!({
            "interval_seconds": 10.0,
            "finished_at": "2026-11-20T07:59:59.000Z",
            "duration_seconds": 0.02,
            "failures": 1,
        })
    );
    assert_eq!(ready["findings"], json!({"info": 0, "warning": 0, "critical": 1}));
    assert_eq!(ready["events_lost"], json!({"log": 2}));
    assert_eq!(ready["hooks"][1]["attached"], false);
    let first = InventoryState { last: None, ..status.inventory };
    let waiting = Status { not_ready: Some("why".to_owned()), inventory: first, ..status };
    let waiting = of(&waiting);
    assert_eq!((&waiting["ready"], &waiting["not_ready"]), (&json!(false), &json!("why")));
    assert_eq!(waiting["inventory"]["finished_at"], Value::Null);
}

#[test]
fn an_ended_finding_is_as_severe_as_it_was_at_its_worst() {
    let mut history = History::default();
    let now = Timestamp::from_ns(4_000_000_000);
    let mild = Finding { severity: Severity::Info, ..finding() };
    let worst = Finding { severity: Severity::Critical, ..finding() };
    history.observe(&FindingChange::Raised(mild.clone()), now);
    let worse = FindingChange::SeverityChanged { finding: worst.clone(), from: mild.severity };
    history.observe(&worse, now);
    let better = FindingChange::SeverityChanged { finding: mild.clone(), from: worst.severity };
    history.observe(&better, now);
    history.observe(&FindingChange::Cleared(mild.clone()), now);
    // The next one with this id begins anew.
    history.observe(&FindingChange::Raised(mild.clone()), now);
    history.observe(&FindingChange::Cleared(mild), now);
    let severities: Vec<_> = history.ended(now).map(|ended| ended.finding.severity).collect();
    assert_eq!(severities, [Severity::Info, Severity::Critical]);
}
