//! The daemon against real sockets: what it says of situations made on purpose, and when.
//!
//! Each test has a network namespace of its own and an agent of its own, so they run side by side.
//! Counts are exact; how soon something shows is counted in inventories, not in seconds.

mod support;

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream},
    os::unix::net::UnixDatagram,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Established, Namespace, PortRange, SelfConnection};
use serde_json::Value;
use support::{Agent, DEADLINE, Folder, poll, tcpwatch, within};

/// `min_age` of a quick agent.
const MIN_AGE: Duration = Duration::from_secs(2);
/// A finding stands within two inventories after its condition holds, and is gone within two of the
/// cure.
const SHOWN_WITHIN: u32 = 2;

/// Failed connects are counted by process, which all tests here share: one at a time.
static FAILING_CONNECTS: Mutex<()> = Mutex::new(());

fn exclusive() -> MutexGuard<'static, ()> {
    // A test that failed leaves nothing behind that disturbs the next one.
    FAILING_CONNECTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `comm` of this process's main thread: the owner of all that the tests leak.
fn own_name() -> Result<String> {
    Ok(fs::read_to_string("/proc/self/comm")?.trim_end().to_owned())
}

/// Waits for the one pileup in `ns`; fails if there are more.
fn pileup(agent: &Agent, ns: &Namespace) -> Result<Value> {
    agent.within_inventories("the pileup to be raised", SHOWN_WITHIN, MIN_AGE, || {
        let mut findings = agent.findings("close-wait-pileup", ns.name())?;
        ensure!(findings.len() <= 1, "more than one finding: {findings:#?}");
        Ok(findings.pop())
    })
}

fn assert_clears(agent: &Agent, kind: &str, ns: &Namespace) -> Result<()> {
    agent.within_inventories("the finding to clear", SHOWN_WITHIN, Duration::ZERO, || {
        Ok(agent.findings(kind, ns.name())?.is_empty().then_some(()))
    })
}

fn assert_is_leak_of_37(finding: &Value, role: &str, port: u16) -> Result<()> {
    let title = finding["title"].as_str().context("a finding without title")?;
    let subject = &finding["subject"];
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    assert_eq!(finding["evidence"]["sockets"], 37, "{finding:#}");
    assert_eq!(subject["process"], own_name()?.as_str(), "{finding:#}");
    assert_eq!(subject["pid"], std::process::id(), "{finding:#}");
    assert_eq!(subject["role"], role, "{finding:#}");
    let end = if role == "client" { "peer" } else { "local" };
    let ends_with_port =
        subject[end].as_str().is_some_and(|end| end.ends_with(&format!(":{port}")));
    assert!(ends_with_port, "{finding:#}");
    assert!(title.contains("37") && title.contains(&port.to_string()), "{title}");
    assert!(title.contains(&format!("(pid {})", std::process::id())), "{title}");
    assert!(subject["fds"].as_array().is_some_and(|fds| !fds.is_empty()), "{finding:#}");
    Ok(())
}

fn leak_is_reported_and_clears(role: &str, ipv6: bool) -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("leak")?;
    let mut leak = if role == "client" {
        CloseWaitLeak::client(&ns, 37, 0, ipv6)?
    } else {
        CloseWaitLeak::server(&ns, 37, 0, ipv6)?
    };
    let port = leak.server_address().port();
    let finding = pileup(&agent, &ns)?;
    assert_is_leak_of_37(&finding, role, port)?;
    assert_eq!(finding["evidence"]["oldest_age_is_lower_bound"], false, "{finding:#}");
    let labels = [
        format!("netns=\"{}\"", ns.name()),
        format!("role=\"{role}\""),
        format!("port=\"{port}\""),
        format!("process=\"{}\"", own_name()?),
    ];
    let labels: Vec<_> = labels.iter().map(String::as_str).collect();
    // An answer may be a fifth of a second old, and so older than the finding.
    poll("the metric of the leak", || {
        Ok((agent.sum("tcpwatch_close_wait_sockets", &labels)? == 37.0).then_some(()))
    })?;

    leak.close(37)?;
    assert_clears(&agent, "close-wait-pileup", &ns)?;
    let log = agent.log()?;
    let of_ns = || log.lines().filter(|line| line.contains(ns.name()));
    let mentions = |word: &str| of_ns().filter(|line| line.contains(word)).count();
    assert_eq!((mentions("raised: "), mentions("cleared: ")), (1, 1), "{log}");
    Ok(())
}

