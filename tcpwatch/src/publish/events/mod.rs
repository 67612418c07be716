//! Events as they happen: the query and the lines of `/api/v1/events`, its readers and their streams.

mod document;
mod readers;
mod request;
mod stream;

pub use document::{DroppedBy, EventDocument, EventKind};
pub use readers::{EventFeed, EventReaders, NetnsNames, name_of};
pub use request::{EventFilter, EventsRequest, parse_network};
pub(super) use stream::EventStreams;

/// Why there is no stream; each is one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEvents {
    /// By the configuration.
    #[error("the stream of events is switched off: limits.events_per_second is 0")]
    Off,
    /// The hook is missing, or cannot be attached.
    #[error("{0}")]
    NotSeen(String),
    /// The query names a network namespace that is not seen.
    #[error("no network namespace with the name {} is seen", crate::plain::text(.0))]
    NoNamespace(String),
    /// The query selects nothing that there is.
    #[error("{0}")]
    Query(String),
}
