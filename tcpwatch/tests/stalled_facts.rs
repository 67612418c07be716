//! Sockets whose data is not acknowledged, as the inventory shows them: which ones, which process
//! holds them, and whether the peer is silent or has closed its window. The facts themselves, without an engine.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use socket2::{SockFilter, SockRef};
use support::poll;
use tcpwatch::{
    facts::{Focus, Role, StalledSocket, TcpState},
    kernel::{LoadOptions, OwnerPolicy, Programs, Scope, Walker},
};

/// `BPF_RET | BPF_K` with length 0: the socket takes no segment.
const DROP_ALL: SockFilter = SockFilter::new(0x06, 0, 0, 0);

fn with_walker(work: impl FnOnce(&mut Walker) -> Result<()>) -> Result<()> {
    let programs = Programs::load(&LoadOptions::default())?;
    programs.require_indispensable()?;
    let (_ring, _counters, mut walker, _links) = programs.split(Scope::All, 10_000)?;
    work(&mut walker)
}

fn stalled(walker: &mut Walker, ns: &Namespace) -> Result<Vec<StalledSocket>> {
    let inventory = walker.inventory(OwnerPolicy::AtOnce, &Focus::default())?;
    let seen = inventory.namespaces.into_iter().find(|seen| *seen.name == *ns.name());
    Ok(seen.context("the namespace was not walked")?.stalled)
}

/// The sockets that are stalled as soon as they are `count`; never more.
fn wait_for(walker: &mut Walker, ns: &Namespace, count: usize) -> Result<Vec<StalledSocket>> {
    poll("stalled sockets", || {
        let found = stalled(walker, ns)?;
        ensure!(found.len() <= count.max(4), "too many: {found:#?}");
        Ok((found.len() == count).then_some(found))
    })
}

fn pairs(ns: &Namespace, count: usize) -> Result<(TcpListener, Vec<(TcpStream, TcpStream)>)> {
    ns.enter(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let pair = || Ok((TcpStream::connect(address)?, listener.accept()?.0));
        let pairs = (0..count).map(|_| pair()).collect::<Result<_>>()?;
        Ok((listener, pairs))
    })?
}

#[test]
fn data_for_a_silent_peer_is_stalled_until_the_peer_acknowledges_it() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("silent")?;
    let (listener, mut pairs) = pairs(&ns, 4)?;
    let port = listener.local_addr()?.port();
    // The first is healthy: its data is acknowledged.
    for (_, server) in &pairs[1..] {
        SockRef::from(server).attach_filter(&[DROP_ALL])?;
    }
    SockRef::from(&pairs[1].0).set_tcp_user_timeout(Some(Duration::from_secs(90)))?;
    for (client, _) in &mut pairs {
        client.write_all(b"question")?;
    }
    with_walker(|walker| {
        let found = wait_for(walker, &ns, 3)?;
        for socket in &found {
            assert_eq!((socket.state, socket.role), (TcpState::Established, Role::Client));
            assert_eq!((socket.peer.port, socket.unacked_bytes), (port, 8));
            assert!(socket.retransmits >= 2 && !socket.orphan, "{socket:#?}");
            assert_eq!((socket.segment_sent, socket.is_window_closed()), (Some(true), false));
            let owner = socket.owner.as_ref().context("no owner")?;
            assert_eq!(owner.process.pid, process::id());
        }
        let with_timeout: Vec<_> = found.iter().filter_map(|it| it.user_timeout).collect();
        assert_eq!(with_timeout, [Duration::from_secs(90)]);

        for (_, server) in &pairs[1..] {
            SockRef::from(server).detach_filter()?;
        }
        wait_for(walker, &ns, 0)?;
        Ok(())
    })
}

#[test]
fn a_closed_window_is_distinct_from_silence_and_its_orphan_has_no_owner() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("window")?;
    let (_listener, mut pairs) = pairs(&ns, 1)?;
    let (mut client, mut server) = pairs.pop().context("one pair")?;
    client.set_nonblocking(true)?;
    loop {
        match client.write(&[b'x'; 65_536]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    with_walker(|walker| {
        let found = wait_for(walker, &ns, 1)?;
        let [socket] = &found[..] else { unreachable!("one was found") };
        assert_eq!((socket.state, socket.peer_window_bytes), (TcpState::Established, 0));
        assert!(socket.is_window_closed() && socket.backoff >= 2, "{socket:#?}");
        assert_eq!(socket.owner.as_ref().map(|it| it.process.pid), Some(process::id()));

        drop(client);
        let found = wait_for(walker, &ns, 1)?;
        let [socket] = &found[..] else { unreachable!("one was found") };
        assert_eq!((socket.state, socket.orphan), (TcpState::FinWait1, true));
        assert!(socket.is_window_closed() && socket.owner.is_none(), "{socket:#?}");

        // The peer reads all of it, so the FIN is acknowledged too.
        server.read_to_end(&mut Vec::new())?;
        wait_for(walker, &ns, 0)?;
        Ok(())
    })
}