#[test]
fn client_leak_of_37_is_reported_with_its_owner_and_clears() -> Result<()> {
    leak_is_reported_and_clears("client", false)
}

#[test]
fn client_leak_over_ipv6_is_reported_with_its_owner_and_clears() -> Result<()> {
    leak_is_reported_and_clears("client", true)
}

#[test]
fn server_leak_of_37_is_reported_with_its_owner_and_clears() -> Result<()> {
    leak_is_reported_and_clears("server", false)
}

#[test]
fn leak_older_than_the_agent_is_reported_with_an_age_of_at_least() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("old")?;
    let mut leak = CloseWaitLeak::client(&ns, 37, 0, false)?;
    let port = leak.server_address().port();
    let agent = Agent::start_quick()?;
    let finding = pileup(&agent, &ns)?;
    assert_is_leak_of_37(&finding, "client", port)?;
    assert_eq!(finding["evidence"]["oldest_age_is_lower_bound"], true, "{finding:#}");
    leak.close(37)?;
    assert_clears(&agent, "close-wait-pileup", &ns)
}

#[test]
fn burst_that_closes_within_min_age_raises_nothing() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    // The default `min_age`, which a burst does not reach on a machine of any speed.
    let agent = Agent::start("[inventory]\ninterval = \"1s\"\n")?;
    let ns = Namespace::new("burst")?;
    for _ in 0..4 {
        let burst = CloseWaitLeak::client(&ns, 100, 0, false)?;
        agent.wait_for_inventory()?;
        drop(burst);
    }
    agent.wait_for_inventory()?;
    let findings = agent.findings("close-wait-pileup", ns.name())?;
    assert!(findings.is_empty(), "{findings:#?}");
    let log = agent.log()?;
    let raised = log.lines().any(|line| line.contains(ns.name()) && line.contains("raised: "));
    assert!(!raised, "{log}");
    // Other tests may leave CLOSE_WAIT too, so this is a lower bound.
    let left = agent.value("tcpwatch_close_wait_duration_seconds_bucket{le=\"60\"}")?;
    assert!(left >= Some(400.0), "{left:?}");
    Ok(())
}

/// The kernel side reads the clock once in a tick, and not once in many.
#[test]
fn sockets_that_leave_close_wait_in_lots_are_timed_to_a_tick() -> Result<()> {
    /// The longest tick, of a kernel with `CONFIG_HZ=100`.
    const TICK: Duration = Duration::from_millis(10);
    const LOTS: u32 = 10;
    const SOCKETS: u32 = 50;
    if !scenes::root_or_skip() {
        return Ok(());
    }
    // Its host is a namespace of the test's, because other tests leave CLOSE_WAIT too.
    let home = Namespace::new("tick")?;
    home.enter(|| -> Result<()> {
        let agent = Agent::start("[inventory]\nnamespaces = \"host\"\n")?;
        let read = || -> Result<(f64, f64)> {
            let metrics = agent.metrics_of_now()?;
            let of = |part: &str| {
                let name = format!("tcpwatch_close_wait_duration_seconds_{part}");
                support::value_in(&metrics, &name).context("a histogram")
            };
            Ok((of("count")?, of("sum")?))
        };
        let (count_before, sum_before) = read()?;
        let begun = Instant::now();
        let mut leak = CloseWaitLeak::client(&home, (LOTS * SOCKETS) as usize, 0, false)?;
        let entered = Instant::now();
        let mut least = Duration::ZERO;
        for _ in 0..LOTS {
            thread::sleep(4 * TICK);
            least += entered.elapsed().saturating_sub(TICK) / LOTS;
            leak.close(SOCKETS as usize)?;
        }
        let most = begun.elapsed();
        let (count, sum) = read()?;
        // The agent's own HTTP may add some.
        let others = count - count_before - f64::from(LOTS * SOCKETS);
        ensure!((0.0..=20.0).contains(&others), "{others} others");
        let mean = Duration::from_secs_f64((sum - sum_before) / f64::from(LOTS * SOCKETS));
        ensure!(least <= mean && mean <= most, "{least:?} <= {mean:?} <= {most:?}");
        Ok(())
    })?
}

