//! Segments for connections that this host does not know, as sent by a peer
//! that has missed a restart of this side.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};

use crate::{
    Namespace,
    segment::{Flags, Forger},
};

/// The first of the ports that they seem to come from. The resets that answer
/// them meet no socket there.
const FROM: u16 = 20_000;

/// Sends `count` ACKs to `port` of 127.0.0.1 in `ns`, each from another port.
///
/// # Errors
/// When the kernel refuses a step.
pub fn stray_acks(ns: &Namespace, count: u16, port: u16) -> Result<()> {
    ns.enter(|| -> Result<()> {
        let forger = Forger::new().context("opening a raw socket")?;
        for number in 0..count {
            let from = SocketAddrV4::new(Ipv4Addr::LOCALHOST, FROM + number);
            let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
            forger.send(Flags::Ack, from, to).with_context(|| format!("an ACK to port {port}"))?;
        }
        Ok(())
    })?
}
