//! The cost of the stream of events, with a reader and without.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use scenes::Namespace;

use super::{connections_per_second, median};
use crate::{
    agent::{Agent, Reader},
    interrupt::Interrupt,
};

/// Pairs of slices with the stream read and not.
const PAIRS: usize = 20;
const SLICE: Duration = Duration::from_secs(1);

pub(super) fn events(binary: &Path, interrupt: &Interrupt) -> Result<()> {
    let ns = Namespace::new("bench")?;
    let agent = Agent::start(binary, "", interrupt)?;
    let slice = || -> Result<(f64, f64)> {
        let before = cpu_seconds(&agent)?;
        let rate = ns.enter(|| connections_per_second(SLICE, f64::MAX))??;
        Ok((rate, cpu_seconds(&agent)? - before))
    };
    slice()?;
    let mut rows = Vec::new();
    for pair in 1..=PAIRS {
        interrupt.check()?;
        let (before, _) = slice()?;
        let reader = Reader::open(&agent, "/api/v1/events")?;
        // The answer begins when the stream is armed.
        let is_armed = || Ok((reader.count("HTTP/1.1 200") > 0).then_some(()));
        let armed = interrupt.poll(Duration::from_secs(5), is_armed)?;
        ensure!(armed.is_some(), "no stream of events within 5 s");
        let (read, taken) = slice()?;
        let events = reader.count("data:");
        drop(reader);
        let (after, idle) = slice()?;
        let unread = (before + after) / 2.0;
        println!(
            "{pair:2}: {before:8.0} {after:8.0} unread, {read:8.0} read, ratio {:.4}; {events} events, \
             agent {:.1} % and {:.1} % of a CPU",
            read / unread,
            taken * 100.0,
            idle * 100.0
        );
        rows.push((unread, read, taken, idle));
    }
    println!(
        "unread {:.0}/s, read {:.0}/s, median of the ratios {:.4}; the agent takes {:.1} % of a CPU, \
         {:.1} % unread",
        median(rows.iter().map(|row| row.0)),
        median(rows.iter().map(|row| row.1)),
        median(rows.iter().map(|row| row.1 / row.0)),
        median(rows.iter().map(|row| row.2)) * 100.0,
        median(rows.iter().map(|row| row.3)) * 100.0
    );
    agent.stop()
}

/// CPU time of the agent so far.
fn cpu_seconds(agent: &Agent) -> Result<f64> {
    agent.value("process_cpu_seconds_total")
}
