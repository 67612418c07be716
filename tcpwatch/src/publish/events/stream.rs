//! Streams of `/api/v1/events`, over HTTP.
//!
//! A stream is a connection that carries nothing else. Streams are bounded in number (`seats`) and in
//! life, give their place to any other connection (`places`), and end with the agent.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderName, StatusCode,
        header::{CONNECTION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use futures_util::stream::unfold;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    super::{
        HttpLimits, Query,
        live::Streams,
        places::Peer,
        routes::Unanswered,
        seats::{Seat, Seats},
    },
    EventFeed, EventsRequest, NoEvents,
};

/// One place of so many can have a stream of events: by default sixteen.
const PLACES_FOR_ONE: usize = 4;

/// A comment, which keeps a silent connection open.
const HEARTBEAT: &[u8] = b":\n\n";

/// All streams.
pub(in crate::publish) struct EventStreams {
    queries: mpsc::Sender<Query>,
    stop: watch::Receiver<bool>,
    seats: Arc<Seats>,
    limits: HttpLimits,
}

/// One stream.
struct Stream {
    feed: EventFeed,
    /// The stream has not begun.
    is_new: bool,
    stop: watch::Receiver<bool>,
    end: Instant,
    limits: HttpLimits,
    seat: Seat,
}

impl EventStreams {
    pub(in crate::publish) fn new(
        queries: mpsc::Sender<Query>,
        stop: watch::Receiver<bool>,
        limits: HttpLimits,
    ) -> Self {
        let seats = Seats::new((limits.connections / PLACES_FOR_ONE).max(1));
        Self { queries, stop, seats, limits }
    }

    /// One more stream, for `peer`, or a refusal.
    pub(in crate::publish) async fn stream(&self, request: EventsRequest, peer: Peer) -> Response {
        let Some(seat) = self.seats.take(peer) else {
            let text = "too many streams of events are open\n";
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        };
        let (to, answer) = oneshot::channel();
        let answered = async {
            self.queries.send(Query::Events(request, to)).await.ok()?;
            answer.await.ok()
        };
        let feed = match timeout(self.limits.answer, answered).await {
            Ok(Some(Ok(feed))) => feed,
            Ok(Some(Err(why))) => return (why.status(), format!("{why}\n")).into_response(),
            Ok(None) => return Unanswered::Gone.into_response(),
            Err(_) => return Unanswered::Late.into_response(),
        };
        let stream = Stream {
            feed,
            is_new: true,
            stop: self.stop.clone(),
            end: Instant::now() + self.limits.live,
            limits: self.limits,
            seat,
        };
        let batches = unfold(stream, async |mut stream| {
            let batch = stream.next().await?;
            Some((Ok::<_, Infallible>(batch), stream))
        });
        // The connection ends with its stream and carries no other request.
        const HEADERS: [(HeaderName, &str); 2] =
            [(CONTENT_TYPE, "text/event-stream"), (CONNECTION, "close")];
        let mut response = (HEADERS, Body::from_stream(batches)).into_response();
        response.extensions_mut().insert(Streams);
        response
    }
}

impl NoEvents {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoNamespace(_) => StatusCode::NOT_FOUND,
            Self::Off => StatusCode::FORBIDDEN,
            Self::NotSeen(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Query(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl Stream {
    /// The next batch, a sign of life without one; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let Self { feed, is_new, stop, end, limits, seat } = self;
        // A reader sees at once that it listens.
        if std::mem::take(is_new) {
            return Some(Bytes::from_static(HEARTBEAT));
        }
        tokio::select! {
            biased;
            // An error is a dropped sender: the agent is gone.
            _ = stop.wait_for(|stop| *stop) => None,
            () = sleep_until(*end) => None,
            () = seat.taken_away() => None,
            batch = feed.next() => batch,
            () = sleep(limits.heartbeat) => Some(Bytes::from_static(HEARTBEAT)),
        }
    }
}
