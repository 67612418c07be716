//! Which services the sockets of a finding are of, and how that is said.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    engine::{advice::text, evidence::EvidenceMap, finding::Subject},
    facts::{CloseWaitSocket, Role},
};

/// Services that the evidence lists.
const LISTED: usize = 5;

/// Sockets by role and service port, the most first.
pub(super) struct Services<'a> {
    all: &'a [&'a CloseWaitSocket],
    counts: Vec<((Role, u16), u64)>,
}

impl<'a> Services<'a> {
    pub(super) fn of(sockets: &'a [&'a CloseWaitSocket]) -> Self {
        let mut counts: BTreeMap<(Role, u16), u64> = BTreeMap::new();
        for socket in sockets {
            *counts.entry((socket.role, socket.service_port())).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| Reverse(*count));
        Self { all: sockets, counts }
    }

    /// The service that has three quarters of them at least: to that one most of the cause belongs.
    /// The words give both numbers.
    pub(super) fn main(&self) -> Option<(Role, u16)> {
        let total = self.all.len() as u64;
        self.counts.first().filter(|(_, count)| *count * 4 >= total * 3).map(|(main, _)| *main)
    }

    /// The role, where all have the same.
    pub(super) fn role(&self) -> Option<Role> {
        let (first, _) = self.counts.first()?.0;
        self.counts.iter().all(|((role, _), _)| *role == first).then_some(first)
    }

    /// All that is there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Role, u16)> {
        self.counts.iter().map(|(service, _)| *service)
    }

    fn peers_of(&self, service: Option<(Role, u16)>) -> BTreeSet<IpAddr> {
        let is_of = |socket: &&&CloseWaitSocket| {
            service.is_none_or(|service| service == (socket.role, socket.service_port()))
        };
        self.all.iter().filter(is_of).map(|socket| socket.peer.address).collect()
    }

    /// Fills in the ends of the subject.
    pub(super) fn name(&self, subject: &mut Subject) {
        subject.role = self.role();
        let Some((role, port)) = self.main() else { return };
        (subject.role, subject.port) = (Some(role), Some(port));
        match (role, self.peers_of(Some((role, port))).len()) {
            (Role::Client, 1) => subject.peer = self.peer_of(port),
            (Role::Client, _) => subject.peer = Some(format!("*:{port}")),
            (Role::Server, _) => subject.local = Some(format!("*:{port}")),
        }
    }

    fn peer_of(&self, port: u16) -> Option<String> {
        let is_of = |socket: &&&CloseWaitSocket| {
            socket.role == Role::Client && socket.service_port() == port
        };
        self.all.iter().find(is_of).map(|socket| socket.peer.to_string())
    }

    /// `40 connections to 10.0.0.9:443 in CLOSE_WAIT`.
    pub(super) fn in_words(&self, are_unaccepted: bool) -> String {
        const STATE: &str = "in CLOSE_WAIT";
        let total = self.all.len() as u64;
        let connections = text::count(total, "connection");
        let accepted = if are_unaccepted { "unaccepted" } else { "accepted" };
        let (main, count) = match (self.main(), self.counts.first()) {
            (Some(main), Some((_, count))) => (main, *count),
            _ => return format!("{} {STATE}", self.spread_in_words(accepted)),
        };
        let place = self.place(main);
        match (main.0, count == total) {
            (Role::Client, true) => format!("{connections} {place} {STATE}"),
            (Role::Server, true) => {
                format!("{} {place} {STATE}", text::count(total, &format!("{accepted} connection")))
            }
            (_, false) => {
                format!("{connections} {STATE}, {} of them {place}", text::number(count))
            }
        }
    }

    /// `to 10.0.0.9:443`, `on port 8080 from 3 hosts`.
    fn place(&self, (role, port): (Role, u16)) -> String {
        let peers = self.peers_of(Some((role, port)));
        let one = peers.iter().next().filter(|_| peers.len() == 1);
        match (role, one) {
            (Role::Client, Some(_)) => format!("to {}", self.peer_of(port).unwrap_or_default()),
            (Role::Client, None) => {
                format!("to port {port} of {}", text::count(peers.len() as u64, "host"))
            }
            (Role::Server, Some(peer)) => format!("on port {port} from {peer}"),
            (Role::Server, None) => {
                format!("on port {port} from {}", text::count(peers.len() as u64, "host"))
            }
        }
    }

    /// Those of several services, none of which has nearly all.
    fn spread_in_words(&self, accepted: &str) -> String {
        let total = self.all.len() as u64;
        let ports = text::number(self.counts.len() as u64);
        let peers = self.peers_of(None);
        let one = peers.iter().next().filter(|_| peers.len() == 1);
        let hosts =
            one.map_or_else(|| text::count(peers.len() as u64, "host"), ToString::to_string);
        match self.role() {
            Some(Role::Client) => {
                format!("{} to {ports} ports of {hosts}", text::count(total, "connection"))
            }
            Some(Role::Server) => {
                let connections = text::count(total, &format!("{accepted} connection"));
                format!("{connections} on {ports} ports from {hosts}")
            }
            None => {
                let of_server = self.counts.iter().filter(|((role, _), _)| *role == Role::Server);
                let of_server: u64 = of_server.map(|(_, count)| *count).sum();
                let outgoing = total - of_server;
                let connections = text::count(total, "connection");
                format!("{connections} ({of_server} accepted, {outgoing} outgoing)")
            }
        }
    }

    /// One for each, where there are several.
    pub(super) fn evidence(&self) -> Vec<EvidenceMap> {
        if self.counts.len() < 2 {
            return Vec::new();
        }
        let object = |((role, port), count): &((Role, u16), u64)| {
            let mut object = EvidenceMap::default();
            object
                .text("role", role.label())
                .count("port", u64::from(*port))
                .count("sockets", *count);
            object
        };
        self.counts.iter().take(LISTED).map(object).collect()
    }
}
