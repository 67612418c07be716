//! The scenes: each makes its situation, waits until it is found, cures it, and waits until the
//! finding is gone.

pub(super) mod aborts;
pub(super) mod connects;
pub(super) mod leaks;
pub(super) mod limits;
pub(super) mod ports;
pub(super) mod queues;

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Result, ensure};
use scenes::{CloseWaitLeak, Namespace, PortRange, SelfConnection, Stuck, TakenPort, TimeWaits};

use super::{Stage, another::Another};
use crate::support::{begin_connects, listen};

/// In the default `ip_local_port_range`, and of the parity that connect() tries first.
const PORT_IN_THE_RANGE: u16 = 45_454;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One process has it, another one tries to bind it.
const PORT_FOR_TWO: SocketAddr = SocketAddr::new(LOCALHOST, 8_080);

/// Looks, one a second, after which there is growth in each quarter of a window of 8 s, and a rate of
/// closes, which takes 6 s.
const GROWTH: u32 = 9;

/// A client that opens two connections a second and keeps what its server has closed.
pub(super) fn close_wait_pileup(stage: &mut Stage<'_>) -> Result<()> {
    let mut leak = CloseWaitLeak::client(stage.namespace(), 6, 3_306, false)?;
    for _ in 0..GROWTH {
        leak.read_to_end()?;
        stage.watch(1)?;
        leak.add(2)?;
    }
    leak.read_to_end()?;
    stage.watch_until_raised()?;
    stage.watch(1)?;
    leak.close(leak.count())?;
    stage.watch_until_cleared()
}

/// A server that streams to clients which have shut down their side, and then forgets them.
pub(super) fn streams_that_fall_silent(stage: &mut Stage<'_>) -> Result<()> {
    /// The fewest that raise a finding, so that the recording is small.
    const STREAMS: usize = 20;
    /// Looks meanwhile, one a second: longer than twice `min_age`.
    const IN_USE: usize = 3;
    let (clients, servers) = stage.namespace().clone().enter(|| -> Result<_> {
        let listener = TcpListener::bind((LOCALHOST, 9_100))?;
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for _ in 0..STREAMS {
            let client = TcpStream::connect(listener.local_addr()?)?;
            servers.push(listener.accept()?.0);
            client.shutdown(Shutdown::Write)?;
            clients.push(client);
        }
        Ok((clients, servers))
    })??;
    for _ in 0..IN_USE {
        for mut server in &servers {
            server.write_all(b"a line of a log\n")?;
        }
        stage.watch(1)?;
    }
    stage.watch_until_raised()?;
    drop((clients, servers));
    stage.watch_until_cleared()
}

/// Short connections up to a low limit, which is then raised.
pub(super) fn time_wait_exhaustion(stage: &mut Stage<'_>) -> Result<()> {
    const LIMIT: &str = "net.ipv4.tcp_max_tw_buckets";
    let namespace = stage.namespace().clone();
    namespace.sysctl_set(LIMIT, "500")?;
    TimeWaits::make(&namespace, 330, 8_080)?;
    for _ in 0..GROWTH {
        stage.watch(1)?;
        TimeWaits::make(&namespace, 8, 8_080)?;
    }
    stage.watch_until_raised()?;
    TimeWaits::make(&namespace, 80, 8_080)?;
    stage.watch(1)?;
    namespace.sysctl_set(LIMIT, "262144")?;
    stage.watch_until_cleared()
}

/// A short range, half of it open and half in TIME_WAIT; it is widened when connect() has failed.
pub(super) fn ephemeral_port_exhaustion(stage: &mut Stage<'_>) -> Result<()> {
    let namespace = stage.namespace().clone();
    let mut range = PortRange::new(&namespace, 40_000..=40_059, 8_443)?;
    range.use_up(20, 21)?;
    for _ in 0..GROWTH {
        stage.watch(1)?;
        range.use_up(0, 1)?;
    }
    stage.watch_until_raised()?;
    range.use_up(10, 0)?;
    for _ in 0..5 {
        ensure!(range.connect_once().is_err(), "there was a port left");
    }
    stage.watch(2)?;
    namespace.sysctl_set("net.ipv4.ip_local_port_range", "32768 60999")?;
    stage.watch_until_cleared()
}

/// A client that connects to a port of its own host until its source port is the same.
pub(super) fn self_connection(stage: &mut Stage<'_>) -> Result<()> {
    let connection = SelfConnection::by_luck(stage.namespace(), LOCALHOST)?;
    stage.watch_until_raised()?;
    connection.close();
    stage.watch_until_cleared()
}

/// A listener in the port range, with a client on the same host, until its port is reserved.
pub(super) fn listener_in_the_port_range(stage: &mut Stage<'_>) -> Result<()> {
    let namespace = stage.namespace().clone();
    let _listener = listen(&namespace, PORT_IN_THE_RANGE, 16)?;
    stage.watch_until_raised()?;
    let _client = namespace.enter(|| TcpStream::connect((LOCALHOST, PORT_IN_THE_RANGE)))??;
    stage.watch(2)?;
    reserve(stage)?;
    stage.watch_until_cleared()
}

/// A client that retries a port without a listener, until the port is reserved.
pub(super) fn port_retried_without_listener(stage: &mut Stage<'_>) -> Result<()> {
    let namespace = stage.namespace().clone();
    for _ in 0..30 {
        let outcome = namespace.enter(|| TcpStream::connect((LOCALHOST, PORT_IN_THE_RANGE)))?;
        let refused = outcome.is_err_and(|it| it.kind() == io::ErrorKind::ConnectionRefused);
        ensure!(refused, "port {PORT_IN_THE_RANGE} did not refuse");
    }
    stage.watch_until_raised()?;
    reserve(stage)?;
    stage.watch_until_cleared()
}

