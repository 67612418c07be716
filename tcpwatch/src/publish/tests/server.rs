//! The HTTP server over loopback: its answers, and its bounds against bad clients.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};

use crate::publish::{EventFilter, EventReaders, HttpLimits, Listener, PATHS, Query, serve};

const METRICS: &str = "# TYPE tcpwatch_up gauge\ntcpwatch_up 1\n# a comment to make it longer\n";

/// Longer than anything here should take, shorter than a developer's patience.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on a thread of its own, stopped when dropped.
pub(super) struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    updates: watch::Sender<u64>,
    /// Gives the processor time that serving took.
    thread: Option<JoinHandle<Duration>>,
}

impl Server {
    pub(super) fn start(limits: HttpLimits) -> Self {
        Self::start_with(limits, Vec::new(), answer)
    }

    pub(super) fn start_with(
        limits: HttpLimits,
        mut listeners: Vec<TcpListener>,
        agent: impl Fn(Query) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listeners.push(listener);
        let (stop, stopping) = watch::channel(false);
        let (updates, changes) = watch::channel(0);
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (sender, mut queries) = mpsc::channel(4);
                tokio::spawn(async move {
                    while let Some(query) = queries.recv().await {
                        agent(query);
                    }
                });
                let listeners = listeners.into_iter().map(|listener| {
                    listener.set_nonblocking(true).unwrap();
                    Listener::Tcp(tokio::net::TcpListener::from_std(listener).unwrap())
                });
                let (listeners, hosts) = (listeners.collect(), Default::default());
                serve(listeners, sender, changes, limits, hosts, stopping).await;
            });
            let used = clock_gettime(ClockId::ThreadCPUTime);
            Duration::new(used.tv_sec.unsigned_abs(), used.tv_nsec as u32)
        });
        Self { address, stop, updates, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(super) fn send(&self, request: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn request(&self, method: &str, path: &str, header: &str) -> Response {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"
        );
        Response::read(self.send(&request))
    }

    pub(super) fn get(&self, path: &str) -> Response {
        self.request("GET", path, "")
    }

    /// The agent has news.
    pub(super) fn update(&self, number: u64) {
        self.updates.send(number).unwrap();
    }

    /// Stops it; gives the time that took and the processor time of its life.
    pub(super) fn stop(mut self) -> (Duration, Duration) {
        let begun = Instant::now();
        self.stop.send(true).unwrap();
        let used = self.thread.take().unwrap().join().unwrap();
        (begun.elapsed(), used)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) struct Response {
    pub(super) status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole header");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(super) fn answer(query: Query) {
    // The receiver may have gone.
    let _ = match query {
        Query::Metrics(to) => to.send(METRICS.to_owned()),
        Query::Findings(to) | Query::History(to) | Query::Status(to) => {
            to.send("{\"findings\":[]}\n".to_owned())
        }
        // `listings` has an agent that answers it.
        Query::Sockets(..) => Ok(()),
        Query::Page(to) => to.send("<!doctype html><title>tcpwatch</title>\n".to_owned()),
        // A stream that has ended.
        Query::Events(_, to) => {
            let feed = EventReaders::default().add(EventFilter::default());
            to.send(Ok(feed)).map_err(|_| String::new())
        }
        Query::Ready(to) => to.send(Ok(())).map_err(|_| String::new()),
    };
}

/// Waits until the server has closed `stream`, and returns its data.
pub(super) fn drain(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => bytes,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => bytes,
        Err(error) => panic!("not closed: {error}"),
    }
}

