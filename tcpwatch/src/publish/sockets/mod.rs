//! Sockets for scripts: the query of `/api/v1/sockets`, and its body, written and read.

mod document;
mod request;

pub use document::{SocketDocument, SocketsDocument, read_sockets, sockets_json};
pub use request::{SocketRequest, parse_states};

use tokio::sync::oneshot;

use crate::facts::{SocketListing, SocketSelection};

/// A listing that the agent has ordered, with what its document says besides.
#[derive(Debug)]
pub struct OrderedListing {
    /// The selection: that of the request, and of the finding that it names.
    pub selection: SocketSelection,
    /// The host's name.
    pub host: String,
    /// Version of tcpwatch.
    pub version: &'static str,
    /// The listing, or why there is none.
    pub listing: oneshot::Receiver<Result<SocketListing, String>>,
}

/// Why nothing is listed; each is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoListing {
    /// No such finding or namespace, or no socket of it can be listed.
    #[error("{0}")]
    NotFound(String),
    /// The parameters exclude each other.
    #[error("{0}")]
    Contradiction(String),
}
