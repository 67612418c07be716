//! The cost of a run of a hook, along each path through it, over an empty program at the same place.

use std::{
    io::Write,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, listen, shutdown, socket};
use scenes::Namespace;
use tcpwatch_common::bench::Spent;

use super::{
    connections_per_second,
    document::Section,
    gauge::{Cost, Gauge, Part, paths},
    median,
};
use crate::{agent::Agent, interrupt::Interrupt};

/// Rounds; each gives one figure for a path. The programs are loaded anew for each: two loads of the same
/// object differed by up to 40 %, for a reason that was not measured.
const ROUNDS: usize = 12;
/// Length of each of the three loops of a round.
const SLICE: Duration = Duration::from_millis(500);
/// A path that is rarer than this in a round is not listed.
const LEAST_RUNS: u64 = 1_000;

pub(super) fn hooks(binary: &Path, interrupt: &Interrupt) -> Result<Section> {
    let ns = Namespace::new("bench")?;
    let paths = paths();
    let mut rounds: Vec<Vec<Cost>> = Vec::new();
    for _ in 0..ROUNDS {
        interrupt.check()?;
        rounds.push(round(binary, &ns, &paths, interrupt)?);
    }
    let mut rows = Vec::new();
    for (index, (_, name)) in paths.iter().enumerate() {
        let of_path: Vec<Cost> = rounds.iter().map(|round| round[index]).collect();
        if of_path.iter().any(|cost| cost.runs() < LEAST_RUNS) {
            continue;
        }
        let ns: Vec<f64> = of_path.iter().map(|cost| cost.ns_over_empty()).collect();
        let least = ns.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ns.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let runs: u64 = of_path.iter().map(|cost| cost.runs()).sum();
        let median = median(ns.into_iter());
        let range = format!("{least:.0} to {most:.0}");
        rows.push([name.clone(), format!("{median:.0} ns"), range, runs.to_string()]);
    }
    let interrupted: u64 = rounds.iter().flatten().map(|cost| cost.interrupted()).sum();
    let mut section = Section::new(
        "Hooks",
        &format!(
            "The time of a run over that of an empty program at the same place, along each path. Other programs\n\
             before, between and behind the two take the time of both for each event, so that they see the same\n\
             events. Medians of {ROUNDS} loads, and their range: two loads of the same programs differ. Left out are\n\
             {interrupted} runs of more than {} us, into which an interrupt fell.",
            Spent::LONGEST_NS / 1_000
        ),
    );
    section.table(["path", "over an empty program", "range", "runs"], &rows);
    let empty = rounds.iter().flatten().map(|cost| cost.ns_of_empty()).filter(|ns| ns.is_finite());
    section.say(&format!(
        "An empty program with its call, and reading the clock once, take {:.0} ns. The end of CLOSE_WAIT\n\
         and a server's close before its client's read the clock once in a tick. connect() and close() count\n\
         the connection by process and service, because the share of resets is measured by these counts: in\n\
         close() this count is the difference between CLOSE_WAIT to LAST_ACK and CLOSE_WAIT to CLOSE. Of the\n\
         transitions of an accepted connection only those of close() and shutdown() run in its process. A\n\
         reset is sent with hardly more instructions than it is received (`cargo xtask vm 6.12\n\
         --instructions` counts them), but after the other end has processed it on the same CPU: probably\n\
         most of the code and of the socket has left the nearest cache by then.",
        median(empty)
    ));
    Ok(section)
}

/// The costs of each path, with programs that are loaded for it.
pub(super) fn round(
    binary: &Path,
    ns: &Namespace,
    paths: &[(u32, String)],
    interrupt: &Interrupt,
) -> Result<Vec<Cost>> {
    // In this order, because programs run in the order in which they were attached.
    let mut gauge = Gauge::load()?;
    gauge.attach(Part::First)?;
    let _agent = Agent::start(binary, "", interrupt)?;
    for part in [Part::Second, Part::Empty, Part::Third] {
        gauge.attach(part)?;
    }
    let costs = || paths.iter().map(|(place, _)| gauge.spent(*place)).collect::<Result<Vec<_>>>();
    let before = costs()?;
    ns.enter(three_loops)??;
    let after = costs()?;
    Ok(after.iter().zip(before).map(|(after, before)| after.since(before)).collect())
}

fn three_loops() -> Result<()> {
    listening()?;
    connections_per_second(SLICE, f64::MAX)?;
    resets_per_second(SLICE)?;
    Ok(())
}

/// A socket that begins to listen and ends: two transitions of which nothing is noted.
fn listening() -> Result<()> {
    let socket: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let began = Instant::now();
    while began.elapsed() < SLICE {
        for _ in 0..100 {
            listen(&socket, 1)?;
            shutdown(&socket, rustix::net::Shutdown::Read)?;
        }
    }
    Ok(())
}

/// The client closes, the server closes with a byte unread, and so resets a client in FIN_WAIT2.
pub(super) fn resets_per_second(length: Duration) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    let began = Instant::now();
    let mut connections = 0_u32;
    while began.elapsed() < length {
        for host in 1..=200 {
            let mut client = TcpStream::connect((Ipv4Addr::new(127, 0, 1, host), port))?;
            let (server, _) = listener.accept()?;
            client.write_all(b"x").context("the byte that stays unread")?;
            client.shutdown(Shutdown::Write)?;
            drop(server);
            drop(client);
            connections += 1;
        }
    }
    Ok(f64::from(connections) / began.elapsed().as_secs_f64())
}