#[test]
fn paths_answer_with_their_content_types() {
    let server = Server::start(HttpLimits::default());
    for (path, content_type, body) in [
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", METRICS),
        ("/", "text/html; charset=utf-8", "<!doctype html><title>tcpwatch</title>\n"),
        ("/api/v1/findings", "application/json", "{\"findings\":[]}\n"),
        ("/api/v1/history", "application/json", "{\"findings\":[]}\n"),
        ("/api/v1/status", "application/json", "{\"findings\":[]}\n"),
        ("/-/healthy", "text/plain; charset=utf-8", "tcpwatch is healthy.\n"),
        ("/-/ready", "text/plain; charset=utf-8", "tcpwatch is ready.\n"),
    ] {
        let response = server.get(path);
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("content-type"), Some(content_type), "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(response.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(response.text(), body, "{path}");
    }
    // Streams of events have tests of their own.
    let is_stream = |path: &str| ["/live", "/api/v1/events"].contains(&path);
    for (path, _) in PATHS.into_iter().filter(|(path, _)| !is_stream(path)) {
        // The agent of these tests lists no sockets.
        let expected = if path == "/api/v1/sockets" { 503 } else { 200 };
        assert_eq!(server.get(&path.replace("KIND", "agent")).status, expected, "{path}");
    }
    for (path, content_type, begin) in [
        ("/page.css", "text/css; charset=utf-8", "/* The colours"),
        ("/page.js", "text/javascript; charset=utf-8", "// Keeps the page"),
        ("/favicon.svg", "image/svg+xml", "<svg"),
    ] {
        let file = server.get(path);
        assert_eq!((file.status, file.header("content-type")), (200, Some(content_type)), "{path}");
        assert!(file.text().starts_with(begin), "{path}");
    }
    let runbook = server.get("/runbooks/syn-flood");
    assert_eq!(runbook.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(runbook.text().contains("<h1 id=\"syn-flood\">syn-flood</h1>"), "{}", runbook.text());
    for path in ["/", "/runbooks/syn-flood"] {
        let policy = server.get(path).header("content-security-policy").unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
    assert_eq!(server.get("/api/v1/findings?severity=info").status, 200);
    let refused = server.get("/api/v1/findings?severity=bad");
    assert_eq!((refused.status, refused.text().lines().count()), (400, 1));
    assert_eq!(server.get("/api/v1/status?kind=syn-flood").status, 400);
    let missing = ["/runbooks/", "/runbooks/nonsense", "/runbooks/..%2f..%2fREADME"];
    assert_eq!(missing.map(|path| server.get(path).status), [404; 3]);
    assert_eq!(server.get("/runbooks/%ff").status, 400);
}

#[test]
fn metrics_are_compressed_only_for_clients_that_accept_it() {
    let server = Server::start(HttpLimits::default());
    let plain = server.get("/metrics");
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.header("content-length"), Some(METRICS.len().to_string().as_str()));
    // HTTP/1.0, so that the body is not chunked.
    let request = "GET /metrics HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n";
    let packed = Response::read(server.send(request));
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*packed.body).read_to_string(&mut text).unwrap();
    assert_eq!(text, METRICS);
}

#[test]
fn head_is_get_without_a_body() {
    let server = Server::start(HttpLimits::default());
    for path in ["/", "/metrics", "/-/healthy", "/-/ready", "/api/v1/findings"] {
        let response = server.request("HEAD", path, "");
        assert_eq!((response.status, response.text()), (200, ""), "{path}");
        assert_eq!(response.header("content-type"), server.get(path).header("content-type"));
    }
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let server = Server::start(HttpLimits::default());
    for path in ["/nothing", "/metrics/", "//", "/..%2f", "/metrics%00"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let response = server.request(method, "/metrics", "");
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), Some("get,head"), "{method}");
    }
}

#[test]
fn bodies_are_not_read() {
    let server = Server::start(HttpLimits::default());
    let response = server.request("POST", "/metrics", "Content-Length: 1000000000\r\n");
    assert_eq!(response.status, 405);
    let response = server.request("GET", "/metrics", "Content-Length: 1000000000\r\n");
    assert_eq!((response.status, response.text()), (200, METRICS));
}

#[test]
fn not_ready_says_why() {
    let server = Server::start_with(HttpLimits::default(), Vec::new(), |query| {
        if let Query::Ready(to) = query {
            to.send(Err("no inventory yet".to_owned())).unwrap();
        }
    });
    let response = server.get("/-/ready");
    assert_eq!(response.status, 503);
    assert_eq!(response.text(), "tcpwatch is not ready: no inventory yet\n");
}

