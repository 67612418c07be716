//! Connections that get no answer: connects given up before a look sees them, and closes that the
//! peer does not acknowledge.

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use scenes::Stuck;
use socket2::{Domain, Socket, Type};

use super::Stage;

/// Longer than `given_up_after`, shorter than two looks.
const TIME_OUT: Duration = Duration::from_millis(1_200);

/// Workers whose time-out for a connect is shorter than an interval.
pub(crate) fn given_up(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    // A link that leads to no host, and an address behind it.
    let stuck = Stuck::in_syn_sent(&ns, 1, 5_432)?;
    let server = stuck.server_address();
    stuck.end()?;
    stage.watch(1)?;
    let is_over = AtomicBool::new(false);
    let work = || {
        thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        drop(TcpStream::connect_timeout(&server, TIME_OUT));
                    }
                });
            }
        });
    };
    thread::scope(|scope| {
        let workers = scope.spawn(|| ns.enter(work));
        let raised = stage.watch_until_raised().and_then(|()| stage.watch(2));
        is_over.store(true, Ordering::Relaxed);
        ensure!(workers.join().is_ok_and(|it| it.is_ok()), "a worker panicked");
        raised
    })?;
    stage.watch_until_cleared()
}

/// A pool whose server has vanished: each request stays unacknowledged.
pub(crate) fn unacknowledged(stage: &mut Stage<'_>) -> Result<()> {
    let stuck = Stuck::in_established(stage.namespace(), 12, 5_432)?;
    stage.watch_until_raised()?;
    stage.watch(5)?;
    stuck.end()?;
    stage.watch_until_cleared()
}

/// A server closes what its clients do not read: the FIN waits behind the data.
pub(crate) fn unread_answers(stage: &mut Stage<'_>) -> Result<()> {
    let clients = stage.namespace().clone().enter(|| -> Result<Vec<TcpStream>> {
        let listener = TcpListener::bind((super::LOCALHOST, 8_388))?;
        (0..12)
            .map(|_| {
                let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                client.set_recv_buffer_size(4_096)?;
                client.connect(&listener.local_addr()?.into())?;
                let (mut server, _) = listener.accept()?;
                server.set_nonblocking(true)?;
                while server.write(&[b'x'; 65_536]).is_ok() {}
                Ok(client.into())
            })
            .collect()
    })??;
    stage.watch_until_raised()?;
    stage.watch(1)?;
    drop(clients);
    stage.watch_until_cleared()
}

/// The last FIN is not acknowledged.
pub(crate) fn last_ack(stage: &mut Stage<'_>) -> Result<()> {
    let stuck = Stuck::in_last_ack(stage.namespace(), 12, 6_000)?;
    stage.watch_until_raised()?;
    stuck.end()?;
    stage.watch_until_cleared()
}

/// Both sides closed at once, and the peer vanished.
pub(crate) fn closing(stage: &mut Stage<'_>) -> Result<()> {
    let stuck = Stuck::in_closing(stage.namespace(), 12, 6_000)?;
    stage.watch_until_raised()?;
    stuck.end()?;
    stage.watch_until_cleared()
}
