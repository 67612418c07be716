//! The actors of a demo: processes of their own, with a telling name, inside
//! the demo's network namespace.
//!
//! An actor does its part and prints one line about it. It keeps the situation
//! until its stdin is closed; it also ends when the demo dies.

use std::{
    ffi::CString,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::net::sockopt::set_socket_linger;
use scenes::{Namespace, PortRange, SelfConnection, Stuck, TimeWaits};

/// An actor, with its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Actor {
    /// A server that closes each connection at once, as after `wait_timeout`
    Mysqld,
    /// Its client, whose pool keeps them
    OrdersApi,
    /// Opens and closes a connection per request
    Thumbnailer,
    /// Uses up its ports, then goes on connecting
    Checkout,
    /// Connects to module B's port while B restarts
    ModuleA,
    /// Listens on its port, if it gets it
    ModuleB,
    /// A server that closes connections after a second of idleness
    Storefront,
    /// Its client, whose pool keeps them for longer
    Balancer,
    /// A client whose database host vanishes
    Ledger,
    /// Has many connections at a time
    Gateway,
}

/// How many connections the pool keeps: between the limits warning 20 and
/// critical 200 of the default configuration.
pub(crate) const LEAK: usize = 37;

/// MySQL's port.
const MYSQL_PORT: u16 = 3306;

/// How many short connections the burst has; the demo lowers
/// `tcp_max_tw_buckets` to [`TIME_WAIT_LIMIT`], of which this is 98%.
const BURST: usize = 490;

/// The lowered limit.
pub(crate) const TIME_WAIT_LIMIT: usize = 500;

/// The ports that the checkout has: half of them will be open, half of them
/// in TIME_WAIT.
const PORTS: std::ops::RangeInclusive<u16> = 40_000..=40_059;

/// The port that the checkout connects to.
const PAYMENT_PORT: u16 = 8443;

/// Inside the default `ip_local_port_range`, and of the parity of its first
/// port (32768), which connect() tries first.
const MODULE_B_PORT: u16 = 45_454;

/// Where the storefront and the gateway listen.
const WEB_PORT: u16 = 8080;

/// PostgreSQL's port.
const DATABASE_PORT: u16 = 5432;

/// The storefront's idle time-out, and that of the balancer's pool.
const SERVER_IDLE: Duration = Duration::from_secs(1);
const POOL_IDLE: Duration = Duration::from_millis(1_200);

/// Connections of the balancer's pool: each has a request in a round.
const POOL: usize = 20;

/// Connections that the gateway has at least when the demo calls them many.
pub(crate) const TRACKED: u32 = 150;

/// The range has 14,116 ports of that parity and connect() goes through
/// them in turn, so one round is enough; two, in case others take some.
const CONNECT_TRIES: u32 = 30_000;

impl Actor {
    /// Its name as a process: what `ps` and tcpwatch show.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mysqld => "mysqld",
            Self::OrdersApi => "orders-api",
            Self::Thumbnailer => "thumbnailer",
            Self::Checkout => "checkout",
            Self::ModuleA => "module-a",
            Self::ModuleB => "module-b",
            Self::Storefront => "storefront",
            Self::Balancer => "balancer",
            Self::Ledger => "ledger",
            Self::Gateway => "gateway",
        }
    }
}

/// Plays `actor` on the main thread of this process.
pub(crate) fn play(actor: Actor, netns: &str) -> Result<()> {
    // The main thread's name is the process's.
    rustix::thread::set_name(&CString::new(actor.name())?).context("naming the process")?;
    let ns = Namespace::existing(netns)?;
    ns.enter_for_good()?;
    match actor {
        Actor::Mysqld => mysqld(),
        Actor::OrdersApi => orders_api(),
        Actor::Thumbnailer => thumbnailer(&ns),
        Actor::Checkout => checkout(&ns),
        Actor::ModuleA => module_a(),
        Actor::ModuleB => module_b(),
        Actor::Storefront => storefront(),
        Actor::Balancer => balancer(),
        Actor::Ledger => ledger(&ns),
        Actor::Gateway => gateway(),
    }
}

