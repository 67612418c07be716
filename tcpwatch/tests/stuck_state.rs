//! Sockets that wait for their peer, with real sockets: each state is named with its owner and the
//! host that does not answer, and clears with the cure.
//!
//! Each test has a network namespace and an agent of its own.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace, Stuck};
use serde_json::Value;
use support::{Agent, poll};

/// An inventory every second; what has waited for two counts, and is over three later.
const QUICK: &str = "[inventory]\ninterval = \"1s\"\n\
    [detect.stuck_state]\nmin_age = \"1s\"\nunanswered = \"2s\"\nwindow = \"3s\"\n";

const KIND: &str = "stuck-state";

/// The finding of twelve sockets in `state`. Where the server of a scene has closed for sending, and
/// its process is this one, there is a finding for that too, and rightly.
fn wait_for(agent: &Agent, ns: &Namespace, state: &str) -> Result<Value> {
    poll(KIND, || {
        let mut findings = of_state(agent, ns, state)?;
        ensure!(findings.len() <= 1, "more than one finding: {findings:#?}");
        // All of them are old within one look or two; in FIN_WAIT2 they are info for some time.
        let is_all = |finding: &Value| finding["evidence"]["sockets"] == 12;
        Ok(findings.pop().filter(|it| is_all(it) && it["severity"] != "info"))
    })
}

fn of_state(agent: &Agent, ns: &Namespace, state: &str) -> Result<Vec<Value>> {
    let mut findings = agent.findings(KIND, ns.name())?;
    findings.retain(|finding| finding["evidence"]["state"] == state);
    Ok(findings)
}

/// Raised once and cleared once, as the log says.
fn assert_clears(agent: &Agent, ns: &Namespace, state: &str) -> Result<()> {
    poll("stuck-state to clear", || Ok(of_state(agent, ns, state)?.is_empty().then_some(())))?;
    let log = agent.log()?;
    let id = format!("{KIND}/{state}/");
    let lines = || log.lines().filter(|line| line.contains(ns.name()) && line.contains(&id));
    let lines_with = |word: &str| lines().filter(|line| line.contains(word)).count();
    assert_eq!((lines_with("raised: "), lines_with("cleared: ")), (1, 1), "{log}");
    Ok(())
}

fn title(finding: &Value) -> Result<&str> {
    finding["title"].as_str().context("a finding without title")
}

fn assert_is_ours(finding: &Value) -> Result<()> {
    let subject = &finding["subject"];
    let own_name = fs::read_to_string("/proc/self/comm")?;
    assert_eq!(subject["process"], own_name.trim_end(), "{finding:#}");
    assert_eq!(subject["pid"], std::process::id(), "{finding:#}");
    Ok(())
}

/// All twelve clients of `stuck` are in this one finding.
fn assert_describes(finding: &Value, stuck: &Stuck, state: &str) -> Result<()> {
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    assert_eq!(finding["evidence"]["state"], state, "{finding:#}");
    assert_eq!(finding["evidence"]["hosts"], 1, "{finding:#}");
    assert_eq!(finding["subject"]["role"], "client", "{finding:#}");
    let server = stuck.server_address().to_string();
    assert_eq!(finding["subject"]["peer"], server, "{finding:#}");
    assert!(title(finding)?.starts_with(&format!("{server} does not ")), "{finding:#}");
    Ok(())
}

#[test]
fn unanswered_connects_are_named_with_client_and_destination() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("syn")?;
    agent.wait_for_inventory()?;
    let stuck = Stuck::in_syn_sent(&ns, 12, 5432)?;
    let finding = wait_for(&agent, &ns, "syn_sent")?;
    assert_describes(&finding, &stuck, "syn_sent")?;
    assert_is_ours(&finding)?;
    assert_eq!(finding["evidence"]["oldest_age_is_lower_bound"], false, "{finding:#}");
    assert_eq!(finding["evidence"]["peer_is_this_host"], false, "{finding:#}");
    stuck.end()?;
    assert_clears(&agent, &ns, "syn_sent")
}

