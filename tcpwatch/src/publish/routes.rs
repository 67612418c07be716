//! The paths, and how each is answered by the agent's loop.
//!
//! A request becomes a [`Query`] that the loop answers at once, since it owns all state. At most
//! one query of each kind is under way, and its answer serves all requests for a moment. So the
//! loop gets a few queries a second, however many clients there are. If it does not answer, the
//! client gets an error that says so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{Path, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
            VARY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::{from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout},
};
use tower_http::{CompressionLevel, compression::CompressionLayer};

use super::{
    Access, EventFeed, EventsRequest, Hosts, HttpLimits, NoEvents, NoListing, OrderedListing,
    SocketRequest, access,
    events::EventStreams,
    exposition_format::{Format, open_metrics},
    hosts,
    listing::Listings,
    live::Live,
    page,
    places::Peer,
    render_runbook,
    selection::Selection,
};

/// How the answer for an unknown path begins.
pub const NO_SUCH_PATH: &str = "no such path";

/// Different selections that are made within the life of an answer, so five times as many a second.
const SELECTIONS: usize = 8;

/// The page loads and connects to nothing but this server, runs nothing that stands within it, and
/// is in no frame.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                           connect-src 'self'; img-src 'self'; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'";

const PAGE_HEADERS: [(HeaderName, &str); 3] = [
    (CONTENT_TYPE, "text/html; charset=utf-8"),
    (CONTENT_SECURITY_POLICY, PAGE_POLICY),
    (REFERRER_POLICY, "no-referrer"),
];

/// Every path with what it serves, in Markdown: the table of `docs/API.md`.
pub const PATHS: [(&str, &str); 11] = [
    ("/", "the page for people: findings, limits, plots of the last hour"),
    (
        "/live",
        "server-sent events for the page: `update` after each inventory. An eighth of \
         `limits.http_connections` can be streams; one more gets 503",
    ),
    (
        "/metrics",
        "the [metrics](METRICS.md), in the Prometheus text format 0.0.4, or in OpenMetrics 1.0 for a client that \
         prefers it, with gzip on request",
    ),
    (
        "/runbooks/KIND",
        "the runbook of a kind of finding as a page; of the alerts about tcpwatch: `agent`",
    ),
    ("/api/v1/findings", "the findings that stand; `?kind=KIND&severity=SEVERITY`"),
    (
        "/api/v1/history",
        "the same with those that have ended within a day; `?kind=KIND&severity=SEVERITY`",
    ),
    ("/api/v1/status", "the state of the agent"),
    (
        "/api/v1/sockets",
        "the sockets of `?finding=ID`, or of `?state=close_wait,last_ack`, `process`, `unit`, \
         `container`, `netns`, `port`; `limit` is 100, at most 1000",
    ),
    (
        "/api/v1/events",
        "server-sent events as they happen: `?port=443&peer=10.0.0.0/8&process=NAME&state=close_wait\
         &netns=NAME`. A quarter of `limits.http_connections` can be such streams; one more gets 503",
    ),
    ("/-/healthy", "200 while the HTTP server runs"),
    (
        "/-/ready",
        "200 once hooks are attached and a first inventory is done; else 503 and the reason",
    ),
];

/// A query to the agent's loop, with the channel for the answer. Its receiver may be gone.
#[derive(Debug)]
pub enum Query {
    /// The metrics, in Prometheus text format.
    Metrics(oneshot::Sender<String>),
    /// The findings, as JSON.
    Findings(oneshot::Sender<String>),
    /// The findings of the last day, as JSON.
    History(oneshot::Sender<String>),
    /// The state of the agent, as JSON.
    Status(oneshot::Sender<String>),
    /// The sockets of a request: the listing that is ordered, or why there is none.
    Sockets(SocketRequest, oneshot::Sender<Result<OrderedListing, NoListing>>),
    /// The stream of events of a request, or why there is none.
    Events(EventsRequest, oneshot::Sender<Result<EventFeed, NoEvents>>),
    /// The page, as HTML.
    Page(oneshot::Sender<String>),
    /// Whether hooks are attached and a first inventory is done; if not, why not.
    Ready(oneshot::Sender<Result<(), String>>),
}

