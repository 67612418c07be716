//! Sockets as JSON. `docs/sockets.schema.json` describes the document.

use serde::{Deserialize, Serialize};

use super::super::WallClock;
use crate::{
    facts::{ListedSocket, SocketHolder, SocketListing, SocketSelection, TcpState, Timestamp},
    plain,
};

/// Version of the document: it rises when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;
/// Processes that are named of those that hold one socket.
const HOLDERS: usize = 8;

/// The body of `/api/v1/sockets`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SocketsDocument {
    schema_version: u32,
    /// When it was made, RFC 3339.
    pub generated_at: String,
    /// The host's name.
    pub host: String,
    /// Version of tcpwatch.
    pub version: String,
    /// Id of the finding that is about the sockets, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
    /// Which sockets were selected.
    pub selection: SocketSelection,
    /// Network namespaces that were looked at.
    pub network_namespaces: usize,
    /// Selected ones that could not be looked at.
    pub network_namespaces_left_out: usize,
    /// Sockets that are selected.
    pub total: u64,
    /// Whether that is exact; else there are at least so many.
    pub total_is_exact: bool,
    /// Sockets that match and whose ages and processes were looked at.
    pub examined: usize,
    /// Whether sockets are left out.
    pub truncated: bool,
    /// Those that have been longest in their state first.
    pub sockets: Vec<SocketDocument>,
}

/// One socket. A field that is not known, or is not of such a socket, is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the schema describes each, and `of` fills it")]
pub struct SocketDocument {
    pub netns: String,
    pub state: Option<TcpState>,
    pub local: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    pub role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_is_exact: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recv_queue_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_queue_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_queue_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_limit_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_open_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fds: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder_processes: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<HolderDocument>,
    pub unaccepted: bool,
    pub orphan: bool,
    pub stalled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unacknowledged_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_window_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_timeout_seconds: Option<f64>,
}

/// One of several processes that hold a socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as above")]
pub struct HolderDocument {
    pub process: String,
    pub pid: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fds: Vec<u32>,
}

/// A listing as JSON, on one line that ends.
#[must_use]
pub fn sockets_json(
    listing: &SocketListing,
    (finding, selection): (Option<&str>, SocketSelection),
    (host, version): (&str, &str),
    wall: WallClock,
) -> String {
    let document = SocketsDocument {
        schema_version: SCHEMA_VERSION,
        generated_at: wall.rfc3339(listing.taken),
        host: plain::text(host).into_owned(),
        version: version.to_owned(),
        finding: finding.map(|id| plain::text(id).into_owned()),
        selection: plain_selection(selection),
        network_namespaces: listing.namespaces,
        network_namespaces_left_out: listing.left_out,
        total: listing.total,
        total_is_exact: listing.total_is_exact,
        examined: listing.examined,
        truncated: listing.is_truncated(),
        sockets: listing.sockets.iter().map(|it| SocketDocument::of(it, listing.taken)).collect(),
    };
    let mut json = serde_json::to_string(&document)
        .expect("serialising fails only for keys that are no strings, and all are");
    json.push('\n');
    json
}

/// Reads what [`sockets_json`] has written.
///
/// # Errors
///
/// A text that is no such document, in serde's words: another version may write other fields.
pub fn read_sockets(json: &[u8]) -> serde_json::Result<SocketsDocument> {
    use serde::de::Error as _;
    let document: SocketsDocument = serde_json::from_slice(json)?;
    if document.schema_version != SCHEMA_VERSION {
        let version = document.schema_version;
        return Err(serde_json::Error::custom(format_args!("schema_version is {version}")));
    }
    Ok(document)
}

fn plain_selection(mut selection: SocketSelection) -> SocketSelection {
    let SocketSelection { netns, process, unit, container, .. } = &mut selection;
    [netns, process, unit, container].into_iter().flatten().for_each(plain::make);
    selection
}

impl SocketDocument {
    fn of(socket: &ListedSocket, now: Timestamp) -> Self {
        let seconds = |since: Timestamp| milliseconds(now.since(since).as_secs_f64());
        let (queue, transfer) = (socket.accept_queue, socket.transfer);
        let owner = socket.holders.first();
        let text = |text: &str| plain::text(text).into_owned();
        let of_owner = |field: fn(&SocketHolder) -> Option<&String>| {
            owner.and_then(field).map(|name| text(name))
        };
        let several = if socket.holders.len() > 1 { &*socket.holders } else { &[] };
        Self {
            netns: text(&socket.netns),
            state: Some(socket.state),
            local: socket.local.to_string(),
            peer: socket.peer.map(|peer| peer.to_string()),
            role: socket.role.label().to_owned(),
            age_seconds: socket.since.map(seconds),
            age_is_exact: socket.since.map(|_| socket.since_exact),
            idle_seconds: transfer.map(|it| seconds(it.last_segment)),
            recv_queue_bytes: transfer.map(|it| it.recv_queue),
            send_queue_bytes: transfer.map(|it| it.send_queue),
            accept_queue_connections: queue.map(|it| it.waiting),
            accept_limit_connections: queue.map(|it| it.limit),
            half_open_connections: queue.map(|it| it.half_open),
            dropped_connections: queue.map(|it| it.drops),
            process: of_owner(|it| Some(&it.process.name)),
            pid: owner.map(|it| it.process.pid),
            exe: of_owner(|it| it.process.exe.as_ref()),
            unit: of_owner(|it| it.process.unit.as_ref()),
            container: of_owner(|it| it.process.container.as_ref()),
            fds: owner.map(|it| it.fds.clone()).unwrap_or_default(),
            holder_processes: (!several.is_empty()).then_some(several.len()),
            holders: several.iter().take(HOLDERS).map(HolderDocument::of).collect(),
            unaccepted: socket.unaccepted,
            orphan: socket.orphan,
            stalled: transfer.is_some_and(|it| it.stalled),
            unacknowledged_seconds: transfer
                .filter(|it| it.send_queue > 0)
                .and_then(|it| it.delivered)
                .map(seconds),
            retransmits: transfer.map(|it| it.retransmits).or(socket.synack_retransmits),
            probes: transfer.map(|it| it.probes),
            peer_window_bytes: transfer.map(|it| it.peer_window),
            user_timeout_seconds: transfer
                .and_then(|it| it.user_timeout)
                .map(|timeout| timeout.as_secs_f64()),
        }
    }
}

impl HolderDocument {
    fn of(holder: &SocketHolder) -> Self {
        Self {
            process: plain::text(&holder.process.name).into_owned(),
            pid: holder.process.pid,
            fds: holder.fds.clone(),
        }
    }
}

/// Kept to three places.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}
