//! Resets sent, by cause, against real sockets: each way to provoke one, counted exactly, and what
//! could be taken for one.
//!
//! The hooks see the whole host, so this file has one test, its situations follow one another, and
//! nothing else of this process runs beside them. `OutRsts` of the namespace is the witness.

mod support;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use socket2::{Domain, SockRef, Socket, Type};
use support::Agent;

const CAUSES: [&str; 10] = [
    "no_listener",
    "half_open",
    "linger_zero",
    "unread_data",
    "late_data",
    "accept_queue_discarded",
    "timeout",
    "protocol_error",
    "aborted",
    "other",
];

/// States in which a full socket without an owner is ended by data, and in which none of these
/// situations ends one by a reset.
const ORPHANS: [&str; 2] = ["fin_wait1", "fin_wait2"];

fn listen(port: u16) -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?)
}

/// A connection with both its ends; the client's side first.
fn pair(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

/// SYNs to a port without a listener.
fn no_listener(count: usize) -> Result<()> {
    for _ in 0..count {
        ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, 9)).is_err(), "a process listens on 9");
    }
    Ok(())
}

/// close() with SO_LINGER 0.
fn linger_zero(count: usize) -> Result<()> {
    let listener = listen(0)?;
    for _ in 0..count {
        let (client, server) = pair(&listener)?;
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        drop(client);
        drop(server);
    }
    Ok(())
}

/// close() with data in the receive queue.
fn unread_data(count: usize) -> Result<()> {
    let listener = listen(0)?;
    for _ in 0..count {
        let (client, mut server) = pair(&listener)?;
        server.write_all(b"this stays unread")?;
        let mut byte = [0];
        client.peek(&mut byte)?;
        drop(client);
        drop(server);
    }
    Ok(())
}

/// Data for a socket that its application has closed.
fn late_data(count: usize) -> Result<()> {
    let listener = listen(0)?;
    for _ in 0..count {
        let (client, mut server) = pair(&listener)?;
        drop(client);
        // The FIN has arrived when read() returns 0.
        ensure!(server.read(&mut [0])? == 0, "data from a client that sent none");
        server.write_all(b"too late")?;
    }
    Ok(())
}

/// Connections that are not accepted before the listener closes; with and without SO_LINGER 0, which
/// they inherit.
fn accept_queue_discarded(count: usize, linger: bool) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if linger {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(16)?;
    let listener = TcpListener::from(socket);
    let clients = (0..count)
        .map(|_| TcpStream::connect(listener.local_addr()?))
        .collect::<std::io::Result<Vec<_>>>()?;
    drop(listener);
    drop(clients);
    Ok(())
}

/// ACKs of connections that this host does not know, half of them to a port that has a listener.
fn half_open(ns: &Namespace, count: u16) -> Result<()> {
    let listener = listen(0)?;
    scenes::stray_acks(ns, count / 2, listener.local_addr()?.port())?;
    scenes::stray_acks(ns, count / 2, 9)
}

/// Data for an orphan that is a full socket in FIN_WAIT2 still, not a minisocket: it stays one for
/// what tcp_fin_timeout is longer than 60 s.
fn late_data_for_a_full_socket(ns: &Namespace, count: usize) -> Result<()> {
    let before = ns.netstat_counter("TCPAbortOnData")?;
    ns.sysctl_set("net.ipv4.tcp_fin_timeout", "120")?;
    late_data(count)?;
    ns.sysctl_set("net.ipv4.tcp_fin_timeout", "60")?;
    // A minisocket would not have counted there.
    let full = ns.netstat_counter("TCPAbortOnData")? - before;
    ensure!(full == count as u64, "only {full} of {count} orphans were full sockets");
    Ok(())
}

/// `ss -K` for the clients of a port.
fn kill_clients(ns: &Namespace, count: usize, linger: bool) -> Result<()> {
    let listener = listen(0)?;
    let pairs = (0..count).map(|_| pair(&listener)).collect::<Result<Vec<_>>>()?;
    for (client, _) in pairs.iter().filter(|_| linger) {
        SockRef::from(client).set_linger(Some(Duration::ZERO))?;
    }
    kill(ns, "dport", listener.local_addr()?.port())
}

/// `ss -K` for connections that wait in an accept queue.
fn kill_unaccepted(ns: &Namespace, count: usize) -> Result<()> {
    let listener = listen(0)?;
    let server = listener.local_addr()?;
    let clients =
        (0..count).map(|_| TcpStream::connect(server)).collect::<std::io::Result<Vec<_>>>()?;
    kill(ns, "sport", server.port())?;
    drop((listener, clients));
    Ok(())
}

