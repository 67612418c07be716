//! Listeners in trouble, with real sockets: floods and stalls of half-open connections, accept
//! queues that overflow, ports from which a socket may come to be connected to itself.
//!
//! Each test has a network namespace and an agent of its own. Each finding is raised and cleared at
//! most once for one situation, and the agent's log says so.

mod support;

use std::{
    fs,
    io::{self, Write},
    net::{Ipv4Addr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use scenes::Namespace;
use serde_json::Value;
use support::{Agent, begin_connects, ended::Ended, listen, poll, tcpwatch};

/// Two inventories a second; what counts for a window counts for three seconds, and a listener is
/// old after one.
const QUICK: &str = "[inventory]\ninterval = \"500ms\"\n\
    [detect.self_connect_risk]\nmin_age = \"1s\"\nwindow = \"3s\"\n\
    [detect.accept_queue_overflow]\nmin_age = \"1s\"\nwindow = \"3s\"\n";

/// The kinds that these situations could be taken for.
const KINDS: [&str; 4] =
    ["self-connect-risk", "syn-flood", "handshake-stall", "accept-queue-overflow"];

/// `comm` of this process's main thread: the owner of all that the tests hold.
fn own_name() -> Result<String> {
    Ok(fs::read_to_string("/proc/self/comm")?.trim_end().to_owned())
}

/// Waits for a finding of this kind in `ns` that is as it should be.
fn wait_for(
    agent: &Agent,
    kind: &str,
    ns: &Namespace,
    is_expected: impl Fn(&Value) -> bool,
) -> Result<Value> {
    poll(kind, || {
        let findings = agent.findings(kind, ns.name())?;
        ensure!(findings.len() <= 1, "more than one finding: {findings:#?}");
        Ok(findings.into_iter().find(&is_expected))
    })
}

fn wait_until_clear(agent: &Agent, kind: &str, ns: &Namespace) -> Result<()> {
    let what = format!("{kind} to clear");
    poll(&what, || Ok(agent.findings(kind, ns.name())?.is_empty().then_some(())))
}

/// The log has so many lines of this kind in `ns`, and none of another of [`KINDS`].
fn assert_logged(
    agent: &Agent,
    ns: &Namespace,
    kind: &str,
    raised: usize,
    cleared: usize,
) -> Result<()> {
    let log = agent.log()?;
    for other in KINDS {
        // Another finding may name this one as what led to it.
        let finding = format!(" finding=\"{other}\" ");
        let of_kind =
            || log.lines().filter(|line| line.contains(ns.name()) && line.contains(&finding));
        let lines_with = |word: &str| of_kind().filter(|line| line.contains(word)).count();
        let expected = if other == kind { (raised, cleared) } else { (0, 0) };
        assert_eq!((lines_with("raised: "), lines_with("cleared: ")), expected, "{other}\n{log}");
    }
    Ok(())
}

fn assert_is_ours(finding: &Value, port: u16) -> Result<()> {
    let subject = &finding["subject"];
    assert_eq!(subject["process"], own_name()?.as_str(), "{finding:#}");
    assert_eq!(subject["pid"], std::process::id(), "{finding:#}");
    assert_eq!(subject["role"], "server", "{finding:#}");
    let local = subject["local"].as_str().context("a finding without a listener")?;
    assert!(local.ends_with(&format!(":{port}")), "{finding:#}");
    let title = finding["title"].as_str().context("a finding without title")?;
    assert!(title.contains(&port.to_string()) && title.contains(ns_of(finding)), "{title}");
    Ok(())
}

fn ns_of(finding: &Value) -> &str {
    finding["subject"]["netns"].as_str().unwrap_or("no namespace")
}

/// Half-open requests that end after 7 s instead of a minute: two retransmissions.
fn short_requests(ns: &Namespace) -> Result<()> {
    ns.sysctl_set("net.ipv4.tcp_synack_retries", "2")
}

#[test]
fn half_open_connections_from_300_sources_are_a_flood() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("flood")?;
    short_requests(&ns)?;
    let listener = listen(&ns, 7_100, 4_096)?;
    agent.wait_for_inventory()?;
    scenes::half_open(&ns, 300, 1, 7_100)?;
    // A retransmission timer is some ticks late for some of them.
    let is_whole = |finding: &Value| finding["evidence"]["unanswered_connections"] == 300;
    let finding = wait_for(&agent, "syn-flood", &ns, is_whole)?;
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    let sources = finding["evidence"]["sources_estimate"].as_u64().context("no sources")?;
    assert!((270..=330).contains(&sources), "{finding:#}");
    assert_eq!(finding["evidence"]["half_open_connections"], 300, "{finding:#}");
    assert_eq!(finding["evidence"]["limit_connections"], 4_096, "{finding:#}");
    let syncookies: u64 = ns.sysctl("net.ipv4.tcp_syncookies")?.parse()?;
    assert_eq!(finding["evidence"]["tcp_syncookies"], syncookies, "{finding:#}");
    assert_is_ours(&finding, 7_100)?;
    wait_until_clear(&agent, "syn-flood", &ns)?;
    assert_logged(&agent, &ns, "syn-flood", 1, 1)?;
    drop(listener);
    Ok(())
}

#[test]
fn half_open_connections_from_one_source_are_a_stall_and_no_flood() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("stall")?;
    short_requests(&ns)?;
    let listener = listen(&ns, 7_101, 4_096)?;
    agent.wait_for_inventory()?;
    scenes::half_open(&ns, 1, 120, 7_101)?;
    let is_whole = |finding: &Value| finding["evidence"]["unanswered_connections"] == 120;
    let finding = wait_for(&agent, "handshake-stall", &ns, is_whole)?;
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    assert_eq!(finding["evidence"]["sources_estimate"], 1, "{finding:#}");
    assert_is_ours(&finding, 7_101)?;
    wait_until_clear(&agent, "handshake-stall", &ns)?;
    assert_logged(&agent, &ns, "handshake-stall", 1, 1)?;
    drop(listener);
    Ok(())
}

