//! Accepts connections and serves HTTP/1.1 on them, within bounds.
//!
//! The accept loop is tcpwatch's own because each bound is part of it: the number of connections
//! and which of them gives way (`places`), the life of a connection, a shortage of descriptors, and
//! the end of the server. TLS and passwords are `access`. How a connection reports its activity is
//! `connection`; the answers of the paths are `routes`.
//!
//! Nothing here blocks or spins. It shares the agent's thread, so many clients cost its answers
//! some time, gzip most of all; watching goes on in the kernel and on the walker's thread.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr},
    task::{Context, Poll},
    time::Duration,
};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::{JoinSet, yield_now},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Access, Hosts, Query,
    access::Opened,
    connection::{Observed, Service},
    events::EventStreams,
    hosts::Listening,
    live::Live,
    places::{Activity, Peer, Places},
    routes,
};

/// Largest request line with headers. Browsers send below 4 KiB; more is no client of ours.
const HEADER_BYTES: usize = 16 * 1024;

/// Buffer of one connection in each direction; a header must fit.
const BUFFER_BYTES: usize = 2 * HEADER_BYTES;

/// Pauses after failures to accept: long enough not to spin, short enough to come back soon after
/// descriptors have been freed.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// Bounds on the resources of clients.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections at one time.
    pub connections: usize,
    /// Time for a TLS handshake; then for a request's header to arrive, counted from when the
    /// connection became idle.
    pub header: Duration,
    /// Time for the agent's loop to answer.
    pub answer: Duration,
    /// Time for a client to read an answer.
    pub reading: Duration,
    /// Life of a connection, whatever is under way on it but a stream of events.
    pub connection: Duration,
    /// Life of a stream of events; its page connects again.
    pub live: Duration,
    /// Time between signs of life on a stream without events.
    pub heartbeat: Duration,
    /// How long an answer also serves other requests for the same path.
    pub freshness: Duration,
    /// Time for requests under way to finish when the life of a connection or of the server ends.
    pub finish: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            // As `limits.http_connections` is by default: a few Prometheus servers, people and
            // scripts need ten, and one takes at most some 100 KiB.
            connections: 64,
            // A header is one packet. Shorter than any scrape interval: an idle connection is not
            // worth its place.
            header: Duration::from_secs(5),
            // Prometheus' default scrape_timeout.
            answer: Duration::from_secs(10),
            // Enough for the slowest honest client to read 100 KiB: 10 KiB/s.
            reading: Duration::from_secs(10),
            // Header, answer and reading, and a little.
            connection: Duration::from_secs(30),
            // Browsers that vanished without a word do not keep their places for longer.
            live: Duration::from_secs(3_600),
            // Below the time after which proxies close a silent connection, a minute mostly.
            heartbeat: Duration::from_secs(15),
            // Far below any scrape interval, and yet at most five renderings of each kind a second.
            freshness: Duration::from_millis(200),
            finish: Duration::from_secs(1),
        }
    }
}

/// A place where clients connect.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Tcp(TcpListener),
    /// A path of this host.
    Unix(UnixListener),
}

/// A client's connection.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    fn listening(&self) -> Listening {
        match self {
            Self::Unix(_) => Listening::Privately,
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) if address.ip().to_canonical().is_loopback() => Listening::OnLoopback,
                Ok(_) | Err(_) => Listening::Openly,
            },
        }
    }

    /// All processes of this host are one peer, but for the clients of the UNIX socket, which its mode
    /// selects: others do not take their places.
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, IpAddr)>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(context)
                .map_ok(|(stream, peer)| (Stream::Tcp(stream), peer.ip())),
            Self::Unix(listener) => listener
                .poll_accept(context)
                .map_ok(|(stream, _)| (Stream::Unix(stream), Ipv4Addr::UNSPECIFIED.into())),
        }
    }
}

/// Serves until `stop` becomes true or its sender is dropped; then stops accepting at once and
/// returns within [`HttpLimits::finish`]. Pages get an event for each change of `updates`.
pub async fn serve(
    listeners: Vec<Listener>,
    queries: mpsc::Sender<Query>,
    updates: watch::Receiver<u64>,
    limits: HttpLimits,
    (hosts, access): (Hosts, Access),
    mut stop: watch::Receiver<bool>,
) {
    let live = Live::new(updates, stop.clone(), limits);
    let events = EventStreams::new(queries.clone(), stop.clone(), limits);
    let router = routes::router(queries, (live, events), limits, (hosts, access.clone()));
    let mut connections = JoinSet::new();
    let mut places = Places::new(limits.connections);
    let listeners = listeners.into_iter().map(|listener| {
        let listening = listener.listening();
        (listener, listening)
    });
    let listeners = listeners.collect();
    let mut acceptor = Acceptor { listeners, next: 0, failures: 0, resume: None };
    let stopping = stop.clone();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            // Finished ones first, so that their places are free for the next.
            Some(ended) = connections.join_next_with_id() => {
                places.free(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            (stream, peer, listening) = acceptor.accept() => {
                let peer = Peer::of(peer);
                make_place(&mut places, &mut connections, peer).await;
                let activity = Activity::new();
                let service = Service::new(router.clone(), activity.clone(), (listening, peer));
                let life = (activity.clone(), limits, stopping.clone());
                let task = match stream {
                    Stream::Tcp(stream) => {
                        connections.spawn(open_connection(stream, access.clone(), service, life))
                    }
                    Stream::Unix(stream) => {
                        connections.spawn(serve_connection(stream, service, life))
                    }
                };
                places.take(peer, activity, task);
            }
        }
    }
    drop(acceptor);
    let finished = async { while connections.join_next().await.is_some() {} };
    // Connections that have not finished are aborted with the set.
    let _ = timeout(limits.finish, finished).await;
}

