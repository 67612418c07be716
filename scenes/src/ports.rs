//! A small `ip_local_port_range` used up towards one destination.
//!
//! connect() is limited per (source, destination, destination port); with
//! `tcp_tw_reuse` 0 a TIME_WAIT uses its port as an open connection does.
//! The listener's own port lies outside the range, because connect() skips a
//! port that is bound.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    ops::RangeInclusive,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Namespace, State,
    stream::{connect, listen, pair},
    time_wait::{protect_time_wait, time_wait_one},
    wait::{STEP_DEADLINE, wait_until},
};

/// A port range and what uses it towards one destination.
#[derive(Debug)]
pub struct PortRange {
    ns: Namespace,
    range: RangeInclusive<u16>,
    listener: TcpListener,
    destination: SocketAddr,
    pairs: Vec<(TcpStream, TcpStream)>,
}

impl PortRange {
    /// Makes `range` the ephemeral ports of `ns`, with `tcp_tw_reuse` 0, and
    /// listens on 127.0.0.1:`port`.
    ///
    /// # Errors
    /// When `port` lies inside the range or the kernel refuses a step.
    pub fn new(ns: &Namespace, range: RangeInclusive<u16>, port: u16) -> Result<Self> {
        ensure!(!range.contains(&port), "the listener's port {port} lies inside {range:?}");
        ns.sysctl_set("net.ipv4.tcp_tw_reuse", "0")?;
        protect_time_wait(ns)?;
        ns.sysctl_set(
            "net.ipv4.ip_local_port_range",
            &format!("{} {}", range.start(), range.end()),
        )?;
        let listener = listen(ns, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
        let destination = listener.local_addr().context("address of a listener")?;
        Ok(Self { ns: ns.clone(), range, listener, destination, pairs: Vec::new() })
    }

    /// Uses `established` ports by open connections and `time_wait` more by
    /// TIME_WAIT, which lasts 60 s.
    ///
    /// # Errors
    /// When the range has fewer free.
    pub fn use_up(&mut self, established: usize, time_wait: usize) -> Result<()> {
        let before = self.used()?;
        let opened = self
            .ns
            .enter(|| -> io::Result<Vec<_>> {
                for _ in 0..time_wait {
                    time_wait_one(&self.listener, self.destination)?;
                }
                (0..established).map(|_| pair(&self.listener, self.destination)).collect()
            })?
            .with_context(|| format!("using up ports {:?} to {}", self.range, self.destination))?;
        self.pairs.extend(opened);
        let expected = before + established + time_wait;
        wait_until(STEP_DEADLINE, &format!("{expected} ports in use"), || {
            self.used().is_ok_and(|n| n == expected)
        })
    }

    /// One more connect(); with no port left, it fails with EADDRNOTAVAIL
    /// and leaves nothing behind.
    ///
    /// # Errors
    /// Those of connect().
    pub fn connect_once(&self) -> io::Result<TcpStream> {
        self.ns.enter(|| connect(self.destination)).map_err(io::Error::other)?
    }

    /// Closes every open connection; the client's side goes to TIME_WAIT.
    pub fn close(&mut self) {
        self.pairs.clear();
    }

    /// How many ports the range has.
    #[must_use]
    pub fn available(&self) -> usize {
        self.range.len()
    }

    /// How many of them are in use towards the destination.
    ///
    /// # Errors
    /// When the socket table cannot be read.
    pub fn used(&self) -> Result<usize> {
        self.ns.count(|s| {
            s.peer == self.destination
                && matches!(s.state, State::Established | State::TimeWait)
                && self.range.contains(&s.local.port())
        })
    }

    /// Where the connections go.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        self.destination
    }
}
