//! Sockets of the tests' own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use scenes::Namespace;
use socket2::{Domain, Socket, Type};

/// An address that was free a moment ago, below the default `ip_local_port_range`: an agent that
/// watches this host would rightly speak of a listener inside, once it has been there for a minute.
pub(crate) fn free_address() -> Result<SocketAddr> {
    const FIRST: u32 = 20_000;
    const PORTS: u32 = 10_000;
    static TRIES: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let number = process::id() * 16 + TRIES.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + number % PORTS)?;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no port is free")
}

/// Listens in `ns` at every address, with an accept queue of that length.
pub(crate) fn listen(ns: &Namespace, port: u16, backlog: i32) -> Result<TcpListener> {
    ns.enter(|| -> io::Result<TcpListener> {
        let socket = tcp_socket()?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        socket.listen(backlog)?;
        Ok(socket.into())
    })?
    .with_context(|| format!("listening on port {port}"))
}

/// Begins `count` connections over loopback and waits for none of them.
pub(crate) fn begin_connects(ns: &Namespace, count: usize, port: u16) -> Result<Vec<Socket>> {
    let begin = || {
        let socket = tcp_socket()?;
        socket.set_nonblocking(true)?;
        match socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    };
    ns.enter(|| (0..count).map(|_| begin()).collect::<io::Result<Vec<_>>>())?
        .with_context(|| format!("connecting to port {port}"))
}

fn tcp_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, None)
}

/// Opens three connections that stay unanswered: the peer's address is a black hole.
pub(crate) fn syn_sent(ns: &Namespace) -> Result<Vec<Socket>> {
    ns.enter(|| -> Result<Vec<Socket>> {
        let run = |args: &[&str]| -> Result<()> {
            let status = Command::new("ip").args(args).status()?;
            ensure!(status.success(), "ip {args:?}");
            Ok(())
        };
        run(&["link", "add", "hole", "type", "veth", "peer", "name", "bottom"])?;
        run(&["address", "add", "192.0.2.1/24", "dev", "hole"])?;
        run(&["link", "set", "hole", "up"])?;
        run(&["link", "set", "bottom", "up"])?;
        run(&["neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "hole"])?;
        let mut sockets = Vec::new();
        for _ in 0..3 {
            let socket = tcp_socket()?;
            socket.set_nonblocking(true)?;
            let target = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 9), 80));
            let begun = socket.connect(&target.into());
            ensure!(begun.is_err_and(|error| error.raw_os_error() == Some(libc::EINPROGRESS)));
            sockets.push(socket);
        }
        Ok(sockets)
    })?
}

/// Lets this process have as many descriptors as it may; the default of 1,024 is too few where
/// each client takes one. Returns the new limit; `None` for no limit.
pub(crate) fn raise_descriptor_limit() -> Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    Ok(limit.maximum)
}
