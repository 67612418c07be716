//! Connections a second over loopback: with the agent against empty programs at the same places, and
//! with other tools against nothing.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use scenes::Namespace;

use super::{
    connections_per_second,
    gauge::{Gauge, Part},
    hooks::resets_per_second,
    median,
};
use crate::{agent::Agent, interrupt::Interrupt, tools};

/// Blocks of four slices, base, candidate, candidate, base: two pairs each.
const BLOCKS: usize = 10;
/// Of each other tool, whose effect is larger.
const BLOCKS_OF_PEER: usize = 3;
/// Length of a slice: some 30,000 connections; short, because speed drifts.
const SLICE: Duration = Duration::from_secs(1);

/// One thread connects, accepts and closes both ends, as fast as it can.
#[derive(Clone, Copy)]
enum Loop {
    /// The client closes first.
    Orderly,
    /// The client closes, the server then closes with a byte unread, and so resets.
    Reset,
}

impl Loop {
    const ALL: [Self; 2] = [Self::Orderly, Self::Reset];

    fn name(self) -> &'static str {
        match self {
            Self::Orderly => "orderly close",
            Self::Reset => "ends in a reset",
        }
    }

    fn per_second(self, ns: &Namespace) -> Result<f64> {
        ns.enter(|| match self {
            Self::Orderly => connections_per_second(SLICE, f64::MAX),
            Self::Reset => resets_per_second(SLICE),
        })?
    }
}

pub(super) fn connect(binary: &Path, interrupt: &Interrupt) -> Result<()> {
    let ns = Namespace::new("bench")?;
    for it in Loop::ALL {
        it.per_second(&ns)?;
    }
    println!("tcpwatch, against empty programs at the places of its hooks:");
    let empty = || {
        let mut gauge = Gauge::load()?;
        gauge.attach(Part::Empty)?;
        Ok(gauge)
    };
    compare(BLOCKS, &ns, interrupt, empty, || Agent::start(binary, "", interrupt))?;
    println!("against nothing:");
    println!(" empty programs");
    compare(BLOCKS_OF_PEER, &ns, interrupt, || Ok(()), empty)?;
    println!(" tcpwatch");
    let agent = || Agent::start(binary, "", interrupt);
    compare(BLOCKS_OF_PEER, &ns, interrupt, || Ok(()), agent)?;
    for peer in PEERS {
        println!(" {}", peer.join(" "));
        let run = || Peer::start(peer);
        // Before the kernel of a benchmark some do not attach.
        if let Err(error) = run() {
            println!("  not measured: {error:#}");
            continue;
        }
        compare(BLOCKS_OF_PEER, &ns, interrupt, || Ok(()), run)?;
    }
    Ok(())
}

/// Runs each loop in blocks with `base` and with `candidate` held, and prints the rates and ratios.
fn compare<B, C>(
    blocks: usize,
    ns: &Namespace,
    interrupt: &Interrupt,
    base: impl Fn() -> Result<B>,
    candidate: impl Fn() -> Result<C>,
) -> Result<()> {
    let mut pairs = Loop::ALL.map(|_| Vec::new());
    for _ in 0..blocks {
        interrupt.check()?;
        let rates =
            || -> Result<Vec<f64>> { Loop::ALL.into_iter().map(|it| it.per_second(ns)).collect() };
        let first = base().and_then(|held| rates().inspect(|_| drop(held)))?;
        let held = candidate()?;
        let (second, third) = (rates()?, rates()?);
        drop(held);
        let fourth = base().and_then(|held| rates().inspect(|_| drop(held)))?;
        for (index, pairs) in pairs.iter_mut().enumerate() {
            pairs.push((first[index], second[index]));
            pairs.push((fourth[index], third[index]));
        }
    }
    for (it, pairs) in Loop::ALL.into_iter().zip(&pairs) {
        let rate = |of: fn(&(f64, f64)) -> f64| median(pairs.iter().map(of));
        let ratios: Vec<f64> = pairs.iter().map(|(base, with)| with / base).collect();
        let (mean, bound) = mean_and_lower_bound(&ratios);
        println!(
            "  {:16} {:7.0}/s, {:7.0}/s with it: ratio {mean:.3}, at least {bound:.3} ({} pairs)",
            it.name(),
            rate(|pair| pair.0),
            rate(|pair| pair.1),
            pairs.len()
        );
    }
    Ok(())
}

/// The mean, and what it is above with a confidence of 95 %.
fn mean_and_lower_bound(values: &[f64]) -> (f64, f64) {
    // Student's t, one-sided, for 5 and for 19 degrees of freedom; in between the first is careful.
    let t = if values.len() >= 20 { 1.729 } else { 2.015 };
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0)).sqrt();
    (mean, mean - t * deviation / count.sqrt())
}

/// Tools for the same events, as their packages in Debian 12 have them.
const PEERS: [&[&str]; 4] = [
    &["tcpstates"],
    &["tcplife"],
    &["tcpconnlat"],
    &[
        "bpftrace",
        "-e",
        "tracepoint:sock:inet_sock_set_state { @[args->oldstate, args->newstate] = count(); }",
    ],
];

/// One of them, its output thrown away. Dropping it ends it.
struct Peer(Child);

impl Peer {
    fn start(command: &[&str]) -> Result<Self> {
        /// To attach.
        const BEGIN: Duration = Duration::from_secs(2);
        tools::ensure_programs(&[("tcpstates", "libbpf-tools"), ("bpftrace", "bpftrace")])?;
        // Most look their tracepoint up in tracefs, which not every machine has mounted.
        const WITH_TRACEFS: &str = "mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\"";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", WITH_TRACEFS, "sh"])
            .args(command)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("running unshare")?;
        let mut peer = Self(child);
        thread::sleep(BEGIN);
        if peer.0.try_wait()?.is_some() {
            let mut said = String::new();
            if let Some(stderr) = &mut peer.0.stderr {
                std::io::Read::read_to_string(stderr, &mut said)?;
            }
            let line = said.lines().find(|line| line.contains("ERROR") || line.contains("ailed"));
            anyhow::bail!("it ended: {}", line.or(said.lines().next()).unwrap_or("without a word"));
        }
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
