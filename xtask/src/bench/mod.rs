//! `cargo xtask bench`: what tcpwatch costs, measured in turn with the same
//! thing without it, because a machine's speed drifts more than the
//! difference is.
//!
//! Figures are medians of pairs. Nothing is asserted: a benchmark says, a
//! reader judges. One file for each subject; `document` writes them down, `gauge`
//! has the programs that take the time of hooks.

mod connect;
mod document;
mod events;
mod gauge;
mod hooks;
#[cfg(test)]
mod instructions;
mod inventory;
mod namespaces;
mod scrape;

use std::{
    env,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::document::Section;
use crate::{agent::Agent, command::as_root, interrupt::Interrupt, repository};

/// The operation that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Nanoseconds of a run of each hook over an empty program, along each path
    Hooks,
    /// Connections a second over loopback with the agent, with empty programs, with other tools
    Connect,
    /// An inventory of 10,000 to 1,000,000 sockets against other tools, and the agent's memory
    Inventory,
    /// An inventory of 1,000 network namespaces against one with the same sockets
    Namespaces,
    /// /metrics with 300,000 sockets, ten readers of events and an open page
    Scrape,
    /// Connections a second with the stream of events read and not, and what the agent takes
    Events,
}

/// One subject, or all, which writes the document.
pub(crate) fn bench(subject: Option<Subject>) -> Result<()> {
    ensure!(
        scenes::is_root(),
        "a benchmark attaches to the kernel, so it needs root: {}",
        as_root("bench")
    );
    // The binary of the tests is built sooner, and loads the same programs.
    let binary = match env::var_os("TCPWATCH_BINARY") {
        Some(binary) => binary.into(),
        None => repository::build_tcpwatch()?,
    };
    let interrupt = Interrupt::install().context("handling signals")?;
    // Some of the sections have thousands of connections.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
        .context("raising the limit of descriptors")?;
    let measure = |subject: Subject| -> Result<Section> {
        let section = subject.measure(&binary, &interrupt)?;
        println!("\n{}", section.text());
        Ok(section)
    };
    match subject {
        Some(subject) => measure(subject).map(drop),
        None => {
            let sections = Subject::value_variants().iter().map(|subject| measure(*subject));
            document::write(&sections.collect::<Result<Vec<_>>>()?)
        }
    }
}

impl Subject {
    fn measure(self, binary: &Path, interrupt: &Interrupt) -> Result<Section> {
        match self {
            Self::Hooks => hooks::hooks(binary, interrupt),
            Self::Connect => connect::connect(binary, interrupt),
            Self::Inventory => inventory::inventory(binary, interrupt),
            Self::Namespaces => namespaces::namespaces(binary, interrupt),
            Self::Scrape => scrape::scrape(binary, interrupt),
            Self::Events => events::events(binary, interrupt),
        }
    }
}

/// Seconds of an inventory that has begun after now.
fn next_inventory(agent: &Agent, interrupt: &Interrupt) -> Result<f64> {
    /// The longest interval, and time for the inventory.
    const DEADLINE: Duration = Duration::from_secs(40);
    let finished = || agent.value("tcpwatch_inventory_timestamp_seconds");
    // The one under way ends first.
    for _ in 0..2 {
        let before = finished()?;
        let newer = interrupt.poll(DEADLINE, || Ok((finished()? > before).then_some(())))?;
        newer.with_context(|| format!("no inventory within {DEADLINE:?}"))?;
    }
    agent.value("tcpwatch_inventory_duration_seconds")
}

/// connect(), accept(), close(), close(), over and over by one thread, at most
/// so many a second. The destination changes, so that no port is waited for:
/// with one, TIME_WAIT allows as many a second as half the port range has.
/// The answer is how many a second they were.
fn connections_per_second(length: Duration, most: f64) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    let began = Instant::now();
    let mut connections = 0_u32;
    while began.elapsed() < length {
        for host in 1..=200 {
            let client = TcpStream::connect((Ipv4Addr::new(127, 0, 1, host), port))?;
            let (server, _) = listener.accept()?;
            drop(client);
            drop(server);
            connections += 1;
        }
        let due = Duration::from_secs_f64(f64::from(connections) / most);
        if let Some(early) = due.checked_sub(began.elapsed()) {
            std::thread::sleep(early);
        }
    }
    Ok(f64::from(connections) / began.elapsed().as_secs_f64())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(middle(values.len().saturating_sub(1) / 2), middle(values.len() / 2))
}

/// The value below which this share of them lies.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
