//! Leaks of each class: by many ports, unread, unaccepted; and a pool whose connections are stale.

use std::{io, net::TcpStream};

use anyhow::Result;
use scenes::{CloseWaitLeak, Keeper, STEP_DEADLINE, State, wait_until};

use super::{LOCALHOST, Stage};
use crate::support::listen;

/// More than a default pool holds.
const LEAKED: u16 = 40;

/// A client that keeps one closed connection to each of many ports.
pub(crate) fn to_many_ports(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    let leaks = (0..LEAKED)
        .map(|number| CloseWaitLeak::client(&ns, 1, 30_303 + number, false))
        .collect::<Result<Vec<_>>>()?;
    stage.watch_until_raised()?;
    drop(leaks);
    stage.watch_until_cleared()
}

/// A server that never reads: the request and the end of its clients wait in the queues.
pub(crate) fn never_read(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    let leak = CloseWaitLeak::make(&ns, Keeper::Server, LEAKED.into(), 9_091, false, 310)?;
    stage.watch_until_raised()?;
    drop(leak);
    stage.watch_until_cleared()
}

/// Clients that left before the server accepted them.
pub(crate) fn never_accepted(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    let listener = listen(&ns, 8_000, 128)?;
    let connect = || TcpStream::connect((LOCALHOST, 8_000));
    let clients = ns.enter(|| (0..LEAKED).map(|_| connect()).collect::<io::Result<Vec<_>>>())??;
    drop(clients);
    wait_until(STEP_DEADLINE, "connections that are closed before they are accepted", || {
        ns.ss_count(State::CloseWait).is_ok_and(|count| count == usize::from(LEAKED))
    })?;
    stage.watch_until_raised()?;
    for _ in 0..LEAKED {
        drop(listener.accept()?);
    }
    stage.watch_until_cleared()
}

/// A pool whose server has closed the connections that it kept for later.
pub(crate) fn stale_pool(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    let mut pool = CloseWaitLeak::client(&ns, 24, 5_432, false)?;
    pool.read_to_end()?;
    stage.watch_until_raised()?;
    stage.watch(4)?;
    drop(pool);
    stage.watch_until_cleared()
}
