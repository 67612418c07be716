//! The process that is to accept what waits in an accept queue: by the listener in whose queue it is,
//! and by the processes that hold accepted connections of its port.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::facts::{CloseWaitSocket, Endpoint, Listener, Owner, PortHolder, Role, TcpState};

/// Processes that hold accepted connections, by local port.
pub(super) struct Serving(HashMap<u16, HashSet<u32>>);

impl Serving {
    pub(super) fn of<'a>(
        holders: impl Iterator<Item = &'a PortHolder>,
        close_wait: impl Iterator<Item = &'a CloseWaitSocket>,
    ) -> Self {
        let mut serving = Self(HashMap::new());
        for holder in holders {
            if holder.state != TcpState::Listen {
                serving.add(holder.local.port, holder.owner.as_ref());
            }
        }
        for socket in close_wait {
            if socket.role == Role::Server {
                serving.add(socket.local.port, socket.owner.as_ref());
            }
        }
        serving
    }

    pub(super) fn at(&mut self, port: u16) -> &HashSet<u32> {
        self.0.entry(port).or_default()
    }

    fn add(&mut self, port: u16, owner: Option<&Owner>) {
        if let Some(owner) = owner {
            self.0.entry(port).or_default().insert(owner.process.pid);
        }
    }
}

/// The process that is to accept what waits for this listener. It has no descriptor for it yet.
pub(super) fn acceptor_of(listener: &Listener) -> Option<Owner> {
    let owner = listener.owner.as_ref()?;
    let process = listener.acceptors.first().unwrap_or(&owner.process);
    Some(Owner { process: Arc::clone(process), fds: Vec::new(), holders: owner.holders })
}

/// The listeners of a namespace, by identity and by where they listen.
pub(super) struct Listeners<'a> {
    by_id: HashMap<u64, &'a Listener>,
    by_place: HashMap<Endpoint, &'a Listener>,
}

impl<'a> Listeners<'a> {
    pub(super) fn of(listeners: impl Iterator<Item = &'a Listener>) -> Self {
        let (mut by_id, mut by_place) = (HashMap::new(), HashMap::<_, &Listener>::new());
        for listener in listeners {
            by_id.insert(listener.id, listener);
            // With SO_REUSEPORT several listeners share an address. Where the listener of a
            // connection is unknown, the one with the longest queue is taken.
            let place = by_place.entry(listener.local).or_insert(listener);
            let known = |it: &Listener| (it.owner.is_some(), it.accept_queue);
            if known(listener) > known(place) {
                *place = listener;
            }
        }
        Self { by_id, by_place }
    }

    /// The listener with this identity, else the one at this address.
    pub(super) fn of_queue(&self, id: u64, local: Endpoint) -> Option<&'a Listener> {
        let known = if id == 0 { None } else { self.by_id.get(&id).copied() };
        known.or_else(|| self.at(local))
    }

    /// The listener at this address, else at every one, as the kernel chooses (`compute_score`,
    /// net/ipv4/inet_hashtables.c). A socket of IPv6 takes IPv4 too unless it says otherwise.
    fn at(&self, local: Endpoint) -> Option<&'a Listener> {
        let at = |address: IpAddr| self.by_place.get(&Endpoint { address, ..local }).copied();
        let any_v4 = || local.address.is_ipv4().then(|| at(Ipv4Addr::UNSPECIFIED.into())).flatten();
        at(local.address).or_else(any_v4).or_else(|| at(Ipv6Addr::UNSPECIFIED.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, name: &str) -> Listener {
        let local = address.parse().expect("an address with a port");
        let local: std::net::SocketAddr = local;
        let process = std::sync::Arc::new(crate::facts::Process {
            name: name.to_owned(),
            ..crate::facts::Process::default()
        });
        let owner = Some(Owner { process, fds: vec![3], holders: 1 });
        Listener { owner, ..Listener::at(Endpoint { address: local.ip(), port: local.port() }) }
    }

    #[test]
    fn an_unaccepted_socket_belongs_to_the_listener_at_its_address() {
        let all = [
            listener("127.0.0.1:80", "local"),
            listener("[::]:80", "every"),
            listener("10.0.0.1:80", "lan"),
            listener("0.0.0.0:81", "v4"),
        ];
        let listeners = Listeners::of(all.iter());
        let name_of = |address: &str| {
            let local: std::net::SocketAddr = address.parse().expect("an address with a port");
            let local = Endpoint { address: local.ip(), port: local.port() };
            listeners.at(local).and_then(acceptor_of).map(|owner| owner.process.name.clone())
        };
        assert_eq!(name_of("127.0.0.1:80").as_deref(), Some("local"));
        assert_eq!(name_of("10.0.0.1:80").as_deref(), Some("lan"));
        assert_eq!(name_of("10.0.0.2:80").as_deref(), Some("every"));
        assert_eq!(name_of("[2001:db8::1]:80").as_deref(), Some("every"));
        assert_eq!(name_of("10.0.0.2:81").as_deref(), Some("v4"));
        assert_eq!(name_of("[2001:db8::1]:81"), None);
        assert_eq!(name_of("127.0.0.1:82"), None);
    }

    #[test]
    fn an_unaccepted_socket_belongs_to_the_listener_in_whose_queue_it_waits() {
        let of = |id, name, accept_queue| Listener {
            id,
            accept_queue,
            ..listener("127.0.0.1:80", name)
        };
        let all = [of(1, "serving", 0), of(2, "hung", 7), of(3, "slow", 2)];
        let listeners = Listeners::of(all.iter());
        let local = all[0].local;
        let name_of = |id| {
            let owner = listeners.of_queue(id, local).and_then(acceptor_of);
            owner.map(|owner| owner.process.name.clone())
        };
        assert_eq!(name_of(3).as_deref(), Some("slow"));
        assert_eq!(name_of(1).as_deref(), Some("serving"));
        assert_eq!(name_of(0).as_deref(), Some("hung"), "unknown: the longest queue");
        assert_eq!(name_of(9).as_deref(), Some("hung"), "a listener that has gone");
    }
}
