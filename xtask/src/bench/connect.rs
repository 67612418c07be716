//! Connections a second over loopback: with the agent against empty programs at the same places, and
//! with other tools against nothing.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use scenes::Namespace;

use super::{
    connections_per_second,
    document::Section,
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

/// A process that has just started does more than later.
const SETTLE: Duration = Duration::from_secs(2);

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
            Self::Orderly => "orderly",
            Self::Reset => "reset",
        }
    }

    /// Connections in a second of the thread's processor time.
    fn per_second(self, ns: &Namespace) -> Result<f64> {
        ns.enter(|| {
            let (began, before) = (Instant::now(), cpu_time());
            let rate = match self {
                Self::Orderly => connections_per_second(SLICE, f64::MAX),
                Self::Reset => resets_per_second(SLICE),
            };
            let (passed, taken) = (began.elapsed(), cpu_time() - before);
            rate.map(|rate| rate * passed.as_secs_f64() / taken.as_secs_f64())
        })?
    }
}

/// Processor time of this thread. The other end of loopback runs in it too.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

pub(super) fn connect(binary: &Path, interrupt: &Interrupt) -> Result<Section> {
    let ns = Namespace::new("bench")?;
    for it in Loop::ALL {
        it.per_second(&ns)?;
    }
    let empty = || {
        let mut gauge = Gauge::load()?;
        gauge.attach(Part::Empty)?;
        Ok(gauge)
    };
    let agent = || Agent::start(binary, "", interrupt);
    let nothing = || Ok(());
    let mut rows = compare(
        (BLOCKS, "tcpwatch, against empty programs at the places of its hooks"),
        (&ns, interrupt),
        empty,
        agent,
    )?;
    rows.extend(compare((BLOCKS_OF_PEER, "empty programs"), (&ns, interrupt), nothing, empty)?);
    rows.extend(compare((BLOCKS_OF_PEER, "tcpwatch"), (&ns, interrupt), nothing, agent)?);
    let mut not_measured = Vec::new();
    for peer in PEERS {
        let name = format!("`{}`", peer.join(" "));
        let run = || Peer::start(peer);
        match run() {
            Ok(_) => {
                rows.extend(compare((BLOCKS_OF_PEER, &name), (&ns, interrupt), nothing, run)?);
            }
            Err(error) => not_measured.push(format!("{name}: {error:#}.")),
        }
    }
    let mut section = Section::new(
        "Connections",
        "One thread connects, accepts and closes both ends over loopback, as fast as it can; with an\n\
         orderly close the client closes first, with a reset the server closes with a byte unread. Counted\n\
         are connections in a second of its processor time, with all that the hooks take of it: a machine\n\
         that others share gives it now more and now less. Slices of a second in the order A B B A. Medians;\n\
         the lower bound has a confidence of 95 %.",
    );
    let heads = ["", "close", "without, a second", "with, a second", "ratio", "at least", "pairs"];
    section.table(heads, &rows);
    if !not_measured.is_empty() {
        section.say(&format!("Not measured here:\n\n- {}", not_measured.join("\n- ")));
    }
    Ok(section)
}

/// Runs each loop in blocks with `base` and with `candidate` held: a row for each loop.
fn compare<B, C>(
    (blocks, name): (usize, &str),
    (ns, interrupt): (&Namespace, &Interrupt),
    base: impl Fn() -> Result<B>,
    candidate: impl Fn() -> Result<C>,
) -> Result<Vec<[String; 7]>> {
    println!("{name} …");
    let mut pairs = Loop::ALL.map(|_| Vec::new());
    for _ in 0..blocks {
        interrupt.check()?;
        let rates =
            || -> Result<Vec<f64>> { Loop::ALL.into_iter().map(|it| it.per_second(ns)).collect() };
        let first = base().and_then(|held| rates().inspect(|_| drop(held)))?;
        let held = candidate()?;
        thread::sleep(SETTLE);
        let (second, third) = (rates()?, rates()?);
        drop(held);
        let fourth = base().and_then(|held| rates().inspect(|_| drop(held)))?;
        for (index, pairs) in pairs.iter_mut().enumerate() {
            pairs.push((first[index], second[index]));
            pairs.push((fourth[index], third[index]));
        }
    }
    let row = |(it, pairs): (Loop, &Vec<(f64, f64)>)| {
        let rate = |of: fn(&(f64, f64)) -> f64| format!("{:.0}", median(pairs.iter().map(of)));
        let ratios: Vec<f64> = pairs.iter().map(|(base, with)| with / base).collect();
        let (ratio, bound) = median_and_lower_bound(&ratios);
        [
            name.to_owned(),
            it.name().to_owned(),
            rate(|pair| pair.0),
            rate(|pair| pair.1),
            format!("{ratio:.3}"),
            format!("{bound:.3}"),
            pairs.len().to_string(),
        ]
    };
    Ok(Loop::ALL.into_iter().zip(&pairs).map(row).collect())
}

/// The median, and a lower bound of it with a confidence of 95 %, whatever the distribution is: the value
/// whose rank the sign test gives. Fewer than five values have no such bound; the least stands for it.
fn median_and_lower_bound(values: &[f64]) -> (f64, f64) {
    let count = values.len();
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Terms of the binomial distribution of `count` throws of a coin.
    let mut term = 0.5_f64.powi(count as i32);
    let mut at_most = term;
    let mut rank = 0;
    while at_most <= 0.05 {
        rank += 1;
        term *= (count - rank + 1) as f64 / rank as f64;
        at_most += term;
    }
    (median(values.iter().copied()), sorted[rank.saturating_sub(1)])
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

#[cfg(test)]
mod tests {
    use super::median_and_lower_bound;

    #[test]
    fn lower_bound_is_the_sixth_of_twenty_and_the_least_of_six() {
        let values = |count: u32| (1..=count).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_and_lower_bound(&values(20)).1, 6.0);
        assert_eq!(median_and_lower_bound(&values(6)).1, 1.0);
    }
}
