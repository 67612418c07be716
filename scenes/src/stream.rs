//! Listeners and connected pairs on loopback: what every situation is made of.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::{Namespace, wait::STEP_DEADLINE};

/// As long as the default of net.core.somaxconn, which cuts it anyway.
const BACKLOG: i32 = 4096;

/// Classic BPF: return 0, keep no byte of any segment. A socket with this filter receives nothing.
pub(crate) const DROP_ALL: SockFilter =
    SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);

/// A TCP socket of the family of `address`, in the namespace of the thread.
pub(crate) fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
}

/// Listens inside `ns`; port 0 takes a free one.
pub(crate) fn listen(ns: &Namespace, address: SocketAddr) -> Result<TcpListener> {
    ns.enter(|| -> io::Result<TcpListener> {
        let socket = tcp_socket(address)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    })?
    .with_context(|| format!("listening on {address} in {}", ns.name()))
}

/// Connects to `to` and accepts on the other side; call it inside the
/// namespace. Reads on both ends are bounded.
pub(crate) fn pair(listener: &TcpListener, to: SocketAddr) -> io::Result<(TcpStream, TcpStream)> {
    let client = connect(to)?;
    let (server, _) = listener.accept()?;
    server.set_read_timeout(Some(STEP_DEADLINE))?;
    Ok((client, server))
}

/// Connects from the namespace of the thread, bounded.
pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let client = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT)?;
    client.set_read_timeout(Some(STEP_DEADLINE))?;
    Ok(client)
}

/// Two retransmissions of a SYN (1 s, then 2 s) fit in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// 127.0.0.1 or ::1.
pub(crate) fn loopback(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}