fn localhost(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

fn mysqld() -> Result<()> {
    let listener = TcpListener::bind(localhost(MYSQL_PORT)).context("listening")?;
    // Ends with the process. Closing is all it does with a connection.
    thread::spawn(move || listener.incoming().for_each(drop));
    println!("listens on {MYSQL_PORT} and closes idle connections");
    until_stdin_closes();
    Ok(())
}

fn orders_api() -> Result<()> {
    let pool: io::Result<Vec<TcpStream>> =
        (0..LEAK).map(|_| TcpStream::connect(localhost(MYSQL_PORT))).collect();
    let mut pool = pool.context("connecting to mysqld")?;
    // It even reads the end of each connection, and forgets it.
    for connection in &mut pool {
        connection.set_read_timeout(Some(scenes::STEP_DEADLINE))?;
        connection.read_to_end(&mut Vec::new()).context("reading from mysqld")?;
    }
    println!("has {LEAK} connections to mysqld in its pool, all closed by mysqld");
    until_stdin_closes();
    Ok(())
}

fn thumbnailer(ns: &Namespace) -> Result<()> {
    TimeWaits::make(ns, BURST, 8080)?;
    println!("fetched {BURST} pictures over a connection each");
    until_stdin_closes();
    Ok(())
}

fn checkout(ns: &Namespace) -> Result<()> {
    let mut range = PortRange::new(ns, PORTS, PAYMENT_PORT)?;
    let half = range.available() / 2;
    range.use_up(range.available() - half, half)?;
    let Err(error) = range.connect_once() else { bail!("there was a port left") };
    println!("has used all {} ports; the next connect() says: {error}", range.available());
    // Customers keep coming.
    let stop = stdin_closed();
    while stop.recv_timeout(Duration::from_millis(200)) == Err(mpsc::RecvTimeoutError::Timeout) {
        let _ = range.connect_once();
    }
    Ok(())
}

fn module_a() -> Result<()> {
    let connection = SelfConnection::connect(localhost(MODULE_B_PORT), CONNECT_TRIES)?;
    println!(
        "connected to port {MODULE_B_PORT} {} times, was refused, and is now connected: {} to {}",
        connection.tries(),
        connection.address(),
        connection.stream().peer_addr()?
    );
    until_stdin_closes();
    Ok(())
}

fn module_b() -> Result<()> {
    match TcpListener::bind(localhost(MODULE_B_PORT)) {
        Ok(_listener) => {
            println!("listens on {MODULE_B_PORT}");
            until_stdin_closes();
        }
        Err(error) => {
            println!("cannot listen on {MODULE_B_PORT}: {error}");
            until_stdin_closes();
        }
    }
    Ok(())
}

fn storefront() -> Result<()> {
    let listener = TcpListener::bind(localhost(WEB_PORT)).context("listening")?;
    // It ends with the process.
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || answer_until_idle(connection));
        }
    });
    println!("listens on {WEB_PORT} and closes connections that are idle for {SERVER_IDLE:?}");
    until_stdin_closes();
    Ok(())
}

fn answer_until_idle(mut connection: TcpStream) -> io::Result<()> {
    connection.set_read_timeout(Some(SERVER_IDLE))?;
    let mut request = [0; 1_024];
    while connection.read(&mut request)? > 0 {
        connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
    Ok(())
}

fn balancer() -> Result<()> {
    let request = format!("GET /products HTTP/1.1\r\nHost: shop\r\n{}\r\n", "X: 1\r\n".repeat(16));
    let open = || -> io::Result<TcpStream> {
        let mut connection = TcpStream::connect(localhost(WEB_PORT))?;
        connection.write_all(request.as_bytes())?;
        match connection.read(&mut [0; 1_024])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(connection),
        }
    };
    let mut pool = (0..POOL).map(|_| open()).collect::<io::Result<Vec<_>>>()?;
    println!("has {POOL} connections in its pool, and uses each again after {POOL_IDLE:?}");
    let stop = stdin_closed();
    while stop.recv_timeout(POOL_IDLE) == Err(mpsc::RecvTimeoutError::Timeout) {
        for connection in &mut pool {
            // The request that is lost.
            let _ = connection.write_all(request.as_bytes());
            *connection = open().context("connecting to the storefront")?;
        }
    }
    Ok(())
}

fn ledger(ns: &Namespace) -> Result<()> {
    let stuck = Stuck::in_established(ns, 12, DATABASE_PORT)?;
    println!("has sent 12 requests to a database host that has vanished");
    until_stdin_closes();
    stuck.end()
}

fn gateway() -> Result<()> {
    let listener = TcpListener::bind(localhost(WEB_PORT)).context("listening")?;
    let mut connections = Vec::new();
    // One entry for both ends, and some more than are called many.
    for _ in 0..TRACKED + TRACKED / 3 {
        let client = TcpStream::connect(localhost(WEB_PORT)).context("connecting")?;
        set_socket_linger(&client, Some(Duration::ZERO))?;
        connections.push((client, listener.accept()?.0));
    }
    println!("has {} connections", connections.len());
    until_stdin_closes();
    Ok(())
}

fn until_stdin_closes() {
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

/// Disconnects when stdin is closed.
fn stdin_closed() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        until_stdin_closes();
        drop(sender);
    });
    receiver
}
