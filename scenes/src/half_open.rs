//! Half-open requests: SYNs whose answers reach no host.
//!
//! The SYNs are forged, from addresses behind a link that
//! leads nowhere, so the SYN-ACKs vanish and each request stays until its
//! retransmissions end (about a minute).

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};

use crate::{
    Namespace, dead_link,
    segment::{Flags, Forger},
};

/// Sends SYNs to `port` in `ns` from `sources` addresses, `each` from every
/// one; a listener on that port, at any address, holds them half open.
/// At most 60,000 sources.
///
/// # Errors
/// When the kernel refuses a step.
pub fn half_open(ns: &Namespace, sources: u16, each: u16, port: u16) -> Result<()> {
    ensure!(sources <= 60_000, "{sources} sources do not fit into 198.18.0.0/16");
    ns.enter(|| -> Result<()> {
        dead_link::make()?;
        let forger = Forger::new().context("opening a raw socket")?;
        let target = SocketAddrV4::new(dead_link::HERE, port);
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
