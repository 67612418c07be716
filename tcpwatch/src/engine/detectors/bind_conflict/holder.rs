//! What stands in the way of a bind(): the socket that holds the port, and how it came by it.
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

/// What holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) by: HeldBy,
    /// The socket in the way; of several, the first.
    pub(crate) local: Endpoint,
    /// Its other end; port 0 for a listener.
    pub(crate) peer: Endpoint,
    /// Who holds that socket, where known.
    pub(crate) owner: Option<Arc<Process>>,
    /// How many of its kind are in the way.
    pub(crate) sockets: u64,
}

/// Worst first: what comes later is of no consequence while the earlier is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HeldBy {
    /// Somebody listens there.
    Listener,
    /// A socket that is connected to itself.
    SelfConnection,
    /// A connection of which it is the source port.
    Outgoing,
    /// Connections of a listener that is gone.
    Accepted,
    /// TIME_WAIT of a connection of which it was the source port.
    OutgoingTimeWait,
    /// TIME_WAIT of connections of a listener.
    AcceptedTimeWait,
}

/// What is in the way of `asker`, who wanted `asked`; `None` if nothing in the tables is.
pub(crate) fn holding(
    namespace: &Namespace,
    asked: Endpoint,
    asker: Option<&Process>,
) -> Option<Holding> {
    let is_in_the_way =
        |local: Endpoint| local.port == asked.port && overlap(asked.address, local.address);
    let listeners = namespace.listeners.iter().map(|listener| Holding {
        by: HeldBy::Listener,
        local: listener.local,
        peer: Endpoint { port: 0, ..listener.local },
        owner: listener.owner.as_ref().map(|owner| Arc::clone(&owner.process)),
        sockets: 1,
    });
    // Listeners are among the holders too, but these need not have been asked for.
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
        // The very address that was asked for leaves no doubt (see `overlap`), nor does a name.
        (holding.by, holding.local.address != asked.address, holding.owner.is_none())
    })?;
    let sockets = all.iter().filter(|holding| holding.by == worst.by).count() as u64;
    Some(Holding { sockets, ..worst.clone() })
}

/// Whether a socket at `held` keeps another from `asked` on the same port. An IPv6 wildcard is taken
/// to be of both families: only IPV6_V6ONLY makes it leave IPv4 alone, which no table shows.
fn overlap(asked: IpAddr, held: IpAddr) -> bool {
    let covers = |wildcard: IpAddr, other: IpAddr| match wildcard {
        IpAddr::V4(address) => address.is_unspecified() && other.is_ipv4(),
        IpAddr::V6(address) => address.is_unspecified(),
    };
    asked == held || covers(asked, held) || covers(held, asked)
}

fn held_by(holder: &PortHolder, ports: &PortUse, asker: Option<&Process>) -> HeldBy {
    let is_self_connected = holder.local == holder.peer;
    let is_outgoing = is_self_connected || is_outgoing(holder, ports, asker);
    match (holder.state, is_outgoing) {
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

/// Whether the kernel gives `port` to those who do not ask for one.
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
        for (asked, held, expected) in table {
            let parse = |text: &str| -> IpAddr { text.parse().expect("an address") };
            assert_eq!(
                overlap(parse(asked), parse(held)),
                expected,
                "{asked} while {held} is held"
            );
        }
    }
}