/// All paths.
pub(super) fn router(
    queries: mpsc::Sender<Query>,
    (live, events): (Live, EventStreams),
    limits: HttpLimits,
    (hosts, access): (Hosts, Access),
) -> Router {
    let listings = Listings::new(queries.clone(), limits.answer);
    let agent = Agent(Arc::new(Shared {
        queries,
        answer_timeout: limits.answer,
        freshness: limits.freshness,
        metrics: Mutex::default(),
        findings: Mutex::default(),
        history: Mutex::default(),
        status: Mutex::default(),
        selected: Mutex::default(),
        page: Mutex::default(),
        ready: Mutex::default(),
        listings,
        events,
    }));
    let mut router = Router::new();
    for (path, content_type, text) in page::FILES {
        router =
            router.route(path, get(move || async move { ([(CONTENT_TYPE, content_type)], text) }));
    }
    router
        .route("/", get(page_of_findings))
        .route(
            "/live",
            get(move |peer: Option<Extension<Peer>>| async move { live.stream(peer_of(peer)) }),
        )
        .route("/metrics", get(metrics))
        .route("/runbooks/{name}", get(runbook_page))
        .route("/-/healthy", get(|| async { "tcpwatch is healthy.\n" }))
        .route("/-/ready", get(ready))
        .route("/api/v1/findings", get(findings))
        .route("/api/v1/history", get(history))
        .route("/api/v1/status", get(status))
        .route("/api/v1/sockets", get(sockets))
        .route("/api/v1/events", get(events_as_they_happen))
        .fallback(|| async {
            (StatusCode::NOT_FOUND, format!("{NO_SUCH_PATH}; / lists what there is\n"))
        })
        .method_not_allowed_fallback(|| async {
            (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n")
        })
        .layer(from_fn_with_state(Arc::new(hosts), hosts::check))
        .layer(from_fn_with_state(access, access::guard))
        .layer(map_response(with_safe_headers))
        // The fastest level: it already takes nine tenths off, and its time is the agent's.
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .with_state(agent)
}

/// The peer of a request; it is known of each that came through a socket.
fn peer_of(peer: Option<Extension<Peer>>) -> Peer {
    peer.map_or(Peer::UNKNOWN, |Extension(peer)| peer)
}

async fn page_of_findings(State(agent): State<Agent>) -> Result<Response, Unanswered> {
    let html = agent.answer(|all| &all.page, Query::Page, Bytes::from).await?;
    Ok((PAGE_HEADERS, html).into_response())
}

/// The runbooks are part of the binary, so this needs nothing of the agent's loop.
async fn runbook_page(Path(name): Path<String>) -> Response {
    match render_runbook(&name) {
        Some(html) => (PAGE_HEADERS, html).into_response(),
        None => (StatusCode::NOT_FOUND, "no such runbook\n").into_response(),
    }
}

async fn metrics(State(agent): State<Agent>, headers: HeaderMap) -> Result<Response, Unanswered> {
    let text = agent.answer(|all| &all.metrics, Query::Metrics, Bytes::from).await?;
    let format = Format::of(&headers);
    let text = match format {
        Format::Text => text,
        Format::OpenMetrics => open_metrics(&String::from_utf8_lossy(&text)).into(),
    };
    // A cache keeps one answer for each format.
    let headers = [(CONTENT_TYPE, format.content_type()), (VARY, "accept")];
    Ok((headers, text).into_response())
}

async fn findings(State(agent): State<Agent>, uri: Uri) -> Result<Response, Unanswered> {
    let json = agent.answer(|all| &all.findings, Query::Findings, Bytes::from).await?;
    Ok(selected(&agent, "findings", &uri, json).await)
}

async fn sockets(State(agent): State<Agent>, uri: Uri) -> Response {
    match SocketRequest::of(&uri) {
        Ok(request) => agent.0.listings.answer(request).await,
        Err(why) => (StatusCode::BAD_REQUEST, why + "\n").into_response(),
    }
}

async fn events_as_they_happen(
    State(agent): State<Agent>,
    peer: Option<Extension<Peer>>,
    uri: Uri,
) -> Response {
    match EventsRequest::of(&uri) {
        Ok(request) => agent.0.events.stream(request, peer_of(peer)).await,
        Err(why) => (StatusCode::BAD_REQUEST, why + "\n").into_response(),
    }
}

async fn history(State(agent): State<Agent>, uri: Uri) -> Result<Response, Unanswered> {
    let json = agent.answer(|all| &all.history, Query::History, Bytes::from).await?;
    Ok(selected(&agent, "history", &uri, json).await)
}

async fn status(State(agent): State<Agent>, uri: Uri) -> Result<Response, Unanswered> {
    if uri.query().is_some_and(|query| !query.is_empty()) {
        let why = "the query is refused: the status takes no parameters\n";
        return Ok((StatusCode::BAD_REQUEST, why).into_response());
    }
    let json = agent.answer(|all| &all.status, Query::Status, Bytes::from).await?;
    Ok(json_response(json))
}

/// The part of a document that the query of a request selects.
async fn selected(agent: &Agent, document: &'static str, uri: &Uri, json: Bytes) -> Response {
    let selection = match Selection::of(uri) {
        Ok(selection) if selection.is_all() => return json_response(json),
        Ok(selection) => (document, selection),
        Err(why) => return (StatusCode::BAD_REQUEST, why + "\n").into_response(),
    };
    // Reading and writing a document costs the loop's thread as much as making it, so the result
    // serves others too.
    let mut last = agent.0.selected.lock().await;
    last.retain(|_, (came, _)| came.elapsed() < agent.0.freshness);
    if let Some((_, json)) = last.get(&selection) {
        return json_response(json.clone());
    }
    if last.len() >= SELECTIONS {
        const AFTER: [(HeaderName, &str); 1] = [(RETRY_AFTER, "1")];
        let text = "too many different queries at once\n";
        return (StatusCode::SERVICE_UNAVAILABLE, AFTER, text).into_response();
    }
    match selection.1.apply(&json).map(Bytes::from) {
        Ok(json) => {
            last.insert(selection, (Instant::now(), json.clone()));
            json_response(json)
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

pub(super) fn json_response(json: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], json).into_response()
}

async fn ready(State(agent): State<Agent>) -> Result<Response, Unanswered> {
    Ok(match agent.answer(|all| &all.ready, Query::Ready, |ready| ready).await? {
        Ok(()) => "tcpwatch is ready.\n".into_response(),
        Err(reason) => {
            let text = format!("tcpwatch is not ready: {reason}\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    })
}

/// Nothing is to be kept by a proxy or guessed at by a browser.
async fn with_safe_headers(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 2] =
        [(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The agent's loop, from here.
#[derive(Clone)]
struct Agent(Arc<Shared>);

struct Shared {
    queries: mpsc::Sender<Query>,
    answer_timeout: Duration,
    freshness: Duration,
    metrics: Last<Bytes>,
    findings: Last<Bytes>,
    history: Last<Bytes>,
    status: Last<Bytes>,
    /// Parts of the findings, and of the history, that were selected a moment ago.
    selected: Mutex<Selected>,
    page: Last<Bytes>,
    ready: Last<Result<(), String>>,
    listings: Listings,
    events: EventStreams,
}

/// Parts by document and selection, each with when it was made.
type Selected = BTreeMap<(&'static str, Selection), (Instant, Bytes)>;

/// The last answer with when it came. Locked while the next one is awaited, so that all waiting
/// requests get that one.
type Last<A> = Mutex<Option<(Instant, A)>>;

impl Agent {
    /// Queries on a task of its own: an answer under way serves other requests too, even if the
    /// first connection is closed meanwhile.
    async fn answer<R: Send + 'static, A: Clone + Send + 'static>(
        &self,
        last: fn(&Shared) -> &Last<A>,
        query: fn(oneshot::Sender<R>) -> Query,
        keep: fn(R) -> A,
    ) -> Result<A, Unanswered> {
        let shared = Arc::clone(&self.0);
        let patience = shared.answer_timeout;
        let answer = async move {
            let mut last = last(&shared).lock().await;
            if let Some((came, answer)) = &*last
                && came.elapsed() < shared.freshness
            {
                return Ok(answer.clone());
            }
            let (sender, answer) = oneshot::channel();
            shared.queries.send(query(sender)).await.map_err(|_| Unanswered::Gone)?;
            let answer = keep(answer.await.map_err(|_| Unanswered::Gone)?);
            *last = Some((Instant::now(), answer.clone()));
            Ok(answer)
        };
        let answer = tokio::spawn(timeout(patience, answer)).await;
        answer.map_err(|_| Unanswered::Gone)?.unwrap_or(Err(Unanswered::Late))
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unanswered {
    /// The loop is busy or stuck.
    Late,
    /// The loop has ended, or has dropped the query.
    Gone,
}

impl IntoResponse for Unanswered {
    fn into_response(self) -> Response {
        let text = match self {
            Self::Late => "the agent does not answer in time\n",
            Self::Gone => "the agent is stopping\n",
        };
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}
