//! Two *different* sockets that connect to each other: a plain simultaneous
//! open, which must not be taken for a self-connection.
//!
//! Loopback has no delay in which two SYNs could cross: the first would be
//! answered by a reset before the second is sent. So socket filters lose
//! segments on purpose. The first socket (A) drops the reset that answers
//! its SYN and stays in SYN_SENT; then B connects, A meets B's SYN and goes
//! SYN_SENT -> SYN_RECV. B loses A's SYN-ACK until [`SimultaneousOpen::finish`]
//! lets it through; A sends it again after a second. The reset is sent in
//! earnest and counted by the kernel: `OutRsts` moves by one.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use socket2::Socket;

use crate::{
    Namespace, State,
    stream::{DROP_ALL, tcp_socket},
    wait::{STEP_DEADLINE, wait_until},
};

/// The two ends.
#[derive(Debug)]
pub struct SimultaneousOpen {
    ns: Namespace,
    a: (Socket, SocketAddr),
    b: (Socket, SocketAddr),
}

/// Both halves in one: two sockets ESTABLISHED by a simultaneous open; takes
/// a second.
///
/// # Errors
/// When the kernel refuses a step.
pub fn simultaneous_open(ns: &Namespace) -> Result<SimultaneousOpen> {
    let open = SimultaneousOpen::begin(ns)?;
    open.finish()?;
    Ok(open)
}

impl SimultaneousOpen {
    /// Up to A in SYN_RECV (a full socket, unlike a half-open request) and B
    /// in SYN_SENT.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn begin(ns: &Namespace) -> Result<Self> {
        let (a, b) = ns.enter(|| -> io::Result<_> { Ok((bound()?, bound()?)) })?.context("bind")?;
        let open = Self { ns: ns.clone(), a, b };

        open.a.0.attach_filter(&[DROP_ALL]).context("filter on the first socket")?;
        connect_nonblocking(&open.a.0, open.b.1)?;
        open.wait_for(open.a.1, State::SynSent)?;
        open.a.0.detach_filter().context("no filter on the first socket")?;

        open.b.0.attach_filter(&[DROP_ALL]).context("filter on the second socket")?;
        connect_nonblocking(&open.b.0, open.a.1)?;
        open.wait_for(open.b.1, State::SynSent)?;
        open.wait_for(open.a.1, State::SynRecv)?;
        Ok(open)
    }

    /// Lets segments through to the second socket: both become ESTABLISHED.
    ///
    /// # Errors
    /// When they do not.
    pub fn finish(&self) -> Result<()> {
        self.b.0.detach_filter().context("no filter on the second socket")?;
        self.wait_for(self.a.1, State::Established)?;
        self.wait_for(self.b.1, State::Established)
    }

    /// Their addresses; the first is the one that was in SYN_RECV.
    #[must_use]
    pub const fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.a.1, self.b.1)
    }

    fn wait_for(&self, local: SocketAddr, state: State) -> Result<()> {
        wait_until(STEP_DEADLINE, &format!("{local} in {}", state.ss_name()), || {
            self.ns.count(|s| s.local == local && s.state == state).is_ok_and(|n| n == 1)
        })
    }
}

fn bound() -> io::Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let socket = tcp_socket(any_port)?;
    socket.set_nonblocking(true)?;
    // Long enough for a slow machine, short against a test's patience.
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    socket.bind(&any_port.into())?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((socket, address))
}

fn connect_nonblocking(socket: &Socket, to: SocketAddr) -> Result<()> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("connecting to {to}")),
        Ok(()) => bail!("connected to {to}, which has a listener"),
    }
}
