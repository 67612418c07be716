//! Sockets that the peer has closed and their owner keeps: CLOSE_WAIT.
//!
//! The keeper is the client (the story of a pool that keeps what its MySQL
//! server closed) or the server (a handler that never returns). This process
//! holds both ends until the closing one is closed, so it is the owner.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context, Result};

use crate::{
    Namespace, State,
    stream::{listen, loopback, pair},
    wait::{STEP_DEADLINE, wait_until},
};

/// Which side keeps its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The one that connected.
    Client,
    /// The one that accepted.
    Server,
}

/// A leak of sockets in CLOSE_WAIT.
#[derive(Debug)]
pub struct CloseWaitLeak {
    ns: Namespace,
    keeper: Keeper,
    unread: usize,
    listener: TcpListener,
    server: SocketAddr,
    kept: Vec<TcpStream>,
}

impl CloseWaitLeak {
    /// `count` connections whose server closed them and whose client did not.
    /// `server_port` 0 takes a free one.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn client(ns: &Namespace, count: usize, server_port: u16, ipv6: bool) -> Result<Self> {
        Self::make(ns, Keeper::Client, count, server_port, ipv6, 0)
    }

    /// `count` connections whose client closed them and whose server did not.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn server(ns: &Namespace, count: usize, server_port: u16, ipv6: bool) -> Result<Self> {
        Self::make(ns, Keeper::Server, count, server_port, ipv6, 0)
    }

    /// The general case: the peer sends `unread` bytes before it closes, and
    /// no process reads them, so that closing later sends a reset.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn make(
        ns: &Namespace,
        keeper: Keeper,
        count: usize,
        server_port: u16,
        ipv6: bool,
        unread: usize,
    ) -> Result<Self> {
        let listener = listen(ns, SocketAddr::new(loopback(ipv6), server_port))?;
        let server = listener.local_addr().context("address of a listener")?;
        let mut leak = Self { ns: ns.clone(), keeper, unread, listener, server, kept: Vec::new() };
        leak.add(count)?;
        Ok(leak)
    }

    /// Leaks `count` more and waits until they show.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn add(&mut self, count: usize) -> Result<()> {
        let leaked = self
            .ns
            .enter(|| (0..count).map(|_| self.leak_one()).collect::<io::Result<Vec<_>>>())?
            .with_context(|| format!("leaking {count} connections to {}", self.server))?;
        self.kept.extend(leaked);
        self.wait_for_count()
    }

    /// Reads all there is, the end included, without closing: the receive
    /// queue falls to 0.
    ///
    /// # Errors
    /// When a read fails.
    pub fn read_to_end(&mut self) -> Result<()> {
        for stream in &mut self.kept {
            stream.read_to_end(&mut Vec::new()).context("reading to the end")?;
        }
        Ok(())
    }

    /// Cures `count` of them, oldest first, and waits until that shows.
    ///
    /// # Errors
    /// When the sockets do not go.
    pub fn close(&mut self, count: usize) -> Result<()> {
        self.kept.drain(..count.min(self.kept.len()));
        self.wait_for_count()
    }

    /// How many are kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// The server's address: the port in it is the one that people know.
    #[must_use]
    pub const fn server_address(&self) -> SocketAddr {
        self.server
    }

    /// The kept sockets, oldest first.
    #[must_use]
    pub fn streams(&self) -> &[TcpStream] {
        &self.kept
    }

    fn leak_one(&self) -> io::Result<TcpStream> {
        let (client, server) = pair(&self.listener, self.server)?;
        let (kept, mut closing) = match self.keeper {
            Keeper::Client => (client, server),
            Keeper::Server => (server, client),
        };
        closing.write_all(&vec![b'.'; self.unread])?;
        Ok(kept)
    }

    fn wait_for_count(&self) -> Result<()> {
        let what = format!("{} sockets in CLOSE_WAIT with {}", self.kept.len(), self.server);
        wait_until(STEP_DEADLINE, &what, || {
            self.ns
                .count(|s| {
                    let service = match self.keeper {
                        Keeper::Client => s.peer,
                        Keeper::Server => s.local,
                    };
                    s.state == State::CloseWait && service == self.server
                }) // A table that cannot be read counts as not yet.
                .is_ok_and(|n| n == self.kept.len())
        })
    }
}
