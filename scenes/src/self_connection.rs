//! A socket that is connected to itself.
//!
//! TCP allows a simultaneous open (RFC 9293, section 3.5), and a SYN that
//! meets its own sender is one. It happens when connect() goes to a local port
//! without a listener and is given that very port as its source.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use socket2::Socket;

use crate::{Namespace, stream::tcp_socket};

/// The range of [`SelfConnection::by_luck`]: small, so that luck comes soon.
const LUCKY_RANGE: (u16, u16) = (41_000, 41_009);

/// In it. connect() tries ports of the parity of the range's first before the
/// others (__inet_hash_connect()), so only such a port can be hit.
const LUCKY_PORT: u16 = 41_004;

/// Five ports are of that parity and each connect() starts further on, so a
/// handful of tries do; this many without luck mean that something is wrong.
const LUCKY_TRIES: u32 = 10_000;

/// A connection to oneself takes no time: it never leaves connect().
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket whose peer is itself; stands until it is closed or dropped.
#[derive(Debug)]
pub struct SelfConnection {
    stream: TcpStream,
    address: SocketAddr,
    tries: u32,
}

impl SelfConnection {
    /// Binds a port of `address` and connects to that same port: a
    /// self-connection on the first try.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn make(ns: &Namespace, address: IpAddr) -> Result<Self> {
        let socket = ns
            .enter(|| -> io::Result<Socket> {
                let any_port = SocketAddr::new(address, 0);
                let socket = tcp_socket(any_port)?;
                socket.bind(&any_port.into())?;
                socket.connect_timeout(&socket.local_addr()?, CONNECT_TIMEOUT)?;
                Ok(socket)
            })?
            .with_context(|| format!("connecting a socket of {address} to itself"))?;
        Self::from_stream(socket.into(), 1)
    }

    /// The way it happens in the wild: connects to a port of a small ephemeral
    /// range, which has no listener, until the kernel picks it as source.
    ///
    /// # Errors
    /// When luck does not come or the kernel refuses a step.
    pub fn by_luck(ns: &Namespace, address: IpAddr) -> Result<Self> {
        const KEY: &str = "net.ipv4.ip_local_port_range";
        let before = ns.sysctl(KEY)?;
        ns.sysctl_set(KEY, &format!("{} {}", LUCKY_RANGE.0, LUCKY_RANGE.1))?;
        let connected = ns.enter(|| connect(SocketAddr::new(address, LUCKY_PORT), LUCKY_TRIES));
        ns.sysctl_set(KEY, &before)?;
        let (stream, tries) = connected??;
        Self::from_stream(stream, tries)
    }

    /// Connects to `target` from the calling thread, whose namespace it must be
    /// in, until the socket is connected to itself.
    ///
    /// # Errors
    /// After `tries` without luck, or when a listener answers.
    pub fn connect(target: SocketAddr, tries: u32) -> Result<Self> {
        let (stream, tries) = connect(target, tries)?;
        Self::from_stream(stream, tries)
    }

    /// Both its ends.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connects it took.
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.tries
    }

    /// The socket.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Ends it: FIN_WAIT1, CLOSING, TIME_WAIT.
    pub fn close(self) {
        drop(self.stream);
    }

    fn from_stream(stream: TcpStream, tries: u32) -> Result<Self> {
        let local = stream.local_addr().context("local address")?;
        let peer = stream.peer_addr().context("peer address")?;
        ensure!(local == peer, "connected {local} to {peer}, which has a listener");
        Ok(Self { stream, address: local, tries })
    }
}

fn connect(target: SocketAddr, tries: u32) -> Result<(TcpStream, u32)> {
    for attempt in 1..=tries {
        let socket = tcp_socket(target).context("a socket")?;
        bind_address_only(&socket, target.ip())
            .with_context(|| format!("binding {}", target.ip()))?;
        match socket.connect(&target.into()) {
            Ok(()) => return Ok((socket.into(), attempt)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).with_context(|| format!("connecting to {target}")),
        }
    }
    bail!("connected to {target} {tries} times, refused each time")
}

/// Sets the source address and leaves the port to connect(): a connect to
/// 127.0.0.9 would start from 127.0.0.1 otherwise.
fn bind_address_only(socket: &Socket, address: IpAddr) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the
    // pointer and the length describe `on`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&SocketAddr::new(address, 0).into())
}
