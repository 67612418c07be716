//! The step "a healthy host raises nothing": the default thresholds under two agents, each in a
//! network namespace of its own. One namespace is quiet, the other has an ordinary day.
//!
//! The verdict does not depend on what else runs on this machine: each agent watches its own
//! namespace only. It does not depend on the machine's speed either: it is given after a fixed
//! number of inventories, and the load is a fixed number of connections. At the end a fault is made
//! on purpose, and the watch must see it.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::set_socket_linger;
use scenes::{Namespace, SelfConnection};

use crate::{agent::Agent, interrupt::Interrupt, repository};

/// The defaults, but for two keys. Inventories come ten times as often, which gives a detector more
/// chances to be wrong. The baseline of a storm of resets is the minute before, not the hour, so
/// that it can be raised within these minutes.
const CONFIG: &str = "[inventory]\ncpu_share = 0.1\ninterval = \"1s\"\nnamespaces = \"host\"\n\
    [detect.reset_storm]\nhistory = \"60s\"\n";

/// Inventories before the verdict, a second or more apart. All cold starts are over by then: ages
/// count from 60 s, and a storm of resets from `window` and `history`, 60 s each.
const INVENTORIES: u32 = 150;

/// Ten times what the inventories take on an idle machine: a hang, no slowness.
const DEADLINE: Duration = Duration::from_secs(10 * INVENTORIES as u64);

/// The fault on purpose shows in the next inventory.
const FAULT_DEADLINE: Duration = Duration::from_secs(60);

/// Connections of the busy namespace that are kept, as a pool does.
const POOL: usize = 20;

/// Between two of its short connections: at most 50 a second, 3,000 in TIME_WAIT.
const PAUSE: Duration = Duration::from_millis(20);

/// Its servers, outside of every ephemeral range, and a port without a listener.
const WEB: u16 = 8_080;
const DATABASE: u16 = 5_432;
const DISCARD: u16 = 9;

pub(crate) fn host_raises_nothing() -> Result<()> {
    let binary = repository::build_tcpwatch_for_tests()?;
    let interrupt = Interrupt::install().context("handling signals")?;
    let (quiet, busy) = (Namespace::new("quiet")?, Namespace::new("busy")?);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| busy.enter(|| ordinary_day(&ended)));
        let verdict = watch(&binary, &quiet, &busy, &interrupt);
        ended.store(true, Ordering::Relaxed);
        let made = traffic.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        verdict?;
        let made = made.context("the traffic of the busy namespace")?;
        // One between two inventories at least, on a machine of any speed.
        ensure!(made >= INVENTORIES, "only {made} connections were made");
        println!("{made} short connections, {POOL} kept, {INVENTORIES} inventories: no finding.");
        Ok(())
    })
}

fn watch(binary: &Path, quiet: &Namespace, busy: &Namespace, interrupt: &Interrupt) -> Result<()> {
    let of_quiet = Agent::start_within(Some(quiet), binary, CONFIG, interrupt)?;
    let of_busy = Agent::start_within(Some(busy), binary, CONFIG, interrupt)?;
    wait_for_inventories([&of_quiet, &of_busy], interrupt)?;
    let established = of_busy.value("tcpwatch_sockets{netns=\"host\",state=\"established\"}")?;
    ensure!(established >= 2.0 * POOL as f64, "the agent saw {established} of the busy sockets");
    for (name, agent) in [("quiet", &of_quiet), ("busy", &of_busy)] {
        let found = loud(agent);
        ensure!(found.is_empty(), "the {name} namespace has findings:\n{}", found.join("\n"));
    }

    let _fault = SelfConnection::make(quiet, IpAddr::from(Ipv4Addr::LOCALHOST))?;
    let seen = interrupt.poll(FAULT_DEADLINE, || {
        of_quiet.ensure_alive()?;
        Ok(loud(&of_quiet).iter().any(|line| line.contains("self-connection")).then_some(()))
    })?;
    ensure!(seen.is_some(), "a fault made on purpose was not seen\n{}", of_quiet.log());
    of_busy.stop()?;
    of_quiet.stop()
}

/// Each of them has taken so many.
fn wait_for_inventories(agents: [&Agent; 2], interrupt: &Interrupt) -> Result<()> {
    let mut seen = [(0, 0.0); 2];
    let done = interrupt.poll(DEADLINE, || {
        for (agent, (count, last)) in agents.into_iter().zip(&mut seen) {
            agent.ensure_alive()?;
            let finished = agent.value("tcpwatch_inventory_timestamp_seconds")?;
            if finished > *last {
                (*count, *last) = (*count + 1, finished);
            }
        }
        Ok(seen.iter().all(|(count, _)| *count >= INVENTORIES).then_some(()))
    })?;
    let counts = seen.map(|(count, _)| count);
    ensure!(done.is_some(), "{counts:?} inventories within {DEADLINE:?}\n{}", agents[0].log());
    Ok(())
}

/// Findings above info that it has logged.
fn loud(agent: &Agent) -> Vec<String> {
    let is_loud = |line: &&str| {
        line.contains(" raised: ") && (line.contains(" WARN ") || line.contains(" ERROR "))
    };
    agent.said().lines().filter(is_loud).map(str::to_owned).collect()
}

/// A pool that stays idle, requests over a connection each, now and then a client that aborts, and
/// one that finds no listener. Returns the number of requests.
fn ordinary_day(ended: &AtomicBool) -> io::Result<u32> {
    let here = |port| (Ipv4Addr::LOCALHOST, port);
    let (web, database) = (TcpListener::bind(here(WEB))?, TcpListener::bind(here(DATABASE))?);
    let pair = |listener: &TcpListener| -> io::Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect(listener.local_addr()?)?;
        Ok((client, listener.accept()?.0))
    };
    let _pool = (0..POOL).map(|_| pair(&database)).collect::<io::Result<Vec<_>>>()?;
    let mut requests = 0;
    while !ended.load(Ordering::Relaxed) {
        let (mut client, mut server) = pair(&web)?;
        client.write_all(b"?")?;
        server.read_exact(&mut [0])?;
        server.write_all(b"!")?;
        client.read_exact(&mut [0])?;
        requests += 1;
        if requests % 50 == 0 {
            set_socket_linger(&client, Some(Duration::ZERO))?;
        }
        if requests % 100 == 0 && TcpStream::connect(here(DISCARD)).is_ok() {
            return Err(io::Error::other("port 9 of a fresh namespace has a listener"));
        }
        drop(client);
        // The end of the stream, or the reset.
        let _ = server.read(&mut [0]);
        thread::sleep(PAUSE);
    }
    Ok(requests)
}
