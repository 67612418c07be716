//! Requests that get no answer, with real sockets: a server that closes idle connections in use, and a
//! peer that acknowledges nothing. Each is named with its owner, led by its cause, and clears.
//!
//! Each test has a network namespace and an agent of its own.

mod support;

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::{Namespace, Stuck};
use serde_json::Value;
use support::{Agent, poll};

const RACE: &str = "keepalive-race";
const STALLED: &str = "stalled-send";

const QUICK: &str = "[inventory]\ninterval = \"500ms\"\n\
    [detect.keepalive_race]\nwindow = \"5s\"\n\
    [detect.stalled_send]\nmin_age = \"1s\"\n";

/// The server's idle time-out.
const IDLE: Duration = Duration::from_secs(1);

/// Connections in a round; with one less there were no warning.
const POOL: usize = 12;

const REQUEST: [u8; 200] = [b'r'; 200];

/// Connections with an answered request each.
fn pool(listener: &TcpListener) -> io::Result<Vec<(TcpStream, TcpStream)>> {
    let pair = |_| {
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        client.write_all(&REQUEST)?;
        server.read_exact(&mut REQUEST.clone())?;
        server.write_all(b"answer")?;
        client.read_exact(&mut [0; 6])?;
        Ok((client, server))
    };
    (0..POOL).map(pair).collect()
}

/// A round: the server closes what was idle for [`IDLE`], and the client goes on with it or not.
fn round(listener: &TcpListener, client_looks: bool) -> Result<()> {
    let pairs = pool(listener)?;
    thread::sleep(IDLE);
    for (mut client, server) in pairs {
        drop(server);
        let is_open = || -> io::Result<bool> { Ok(client.peek(&mut [0])? > 0) };
        if !client_looks || is_open()? {
            client.write_all(&REQUEST)?;
        }
    }
    Ok(())
}

fn assert_ours(finding: &Value, end: &str, address: &str) {
    assert_eq!(finding["subject"]["pid"], std::process::id(), "{finding:#}");
    assert_eq!(finding["subject"][end], address, "{finding:#}");
}

fn wait_until_clear(agent: &Agent, ns: &Namespace, kind: &str) -> Result<()> {
    poll("the finding to clear", || Ok(agent.findings(kind, ns.name())?.is_empty().then_some(())))
}

#[test]
fn a_server_that_closes_idle_connections_in_use_is_named_with_its_time_out() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("race")?;
    let listener = ns.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
    let port = listener.local_addr()?.port();
    let agent = Agent::start(QUICK)?;
    agent.wait_for_inventory()?;

    // Clients that see the end of the stream lose nothing.
    for _ in 0..3 {
        ns.enter(|| round(&listener, true))??;
        agent.wait_for_inventory()?;
    }
    let found = agent.findings(RACE, ns.name())?;
    ensure!(found.is_empty(), "{found:#?}");

    ns.enter(|| round(&listener, false))??;
    let finding = poll(RACE, || {
        let found = agent.findings(RACE, ns.name())?;
        Ok(found.into_iter().find(|it| it["evidence"]["late_resets_in_window"] == POOL))
    })?;
    assert_ours(&finding, "local", &format!("*:{port}"));
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    let idle = finding["evidence"]["idle_timeout_seconds"].as_f64().context("no time-out")?;
    assert!((1.0..3.0).contains(&idle), "{finding:#}");
    wait_until_clear(&agent, &ns, RACE)
}

#[test]
fn a_pool_whose_server_has_vanished_is_named_and_clears_when_the_server_is_back() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("vanished")?;
    let agent = Agent::start(QUICK)?;
    let stuck = Stuck::in_established(&ns, POOL, 5_432)?;
    let finding = poll(STALLED, || {
        let found = agent.findings(STALLED, ns.name())?;
        ensure!(found.len() <= 1, "{found:#?}");
        Ok(found.into_iter().find(|it| it["severity"] == "warning"))
    })?;
    assert_ours(&finding, "peer", "127.0.0.1:5432");
    let evidence = &finding["evidence"];
    assert_eq!((&evidence["cause"], &evidence["sockets"]), (&"silence".into(), &POOL.into()));
    assert_eq!(evidence["unacknowledged_bytes"], 12 * 18, "{finding:#}");
    stuck.end()?;
    wait_until_clear(&agent, &ns, STALLED)
}
