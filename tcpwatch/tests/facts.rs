//! The kernel side reports more than the inventory of states: owners of resets, active closers,
//! holders of a port, queues, and the stacks that open sockets. The facts themselves, without the
//! engine that judges them.

mod support;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace, State, TimeWaits};
use socket2::{Domain, SockRef, Socket, Type};
use support::poll;
use tcpwatch::{
    engine::seen_reset,
    facts::{
        Focus, Inventory, Namespace as SeenNamespace, ResetCause, ResetCount, Role, SeenReset,
        TcpState,
    },
    kernel::{LoadOptions, OwnerPolicy, Programs, Scope, Walker},
};

/// The kernel side without an engine. Dropping it detaches everything.
struct Kernel {
    walker: Walker,
    /// The hook on accept() was not refused.
    sees_accepts: bool,
    /// Nor was that on bind().
    sees_binds: bool,
    _others: Box<dyn std::any::Any>,
}

impl Kernel {
    fn load() -> Result<Self> {
        let symbols_by = Some(env!("CARGO_BIN_EXE_tcpwatch"));
        let programs = Programs::load(&LoadOptions { symbols_by, ..LoadOptions::default() })?;
        programs.require_indispensable()?;
        let attached =
            |hook| programs.statuses().iter().any(|it| it.hook.name == hook && it.outcome.is_ok());
        let (sees_accepts, sees_binds) = (attached("accept"), attached("bind"));
        let (ring, counters, walker, links) = programs.split(Scope::All, 10_000)?;
        Ok(Self { walker, sees_accepts, sees_binds, _others: Box::new((ring, counters, links)) })
    }

    fn inventory(&mut self, focus: &Focus) -> Result<Inventory> {
        Ok(self.walker.inventory(OwnerPolicy::AtOnce, focus)?)
    }
}

fn seen<'a>(inventory: &'a Inventory, ns: &Namespace) -> Result<&'a SeenNamespace> {
    let mut namespaces = inventory.namespaces.iter();
    namespaces.find(|seen| *seen.name == *ns.name()).context("the namespace was not walked")
}

fn listen() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// The client's end first.
fn pair(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

#[test]
fn resets_are_counted_by_process_service_and_cause() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    const DEAD_PORT: u16 = 9;
    let ns = Namespace::new("origins")?;
    let mut kernel = Kernel::load()?;
    let service = ns.enter(|| -> Result<u16> {
        for _ in 0..20 {
            ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, DEAD_PORT)).is_err());
        }
        let listener = listen()?;
        for _ in 0..7 {
            let (client, server) = pair(&listener)?;
            SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
            drop(server);
            drop(client);
        }
        Ok(listener.local_addr()?.port())
    })??;
    let inventory = kernel.inventory(&Focus::default())?;
    let id = seen(&inventory, &ns)?.id;
    let resets = inventory.resets.as_ref().context("the hooks are attached")?;
    let of = |role, port, what| {
        let is_expected = |it: &&ResetCount| {
            let seen = seen_reset(&it.what);
            (it.netns, it.role, it.port, seen) == (id, role, port, Some(what))
        };
        resets
            .iter()
            .find(is_expected)
            .with_context(|| format!("no {what:?} for {port}: {resets:?}"))
    };
    let pid_of = |count: &ResetCount| count.process.as_ref().map(|process| process.pid);

    let refused = of(Role::Client, DEAD_PORT, SeenReset::Received(TcpState::SynSent))?;
    assert_eq!((refused.count, pid_of(refused)), (20, Some(process::id())));
    assert_eq!(refused.last_peer, Some(Ipv4Addr::LOCALHOST.into()));
    let aborted = of(Role::Server, service, SeenReset::Sent(ResetCause::LingerZero))?;
    assert_eq!((aborted.count, pid_of(aborted)), (7, Some(process::id())));
    let answered = of(Role::Server, DEAD_PORT, SeenReset::Sent(ResetCause::NoListener))?;
    assert_eq!((answered.count, pid_of(answered)), (20, None));
    let received = of(Role::Client, service, SeenReset::Received(TcpState::Established))?;
    // The victim opened the only connections to this service.
    assert_eq!((received.count, pid_of(received)), (7, Some(process::id())));

    // The counts go on.
    ns.enter(|| assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, DEAD_PORT)).is_err()))?;
    let inventory = kernel.inventory(&Focus::default())?;
    let resets = inventory.resets.as_ref().context("the hooks are attached")?;
    let count = resets.iter().find(|it| {
        it.netns == id && seen_reset(&it.what) == Some(SeenReset::Received(TcpState::SynSent))
    });
    assert_eq!(count.map(|it| it.count), Some(21));
    Ok(())
}

