//! An inventory against `ss -tan`.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use scenes::{Namespace, TimeWaits};

use super::{median, next_inventory};
use crate::{agent::Agent, interrupt::Interrupt};

/// Sockets of the inventory.
const SOCKETS: [usize; 3] = [100_000, 300_000, 600_000];
/// Pairs of `ss` and inventory at most; TIME_WAIT lasts 60 s, so not for longer than [`LENGTH`].
const LOOKS: usize = 15;
const LENGTH: Duration = Duration::from_secs(25);

pub(super) fn inventory(binary: &Path, interrupt: &Interrupt) -> Result<()> {
    SOCKETS.into_iter().try_for_each(|sockets| inventory_of(sockets, binary, interrupt))
}

fn inventory_of(sockets: usize, binary: &Path, interrupt: &Interrupt) -> Result<()> {
    const QUICK: &str = "[inventory]\ncpu_share = 0.1\ninterval = \"200ms\"\n";
    let ns = Namespace::new("bench")?;
    let everywhere = Agent::start(binary, QUICK, interrupt)?;
    let empty = everywhere.memory_kib("VmRSS")?;
    let one = format!("{QUICK}namespaces = \"host\"\n");
    let within = Agent::start_within(Some(&ns), binary, &one, interrupt)?;
    println!("making {sockets} sockets in TIME_WAIT …");
    TimeWaits::make_many(&ns, sockets, 9_000)?;
    let mut rows = Vec::new();
    let began = Instant::now();
    while rows.len() < LOOKS && began.elapsed() < LENGTH {
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
