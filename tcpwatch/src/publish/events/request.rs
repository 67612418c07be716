//! The query of a request for events: `?port=443&peer=10.0.0.0/8&process=nginx&state=close_wait`.

use std::net::IpAddr;

use axum::{extract::Query, http::Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::super::parse_states;
use crate::{
    facts::{StreamEvent, StreamSelection, TcpState},
    plain,
};

/// Which events are requested. Every parameter may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsRequest {
    /// Port of either end.
    pub port: Option<u16>,
    /// Address of the peer, or its network: `10.0.0.0/8`.
    pub peer: Option<String>,
    /// Name of the process (comm).
    pub process: Option<String>,
    /// States, separated by commas.
    pub state: Option<String>,
    /// Name of the network namespace.
    pub netns: Option<String>,
}

impl EventsRequest {
    /// The request of an address.
    ///
    /// # Errors
    ///
    /// The fault of its query, in one line.
    pub fn of(uri: &Uri) -> Result<Self, String> {
        let Query(mut request) = Query::<Self>::try_from_uri(uri)
            .map_err(|error| refusal(&plain::text(&error.body_text())))?;
        for value in [&mut request.peer, &mut request.process, &mut request.state] {
            // A dashboard writes "all" so. An empty `netns` is a namespace without a name.
            value.take_if(|value| value.is_empty());
        }
        request.filter()?;
        Ok(request)
    }

    /// The same as a query of `/api/v1/events`.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        let Self { port, peer, process, state, netns } = self;
        let texts = [("peer", peer), ("process", process), ("state", state), ("netns", netns)];
        let texts = texts.into_iter().filter_map(|(key, value)| {
            let value = utf8_percent_encode(value.as_deref()?, NON_ALPHANUMERIC);
            Some(format!("{key}={value}"))
        });
        let port = port.map(|port| format!("port={port}"));
        let query: Vec<String> = texts.chain(port).collect();
        format!("/api/v1/events?{}", query.join("&"))
    }

    /// The filter that it describes.
    ///
    /// # Errors
    ///
    /// A value that selects nothing, in one line.
    pub fn filter(&self) -> Result<EventFilter, String> {
        if self.port == Some(0) {
            return Err(refusal("`port` is from 1 to 65535"));
        }
        let states = self.state.as_deref().map(parse_states).transpose();
        let peer = self.peer.as_deref().map(parse_network).transpose();
        Ok(EventFilter {
            states: states.map_err(|fault| refusal(&fault))?.unwrap_or_default(),
            peer: peer.map_err(|fault| refusal(&fault))?,
            port: self.port,
            process: self.process.clone(),
            netns: self.netns.clone(),
        })
    }
}

fn refusal(fault: &str) -> String {
    format!("the query is refused: {fault}")
}

/// An address, or a network as address and number of bits: `10.0.0.7`, `10.0.0.0/8`, `2001:db8::/32`.
///
/// # Errors
///
/// The forms that are accepted.
pub fn parse_network(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(it, bits)| (it, Some(bits)));
    let address = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let network = address.ok().and_then(|address| {
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(width), |bits| bits.parse().ok())?;
        (bits <= width).then(|| canonical(address, bits))
    });
    network.ok_or_else(|| "`peer` is an address, or a network like 10.0.0.0/8".to_owned())
}

/// IPv4 as an address of IPv6 is IPv4, as everywhere.
fn canonical(address: IpAddr, bits: u8) -> (IpAddr, u8) {
    match (address, address.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(v4)) if bits >= 96 => (v4.into(), bits - 96),
        _ => (address, bits),
    }
}

/// Which events one reader gets. An event meets each condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// The socket comes from one of these states, goes to one or is in one; empty for any.
    pub states: Vec<TcpState>,
    /// Port of either end.
    pub port: Option<u16>,
    /// The peer is in this network.
    pub peer: Option<(IpAddr, u8)>,
    /// Name of the process.
    pub process: Option<String>,
    /// Name of the network namespace.
    pub netns: Option<String>,
}

