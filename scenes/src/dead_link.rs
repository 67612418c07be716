//! A link that leads to no host: segments sent over it vanish.

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, ensure};

/// This end. All other addresses of 198.18.0.0/16 seem to be behind the link.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Makes it in the namespace of the thread, once: a veth pair without ARP, so that every address
/// behind it seems reachable.
pub(crate) fn make() -> Result<()> {
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
