//! Sockets that wait for their peer, which does not answer: SYN_SENT,
//! FIN_WAIT2, LAST_ACK, CLOSING.
//!
//! SYNs are sent into a link that leads nowhere. The others are connections
//! over 127.0.0.1 to a server that does not answer: a socket filter drops every
//! segment for it, so it acknowledges nothing. The client retransmits as to a
//! host that has vanished.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use socket2::{SockRef, Socket};

use crate::{
    Namespace, State, dead_link,
    stream::{DROP_ALL, listen, loopback, pair, tcp_socket},
    wait::{STEP_DEADLINE, wait_until},
};

/// Behind the dead link.
const SILENT_HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 7);

/// Clients that are stuck; dropping it ends them.
#[derive(Debug)]
pub struct Stuck {
    ns: Namespace,
    server: SocketAddr,
    state: State,
    count: usize,
    /// Clients that this process still holds: none in LAST_ACK.
    clients: Vec<Socket>,
    servers: Vec<TcpStream>,
}

impl Stuck {
    /// `count` connects to `port` of a host that never answers.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn in_syn_sent(ns: &Namespace, count: usize, port: u16) -> Result<Self> {
        let server = SocketAddr::new(SILENT_HOST.into(), port);
        let clients = ns.enter(|| -> Result<Vec<Socket>> {
            dead_link::make()?;
            (0..count).map(|_| begin_connect(server)).collect()
        })??;
        Self::made(ns, server, State::SynSent, clients, Vec::new(), count)
    }

    /// `count` clients that have shut down sending and wait for a server that
    /// never closes.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn in_fin_wait2(ns: &Namespace, count: usize, port: u16) -> Result<Self> {
        let (server, pairs) = connections(ns, count, port)?;
        for (client, _) in &pairs {
            client.shutdown(Shutdown::Write).context("shutting down a client")?;
        }
        let (clients, servers) = pairs.into_iter().map(|(c, s)| (c.into(), s)).unzip();
        Self::made(ns, server, State::FinWait2, clients, servers, count)
    }

    /// `count` clients that have closed after their server, which vanished
    /// before it could acknowledge that. No process holds them.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn in_last_ack(ns: &Namespace, count: usize, port: u16) -> Result<Self> {
        let (server, pairs) = connections(ns, count, port)?;
        for (_, server) in &pairs {
            server.shutdown(Shutdown::Write).context("shutting down a server")?;
        }
        wait_for(ns, server, State::CloseWait, count)?;
        let mut servers = Vec::new();
        for (client, server) in pairs {
            deafen(&server)?;
            drop(client);
            servers.push(server);
        }
        Self::made(ns, server, State::LastAck, Vec::new(), servers, count)
    }

    /// `count` clients that have sent a request to a server that has vanished.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn in_established(ns: &Namespace, count: usize, port: u16) -> Result<Self> {
        let (server, mut pairs) = connections(ns, count, port)?;
        for (client, server) in &mut pairs {
            deafen(server)?;
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").context("sending a request")?;
        }
        let (clients, servers) = pairs.into_iter().map(|(c, s)| (c.into(), s)).unzip();
        Self::made(ns, server, State::Established, clients, servers, count)
    }

    /// `count` clients that have closed at the same moment as their server,
    /// which does not receive their FIN.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn in_closing(ns: &Namespace, count: usize, port: u16) -> Result<Self> {
        let (server, pairs) = connections(ns, count, port)?;
        for (client, server) in &pairs {
            deafen(client)?;
            deafen(server)?;
            client.shutdown(Shutdown::Write).context("shutting down a client")?;
            server.shutdown(Shutdown::Write).context("shutting down a server")?;
        }
        // Each has sent its FIN and received none. The client now receives the
        // next one that the server sends, after 200 ms or so.
        for (client, _) in &pairs {
            SockRef::from(client).detach_filter().context("no filter on a client")?;
        }
        let (clients, servers) = pairs.into_iter().map(|(c, s)| (c.into(), s)).unzip();
        Self::made(ns, server, State::Closing, clients, servers, count)
    }

    /// The server's address, as the clients see it.
    #[must_use]
    pub const fn server_address(&self) -> SocketAddr {
        self.server
    }

    /// Cures it and waits until that shows: connects are given up, servers
    /// close. Those that drop segments answer with a reset, because the client's
    /// next FIN may be a minute away.
    ///
    /// # Errors
    /// When the sockets do not go.
    pub fn end(self) -> Result<()> {
        if matches!(self.state, State::LastAck | State::Closing | State::Established) {
            for server in &self.servers {
                SockRef::from(server).set_linger(Some(Duration::ZERO)).context("SO_LINGER 0")?;
            }
        }
        drop(self.servers);
        drop(self.clients);
        wait_for(&self.ns, self.server, self.state, 0)
    }

    fn made(
        ns: &Namespace,
        server: SocketAddr,
        state: State,
        clients: Vec<Socket>,
        servers: Vec<TcpStream>,
        count: usize,
    ) -> Result<Self> {
        wait_for(ns, server, state, count)?;
        Ok(Self { ns: ns.clone(), server, state, count, clients, servers })
    }

    /// How many were made.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }
}

fn connections(
    ns: &Namespace,
    count: usize,
    port: u16,
) -> Result<(SocketAddr, Vec<(TcpStream, TcpStream)>)> {
    let listener = listen(ns, SocketAddr::new(loopback(false), port))?;
    let server = listener.local_addr().context("address of a listener")?;
    let pairs = ns
        .enter(|| (0..count).map(|_| pair(&listener, server)).collect::<io::Result<Vec<_>>>())?
        .with_context(|| format!("opening {count} connections to {server}"))?;
    Ok((server, pairs))
}

fn begin_connect(to: SocketAddr) -> Result<Socket> {
    let socket = tcp_socket(to).context("a socket")?;
    socket.set_nonblocking(true).context("a socket that does not block")?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error).with_context(|| format!("connecting to {to}")),
        Ok(()) => bail!("connected to {to}, which has a listener"),
    }
}

/// From here on no segment reaches it.
fn deafen(stream: &TcpStream) -> Result<()> {
    SockRef::from(stream).attach_filter(&[DROP_ALL]).context("a filter on a socket")
}

fn wait_for(ns: &Namespace, server: SocketAddr, state: State, count: usize) -> Result<()> {
    let what = format!("{count} sockets to {server} in {}", state.ss_name());
    wait_until(STEP_DEADLINE, &what, || {
        ns.count(|s| s.peer == server && s.state == state).is_ok_and(|n| n == count)
    })
}
