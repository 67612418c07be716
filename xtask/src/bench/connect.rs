//! Connections a second over loopback: with the agent's programs against empty ones at the same places,
//! and with the agent and other tools against nothing.

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
    gauge::{Gauge, Part, Programs},
    hooks::resets_per_second,
    median,
};
use crate::{agent::Agent, interrupt::Interrupt, tools};

/// Pairs with an agent or a tool, each of four slices: base, candidate, candidate, base.
const PAIRS_OF_PROCESS: usize = 5;
/// Length of a slice: some 30,000 connections; short, because speed drifts.
const SLICE: Duration = Duration::from_secs(1);
/// A process that has just started does more than later.
const SETTLE: Duration = Duration::from_secs(2);

/// Pairs of the hooks, whose effect is smaller than the drift of a second. Each is of a load of its own:
/// two loads of the same programs differ.
const PAIRS: usize = 20;
/// Blocks of four slices that make such a pair.
const BLOCKS_OF_PAIR: usize = 5;
/// Length of these slices: programs are attached and detached between them, which takes milliseconds.
const SHORT_SLICE: Duration = Duration::from_millis(100);

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
    fn per_second(self, ns: &Namespace, slice: Duration) -> Result<f64> {
        ns.enter(|| {
            let (began, before) = (Instant::now(), cpu_time());
            let rate = match self {
                Self::Orderly => connections_per_second(slice, f64::MAX),
                Self::Reset => resets_per_second(slice),
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
    rates(&ns, SLICE)?;
    let empty = || {
        let mut gauge = Gauge::load()?;
        gauge.attach(Part::Empty)?;
        Ok(gauge)
    };
    let agent = || Agent::start(binary, "", interrupt);
    let nothing = || Ok(());
    let mut table = rows(
        "tcpwatch's programs at three tracepoints, against empty programs there",
        &programs_in_turn(&ns, interrupt, agent)?,
    );
    table.extend(compare("empty programs", (&ns, interrupt), nothing, empty)?);
    table.extend(compare("tcpwatch", (&ns, interrupt), nothing, agent)?);
    let mut not_measured = Vec::new();
    for peer in PEERS {
        let name = format!("`{}`", peer.join(" "));
        let run = || Peer::start(peer);
        match run() {
            Ok(_) => {
                table.extend(compare(&name, (&ns, interrupt), nothing, run)?);
            }
            Err(error) => not_measured.push(format!("{name}: {error:#}.")),
        }
    }
    let mut section = Section::new(
        "Connections",
        "One thread connects, accepts and closes both ends over loopback, as fast as it can; with an\n\
         orderly close the client closes first, with a reset the server closes with a byte unread. Counted\n\
         are connections in a second of its processor time, with all that the hooks take of it: a machine\n\
         that others share gives it now more and now less. Medians; the lower bound has a confidence of 95 %.\n\
         A pair is four slices of a second in the order A B B A. The programs at the tracepoints are measured\n\
         without the agent, which loads them and ends: a pair is 20 slices of a tenth of a second, of a load\n\
         of its own; medians of three runs on one machine differed by up to 0.006. Its programs at\n\
         functions (bind, accept) are not among them.",
    );
    let heads = ["", "close", "without, a second", "with, a second", "ratio", "at least", "pairs"];
    section.table(heads, &table);
    if !not_measured.is_empty() {
        section.say(&format!("Not measured here:\n\n- {}", not_measured.join("\n- ")));
    }
    Ok(section)
}

/// Connections a second of each loop, measured one after the other.
type Rates = [f64; Loop::ALL.len()];
/// Of base and candidate.
type Pair = (Rates, Rates);

fn rates(ns: &Namespace, slice: Duration) -> Result<Rates> {
    let mut rates = Rates::default();
    for (rate, it) in rates.iter_mut().zip(Loop::ALL) {
        *rate = it.per_second(ns, slice)?;
    }
    Ok(rates)
}

/// Pairs of the empty programs and the agent's, without the agent.
fn programs_in_turn(
    ns: &Namespace,
    interrupt: &Interrupt,
    agent: impl Fn() -> Result<Agent>,
) -> Result<Vec<Pair>> {
    println!("programs at three tracepoints …");
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        interrupt.check()?;
        let mut empty = Programs::empty()?;
        let running = agent()?;
        let mut hooks = Programs::of_agent()?;
        drop(running);
        // The first after a pause is slower.
        rates(ns, SHORT_SLICE)?;
        let mut slices = (Vec::new(), Vec::new());
        for _ in 0..BLOCKS_OF_PAIR {
            for is_candidate in [false, true, true, false] {
                let (programs, slices) = match is_candidate {
                    false => (&mut empty, &mut slices.0),
                    true => (&mut hooks, &mut slices.1),
                };
                let _links = programs.attach()?;
                slices.push(rates(ns, SHORT_SLICE)?);
            }
        }
        pairs.push((mean(&slices.0), mean(&slices.1)));
    }
    Ok(pairs)
}

/// Runs each loop in pairs with `base` and with `candidate` held: a row for each loop.
fn compare<B, C>(
    name: &str,
    (ns, interrupt): (&Namespace, &Interrupt),
    base: impl Fn() -> Result<B>,
    candidate: impl Fn() -> Result<C>,
) -> Result<Vec<[String; 7]>> {
    println!("{name} …");
    let mut pairs = Vec::new();
    for _ in 0..PAIRS_OF_PROCESS {
        interrupt.check()?;
        let of_base = || base().and_then(|held| rates(ns, SLICE).inspect(|_| drop(held)));
        let first = of_base()?;
        let held = candidate()?;
        thread::sleep(SETTLE);
        let (second, third) = (rates(ns, SLICE)?, rates(ns, SLICE)?);
        drop(held);
        let fourth = of_base()?;
        pairs.push((mean(&[first, fourth]), mean(&[second, third])));
    }
    Ok(rows(name, &pairs))
}

/// Of each loop.
fn mean(slices: &[Rates]) -> Rates {
    std::array::from_fn(|index| {
        slices.iter().map(|rates| rates[index]).sum::<f64>() / slices.len() as f64
    })
}

fn rows(name: &str, pairs: &[Pair]) -> Vec<[String; 7]> {
    let row = |(index, it): (usize, Loop)| {
        let of_base = || pairs.iter().map(|pair| pair.0[index]);
        let of_candidate = || pairs.iter().map(|pair| pair.1[index]);
        let ratios: Vec<f64> =
            of_base().zip(of_candidate()).map(|(base, with)| with / base).collect();
        let (ratio, bound) = median_and_lower_bound(&ratios);
        [
            name.to_owned(),
            it.name().to_owned(),
            format!("{:.0}", median(of_base())),
            format!("{:.0}", median(of_candidate())),
            format!("{ratio:.3}"),
            format!("{bound:.3}"),
            pairs.len().to_string(),
        ]
    };
    Loop::ALL.into_iter().enumerate().map(row).collect()
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
    fn lower_bound_is_the_sixth_of_twenty_and_the_least_of_five() {
        let values = |count: u32| (1..=count).rev().map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_and_lower_bound(&values(20)).1, 6.0);
        assert_eq!(median_and_lower_bound(&values(5)).1, 1.0);
    }
}