/// Connections whose server closes first with so many bytes on the way; the client leaves them unread,
/// or answers with as many.
fn close_first(listener: &TcpListener, bytes: usize, answers: bool, times: usize) -> Result<()> {
    use std::io::{Read as _, Write as _};
    for _ in 0..times {
        let (mut client, mut server) = pair(listener)?;
        server.write_all(&[b'a'; 200])?;
        server.write_all(&vec![b'n'; bytes])?;
        drop(server);
        client.read_exact(&mut [0; 200])?;
        if answers {
            client.read_exact(&mut vec![0; bytes])?;
            ensure!(client.read(&mut [0])? == 0, "the server closed");
            client.write_all(&vec![b'n'; bytes])?;
        } else {
            // All of it has come, with the FIN.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        drop(client);
    }
    Ok(())
}

#[test]
fn what_a_reset_shows_is_recorded_with_the_connections_of_its_service() -> Result<()> {
    use tcpwatch::facts::{Amount, RecordedReset, ResetObservation};
    if !scenes::root_or_skip() {
        return Ok(());
    }
    const DEAD_PORT: u16 = 9;
    let ns = Namespace::new("shows")?;
    let mut kernel = Kernel::load()?;
    let listener = ns.enter(listen)??;
    // Listeners are known from the second inventory on.
    kernel.inventory(&Focus::default())?;
    ns.enter(|| -> Result<()> {
        close_first(&listener, 24, false, 5)?;
        close_first(&listener, 24, true, 6)?;
        close_first(&listener, 5_000, false, 3)
    })??;
    scenes::stray_acks(&ns, 4, DEAD_PORT)?;
    let inventory = kernel.inventory(&Focus::default())?;
    let id = seen(&inventory, &ns)?.id;
    let service = listener.local_addr()?.port();
    let resets = inventory.resets.as_ref().context("the hooks are attached")?;
    let count = |role, port, shows: &dyn Fn(&ResetObservation) -> bool| {
        let rows = resets.iter().filter(|it| (it.netns, it.role, it.port) == (id, role, port));
        let rows = rows.filter(|it| match it.what {
            RecordedReset::Seen(seen) => shows(&seen),
            RecordedReset::Sent(_) | RecordedReset::Received(_) => false,
        });
        let rows: Vec<_> = rows.collect();
        let all_ours = rows
            .iter()
            .all(|it| it.process.as_ref().is_some_and(|process| process.pid == std::process::id()));
        (rows.iter().map(|it| it.count).sum::<u64>(), all_ours)
    };
    let unread = |amount| {
        move |it: &ResetObservation| {
            !it.received && it.unread == Some(amount) && it.peer_closed == Some(true)
        }
    };
    assert_eq!(count(Role::Client, service, &unread(Amount::Few)), (5, true), "{resets:#?}");
    assert_eq!(count(Role::Client, service, &unread(Amount::Many)), (3, true), "{resets:#?}");
    // The socket is a minisocket by then: it belongs to the listener on its port.
    let late = |it: &ResetObservation| {
        !it.received && it.segment && it.state.is_some() && it.unread == Some(Amount::Few)
    };
    assert_eq!(count(Role::Server, service, &late), (6, true), "{resets:#?}");
    let stray: Vec<_> = resets.iter().filter(|it| it.netns == id && it.port == DEAD_PORT).collect();
    assert_eq!(stray.iter().map(|it| it.count).sum::<u64>(), 4, "{stray:#?}");
    assert!(stray.iter().all(|it| it.other_port.is_some_and(|port| port > 0)), "{stray:#?}");
    assert!(stray.iter().all(|it| it.peers == Some(1)), "{stray:#?}");

    let services = inventory.services.as_ref().context("they are counted")?;
    let sum = |role, of: fn(&tcpwatch::facts::ServiceCount) -> u64| {
        let rows = services.iter().filter(|it| (it.netns, it.role, it.port) == (id, role, service));
        rows.map(of).sum::<u64>()
    };
    // The server closed each in order, the client those whose data it read.
    assert_eq!(sum(Role::Server, |it| it.closed), 14, "{services:#?}");
    assert_eq!(sum(Role::Client, |it| it.opened), 14, "{services:#?}");
    Ok(())
}

#[test]
fn active_closers_are_counted_while_they_are_in_focus() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("closers")?;
    let mut kernel = Kernel::load()?;
    let close_first = |count: usize| {
        ns.enter(|| -> Result<u16> {
            let listener = listen()?;
            for _ in 0..count {
                let (client, mut server) = pair(&listener)?;
                drop(client);
                ensure!(server.read(&mut [0])? == 0);
            }
            Ok(listener.local_addr()?.port())
        })?
    };
    close_first(5)?;
    let id = seen(&kernel.inventory(&Focus::default())?, &ns)?.id;
    let focus = Focus { closers_in: BTreeSet::from([id]), ..Focus::default() };
    let inventory = kernel.inventory(&focus)?;
    let is_here = |inventory: &Inventory| inventory.closers.iter().any(|it| it.netns == id);
    assert!(!is_here(&inventory), "it was not in focus before: {:?}", inventory.closers);
    let port = close_first(12)?;
    let inventory = kernel.inventory(&focus)?;
    let closers = inventory.closers.iter().filter(|closer| closer.netns == id);
    let reported: Vec<_> =
        closers.map(|it| (it.process.pid, it.role, it.peer, it.port, it.count)).collect();
    let localhost = Some(Ipv4Addr::LOCALHOST.into());
    assert_eq!(reported, [(process::id(), Role::Client, localhost, port, 12)]);
    // A second focus starts from zero.
    kernel.inventory(&Focus::default())?;
    close_first(3)?;
    assert!(!is_here(&kernel.inventory(&focus)?));
    Ok(())
}

