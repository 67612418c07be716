//! TIME_WAIT on the client's side: short connections, each closed by the one
//! that opened it.
//!
//! The server reads to the end before it closes, so that the client is the
//! active closer in every run. A TIME_WAIT has no owner and lasts 60 s
//! whatever becomes of this value.

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Namespace, State,
    stream::{listen, pair},
    wait::wait_until,
};

/// Addresses over which [`TimeWaits::make_many`] spreads, 127.0.1.1 and on.
const SPREAD_ADDRESSES: usize = 250;

/// Ports over which it spreads, so that each (address, port) has few.
const SPREAD_PORTS: u16 = 4;

/// 100,000 take about 6 s on two cores; they must all be there before the
/// first goes after its 60 s.
const MANY_DEADLINE: Duration = Duration::from_secs(45);

/// The sockets that were made; holds none of them.
#[derive(Clone, Debug)]
pub struct TimeWaits {
    ns: Namespace,
    count: usize,
    ports: Vec<u16>,
}

impl TimeWaits {
    /// `count` sockets in TIME_WAIT to 127.0.0.1:`port`, on distinct source
    /// ports (`tcp_tw_reuse` is 0 meanwhile); `port` 0 takes a free one. The
    /// listener is gone afterwards; `tcp_rfc1337` stays 1.
    ///
    /// # Errors
    /// When ports run out or the kernel refuses a step.
    pub fn make(ns: &Namespace, count: usize, port: u16) -> Result<Self> {
        let listener = listen(ns, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
        let server = listener.local_addr().context("address of a listener")?;
        protect_time_wait(ns)?;
        let ports = vec![server.port()];
        let before = standing(ns, &ports)?;
        without_reuse(ns, || {
            ns.enter(|| (0..count).try_for_each(|_| time_wait_one(&listener, server)))?
                .with_context(|| format!("making {count} TIME_WAIT to {server}"))
        })?;
        let made = Self { ns: ns.clone(), count, ports };
        made.wait_until_shown(before)?;
        Ok(made)
    }

    /// `count` sockets in TIME_WAIT (100,000 and more), fast: spread over
    /// destinations 127.0.1.x and ports `first_port` and the three after it,
    /// by two threads. Raises `tcp_max_tw_buckets` where it is too low;
    /// `tcp_rfc1337` stays 1.
    ///
    /// # Errors
    /// When the kernel refuses a step or the machine is too slow.
    pub fn make_many(ns: &Namespace, count: usize, first_port: u16) -> Result<Self> {
        // Twice as many: near its limit it would be another situation.
        let least = count * 2;
        let limit: usize = ns.sysctl("net.ipv4.tcp_max_tw_buckets")?.parse()?;
        if limit < least {
            ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", &least.to_string())?;
        }
        let ports: Vec<u16> = (first_port..).take(SPREAD_PORTS.into()).collect();
        ensure!(ports.len() == usize::from(SPREAD_PORTS), "port {first_port} is too high");
        let listeners = ports
            .iter()
            .map(|port| listen(ns, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), *port)))
            .collect::<Result<Vec<_>>>()?;
        protect_time_wait(ns)?;
        let before = standing(ns, &ports)?;
        // Each thread has listeners of its own: none accepts another's connections.
        let (left, right) = listeners.split_at(listeners.len() / 2);
        let half = count / 2;
        without_reuse(ns, || {
            thread::scope(|scope| {
                let other = scope.spawn(|| ns.enter(|| make_spread(left, half)));
                let own = ns.enter(|| make_spread(right, count - half));
                let other = other.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
                own??;
                other??;
                Ok(())
            })
        })?;
        let made = Self { ns: ns.clone(), count, ports };
        made.wait_until_shown(before)?;
        Ok(made)
    }

    /// How many were made.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The destination ports.
    #[must_use]
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// How many sockets are in TIME_WAIT towards these ports at this moment.
    ///
    /// # Errors
    /// When the socket table cannot be read.
    pub fn standing(&self) -> Result<usize> {
        standing(&self.ns, &self.ports)
    }

    fn wait_until_shown(&self, before: usize) -> Result<()> {
        let expected = before + self.count;
        wait_until(MANY_DEADLINE, &format!("{expected} sockets in TIME_WAIT"), || {
            // The cheap look first; but it counts orphans in FIN_WAIT2, whose
            // FIN is still on its way, as well.
            self.ns.sockstat("tw").is_ok_and(|n| n >= self.count as u64)
                && self.standing().is_ok_and(|n| n >= expected)
        })
    }
}

fn standing(ns: &Namespace, ports: &[u16]) -> Result<usize> {
    ns.count(|s| s.state == State::TimeWait && ports.contains(&s.peer.port()))
}

fn make_spread(listeners: &[TcpListener], count: usize) -> io::Result<()> {
    for index in 0..count {
        let listener = &listeners[index % listeners.len()];
        let host = (index / listeners.len()) % SPREAD_ADDRESSES + 1;
        let address = Ipv4Addr::new(127, 0, 1, u8::try_from(host).unwrap_or(u8::MAX));
        let to = SocketAddr::new(IpAddr::V4(address), listener.local_addr()?.port());
        time_wait_one(listener, to)?;
    }
    Ok(())
}

/// One short connection, closed by the client first.
pub(crate) fn time_wait_one(listener: &TcpListener, to: SocketAddr) -> io::Result<()> {
    let (client, mut server) = pair(listener, to)?;
    drop(client);
    let end = server.read(&mut [0; 1])?;
    debug_assert_eq!(end, 0, "the client sends nothing");
    Ok(())
}

/// Lets no reset end a TIME_WAIT early, from here on. On a busy machine a late
/// FIN is sent again by a loss probe, its second ACK meets a socket that is
/// gone, and the reset that answers it ends the TIME_WAIT: the "assassination"
/// of RFC 1337, seen about once in a million connections.
pub(crate) fn protect_time_wait(ns: &Namespace) -> Result<()> {
    ns.sysctl_set("net.ipv4.tcp_rfc1337", "1")
}

/// Runs `work` with `tcp_tw_reuse` 0 and sets it back: else connect() may
/// take a port whose TIME_WAIT is older than a second, and the count stays.
fn without_reuse(ns: &Namespace, work: impl FnOnce() -> Result<()>) -> Result<()> {
    const KEY: &str = "net.ipv4.tcp_tw_reuse";
    let before = ns.sysctl(KEY)?;
    ns.sysctl_set(KEY, "0")?;
    let outcome = work();
    ns.sysctl_set(KEY, &before)?;
    outcome
}
