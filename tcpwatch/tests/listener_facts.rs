//! Facts of listeners from the kernel side: how they came by their port, whether any thread waits for
//! connections, which connection has waited longest, and whose queue an unaccepted one is in. The
//! facts themselves, without the engine that judges them.

mod support;

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::{self, Child, Command},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use socket2::{Domain, SockRef, Socket, Type};
use support::poll;
use tcpwatch::{
    facts::{CloseWaitSocket, Focus, Inventory, Listener, Namespace as SeenNamespace, TcpState},
    kernel::{LoadOptions, OwnerPolicy, Programs, Scope, Walker},
};

/// Only the kernel side. Dropping it detaches everything.
struct Kernel {
    walker: Walker,
    _others: Box<dyn std::any::Any>,
}

impl Kernel {
    fn load() -> Result<Self> {
        let programs = Programs::load(&LoadOptions::default())?;
        programs.require_indispensable()?;
        let (ring, counters, walker, links) = programs.split(Scope::All, 10_000)?;
        Ok(Self { walker, _others: Box::new((ring, counters, links)) })
    }

    fn look(&mut self, ns: &Namespace, ports: &[u16]) -> Result<SeenNamespace> {
        let focus = Focus { ports: ports.to_vec(), ..Focus::default() };
        let Inventory { namespaces, .. } = self.walker.inventory(OwnerPolicy::AtOnce, &focus)?;
        let mut namespaces = namespaces.into_iter();
        namespaces.find(|seen| *seen.name == *ns.name()).context("the namespace was not walked")
    }
}

/// A listener on 127.0.0.1 that others may share (`SO_REUSEPORT`); port 0 is picked by the kernel.
fn listen(ns: &Namespace, port: u16, backlog: i32) -> Result<TcpListener> {
    ns.enter(|| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        socket.listen(backlog)?;
        Ok(socket.into())
    })?
    .context("cannot listen")
}

fn connect(ns: &Namespace, port: u16) -> Result<TcpStream> {
    Ok(ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)))??)
}

fn on(seen: &SeenNamespace, port: u16) -> Result<&Listener> {
    let mut listeners = seen.listeners.iter();
    listeners.find(|it| it.local.port == port).with_context(|| format!("nothing on {port}"))
}

/// A shell command that inherits this listener; ended when it is dropped.
struct Heir(Child);

impl Heir {
    fn of(listener: TcpListener, command: &str) -> Result<Self> {
        SockRef::from(&listener).set_cloexec(false)?;
        let child = Command::new("sh").args(["-c", command]).spawn()?;
        drop(listener);
        Ok(Self(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn owner_of(socket: &CloseWaitSocket) -> Option<u32> {
    Some(socket.owner.as_ref()?.process.pid)
}

#[test]
fn a_port_is_reported_as_picked_or_named_and_a_thread_as_waiting_or_not() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("picked")?;
    let mut kernel = Kernel::load()?;
    let named = listen(&ns, 45_001, 16)?;
    let picked = listen(&ns, 0, 16)?;
    let port = picked.local_addr()?.port();
    let polled = listen(&ns, 45_002, 16)?;
    let seen = kernel.look(&ns, &[])?;
    let reported = |port| on(&seen, port).map(|it| (it.port_picked, it.awaited));
    assert_eq!(reported(45_001)?, (Some(false), Some(false)));
    assert_eq!(reported(port)?, (Some(true), Some(false)));

    let accepting = named.try_clone()?;
    let waiting = thread::spawn(move || accepting.accept());
    // SAFETY: no arguments but flags; the descriptor is closed when the process ends.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
    // SAFETY: both descriptors are open and `event` is readable.
    let added =
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, polled.as_raw_fd(), &raw mut event) };
    ensure!(added == 0, "epoll_ctl: {}", io::Error::last_os_error());
    poll("both to be awaited", || {
        let seen = kernel.look(&ns, &[])?;
        let awaited = |port| on(&seen, port).map(|it| it.awaited);
        Ok((awaited(45_001)? == Some(true) && awaited(45_002)? == Some(true)).then_some(()))
    })?;
    let _client = connect(&ns, 45_001)?;
    ensure!(waiting.join().is_ok_and(|accepted| accepted.is_ok()), "nothing was accepted");
    // Nothing is said of threads at the others.
    let seen = kernel.look(&ns, &[])?;
    assert_eq!(on(&seen, 45_001)?.awaited, Some(false));
    assert!(seen.somaxconn.is_some() && seen.abort_on_overflow == Some(false));
    Ok(())
}

#[test]
fn the_first_in_the_queue_changes_only_when_something_is_accepted() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("first")?;
    let mut kernel = Kernel::load()?;
    let listener = listen(&ns, 45_010, 16)?;
    assert_eq!(on(&kernel.look(&ns, &[])?, 45_010)?.first_waiting, None);
    let first = |kernel: &mut Kernel| -> Result<(u32, Option<u64>)> {
        let seen = kernel.look(&ns, &[])?;
        let listener = on(&seen, 45_010)?;
        Ok((listener.accept_queue, listener.first_waiting))
    };
    let mut clients = vec![connect(&ns, 45_010)?];
    let (waiting, oldest) = first(&mut kernel)?;
    ensure!(waiting == 1 && oldest.is_some(), "{waiting}, {oldest:?}");
    for _ in 0..5 {
        clients.push(connect(&ns, 45_010)?);
    }
    // Its peer has left, and it waits as before.
    clients.remove(0);
    assert_eq!(first(&mut kernel)?, (6, oldest));
    let accepted = listener.accept()?;
    let (waiting, next) = first(&mut kernel)?;
    ensure!(waiting == 5 && next.is_some() && next != oldest, "{waiting}, {oldest:?}, {next:?}");
    drop(accepted);
    Ok(())
}

