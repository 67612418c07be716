//! The TLS handshake of a connection.
//!
//! A signature with a large RSA key takes milliseconds, which many clients could make the agent's
//! loop spend. So a thread of its own does the cryptography of handshakes, one after another. A
//! client that has not sent its ClientHello costs that thread nothing. There are no more handshakes
//! than connections; the caller sets the deadline.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    thread,
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};

use super::{Access, tls::Tls};
use crate::publish::places::Activity;

/// The answer to HTTP without TLS, which a person or a scraper has sent by mistake.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Connection: close\r\n\r\ntcpwatch serves HTTPS here; the request came without TLS\n";

/// A connection that is ready for HTTP.
pub(in crate::publish) enum Opened {
    /// The configuration has no TLS.
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

/// The thread that does the cryptography. It ends when this is dropped.
pub(super) struct Handshakes {
    thread: Handle,
    _stop: oneshot::Sender<()>,
}

impl Handshakes {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().build()?;
        let thread = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("tls".to_owned()).spawn(move || {
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { thread, _stop: stop })
    }
}

impl Access {
    /// Makes a new connection ready for HTTP.
    ///
    /// # Errors
    ///
    /// The client does not speak TLS, or shows no certificate that is good.
    pub(in crate::publish) async fn open(
        &self,
        stream: TcpStream,
        activity: &Activity,
    ) -> io::Result<Opened> {
        let Some((shared, terms)) = self.terms().await else { return Ok(Opened::Plain(stream)) };
        let Some(tls) = &terms.tls else { return Ok(Opened::Plain(stream)) };
        let start = client_hello(stream).await?;
        activity.handshake_goes_on();
        let handshakes = match shared.handshakes.get() {
            Some(handshakes) => handshakes,
            None => {
                let started = Handshakes::start().inspect_err(|error| {
                    tracing::warn!(%error, "TLS handshake not done: no thread");
                })?;
                shared.handshakes.get_or_init(|| started)
            }
        };
        let server = Arc::clone(&tls.server);
        // The signature is made in `into_stream`.
        let shakes = handshakes.thread.spawn(async move { start.into_stream(server).await });
        let stream = Aborted::with(shakes).await?;
        activity.handshake_goes_on();
        admit(tls, &stream)?;
        Ok(Opened::Secured(Box::new(stream)))
    }
}

/// Reads the first message of a client.
async fn client_hello(stream: TcpStream) -> io::Result<StartHandshake<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    // A method of HTTP; TLS begins with 22.
    if first[0].is_ascii_uppercase() {
        // The request is read, since close() sends a reset where data is left. The answer fits into
        // the empty buffer of the socket.
        stream.try_read(&mut [0; 4096])?;
        stream.try_write(NOT_TLS)?;
        return Err(io::Error::new(ErrorKind::InvalidData, "HTTP without TLS"));
    }
    LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await
}

fn admit(tls: &Tls, stream: &TlsStream<TcpStream>) -> io::Result<()> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    if tls.admits(certificate) {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::PermissionDenied, "no client_allowed_sans in the certificate"))
}

/// A task that ends with the connection that waits for it.
struct Aborted(AbortHandle);

impl Aborted {
    async fn with<T>(task: JoinHandle<io::Result<T>>) -> io::Result<T> {
        let _aborted = Self(task.abort_handle());
        task.await.map_err(io::Error::other)?
    }
}

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
