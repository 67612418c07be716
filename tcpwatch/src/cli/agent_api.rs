//! The running agent's API, on its UNIX socket.

use std::{io, path::Path, time::Duration};

use axum::body::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use crate::publish::{FindingsRead, read_findings};

/// How long an answer is waited for: the agent answers from its loop, in milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// A hundred findings of each kind fit many times.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Why a running agent shows nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("it answers with status {0}")]
    Status(StatusCode),
    #[error("its answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("it is of another version: {0}")]
    Version(#[from] serde_json::Error),
}

/// The findings of the agent at `socket`; `None` where none runs, or none has looked yet.
pub(super) fn findings(socket: &Path) -> Result<Option<FindingsRead>, AgentError> {
    if socket.as_os_str().is_empty() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = timeout(PATIENCE, async {
            if get(socket, "/-/ready").await?.is_none() {
                return Ok(None);
            }
            get(socket, "/api/v1/findings").await
        });
        match answer.await {
            Err(_) => Err(AgentError::Late),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(json))) => Ok(Some(read_findings(&json)?)),
        }
    })
}

/// The body of an answer; `None` where no agent listens, or it is not ready.
pub(super) async fn get(socket: &Path, path: &'static str) -> Result<Option<Bytes>, AgentError> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the runtime.
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = hyper::Uri::from_static(path);
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let response = sender.send_request(request).await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::SERVICE_UNAVAILABLE => return Ok(None),
        status => return Err(AgentError::Status(status)),
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    Ok(Some(body.map_err(AgentError::Body)?.to_bytes()))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
