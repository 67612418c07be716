//! The query of a request for sockets: `?finding=ID&state=close_wait&limit=100`.

use axum::{extract::Query, http::Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::NoListing;
use crate::{
    engine::{Finding, selection_of},
    facts::{SocketListing, SocketSelection, TcpState},
    plain,
};

/// Which sockets are requested. Every parameter may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketRequest {
    /// Id of the finding that is about them.
    pub finding: Option<String>,
    /// States, separated by commas.
    pub state: Option<String>,
    /// Name of the process (comm).
    pub process: Option<String>,
    /// Its systemd unit.
    pub unit: Option<String>,
    /// Its container or pod.
    pub container: Option<String>,
    /// Name of the network namespace.
    pub netns: Option<String>,
    /// Port of either end.
    pub port: Option<u16>,
    /// How many are listed at most.
    pub limit: Option<usize>,
}

impl SocketRequest {
    /// The request of an address.
    ///
    /// # Errors
    ///
    /// The fault of its query, in one line.
    pub fn of(uri: &Uri) -> Result<Self, String> {
        let Query(mut request) = Query::<Self>::try_from_uri(uri)
            .map_err(|error| refusal(&plain::text(&error.body_text())))?;
        let Self { finding, state, process, unit, container, netns: _, port: _, limit: _ } =
            &mut request;
        for value in [finding, state, process, unit, container] {
            // A dashboard writes "all" so. An empty `netns` is a namespace without a name.
            value.take_if(|value| value.is_empty());
        }
        request.check()?;
        Ok(request)
    }

    /// Finds the fault of values that are read already.
    ///
    /// # Errors
    ///
    /// It in one line.
    pub fn check(&self) -> Result<(), String> {
        if let Some(state) = &self.state {
            parse_states(state).map_err(|fault| refusal(&fault))?;
        }
        let bounds = 1..=SocketListing::MOST;
        if self.limit.is_some_and(|limit| !bounds.contains(&limit)) {
            return Err(refusal(&format!("`limit` is from 1 to {}", SocketListing::MOST)));
        }
        if self.port == Some(0) {
            return Err(refusal("`port` is from 1 to 65535"));
        }
        Ok(())
    }

    /// How many sockets are listed at most.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(SocketListing::DEFAULT_LIMIT)
    }

    /// The same as a query of `/api/v1/sockets`.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        let Self { finding, state, process, unit, container, netns, port, limit } = self;
        let texts = [
            ("finding", finding),
            ("state", state),
            ("process", process),
            ("unit", unit),
            ("container", container),
            ("netns", netns),
        ];
        let texts = texts.into_iter().filter_map(|(key, value)| {
            let value = utf8_percent_encode(value.as_deref()?, NON_ALPHANUMERIC);
            Some(format!("{key}={value}"))
        });
        let port = port.map(|port| format!("port={port}"));
        let limit = limit.map(|limit| format!("limit={limit}"));
        let query: Vec<String> = texts.chain(port).chain(limit).collect();
        format!("/api/v1/sockets?{}", query.join("&"))
    }

    /// The sockets that it selects, where these findings hold.
    ///
    /// # Errors
    ///
    /// The finding does not hold, or is about no socket that can be listed, or no socket of it meets
    /// the other parameters.
    pub fn selection(&self, findings: &[Finding]) -> Result<SocketSelection, NoListing> {
        let states = self.state.as_deref().and_then(|text| parse_states(text).ok());
        let own = SocketSelection {
            states: states.unwrap_or_default(),
            netns: self.netns.clone(),
            port: self.port,
            process: self.process.clone(),
            unit: self.unit.clone(),
            container: self.container.clone(),
            ..SocketSelection::default()
        };
        let Some(id) = &self.finding else { return Ok(own) };
        let shown = plain::text(id);
        let finding = findings.iter().find(|finding| finding.id == shown).ok_or_else(|| {
            NoListing::NotFound(format!(
                "no finding has the id {shown} now; /api/v1/findings and `tcpwatch check --json` \
                 show the ids"
            ))
        })?;
        let of_finding = selection_of(finding).map_err(|why| {
            NoListing::NotFound(format!("no socket is listed for {shown}: {why}"))
        })?;
        of_finding.and(own).ok_or_else(|| {
            NoListing::Contradiction(format!(
                "the finding {shown} is about none of the sockets that the other parameters select"
            ))
        })
    }
}

fn refusal(fault: &str) -> String {
    format!("the query is refused: {fault}")
}

/// States by their names, as Linux or `ss` spells them, separated by commas: `close_wait,last-ack`.
///
/// # Errors
///
/// The names that there are.
pub fn parse_states(text: &str) -> Result<Vec<TcpState>, String> {
    // `ss` writes fin-wait-2 where Linux writes fin_wait2.
    let letters = |name: &str| name.trim().to_ascii_lowercase().replace(['-', '_'], "");
    let state = |name: &str| {
        TcpState::ALL.into_iter().find(|state| letters(state.label()) == letters(name))
    };
    let states: Option<Vec<TcpState>> = text.split(',').map(state).collect();
    states.ok_or_else(|| {
        let all: Vec<_> = TcpState::ALL.iter().map(|state| state.label()).collect();
        format!("`state` is one of {}, or several separated by commas", all.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Result<SocketRequest, String> {
        SocketRequest::of(&format!("/api/v1/sockets{query}").parse().expect("an address"))
    }

    #[test]
    fn only_what_can_be_selected_is_a_query() {
        for query in
            ["", "?", "?state=close_wait", "?state=CLOSE-WAIT,fin-wait-2&limit=1000", "?unit="]
        {
            assert!(of(query).is_ok(), "{query}");
        }
        for (query, says) in [
            ("?state=closed", "`state` is one of established, "),
            ("?limit=0", "`limit` is from 1 to 1000"),
            ("?limit=1001", "`limit` is from 1 to 1000"),
            ("?limit=many", "limit"),
            ("?port=0", "`port` is from 1 to 65535"),
            ("?port=65536", "port"),
            ("?kind=syn-flood", "unknown field `kind`"),
            ("?a%0ab=1", "unknown field `a"),
            ("?state=listen&state=closing", "duplicate field `state`"),
        ] {
            let why = of(query).expect_err(query);
            assert!(why.contains(says) && why.lines().count() == 1, "{why}");
        }
    }

    #[test]
    fn a_request_is_read_again_as_it_was_written() {
        let request = SocketRequest {
            finding: Some("close-wait-pileup/1/service/a b&c=d.service".to_owned()),
            state: Some("close_wait,last_ack".to_owned()),
            process: Some("näme%\n".to_owned()),
            netns: Some(String::new()),
            port: Some(80),
            limit: Some(7),
            ..SocketRequest::default()
        };
        let uri = request.path_and_query().parse().expect("an address");
        assert_eq!(SocketRequest::of(&uri), Ok(request));
    }

    #[test]
    fn a_finding_that_does_not_hold_is_not_found() {
        let request = of("?finding=syn-flood/1/80%1b").expect("a query");
        let Err(NoListing::NotFound(why)) = request.selection(&[]) else { panic!("it is found") };
        assert!(why.starts_with(r"no finding has the id syn-flood/1/80\u{1b} now"), "{why}");
    }
}