#[test]
fn port_range_used_up_is_measured_exactly_and_each_failed_connect_counts_once() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let _lock = exclusive();
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("ports")?;
    let mut range = PortRange::new(&ns, 40_000..=40_059, 8_080)?;
    range.use_up(30, 30)?;
    agent.wait_for_inventory()?;
    let netns = format!("{{netns=\"{}\"}}", ns.name());
    let used = agent.value(&format!("tcpwatch_ephemeral_ports_used{netns}"))?;
    let available = agent.value(&format!("tcpwatch_ephemeral_ports_available{netns}"))?;
    assert_eq!((used, available), (Some(60.0), Some(60.0)));
    let findings = agent.findings("ephemeral-port-exhaustion", ns.name())?;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0]["severity"], "critical", "{findings:#?}");

    let process = format!("process=\"{}\"", own_name()?);
    let failed = |reason: &str| {
        let reason = format!("reason=\"{reason}\"");
        agent.sum("tcpwatch_connect_failures_total", &[&process, &reason])
    };
    for tried in 1..=7 {
        let error = range.connect_once().expect_err("no port is left");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        poll("the failure to be counted", || {
            let counted = failed("no_local_port")?;
            ensure!(counted <= f64::from(tried), "{counted} counted, {tried} tried");
            Ok((counted == f64::from(tried)).then_some(()))
        })?;
    }
    for reason in ["refused", "timed_out", "unreachable", "reset", "other"] {
        assert_eq!(failed(reason)?, 0.0, "{reason}");
    }
    agent.wait_for_inventory()?;
    let findings = agent.findings("ephemeral-port-exhaustion", ns.name())?;
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings[0]["evidence"]["failed_connects"], 7, "{findings:#?}");
    assert_eq!(findings[0]["subject"]["process"], own_name()?.as_str(), "{findings:#?}");
    Ok(())
}

/// A socket keeps the source port of its last connect(), so 0 is not the only sign.
#[test]
fn no_free_port_is_reported_for_a_socket_that_was_used_before() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let _lock = exclusive();
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("again")?;
    let mut range = PortRange::new(&ns, 43_000..=43_009, 8_083)?;
    let again = ns.enter(|| -> io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        let no_listener = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        assert!(socket.connect(&no_listener.into()).is_err());
        Ok(socket)
    })??;
    range.use_up(10, 0)?;
    let error = again.connect(&range.destination().into()).expect_err("no port is left");
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    let process = format!("process=\"{}\"", own_name()?);
    poll("the failure", || {
        let reason = [process.as_str(), "reason=\"no_local_port\""];
        let other = [process.as_str(), "reason=\"other\""];
        ensure!(agent.sum("tcpwatch_connect_failures_total", &other)? == 0.0, "counted as other");
        Ok((agent.sum("tcpwatch_connect_failures_total", &reason)? == 1.0).then_some(()))
    })
}

#[test]
fn refused_connect_is_counted_with_its_process() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let _lock = exclusive();
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("refused")?;
    for _ in 0..5 {
        let outcome = ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 9)))?;
        assert_eq!(
            outcome.map_err(|error| error.kind()).err(),
            Some(io::ErrorKind::ConnectionRefused)
        );
    }
    let process = format!("process=\"{}\"", own_name()?);
    poll("five refusals", || {
        let labels = [process.as_str(), "reason=\"refused\""];
        Ok((agent.sum("tcpwatch_connect_failures_total", &labels)? >= 5.0).then_some(()))
    })
}