fn reserve(stage: &Stage<'_>) -> Result<()> {
    let port = PORT_IN_THE_RANGE.to_string();
    stage.namespace().sysctl_set("net.ipv4.ip_local_reserved_ports", &port)
}

/// Half-open connections of 300 sources, which end by themselves.
pub(super) fn syn_flood(stage: &mut Stage<'_>) -> Result<()> {
    half_open(stage, 300, 1)
}

/// 120 of one source.
pub(super) fn handshake_stall(stage: &mut Stage<'_>) -> Result<()> {
    half_open(stage, 1, 120)
}

fn half_open(stage: &mut Stage<'_>, sources: u16, each: u16) -> Result<()> {
    let namespace = stage.namespace().clone();
    // They end after 7 s instead of a minute.
    namespace.sysctl_set("net.ipv4.tcp_synack_retries", "2")?;
    let _listener = listen(&namespace, 443, 4_096)?;
    stage.watch(1)?;
    scenes::half_open(&namespace, sources, each, 443)?;
    stage.watch_until_raised()?;
    stage.watch_until_cleared()
}

/// The process does not accept, until the queue is made longer and emptied once.
pub(super) fn accept_queue_overflow(stage: &mut Stage<'_>) -> Result<()> {
    let listener = listen(stage.namespace(), 8_080, 5)?;
    stage.watch(1)?;
    let clients = begin_connects(stage.namespace(), 20, 8_080)?;
    stage.watch_until_raised()?;
    // Longer than a burst.
    stage.watch(4)?;
    // Space for all whose SYN was dropped; they send it again.
    socket2::SockRef::from(&listener).listen(128)?;
    stage.watch_until_cleared()?;
    drop(clients);
    Ok(())
}

/// A client that does not wait between its tries, while the service is down.
pub(super) fn reset_storm(stage: &mut Stage<'_>) -> Result<()> {
    let namespace = stage.namespace().clone();
    // Three windows, to know that there were none.
    stage.watch(10)?;
    namespace.enter(|| {
        for _ in 0..250 {
            ensure!(TcpStream::connect((LOCALHOST, 8_080)).is_err(), "a process listens");
        }
        Ok(())
    })??;
    stage.watch_until_raised()?;
    stage.watch_until_cleared()
}

/// A server closes connections after a second of idleness, and each client then sends a request.
pub(super) fn keepalive_race(stage: &mut Stage<'_>) -> Result<()> {
    /// Two more than raise a warning: the first close of a service has no idle time.
    const CLIENTS: usize = 12;
    const REQUEST: [u8; 100] = [b'x'; 100];
    let namespace = stage.namespace().clone();
    stage.watch(1)?;
    namespace.enter(|| -> Result<()> {
        let listener = TcpListener::bind((LOCALHOST, 8_080))?;
        let mut pairs = Vec::new();
        for _ in 0..CLIENTS {
            let client = TcpStream::connect(listener.local_addr()?)?;
            pairs.push((client, listener.accept()?.0));
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
        for (mut client, server) in pairs {
            drop(server);
            client.write_all(&REQUEST)?;
        }
        Ok(())
    })??;
    stage.watch_until_raised()?;
    stage.watch_until_cleared()
}

/// The listener is there, as another program's, until that ends.
pub(super) fn port_of_another(stage: &mut Stage<'_>) -> Result<()> {
    stage.require("bind")?;
    let namespace = stage.namespace().clone();
    let other = Another::listening(
        &namespace,
        "apache2",
        (Ipv4Addr::UNSPECIFIED, PORT_FOR_TWO.port()).into(),
    )?;
    stage.watch(1)?;
    be_refused(&namespace)?;
    stage.watch_until_raised()?;
    other.end()?;
    let _listener = scenes::bind(&namespace, PORT_FOR_TWO, true)??;
    stage.watch_until_cleared()
}

/// A server that is started anew, without SO_REUSEADDR until it is given it.
pub(super) fn port_in_time_wait(stage: &mut Stage<'_>) -> Result<()> {
    stage.require("bind")?;
    let namespace = stage.namespace().clone();
    TakenPort::by_time_wait(&namespace, PORT_FOR_TWO.port(), true)?;
    stage.watch(1)?;
    be_refused(&namespace)?;
    stage.watch_until_raised()?;
    let _listener = scenes::bind(&namespace, PORT_FOR_TWO, true)??;
    stage.watch_until_cleared()
}

/// As often as makes a warning.
fn be_refused(namespace: &Namespace) -> Result<()> {
    for _ in 0..3 {
        let outcome = scenes::bind(namespace, PORT_FOR_TWO, false)?;
        let refused = outcome.is_err_and(|it| it.kind() == io::ErrorKind::AddrInUse);
        ensure!(refused, "{PORT_FOR_TWO} was to be taken");
    }
    Ok(())
}

/// Connects without an answer, until they are given up.
pub(super) fn unanswered(stage: &mut Stage<'_>) -> Result<()> {
    let stuck = Stuck::in_syn_sent(stage.namespace(), 12, 5_432)?;
    stage.watch_until_raised()?;
    stuck.end()?;
    stage.watch_until_cleared()
}

/// Connections that this side has shut down and the peer does not close, until it does.
pub(super) fn half_closed(stage: &mut Stage<'_>) -> Result<()> {
    let stuck = Stuck::in_fin_wait2(stage.namespace(), 12, 5_672)?;
    stage.watch_until_raised()?;
    stuck.end()?;
    stage.watch_until_cleared()
}
