//! Limits of the kernel that are reached.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use super::{LOCALHOST, Stage};

/// One value for all namespaces, and a file of the first.
const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// A rule that looks at the state of connections switches their tracking on.
const RULES: &str = "table ip limits { chain input { type filter hook input priority 0; \
                     ct state invalid drop; }; }";

/// Sets the limit of the host, and sets it back.
struct Limit(String);

impl Limit {
    fn set(limit: u32) -> Result<Self> {
        let before = fs::read_to_string(LIMIT).context(LIMIT)?;
        fs::write(LIMIT, limit.to_string()).context(LIMIT)?;
        Ok(Self(before))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(LIMIT, &self.0) {
            eprintln!("{LIMIT} stays low, it was {}: {error}", self.0);
        }
    }
}

/// Connection tracking has 40 entries for all, and a client opens 60 connections.
pub(crate) fn conntrack(stage: &mut Stage<'_>) -> Result<()> {
    let ns = stage.namespace().clone();
    let rules = ns.spawn_in(Command::new("nft").arg(RULES))?.wait()?;
    ensure!(rules.success(), "nft: {rules}");
    let limit = Limit::set(40)?;
    let connections = ns.enter(|| -> Result<_> {
        let listener = TcpListener::bind((LOCALHOST, 8_080))?;
        let address = listener.local_addr()?;
        let connect = |_| connect(address);
        let clients = (0..60).map(connect).collect::<Result<Vec<_>>>()?;
        Ok((listener, clients))
    })??;
    stage.watch_until_raised()?;
    // SYNs are sent again after 1 and 3 s, and dropped again.
    stage.watch(3)?;
    drop(limit);
    stage.watch_until_cleared()?;
    drop(connections);
    Ok(())
}

/// A connect() that is under way, whose SYN may be dropped.
fn connect(address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_nonblocking(true)?;
    let _under_way = socket.connect(&address.into());
    Ok(socket)
}