#[test]
fn agent_that_does_not_answer_is_reported() {
    let limits = HttpLimits { answer: Duration::from_millis(100), ..HttpLimits::default() };
    let forgotten = |query| std::mem::forget(query);
    let server = Server::start_with(limits, Vec::new(), forgotten);
    let response = server.get("/metrics");
    assert_eq!((response.status, response.text()), (503, "the agent does not answer in time\n"));
    assert_eq!(server.get("/-/healthy").status, 200);

    let server = Server::start_with(limits, Vec::new(), drop);
    let response = server.get("/metrics");
    assert_eq!((response.status, response.text()), (503, "the agent is stopping\n"));
}

#[test]
fn many_requests_are_few_queries() {
    let queries = Arc::new(AtomicUsize::new(0));
    let counter = queries.clone();
    let limits = HttpLimits { freshness: PATIENCE, ..HttpLimits::default() };
    let server = Server::start_with(limits, Vec::new(), move |query| {
        counter.fetch_add(1, Ordering::Relaxed);
        answer(query);
    });
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(server.get("/metrics").text(), METRICS);
                }
            });
        }
    });
    assert_eq!(queries.load(Ordering::Relaxed), 1);
}

#[test]
fn connection_serves_several_requests() {
    let server = Server::start(HttpLimits::default());
    let mut stream = server.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut bytes = [0; 1024];
        let mut length = 0;
        while !bytes[..length].ends_with(b"healthy.\n") {
            let read = stream.read(&mut bytes[length..]).unwrap();
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&bytes[..length]));
            length += read;
        }
    }
}

#[test]
fn slow_and_idle_clients_are_closed_in_time() {
    let limits = HttpLimits { header: Duration::from_millis(200), ..HttpLimits::default() };
    let server = Server::start(limits);
    let begun = Instant::now();
    let silent = server.connect();
    let slow = server.send("GET /metrics HTTP/1.1\r\nX-Never: end");
    let idle = server.send("GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(drain(silent), b"");
    drain(slow);
    assert!(drain(idle).starts_with(b"HTTP/1.1 200 OK"));
    assert!(begun.elapsed() >= limits.header && begun.elapsed() < PATIENCE / 2);
}

#[test]
fn client_that_trickles_its_header_is_closed_in_time() {
    let limits = HttpLimits { header: Duration::from_millis(200), ..HttpLimits::default() };
    let server = Server::start(limits);
    let mut stream = server.send("GET /metrics HTTP/1.1\r\n");
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && stream.write_all(b"X: y\r\n").is_ok() {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(begun.elapsed() < PATIENCE / 2);
}

/// Answers `/metrics` with more than the socket buffers of both ends take.
fn answer_at_length(query: Query) {
    match query {
        Query::Metrics(to) => drop(to.send("x".repeat(64 << 20))),
        other => answer(other),
    }
}

#[test]
fn client_that_does_not_read_is_closed_in_time() {
    let limits = HttpLimits { reading: Duration::from_millis(300), ..HttpLimits::default() };
    let server = Server::start_with(limits, Vec::new(), answer_at_length);
    let deaf = server.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // Twice the time, and a second for a busy machine.
    thread::sleep(limits.reading * 2 + Duration::from_secs(1));
    assert!(drain(deaf).len() < 64 << 20, "closed before it had all");
}

#[test]
fn new_connection_takes_the_place_of_one_that_does_not_read() {
    let limits = HttpLimits { connections: 1, ..HttpLimits::default() };
    let server = Server::start_with(limits, Vec::new(), answer_at_length);
    let deaf = server.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.get("/-/healthy").status, 200);
    assert!(drain(deaf).len() < 64 << 20, "closed before it had all");
}

#[test]
fn new_connection_takes_the_place_of_the_one_that_waits_longest() {
    let server = Server::start(HttpLimits { connections: 2, ..HttpLimits::default() });
    let first = server.send("GET /metrics HTTP/1.1\r\nX-Slow");
    thread::sleep(Duration::from_millis(50));
    let mut second = server.connect();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(server.get("/metrics").text(), METRICS);
    assert_eq!(drain(first), b"");
    second.write_all(b"GET /-/healthy HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(Response::read(second).status, 200, "its place is its own");
}

#[test]
fn answer_under_way_is_not_lost_with_its_connection() {
    let (arrived, arrivals) = std::sync::mpsc::channel();
    let limits = HttpLimits { freshness: PATIENCE, ..HttpLimits::default() };
    let server = Server::start_with(limits, Vec::new(), move |query| {
        arrived.send(()).unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            answer(query);
        });
    });
    for _ in 0..10 {
        drop(server.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    }
    assert_eq!(server.get("/metrics").text(), METRICS);
    assert_eq!(arrivals.try_iter().count(), 1);
}

#[test]
fn metrics_answer_while_many_slow_clients_hang() {
    let server = Server::start(HttpLimits::default());
    let hanging: Vec<_> =
        (0..200).map(|_| server.send("GET /metrics HTTP/1.1\r\nX-Slow")).collect();
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(server.get("/metrics").text(), METRICS);
    }
    assert!(begun.elapsed() < HttpLimits::default().header, "they still hang");
    drop(hanging);
}

