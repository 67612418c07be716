//! Which `Host` a request may name: the check against DNS rebinding.
//!
//! A page of another site can give its own name the address of this host; to the browser tcpwatch
//! is then that site, which reads all answers. The name stays in the `Host` header. A loopback
//! listener answers for the names of loopback. Another answers `/metrics` and `/-/*` for every
//! name, because scrapers use any, and the page and the API for addresses and for known names. A UNIX
//! socket answers for all.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Version, header::HOST, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::config::{HostName, Web, host_of_authority};

/// Names of loopback in the `/etc/hosts` of the distributions. Whatever ends in `.localhost` is
/// loopback too (RFC 6761).
const LOOPBACK_NAMES: [&str; 7] = [
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
];

const MALFORMED: &str = "the Host header is missing, repeated or malformed\n";
const MISDIRECTED: &str = "this Host is not served here; [web] allowed_hosts can allow it\n";

/// The listener that has accepted a request's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    /// Reached only from this host.
    OnLoopback,
    /// Reached from elsewhere too.
    Openly,
    /// A UNIX socket, which no page of a browser reaches.
    Privately,
}

/// The names under which page and API are served.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// Listed by the operator, so served on loopback too.
    configured: Vec<HostName>,
    /// The machine's own, in full and up to the first dot.
    machine: Vec<HostName>,
}

impl Hosts {
    /// `machine` is the name of this host.
    #[must_use]
    pub fn new(web: &Web, machine: &str) -> Self {
        let short = machine.split('.').next().unwrap_or_default();
        Self {
            configured: web.allowed_hosts.iter().chain(web.external_url.host()).cloned().collect(),
            machine: [machine, short].into_iter().filter_map(HostName::parse).collect(),
        }
    }

    fn serves(&self, host: &HostName, path: &str, listening: Listening) -> bool {
        if is_loopback(host) || self.configured.contains(host) {
            return true;
        }
        match listening {
            Listening::Privately => true,
            Listening::OnLoopback => false,
            Listening::Openly => {
                matches!(host, HostName::Address(_))
                    || self.machine.contains(host)
                    || path == "/metrics"
                    || path.starts_with("/-/")
            }
        }
    }

    fn check(&self, request: &Request) -> Result<(), (StatusCode, &'static str)> {
        let malformed = (StatusCode::BAD_REQUEST, MALFORMED);
        let listening = request.extensions().get().copied().unwrap_or(Listening::Openly);
        let in_header = host_header(request.headers()).map_err(|()| malformed)?;
        if in_header.is_none() && request.version() >= Version::HTTP_11 {
            return Err(malformed);
        }
        // A request to a proxy names the host in its first line as well. Each must be good.
        let in_line = request.uri().authority().map(Authority::as_str);
        for authority in in_header.into_iter().chain(in_line) {
            let host = host_of_authority(authority).ok_or(malformed)?;
            if !self.serves(&host, request.uri().path(), listening) {
                return Err((StatusCode::MISDIRECTED_REQUEST, MISDIRECTED));
            }
        }
        Ok(())
    }
}

/// The only `Host`, if there is one.
fn host_header(headers: &HeaderMap) -> Result<Option<&str>, ()> {
    let mut all = headers.get_all(HOST).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => host.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}

fn is_loopback(host: &HostName) -> bool {
    match host {
        HostName::Address(address) => address.is_loopback(),
        HostName::Name(name) => {
            LOOPBACK_NAMES.contains(&name.as_str()) || name.ends_with(".localhost")
        }
    }
}

/// Refuses requests for a host that is not served.
pub(super) async fn check(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    match hosts.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}
