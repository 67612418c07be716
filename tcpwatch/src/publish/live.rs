//! Events for the page, at `/live`: one after each inventory, as server-sent events.
//!
//! An event says only that there is something new; the page fetches it where all pages get the same
//! answer. So a stream costs some bytes, and a reader that is slow costs no memory. Streams are
//! bounded in number (`seats`) and in life. They give their place to any other connection (`places`),
//! and end with the agent.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::{HeaderName, StatusCode, header::CONNECTION},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream::unfold;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    HttpLimits,
    places::Peer,
    seats::{Seat, Seats},
};

/// One place of so many can have a stream: the others are for scrapers and scripts.
const PLACES_FOR_ONE: usize = 8;

/// How soon a browser connects again.
const RETRY: Duration = Duration::from_secs(2);

/// Marks the answer that is a stream, for the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

/// All streams.
#[derive(Clone)]
pub(super) struct Live {
    updates: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    seats: Arc<Seats>,
    limits: HttpLimits,
}

/// One stream.
struct Stream {
    updates: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    end: Instant,
    /// An answer may be that old, so an event comes so much after its change.
    delay: Duration,
    seat: Seat,
}

impl Live {
    /// Streams with an event for each change of `updates`, until `stop` is true.
    pub(super) fn new(
        updates: watch::Receiver<u64>,
        stop: watch::Receiver<bool>,
        limits: HttpLimits,
    ) -> Self {
        let seats = Seats::new((limits.connections / PLACES_FOR_ONE).max(1));
        Self { updates, stop, seats, limits }
    }

    /// One more stream, for `peer`, or a refusal where there are enough.
    pub(super) fn stream(&self, peer: Peer) -> Response {
        let Some(seat) = self.seats.take(peer) else {
            let text = "too many pages have live updates\n";
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        };
        let mut updates = self.updates.clone();
        updates.mark_unchanged();
        let stream = Stream {
            updates,
            stop: self.stop.clone(),
            end: Instant::now() + self.limits.live,
            delay: self.limits.freshness,
            seat,
        };
        let events = unfold(stream, async |mut stream| {
            let event = stream.next().await?;
            Some((Ok::<_, Infallible>(event), stream))
        });
        // The connection ends with its stream and carries no other request.
        const LAST: [(HeaderName, &str); 1] = [(CONNECTION, "close")];
        let events = Sse::new(events).keep_alive(KeepAlive::new().interval(self.limits.heartbeat));
        let mut response = (LAST, events).into_response();
        response.extensions_mut().insert(Streams);
        response
    }
}

impl Stream {
    /// The next event; `None` ends the stream.
    async fn next(&mut self) -> Option<Event> {
        let Self { updates, stop, end, delay, seat } = self;
        let update = async {
            updates.changed().await.ok()?;
            sleep(*delay).await;
            let number = updates.borrow_and_update().to_string();
            Some(Event::default().event("update").data(number).retry(RETRY))
        };
        tokio::select! {
            biased;
            // An error is a dropped sender: the agent is gone.
            _ = stop.wait_for(|stop| *stop) => None,
            () = sleep_until(*end) => None,
            () = seat.taken_away() => None,
            event = update => event,
        }
    }
}