/// Makes a place for a connection of `peer`, if need be of another connection.
async fn make_place(places: &mut Places, connections: &mut JoinSet<()>, peer: Peer) {
    loop {
        if places.are_taken(peer) {
            // Requests that have arrived are read first: their connections stay.
            yield_now().await;
            while let Some(ended) = connections.try_join_next_with_id() {
                places.free(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
        }
        match places.make(peer) {
            Ok(()) => return,
            Err(until) => sleep_until(until).await,
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error is a dropped sender: no task is left that could order a stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

type Life = (Activity, HttpLimits, watch::Receiver<bool>);

/// A TLS handshake comes first, if there is to be one.
async fn open_connection(stream: TcpStream, access: Access, service: Service, mut life: Life) {
    let (activity, limits, stop) = &mut life;
    let opened = tokio::select! {
        opened = timeout(limits.header, access.open(stream, activity)) => opened,
        () = stopped(stop) => return,
    };
    match opened.map_err(io::Error::from) {
        Ok(Ok(Opened::Plain(stream))) => serve_connection(stream, service, life).await,
        Ok(Ok(Opened::Secured(stream))) => serve_connection(stream, service, life).await,
        Ok(Err(error)) | Err(error) => tracing::trace!(%error, "TLS handshake failed"),
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: Service,
    (activity, limits, mut stop): Life,
) {
    let stream = Observed::new(stream, activity.clone());
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_header_size(HEADER_BYTES)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::trace!(%error, "connection ended early");
            }
            return;
        }
        () = stopped(&mut stop) => {}
        () = lived(&activity, limits) => {}
        () = not_read(&activity, limits.reading) => return,
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.finish, connection).await;
}

/// Returns when the life of a connection is over.
async fn lived(activity: &Activity, limits: HttpLimits) {
    sleep(limits.connection).await;
    if activity.streams() {
        // The stream ends by itself before.
        sleep(limits.live).await;
    }
}

/// Returns when the client has taken too long to read an answer.
async fn not_read(activity: &Activity, most: Duration) {
    while let Some(left) = most.checked_sub(activity.reading_for()) {
        // An answer that begins after this look is late by no more than its own time.
        sleep(left.max(Duration::from_millis(1))).await;
    }
}

/// Accepts from several listeners in turn.
struct Acceptor {
    listeners: Vec<(Listener, Listening)>,
    /// The listener that comes first next time, so that a flood on one does not starve the others.
    next: usize,
    /// Failures since the last success.
    failures: usize,
    /// Not before this; kept here because `accept` is dropped and called anew.
    resume: Option<Instant>,
}

impl Acceptor {
    async fn accept(&mut self) -> (Stream, IpAddr, Listening) {
        loop {
            if let Some(resume) = self.resume {
                sleep_until(resume).await;
                self.resume = None;
            }
            match self.accept_any().await {
                Ok(accepted) => {
                    self.failures = 0;
                    return accepted;
                }
                // It was reset before it was accepted, which says nothing about the next one.
                Err(error) if is_of_the_connection(&error) => {}
                // EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection stays in the queue, and a retry
                // at once would only spin.
                Err(error) => {
                    if self.failures == 0 {
                        tracing::warn!(%error, "HTTP connections not accepted; retry after a pause");
                    }
                    let pause = PAUSES[self.failures.min(PAUSES.len() - 1)];
                    self.resume = Some(Instant::now() + pause);
                    self.failures += 1;
                }
            }
        }
    }

    async fn accept_any(&mut self) -> io::Result<(Stream, IpAddr, Listening)> {
        let Self { listeners, next, .. } = self;
        poll_fn(|context| {
            for step in 0..listeners.len() {
                let index = (*next + step) % listeners.len();
                let (listener, listening) = &listeners[index];
                if let Poll::Ready(accepted) = listener.poll_accept(context) {
                    *next = index + 1;
                    return Poll::Ready(accepted.map(|(stream, peer)| (stream, peer, *listening)));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// accept(2): errors already pending on the new socket are returned as if they were accept()'s.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::Interrupted
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::TimedOut
    )
}
