//! The same sockets in many network namespaces and in one.

use std::{
    path::Path,
    process::{Child, Command},
};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scenes::{Established, Namespace, TimeWaits};

use super::{median, next_inventory};
use crate::{agent::Agent, interrupt::Interrupt};

const NAMESPACES: usize = 1_000;
/// Connections in each, both ends.
const CONNECTIONS: usize = 5;
/// Beside them, in a namespace of their own.
const TIME_WAIT: usize = 300_000;
/// Inventories of each turn: TIME_WAIT lasts 60 s, so not for long.
const LOOKS: usize = 9;

pub(super) fn namespaces(binary: &Path, interrupt: &Interrupt) -> Result<()> {
    // A connection takes two descriptors, a namespace two more.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
        .context("raising the limit of descriptors")?;
    let (mut many, mut one) = (Vec::new(), Vec::new());
    for is_many in [true, false, false, true] {
        let count = if is_many { NAMESPACES } else { 1 };
        println!("making {count} with {} sockets in all …", 2 * CONNECTIONS * NAMESPACES);
        let (seconds, kib) = turn(count, binary, interrupt)?;
        println!("{count:5} namespaces: {:7.1} ms, RSS {kib} KiB", seconds * 1e3);
        (if is_many { &mut many } else { &mut one }).push(seconds);
    }
    let ratios = many.iter().zip(&one).map(|(many, one)| many / one);
    let ratios: Vec<f64> = ratios.collect();
    println!(
        "{NAMESPACES} namespaces take {ratios:.2?} times what one takes, each time beside {TIME_WAIT} \
         sockets in TIME_WAIT"
    );
    Ok(())
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

/// Seconds of an inventory, and the agent's memory, where the sockets lie in so many namespaces.
fn turn(count: usize, binary: &Path, interrupt: &Interrupt) -> Result<(f64, u64)> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        interrupt.check()?;
        let ns = Namespace::new("bench")?;
        let made = Established::make(&ns, CONNECTIONS * NAMESPACES / count)?;
        sockets.push((made, Inside::start(&ns)?, ns));
    }
    let crowd = Namespace::new("crowd")?;
    let agent =
        Agent::start(binary, "[inventory]\ncpu_share = 0.1\ninterval = \"200ms\"\n", interrupt)?;
    TimeWaits::make_many(&crowd, TIME_WAIT, 9_000)?;
    let mut seconds = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        interrupt.check()?;
        seconds.push(next_inventory(&agent, interrupt)?);
    }
    let kib = agent.memory_kib("VmRSS")?;
    agent.stop()?;
    Ok((median(seconds.into_iter()), kib))
}
