//! The bound of what the hooks do beside counting: beyond it the counts stay exact, and what was left
//! out is counted too.
//!
//! The hooks see the whole host, so this file has one test.

mod support;

use std::{
    io::Write,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use tcpwatch::{
    facts::{Focus, RecordedReset, TcpState},
    kernel::{LoadOptions, OwnerPolicy, Programs, Scope},
};

const CONNECTIONS: u64 = 400;

#[test]
fn a_storm_is_counted_and_its_rare_work_is_left_out() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let within = storm(LoadOptions::default())?;
    ensure!(within.shed == 0, "{} left out of a small number", within.shed);
    ensure!(within.attributed >= CONNECTIONS, "{} attributed", within.attributed);

    // Each connection has five pieces of work. A slow machine takes some seconds for them all, and has
    // the budget on each of its CPUs.
    let options = LoadOptions { work_per_second: 20, ..LoadOptions::default() };
    let beyond = storm(options)?;
    ensure!(beyond.shed >= CONNECTIONS, "{} left out", beyond.shed);
    ensure!(beyond.attributed < CONNECTIONS / 2, "{} attributed", beyond.attributed);
    Ok(())
}

struct Outcome {
    /// Resets that have a process or a service.
    attributed: u64,
    /// Events of which only the plain count was kept.
    shed: u64,
}

/// Connections that pass CLOSE_WAIT and end in a reset. Their counts are exact in any case.
fn storm(options: LoadOptions) -> Result<Outcome> {
    let programs = Programs::load(&options)?;
    programs.require_indispensable()?;
    let (_ring, counters, mut walker, _links) = programs.split(Scope::All, 10_000)?;
    let ns = Namespace::new("valve")?;
    ns.enter(|| -> Result<()> {
        // One service: a table that drops what is rare has a place for it.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        (0..CONNECTIONS).try_for_each(|_| connection(&listener))
    })??;

    let counts = counters.read().context("the counters cannot be read")?;
    let into_close_wait =
        counts.transitions.iter().filter(|((_, to), _)| *to == TcpState::CloseWait);
    let into_close_wait: u64 = into_close_wait.map(|(_, count)| count).sum();
    ensure!(into_close_wait >= CONNECTIONS, "{into_close_wait} seen to enter CLOSE_WAIT");
    let sent = counts.resets_sent.context("resets sent are not seen")?;
    let sent: u64 = sent.iter().map(|(_, count)| count).sum();
    ensure!(sent >= CONNECTIONS, "{sent} resets seen");
    let shed = counts.lost.iter().find(|(stage, _)| *stage == "work").context("no such stage")?.1;

    let inventory = walker.inventory(OwnerPolicy::AtOnce, &Focus::default())?;
    let resets = inventory.resets.context("no resets by process")?;
    let is_sent = |what: &RecordedReset| matches!(what, RecordedReset::Seen(it) if !it.received);
    let sent = resets.iter().filter(|reset| is_sent(&reset.what) && reset.process.is_some());
    Ok(Outcome { attributed: sent.map(|reset| reset.count).sum(), shed })
}

fn connection(listener: &TcpListener) -> Result<()> {
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.write_all(b"x")?;
    client.shutdown(Shutdown::Write)?;
    // A byte is unread.
    drop(server);
    Ok(())
}