#[test]
fn half_open_connections_crowd_a_short_queue() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("short")?;
    short_requests(&ns)?;
    // Beyond 64 requests cookies are sent, so that there are never more.
    ns.sysctl_set("net.ipv4.tcp_syncookies", "1")?;
    let listener = listen(&ns, 7_102, 64)?;
    agent.wait_for_inventory()?;
    scenes::half_open(&ns, 500, 1, 7_102)?;
    let finding = wait_for(&agent, "syn-flood", &ns, |_| true)?;
    assert_eq!(finding["evidence"]["limit_connections"], 64, "{finding:#}");
    assert_is_ours(&finding, 7_102)?;
    ensure!(ns.netstat_counter("SyncookiesSent")? > 0, "the queue was never full");
    wait_until_clear(&agent, "syn-flood", &ns)?;
    assert_logged(&agent, &ns, "syn-flood", 1, 1)?;
    drop(listener);
    Ok(())
}

#[test]
fn ten_thousand_completed_connections_as_fast_as_they_go_are_nothing() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    // As many as an idle machine makes in a second.
    const CONNECTIONS: u64 = 10_000;
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("speed")?;
    // A queue that holds all: an emulated machine may not run the accepting thread for as long.
    const BACKLOG: i32 = 16_384;
    ns.sysctl_set("net.core.somaxconn", &BACKLOG.to_string())?;
    let listener = listen(&ns, 7_103, BACKLOG)?;
    agent.wait_for_inventory()?;
    let accepting = listener.try_clone()?;
    // It ends with the process.
    thread::spawn(move || accepting.incoming().for_each(drop));
    ns.enter(|| -> io::Result<()> {
        for _ in 0..CONNECTIONS {
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, 7_103))?;
            // Closing with a reset leaves no TIME_WAIT, so the ports do not run out.
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    })??;
    // Where the client changes its CPU, its reset may overtake the ACK of the handshake.
    let completed = ns.snmp_counter("PassiveOpens")?;
    let nearly_all = CONNECTIONS / 100 * 99..=CONNECTIONS;
    ensure!(nearly_all.contains(&completed), "{completed} of {CONNECTIONS} were completed");
    agent.wait_for_inventory()?;
    agent.wait_for_inventory()?;
    assert_logged(&agent, &ns, "none", 0, 0)?;
    drop(listener);
    Ok(())
}