#[test]
fn self_connections_stand_until_closed_and_simultaneous_open_is_none() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("self")?;
    agent.wait_for_inventory()?;
    let simultaneous = scenes::simultaneous_open(&ns)?;
    let addresses: [IpAddr; 3] = [
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 0, 0, 9).into(),
    ];
    let mut standing = Vec::new();
    for address in addresses {
        standing.push(SelfConnection::make(&ns, address)?);
    }
    let total = format!("tcpwatch_self_connections_total{{netns=\"{}\"}}", ns.name());
    let sockets = format!("tcpwatch_self_connected_sockets{{netns=\"{}\"}}", ns.name());
    for _ in 0..2 {
        agent.wait_for_inventory()?;
        assert_eq!(agent.value(&total)?, Some(3.0));
        assert_eq!(agent.value(&sockets)?, Some(3.0));
        let findings = agent.findings("self-connection", ns.name())?;
        let locals: BTreeSet<_> =
            findings.iter().filter_map(|finding| finding["subject"]["local"].as_str()).collect();
        assert_eq!(locals.len(), 3, "{findings:#?}");
        for finding in &findings {
            assert_eq!(finding["subject"]["pid"], std::process::id(), "{finding:#}");
            assert_eq!(finding["subject"]["local"], finding["subject"]["peer"], "{finding:#}");
        }
    }
    standing.into_iter().for_each(SelfConnection::close);
    assert_clears(&agent, "self-connection", &ns)?;
    assert_eq!(agent.value(&total)?, Some(3.0));
    drop(simultaneous);
    Ok(())
}

#[test]
fn lost_events_are_counted_and_gauges_are_still_right() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    // One page holds 42 events, and the agent is stopped while hundreds come.
    let agent =
        Agent::start("[limits]\nring_buffer_bytes = 4096\n[inventory]\ninterval = \"1s\"\n")?;
    let ns = Namespace::new("lost")?;
    let established = scenes::Established::make(&ns, 20)?;
    agent.signal(libc::SIGSTOP)?;
    let refused = ns.enter(|| {
        (0..500).filter(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, 9)).is_err()).count()
    });
    agent.signal(libc::SIGCONT)?;
    assert_eq!(refused?, 500);
    agent.wait_for_inventory()?;
    let lost = agent.sum("tcpwatch_events_lost_total", &["stage=\"ring_buffer\""])?;
    let process = format!("process=\"{}\"", own_name()?);
    let counted =
        agent.sum("tcpwatch_connect_failures_total", &[&process, "reason=\"refused\""])?;
    assert!(lost >= 400.0, "{lost} lost");
    assert!(lost + counted >= 500.0, "{lost} lost and {counted} counted of 500");
    let state =
        |state: &str| format!("tcpwatch_sockets{{netns=\"{}\",state=\"{state}\"}}", ns.name());
    assert_eq!(agent.value(&state("established"))?, Some(40.0));
    assert_eq!(agent.value(&state("listen"))?, Some(1.0));
    drop(established);
    Ok(())
}

/// Of a namespace of its own: what else runs on this host is not judged.
#[test]
fn quiet_namespace_has_no_finding_above_info_with_the_default_configuration() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    const PAIRS: usize = 20;
    // Only the interval is shorter, so that the test is.
    let agent = Agent::start("[inventory]\ninterval = \"500ms\"\n")?;
    let ns = Namespace::new("calm")?;
    let _pairs = Established::make(&ns, PAIRS)?;
    for _ in 0..10 {
        agent.wait_for_inventory()?;
        let findings = agent.all_findings()?;
        let is_loud = |finding: &&Value| {
            finding["subject"]["netns"] == ns.name() && finding["severity"] != "info"
        };
        let loud: Vec<_> = findings.iter().filter(is_loud).collect();
        assert!(loud.is_empty(), "{loud:#?}");
    }
    let series = format!("tcpwatch_sockets{{netns=\"{}\",state=\"established\"}}", ns.name());
    assert_eq!(agent.value(&series)?, Some(2.0 * PAIRS as f64));
    Ok(())
}

