//! Ports that a process cannot have, with real sockets: the process that failed, the holder of the
//! port, and the end of the conflict.
//!
//! A process of its own fails, this very binary with another name: a process that holds the port
//! itself has no conflict. A machine whose kernel refuses the hook skips these tests; `cargo xtask vm`
//! runs them on kernels that have it.

mod support;

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::{Namespace, SelfConnection, TakenPort};
use serde_json::Value;
use support::{Agent, poll, skip_without_hook, within};

/// How long a refusal counts.
const WINDOW: Duration = Duration::from_secs(6);

const KIND: &str = "bind-conflict";

/// The variable with the address for the process that binds, and the name of that process.
const ADDRESS: &str = "TCPWATCH_TEST_BIND";
const NAME: &str = "binder";

/// With an inventory every second. `None` where this kernel does not let the hook attach; it says so.
fn agent_with_the_hook(window: Duration) -> Result<Option<Agent>> {
    if !scenes::root_or_skip() {
        return Ok(None);
    }
    let window = window.as_secs();
    let agent = Agent::start(&format!(
        "[inventory]\ninterval = \"1s\"\n[detect.bind_conflict]\nwindow = \"{window}s\"\nwarning = 3\n"
    ))?;
    if agent.value("tcpwatch_hook_attached{hook=\"bind\"}")? == Some(1.0) {
        return Ok(Some(agent));
    }
    let accept = agent.value("tcpwatch_hook_attached{hook=\"accept\"}")? == Some(1.0);
    skip_without_hook("bind", &[("accept", accept)])?;
    Ok(None)
}

/// The process that [`bind_elsewhere`] starts binds here.
#[test]
#[ignore = "no test of its own: others start it as a process"]
fn as_another_process() -> Result<()> {
    let address = env::var(ADDRESS).context("only `bind_elsewhere` starts this")?;
    fs::write("/proc/self/comm", NAME)?;
    let address: SocketAddr = address.parse()?;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    let error = socket.bind(&address.into()).and_then(|()| socket.listen(1)).err();
    let refused = error.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse);
    ensure!(refused, "{address} was to be taken");
    Ok(())
}

/// Another process binds `address` in `ns` and is refused.
fn bind_elsewhere(ns: &Namespace, address: SocketAddr) -> Result<()> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--ignored", "--exact", "as_another_process"]).env(ADDRESS, address.to_string());
    let status = ns.spawn_in(&mut command)?.wait()?;
    ensure!(status.success(), "the bind of {address} was not refused");
    Ok(())
}

fn wait_for(agent: &Agent, ns: &Namespace, is_expected: impl Fn(&Value) -> bool) -> Result<Value> {
    poll(KIND, || {
        let findings = agent.findings(KIND, ns.name())?;
        ensure!(findings.len() <= 1, "more than one finding: {findings:#?}");
        Ok(findings.into_iter().find(&is_expected))
    })
}

fn wait_until_clear(agent: &Agent, ns: &Namespace) -> Result<()> {
    poll("bind-conflict to clear", || Ok(agent.findings(KIND, ns.name())?.is_empty().then_some(())))
}

/// One refusal at what `taken` says; the finding.
fn refused_once(agent: &Agent, ns: &Namespace, address: SocketAddr) -> Result<Value> {
    bind_elsewhere(ns, address)?;
    let finding = wait_for(agent, ns, |_| true)?;
    assert_eq!(finding["severity"], "info", "{finding:#}");
    assert_eq!(finding["subject"]["process"], NAME, "{finding:#}");
    assert_eq!(finding["subject"]["local"], address.to_string(), "{finding:#}");
    let title = finding["title"].as_str().context("a finding without title")?;
    assert!(title.starts_with(NAME) && title.contains(&address.to_string()), "{title}");
    wait_until_clear(agent, ns)?;
    Ok(finding)
}

#[test]
fn a_listener_of_another_process_is_named_and_three_refusals_are_a_warning() -> Result<()> {
    // A slow machine makes three refusals in a longer time.
    let Some(agent) = agent_with_the_hook(within(WINDOW))? else { return Ok(()) };
    let ns = Namespace::new("taken")?;
    let listener = TakenPort::by_listener(&ns, SocketAddr::from(([0, 0, 0, 0], 7_200)))?;
    agent.wait_for_inventory()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7_200));
    for _ in 0..3 {
        bind_elsewhere(&ns, address)?;
    }
    let is_whole = |finding: &Value| finding["evidence"]["failed_binds"] == 3;
    let finding = wait_for(&agent, &ns, is_whole)?;
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    let holder = &finding["evidence"]["holder"];
    assert_eq!(holder["kind"], "listener", "{finding:#}");
    assert_eq!(holder["local"], "0.0.0.0:7200", "{finding:#}");
    assert_eq!(holder["pid"], std::process::id(), "{finding:#}");
    wait_until_clear(&agent, &ns)?;
    let log = agent.log()?;
    let of_kind = || log.lines().filter(|line| line.contains(ns.name()) && line.contains(KIND));
    assert_eq!(of_kind().filter(|line| line.contains("raised: ")).count(), 1, "{log}");
    assert_eq!(of_kind().filter(|line| line.contains("cleared: ")).count(), 1, "{log}");
    drop(listener);
    Ok(())
}

#[test]
fn holders_of_a_port_without_a_listener_are_distinguished() -> Result<()> {
    let Some(agent) = agent_with_the_hook(WINDOW)? else { return Ok(()) };
    let ns = Namespace::new("held")?;
    let itself = SelfConnection::make(&ns, IpAddr::from(Ipv4Addr::LOCALHOST))?;
    let table = [
        // First, because they end after a minute.
        (TakenPort::by_time_wait(&ns, 7_202, true)?, "accepted_time_wait"),
        (TakenPort::by_outgoing_time_wait(&ns, 7_204)?, "outgoing_time_wait"),
        (TakenPort::by_accepted(&ns, 7_201, true)?, "accepted_connection"),
        (TakenPort::by_outgoing(&ns, 7_203)?, "outgoing_connection"),
    ];
    agent.wait_for_inventory()?;
    let addresses = table.iter().map(|(taken, expected)| (taken.address(), *expected));
    for (address, expected) in addresses.chain([(itself.address(), "self_connection")]) {
        let finding = refused_once(&agent, &ns, address)?;
        assert_eq!(finding["evidence"]["holder"]["kind"], expected, "{finding:#}");
    }
    Ok(())
}

#[test]
fn a_port_that_is_only_bound_has_a_holder_where_the_one_pass_walks() -> Result<()> {
    let Some(agent) = agent_with_the_hook(WINDOW)? else { return Ok(()) };
    let ns = Namespace::new("bound")?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7_205));
    let bound = ns.enter(|| -> std::io::Result<socket2::Socket> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&address.into())?;
        Ok(socket)
    })??;
    agent.wait_for_inventory()?;
    let finding = refused_once(&agent, &ns, address)?;
    let series = "tcpwatch_scope_info{pidns=\"host\",netns=\"host\",walk=\"one_pass\"}";
    let holder = finding["evidence"].get("holder");
    if agent.value(series)?.is_some() {
        let holder = holder.context("no holder")?;
        assert_eq!(holder["kind"], "bound_only", "{finding:#}");
        assert_eq!(holder["pid"], std::process::id(), "{finding:#}");
    } else {
        assert_eq!(holder, None, "{finding:#}");
    }
    drop(bound);
    Ok(())
}
