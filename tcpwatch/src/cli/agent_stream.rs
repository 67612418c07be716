//! A connection to the agent's UNIX socket.
//!
//! writev(2), by which the standard library writes several buffers at once, raises SIGPIPE where the other
//! end has gone, as an agent that stops has: it takes connections to the last. Commands have that signal
//! end them, for the sake of their output, and would end without a word.

use std::{
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::net::{SendFlags, send};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
};

/// Writes fail with [`BrokenPipe`](io::ErrorKind::BrokenPipe) and raise no signal.
pub(super) struct AgentStream(UnixStream);

impl AgentStream {
    pub(super) async fn connect(socket: &Path) -> io::Result<Self> {
        UnixStream::connect(socket).await.map(Self)
    }

    /// The process that listens.
    pub(super) fn pid(&self) -> io::Result<Option<i32>> {
        Ok(self.0.peer_cred()?.pid())
    }
}

impl AsyncRead for AgentStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for AgentStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            let sent = self
                .0
                .try_io(Interest::WRITABLE, || Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, mem::MaybeUninit, ptr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Whether SIGPIPE waits for this thread, which blocks it.
    fn is_pending() -> bool {
        let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is writable, and filled before it is read.
        unsafe {
            assert_eq!(libc::sigpending(pending.as_mut_ptr()), 0);
            libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
        }
    }

    fn block() {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the set is made empty before it is used; only this thread's mask changes.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
            let failed = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
            assert_eq!(failed, 0);
        }
    }

    /// A blocked signal waits also where it is ignored, as in a test.
    #[tokio::test]
    async fn an_agent_that_has_gone_is_an_error_and_no_signal() {
        block();
        // The other end is dropped at once.
        let left = || UnixStream::pair().expect("a pair").0;
        let error =
            AgentStream(left()).write_all(b"GET /").await.expect_err("the other end has gone");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(!is_pending(), "the write raised SIGPIPE");
        // As the standard library writes several buffers.
        let buffers = [IoSlice::new(b"GET "), IoSlice::new(b"/")];
        left().write_vectored(&buffers).await.expect_err("the other end has gone");
        assert!(is_pending(), "this kernel raises none");
    }

    #[tokio::test]
    async fn bytes_come_through_also_where_the_buffer_is_full() {
        let (here, mut there) = UnixStream::pair().expect("a pair");
        let mut stream = AgentStream(here);
        let sent = vec![7; 4 * 1024 * 1024];
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            stream.write_all(&sent).await?;
            stream.shutdown().await
        });
        let mut received = Vec::new();
        there.read_to_end(&mut received).await.expect("a stream");
        writer.await.expect("no panic").expect("all is written");
        assert!(received == expected, "{} bytes", received.len());
    }
}