#[test]
fn listener_that_does_not_accept_overflows_and_clears_once_it_does() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    const CLIENTS: usize = 50;
    // The window spans the pauses between the SYNs, so that all drops are of one finding on a slow
    // machine too.
    const CONFIG: &str = "[inventory]\ninterval = \"500ms\"\n\
        [detect.accept_queue_overflow]\nmin_age = \"1s\"\nwindow = \"10s\"\n";
    let agent = Agent::start(CONFIG)?;
    let ns = Namespace::new("overflow")?;
    let _inside = Ended::asleep_in(&ns)?;
    let listener = listen(&ns, 7_104, 5)?;
    agent.wait_for_inventory()?;
    // They send their SYN again after 1, 2, 4 and 8 seconds.
    let clients = begin_connects(&ns, CLIENTS, 7_104)?;
    // It goes on as long as they try, so the number is compared when two looks agree.
    let overflows = || ns.netstat_counter("ListenOverflows");
    let mut last = Value::Null;
    let finding = poll("the overflow with all drops", || {
        let before = overflows()?;
        let mut findings = agent.findings("accept-queue-overflow", ns.name())?;
        ensure!(findings.len() <= 1, "more than one finding: {findings:#?}");
        let finding = findings.pop();
        let agrees = |finding: &Value| {
            finding["evidence"]["dropped_attempts"] == before && finding["severity"] == "warning"
        };
        last = serde_json::json!([before, finding]);
        Ok(finding.filter(|finding| before >= 44 && agrees(finding)))
    });
    let finding = finding.with_context(|| format!("seen last: {last:#}"))?;
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    assert_eq!(finding["evidence"]["waiting_connections"], 6, "{finding:#}");
    assert_eq!(finding["evidence"]["limit_connections"], 5, "{finding:#}");
    assert_is_ours(&finding, 7_104)?;
    let title = finding["title"].as_str().unwrap_or_default();
    assert!(title.contains("its accept queue is full (6 wait, the limit is 5)"), "{title}");

    // The cure: a longer queue, as the remedy says, and it accepts. Their SYNs come all at once, so
    // a queue of 5 would drop most of them again and again.
    socket2::SockRef::from(&listener).listen(128)?;
    listener.set_nonblocking(true)?;
    let mut accepted = Vec::new();
    poll("all clients to be accepted", || {
        while let Ok(connection) = listener.accept() {
            accepted.push(connection);
        }
        Ok((accepted.len() == CLIENTS).then_some(()))
    })?;
    wait_until_clear(&agent, "accept-queue-overflow", &ns)?;
    assert_logged(&agent, &ns, "accept-queue-overflow", 1, 1)?;
    drop(clients);
    Ok(())
}

#[test]
fn full_queue_without_a_drop_is_a_warning_until_it_has_space() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("full")?;
    let listener = listen(&ns, 7_105, 2)?;
    let clients = ns.enter(|| {
        (0..3)
            .map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, 7_105)))
            .collect::<io::Result<Vec<_>>>()
    })??;
    let finding = wait_for(&agent, "accept-queue-overflow", &ns, |_| true)?;
    assert_eq!(finding["evidence"]["dropped_attempts"], 0, "{finding:#}");
    assert_is_ours(&finding, 7_105)?;
    drop(listener.accept()?);
    wait_until_clear(&agent, "accept-queue-overflow", &ns)?;
    assert_logged(&agent, &ns, "accept-queue-overflow", 1, 1)?;
    drop(clients);
    Ok(())
}

