//! Ports that are taken, in the ways that keep another from binding them.
//!
//! A port that is held by a connection to itself is
//! [`SelfConnection`](crate::SelfConnection).

use std::{
    io::{self, Read},
    net::{SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context, Result};

use crate::{
    Namespace, State,
    stream::{listen, loopback, pair, tcp_socket},
    wait::{STEP_DEADLINE, wait_until},
};

/// A port that is taken, until this value is dropped; TIME_WAIT stays for a
/// minute.
#[derive(Debug)]
pub struct TakenPort {
    address: SocketAddr,
    /// A listener, or the two ends of a connection.
    _held: (Option<TcpListener>, Vec<TcpStream>),
}

impl TakenPort {
    /// By a listener at `address`.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn by_listener(ns: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = listen(ns, address)?;
        let address = listener.local_addr().context("address of a listener")?;
        Ok(Self { address, _held: (Some(listener), Vec::new()) })
    }

    /// By a connection that a listener on `port` accepted, which is gone.
    /// `reuse` is whether it had set SO_REUSEADDR, so that its connections
    /// have it too.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn by_accepted(ns: &Namespace, port: u16, reuse: bool) -> Result<Self> {
        let (address, client, server) = accepted(ns, port, reuse)?;
        Ok(Self { address, _held: (None, vec![client, server]) })
    }

    /// By the TIME_WAIT of such a connection.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn by_time_wait(ns: &Namespace, port: u16, reuse: bool) -> Result<Self> {
        let (address, mut client, server) = accepted(ns, port, reuse)?;
        drop(server);
        client.read(&mut [0; 1]).context("reading to the end")?;
        drop(client);
        wait_for_time_wait(ns, address)?;
        Ok(Self { address, _held: (None, Vec::new()) })
    }

    /// By an outgoing connection, which the kernel gave the port.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn by_outgoing(ns: &Namespace, service: u16) -> Result<Self> {
        let (address, listener, client, server) = outgoing(ns, service)?;
        Ok(Self { address, _held: (Some(listener), vec![client, server]) })
    }

    /// By the TIME_WAIT of an outgoing connection.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn by_outgoing_time_wait(ns: &Namespace, service: u16) -> Result<Self> {
        let (address, listener, client, mut server) = outgoing(ns, service)?;
        drop(client);
        server.read(&mut [0; 1]).context("reading to the end")?;
        drop(server);
        wait_for_time_wait(ns, address)?;
        Ok(Self { address, _held: (Some(listener), Vec::new()) })
    }

    /// The address that cannot be bound.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One bind() and listen() inside `ns`, and what became of it.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn bind(ns: &Namespace, address: SocketAddr, reuse: bool) -> Result<io::Result<TcpListener>> {
    ns.enter(|| bind_here(address, reuse))
}

fn bind_here(address: SocketAddr, reuse: bool) -> io::Result<TcpListener> {
    let socket = tcp_socket(address)?;
    socket.set_reuse_address(reuse)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket.into())
}

fn accepted(ns: &Namespace, port: u16, reuse: bool) -> Result<(SocketAddr, TcpStream, TcpStream)> {
    let address = SocketAddr::new(loopback(false), port);
    ns.enter(|| -> io::Result<_> {
        let listener = bind_here(address, reuse)?;
        let address = listener.local_addr()?;
        let (client, server) = pair(&listener, address)?;
        Ok((address, client, server))
    })?
    .with_context(|| format!("a connection to {address}"))
}

fn outgoing(
    ns: &Namespace,
    service: u16,
) -> Result<(SocketAddr, TcpListener, TcpStream, TcpStream)> {
    let listener = listen(ns, SocketAddr::new(loopback(false), service))?;
    let (client, server) = ns
        .enter(|| pair(&listener, listener.local_addr()?))?
        .with_context(|| format!("connecting to port {service}"))?;
    let address = client.local_addr().context("address of a client")?;
    Ok((address, listener, client, server))
}

fn wait_for_time_wait(ns: &Namespace, address: SocketAddr) -> Result<()> {
    wait_until(STEP_DEADLINE, &format!("{address} in TIME_WAIT"), || {
        ns.count(|s| s.local == address && s.state == State::TimeWait).is_ok_and(|n| n == 1)
    })
}
