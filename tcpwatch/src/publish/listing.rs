//! Listings of sockets: one at a time, and throttled.
//!
//! A listing walks the socket tables and the open files of all processes, on the thread that takes
//! inventories. So one is under way at a time, at most one begins in a second, and together they
//! take at most a tenth of one CPU. A request waits for its turn as long as for any answer.

use std::{sync::Arc, time::Duration};

use axum::{
    http::{HeaderName, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, mpsc, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    NoListing, OrderedListing, SocketRequest, WallClock,
    routes::{Query, Unanswered, json_response},
    sockets_json,
};
use crate::facts::SocketListing;

/// The least time from one listing to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// Length of the pause after a listing, in its processor time, as after an inventory.
const PAUSE: u32 = 9;

/// The way to listings, for all requests.
pub(super) struct Listings {
    queries: mpsc::Sender<Query>,
    /// How long a request waits.
    patience: Duration,
    /// When the next listing may begin. Locked while one is under way.
    next: Arc<Mutex<Option<Instant>>>,
}

impl Listings {
    pub(super) fn new(queries: mpsc::Sender<Query>, patience: Duration) -> Self {
        Self { queries, patience, next: Arc::default() }
    }

    /// A request that waits goes with its connection, and those are bounded. A listing that has begun
    /// is a task of its own: it keeps its turn to its end, also if its client has left.
    pub(super) async fn answer(&self, request: SocketRequest) -> Response {
        let end = Instant::now() + self.patience;
        let turn = async {
            let next = Arc::clone(&self.next).lock_owned().await;
            if let Some(next) = *next {
                sleep_until(next).await;
            }
            next
        };
        let Ok(next) = timeout_at(end, turn).await else { return busy() };
        let listed = tokio::spawn(list(self.queries.clone(), next, request));
        match timeout_at(end, listed).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => Unanswered::Gone.into_response(),
            Err(_) => busy(),
        }
    }
}

fn busy() -> Response {
    const AFTER: [(HeaderName, &str); 1] = [(RETRY_AFTER, "1")];
    let text = "other listings of sockets are under way, or the agent is busy\n";
    (StatusCode::SERVICE_UNAVAILABLE, AFTER, text).into_response()
}

async fn list(
    queries: mpsc::Sender<Query>,
    mut next: OwnedMutexGuard<Option<Instant>>,
    request: SocketRequest,
) -> Response {
    let (sender, answer) = oneshot::channel();
    let id = request.finding.clone();
    if queries.send(Query::Sockets(request, sender)).await.is_err() {
        return Unanswered::Gone.into_response();
    }
    let OrderedListing { selection, host, version, listing } = match answer.await {
        Ok(Ok(ordered)) => ordered,
        Ok(Err(why)) => {
            let status = match why {
                NoListing::NotFound(_) => StatusCode::NOT_FOUND,
                NoListing::Contradiction(_) => StatusCode::BAD_REQUEST,
            };
            return (status, format!("{why}\n")).into_response();
        }
        Err(_) => return Unanswered::Gone.into_response(),
    };
    match listing.await {
        Err(_) => Unanswered::Gone.into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Ok(Ok(listing)) => {
            let pause = listing.cpu_time * PAUSE;
            *next = Some(Instant::now() + pause.max(INTERVAL));
            if let Some(why) = unknown_namespace(&listing, selection.netns.as_deref()) {
                return (StatusCode::NOT_FOUND, why + "\n").into_response();
            }
            let wall = WallClock::at(listing.taken);
            let about = (id.as_deref(), selection);
            json_response(sockets_json(&listing, about, (&host, version), wall).into())
        }
    }
}

/// The fault where the namespace that was named is not seen.
pub(crate) fn unknown_namespace(listing: &SocketListing, netns: Option<&str>) -> Option<String> {
    let netns = netns.filter(|_| listing.namespaces == 0)?;
    Some(format!("no network namespace with the name {} is seen", crate::plain::text(netns)))
}
