//! Half-open requests: SYNs whose answers reach nobody.
//!
//! The SYNs are forged, from addresses behind a link that
//! leads nowhere, so the SYN-ACKs vanish and each request stays until its
//! retransmissions end (about a minute).

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Namespace,
    segment::{Flags, Forger},
};

/// Where the listener is reached: the near end of the dead link.
const HERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Sends SYNs to `port` in `ns` from `sources` addresses, `each` from every
/// one; a listener on that port, at any address, holds them half open.
/// At most 60,000 sources.
///
/// # Errors
/// When the kernel refuses a step.
pub fn half_open(ns: &Namespace, sources: u16, each: u16, port: u16) -> Result<()> {
    ensure!(sources <= 60_000, "{sources} sources do not fit into 198.18.0.0/16");
    ns.enter(|| -> Result<()> {
        make_dead_link()?;
        let forger = Forger::new().context("opening a raw socket")?;
        let target = SocketAddrV4::new(HERE, port);
        for source in 0..sources {
            let [high, low] = (source + 256).to_be_bytes();
            let from = Ipv4Addr::new(198, 18, high, low);
            for number in 0..each {
                let source = SocketAddrV4::new(from, 20_000 + number);
                forger
                    .send(Flags::Syn, source, target)
                    .with_context(|| format!("sending a SYN from {from}"))?;
            }
        }
        Ok(())
    })?
}

/// A veth pair of which nobody listens at the other end; without ARP, so that
/// every address behind it seems reachable.
fn make_dead_link() -> Result<()> {
    let exists = Command::new("ip").args(["link", "show", "dead"]).output()?.status.success();
    if exists {
        return Ok(());
    }
    for command in [
        "link add dead type veth peer name end",
        "link set dead arp off",
        "address add 198.18.0.1/16 dev dead",
        "link set dead up",
        "link set end up",
    ] {
        let output = Command::new("ip").args(command.split(' ')).output().context("running ip")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "ip {command}: {}", said.trim());
    }
    Ok(())
}
