//! The running agent's API, on its UNIX socket.

use std::{
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use axum::body::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::agent_stream::AgentStream;
use crate::{
    plain,
    publish::{FindingsRead, NO_SUCH_PATH, SocketRequest, read_findings},
};

/// How long an answer is waited for: the agent answers from its loop, in milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Likewise for a listing of sockets: one may wait for others, and for an inventory under way.
const LISTING_PATIENCE: Duration = Duration::from_secs(15);
/// A hundred findings of each kind fit many times.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// An event is a line of some 400 bytes.
const LINE_BYTES: usize = 64 * 1024;

/// Why a running agent shows nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it answers with status {0}")]
    Status(StatusCode),
    /// In the agent's words.
    #[error("{0}")]
    Refused(String),
    #[error("its answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("it is of another version: {0}")]
    Version(#[from] serde_json::Error),
}

impl AgentError {
    /// The same of the agent at `socket`, in one line.
    pub(super) fn of(&self, socket: &Path) -> String {
        let socket = plain::path(socket);
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                format!(
                    "the socket of the running agent, {socket}, is open to root and its group only"
                )
            }
            error => format!("the agent at {socket} cannot be used: {error}"),
        }
    }
}

/// Says that what is shown is not the agent's.
pub(super) fn say_left_out(socket: &Path, error: &AgentError) {
    let line = error.of(socket);
    // A lost line costs no result.
    let _ = writeln!(io::stderr(), "tcpwatch: {}; this is a look of its own", plain::text(&line));
}

/// The findings of the agent at `socket`; `None` where none runs, or none has looked yet.
pub(super) fn findings(socket: &Path) -> Result<Option<FindingsRead>, AgentError> {
    match of_ready_agent(socket, "/api/v1/findings", PATIENCE)? {
        None | Some((StatusCode::SERVICE_UNAVAILABLE, _)) => Ok(None),
        Some((StatusCode::OK, json)) => Ok(Some(read_findings(&json)?)),
        Some((status, _)) => Err(AgentError::Status(status)),
    }
}

/// The sockets that the agent at `socket` lists, as JSON; `None` where none runs, or none has
/// looked yet.
pub(super) fn sockets(
    socket: &Path,
    request: &SocketRequest,
) -> Result<Option<String>, AgentError> {
    let path = request.path_and_query();
    let Some((status, body)) = of_ready_agent(socket, &path, LISTING_PATIENCE)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&body);
    match status {
        StatusCode::OK => Ok(Some(text.into_owned())),
        // An older agent does not know the path.
        StatusCode::NOT_FOUND if text.starts_with(NO_SUCH_PATH) => Err(AgentError::Status(status)),
        _ => Err(AgentError::Refused(text.lines().next().unwrap_or_default().to_owned())),
    }
}

/// The stream of events of the agent at `socket`; `None` where none runs.
pub(super) async fn events(
    socket: &Path,
    path: &str,
) -> Result<Option<EventLineReader>, AgentError> {
    if socket.as_os_str().is_empty() {
        return Ok(None);
    }
    let answer = timeout(LISTING_PATIENCE, async {
        let Some((sender, response)) = send(socket, path).await? else { return Ok(None) };
        let status = response.status();
        if status == StatusCode::OK {
            let body = response.into_body();
            return Ok(Some(EventLineReader { body, text: Vec::new(), at: 0, _sender: sender }));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(AgentError::Body)?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        // An older agent does not know the path.
        if status == StatusCode::NOT_FOUND && text.starts_with(NO_SUCH_PATH) {
            return Err(AgentError::Status(status));
        }
        Err(AgentError::Refused(text.lines().next().unwrap_or_default().to_owned()))
    });
    answer.await.unwrap_or(Err(AgentError::Late(LISTING_PATIENCE)))
}

/// Lines of data of a stream of server-sent events.
pub(super) struct EventLineReader {
    body: Incoming,
    /// Text that has come, and how much of it was taken.
    text: Vec<u8>,
    at: usize,
    /// The connection lives as long.
    _sender: Sender,
}

type Sender = http1::SendRequest<Empty<Bytes>>;

impl EventLineReader {
    /// The data of the next event; `None` at the end of the stream. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<String>, AgentError> {
        loop {
            while let Some(end) = self.text[self.at..].iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&self.text[self.at..self.at + end]);
                self.at += end + 1;
                if let Some(data) = line.trim_end().strip_prefix("data: ") {
                    return Ok(Some(data.to_owned()));
                }
            }
            self.text.drain(..self.at);
            self.at = 0;
            if self.text.len() > LINE_BYTES {
                let why = format!("a line of more than {LINE_BYTES} bytes");
                return Err(AgentError::Body(why.into()));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Some(data) = frame?.data_ref() {
                self.text.extend_from_slice(data);
            }
        }
    }
}

/// The answer of an agent that has looked; `None` where there is none.
fn of_ready_agent(
    socket: &Path,
    path: &str,
    patience: Duration,
) -> Result<Option<(StatusCode, Bytes)>, AgentError> {
    if socket.as_os_str().is_empty() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = timeout(patience, async {
            match get(socket, "/-/ready").await? {
                None | Some((StatusCode::SERVICE_UNAVAILABLE, _)) => Ok(None),
                Some((StatusCode::OK, _)) => get(socket, path).await,
                Some((status, _)) => Err(AgentError::Status(status)),
            }
        });
        answer.await.unwrap_or(Err(AgentError::Late(patience)))
    })
}

/// The body of a good answer; `None` where no agent listens, or it is not ready.
pub(super) async fn body(socket: &Path, path: &str) -> Result<Option<Bytes>, AgentError> {
    match get(socket, path).await? {
        None | Some((StatusCode::SERVICE_UNAVAILABLE, _)) => Ok(None),
        Some((StatusCode::OK, body)) => Ok(Some(body)),
        Some((status, _)) => Err(AgentError::Status(status)),
    }
}

/// An answer; `None` where no agent listens.
async fn get(socket: &Path, path: &str) -> Result<Option<(StatusCode, Bytes)>, AgentError> {
    let Some((_sender, response)) = send(socket, path).await? else { return Ok(None) };
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    Ok(Some((status, body.map_err(AgentError::Body)?.to_bytes())))
}

/// Sends a request and waits for the head of its answer; `None` where no agent listens.
async fn send(
    socket: &Path,
    path: &str,
) -> Result<Option<(Sender, Response<Incoming>)>, AgentError> {
    let stream = match AgentStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the runtime.
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() =
        path.parse().expect("a path whose values are percent-encoded is an address");
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let response = sender.send_request(request).await?;
    Ok(Some((sender, response)))
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