#[test]
fn holders_of_a_port_are_described_in_whatever_state() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("holders")?;
    let _time_waits = TimeWaits::make(&ns, 3, 8_000)?;
    let sockets = ns.sockets()?;
    let in_time_wait = sockets.iter().find(|socket| socket.state == State::TimeWait);
    let in_time_wait = in_time_wait.context("three of them")?.local.port();
    let (listener, connected) = ns.enter(|| -> Result<_> {
        let listener = listen()?;
        let ends = pair(&listener)?;
        Ok((listener, ends))
    })??;
    let listening = listener.local_addr()?.port();
    let connected_from = connected.0.local_addr()?.port();
    let mut kernel = Kernel::load()?;
    let ports = vec![in_time_wait, listening, connected_from];
    let inventory = kernel.inventory(&Focus { ports, ..Focus::default() })?;
    let mut reported: Vec<_> = seen(&inventory, &ns)?
        .port_holders
        .iter()
        .map(|holder| {
            let pid = holder.owner.as_ref().map(|owner| owner.process.pid);
            (holder.local.port, holder.state, pid)
        })
        .collect();
    reported.sort_unstable();
    let me = Some(process::id());
    let mut expected = vec![
        (in_time_wait, TcpState::TimeWait, None),
        (listening, TcpState::Established, me),
        (listening, TcpState::Listen, me),
        (connected_from, TcpState::Established, me),
    ];
    expected.sort_unstable();
    assert_eq!(reported, expected);
    let inventory = kernel.inventory(&Focus::default())?;
    assert!(seen(&inventory, &ns)?.port_holders.is_empty());
    Ok(())
}

