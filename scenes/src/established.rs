//! Idle connections: both ends open, nothing sent.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context, Result};

use crate::{
    Namespace,
    stream::{listen, loopback, pair},
};

/// Open connections, with their listener.
#[derive(Debug)]
pub struct Established {
    listener: TcpListener,
    pairs: Vec<(TcpStream, TcpStream)>,
}

impl Established {
    /// `count` connections over 127.0.0.1: twice as many sockets.
    ///
    /// # Errors
    /// When the kernel refuses a step; each connection takes two descriptors.
    pub fn make(ns: &Namespace, count: usize) -> Result<Self> {
        let listener = listen(ns, SocketAddr::new(loopback(false), 0))?;
        let server = listener.local_addr().context("address of a listener")?;
        let pairs = ns
            .enter(|| (0..count).map(|_| pair(&listener, server)).collect::<io::Result<Vec<_>>>())?
            .with_context(|| format!("opening {count} connections to {server}"))?;
        Ok(Self { listener, pairs })
    }

    /// The listening port.
    ///
    /// # Errors
    /// Never on a live listener.
    pub fn port(&self) -> Result<u16> {
        Ok(self.listener.local_addr().context("address of a listener")?.port())
    }

    /// The connections: client, then server.
    #[must_use]
    pub fn pairs(&self) -> &[(TcpStream, TcpStream)] {
        &self.pairs
    }
}
