//! Shows findings and samples: the only place that knows HTTP and Prometheus.
//!
//! - [`Metrics`] turns samples and counters into the text that Prometheus scrapes; [`CATALOG`] is
//!   the list of all metrics, from which the table in docs/METRICS.md is made.
//! - [`findings_json`] and [`render_page`] show findings to scripts and to people; [`incidents`] puts
//!   each below the one that leads it.
//! - [`SocketRequest`] and [`sockets_json`] are the query and the answer of a listing of sockets.
//! - [`EventsRequest`] and [`EventDocument`] are the query and the lines of the stream of events, whose
//!   [`EventReaders`] each have a bounded queue.
//! - [`History`] keeps the findings that have ended for a day.
//! - [`Trends`] keeps the numbers of the last hour, which the page plots.
//! - [`overview`] has a finding in one row, for a terminal and the page.
//! - [`remedy_parts`] tells a remedy's commands from its words.
//! - [`WallClock`] turns times of CLOCK_MONOTONIC into times of day.
//! - [`serve`] answers HTTP, to requests that name one of the [`Hosts`] and that [`Access`] lets in. It holds no state of the
//!   agent: each answer is a [`Query`] to the agent's loop, so nothing here locks the loop's state.
//!
//! Nothing here judges: the [`engine`](crate::engine) decides which findings there are, and which
//! leads which.

mod access;
mod base_url;
mod connection;
mod events;
mod exposition_format;
mod family;
mod history;
mod hosts;
mod http;
mod incidents;
mod json;
mod listing;
mod live;
mod metrics;
mod overview;
mod page;
mod places;
mod process;
mod remedy;
mod routes;
mod runbook_page;
mod seats;
mod selection;
mod sockets;
mod status;
#[cfg(test)]
mod tests;
mod trends;
mod wall_clock;

pub use access::Access;
pub use base_url::base_url;
pub use events::{
    DroppedBy, EventDocument, EventFeed, EventFilter, EventKind, EventReaders, EventsRequest,
    NetnsNames, NoEvents, name_of, parse_network,
};
pub use family::{MetricKind, MetricRow};
pub use history::{Ended, History};
pub use hosts::Hosts;
pub use http::{HttpLimits, Listener, serve};
pub use incidents::{Incident, incidents};
pub use json::{FindingsRead, HookState, Origin, findings_json, history_json, read_findings};
pub(crate) use listing::unknown_namespace;
pub use metrics::{CATALOG, Metrics, catalog_markdown};
pub use overview::{Row, overview};
pub(crate) use page::severity_of_part;
pub use page::{AgentView, LimitUse, View, kernel_limits, render_page};
pub use remedy::{RemedyPart, remedy_parts};
pub use routes::{NO_SUCH_PATH, PATHS, Query};
pub use runbook_page::render_runbook;
pub use sockets::{
    NoListing, OrderedListing, SocketDocument, SocketRequest, SocketsDocument, parse_states,
    read_sockets, sockets_json,
};
pub use status::{InventoryState, Status, status_json};
pub use trends::{Line, Ring, SLOT, SLOTS, Trend, Trends};
pub use wall_clock::WallClock;
