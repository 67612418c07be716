//! A client that closed and went away while its peer keeps its own end open:
//! FIN_WAIT2 without an owner.
//!
//! The kernel replaces such a socket by a minisocket at once, because
//! tcp_fin_timeout is no longer than TCP_TIMEWAIT_LEN (tcp_fin() and
//! __tcp_close() in net/ipv4/tcp.c): `ss` shows FIN-WAIT-2, sockstat counts
//! it under `tw`.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};

use crate::{
    Namespace, State,
    stream::{listen, loopback, pair},
    wait::{STEP_DEADLINE, wait_until},
};

/// The peer's end, which keeps the orphan waiting (and is in CLOSE_WAIT).
#[derive(Debug)]
pub struct OrphanedFinWait2 {
    peer: TcpStream,
    client: SocketAddr,
}

/// Makes one orphaned FIN_WAIT2 and, inevitably, one CLOSE_WAIT.
///
/// # Errors
/// When the kernel refuses a step.
pub fn orphaned_fin_wait2(ns: &Namespace) -> Result<OrphanedFinWait2> {
    let listener = listen(ns, SocketAddr::new(loopback(false), 0))?;
    let server = listener.local_addr().context("address of a listener")?;
    let (client, peer) =
        ns.enter(|| pair(&listener, server))?.with_context(|| format!("connecting to {server}"))?;
    let client_address = client.local_addr().context("address of a client")?;
    drop(client);
    wait_until(STEP_DEADLINE, "the client's orphan in FIN_WAIT2", || {
        ns.count(|s| s.state == State::FinWait2 && s.local == client_address).is_ok_and(|n| n == 1)
    })?;
    Ok(OrphanedFinWait2 { peer, client: client_address })
}

impl OrphanedFinWait2 {
    /// The orphan's address.
    #[must_use]
    pub const fn client_address(&self) -> SocketAddr {
        self.client
    }

    /// The end that is still open.
    #[must_use]
    pub const fn peer(&self) -> &TcpStream {
        &self.peer
    }
}