#[test]
fn fin_wait2_that_lasts_is_the_peers_and_named_with_the_owner_here() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("half")?;
    // Older than the agent.
    let stuck = Stuck::in_fin_wait2(&ns, 12, 5432)?;
    let agent = Agent::start(QUICK)?;
    let finding = wait_for(&agent, &ns, "fin_wait2")?;
    assert_describes(&finding, &stuck, "fin_wait2")?;
    assert_is_ours(&finding)?;
    // The other ends are here as well, and this process holds them.
    assert_eq!(finding["evidence"]["peer_process"]["pid"], std::process::id(), "{finding:#}");
    let remedies = finding["remedies"].to_string();
    assert!(remedies.contains("on this host holds the other ends in CLOSE_WAIT"), "{finding:#}");
    stuck.end()?;
    assert_clears(&agent, &ns, "fin_wait2")
}

#[test]
fn last_ack_of_a_peer_that_vanished_has_no_owner() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("last")?;
    agent.wait_for_inventory()?;
    let stuck = Stuck::in_last_ack(&ns, 12, 5432)?;
    let finding = wait_for(&agent, &ns, "last_ack")?;
    assert_describes(&finding, &stuck, "last_ack")?;
    assert_eq!(finding["subject"].get("process"), None, "{finding:#}");
    assert!(title(&finding)?.contains("that no process holds any more"), "{finding:#}");
    // Both ends are here, so no other host can be at fault.
    assert_eq!(finding["evidence"]["peer_is_this_host"], true, "{finding:#}");
    assert!(finding["remedies"].to_string().contains("nft list ruleset"), "{finding:#}");
    stuck.end()?;
    assert_clears(&agent, &ns, "last_ack")
}

#[test]
fn closing_is_named_with_the_owner_that_holds_it() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("closing")?;
    agent.wait_for_inventory()?;
    let stuck = Stuck::in_closing(&ns, 12, 5432)?;
    let finding = wait_for(&agent, &ns, "closing")?;
    assert_describes(&finding, &stuck, "closing")?;
    assert_is_ours(&finding)?;
    stuck.end()?;
    assert_clears(&agent, &ns, "closing")
}

/// A leak of CLOSE_WAIT has the closing side's orphans in FIN_WAIT2 beside it: no fault of theirs.
#[test]
fn fin_wait2_without_a_process_is_nothing() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("orphans")?;
    let leak = CloseWaitLeak::client(&ns, 40, 3306, false)?;
    // The other end acknowledges a FIN after its delayed-ACK timer (40 to 200 ms): until then
    // a socket is in FIN_WAIT1.
    scenes::wait_until(scenes::STEP_DEADLINE, "40 sockets in FIN_WAIT2", || {
        ns.ss_count(scenes::State::FinWait2).is_ok_and(|count| count == 40)
    })?;
    // Older than min_age by then.
    for _ in 0..4 {
        agent.wait_for_inventory()?;
    }
    assert_eq!(agent.findings(KIND, ns.name())?, Vec::<Value>::new());
    assert_eq!(ns.ss_count(scenes::State::FinWait2)?, 40);
    drop(leak);
    Ok(())
}

/// Twelve workers connect again and again, each with a time-out, until `until` is set.
fn work(ns: &Namespace, to: SocketAddr, time_out: Duration, until: &AtomicBool) -> Result<()> {
    ns.enter(|| {
        thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    while !until.load(Ordering::Relaxed) {
                        drop(TcpStream::connect_timeout(&to, time_out));
                        thread::sleep(Duration::from_millis(100));
                    }
                });
            }
        });
    })
}