fn kill(ns: &Namespace, end: &str, port: u16) -> Result<()> {
    ns.ss(&["-K", "state", "established", end, "=", &format!(":{port}")]).map(drop)
}

/// shutdown() of both directions on both sides, and then close(): nothing is left to be reset, not
/// even with SO_LINGER 0.
fn shut_down(count: usize, linger: bool) -> Result<()> {
    let listener = listen(0)?;
    for _ in 0..count {
        let (mut client, server) = pair(&listener)?;
        if linger {
            SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        }
        client.shutdown(Shutdown::Both)?;
        server.shutdown(Shutdown::Both)?;
        // The server's FIN has arrived when read() returns 0.
        ensure!(client.read(&mut [0])? == 0, "data from a server that sent none");
        drop((client, server));
    }
    Ok(())
}

/// connect(AF_UNSPEC) on an established connection.
fn disconnect(count: usize, linger: bool) -> Result<()> {
    let listener = listen(0)?;
    for _ in 0..count {
        let (client, _server) = pair(&listener)?;
        if linger {
            SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        }
        let unspecified =
            libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
        // SAFETY: the address is a live value of the length that is given.
        let result = unsafe {
            libc::connect(
                std::os::fd::AsRawFd::as_raw_fd(&client),
                &raw const unspecified,
                size_of::<libc::sockaddr>() as libc::socklen_t,
            )
        };
        ensure!(result == 0, "{}", std::io::Error::last_os_error());
    }
    Ok(())
}

#[test]
fn each_cause_is_counted_exactly_and_all_of_them_are_out_rsts() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("resets")?;
    let counts = || -> Result<BTreeMap<String, f64>> {
        let metrics = agent.metrics_of_now()?;
        let value = |series: String| {
            let value = support::value_in(&metrics, &series).with_context(|| series.clone())?;
            Ok((series, value))
        };
        CAUSES.iter().map(|cause| sent(cause)).chain(ORPHANS.map(received)).map(value).collect()
    };
    type Situation = fn(&Namespace) -> Result<()>;
    let situations: [(&str, f64, Situation); 15] = [
        ("no_listener", 11.0, |_| no_listener(11)),
        ("half_open", 4.0, |ns| half_open(ns, 4)),
        ("linger_zero", 7.0, |_| linger_zero(7)),
        ("unread_data", 5.0, |_| unread_data(5)),
        ("late_data", 6.0, |_| late_data(6)),
        ("late_data", 2.0, |ns| late_data_for_a_full_socket(ns, 2)),
        ("accept_queue_discarded", 3.0, |_| accept_queue_discarded(3, false)),
        ("accept_queue_discarded", 3.0, |_| accept_queue_discarded(3, true)),
        ("aborted", 2.0, |_| disconnect(2, false)),
        ("aborted", 2.0, |_| disconnect(2, true)),
        ("aborted", 3.0, |ns| kill_clients(ns, 3, false)),
        ("aborted", 3.0, |ns| kill_clients(ns, 3, true)),
        ("aborted", 2.0, |ns| kill_unaccepted(ns, 2)),
        ("linger_zero", 0.0, |_| shut_down(3, false)),
        ("linger_zero", 0.0, |_| shut_down(3, true)),
    ];
    for (number, (cause, expected, provoke)) in situations.into_iter().enumerate() {
        // Another program's reset on this host may fall into a try, not into each of them.
        let mut outcome = Ok(());
        for _ in 0..5 {
            let before = counts()?;
            let resets = ns.snmp_counter("OutRsts")?;
            ns.enter(|| provoke(&ns))??;
            let resets = ns.snmp_counter("OutRsts")? - resets;
            ensure!(resets as f64 == expected, "{number}: {cause}: OutRsts grew by {resets}");
            outcome = compare(cause, expected, &before, &counts()?);
            if outcome.is_ok() {
                break;
            }
        }
        outcome.with_context(|| format!("situation {number}"))?;
    }
    Ok(())
}

fn sent(cause: &str) -> String {
    format!("tcpwatch_resets_sent_total{{cause=\"{cause}\"}}")
}

fn received(state: &str) -> String {
    format!("tcpwatch_resets_received_total{{state=\"{state}\"}}")
}

/// The given cause has grown by as many as were provoked; no other has, and no orphan received any.
fn compare(
    cause: &str,
    expected: f64,
    before: &BTreeMap<String, f64>,
    after: &BTreeMap<String, f64>,
) -> Result<()> {
    for (series, value) in after {
        let grown = value - before[series];
        let due = if *series == sent(cause) { expected } else { 0.0 };
        ensure!(grown == due, "{cause}: {series} grew by {grown} instead of {due}");
    }
    Ok(())
}
