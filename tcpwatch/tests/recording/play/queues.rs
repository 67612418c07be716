//! Accept queues of each class: nothing is accepted, a burst is served, another program inherited
//! the listener, and the kernel refuses what does not fit.

use std::{io, net::TcpStream, process::Command, thread, time::Duration};

use anyhow::{Result, ensure};

use super::{LOCALHOST, Stage};
use crate::support::{begin_connects, listen};

/// More than wait at a server that is only slow.
const WAITING: usize = 120;

/// Many wait, nothing is accepted, and no SYN is dropped yet.
pub(crate) fn stalled(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    let listener = listen(&ns, 8_443, 511)?;
    stage.watch(1)?;
    let connect = || TcpStream::connect((LOCALHOST, 8_443));
    let clients =
        ns.enter(|| (0..WAITING).map(|_| connect()).collect::<io::Result<Vec<_>>>())??;
    stage.watch_until_raised()?;
    for _ in 0..WAITING {
        drop(listener.accept()?);
    }
    stage.watch_until_cleared()?;
    drop(clients);
    Ok(())
}

/// More clients at once than the queue holds, all served within two seconds.
pub(crate) fn burst(stage: &mut Stage<'_>) -> Result<()> {
    let listener = listen(stage.namespace(), 8_080, 5)?;
    stage.watch(1)?;
    let accepting = listener.try_clone()?;
    let clients = begin_connects(stage.namespace(), 14, 8_080)?;
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(800));
        accepting.incoming().for_each(drop);
    });
    stage.watch_until_raised()?;
    stage.watch_until_cleared()?;
    drop(clients);
    Ok(())
}

/// The server has ended; a program that it had started keeps the listener.
pub(crate) fn inherited(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    let listener = listen(&ns, 8_080, 5)?;
    socket2::SockRef::from(&listener).set_cloexec(false)?;
    let heir = Command::new("sleep").arg("600").spawn();
    socket2::SockRef::from(&listener).set_cloexec(true)?;
    let mut heir = heir?;
    drop(listener);
    let clients = begin_connects(&ns, 20, 8_080)?;
    let raised = stage.watch_until_raised().and_then(|()| stage.watch(2));
    heir.kill()?;
    heir.wait()?;
    raised?;
    stage.watch_until_cleared()?;
    drop(clients);
    Ok(())
}

/// `tcp_abort_on_overflow`: the kernel resets what the queue does not hold.
pub(crate) fn aborted(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    ns.sysctl_set("net.ipv4.tcp_abort_on_overflow", "1")?;
    let listener = listen(&ns, 8_080, 5)?;
    // Windows without a reset, to know what is many.
    stage.watch(10)?;
    for _ in 0..3 {
        let clients = begin_connects(&ns, 30, 8_080)?;
        stage.watch(1)?;
        let waiting = clients.iter().filter(|it| it.peer_addr().is_ok()).count();
        ensure!(waiting <= 12, "the queue of 5 holds {waiting}");
    }
    stage.watch_until_raised()?;
    drop(listener);
    stage.watch_until_cleared()
}
