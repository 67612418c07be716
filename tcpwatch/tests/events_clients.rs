//! `/api/v1/events` with curl and jq: every kind of event, the schema of the lines, filters, bounds, the
//! end. A guest of `cargo xtask vm` has neither; `events.rs` runs there.

mod support;

use std::{
    io::Read,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use serde_json::Value;
use support::{
    events::{Reader, Stage, armed, assert_play, own_name, play},
    http_get, poll,
};

const SCHEMA: &str = include_str!("../../docs/events.schema.json");

#[test]
fn curl_reads_every_kind_of_event_each_follows_the_schema_and_jq_reads_the_command() -> Result<()> {
    let Some(stage) = Stage::new("")? else { return Ok(()) };
    let ns = Namespace::new("clients")?;
    let command = stage.reader("json", &["--json", "--netns", ns.name()])?;
    let curl = stage.curl("curl", &format!("netns={}", ns.name()))?;
    let ends = play(&ns, 7_410)?;
    assert_play(&curl, ns.name(), ends)?;
    assert_play(&command, ns.name(), ends)?;
    let text = curl.text()?;
    ensure!(text.contains("content-type: text/event-stream\r\n"), "{text}");
    ensure!(text.contains("event: connect_failed\ndata: {"), "{text}");

    let schema: Value = serde_json::from_str(SCHEMA)?;
    ensure!(jsonschema::meta::is_valid(&schema));
    let schema = jsonschema::validator_for(&schema)?;
    for event in curl.events()? {
        let errors: Vec<_> = schema.iter_errors(&event).map(|it| it.to_string()).collect();
        ensure!(errors.is_empty(), "{errors:#?} in {event:#}");
    }
    let mut broken = curl.events()?.pop().context("no event")?;
    broken["dropped"] = 1.into();
    ensure!(!schema.is_valid(&broken), "the schema takes anything");

    let jq = Command::new("jq")
        .args(["-r", "select(.event == \"connect_failed\") | .reason"])
        .arg(&command.output)
        .output()?;
    assert_eq!((jq.status.code(), &*jq.stdout), (Some(0), &b"refused\n"[..]), "{jq:?}");
    drop(curl);
    command.interrupt()?;
    command.daemon.finish()?;
    armed(stage.agent.pid(), false)
}

#[test]
fn an_agent_that_ends_ends_the_stream() -> Result<()> {
    let Some(mut stage) = Stage::new("")? else { return Ok(()) };
    let mut curl = Command::new("curl")
        .args(["--silent", "--no-buffer", "--unix-socket"])
        .arg(&stage.socket)
        .arg("http://localhost/api/v1/events")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut first = [0];
    curl.stdout.as_mut().context("a pipe")?.read_exact(&mut first)?;
    stage.agent.signal(libc::SIGTERM)?;
    assert_eq!(stage.agent.wait()?, Some(0));
    assert_eq!(curl.wait()?.code(), Some(0), "the stream has an end");
    Ok(())
}

#[test]
fn a_filter_shows_what_it_selects_and_nothing_else() -> Result<()> {
    let Some(stage) = Stage::new("")? else { return Ok(()) };
    let ns = Namespace::new("filter")?;
    let name = own_name()?;
    let netns = ns.name();
    let curl = |of: &str, query: &str| stage.curl(of, &format!("netns={netns}&{query}"));
    let port = curl("port", "port=7404")?;
    let state = curl("state", "state=close-wait")?;
    let process = curl("process", &format!("process={name}"))?;
    let peer = curl("peer", "peer=127.0.0.0/8")?;
    let nowhere = curl("nowhere", "peer=192.0.2.0/24")?;
    play(&ns, 7_404)?;
    play(&ns, 7_405)?;
    // The last connection of all: what comes before it has come.
    let last = |it: &Value| it["event"] == "connect_failed";
    for reader in [&process, &peer] {
        poll("both failures", || {
            Ok((reader.events()?.iter().filter(|it| last(it)).count() == 2).then_some(()))
        })?;
    }
    let of_port = port.events()?;
    let is_of_port =
        |it: &Value| [&it["local"], &it["peer"]].iter().any(|end| **end == "127.0.0.1:7404");
    ensure!(of_port.len() > 10 && of_port.iter().all(is_of_port), "{of_port:#?}");
    let of_state = state.events()?;
    let touches =
        |it: &Value| [&it["from"], &it["to"], &it["state"]].iter().any(|s| **s == "close_wait");
    ensure!(of_state.len() >= 4 && of_state.iter().all(touches), "{of_state:#?}");
    let of_process = process.events()?;
    ensure!(of_process.iter().all(|it| it["process"] == name.as_str()), "{of_process:#?}");
    ensure!(of_process.iter().any(|it| it["to"] == "fin_wait1"), "{of_process:#?}");
    ensure!(
        peer.events()?
            .iter()
            .all(|it| { it["peer"].as_str().is_some_and(|peer| peer.starts_with("127.")) })
    );
    assert_eq!(nowhere.events()?, Vec::<Value>::new());
    Ok(())
}

/// A quarter of the connections can be streams, and a page with the metrics is answered beside them.
#[test]
fn only_so_many_streams_are_open_and_one_that_ends_makes_place() -> Result<()> {
    let Some(stage) = Stage::new("http_connections = 16")? else { return Ok(()) };
    let streams: Result<Vec<Reader>> =
        (0..4).map(|number| stage.curl(&format!("curl{number}"), "port=7408")).collect();
    let mut streams = streams?;
    let refused = Command::new("curl")
        .args(["--silent", "--max-time", "60", "--unix-socket"])
        .arg(&stage.socket)
        .arg("http://localhost/api/v1/events")
        .output()?;
    assert_eq!(refused.stdout, b"too many streams of events are open\n", "{refused:?}");
    assert_eq!(http_get(stage.agent.address, "/metrics")?.status, 200);
    streams.pop();
    poll("a place", || Ok(stage.curl("again", "port=7408").ok().map(drop)))?;
    drop(streams);
    armed(stage.agent.pid(), false)
}
