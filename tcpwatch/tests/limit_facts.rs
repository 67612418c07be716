//! Facts of the kernel's limits, on real sockets: entries of connection tracking in a namespace of
//! its own, orphans, open files. The facts themselves, without an engine that judges them.

mod support;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use socket2::SockRef;
use tcpwatch::{
    facts::{Focus, Inventory},
    kernel::{LoadOptions, OwnerPolicy, Programs, Scope},
};

/// Connections over loopback; each has one entry, for both ends are in one namespace.
const CONNECTIONS: usize = 40;

/// A rule that looks at the state of connections switches their tracking on.
const RULES: &str = "table ip limits { chain input { type filter hook input priority 0; \
                     ct state invalid drop; }; }";

fn inventory() -> Result<Inventory> {
    let programs = Programs::load(&LoadOptions::default())?;
    programs.require_indispensable()?;
    let (_ring, _counters, mut walker, _links) = programs.split(Scope::All, 10_000)?;
    Ok(walker.inventory(OwnerPolicy::AtOnce, &Focus::default())?)
}

/// A number of /proc, by its place in the file.
fn number(path: &str, place: usize) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    Ok(text.split_whitespace().nth(place).context("too few numbers")?.parse()?)
}

#[test]
fn entries_of_connection_tracking_are_those_of_their_namespace() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let (tracked, plain) = (Namespace::new("tracked")?, Namespace::new("untracked")?);
    let mut nft = Command::new("nft");
    let rules = tracked.spawn_in(nft.arg(RULES)).and_then(|mut child| Ok(child.wait()?));
    if !rules.as_ref().is_ok_and(|status| status.success()) {
        scenes::note_skip(&format!("connection tracking is not available: {rules:?}"));
        return Ok(());
    }
    let connections = tracked.enter(|| -> Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let connect = |_| Ok((TcpStream::connect(address)?, listener.accept()?.0));
        (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>>>()
    })??;
    let seen = inventory()?;
    let of = |ns: &Namespace| {
        let mut namespaces = seen.namespaces.iter();
        let found = namespaces.find(|it| *it.name == *ns.name());
        found.with_context(|| format!("{} was not walked", ns.name()))
    };
    let conntrack = of(&tracked)?.conntrack.context("no connection tracking was read")?;
    assert_eq!(conntrack.entries, CONNECTIONS as u64, "{conntrack:?}");
    let limit: u64 = tracked.sysctl("net.netfilter.nf_conntrack_max")?.trim().parse()?;
    assert_eq!(conntrack.limit, Some(limit));
    assert_eq!((conntrack.dropped, conntrack.early_dropped), (Some(0), Some(0)));
    // The module is loaded, so its file is there, without entries.
    assert_eq!(of(&plain)?.conntrack.map(|it| it.entries), Some(0));
    let netstat = of(&tracked)?.netstat.context("no netstat")?;
    assert_eq!((netstat.memory_aborts, netstat.memory_pressures), (Some(0), Some(0)));
    drop(connections);
    Ok(())
}

#[test]
fn limits_that_all_namespaces_share_are_those_of_proc() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    const ORPHANS: usize = 30;
    /// Of each queue. With the default a machine of 1 GiB runs out of TCP memory, and its kernel ends
    /// orphans; below a MiB in all nothing is counted, because each CPU keeps as much (6.0).
    const BUFFER: usize = 65_536;
    let ns = Namespace::new("orphans")?;
    // Closed while their peer reads nothing: FIN_WAIT1 behind a full window, held by no process.
    let peers = ns.enter(|| -> Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // Accepted sockets have it too.
        SockRef::from(&listener).set_recv_buffer_size(BUFFER)?;
        let mut peers = Vec::new();
        for _ in 0..ORPHANS {
            let client = TcpStream::connect(listener.local_addr()?)?;
            SockRef::from(&client).set_send_buffer_size(BUFFER)?;
            peers.push(listener.accept()?.0);
            client.set_nonblocking(true)?;
            while std::io::Write::write(&mut &client, &[0; 65_536]).is_ok() {}
        }
        Ok(peers)
    })??;
    let limits = inventory()?.shared_limits.context("no limits were read")?;
    let orphans = limits.orphans.context("orphans were not read")?;
    ensure!(orphans >= ORPHANS as u64, "{limits:?}");
    ensure!(limits.tcp_memory_pages > Some(0), "the queues are full: {limits:?}");
    // Only the first network namespace has these files.
    let in_first = fs::exists("/proc/sys/net/ipv4/tcp_max_orphans")?;
    assert_eq!(limits.orphans_limit.is_some(), in_first);
    if in_first {
        let limit = number("/proc/sys/net/ipv4/tcp_max_orphans", 0)?;
        assert_eq!(limits.orphans_limit, Some(limit));
        let memory = |place| number("/proc/sys/net/ipv4/tcp_mem", place).ok();
        assert_eq!(limits.tcp_memory_pressure_pages, memory(1));
        assert_eq!(limits.tcp_memory_limit_pages, memory(2));
    }
    assert_eq!(limits.files_limit, number("/proc/sys/fs/file-nr", 2).ok());
    drop(peers);
    Ok(())
}
