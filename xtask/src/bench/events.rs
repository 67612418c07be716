//! The cost of the stream of events, with a reader and without.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use scenes::Namespace;

use super::{connections_per_second, document::Section, median};
use crate::{
    agent::{Agent, Reader},
    interrupt::Interrupt,
};

/// Pairs of slices with the stream read and not.
const PAIRS: usize = 20;
const SLICE: Duration = Duration::from_secs(1);

pub(super) fn events(binary: &Path, interrupt: &Interrupt) -> Result<Section> {
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
    agent.stop()?;
    let mut section = Section::new(
        "The stream of events",
        "As fast as one thread connects and closes, in slices of a second: without a reader, with one,\n\
         without.",
    );
    let of = |column: fn(&(f64, f64, f64, f64)) -> f64| median(rows.iter().map(column));
    let rate = |rate: f64| format!("{rate:.0}");
    let share = |share: f64| format!("{:.0} %", share * 100.0);
    section.table(
        ["", "connections per second", "processor time of the agent"],
        &[
            ["unread".to_owned(), rate(of(|row| row.0)), share(of(|row| row.3))],
            ["read".to_owned(), rate(of(|row| row.1)), share(of(|row| row.2))],
        ],
    );
    let ratio = of(|row| row.1 / row.0);
    section.say(&format!("Median of {PAIRS} ratios: {ratio:.3}."));
    Ok(section)
}

/// CPU time of the agent so far.
fn cpu_seconds(agent: &Agent) -> Result<f64> {
    agent.value("process_cpu_seconds_total")
}
