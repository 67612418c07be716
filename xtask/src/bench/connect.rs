//! Connections a second over loopback.

use std::{path::Path, time::Duration};

use anyhow::Result;
use scenes::Namespace;

use super::{connections_per_second, median};
use crate::{agent::Agent, interrupt::Interrupt};

/// Pairs of slices with and without the agent.
const PAIRS: usize = 40;
/// Length of a slice: some 30,000 connections; short, because speed drifts.
const SLICE: Duration = Duration::from_secs(1);

pub(super) fn connect(binary: &Path, interrupt: &Interrupt) -> Result<()> {
    let ns = Namespace::new("bench")?;
    ns.enter(|| connections_per_second(SLICE, f64::MAX))??;
    let mut rows = Vec::new();
    for pair in 1..=PAIRS {
        interrupt.check()?;
        let before = ns.enter(|| connections_per_second(SLICE, f64::MAX))??;
        let agent = Agent::start(binary, "", interrupt)?;
        let watched = ns.enter(|| connections_per_second(SLICE, f64::MAX))??;
        drop(agent);
        let after = ns.enter(|| connections_per_second(SLICE, f64::MAX))??;
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
