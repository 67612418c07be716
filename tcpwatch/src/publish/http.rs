//! Accepts connections and serves HTTP/1.1 on them, within bounds.
//!
//! The accept loop is tcpwatch's own because each bound needs a hand in it: how many connections
//! there are, how long one may last whatever its client does or leaves undone, what happens when
//! descriptors run out, and when to stop. What the paths answer is `routes`.
//!
//! Nothing here blocks or spins. It shares the agent's thread, so many clients cost its answers some
//! time, gzip most of all; watching goes on in the kernel and on the walker's thread.

use std::{future::poll_fn, io, task::Poll, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Query, routes};

/// Largest request line with headers. Browsers send below 4 KiB; more is no client of ours.
const HEADER_BYTES: usize = 16 * 1024;

/// What is buffered for one connection in each direction; a header must fit.
const BUFFER_BYTES: usize = 2 * HEADER_BYTES;

/// Connections beyond the limit that are told so at one time; any further one is just closed.
const REFUSALS: usize = 16;

/// Time for a refused client to read that it is refused.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Pauses after failures to accept: long enough not to spin, short enough to come back soon after
/// descriptors have been freed.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// Answer to a connection that is one too many.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 21\r\n\
    Retry-After: 5\r\n\
    Connection: close\r\n\
    \r\n\
    too many connections\n";

/// Bounds on what clients can take.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections at one time.
    pub connections: usize,
    /// Time for a request's header to arrive, counted from when the connection became idle.
    pub header: Duration,
    /// Time for the agent's loop to answer.
    pub answer: Duration,
    /// Life of a connection; a client that does not read is thus rid of too.
    pub connection: Duration,
    /// How long an answer is good for others who ask the same.
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
            // Enough for the slowest honest client to read 100 KiB.
            connection: Duration::from_secs(30),
            // Far below any scrape interval, and yet at most five renderings of each kind a second.
            freshness: Duration::from_millis(200),
            finish: Duration::from_secs(1),
        }
    }
}

/// Serves until `stop` becomes true or its sender is dropped; then stops accepting at once and
/// returns within [`HttpLimits::finish`].
pub async fn serve(
    listeners: Vec<TcpListener>,
    queries: mpsc::Sender<Query>,
    limits: HttpLimits,
    mut stop: watch::Receiver<bool>,
) {
    let router = routes::router(queries, limits);
    let mut connections = JoinSet::new();
    let mut refusals = JoinSet::new();
    let mut acceptor = Acceptor { listeners, next: 0, failures: 0, resume: None };
    let stopping = stop.clone();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            // Finished ones first, so that their places are free for the next.
            Some(_) = connections.join_next() => {}
            Some(_) = refusals.join_next() => {}
            stream = acceptor.accept() => {
                if connections.len() < limits.connections {
                    let connection =
                        serve_connection(stream, router.clone(), limits, stopping.clone());
                    connections.spawn(connection);
                } else if refusals.len() < REFUSALS {
                    refusals.spawn(timeout(REFUSAL_TIME, refuse(stream)));
                }
            }
        }
    }
    drop(acceptor);
    let finished = async { while connections.join_next().await.is_some() {} };
    // Whoever has not finished is aborted with the set.
    let _ = timeout(limits.finish, finished).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error is a dropped sender: nobody is left who could ask to stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    limits: HttpLimits,
    mut stop: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_header_size(HEADER_BYTES)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                tracing::trace!(%error, "connection ended early");
            }
            return;
        }
        () = stopped(&mut stop) => {}
        () = sleep(limits.connection) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.finish, connection).await;
}

/// Says why, and waits for the client to close: closing with its request unread would reset the
/// connection, maybe before it has read the answer.
async fn refuse(stream: TcpStream) -> io::Result<()> {
    stream.writable().await?;
    stream.try_write(REFUSAL)?;
    rustix::net::shutdown(&stream, rustix::net::Shutdown::Write)?;
    let mut unwanted = [0; 1024];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut unwanted) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Accepts from several listeners in turn.
struct Acceptor {
    listeners: Vec<TcpListener>,
    /// Asked first next time, so that a flood on one does not starve the others.
    next: usize,
    /// Failures since the last success.
    failures: usize,
    /// Not before this; kept here because `accept` is dropped and called anew.
    resume: Option<Instant>,
}

impl Acceptor {
    async fn accept(&mut self) -> TcpStream {
        loop {
            if let Some(resume) = self.resume {
                sleep_until(resume).await;
                self.resume = None;
            }
            match self.accept_any().await {
                Ok(stream) => {
                    self.failures = 0;
                    return stream;
                }
                // It was reset before it was accepted, which says nothing about the next one.
                Err(error) if is_of_the_connection(&error) => {}
                // EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection stays in the queue, and asking
                // again at once would only spin.
                Err(error) => {
                    if self.failures == 0 {
                        tracing::warn!(%error, "cannot accept HTTP connections for now");
                    }
                    let pause = PAUSES[self.failures.min(PAUSES.len() - 1)];
                    self.resume = Some(Instant::now() + pause);
                    self.failures += 1;
                }
            }
        }
    }

    async fn accept_any(&mut self) -> io::Result<TcpStream> {
        let Self { listeners, next, .. } = self;
        poll_fn(|context| {
            for step in 0..listeners.len() {
                let index = (*next + step) % listeners.len();
                if let Poll::Ready(accepted) = listeners[index].poll_accept(context) {
                    *next = index + 1;
                    return Poll::Ready(accepted.map(|(stream, _)| stream));
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