impl EventFilter {
    /// Whether the event is for this reader; `netns` is the name of its network namespace, `None`
    /// where it is not known.
    #[must_use]
    pub fn selects(&self, event: &StreamEvent, netns: Option<&str>) -> bool {
        let Self { states, port, peer, process, netns: selected } = self;
        let is_in_state =
            || event.change.states().iter().flatten().any(|state| states.contains(state));
        let has_port = |port: u16| {
            event.local.port == port || event.peer.is_some_and(|peer| peer.port == port)
        };
        let name = event.process.as_ref().map(|process| process.name.as_str());
        let is_same = |selected: &Option<String>, found: Option<&str>| {
            selected.as_deref().is_none_or(|it| found.is_some_and(|found| plain::same(it, found)))
        };
        (states.is_empty() || is_in_state())
            && port.is_none_or(has_port)
            && peer.is_none_or(|network| event.peer.is_some_and(|it| is_in(it.address, network)))
            && is_same(process, name)
            && is_same(selected, netns)
    }

    /// The selection of the kernel side that has every event of these filters. `names` are the network
    /// namespaces by inode number.
    #[must_use]
    pub fn union(filters: &[&Self], names: &[(u32, &str)], budget: u32) -> StreamSelection {
        let states = filters.iter().map(|it| (!it.states.is_empty()).then(|| it.states.clone()));
        let ports = filters.iter().map(|it| it.port.map(|port| vec![port]));
        let processes = filters.iter().map(|it| it.process.clone().map(|name| vec![name]));
        let netns = filters.iter().map(|it| {
            let selected = it.netns.as_deref()?;
            let of_name = names.iter().filter(|(_, name)| plain::same(selected, name));
            Some(of_name.map(|(inode, _)| *inode).collect())
        });
        let peers: Option<Vec<_>> = filters.iter().map(|it| it.peer).collect();
        StreamSelection {
            states: any_of(states),
            ports: any_of(ports),
            netns: any_of(netns),
            processes: any_of(processes),
            peer: peers.and_then(|peers| peers.into_iter().reduce(common)),
            budget,
        }
    }
}

/// The values of all lists; none, which is any value, where one filter has no list.
fn any_of<T: Ord>(lists: impl Iterator<Item = Option<Vec<T>>>) -> Vec<T> {
    let lists: Option<Vec<Vec<T>>> = lists.collect();
    let mut values: Vec<T> = lists.unwrap_or_default().into_iter().flatten().collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// The address in the 128 bits of IPv6, and how many of them count.
fn bits_of((address, bits): (IpAddr, u8)) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), u32::from(bits) + 96),
        IpAddr::V6(address) => (address.to_bits(), u32::from(bits)),
    }
}

fn is_in(address: IpAddr, network: (IpAddr, u8)) -> bool {
    let (network, bits) = bits_of(network);
    let (address, _) = bits_of((address, 0));
    (address ^ network).leading_zeros() >= bits
}

