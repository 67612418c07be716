//! The socket that holds a port against a bind(), and how it came by it.
//!
//! bind() is refused with EADDRINUSE by a listener, and by any other socket on that port unless
//! both set SO_REUSEADDR before they were bound (`inet_csk_bind_conflict`). A connection has that
//! option from the listener that accepted it, and keeps it in TIME_WAIT; one that connect() gave
//! its port has not. So the cure depends on whose the socket was. (Seen on 6.18, each of them.)

use std::{net::IpAddr, sync::Arc};

use crate::{
    engine::advice::reserved_ports,
    facts::{Endpoint, Namespace, PortHolder, PortUse, Process, TcpState},
};

/// The socket that holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) by: HeldBy,
    /// The socket in the way; of several, the first.
    pub(crate) local: Endpoint,
    /// Its other end; port 0 for a listener.
    pub(crate) peer: Endpoint,
    /// The owner of that socket, where known.
    pub(crate) owner: Option<Arc<Process>>,
    /// How many of its kind are in the way.
    pub(crate) sockets: u64,
}

/// Worst first: what comes later is of no consequence while the earlier is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HeldBy {
    /// A process listens there.
    Listener,
    /// A socket that is connected to itself.
    SelfConnection,
    /// A connection of which it is the source port.
    Outgoing,
    /// A socket that is bound and neither listens nor is connected. Only the one pass sees it.
    BoundOnly,
    /// Connections of a listener that is gone.
    Accepted,
    /// TIME_WAIT of a connection of which it was the source port.
    OutgoingTimeWait,
    /// TIME_WAIT of connections of a listener.
    AcceptedTimeWait,
}

/// The socket that keeps `asker` from `requested`; `None` if the tables show none.
pub(crate) fn holding(
    namespace: &Namespace,
    requested: Endpoint,
    asker: Option<&Process>,
) -> Option<Holding> {
    let is_in_the_way =
        |local: Endpoint| local.port == requested.port && overlap(requested.address, local.address);
    let listeners = namespace.listeners.iter().map(|listener| Holding {
        by: HeldBy::Listener,
        local: listener.local,
        peer: Endpoint { port: 0, ..listener.local },
        owner: listener.owner.as_ref().map(|owner| Arc::clone(&owner.process)),
        sockets: 1,
    });
    // Listeners are among the holders too, but the inventory need not have the holders.
    let others = namespace.port_holders.iter().filter(|holder| holder.state != TcpState::Listen);
    let others = others.map(|holder| Holding {
        by: held_by(holder, &namespace.ports, asker),
        local: holder.local,
        peer: holder.peer,
        owner: holder.owner.as_ref().map(|owner| Arc::clone(&owner.process)),
        sockets: 1,
    });
    let all: Vec<Holding> =
        listeners.chain(others).filter(|holding| is_in_the_way(holding.local)).collect();
    let worst = all.iter().min_by_key(|holding| {
        // The very address that was requested for leaves no doubt (see `overlap`), nor does a name.
        (holding.by, holding.local.address != requested.address, holding.owner.is_none())
    })?;
    let sockets = all.iter().filter(|holding| holding.by == worst.by).count() as u64;
    Some(Holding { sockets, ..worst.clone() })
}

/// Whether a socket at `held` keeps another from `requested` on the same port. An IPv6 wildcard is
/// taken to be of both families: IPV6_V6ONLY excludes IPv4, but no table shows it.
fn overlap(requested: IpAddr, held: IpAddr) -> bool {
    let covers = |wildcard: IpAddr, other: IpAddr| match wildcard {
        IpAddr::V4(address) => address.is_unspecified() && other.is_ipv4(),
        IpAddr::V6(address) => address.is_unspecified(),
    };
    requested == held || covers(requested, held) || covers(held, requested)
}

fn held_by(holder: &PortHolder, ports: &PortUse, asker: Option<&Process>) -> HeldBy {
    let is_self_connected = holder.local == holder.peer;
    let is_outgoing = is_self_connected || is_outgoing(holder, ports, asker);
    match (holder.state, is_outgoing) {
        (TcpState::Close, _) => HeldBy::BoundOnly,
        (TcpState::TimeWait, true) => HeldBy::OutgoingTimeWait,
        (TcpState::TimeWait, false) => HeldBy::AcceptedTimeWait,
        (_, true) if is_self_connected => HeldBy::SelfConnection,
        (_, true) => HeldBy::Outgoing,
        (_, false) => HeldBy::Accepted,
    }
}

/// Whether connect() gave it the port. No table says so: the kernel must have been free to, and its
/// holder is another program than the one that asks. Where it has no holder the other end tells: a
/// service has a port of its own, a client of this port one of the range.
fn is_outgoing(holder: &PortHolder, ports: &PortUse, asker: Option<&Process>) -> bool {
    let of_another = match &holder.owner {
        Some(owner) => asker.is_none_or(|asker| asker.name != owner.process.name),
        None => !in_range(ports, holder.peer.port),
    };
    is_automatic(ports, holder.local.port) && of_another
}

/// Whether the kernel gives `port` to a socket that requests none.
pub(crate) fn is_automatic(ports: &PortUse, port: u16) -> bool {
    in_range(ports, port) && !reserved_ports::contain(&ports.reserved, port)
}

fn in_range(ports: &PortUse, port: u16) -> bool {
    let (low, high) = ports.range;
    (low..=high).contains(&port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_one_is_the_other_or_covers_it() {
        let table = [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.1", "0.0.0.0", true),
            ("0.0.0.0", "127.0.0.1", true),
            ("0.0.0.0", "::", true),
            ("127.0.0.1", "::", true),
            ("::", "127.0.0.1", true),
            ("::", "::1", true),
            ("::1", "::", true),
            ("::1", "0.0.0.0", false),
            ("0.0.0.0", "::1", false),
            ("::1", "127.0.0.1", false),
        ];
        for (requested, held, expected) in table {
            let parse = |text: &str| -> IpAddr { text.parse().expect("an address") };
            assert_eq!(
                overlap(parse(requested), parse(held)),
                expected,
                "{requested} while {held} is held"
            );
        }
    }
}