#[test]
fn a_port_that_is_bound_before_connect_is_reported() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("bound")?;
    let held = ns.enter(|| -> Result<_> {
        let listener = listen()?;
        let mut held = Vec::new();
        for bind_first in [true, true, false] {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            if bind_first {
                socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            }
            socket.connect(&listener.local_addr()?.into())?;
            held.push((socket, listener.accept()?));
        }
        // Its connections keep its port when it is gone; they called neither bind() nor connect().
        drop(listener);
        Ok(held)
    })??;
    let mut kernel = Kernel::load()?;
    let inventory = kernel.inventory(&Focus::default())?;
    let ports = &seen(&inventory, &ns)?.ports;
    assert_eq!((ports.bound_before_connect, ports.pinned), (2, 3));
    drop(held);
    Ok(())
}

#[test]
fn sockets_that_wait_for_their_peer_are_described_after_a_second() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("waiting")?;
    let (client, _server) = ns.enter(|| -> Result<_> {
        let listener = listen()?;
        let (client, server) = pair(&listener)?;
        SockRef::from(&client).shutdown(std::net::Shutdown::Write)?;
        Ok((client, server))
    })??;
    let _syn_sent = support::syn_sent(&ns)?;
    let mut kernel = Kernel::load()?;
    let inventory = poll("four sockets to wait for a second", || {
        let inventory = kernel.inventory(&Focus::default())?;
        let waiting = seen(&inventory, &ns)?.waiting.len();
        Ok((waiting == 4).then_some(inventory))
    })?;
    let waiting = &seen(&inventory, &ns)?.waiting;
    let half_closed = waiting.iter().find(|socket| socket.state == TcpState::FinWait2);
    let half_closed = half_closed.context("FIN_WAIT2")?;
    assert_eq!(half_closed.local.port, client.local_addr()?.port());
    assert_eq!((half_closed.role, half_closed.orphan), (Role::Client, false));
    for socket in waiting {
        let age = inventory.finished.since(socket.since);
        ensure!(age >= Duration::from_secs(1) && age < support::DEADLINE, "{socket:?}: {age:?}");
        let owner = socket.owner.as_ref().map(|owner| owner.process.pid);
        assert_eq!(owner, Some(process::id()), "{socket:?}");
    }
    // Their age grows by the time that passes, retransmissions or not.
    std::thread::sleep(Duration::from_secs(2));
    let later = kernel.inventory(&Focus::default())?;
    let oldest = |inventory: &Inventory| -> Result<_> {
        let syn_sent = seen(inventory, &ns)?.waiting.iter();
        let syn_sent = syn_sent.filter(|socket| socket.state == TcpState::SynSent);
        syn_sent.map(|socket| socket.since).min().context("SYN_SENT")
    };
    // A stamp that a retransmission renews is a second later or more. An eighth of the time that
    // has passed is far above the milliseconds of the kernel's stamp.
    let passed = later.finished.since(inventory.finished);
    let drift = oldest(&later)?.since(oldest(&inventory)?);
    ensure!(drift < passed / 8, "{drift:?} of {passed:?}");
    Ok(())
}

