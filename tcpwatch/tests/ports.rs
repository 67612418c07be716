//! Local ports in use and active closers, on real sockets: states, holders, rates.

mod support;

use std::{
    collections::HashSet,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use scenes::{Namespace, PortRange};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::{Agent, poll};

const KIND: &str = "ephemeral-port-exhaustion";

/// The sum of the ports in `state`.
fn ports_in(finding: &Value, state: &str) -> u64 {
    let states = finding["evidence"]["ports_by_state"].as_array();
    let of_state = states.into_iter().flatten().filter(|it| it["state"] == state);
    of_state.filter_map(|it| it["ports"].as_u64()).sum()
}

#[track_caller]
fn assert_held_here(finding: &Value) {
    let holders = &finding["evidence"]["holders"];
    assert_eq!(holders.as_array().map(Vec::len), Some(1), "{finding:#}");
    assert_eq!(holders[0]["pid"], process::id(), "{finding:#}");
    assert_eq!(holders[0]["sample_ratio"], 1.0, "{finding:#}");
}

#[test]
fn ports_are_reported_by_state_and_by_holder() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("port-states")?;
    let mut range = PortRange::new(&ns, 40_000..=40_059, 8_443)?;
    range.use_up(40, 15)?;
    let finding = poll("the finding", || {
        let finding = agent.findings(KIND, ns.name())?.pop();
        Ok(finding.filter(|it| it["evidence"]["used_ports"] == 55))
    })?;
    assert_eq!(ports_in(&finding, "established"), 40, "{finding:#}");
    assert_eq!(ports_in(&finding, "time_wait"), 15, "{finding:#}");
    assert_held_here(&finding);
    assert_eq!(finding["subject"]["pid"], process::id(), "{finding:#}");
    Ok(())
}

#[test]
fn ports_over_ipv6_loopback_are_reported_by_state_and_by_holder() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("port-states6")?;
    ns.sysctl_set("net.ipv4.ip_local_port_range", "40000 40059")?;
    let _held = ns.enter(|| -> io::Result<_> {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 6_086))?;
        let address = listener.local_addr()?;
        let clients: io::Result<Vec<_>> = (0..60).map(|_| TcpStream::connect(address)).collect();
        Ok((listener, clients?))
    })??;
    let finding = poll("the finding", || {
        let finding = agent.findings(KIND, ns.name())?.pop();
        Ok(finding.filter(|it| ports_in(it, "established") == 60))
    })?;
    assert_eq!(finding["subject"]["peer"], "[::1]:6086", "{finding:#}");
    assert_held_here(&finding);
    Ok(())
}

/// A connection to `peer` from 127.0.0.1, whose port bind() takes, or with `late` connect().
fn connect_from(peer: SocketAddr, late: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if late {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open, and the option an `int` that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.connect(&peer.into())?;
    Ok(socket)
}

#[test]
fn ports_bound_before_connect_are_a_finding_of_the_namespace_with_their_holder() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("pinned")?;
    ns.sysctl_set("net.ipv4.ip_local_port_range", "40000 40059")?;
    let listeners = ns.enter(|| -> io::Result<Vec<_>> {
        (8_000..8_003).map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).collect()
    })??;
    let peers: io::Result<Vec<_>> = listeners.iter().map(TcpListener::local_addr).collect();
    let peers = peers?;
    let connect_all = |count: usize, late: bool| -> Result<Vec<Socket>> {
        let connected: io::Result<Vec<_>> = ns.enter(|| {
            peers.iter().cycle().take(count).map(|peer| connect_from(*peer, late)).collect()
        })?;
        Ok(connected?)
    };
    // Without a port from bind() the destinations share the range: 120 connections on 60 ports.
    let late = connect_all(120, true)?;
    agent.wait_for_inventory()?;
    agent.wait_for_inventory()?;
    let findings = agent.findings(KIND, ns.name())?;
    let is_pinned = |it: &Value| it["id"].as_str().is_some_and(|id| id.ends_with("/pinned"));
    ensure!(!findings.iter().any(is_pinned), "{findings:#?}");
    let pinned = |it: &Value| it["evidence"]["pinned_ports"].as_u64();
    ensure!(findings.iter().all(|it| pinned(it) == Some(0)), "{findings:#?}");
    drop(late);
    // With one each takes its port for all of them.
    ns.sysctl_set("net.ipv4.ip_local_port_range", "41000 41059")?;
    let bound = connect_all(60, false)?;
    let ports: HashSet<_> =
        bound.iter().filter_map(|it| it.local_addr().ok()?.as_socket_ipv4()).collect();
    assert_eq!(ports.len(), 60, "each has a port of its own");
    let refused = ns.enter(|| TcpStream::connect(peers[0]))?;
    assert_eq!(
        refused.map_err(|error| error.raw_os_error()).err(),
        Some(Some(libc::EADDRNOTAVAIL)),
        "the range is used up"
    );
    let finding = poll("the finding", || {
        let pinned = agent.findings(KIND, ns.name())?.into_iter().find(is_pinned);
        Ok(pinned.filter(|it| it["evidence"]["failed_connects"] == 1))
    })?;
    assert_eq!(finding["severity"], "critical", "{finding:#}");
    assert_eq!(finding["evidence"]["bound_before_connect_ports"], 60, "{finding:#}");
    assert_eq!(finding["subject"]["pid"], process::id(), "{finding:#}");
    assert_held_here(&finding);
    let remedy = finding["remedies"][0].as_str().unwrap_or_default();
    assert!(remedy.starts_with("IP_BIND_ADDRESS_NO_PORT"), "{finding:#}");
    Ok(())
}

