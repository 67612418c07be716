//! Ports that are used up in each way: open connections, a leak, ports bound before connect(), and a
//! socket's own range.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, PortRange};
use socket2::{Domain, Socket, Type};

use super::{LOCALHOST, Stage};

const PORTS: usize = 30;

/// All ports towards a destination are of open connections.
pub(crate) fn open(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    let mut range = PortRange::new(&ns, 40_000..=40_029, 8_443)?;
    range.use_up(PORTS, 0)?;
    stage.watch(1)?;
    ensure!(range.connect_once().is_err(), "there was a port left");
    stage.watch_until_raised()?;
    stage.watch(1)?;
    // Closing them would leave them in TIME_WAIT for a minute.
    ns.sysctl_set("net.ipv4.ip_local_port_range", "32768 60999")?;
    stage.watch_until_cleared()?;
    drop(range);
    Ok(())
}

/// A leak of connections has eaten them.
pub(crate) fn leaked(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    ns.sysctl_set("net.ipv4.ip_local_port_range", "40000 40029")?;
    let mut leak = CloseWaitLeak::client(&ns, PORTS, 9_200, false)?;
    leak.read_to_end()?;
    stage.watch(1)?;
    ensure!(leak.add(1).is_err(), "there was a port left");
    stage.watch_until_raised()?;
    stage.watch(2)?;
    drop(leak);
    stage.watch_until_cleared()
}

/// bind() with port 0 before connect(): each connection takes its port for all destinations.
pub(crate) fn bound(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    ns.sysctl_set("net.ipv4.ip_local_port_range", "40000 40029")?;
    let connect = |peer: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.connect(&peer.into())?;
        Ok(socket)
    };
    let (listeners, sockets) = ns.enter(|| -> io::Result<_> {
        let listeners = [9_901, 9_902].map(|port| TcpListener::bind((LOCALHOST, port)));
        let listeners: Vec<_> = listeners.into_iter().collect::<io::Result<_>>()?;
        let peers: Vec<_> =
            listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let peers = peers.iter().cycle().take(PORTS);
        Ok((listeners, peers.map(|peer| connect(*peer)).collect::<io::Result<Vec<_>>>()?))
    })??;
    stage.watch(1)?;
    let refused = ns.enter(|| std::net::TcpStream::connect((LOCALHOST, 9_901)))?;
    ensure!(refused.is_err(), "there was a port left");
    stage.watch_until_raised()?;
    stage.watch(1)?;
    drop((listeners, sockets));
    stage.watch_until_cleared()
}

/// `IP_LOCAL_PORT_RANGE` of the socket is used up, the namespace's range is not.
pub(crate) fn own_range(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    let kept = ns.enter(|| -> Result<_> {
        let listener = TcpListener::bind((LOCALHOST, 6_379))?;
        let server = listener.local_addr()?.into();
        let mut kept = Vec::new();
        for number in 0..12 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            set_own_range(&socket, 40_000, 40_007).context("IP_LOCAL_PORT_RANGE (since 6.3)")?;
            ensure!(socket.connect(&server).is_ok() == (number < 8), "connect {number}");
            kept.push(socket);
        }
        Ok((listener, kept))
    })??;
    stage.watch_until_raised()?;
    stage.watch(1)?;
    drop(kept);
    stage.watch_until_cleared()
}

fn set_own_range(socket: &Socket, first: u16, last: u16) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
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
