//! Storms of resets with real sockets: against the past, with cause and process, and over when they
//! are over.
//!
//! Each test has a network namespace and an agent of its own. A storm is compared with the
//! time before it, so each test first lets that pass.

mod support;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use serde_json::Value;
use socket2::SockRef;
use support::{Agent, poll};

const KIND: &str = "reset-storm";

/// Two inventories a second; three windows of five seconds must have been watched.
const QUICK: &str = "[inventory]\ninterval = \"500ms\"\n\
    [detect.reset_storm]\nwindow = \"5s\"\nfactor = 3\nhistory = \"1m\"\n";
/// The three windows, and two inventories more, by the agent's clock.
const WATCHED: Duration = Duration::from_secs(16);

/// An agent that knows that there were no resets.
fn agent_that_has_watched() -> Result<Agent> {
    let agent = Agent::start(QUICK)?;
    agent.wait_for_inventory()?;
    agent.watch_for(WATCHED)?;
    Ok(agent)
}

/// Waits for the storm that has this role and list under this key.
fn wait_for(agent: &Agent, ns: &Namespace, role: &str, key: &str) -> Result<Value> {
    poll(&format!("{KIND} of a {role}, {key}"), || {
        let findings = agent.findings(KIND, ns.name())?;
        let is_expected = |finding: &Value| {
            finding["subject"]["role"] == role && finding["evidence"][key].is_array()
        };
        Ok(findings.into_iter().find(is_expected))
    })
}

fn wait_until_clear(agent: &Agent, ns: &Namespace) -> Result<()> {
    poll("the storms to clear", || Ok(agent.findings(KIND, ns.name())?.is_empty().then_some(())))
}

/// Each of so many storms in `ns` was raised and cleared once, says the log.
fn assert_logged(agent: &Agent, ns: &Namespace, storms: usize) -> Result<()> {
    let log = agent.log()?;
    let lines_with = |word: &str| {
        let of_kind = log.lines().filter(|line| line.contains(ns.name()) && line.contains(KIND));
        of_kind.filter(|line| line.contains(word)).count()
    };
    assert_eq!((lines_with("raised: "), lines_with("cleared: ")), (storms, storms), "{log}");
    Ok(())
}

/// Of the resets 95 in 100 have this cause or state, and there are as many as a storm has at least, and
/// about as many as were provoked. Where a process changes its CPU, a segment may overtake the one
/// before it and be answered with a reset of its own.
fn assert_all(finding: &Value, key: &str, label: &str, provoked: u64) -> Result<()> {
    let resets = finding["evidence"]["resets_in_window"].as_u64().context("no number")?;
    ensure!((600..=provoked + provoked / 100).contains(&resets), "{finding:#}");
    let name = key.strip_prefix("by_").context("a key that says by what")?;
    let most = &finding["evidence"][key][0];
    let of_most = most["resets"].as_u64().context("no number of the most frequent")?;
    ensure!(most[name] == label && of_most * 100 >= resets * 95, "{finding:#}");
    assert_eq!(finding["evidence"]["last_peer"], "127.0.0.1", "{finding:#}");
    Ok(())
}

/// `comm` and pid of this process's main thread, whatever thread has made the sockets.
fn assert_is_ours(finding: &Value) -> Result<()> {
    let name = fs::read_to_string("/proc/self/comm")?;
    assert_eq!(finding["subject"]["process"], name.trim_end(), "{finding:#}");
    assert_eq!(finding["subject"]["pid"], std::process::id(), "{finding:#}");
    Ok(())
}

/// The side that received the resets is this process too, as a client.
fn assert_victim_is_ours(finding: &Value, port: u16, state: &str) -> Result<()> {
    let also = finding["evidence"]["also"].as_array().context("no other end")?;
    let victim = also.first().context("an empty list")?;
    assert_eq!(victim["pid"], std::process::id(), "{finding:#}");
    assert_eq!(victim["role"], "client", "{finding:#}");
    assert_eq!((&victim["port"], &victim["state"]), (&port.into(), &state.into()), "{finding:#}");
    Ok(())
}