/// The smallest network that has both.
fn common(one: (IpAddr, u8), other: (IpAddr, u8)) -> (IpAddr, u8) {
    let ((a, a_bits), (b, b_bits)) = (bits_of(one), bits_of(other));
    let bits = (a ^ b).leading_zeros().min(a_bits).min(b_bits);
    match one.0 {
        IpAddr::V4(_) if bits >= 96 => (one.0, (bits - 96) as u8),
        _ => (std::net::Ipv6Addr::from_bits(a).into(), bits as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Endpoint, StreamChange, StreamProcess, Timestamp};

    fn of(query: &str) -> Result<EventsRequest, String> {
        EventsRequest::of(&format!("/api/v1/events{query}").parse().expect("an address"))
    }

    fn filter(query: &str) -> EventFilter {
        of(query).and_then(|request| request.filter()).expect("a query")
    }

    fn event() -> StreamEvent {
        let at = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().expect("an end"));
        StreamEvent {
            at: Timestamp::from_ns(0),
            netns: 7,
            local: at("10.0.0.5:40112"),
            peer: Some(at("10.1.0.9:443")),
            process: Some(StreamProcess { pid: 1, name: "ng\u{1b}x".to_owned() }),
            change: StreamChange::Transition {
                from: TcpState::Established,
                to: TcpState::CloseWait,
            },
        }
    }

    #[test]
    fn only_what_can_be_selected_is_a_query() {
        for query in ["", "?", "?state=CLOSE-WAIT,listen&port=80", "?peer=::/0", "?process="] {
            assert!(of(query).is_ok(), "{query}");
        }
        for (query, says) in [
            ("?state=closed", "`state` is one of established, "),
            ("?port=0", "`port` is from 1 to 65535"),
            ("?port=x", "port"),
            ("?peer=10.0.0.0/33", "`peer` is an address, or a network like 10.0.0.0/8"),
            ("?peer=example.net", "`peer` is an address"),
            ("?unit=a", "unknown field `unit`"),
            ("?a%0ab=1", "unknown field `a"),
        ] {
            let why = of(query).expect_err(query);
            assert!(why.contains(says) && why.lines().count() == 1, "{why}");
        }
    }

    #[test]
    fn a_request_is_read_again_as_it_was_written() {
        let request = EventsRequest {
            port: Some(80),
            peer: Some("2001:db8::/32".to_owned()),
            process: Some("näme%\n".to_owned()),
            state: Some("close_wait,listen".to_owned()),
            netns: Some(String::new()),
        };
        let uri = request.path_and_query().parse().expect("an address");
        assert_eq!(EventsRequest::of(&uri), Ok(request));
    }

    #[test]
    fn an_event_is_selected_that_meets_every_condition() {
        for query in [
            "",
            "?state=close_wait",
            "?state=established,listen",
            "?port=443",
            "?port=40112",
            "?peer=10.1.0.9",
            "?peer=10.1.0.0/16",
            "?peer=::ffff:10.1.0.0/112",
            "?process=ng%5Cu%7B1b%7Dx",
            "?netns=blue&port=443",
        ] {
            assert!(filter(query).selects(&event(), Some("blue")), "{query}");
        }
        for query in [
            "?state=listen",
            "?port=80",
            "?peer=10.1.0.8",
            "?peer=::1",
            "?process=ng",
            "?netns=red",
        ] {
            assert!(!filter(query).selects(&event(), Some("blue")), "{query}");
        }
        assert!(!filter("?netns=blue").selects(&event(), None));
        let bare = StreamEvent { process: None, peer: None, ..event() };
        assert!(filter("?port=40112").selects(&bare, None));
        assert!(!filter("?process=ng").selects(&bare, None));
        assert!(!filter("?peer=::/0").selects(&bare, None));
    }

    #[test]
    fn the_kernel_side_selects_what_any_reader_gets() {
        let names = [(7, "blue"), (8, "red"), (9, "red")];
        let union = |queries: &[&str]| {
            let filters: Vec<_> = queries.iter().map(|it| filter(it)).collect();
            EventFilter::union(&filters.iter().collect::<Vec<_>>(), &names, 5)
        };
        let one = union(&["?port=80&peer=10.1.2.3&process=a&state=listen&netns=red"]);
        assert_eq!((&*one.ports, &*one.netns, one.budget), (&[80][..], &[8, 9][..], 5));
        assert_eq!(one.peer, Some(("10.1.2.3".parse().expect("an address"), 32)));
        let two = union(&["?port=80&peer=10.1.2.3&netns=blue", "?port=443&peer=10.1.9.0/24"]);
        assert_eq!((&*two.ports, &*two.netns), (&[80, 443][..], &[][..]));
        assert_eq!(two.peer, Some(("10.1.2.3".parse().expect("an address"), 20)));
        let both = union(&["?peer=10.1.2.3", "?peer=2001:db8::1"]).peer.expect("a network");
        assert!(is_in("10.1.2.3".parse().expect("an address"), both));
        assert!(is_in("2001:db8::1".parse().expect("an address"), both));
        let any = StreamSelection { budget: 5, ..StreamSelection::default() };
        assert_eq!(union(&["?port=80", "?peer=10.1.2.3"]), any);
    }
}