#[test]
fn garbage_is_refused_and_harms_no_client() {
    let server = Server::start(HttpLimits::default());
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(64 * 1024));
    let long_header = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1_000));
    for garbage in [
        "\r\n\r\n\r\n\r\nnonsense\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{0}\u{a5}\u{1}\u{0}\u{0}a TLS hello\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nBad Name: x\r\n\r\n",
        &long_path,
        &long_header,
        &many_headers,
    ] {
        let mut stream = server.connect();
        // The server may close before it has read all.
        let _ = stream.write_all(garbage.as_bytes());
        let answer = drain(stream);
        let answer = String::from_utf8_lossy(&answer);
        let shown: String = garbage.chars().take(40).collect();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
    }
    let mut state = 1_u32;
    for _ in 0..50 {
        let noise: Vec<u8> = (0..512)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let _ = server.connect().write_all(&noise);
    }
    assert_eq!(server.get("/metrics").text(), METRICS);
}

#[test]
fn failing_listener_neither_spins_nor_stops_the_others() {
    // A socket that does not listen: accept() fails at once, every time, as it does without free
    // descriptors.
    let deaf = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    );
    let deaf = TcpListener::from(deaf.unwrap());
    let server = Server::start_with(HttpLimits::default(), vec![deaf], answer);
    for _ in 0..3 {
        assert_eq!(server.get("/metrics").status, 200);
    }
    let begun = Instant::now();
    thread::sleep(Duration::from_millis(500));
    let (_, used) = server.stop();
    // A loop that spins uses all of that time.
    let passed = begun.elapsed();
    assert!(used < passed / 2, "used {used:?} of processor time in {passed:?}");
}

#[test]
fn stopping_lets_requests_finish_and_takes_no_longer_than_allowed() {
    let limits = HttpLimits { finish: Duration::from_millis(500), ..HttpLimits::default() };
    let (arrived, arrivals) = std::sync::mpsc::channel();
    let server = Server::start_with(limits, Vec::new(), move |query| {
        arrived.send(()).unwrap();
        if let Query::Metrics(to) = query {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let _ = to.send(METRICS.to_owned());
            });
        } else {
            std::mem::forget(query);
        }
    });
    let address = server.address;
    let idle = server.connect();
    let stuck = server.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    arrivals.recv_timeout(PATIENCE).unwrap();
    let under_way = server.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    arrivals.recv_timeout(PATIENCE).unwrap();
    let (took, _) = server.stop();
    assert!(took >= limits.finish && took < limits.finish * 3, "{took:?}");
    assert_eq!(Response::read(under_way).text(), METRICS);
    assert_eq!(drain(stuck), b"");
    assert_eq!(drain(idle), b"");
    assert!(TcpStream::connect(address).is_err(), "the listener is closed");
}

#[test]
fn idle_server_stops_at_once() {
    let server = Server::start(HttpLimits::default());
    let _idle = server.connect();
    assert_eq!(server.get("/metrics").status, 200);
    let (took, _) = server.stop();
    assert!(took < HttpLimits::default().finish, "{took:?}");
}
