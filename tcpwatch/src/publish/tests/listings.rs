//! Listings of sockets over HTTP: how each is answered, and that they are one at a time and
//! throttled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::server::Server;
use crate::{
    facts::{SocketListing, SocketSelection, Timestamp},
    publish::{HttpLimits, NoListing, OrderedListing, Query},
};

fn ordered(listing: oneshot::Receiver<Result<SocketListing, String>>) -> OrderedListing {
    OrderedListing {
        selection: SocketSelection { netns: Some("blue".to_owned()), ..SocketSelection::default() },
        host: "here".to_owned(),
        version: "1",
        listing,
    }
}

fn listing(namespaces: usize, cpu_time: Duration) -> SocketListing {
    SocketListing {
        taken: Timestamp::from_ns(1),
        cpu_time,
        namespaces,
        left_out: 0,
        total: 0,
        total_is_exact: true,
        examined: 0,
        sockets: Vec::new(),
    }
}

/// A server whose agent answers each listing so.
fn server(outcome: impl Fn() -> Result<SocketListing, String> + Send + 'static) -> Server {
    Server::start_with(HttpLimits::default(), Vec::new(), move |query| {
        if let Query::Sockets(_, to) = query {
            let (sender, receiver) = oneshot::channel();
            let _ = sender.send(outcome());
            let _ = to.send(Ok(ordered(receiver)));
        }
    })
}

#[test]
fn a_listing_is_json_and_a_failure_one_line() {
    let good = server(|| Ok(listing(1, Duration::ZERO))).get("/api/v1/sockets?netns=blue");
    assert_eq!(good.status, 200);
    assert_eq!(good.header("content-type"), Some("application/json"));
    assert!(
        good.text().contains(r#""total":0,"total_is_exact":true,"examined":0,"truncated":false"#)
    );
    let unseen = server(|| Ok(listing(0, Duration::ZERO))).get("/api/v1/sockets?netns=blue");
    assert_eq!(unseen.status, 404);
    assert_eq!(unseen.text(), "no network namespace with the name blue is seen\n");
    let failed = server(|| Err("no map".to_owned())).get("/api/v1/sockets");
    assert_eq!((failed.status, failed.text()), (500, "no map\n"));
    let bad = server(|| Err(String::new())).get("/api/v1/sockets?limit=0");
    assert_eq!(bad.status, 400);
    assert_eq!(bad.text(), "the query is refused: `limit` is from 1 to 1000\n");
}

#[test]
fn a_finding_that_does_not_hold_is_404_and_parameters_that_exclude_each_other_400() {
    for (why, status) in [
        (NoListing::NotFound("gone".to_owned()), 404),
        (NoListing::Contradiction("both".to_owned()), 400),
    ] {
        let line = format!("{why}\n");
        let server = Server::start_with(HttpLimits::default(), Vec::new(), move |query| {
            if let Query::Sockets(_, to) = query {
                let _ = to.send(Err(why.clone()));
            }
        });
        let response = server.get("/api/v1/sockets?finding=x");
        assert_eq!((response.status, response.text()), (status, &*line));
    }
}

#[test]
fn the_next_listing_waits_a_second_or_nine_times_what_the_last_one_took() {
    for (cpu_time, pause) in [(Duration::ZERO, 1_000), (Duration::from_millis(150), 1_350)] {
        let server = server(move || Ok(listing(1, cpu_time)));
        assert_eq!(server.get("/api/v1/sockets").status, 200);
        let began = Instant::now();
        assert_eq!(server.get("/api/v1/sockets").status, 200);
        // The first answer came a moment after its listing ended.
        let waited = began.elapsed() + Duration::from_millis(100);
        assert!(waited >= Duration::from_millis(pause), "{waited:?}");
    }
}

/// However many clients there are, and however soon they leave.
#[test]
fn one_listing_is_under_way_and_late_clients_get_503_with_retry_after() {
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&orders);
    let limits = HttpLimits { answer: Duration::from_millis(500), ..HttpLimits::default() };
    // Channels that never answer, as of a walker that is busy.
    let kept = std::sync::Mutex::new(Vec::new());
    let server = Server::start_with(limits, Vec::new(), move |query| {
        if let Query::Sockets(_, to) = query {
            counted.fetch_add(1, Ordering::Relaxed);
            let (sender, receiver) = oneshot::channel();
            kept.lock().unwrap().push(sender);
            let _ = to.send(Ok(ordered(receiver)));
        }
    });
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let response = server.get("/api/v1/sockets");
                assert_eq!(response.status, 503, "{}", response.text());
                assert_eq!(response.header("retry-after"), Some("1"));
            });
        }
    });
    assert_eq!(orders.load(Ordering::Relaxed), 1);
}