/// Connections that the server ends first as TLS does: an answer, a close_notify and its FIN. The
/// client answers with a close_notify of its own, or leaves the other one unread.
fn serve_and_close_first(listener: &TcpListener, times: u64) -> Result<()> {
    const ANSWER: [u8; 900] = [b'a'; 900];
    const CLOSE_NOTIFY: [u8; 24] = [b'n'; 24];
    let address = listener.local_addr()?;
    for number in 0..times {
        let mut client = TcpStream::connect(address)?;
        let (mut server, _) = listener.accept()?;
        client.write_all(&[b'r'; 200])?;
        server.read_exact(&mut [0; 200])?;
        server.write_all(&ANSWER)?;
        server.write_all(&CLOSE_NOTIFY)?;
        drop(server);
        client.read_exact(&mut [0; ANSWER.len()])?;
        if number % 2 == 0 {
            client.read_exact(&mut [0; CLOSE_NOTIFY.len()])?;
            ensure!(client.read(&mut [0])? == 0, "the server closed");
            client.write_all(&CLOSE_NOTIFY)?;
        }
        drop(client);
    }
    Ok(())
}

fn connect_refused(port: u16, times: u64) -> Result<()> {
    for _ in 0..times {
        ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "a process listens");
    }
    Ok(())
}

/// Connections that the server closes with SO_LINGER 0.
fn abort_as_server(listener: &TcpListener, times: u64) -> Result<SocketAddr> {
    let address = listener.local_addr()?;
    for _ in 0..times {
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
        drop(server);
        drop(client);
    }
    Ok(address)
}

#[test]
fn two_thousand_refused_connects_are_one_storm_that_names_both_ends() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("refused")?;
    let agent = agent_that_has_watched()?;
    ns.enter(|| connect_refused(9, 2_000))??;
    let sent = wait_for(&agent, &ns, "server", "by_cause")?;
    assert_all(&sent, "by_cause", "no_listener", 2_000)?;
    // It is over at once, like a restart.
    assert_eq!(sent["severity"], "info", "{sent:#}");
    assert_eq!(sent["subject"]["local"], "*:9", "{sent:#}");
    assert!(sent["subject"].get("process").is_none(), "it has no listener: {sent:#}");
    assert_victim_is_ours(&sent, 9, "syn_sent")?;
    wait_until_clear(&agent, &ns)?;
    assert_logged(&agent, &ns, 1)
}

#[test]
fn a_server_that_closes_with_linger_zero_is_named_with_its_cause() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("linger")?;
    let listener = ns.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
    let agent = agent_that_has_watched()?;
    let port = ns.enter(|| abort_as_server(&listener, 1_500))??.port();
    let sent = wait_for(&agent, &ns, "server", "by_cause")?;
    assert_all(&sent, "by_cause", "linger_zero", 1_500)?;
    assert_eq!(sent["subject"]["local"], format!("*:{port}"), "{sent:#}");
    assert_is_ours(&sent)?;
    // Nothing was left to send, and the clients had nothing under way but what they lost.
    assert_eq!(sent["severity"], "info", "{sent:#}");
    assert_victim_is_ours(&sent, port, "established")?;
    wait_until_clear(&agent, &ns)?;
    assert_logged(&agent, &ns, 1)
}

#[test]
fn a_reset_for_each_answer_of_a_server_that_closes_first_is_no_storm() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("closes")?;
    let listener = ns.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
    let agent = agent_that_has_watched()?;
    let before = ns.snmp_counter("OutRsts")?;
    ns.enter(|| serve_and_close_first(&listener, 3_000))??;
    let resets = ns.snmp_counter("OutRsts")? - before;
    ensure!(resets > 2_500, "only {resets} resets for 3000 answers");
    agent.watch_for(Duration::from_secs(6))?;
    assert_logged(&agent, &ns, 0)
}

#[test]
fn health_checks_that_are_refused_all_the_time_are_no_storm() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("checked")?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let checks = scope.spawn(|| {
            ns.enter(|| -> io::Result<()> {
                while !done.load(Ordering::Relaxed) {
                    // 250 a second, twice as many as the least storm.
                    let _refused = TcpStream::connect((Ipv4Addr::LOCALHOST, 9));
                    thread::sleep(Duration::from_millis(4));
                }
                Ok(())
            })
        });
        let watched = agent_that_has_watched().and_then(|agent| {
            agent.watch_for(WATCHED)?;
            let refused = ns.snmp_counter("OutRsts")?;
            ensure!(refused > 1_000, "only {refused} checks were made");
            assert_logged(&agent, &ns, 0)
        });
        done.store(true, Ordering::Relaxed);
        checks.join().expect("the checks do not panic")??;
        watched
    })
}