/// With `unanswered` so long that no inventory could see them.
#[test]
fn connects_that_are_given_up_are_named_with_how_long_they_waited() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(&QUICK.replace("unanswered = \"2s\"", "unanswered = \"1h\""))?;
    let ns = Namespace::new("given-up")?;
    // A route that drops all packets, and an address behind it.
    let stuck = Stuck::in_syn_sent(&ns, 1, 5432)?;
    let server = stuck.server_address();
    stuck.end()?;
    agent.wait_for_inventory()?;
    let until = AtomicBool::new(false);
    let finding = thread::scope(|scope| {
        let workers = scope.spawn(|| work(&ns, server, Duration::from_millis(1_200), &until));
        let found = poll(KIND, || {
            let mut findings = agent.findings(KIND, ns.name())?;
            ensure!(findings.len() <= 1, "more than one finding: {findings:#?}");
            Ok(findings.pop().filter(|finding| finding["severity"] == "warning"))
        });
        until.store(true, Ordering::Relaxed);
        workers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        found
    })?;
    let evidence = &finding["evidence"];
    assert_eq!(evidence["state"], "syn_sent", "{finding:#}");
    assert_eq!(evidence["answered_connections"], 0, "{finding:#}");
    assert_eq!(evidence["peer_is_this_host"], false, "{finding:#}");
    assert!(evidence["given_up_connections"].as_u64() >= Some(10), "{finding:#}");
    assert_eq!(finding["subject"]["peer"], server.to_string(), "{finding:#}");
    assert_is_ours(&finding)?;
    let start = format!("{server} does not answer: ");
    assert!(title(&finding)?.starts_with(&start), "{finding:#}");
    assert!(title(&finding)?.contains("connects after 1 s"), "{finding:#}");
    let counted = agent.sum("tcpwatch_connect_failures_total", &["reason=\"given_up\""])?;
    assert!(counted >= 12.0, "{counted}");
    assert_clears(&agent, &ns, "syn_sent")
}

/// Two addresses are raced, and the loser is closed after 250 ms.
#[test]
fn losers_of_happy_eyeballs_are_counted_and_raise_nothing() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("eyeballs")?;
    let stuck = Stuck::in_syn_sent(&ns, 1, 5432)?;
    let server = stuck.server_address();
    stuck.end()?;
    let until = AtomicBool::new(false);
    let netns = format!("netns=\"{}\"", ns.name());
    let counted =
        || agent.sum("tcpwatch_connect_failures_total", &["reason=\"given_up\"", netns.as_str()]);
    thread::scope(|scope| {
        let workers = scope.spawn(|| work(&ns, server, Duration::from_millis(250), &until));
        let many = poll("a hundred losers", || Ok((counted()? >= 100.0).then_some(())));
        let looks = (0..3).try_for_each(|_| agent.wait_for_inventory());
        until.store(true, Ordering::Relaxed);
        workers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        many.and(looks)
    })?;
    assert_eq!(agent.findings(KIND, ns.name())?, Vec::<Value>::new());
    Ok(())
}

/// Twelve clients have shut down their side and get something every 1.5 s, longer than `min_age`. The
/// agent sees them from their begin: a first look cannot know that their peer works.
#[test]
fn half_closed_clients_whose_server_still_sends_are_nothing() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(&QUICK.replace("min_age = \"1s\"", "min_age = \"5s\""))?;
    let ns = Namespace::new("follow")?;
    let mut pairs = ns.enter(|| -> Result<Vec<(TcpStream, TcpStream)>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 9_100))?;
        let open = || -> Result<(TcpStream, TcpStream)> {
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (server, _) = listener.accept()?;
            client.shutdown(Shutdown::Write)?;
            Ok((client, server))
        };
        (0..12).map(|_| open()).collect()
    })??;
    let mut seen_in_fin_wait2 = 0;
    for _ in 0..8 {
        for (client, server) in &mut pairs {
            server.write_all(&[1])?;
            client.read_exact(&mut [0])?;
        }
        thread::sleep(Duration::from_millis(1_500));
        seen_in_fin_wait2 += ns.ss_count(scenes::State::FinWait2)?;
        assert_eq!(of_state(&agent, &ns, "fin_wait2")?, Vec::<Value>::new());
    }
    assert_eq!(seen_in_fin_wait2, 8 * 12);
    drop(pairs);
    Ok(())
}
