//! The parts of a connection that report its activity: its stream, its service, its answers.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use axum::{Router, body::Bytes};
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    hosts::Listening,
    live::Streams,
    places::{Activity, Peer},
};

/// A stream that shows when its client reads.
pub(super) struct Observed<S> {
    stream: S,
    activity: Activity,
}

impl<S> Observed<S> {
    pub(super) const fn new(stream: S, activity: Activity) -> Self {
        Self { stream, activity }
    }

    fn observe(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.client_has_read();
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.observe(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.observe(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes the stream once its own buffer is written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.activity.all_is_written();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The paths, for one connection: each request has the listener with it.
pub(super) struct Service {
    router: TowerToHyperService<Router>,
    activity: Activity,
    listening: Listening,
    peer: Peer,
}

impl Service {
    pub(super) fn new(router: Router, activity: Activity, of: (Listening, Peer)) -> Self {
        let (listening, peer) = of;
        Self { router: TowerToHyperService::new(router), activity, listening, peer }
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Answer>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.activity.request_came();
        request.extensions_mut().insert(self.listening);
        request.extensions_mut().insert(self.peer);
        let (answer, activity) = (self.router.call(request), self.activity.clone());
        Box::pin(async move {
            let response = answer.await?;
            match response.extensions().get::<Streams>() {
                Some(Streams) => activity.stream_begins(),
                None => activity.answer_begins(),
            }
            Ok(response.map(|body| Answer { body, activity }))
        })
    }
}

/// The body of an answer; it goes when hyper has taken all of it.
pub(super) struct Answer {
    body: axum::body::Body,
    activity: Activity,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.activity.answer_is_complete();
    }
}