#[test]
fn an_unaccepted_socket_belongs_to_the_process_in_whose_queue_it_waits() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    const CLIENTS: usize = 60;
    let ns = Namespace::new("queues")?;
    let mut kernel = Kernel::load()?;
    let port = 45_020;
    let serving = listen(&ns, port, 128)?;
    let hung = Heir::of(listen(&ns, port, 128)?, "exec sleep 600")?;
    serving.set_nonblocking(true)?;
    let mut accepted = Vec::new();
    for _ in 0..CLIENTS {
        drop(connect(&ns, port)?);
        while let Ok(connection) = serving.accept() {
            accepted.push(connection);
        }
    }
    let seen = poll("every connection to be in CLOSE_WAIT", || {
        while let Ok(connection) = serving.accept() {
            accepted.push(connection);
        }
        let seen = kernel.look(&ns, &[])?;
        Ok((seen.close_wait.len() == CLIENTS).then_some(seen))
    })?;
    let (waiting, served): (Vec<_>, Vec<_>) = seen.close_wait.iter().partition(|it| it.unaccepted);
    ensure!(served.len() == accepted.len() && !waiting.is_empty(), "{}", waiting.len());
    assert!(waiting.iter().all(|it| owner_of(it) == Some(hung.pid())), "{waiting:#?}");
    assert!(served.iter().all(|it| owner_of(it) == Some(process::id())), "{served:#?}");
    Ok(())
}

#[test]
fn of_a_pool_the_worker_accepts_and_not_the_master_nor_a_stray_child() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("pool")?;
    let mut kernel = Kernel::load()?;
    let port = 45_030;
    // A shell, a shell below it, and the program that this one runs: all hold the listener.
    let pool = Heir::of(listen(&ns, port, 128)?, "sh -c 'sleep 600; :' & wait")?;
    drop(connect(&ns, port)?);
    let seen = poll("the pool to be seen", || {
        let seen = kernel.look(&ns, &[])?;
        let holders = on(&seen, port)?.owner.as_ref().map(|owner| owner.holders);
        Ok((holders == Some(3) && seen.close_wait.len() == 1).then_some(seen))
    })?;
    let listener = on(&seen, port)?;
    assert_eq!(listener.owner.as_ref().map(|owner| owner.process.pid), Some(pool.pid()));
    let [worker] = &*listener.acceptors else {
        anyhow::bail!("not one worker: {:#?}", listener.acceptors)
    };
    assert!(worker.name == "sh" && worker.pid != pool.pid(), "{worker:?}");
    assert_eq!(owner_of(&seen.close_wait[0]), Some(worker.pid));

    // The worker's child is not ended with the pool.
    let children = format!("/proc/{0}/task/{0}/children", worker.pid);
    let strays = std::fs::read_to_string(children)?;
    drop(pool);
    for pid in [worker.pid.to_string()].iter().map(String::as_str).chain(strays.split_whitespace())
    {
        Command::new("kill").arg(pid).status()?;
    }
    Ok(())
}

#[test]
fn of_several_holders_those_with_accepted_connections_accept() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("serving")?;
    let mut kernel = Kernel::load()?;
    let port = 45_040;
    let listener = listen(&ns, port, 128)?;
    // Of the same program as the test is nothing else; the heir holds the listener too.
    let _heir = Heir::of(listener.try_clone()?, "exec sleep 600")?;
    let _client = connect(&ns, port)?;
    let (accepted, _) = listener.accept()?;
    let seen = kernel.look(&ns, &[port])?;
    let states: Vec<TcpState> = seen.port_holders.iter().map(|it| it.state).collect();
    ensure!(states.contains(&TcpState::Established), "{states:?}");
    let acceptors = |seen: &SeenNamespace| -> Result<Vec<u32>> {
        Ok(on(seen, port)?.acceptors.iter().map(|process| process.pid).collect())
    };
    assert_eq!(acceptors(&seen)?, [process::id()]);
    drop(accepted);
    thread::sleep(Duration::from_millis(10));
    assert_eq!(acceptors(&kernel.look(&ns, &[])?)?, [process::id()], "its program is the oldest");
    Ok(())
}
