//! Resets of each class: refused bodies, a server that aborts, peers of a restart; and servers that
//! are healthy, whose resets are none's loss.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use socket2::SockRef;

use super::{LOCALHOST, Stage};

/// Connections in a look: above the threshold of the recordings within two.
const CONNECTIONS: u32 = 150;
/// Looks with resets.
const LOOKS: u32 = 5;

/// Plays `one` connection again and again after windows without a reset.
fn repeat(
    stage: &mut Stage<'_>,
    port: u16,
    one: impl Fn(&TcpListener) -> Result<()> + Sync,
) -> Result<()> {
    let ns = stage.namespace().clone();
    let listener = ns.enter(|| TcpListener::bind((LOCALHOST, port)))??;
    stage.watch(10)?;
    for _ in 0..LOOKS {
        ns.enter(|| (0..CONNECTIONS).try_for_each(|_| one(&listener)))??;
        stage.watch(1)?;
    }
    Ok(())
}

fn pair(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok((client, listener.accept()?.0))
}

/// The server answers before it has read the body, and closes.
pub(crate) fn refused_bodies(stage: &mut Stage<'_>) -> Result<()> {
    repeat(stage, 8_080, |listener| {
        let (mut client, mut server) = pair(listener)?;
        client.write_all(&[b'b'; 4_096])?;
        server.read_exact(&mut [0; 200])?;
        server.write_all(b"HTTP/1.1 413 Content Too Large\r\n\r\n")?;
        Ok(())
    })?;
    stage.watch_until_raised()?;
    stage.watch_until_cleared()
}

/// The server ends each exchange with SO_LINGER 0.
pub(crate) fn aborted_by_the_server(stage: &mut Stage<'_>) -> Result<()> {
    repeat(stage, 8_080, |listener| {
        let (mut client, mut server) = pair(listener)?;
        client.write_all(&[b'q'; 200])?;
        server.read_exact(&mut [0; 200])?;
        server.write_all(&[b'a'; 4_096])?;
        SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
        drop(server);
        Ok(())
    })?;
    stage.watch_until_raised()?;
    stage.watch_until_cleared()
}

/// Clients that do not know of a restart: what they send meets no socket.
pub(crate) fn peers_of_a_restart(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    stage.watch(10)?;
    for _ in 0..LOOKS {
        scenes::stray_acks(&ns, CONNECTIONS as u16, 8_080)?;
        stage.watch(1)?;
    }
    stage.watch_until_raised()?;
    stage.watch_until_cleared()
}

/// Healthy: HTTPS whose server closes first. Its clients leave the close_notify unread, or answer it
/// after the close.
pub(crate) fn https(stage: &mut Stage<'_>) -> Result<()> {
    const ANSWER: [u8; 900] = [b'a'; 900];
    const CLOSE_NOTIFY: [u8; 24] = [b'n'; 24];
    repeat(stage, 8_443, |listener| {
        let (mut client, mut server) = pair(listener)?;
        client.write_all(&[b'r'; 200])?;
        server.read_exact(&mut [0; 200])?;
        server.write_all(&ANSWER)?;
        server.write_all(&CLOSE_NOTIFY)?;
        drop(server);
        client.read_exact(&mut [0; ANSWER.len()])?;
        Ok(())
    })?;
    stage.watch(6)
}

/// Healthy: a balancer that checks a server, and ends each check with SO_LINGER 0.
pub(crate) fn health_checks(stage: &mut Stage<'_>) -> Result<()> {
    repeat(stage, 8_080, |listener| {
        let (client, server) = pair(listener)?;
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        drop(client);
        drop(server);
        Ok(())
    })?;
    stage.watch(6)?;
    ensure!(stage.namespace().snmp_counter("OutRsts")? > 0, "no reset was sent");
    Ok(())
}
