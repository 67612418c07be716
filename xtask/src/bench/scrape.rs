//! Scrapes while all else goes on.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use scenes::{Namespace, TimeWaits};

use super::{connections_per_second, document::Section, next_inventory, quantile};
use crate::{
    agent::{Agent, Reader},
    interrupt::Interrupt,
};

const SOCKETS: usize = 300_000;
/// Readers of the stream of events.
const READERS: usize = 10;
/// Connections a second meanwhile: some 20,000 events, of which the budget passes 1,000.
const CHURN: f64 = 2_000.0;
/// One answer serves all requests of 200 ms, and these are further apart: each is a new one.
const PAUSE: Duration = Duration::from_millis(250);
/// TIME_WAIT lasts 60 s.
const LENGTH: Duration = Duration::from_secs(40);
/// Three rounds of inventories in that time.
const CONFIG: &str = "[inventory]\ncpu_share = 0.1\ninterval = \"10s\"\n";

pub(super) fn scrape(binary: &Path, interrupt: &Interrupt) -> Result<Section> {
    let ns = Namespace::new("bench")?;
    let agent = Agent::start(binary, CONFIG, interrupt)?;
    let idle = times(&agent, interrupt, Duration::from_secs(10))?;
    println!("making {SOCKETS} sockets in TIME_WAIT …");
    TimeWaits::make_many(&ns, SOCKETS, 9_000)?;
    let seconds = next_inventory(&agent, interrupt)?;
    println!("an inventory of them takes {:.0} ms", seconds * 1e3);

    let readers = (0..READERS).map(|_| Reader::open(&agent, "/api/v1/events"));
    let readers: Vec<Reader> = readers.collect::<Result<_>>()?;
    let page = Reader::open(&agent, "/live")?;
    let is_over = AtomicBool::new(false);
    let loaded = thread::scope(|scope| {
        let churn = scope.spawn(|| ns.enter(|| connections_per_second(LENGTH, CHURN)));
        // As the page does after each event of `/live`.
        let open_page = scope.spawn(|| -> Result<u32> {
            let (mut loads, mut seen) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(50));
                let events = page.count("data:");
                if events > seen {
                    seen = events;
                    agent.get("/")?;
                    loads += 1;
                }
            }
            Ok(loads)
        });
        let loaded = times(&agent, interrupt, LENGTH);
        is_over.store(true, Ordering::Relaxed);
        let loads = open_page.join().expect("it does not panic")?;
        let rate = churn.join().expect("it does not panic")??;
        println!("{rate:.0} connections a second meanwhile; the page was loaded {loads} times");
        loaded
    })?;
    let events: Vec<usize> = readers.iter().map(|reader| reader.count("data:")).collect();
    let least = events.iter().min().context("there are readers")?;
    let mut section =
        Section::new("Scrapes", "`/metrics`, one connection for each scrape, four a second.");
    let load = format!(
        "{SOCKETS} sockets, {READERS} readers of events, an open page and {CHURN} connections a second"
    );
    section.table(
        ["", "p50", "p99", "longest", "scrapes"],
        &[row("idle host", &idle), row(&load, &loaded)],
    );
    section.say(&format!(
        "Each of the readers got {least} events or more. The agent has {} KiB then, its peak was {} KiB.",
        agent.memory_kib("VmRSS")?,
        agent.memory_kib("VmHWM")?
    ));
    agent.stop()?;
    Ok(section)
}

/// Seconds of scrapes, each with a connection of its own.
fn times(agent: &Agent, interrupt: &Interrupt, length: Duration) -> Result<Vec<f64>> {
    let end = Instant::now() + length;
    let mut times = Vec::new();
    while Instant::now() < end {
        interrupt.check()?;
        let began = Instant::now();
        agent.get("/metrics")?;
        times.push(began.elapsed().as_secs_f64());
        thread::sleep(PAUSE);
    }
    Ok(times)
}

fn row(load: &str, times: &[f64]) -> [String; 5] {
    let [median, high, most] =
        [0.5, 0.99, 1.0].map(|share| format!("{:.1} ms", quantile(times, share) * 1e3));
    [load.to_owned(), median, high, most, times.len().to_string()]
}