/// Closes of the steady load, per second.
const STEADY: f64 = 80.0;
const LASTS: Duration = Duration::from_secs(30);

/// Opens and closes connections at this rate, each to another of `hosts` loopback addresses, until
/// the time is over; returns how many.
fn close_at(
    rate: f64,
    hosts: u32,
    listener: &TcpListener,
    is_over: impl Fn() -> bool,
) -> io::Result<u32> {
    let port = listener.local_addr()?.port();
    let began = Instant::now();
    let mut count = 0;
    while !is_over() {
        let due = began + Duration::from_secs_f64(f64::from(count) / rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let [_, _, high, low] = (count % hosts).to_be_bytes();
        let host = IpAddr::from([127, 1, high, low]);
        let client = TcpStream::connect((host, port))?;
        let (mut server, _) = listener.accept()?;
        drop(client);
        let _ = server.read(&mut [0; 1])?;
        count += 1;
    }
    Ok(count)
}

#[test]
fn rate_of_a_steady_closer_is_right_to_a_tenth_beside_a_noisy_namespace() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    // Guests of `cargo xtask vm`: their inventories take as long as the whole load lasts.
    let second = Duration::from_secs(1);
    if support::within(second) != second {
        scenes::note_skip("an emulated machine keeps no steady rate");
        return Ok(());
    }
    let agent = Agent::start("[inventory]\ninterval = \"1s\"\n")?;
    let (noisy, steady) = (Namespace::new("noisy")?, Namespace::new("steady")?);
    // Both are at their limit soon, as a small virtual machine is all day.
    for ns in [&noisy, &steady] {
        ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", "200")?;
    }
    let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8_000));
    let is_over = AtomicBool::new(false);
    let (made, finding) = thread::scope(|scope| -> Result<(f64, Value)> {
        // More destinations than the kernel side's table has places.
        let noise = scope.spawn(|| {
            noisy.enter(|| close_at(400.0, 5_000, &listen()?, || is_over.load(Ordering::Relaxed)))
        });
        let work = || -> Result<(f64, Value)> {
            poll("the noisy namespace", || {
                Ok(agent.findings("time-wait-exhaustion", noisy.name())?.pop())
            })?;
            thread::sleep(Duration::from_secs(3));
            let began = Instant::now();
            let count =
                steady.enter(|| close_at(STEADY, 1, &listen()?, || began.elapsed() >= LASTS))??;
            let made = f64::from(count) / began.elapsed().as_secs_f64();
            let finding = agent.findings("time-wait-exhaustion", steady.name())?.pop();
            Ok((made, finding.context("no finding at the limit")?))
        };
        let outcome = work();
        is_over.store(true, Ordering::Relaxed);
        let noise = noise.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
        ensure!(noise > 2_000, "{noise} connections make no noise");
        outcome
    })?;
    let closers = &finding["evidence"]["closers"];
    let reported = closers[0]["closes_per_second"].as_f64().context("no rate")?;
    // A busy machine may not reach the rate; what was made is what is compared.
    println!("made {made:.1}/s, reported {reported:.1}/s");
    assert!(
        (reported - made).abs() <= made / 10.0,
        "made {made:.1}/s, reported {reported}: {finding:#}"
    );
    assert_eq!(closers[0]["pid"], process::id(), "{finding:#}");
    assert_eq!(closers.as_array().map(Vec::len), Some(1), "{finding:#}");
    assert_eq!(finding["severity"], "info", "nothing fails: {finding:#}");
    Ok(())
}