#[test]
fn queue_in_which_many_wait_and_nothing_is_accepted_is_a_warning_before_any_drop() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    const CLIENTS: usize = 120;
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("stalled")?;
    let listener = listen(&ns, 7_120, 511)?;
    agent.wait_for_inventory()?;
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, 7_120));
    let clients =
        ns.enter(|| (0..CLIENTS).map(|_| connect()).collect::<io::Result<Vec<_>>>())??;
    let finding = wait_for(&agent, "accept-queue-overflow", &ns, |_| true)?;
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    assert_eq!(finding["evidence"]["waiting_connections"], CLIENTS, "{finding:#}");
    assert_eq!(finding["evidence"]["dropped_attempts"], 0, "{finding:#}");
    assert!(finding["evidence"]["nothing_accepted_seconds"].is_number(), "{finding:#}");
    assert_is_ours(&finding, 7_120)?;
    for _ in 0..CLIENTS {
        drop(listener.accept()?);
    }
    wait_until_clear(&agent, "accept-queue-overflow", &ns)?;
    assert_logged(&agent, &ns, "accept-queue-overflow", 1, 1)?;
    drop(clients);
    Ok(())
}

#[test]
fn burst_that_is_served_in_seconds_is_info() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent =
        Agent::start(&QUICK.replace("min_age = \"1s\"\nwindow = \"3s\"", "window = \"9s\""))?;
    let ns = Namespace::new("burst")?;
    let _inside = Ended::asleep_in(&ns)?;
    let listener = listen(&ns, 7_121, 5)?;
    agent.wait_for_inventory()?;
    let accepting = listener.try_clone()?;
    let clients = begin_connects(&ns, 50, 7_121)?;
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(1_500));
        accepting.incoming().for_each(drop);
    });
    let finding = wait_for(&agent, "accept-queue-overflow", &ns, |_| true)?;
    assert_eq!(finding["severity"], "info", "{finding:#}");
    wait_until_clear(&agent, "accept-queue-overflow", &ns)?;
    let log = agent.log()?;
    let of_ours = |line: &&str| {
        line.contains(ns.name()) && line.contains(r#"finding="accept-queue-overflow""#)
    };
    assert!(log.lines().filter(of_ours).all(|line| !line.contains("warning")), "{log}");
    assert_logged(&agent, &ns, "accept-queue-overflow", 1, 1)?;
    drop(clients);
    Ok(())
}

#[test]
fn program_that_inherited_a_listener_is_named_with_what_to_do() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("heir")?;
    let listener = listen(&ns, 7_122, 5)?;
    socket2::SockRef::from(&listener).set_cloexec(false)?;
    let mut heir = Command::new("sleep").arg("600").spawn()?;
    socket2::SockRef::from(&listener).set_cloexec(true)?;
    drop(listener);
    let clients = begin_connects(&ns, 20, 7_122)?;
    let is_inherited = |finding: &Value| finding["evidence"]["listener_unattended"] == true;
    let finding = wait_for(&agent, "accept-queue-overflow", &ns, is_inherited);
    heir.kill()?;
    heir.wait()?;
    let finding = finding?;
    assert_eq!(finding["subject"]["process"], "sleep", "{finding:#}");
    assert_eq!(finding["subject"]["pid"], heir.id(), "{finding:#}");
    let text = finding.to_string();
    for part in ["inherited the listener", "FD_CLOEXEC", &format!("kill {}", heir.id())] {
        assert!(text.contains(part), "{part}: {finding:#}");
    }
    wait_until_clear(&agent, "accept-queue-overflow", &ns)?;
    drop(clients);
    Ok(())
}

