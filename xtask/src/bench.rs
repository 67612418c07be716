//! `cargo xtask bench`: what tcpwatch costs, measured in turn with the same
//! thing without it, because a machine's speed drifts more than the
//! difference is.
//!
//! Figures are medians of pairs. Nothing is asserted: a benchmark says, a
//! reader judges.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use scenes::{Namespace, TimeWaits};

use crate::{agent::Agent, command::as_root, interrupt::Interrupt, repository};

/// The operation that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// An inventory of 100,000 sockets against `ss -tan`, and the agent's memory
    Inventory,
    /// Connections a second over loopback with and without the agent
    Connect,
}

/// Sockets of the inventory.
const SOCKETS: usize = 100_000;
/// Pairs of `ss` and inventory; TIME_WAIT lasts 60 s, so not for long.
const LOOKS: usize = 15;
/// Pairs of slices with and without the agent.
const PAIRS: usize = 40;
/// Length of a slice: some 30,000 connections; short, because speed drifts.
const SLICE: Duration = Duration::from_secs(1);

pub(crate) fn bench(subject: Subject) -> Result<()> {
    ensure!(
        scenes::is_root(),
        "a benchmark attaches to the kernel, so it needs root: {}",
        as_root("bench")
    );
    let binary = repository::build_tcpwatch()?;
    let interrupt = Interrupt::install().context("handling signals")?;
    match subject {
        Subject::Inventory => inventory(&binary, &interrupt),
        Subject::Connect => connect(&binary, &interrupt),
    }
}

fn inventory(binary: &Path, interrupt: &Interrupt) -> Result<()> {
    const QUICK: &str = "[inventory]\ninterval = \"200ms\"\n";
    let ns = Namespace::new("bench")?;
    let everywhere = Agent::start(binary, QUICK, interrupt)?;
    let empty = everywhere.memory_kib("VmRSS")?;
    let one = format!("{QUICK}namespaces = \"host\"\n");
    let within = Agent::start_within(Some(&ns), binary, &one, interrupt)?;
    println!("making {SOCKETS} sockets in TIME_WAIT …");
    TimeWaits::make_many(&ns, SOCKETS, 9_000)?;
    let mut rows = Vec::new();
    for _ in 0..LOOKS {
        interrupt.check()?;
        rows.push([
            ss(&ns)?,
            next_inventory(&within, interrupt)?,
            next_inventory(&everywhere, interrupt)?,
        ]);
    }
    let column = |index: usize| median(rows.iter().map(|row| row[index])) * 1e3;
    let ratio = |index: usize| median(rows.iter().map(|row| row[index] / row[0]));
    println!("ss -tan of the namespace     {:6.1} ms", column(0));
    println!("inventory of the namespace   {:6.1} ms, {:.2} of ss", column(1), ratio(1));
    println!("inventory of all namespaces  {:6.1} ms, {:.2} of ss", column(2), ratio(2));
    println!(
        "RSS of the agent: {empty} KiB before, {} KiB with the sockets, {} KiB at its peak",
        everywhere.memory_kib("VmRSS")?,
        everywhere.memory_kib("VmHWM")?
    );
    within.stop()?;
    everywhere.stop()
}

/// Seconds of `ss -tan` in the namespace, its output thrown away.
fn ss(ns: &Namespace) -> Result<f64> {
    let mut command = Command::new("ss");
    command.arg("-tan").stdout(Stdio::null());
    let began = Instant::now();
    let status = ns.enter(|| command.status())?.context("running ss")?;
    ensure!(status.success(), "ss: {status}");
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds of an inventory that has begun after now.
fn next_inventory(agent: &Agent, interrupt: &Interrupt) -> Result<f64> {
    let finished = || agent.value("tcpwatch_inventory_timestamp_seconds");
    // The one under way ends first.
    for _ in 0..2 {
        let before = finished()?;
        let newer =
            interrupt.poll(Duration::from_secs(10), || Ok((finished()? > before).then_some(())))?;
        newer.context("no inventory within 10 s")?;
    }
    agent.value("tcpwatch_inventory_duration_seconds")
}

fn connect(binary: &Path, interrupt: &Interrupt) -> Result<()> {
    let ns = Namespace::new("bench")?;
    ns.enter(|| connections_per_second(SLICE))??;
    let mut rows = Vec::new();
    for pair in 1..=PAIRS {
        interrupt.check()?;
        let before = ns.enter(|| connections_per_second(SLICE))??;
        let agent = Agent::start(binary, "", interrupt)?;
        let watched = ns.enter(|| connections_per_second(SLICE))??;
        drop(agent);
        let after = ns.enter(|| connections_per_second(SLICE))??;
        let untouched = (before + after) / 2.0;
        println!(
            "{pair:2}: {before:8.0} {after:8.0} untouched, {watched:8.0} watched, ratio {:.4}",
            watched / untouched
        );
        rows.push((untouched, watched));
    }
    let untouched = median(rows.iter().map(|(untouched, _)| *untouched));
    let watched = median(rows.iter().map(|(_, watched)| *watched));
    let ratio = median(rows.iter().map(|(untouched, watched)| watched / untouched));
    println!("untouched {untouched:.0}/s, watched {watched:.0}/s, median of the ratios {ratio:.4}");
    Ok(())
}

/// connect(), accept(), close(), close(), over and over by one thread. The
/// destination changes, so that no port is waited for: with one, TIME_WAIT
/// allows as many a second as half the port range has.
fn connections_per_second(length: Duration) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    let began = Instant::now();
    let mut connections = 0_u32;
    while began.elapsed() < length {
        for host in 1..=200 {
            let client = TcpStream::connect((Ipv4Addr::new(127, 0, 1, host), port))?;
            let (server, _) = listener.accept()?;
            drop(client);
            drop(server);
            connections += 1;
        }
    }
    Ok(f64::from(connections) / began.elapsed().as_secs_f64())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
