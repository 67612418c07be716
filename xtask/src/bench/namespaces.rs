//! The same sockets in many network namespaces and in one.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use scenes::{Established, Namespace, TimeWaits};

use super::{document::Section, median, next_inventory};
use crate::{agent::Agent, interrupt::Interrupt};

const NAMESPACES: [usize; 3] = [1, 100, 1_000];
/// In all of them, both ends of each connection.
const SOCKETS: usize = 10_000;
/// Namespaces that `ss` looks at in a turn: it takes as long for each as for all sockets of the host.
const SS_LOOKS: usize = 5;
/// Beside them, in a namespace of their own.
const TIME_WAIT: usize = 300_000;
/// Inventories of each turn: TIME_WAIT lasts 60 s, so not for long.
const LOOKS: usize = 9;

pub(super) fn namespaces(binary: &Path, interrupt: &Interrupt) -> Result<Section> {
    let mut turns: Vec<(usize, Turn)> = Vec::new();
    let order = NAMESPACES.into_iter().chain(NAMESPACES.into_iter().rev());
    for count in order {
        println!("making {count} namespaces with {SOCKETS} sockets in all …");
        turns.push((count, turn(count, binary, interrupt)?));
    }
    let mean = |count: usize, of: fn(&Turn) -> f64| {
        let values: Vec<f64> =
            turns.iter().filter(|(it, _)| *it == count).map(|(_, turn)| of(turn)).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let [least, ..] = NAMESPACES;
    let row = |count: usize| {
        let seconds = mean(count, |turn| turn.inventory);
        [
            count.to_string(),
            format!("{:.0} ms", seconds * 1e3),
            format!("{:.2}", seconds / mean(least, |turn| turn.inventory)),
            format!("{:.1} s", mean(count, |turn| turn.ss) * count as f64),
            format!("{:.0} MiB", mean(count, |turn| turn.kib) / 1024.0),
        ]
    };
    let mut section = Section::new(
        "Network namespaces",
        &format!(
            "{SOCKETS} sockets in so many network namespaces, beside {TIME_WAIT} in TIME_WAIT in another one. In\n\
             each is a process, through which its counters are read. Two turns each, forth and back. `ss -tan -N`\n\
             is run for {SS_LOOKS} of them at most and taken as often as there are namespaces."
        ),
    );
    section.table(
        ["namespaces", "inventory", "ratio", "`ss -tan -N` of each", "RSS of the agent"],
        &NAMESPACES.map(row),
    );
    Ok(section)
}

/// The figures of one turn.
struct Turn {
    /// Seconds.
    inventory: f64,
    /// Seconds of `ss` for one namespace.
    ss: f64,
    kib: f64,
}

/// A process in a namespace, through which its counters are read. Dropping it ends it.
struct Inside(Child);

impl Inside {
    fn start(ns: &Namespace) -> Result<Self> {
        Ok(Self(ns.spawn_in(Command::new("sleep").arg("600"))?))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the sockets lie in so many namespaces.
fn turn(count: usize, binary: &Path, interrupt: &Interrupt) -> Result<Turn> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        interrupt.check()?;
        let ns = Namespace::new("bench")?;
        let made = Established::make(&ns, SOCKETS / 2 / count)?;
        sockets.push((made, Inside::start(&ns)?, ns));
    }
    let crowd = Namespace::new("crowd")?;
    let config = "[inventory]\ncpu_share = 0.1\ninterval = \"200ms\"\n";
    let agent = Agent::start(binary, config, interrupt)?;
    TimeWaits::make_many(&crowd, TIME_WAIT, 9_000)?;
    let mut seconds = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        interrupt.check()?;
        seconds.push(next_inventory(&agent, interrupt)?);
    }
    let looks = sockets.iter().take(SS_LOOKS).map(|(_, _, ns)| ss_of(ns));
    let ss = median(looks.collect::<Result<Vec<_>>>()?.into_iter());
    let kib = agent.memory_kib("VmRSS")? as f64;
    agent.stop()?;
    Ok(Turn { inventory: median(seconds.into_iter()), ss, kib })
}

/// Seconds of `ss -tan -N` of the namespace.
fn ss_of(ns: &Namespace) -> Result<f64> {
    let began = Instant::now();
    let mut ss = Command::new("ss");
    let status = ss.args(["-tan", "-N", ns.name()]).stdout(Stdio::null()).status();
    let status = status.context("running ss")?;
    ensure!(status.success(), "ss: {status}");
    Ok(began.elapsed().as_secs_f64())
}
