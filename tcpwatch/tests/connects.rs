//! How a connect() ends, as the hook reports it of real sockets: after how long a program gave it up,
//! why connect() itself failed, and which destinations answer. The facts, without the engine.

mod support;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use scenes::{Namespace, PortRange, Stuck};
use socket2::{Domain, SockRef, Socket, Type};
use tcpwatch::{
    facts::{ConnectFailure, Endpoint, Event, Focus, NetnsId, NoConnect},
    kernel::{EventRing, LoadOptions, OwnerPolicy, Programs, Scope, Walker},
};

/// Where `Stuck` finds no answer, and a port of ours there.
const DEAD_PORT: u16 = 5432;

/// Only the kernel side. Dropping it detaches everything.
struct Kernel {
    ring: EventRing,
    walker: Walker,
    _others: Box<dyn std::any::Any>,
}

/// The report of the hook on one failed connect.
#[derive(Debug)]
struct Failed {
    reason: ConnectFailure,
    local: Endpoint,
    waited: Option<Duration>,
    no_connect: Option<NoConnect>,
    pid: Option<u32>,
}

impl Kernel {
    fn load() -> Result<Self> {
        let programs = Programs::load(&LoadOptions::default())?;
        programs.require_indispensable()?;
        let (ring, counters, walker, links) = programs.split(Scope::All, 1_000)?;
        Ok(Self { ring, walker, _others: Box::new((counters, links)) })
    }

    fn netns(&mut self, ns: &Namespace) -> Result<NetnsId> {
        let inventory = self.walker.inventory(OwnerPolicy::AtOnce, &Focus::default())?;
        let seen = inventory.namespaces.iter().find(|seen| *seen.name == *ns.name());
        Ok(seen.context("the namespace was not walked")?.id)
    }

    /// The connects to `peer` that have failed since the last call.
    fn failed(&mut self, netns_id: NetnsId, peer: SocketAddr) -> Vec<Failed> {
        let mut all = Vec::new();
        loop {
            let (events, may_be_more) = self.ring.drain(1_024);
            all.extend(events.into_iter().filter_map(|event| match event {
                Event::ConnectFailed {
                    netns,
                    local,
                    peer: to,
                    reason,
                    waited,
                    no_connect,
                    process,
                    ..
                } if netns == netns_id && to == peer.into() => {
                    let pid = process.map(|process| process.pid);
                    Some(Failed { reason, local, waited, no_connect, pid })
                }
                _ => None,
            }));
            if !may_be_more {
                return all;
            }
        }
    }

    /// The one connect to `peer` that has failed since the last call.
    fn only_failed(&mut self, netns: NetnsId, peer: SocketAddr) -> Result<Failed> {
        let mut failed = self.failed(netns, peer);
        match (failed.pop(), failed.is_empty()) {
            (Some(one), true) => Ok(one),
            (last, _) => bail!("not one failure to {peer}: {failed:?} {last:?}"),
        }
    }
}

fn begin_connect(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        other => Err(io::Error::other(format!("connect() to {to}: {other:?}"))),
    }
}

#[test]
fn a_connect_that_the_program_closes_is_given_up_however_it_closes() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("given-up")?;
    let stuck = Stuck::in_syn_sent(&ns, 3, DEAD_PORT)?;
    let server = stuck.server_address();
    let mut kernel = Kernel::load()?;
    let netns = kernel.netns(&ns)?;
    // Older than the programs: no note has its process, but the SYN tells its age.
    std::thread::sleep(Duration::from_millis(1_100));
    stuck.end()?;
    let failed = kernel.failed(netns, server);
    assert_eq!(failed.len(), 3, "{failed:?}");
    for failed in failed {
        assert_eq!((failed.reason, failed.no_connect), (ConnectFailure::GivenUp, None));
        assert!(failed.waited.is_some_and(|it| it >= Duration::from_secs(1)), "{failed:?}");
    }

    for how in ["close", "shutdown", "linger"] {
        let socket = ns.enter(|| begin_connect(server))??;
        std::thread::sleep(Duration::from_millis(100));
        match how {
            "shutdown" => drop(socket.shutdown(Shutdown::Both)),
            "linger" => SockRef::from(&socket).set_linger(Some(Duration::ZERO))?,
            _ => {}
        }
        drop(socket);
        let failed = kernel.only_failed(netns, server)?;
        assert_eq!(failed.reason, ConnectFailure::GivenUp, "{how}: {failed:?}");
        assert_eq!((failed.no_connect, failed.pid), (None, Some(process::id())), "{how}");
        assert_ne!(failed.local.port, 0, "{how}");
        let waited = failed.waited.context("how long it waited")?;
        assert!(waited >= Duration::from_millis(99), "{how}: {waited:?}");
        assert!(waited < Duration::from_secs(60), "{how}: {waited:?}");
    }
    Ok(())
}

#[test]
fn a_refused_connect_is_not_given_up() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("refused")?;
    let mut kernel = Kernel::load()?;
    let netns = kernel.netns(&ns)?;
    let refusing = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    assert!(ns.enter(|| TcpStream::connect(refusing))?.is_err());
    let failed = kernel.only_failed(netns, refusing)?;
    assert_eq!((failed.reason, failed.no_connect), (ConnectFailure::Refused, None));
    Ok(())
}

