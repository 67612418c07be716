//! Overrides and ignored findings, with real leaks: their matchers, and a reload.
//!
//! The engine's tests show on facts what they match in every kind of finding.

mod support;

use std::fs;

use anyhow::{Context, Result};
use scenes::{CloseWaitLeak, Namespace};
use support::{Agent, poll};

/// An inventory a second; sockets in CLOSE_WAIT count after two.
const QUICK: &str =
    "[inventory]\ninterval = \"1s\"\n[detect.close_wait_pileup]\nmin_age = \"2s\"\n";

const OVERRIDE: &str = "[[detect.close_wait_pileup.override]]";

/// Ports of the two services whose connections this process keeps.
const MANY: u16 = 8_201;
/// See [`MANY`].
const FEW: u16 = 8_202;

/// The peers' ports of the pileups found in `ns`.
fn ports_found(agent: &Agent, ns: &Namespace) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    for finding in agent.findings("close-wait-pileup", ns.name())? {
        let peer = finding["subject"]["peer"].as_str().context("a finding without peer")?;
        let (_, port) = peer.rsplit_once(':').context("a peer without port")?;
        ports.push(port.parse()?);
    }
    Ok(ports)
}

/// Waits until the pileups are these, and sees that they stay so.
fn assert_found(agent: &Agent, ns: &Namespace, expected: &[u16]) -> Result<()> {
    poll(&format!("the pileups to be those of {expected:?}"), || {
        Ok((ports_found(agent, ns)? == expected).then_some(()))
    })?;
    for _ in 0..2 {
        agent.wait_for_inventory()?;
        assert_eq!(ports_found(agent, ns)?, expected);
    }
    Ok(())
}

fn reload(agent: &Agent, config: &str) -> Result<()> {
    let web = format!("[web]\nsocket = \"\"\nlisten_addresses = [\"{}\"]\n", agent.address);
    agent.folder.write("tcpwatch.toml", &format!("{web}{config}"))?;
    agent.signal(libc::SIGHUP)
}

#[test]
fn an_override_by_port_silences_a_leak_and_one_by_process_lowers_its_threshold() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let own_name = fs::read_to_string("/proc/self/comm")?;
    let own_name = own_name.trim_end();
    let silent = format!("{OVERRIDE}\nport = {MANY}\nenabled = false\n");
    let lowered = format!("{OVERRIDE}\nprocess = \"{own_name}\"\nwarning = 5\n");
    let agent = Agent::start(&format!("{QUICK}{silent}{lowered}"))?;
    let ns = Namespace::new("overrides")?;
    let _many = CloseWaitLeak::client(&ns, 37, MANY, false)?;
    let _few = CloseWaitLeak::client(&ns, 10, FEW, false)?;
    assert_found(&agent, &ns, &[FEW])?;
    let netns = format!("netns=\"{}\"", ns.name());
    let kept = |port: u16| {
        agent.sum("tcpwatch_close_wait_sockets", &[&netns, &format!("port=\"{port}\"")])
    };
    assert_eq!((kept(MANY)?, kept(FEW)?), (37.0, 10.0), "the metrics stay");

    // Without them it is as the section says, and that is ignored then.
    reload(&agent, QUICK)?;
    assert_found(&agent, &ns, &[MANY])?;
    reload(&agent, &format!("{QUICK}{lowered}[ignore]\nports = [{MANY}]\n"))?;
    assert_found(&agent, &ns, &[FEW])?;
    reload(&agent, &format!("{QUICK}{lowered}[ignore]\nprocesses = [\"{own_name}\"]\n"))?;
    assert_found(&agent, &ns, &[])?;
    assert_eq!((kept(MANY)?, kept(FEW)?), (37.0, 10.0));

    // The silenced leak was never logged before the reload that enables it.
    let log = agent.log()?;
    let count = |word: &str, port: u16| {
        let of_port = format!(":{port} ");
        log.lines()
            .filter(|line| {
                line.contains(ns.name()) && line.contains(word) && line.contains(&of_port)
            })
            .count()
    };
    assert_eq!((count("raised: ", MANY), count("cleared: ", MANY)), (1, 1), "{log}");
    assert_eq!((count("raised: ", FEW), count("cleared: ", FEW)), (2, 2), "{log}");
    Ok(())
}

/// The day in UTC that is so many days from now.
fn day(days: i64) -> Result<String> {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    Ok(today.checked_add(jiff::Span::new().try_days(days)?)?.to_string())
}

#[test]
fn what_has_ended_is_reported_once_for_each_reading_and_silences_nothing() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let (past, future) = (day(-2)?, day(2)?);
    let config = format!(
        "{QUICK}{OVERRIDE}\nport = {MANY}\nuntil = \"{past}\"\nenabled = false\n\
         [ignore]\nports = [{{ port = {FEW}, until = \"{future}\" }}]\n"
    );
    let agent = Agent::start(&config)?;
    let ns = Namespace::new("until")?;
    let _many = CloseWaitLeak::client(&ns, 37, MANY, false)?;
    let _few = CloseWaitLeak::client(&ns, 37, FEW, false)?;
    assert_found(&agent, &ns, &[MANY])?;
    let ended = || -> Result<usize> { Ok(agent.log()?.matches("no longer applies").count()) };
    assert_eq!(ended()?, 1, "{}", agent.log()?);
    reload(&agent, &config)?;
    poll("the second reading", || Ok((ended()? == 2).then_some(())))?;
    assert_found(&agent, &ns, &[MANY])?;
    assert_eq!(ended()?, 2, "{}", agent.log()?);

    // The commands say it too.
    let file = agent.folder.path.join("tcpwatch.toml");
    let checked = support::tcpwatch().args(["config", "check"]).arg(&file).output()?;
    let line = format!(
        "detect.close_wait_pileup.override[0] (port = {MANY}) no longer applies: it ended on {past}"
    );
    let said = String::from_utf8(checked.stdout)?;
    assert_eq!(said, format!("{0}: {line}\n{0}: OK\n", file.display()));
    let checked = support::tcpwatch().args(["check", "--config"]).arg(&file).output()?;
    assert_eq!(String::from_utf8(checked.stderr)?, format!("tcpwatch: {line}\n"));
    Ok(())
}