#[test]
fn a_full_queue_leads_the_connects_that_it_leaves_unanswered() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(&format!("{QUICK}[detect.stuck_state]\nunanswered = \"1s\"\n"))?;
    let ns = Namespace::new("joined")?;
    let _listener = listen(&ns, 7_112, 5)?;
    let _clients = begin_connects(&ns, 50, 7_112)?;
    let leader_of = |finding: &Value| finding["led_by"].as_str().map(str::to_owned);
    let stuck = wait_for(&agent, "stuck-state", &ns, |finding| leader_of(finding).is_some())?;
    let overflow = wait_for(&agent, "accept-queue-overflow", &ns, |_| true)?;
    assert_eq!(stuck["evidence"]["state"], "syn_sent", "{stuck:#}");
    assert_eq!(leader_of(&stuck).as_deref(), overflow["id"].as_str(), "{overflow:#}");
    assert_eq!(overflow["related"], serde_json::json!([stuck["id"]]), "{overflow:#}");
    assert_eq!((overflow.get("led_by"), stuck.get("related")), (None, None));

    // One look for a person has the second below the first.
    let check = tcpwatch()
        .args(["check", "--for", "3s", "--config"])
        .arg(agent.folder.path.join("tcpwatch.toml"))
        .output()?;
    let printed = String::from_utf8(check.stdout)?;
    let lines: Vec<&str> = printed.lines().collect();
    let line = |what: &str| lines.iter().position(|line| line.contains(what));
    let leader = line(&format!("0.0.0.0:7112 in network namespace {}", ns.name()));
    let leader = leader.with_context(|| printed.clone())?;
    let below = lines.iter().skip(leader).position(|line| {
        line.starts_with("    ") && line.contains("127.0.0.1:7112 does not answer")
    });
    let kind = lines.get(leader + below.with_context(|| printed.clone())? + 1);
    assert_eq!(kind, Some(&"      kind    stuck-state"), "{printed}");
    // So has the table, in which each has a line.
    let rows: Vec<&&str> = lines.iter().filter(|line| line.contains(" in tw-")).collect();
    let row = |kind: &str| rows.iter().position(|row| row.contains(kind));
    assert_eq!(
        row("  accept-queue-overflow, ").map(|row| row + 1),
        row("└ stuck-state, "),
        "{printed}"
    );
    Ok(())
}

/// Runs the command of a finding's first remedy as a person would paste it.
fn reserve(finding: &Value) -> Result<()> {
    let remedy = finding["remedies"][0].as_str().context("a finding without remedies")?;
    let command = remedy.split('`').nth(1).with_context(|| remedy.to_owned())?;
    let status = Command::new("sh").args(["-ec", command]).status()?;
    ensure!(status.success(), "{command}: {status}");
    Ok(())
}

#[test]
fn listener_in_the_range_is_at_risk_until_its_port_is_reserved() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("risk")?;
    ns.sysctl_set("net.ipv4.ip_local_port_range", "40000 40999")?;
    ns.sysctl_set("net.ipv4.ip_local_reserved_ports", "8080,40021-40030")?;
    let listener = listen(&ns, 40_020, 16)?;
    let outside = listen(&ns, 7_106, 16)?;
    let reserved = listen(&ns, 40_025, 16)?;
    // A port that the kernel picked is none.
    let picked = listen(&ns, 0, 16)?;
    let finding = wait_for(&agent, "self-connect-risk", &ns, |_| true)?;
    assert_is_ours(&finding, 40_020)?;
    assert_eq!(finding["severity"], "info", "{finding:#}");
    assert_eq!(finding["evidence"]["local_connections"], 0, "{finding:#}");
    assert_eq!(finding["evidence"]["port_list"], "40020", "{finding:#}");

    let mut client = ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 40_020)))??;
    client.write_all(b"hello")?;
    let has_client = |finding: &Value| finding["evidence"]["local_connections"] == 1;
    let finding = wait_for(&agent, "self-connect-risk", &ns, has_client)?;
    assert_eq!(finding["severity"], "info", "{finding:#}");
    drop(client);
    drop(listener.accept()?);
    agent.wait_for_inventory()?;
    agent.wait_for_inventory()?;

    reserve(&finding)?;
    assert_eq!(ns.sysctl("net.ipv4.ip_local_reserved_ports")?, "8080,40020-40030");
    wait_until_clear(&agent, "self-connect-risk", &ns)?;
    agent.wait_for_inventory()?;
    assert_logged(&agent, &ns, "self-connect-risk", 1, 1)?;
    drop((listener, outside, reserved, picked));
    Ok(())
}