#[test]
fn a_bound_socket_whose_ends_are_taken_lacks_no_port() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("ends")?;
    let mut kernel = Kernel::load()?;
    let netns = kernel.netns(&ns)?;
    let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 41_234));
    let bound = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        Ok(socket)
    };
    let (server, _kept, error) = ns.enter(|| -> Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = listener.local_addr()?;
        let (first, second) = (bound()?, bound()?);
        first.connect(&server.into())?;
        let error = second.connect(&server.into()).expect_err("both ends are taken");
        Ok((server, (listener, first, second), error))
    })??;
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    let failed = kernel.only_failed(netns, server)?;
    assert_eq!(failed.reason, ConnectFailure::Other);
    assert_eq!((failed.no_connect, failed.waited), (Some(NoConnect::EndsTaken), None));
    assert_eq!(failed.local, Endpoint::from(from));
    Ok(())
}

/// Lets connect() choose from this range only (6.3 and later).
fn set_own_range(socket: &Socket, first: u16, last: u16) -> io::Result<()> {
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
    let range = u32::from(last) << 16 | u32::from(first);
    // SAFETY: the option takes four bytes, which live through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const range).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn the_lack_of_a_port_is_the_namespaces_or_the_sockets_own() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("lack")?;
    let mut kernel = Kernel::load()?;
    let netns = kernel.netns(&ns)?;
    let mut range = PortRange::new(&ns, 43_000..=43_003, 8_084)?;
    range.use_up(4, 0)?;
    assert!(range.connect_once().is_err());
    let failed = kernel.only_failed(netns, range.destination())?;
    assert_eq!(failed.reason, ConnectFailure::NoLocalPort);
    assert_eq!((failed.no_connect, failed.waited), (Some(NoConnect::Range), None));
    assert_eq!(failed.local.port, 0);
    drop(range);

    let ns = Namespace::new("own-range")?;
    let netns = kernel.netns(&ns)?;
    let (server, _kept, error) = ns
        .enter(|| -> Result<_> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let server = listener.local_addr()?;
            let mut kept = Vec::new();
            for _ in 0..3 {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                match set_own_range(&socket, 40_000, 40_001) {
                    Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                        return Ok(None);
                    }
                    other => other?,
                }
                match socket.connect(&server.into()) {
                    Ok(()) => kept.push(socket),
                    Err(error) => return Ok(Some((server, (listener, kept), error))),
                }
            }
            bail!("three connects on two ports")
        })??
        .map_or((None, None, None), |(server, kept, error)| {
            (Some(server), Some(kept), Some(error))
        });
    let (Some(server), Some(error)) = (server, error) else {
        println!("before 6.3: a socket has no range of its own");
        return Ok(());
    };
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    let failed = kernel.only_failed(netns, server)?;
    assert_eq!(failed.reason, ConnectFailure::NoLocalPort);
    assert_eq!(failed.no_connect, Some(NoConnect::OwnRange { first: 40_000, last: 40_001 }));
    Ok(())
}

#[test]
fn connections_are_counted_for_the_destinations_in_focus() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("answers")?;
    let mut kernel = Kernel::load()?;
    let netns = kernel.netns(&ns)?;
    let mut listeners = ns.enter(|| -> io::Result<Vec<TcpListener>> {
        (0..2).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect()
    })??;
    let six = ns.enter(|| TcpListener::bind("[::1]:0"))??;
    let other = listeners.pop().context("two listeners")?;
    let in_focus = [listeners[0].local_addr()?, six.local_addr()?];
    let connect = |count: usize| -> Result<()> {
        ns.enter(|| -> io::Result<()> {
            for listener in [&listeners[0], &six, &other] {
                for _ in 0..count {
                    TcpStream::connect(listener.local_addr()?)?;
                    listener.accept()?;
                }
            }
            Ok(())
        })??;
        Ok(())
    };
    connect(2)?;
    let answers: BTreeSet<_> = in_focus.iter().map(|it| (netns, Endpoint::from(*it))).collect();
    let focus = Focus { answers: answers.clone(), ..Focus::default() };
    let mut counts = |focus: &Focus| -> Result<Vec<u64>> {
        let inventory = kernel.walker.inventory(OwnerPolicy::AtOnce, focus)?;
        let counted: BTreeSet<_> = inventory.answers.iter().map(|it| (it.netns, it.peer)).collect();
        assert_eq!(counted, focus.answers);
        Ok(inventory.answers.iter().map(|it| it.count).collect())
    };
    assert_eq!(counts(&focus)?, [0, 0], "connections before the focus do not count");
    connect(5)?;
    assert_eq!(counts(&focus)?, [5, 5]);
    connect(1)?;
    assert_eq!(counts(&focus)?, [6, 6], "the count goes on");
    assert_eq!(counts(&Focus::default())?, [0; 0]);
    connect(3)?;
    assert_eq!(counts(&focus)?, [0, 0], "a new focus begins anew");
    Ok(())
}
