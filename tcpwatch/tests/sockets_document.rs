//! The JSON Schema of listed sockets, `docs/sockets.schema.json`, against what an agent answers to
//! `curl` on its UNIX socket, and what `jq` reads there.

mod support;

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use jsonschema::Validator;
use scenes::{CloseWaitLeak, Namespace, Stuck, TimeWaits};
use serde_json::{Value, json};
use support::{Agent, Folder, poll, skip};

const SCHEMA: &str = include_str!("../../docs/sockets.schema.json");

fn validator() -> Result<Validator> {
    let schema: Value = serde_json::from_str(SCHEMA)?;
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    ensure!(jsonschema::meta::is_valid(&schema), "{:?}", jsonschema::meta::validate(&schema).err());
    Ok(jsonschema::validator_for(&schema)?)
}

fn errors(validator: &Validator, document: &Value) -> Vec<String> {
    let describe =
        |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    validator.iter_errors(document).map(describe).collect()
}

fn has(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// The body that curl gets from a UNIX socket, and the status.
fn curl(socket: &Path, path: &str) -> Result<(Vec<u8>, String)> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--write-out", "%{stderr}%{http_code}"])
        .arg("--unix-socket")
        .arg(socket)
        .arg(format!("http://localhost{path}"))
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok((output.stdout, String::from_utf8(output.stderr)?))
}

/// The output of jq for a document.
fn jq(folder: &Folder, document: &[u8], filter: &str) -> Result<String> {
    let file = folder.write("sockets.json", std::str::from_utf8(document)?)?;
    let output = Command::new("jq").args(["--raw-output", filter]).arg(file).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

#[test]
fn curl_and_jq_read_sockets_of_every_sort_and_each_follows_the_schema() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    if !has("curl") || !has("jq") {
        return skip("needs curl and jq");
    }
    let validator = validator()?;
    let folder = Folder::new()?;
    let socket = folder.path.join("tcpwatch.sock");
    let agent = Agent::start_with_web(
        "[inventory]\ninterval = \"1s\"\n[detect.close_wait_pileup]\nwarning = 10\nmin_age = \"1s\"\n",
        &format!("socket = \"{}\"\n", socket.display()),
    )?;
    let ns = Namespace::new("schema")?;
    let _leak = CloseWaitLeak::client(&ns, 20, 7_300, false)?;
    let _time_waits = TimeWaits::make(&ns, 3, 8_000)?;
    let _orphan = scenes::orphaned_fin_wait2(&ns)?;
    let _stuck = Stuck::in_established(&ns, 2, 5_432)?;
    let listener = support::listen(&ns, 7_000, 5)?;
    scenes::half_open(&ns, 2, 1, 7_000)?;
    let _waiting = support::begin_connects(&ns, 2, 7_000)?;
    let _refused = ns.enter(|| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, 9)))?;

    let path = format!("/api/v1/sockets?netns={}", ns.name());
    let (body, status) = curl(&socket, &path)?;
    assert_eq!(status, "200");
    let all: Value = serde_json::from_slice(&body)?;
    ensure!(errors(&validator, &all).is_empty(), "{:#?} in {all:#}", errors(&validator, &all));
    let states = jq(&folder, &body, "[.sockets[].state] | unique | join(\" \")")?;
    for state in ["close_wait", "time_wait", "fin_wait2", "syn_recv", "listen", "established"] {
        ensure!(states.split(' ').any(|it| it == state), "{state} is not in {states}");
    }
    let unaccepted = jq(&folder, &body, "[.sockets[] | select(.unaccepted)] | length")?;
    assert_ne!(unaccepted, "0");

    let stalled = poll("a stalled socket", || {
        let (body, _) = curl(&socket, &path)?;
        let stalled = jq(&folder, &body, "[.sockets[] | select(.stalled)] | length")?;
        Ok((stalled != "0").then_some(body))
    })?;
    let stalled: Value = serde_json::from_slice(&stalled)?;
    ensure!(errors(&validator, &stalled).is_empty(), "{:#?}", errors(&validator, &stalled));

    let finding = poll("the pileup", || {
        let finding = agent.findings("close-wait-pileup", ns.name())?.pop();
        // The orphan's other end is one more.
        Ok(finding.filter(|it| it["evidence"]["sockets"] == 21))
    })?;
    let id = finding["id"].as_str().context("no id")?;
    let (body, status) = curl(&socket, &format!("/api/v1/sockets?finding={id}&limit=5"))?;
    assert_eq!(status, "200");
    let of_finding: Value = serde_json::from_slice(&body)?;
    let errors_of = errors(&validator, &of_finding);
    ensure!(errors_of.is_empty(), "{errors_of:#?} in {of_finding:#}");
    let sockets = &finding["evidence"]["sockets"];
    let numbers = jq(&folder, &body, "[.total, .truncated, (.sockets | length)] | @csv")?;
    assert_eq!(numbers, format!("{sockets},true,5"));
    let owners = jq(&folder, &body, "[.sockets[].pid] | unique | join(\" \")")?;
    assert_eq!(owners, std::process::id().to_string());

    let (body, status) = curl(&socket, "/api/v1/sockets?finding=none")?;
    assert_eq!(status, "404");
    assert!(body.starts_with(b"no finding has the id none now"));
    drop(listener);
    Ok(())
}

#[test]
fn a_document_that_breaks_the_schema_is_refused() -> Result<()> {
    let validator = validator()?;
    let valid = json!({
        "schema_version": 1, "generated_at": "2026-11-20T08:00:00.000Z", "host": "web-7",
        "version": "0.1.0", "selection": {"states": ["close_wait"], "pid": 7},
        "network_namespaces": 1, "network_namespaces_left_out": 0, "total": 1, "total_is_exact": true, "examined": 1,
        "truncated": false,
        "sockets": [{
            "netns": "host", "state": "close_wait", "local": "127.0.0.1:40000",
            "peer": "[::1]:80", "role": "client", "age_seconds": 1.5, "age_is_exact": true,
            "process": "orders-api", "pid": 7, "fds": [5], "unaccepted": false,
            "orphan": false, "stalled": false,
        }],
    });
    ensure!(errors(&validator, &valid).is_empty(), "{:?}", errors(&validator, &valid));
    for (path, value) in [
        ("/schema_version", json!(2)),
        ("/generated_at", json!("yesterday")),
        ("/total", json!(-1)),
        ("/kernel", json!("6.18")),
        ("/selection/states", json!(["CLOSE-WAIT"])),
        ("/selection/conditions", json!([])),
        ("/sockets/0/state", json!("closed")),
        ("/sockets/0/local", json!("127.0.0.1")),
        ("/sockets/0/role", json!("peer")),
        ("/sockets/0/fds", json!([])),
        ("/sockets/0/age", json!(3)),
    ] {
        let mut broken = valid.clone();
        let (parent, key) = path.rsplit_once('/').context("a path")?;
        broken.pointer_mut(parent).with_context(|| path.to_owned())?[key] = value;
        ensure!(!validator.is_valid(&broken), "{path} is not checked");
    }
    for key in ["netns", "state", "unaccepted"] {
        let mut broken = valid.clone();
        let socket = broken.pointer_mut("/sockets/0").and_then(Value::as_object_mut);
        socket.context("a socket")?.remove(key).context("a key that is there")?;
        ensure!(!validator.is_valid(&broken), "a socket without {key} is valid");
    }
    Ok(())
}