#[test]
fn port_that_is_retried_without_listener_is_at_risk_with_the_time_it_will_take() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("retried")?;
    ns.sysctl_set("net.ipv4.ip_local_port_range", "32768 60999")?;
    agent.wait_for_inventory()?;
    let retry = |port: u16| -> Result<()> {
        match ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)))? {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error).context("a connect() that is not refused"),
            // The very thing that is warned of, about once in 14,116 times.
            Ok(it) if it.local_addr()? == it.peer_addr()? => Ok(()),
            Ok(_) => bail!("a process listens on port {port}"),
        }
    };
    // Outside the range, and another address than the source of the connects.
    for _ in 0..30 {
        retry(8_081)?;
        let outcome = ns.enter(|| TcpStream::connect((Ipv4Addr::new(127, 0, 0, 5), 45_678)))?;
        ensure!(outcome.is_err(), "a process listens on 127.0.0.5");
    }
    // One in twenty of the 14,116 ports that connect() tries first: from there on it is a warning.
    for _ in 0..706 {
        retry(45_678)?;
    }
    let begun = Instant::now();
    let mut retried = 0_u32;
    let finding = poll("the warning", || {
        retry(45_678)?;
        retried += 1;
        // Three seconds of the window are past, so that the rate is the window's.
        let mut findings = agent.findings("self-connect-risk", ns.name())?;
        ensure!(findings.len() <= 1, "more than one finding: {findings:#?}");
        Ok(findings.pop().filter(|_| begun.elapsed() > Duration::from_secs(6)))
    })?;
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    assert_eq!(finding["subject"]["process"], own_name()?.as_str(), "{finding:#}");
    assert_eq!(finding["subject"]["role"], "client", "{finding:#}");
    assert_eq!(finding["subject"]["peer"], "127.0.0.1:45678", "{finding:#}");
    let number = |key: &str| finding["evidence"][key].as_f64().with_context(|| key.to_owned());
    assert_eq!(number("self_connection_expected_connects")?, 14_116.0, "{finding:#}");
    let per_second = f64::from(retried) / begun.elapsed().as_secs_f64();
    let rate = number("refused_connects_per_second")?;
    assert!((0.5..2.0).contains(&(rate / per_second)), "{rate} a second, but {per_second}");
    let seconds = number("self_connection_expected_seconds")?;
    assert!((seconds * rate / 14_116.0 - 1.0).abs() < 0.01, "{finding:#}");
    let title = finding["title"].as_str().unwrap_or_default();
    assert!(title.contains("connected to itself in about"), "{title}");

    // The remedy, while the client goes on retrying.
    reserve(&finding)?;
    assert_eq!(ns.sysctl("net.ipv4.ip_local_reserved_ports")?, "45678");
    poll("the warning to clear", || {
        retry(45_678)?;
        Ok(agent.findings("self-connect-risk", ns.name())?.is_empty().then_some(()))
    })?;
    assert_logged(&agent, &ns, "self-connect-risk", 1, 1)
}

#[test]
fn port_that_is_retried_without_listener_clears_after_the_window() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(QUICK)?;
    let ns = Namespace::new("given-up")?;
    agent.wait_for_inventory()?;
    let (low, _) = {
        let range = ns.sysctl("net.ipv4.ip_local_port_range")?;
        let mut ends = range.split_whitespace().map(str::parse::<u16>);
        (ends.next().context("no range")??, ends.next())
    };
    // Of the parity that connect() takes last: it is no more than info.
    let port = low + 101;
    for _ in 0..20 {
        let outcome = ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)))?;
        ensure!(outcome.is_err(), "a process listens on port {port}");
    }
    let finding = wait_for(&agent, "self-connect-risk", &ns, |_| true)?;
    assert_eq!(finding["severity"], "info", "{finding:#}");
    assert_eq!(finding["evidence"]["refused_connects"], 20, "{finding:#}");
    wait_until_clear(&agent, "self-connect-risk", &ns)?;
    assert_logged(&agent, &ns, "self-connect-risk", 1, 1)
}
