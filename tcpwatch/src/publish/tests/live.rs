//! Streams of events over loopback: they last, they are few, and they end.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::server::{Server, answer, drain};
use crate::publish::HttpLimits;

const REQUEST: &str = "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A stream whose header has come.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(server: &Server) -> Self {
        let mut stream = Self(BufReader::new(server.send(REQUEST)));
        assert_eq!(stream.line(), "HTTP/1.1 200 OK");
        let head: Vec<_> =
            std::iter::repeat_with(|| stream.line()).take_while(|line| !line.is_empty()).collect();
        assert!(head.contains(&"content-type: text/event-stream".to_owned()), "{head:?}");
        assert!(head.contains(&"connection: close".to_owned()), "{head:?}");
        stream
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the stream has ended");
        line.trim_end().to_owned()
    }

    /// The next line that begins so; a chunked body has lines between.
    fn next(&mut self, begin: &str) -> String {
        std::iter::repeat_with(|| self.line()).find(|line| line.starts_with(begin)).unwrap()
    }
}

#[test]
fn a_stream_outlives_the_bounds_of_other_answers_and_has_an_event_for_each_change() {
    let bound = Duration::from_millis(200);
    let limits = HttpLimits {
        header: bound,
        reading: bound,
        connection: bound,
        finish: bound,
        heartbeat: Duration::from_millis(50),
        ..HttpLimits::default()
    };
    let server = Server::start(limits);
    let begun = Instant::now();
    let mut stream = Stream::open(&server);
    while begun.elapsed() < 5 * bound {
        assert_eq!(stream.next(":"), ":");
    }
    for number in ["7", "8"] {
        server.update(number.parse().unwrap());
        assert_eq!(stream.next("event"), "event: update");
        assert_eq!(stream.next("data"), format!("data: {number}"));
    }
}

#[test]
fn a_stream_has_its_own_life() {
    let limits = HttpLimits { live: Duration::from_millis(200), ..HttpLimits::default() };
    let server = Server::start(limits);
    let begun = Instant::now();
    let stream = Stream::open(&server);
    // Whole: an empty chunk ends the body.
    assert!(drain(stream.0.into_inner()).ends_with(b"0\r\n\r\n"));
    assert!(begun.elapsed() >= limits.live);
}

#[test]
fn streams_are_few_and_give_their_places_to_others() {
    // Loopback has 14 places, streams have 2.
    let server = Server::start(HttpLimits { connections: 16, ..HttpLimits::default() });
    let first = Stream::open(&server);
    let mut second = Stream::open(&server);
    let refused = server.get("/live");
    assert_eq!((refused.status, refused.text()), (503, "too many pages have live updates\n"));

    let slow: Vec<_> = (0..12).map(|_| server.send("GET /metrics HTTP/1.1\r\nX-Slow")).collect();
    assert_eq!(server.get("/-/healthy").status, 200);
    // The oldest stream is closed, and nothing else.
    drain(first.0.into_inner());
    server.update(1);
    assert_eq!(second.next("event"), "event: update");
    drop(slow);
    Stream::open(&server);
}

#[test]
fn streams_end_at_once_with_the_server() {
    let server = Server::start_with(HttpLimits::default(), Vec::new(), answer);
    let streams = [Stream::open(&server), Stream::open(&server)];
    let (took, _) = server.stop();
    assert!(took < HttpLimits::default().finish, "{took:?}");
    for stream in streams {
        assert!(drain(stream.0.into_inner()).ends_with(b"0\r\n\r\n"));
    }
}