#[test]
fn sigterm_ends_the_agent_within_two_seconds_and_leaves_nothing_attached() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let mut agent = Agent::start_quick()?;
    let programs = program_ids_of(agent.pid())?;
    assert!(programs.len() >= 5, "{programs:?}");
    assert!(programs.is_subset(&loaded_program_ids()), "{programs:?}");
    let signalled = Instant::now();
    agent.signal(libc::SIGTERM)?;
    assert_eq!(agent.wait()?, Some(0), "{}", agent.log()?);
    assert!(signalled.elapsed() < within(Duration::from_secs(2)), "{:?}", signalled.elapsed());
    // The kernel frees a program some moments after its last reference has gone.
    poll("the programs to go", || Ok(programs.is_disjoint(&loaded_program_ids()).then_some(())))
}

/// Ids of the eBPF programs that a process holds (`prog_id` of fdinfo).
fn program_ids_of(pid: u32) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}

/// Ids of all that the kernel has loaded.
fn loaded_program_ids() -> BTreeSet<u32> {
    aya::programs::loaded_programs().flatten().map(|program| program.id()).collect()
}

#[test]
fn service_manager_is_notified_of_readiness_life_and_end() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let path = folder.path.join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let mut child = tcpwatch()
        .args(["run", "--web.listen-address", "127.0.0.1:0"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "400000")
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let notification = || -> Result<String> {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
    };
    let outcome = (|| -> Result<()> {
        let mut seen = BTreeSet::new();
        while !seen.contains("READY=1") || !seen.contains("WATCHDOG=1") {
            seen.insert(notification()?);
        }
        // SAFETY: takes no pointer; the child is ours and not reaped yet.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        while notification()? != "STOPPING=1" {}
        Ok(())
    })();
    if outcome.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    outcome?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn reload_shortens_an_interval_that_is_running() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start("[inventory]\ninterval = \"1h\"\n")?;
    let web = format!("[web]\nsocket = \"\"\nlisten_addresses = [\"{}\"]\n", agent.address);
    let quick = format!("{web}[inventory]\ninterval = \"1s\"\n");
    agent.folder.write("tcpwatch.toml", &quick)?;
    agent.signal(libc::SIGHUP)?;
    agent.wait_for_inventory()
}

#[test]
fn reload_takes_a_good_file_and_refuses_a_bad_one_as_a_whole() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("reload")?;
    let _leak = CloseWaitLeak::client(&ns, 10, 0, false)?;
    let successful = "tcpwatch_config_last_reload_successful";
    assert_eq!(agent.value(successful)?, Some(1.0));

    let web = format!("[web]\nsocket = \"\"\nlisten_addresses = [\"{}\"]\n", agent.address);
    agent
        .folder
        .write("tcpwatch.toml", &format!("{web}[detect.close_wait_pileup]\nwarnin = 1\n"))?;
    agent.signal(libc::SIGHUP)?;
    poll("the refusal", || Ok((agent.value(successful)? == Some(0.0)).then_some(())))?;
    assert!(
        agent.log()?.contains("unknown key `detect.close_wait_pileup.warnin`"),
        "{}",
        agent.log()?
    );
    assert!(agent.findings("close-wait-pileup", ns.name())?.is_empty());

    let good = "[inventory]\ninterval = \"1s\"\n\
                [detect.close_wait_pileup]\nmin_age = \"2s\"\nwarning = 10\n";
    agent.folder.write("tcpwatch.toml", &format!("{web}{good}"))?;
    agent.signal(libc::SIGHUP)?;
    poll("the new threshold", || {
        Ok((!agent.findings("close-wait-pileup", ns.name())?.is_empty()).then_some(()))
    })?;
    assert_eq!(agent.value(successful)?, Some(1.0));
    Ok(())
}
