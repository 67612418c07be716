//! Resets sent, by cause, against real sockets: each way to provoke one, counted exactly.
//!
//! The hooks see the whole host, so this file has one test, its situations follow one another, and
//! nothing else of this process runs beside them. `OutRsts` of the namespace is the witness.

mod support;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
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

fn listen(port: u16) -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?)
}

/// A connection with both its ends; the client's side first.
fn pair(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

/// SYNs to a port where nobody listens.
fn no_listener(count: usize) -> Result<()> {
    for _ in 0..count {
        ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, 9)).is_err(), "somebody listens on 9");
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
        server.write_all(b"nobody reads this")?;
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

/// Connections that nobody accepts before the listener closes; with and without SO_LINGER 0, which
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

/// connect(AF_UNSPEC) on an established connection.
fn disconnect(count: usize) -> Result<()> {
    let listener = listen(0)?;
    for _ in 0..count {
        let (client, _server) = pair(&listener)?;
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
    // Before 6.10 the kernel does not tell of resets without a socket, before 6.12 it gives no reason
    // for those that it sends of its own accord: the cause is concluded, and not always right.
    if !support::kernel_is_at_least(6, 12)? {
        println!("this kernel does not tell the causes of resets");
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("resets")?;
    let counts = || -> Result<BTreeMap<&str, f64>> {
        let metrics = agent.metrics_of_now()?;
        let value = |cause: &str| {
            let series = format!("tcpwatch_resets_sent_total{{cause=\"{cause}\"}}");
            support::value_in(&metrics, &series).unwrap_or(f64::NAN)
        };
        Ok(CAUSES.iter().map(|&cause| (cause, value(cause))).collect())
    };
    type Situation = fn() -> Result<()>;
    let situations: [(&str, f64, Situation); 7] = [
        ("no_listener", 11.0, || no_listener(11)),
        ("linger_zero", 7.0, || linger_zero(7)),
        ("unread_data", 5.0, || unread_data(5)),
        ("late_data", 6.0, || late_data(6)),
        ("accept_queue_discarded", 3.0, || accept_queue_discarded(3, false)),
        ("accept_queue_discarded", 3.0, || accept_queue_discarded(3, true)),
        ("aborted", 2.0, || disconnect(2)),
    ];
    for (cause, expected, provoke) in situations {
        // Somebody else's reset on this host may fall into a try, not into each of them.
        let mut outcome = Ok(());
        for _ in 0..3 {
            let before = counts()?;
            let resets = ns.snmp_counter("OutRsts")?;
            ns.enter(provoke)??;
            let resets = ns.snmp_counter("OutRsts")? - resets;
            ensure!(resets as f64 == expected, "{cause}: OutRsts grew by {resets}");
            outcome = compare(cause, expected, &before, &counts()?);
            if outcome.is_ok() {
                break;
            }
        }
        outcome?;
    }
    Ok(())
}

/// That cause and no other has grown, by as many as were provoked.
fn compare(
    cause: &str,
    expected: f64,
    before: &BTreeMap<&str, f64>,
    after: &BTreeMap<&str, f64>,
) -> Result<()> {
    for name in CAUSES {
        let grown = after[name] - before[name];
        let wanted = if name == cause { expected } else { 0.0 };
        ensure!(grown == wanted, "{cause}: {name} grew by {grown} instead of {wanted}");
    }
    Ok(())
}