/// A server that answers after its client has shut down its side, and one that never answers.
#[test]
fn what_a_socket_has_carried_is_reported_on_both_sides() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    const REQUEST: [u8; 10] = [1; 10];
    const ANSWER: [u8; 1_000] = [2; 1_000];
    let ns = Namespace::new("carried")?;
    let mut kernel = Kernel::load()?;
    let (kept, [answers, is_silent]) = ns.enter(|| -> Result<_> {
        let listener = listen()?;
        let mut pairs = Vec::new();
        for _ in 0..2 {
            let (mut client, mut server) = pair(&listener)?;
            client.write_all(&REQUEST)?;
            client.shutdown(Shutdown::Write)?;
            server.read_to_end(&mut Vec::new())?;
            pairs.push((client, server));
        }
        let ports = [pairs[0].0.local_addr()?.port(), pairs[1].0.local_addr()?.port()];
        Ok(((listener, pairs), ports))
    })??;
    let (_listener, pairs) = &kept;
    let (mut client, mut server) = (&pairs[0].0, &pairs[0].1);
    server.write_all(&ANSWER)?;
    client.read_exact(&mut [0; ANSWER.len()])?;
    let inventory = poll("both clients to have waited for a second", || {
        let inventory = kernel.inventory(&Focus::default())?;
        Ok((seen(&inventory, &ns)?.waiting.len() == 2).then_some(inventory))
    })?;
    let seen = seen(&inventory, &ns)?;
    let server_of = |port| seen.close_wait.iter().find(|socket| socket.peer.port == port);
    let client_of = |port| seen.waiting.iter().find(|socket| socket.local.port == port);
    for (port, answer) in [(answers, ANSWER.len() as u64), (is_silent, 0)] {
        let server = server_of(port).context("a server in CLOSE_WAIT")?;
        let carried = server.progress.context("what the server has carried")?;
        assert_eq!((carried.sent_bytes, carried.acked_bytes), (answer, answer));
        // The FIN counts one.
        let received = REQUEST.len() as u64 + 1;
        assert_eq!((carried.received_bytes, carried.unacked_bytes), (received, 0));
        assert_eq!(carried.delivered > server.since, answer > 0, "{carried:?} {:?}", server.since);
        assert!(carried.delivered < inventory.finished, "{carried:?}");
        let client = client_of(port).context("a client in FIN_WAIT2")?;
        assert_eq!(client.state, TcpState::FinWait2);
        let carried = client.progress.context("what the client has carried")?;
        assert_eq!(carried.received_bytes, answer);
        assert_eq!(carried.sent_bytes, REQUEST.len() as u64);
    }
    Ok(())
}

#[test]
fn stacks_are_recorded_only_for_processes_in_focus() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("stacks")?;
    let mut kernel = Kernel::load()?;
    let before = CloseWaitLeak::client(&ns, 2, 0, false)?;
    let focus = Focus { stacks_of: vec![process::id()], ..Focus::default() };
    kernel.inventory(&focus)?;
    let leak = CloseWaitLeak::client(&ns, 5, 0, false)?;
    let inventory = kernel.inventory(&focus)?;
    let close_wait = &seen(&inventory, &ns)?.close_wait;
    assert_eq!(close_wait.len(), 7);
    for socket in close_wait {
        let is_older = before.streams().iter().any(|stream| {
            stream.local_addr().is_ok_and(|address| address.port() == socket.local.port)
        });
        match &socket.stack {
            None => ensure!(is_older, "no stack: {socket:?}"),
            Some(stack) => {
                ensure!(!is_older, "{stack:?}");
                ensure!(stack[0].contains("connect"), "{stack:?}");
            }
        }
    }
    // The stack stays with its socket when its process is out of focus.
    let inventory = kernel.inventory(&Focus::default())?;
    let named = seen(&inventory, &ns)?.close_wait.iter().filter(|socket| socket.stack.is_some());
    assert_eq!(named.count(), 5);
    drop(leak);
    Ok(())
}

#[test]
fn stacks_of_accept_are_recorded_where_the_kernel_has_trampolines() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("accepts")?;
    let mut kernel = Kernel::load()?;
    if !kernel.sees_accepts {
        return support::skip_without_hook("accept", &[("bind", kernel.sees_binds)]);
    }
    let focus = Focus { stacks_of: vec![process::id()], ..Focus::default() };
    kernel.inventory(&focus)?;
    let _leak = CloseWaitLeak::server(&ns, 5, 0, false)?;
    let inventory = kernel.inventory(&focus)?;
    let close_wait = &seen(&inventory, &ns)?.close_wait;
    assert_eq!(close_wait.len(), 5);
    for socket in close_wait {
        let stack = socket.stack.as_ref().with_context(|| format!("no stack: {socket:?}"))?;
        ensure!(stack[0].contains("accept"), "{stack:?}");
    }
    Ok(())
}
