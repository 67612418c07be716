//! A group that is stuck in words: title, explanation, evidence, remedies.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use super::{Pressed, owner::GroupKey};
use crate::{
    engine::{
        advice::{
            giving_up, text,
            this_host::{is_of_this_host, local, local_connect, own_rules},
        },
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
        groups::{
            held::{Holders, name_holder, oldest_samples},
            peers::Peers,
        },
    },
    facts::{
        DescriptorUse, Listener, Namespace, Process, Role, TcpState, Timestamp, WaitingSocket,
    },
};

/// The meaning of a connect() without an answer.
pub(super) const SILENCE: &str = "SYNs were sent, and sent again, and nothing came back, not even a \
    refusal: a port on which no process listens would have answered with a reset.";

/// The reasons for which no answer comes.
pub(super) fn cause_of_silence(is_local: bool) -> String {
    if is_local {
        return local_connect();
    }
    "So packets are dropped, there or on the way: by a firewall or a security group, a wrong route, a \
     host that is down, or a listener whose accept queue is full."
        .to_owned()
}

/// Hosts named in the evidence, those with the most sockets.
const HOSTS: usize = 3;

/// A group that is stuck, to be put into words.
pub(crate) struct Group<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) state: TcpState,
    pub(crate) key: &'a GroupKey,
    pub(crate) sockets: &'a [&'a WaitingSocket],
    pub(crate) holders: &'a Holders<'a, WaitingSocket>,
    pub(crate) peers: &'a Peers<'a>,
    /// Sockets of the group in FIN_WAIT2 whose peer works.
    pub(crate) half_closed: u64,
    /// Where they raise the severity.
    pub(crate) descriptors: Option<Pressed>,
    pub(crate) now: Timestamp,
}

impl Group<'_> {
    pub(crate) fn verdict(&self, id: String, severity: Severity) -> Verdict {
        let subject = self.subject();
        Verdict {
            id,
            kind: FindingKind::StuckState,
            severity,
            title: self.title(&subject),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies: self.remedies(&subject),
            subject,
        }
    }

    fn oldest(&self) -> &WaitingSocket {
        self.sockets
            .iter()
            .min_by_key(|socket| socket.since)
            .expect("a group has at least one socket")
    }

    fn are_orphans(&self) -> bool {
        self.sockets.iter().all(|socket| socket.orphan)
    }

    /// Whether all peers are of this host.
    fn are_local(&self) -> bool {
        self.sockets.iter().all(|it| is_of_this_host(self.namespace, it.local, it.peer))
    }

    /// The process at the other end of most of them, where that end is in CLOSE_WAIT on this host.
    fn peer_process(&self) -> Option<&Process> {
        let mut counts: BTreeMap<u32, (usize, &Process)> = BTreeMap::new();
        for socket in self.sockets {
            let Some(end) = self.peers.other_end(socket) else { continue };
            let Some(owner) = &end.owner else { continue };
            counts.entry(owner.process.pid).or_insert((0, &owner.process)).0 += 1;
        }
        let most = counts.into_values().max_by_key(|(count, _)| *count);
        most.filter(|(count, _)| count * 2 > self.sockets.len()).map(|(_, process)| process)
    }

    /// The listener of this host that they connect to, where its accept queue is full.
    fn full_listener(&self) -> Option<&Listener> {
        let to = self.oldest().peer;
        let is_of_them = |it: &&Listener| {
            let is_there = it.local.address == to.address || it.local.address.is_unspecified();
            it.local.port == to.port && is_there && it.is_full()
        };
        let of_this_host = self.state == TcpState::SynSent && self.are_local();
        self.namespace.listeners.iter().filter(|_| of_this_host).find(is_of_them)
    }

    /// The process that holds most of them, with the descriptors of its oldest sockets.
    fn subject(&self) -> Subject {
        let first = self.oldest();
        let mut subject = Subject {
            netns: self.namespace.name.clone(),
            role: Some(first.role),
            port: self.key.port,
            ..Subject::default()
        };
        let port = self.key.port.map_or_else(|| "*".to_owned(), |port| port.to_string());
        match (first.role, &*by_host(self.sockets)) {
            (Role::Client, [_]) if self.key.port.is_some() => {
                subject.peer = Some(first.peer.to_string())
            }
            (Role::Client, _) => subject.peer = Some(format!("*:{port}")),
            (Role::Server, _) => subject.local = Some(format!("*:{port}")),
        }
        name_holder(&mut subject, self.holders);
        subject
    }

    fn title(&self, subject: &Subject) -> String {
        let first = self.oldest();
        let does_not = match self.state {
            TcpState::SynSent => "answer",
            TcpState::FinWait2 => "close",
            _ => "acknowledge the close",
        };
        let peers = match (first.role, &*by_host(self.sockets)) {
            (Role::Client, [_]) if self.key.port.is_some() => format!("{} does", first.peer),
            (_, [(host, _)]) => format!("{host} does"),
            (_, hosts) => format!("{} hosts do", hosts.len()),
        };
        let connections = text::count(self.sockets.len() as u64, "connection");
        let whose = match (&subject.process, subject.pid) {
            (Some(name), Some(pid)) => format!("of {}", text::named_as(name, pid)),
            _ if self.are_orphans() => "that no process holds any more".to_owned(),
            _ => "of an unknown process".to_owned(),
        };
        let more = match self.holders.len() as u64 {
            0 | 1 => String::new(),
            processes => format!(" and {}", text::count(processes - 1, "more process")),
        };
        let side = match first.role {
            Role::Client => "to",
            Role::Server => "on",
        };
        let port = match self.key.port {
            Some(port) => format!("port {port}"),
            None => "several ports".to_owned(),
        };
        let state = self.state.label().to_uppercase();
        let netns = text::in_netns(&self.namespace.name);
        let at_least = if self.age_is_exact() { "" } else { "at least " };
        let age = text::duration(self.now.since(first.since));
        let peer = match (self.are_local(), self.peer_process()) {
            (_, Some(process)) => {
                format!("; the peer is {} on this host", text::named_as(&process.name, process.pid))
            }
            (true, None) => "; the peer is this host itself".to_owned(),
            (false, None) => String::new(),
        };
        let taken = match self.descriptors {
            Some(Pressed { pid, sockets, descriptors: DescriptorUse { open, limit, .. } }) => {
                let whose = match subject.pid == Some(pid) {
                    true => String::new(),
                    false => format!(" of pid {pid}"),
                };
                let (limit, open) = (text::number(limit), text::number(open));
                format!("; {sockets} of the {limit} descriptors{whose}, {open} are open")
            }
            None => String::new(),
        };
        format!(
            "{peers} not {does_not}: {connections} {whose}{more} {side} {port} stay in \
             {state}{netns}, the oldest for {at_least}{age}{peer}{taken}"
        )
    }

    /// connect() notes when SYN_SENT began; only the walk sees the other states.
    fn age_is_exact(&self) -> bool {
        self.state == TcpState::SynSent
    }

    fn explanation(&self) -> String {
        let text = match self.state {
            TcpState::SynSent => SILENCE,
            TcpState::FinWait2 => {
                "This side has sent its FIN, the peer has acknowledged it and does not send its \
                 own: there the sockets are in CLOSE_WAIT until the peer's process closes them \
                 (RFC 9293 section 3.6). The process here still holds its ends (shutdown(), not \
                 close()) and waits without a time-out, so no timer of the kernel ends them \
                 either."
            }
            _ if self.are_local() => {
                "Both sides have closed. This side sends its FIN again and again, and no ACK \
                 comes."
            }
            _ => {
                "Both sides have closed. This side sends its FIN again and again, and no ACK \
                 comes: the peer vanished after its own FIN, or a firewall or NAT on the way has \
                 forgotten the connection."
            }
        };
        let text = match (self.state, self.are_local(), self.full_listener()) {
            (_, _, Some(listener)) => format!(
                "SYNs were sent, and sent again, and were not answered: the accept queue of {} is \
                 full on {} ({} wait, the limit is {}), and the kernel drops each SYN that comes.",
                text::named(listener.accepting()),
                listener.local,
                text::number(listener.accept_queue),
                text::number(listener.accept_limit)
            ),
            (TcpState::SynSent, is_local, _) => format!("{text} {}", cause_of_silence(is_local)),
            (TcpState::FinWait2, ..) | (_, false, _) => text.to_owned(),
            (_, true, _) => format!("{text} {}", local()),
        };
        let end = match self.state {
            TcpState::SynSent | TcpState::FinWait2 => String::new(),
            _ if self.are_orphans() => {
                format!(" No process holds them. {}", giving_up::orphans_end(self.namespace))
            }
            _ => format!(" {}", giving_up::sockets_end(self.namespace)),
        };
        let half_closed = match self.half_closed {
            0 => String::new(),
            count => format!(
                " {} more whose peer still sends are half-closed on purpose and do not count.",
                text::count(count, "socket")
            ),
        };
        let taken = match self.descriptors {
            Some(_) => " Each takes a descriptor: at the limit accept() and open() fail.",
            None => "",
        };
        format!("{text}{end}{half_closed}{taken}")
    }

    fn evidence(&self) -> EvidenceMap {
        let hosts = by_host(self.sockets);
        let mut evidence = EvidenceMap::default();
        evidence
            .text("state", self.state.label())
            .count("sockets", self.sockets.len() as u64)
            .number("oldest_age_seconds", self.now.since(self.oldest().since).as_secs_f64())
            .flag("oldest_age_is_lower_bound", !self.age_is_exact())
            .count("hosts", hosts.len() as u64)
            .flag("peer_is_this_host", self.are_local());
        if self.state == TcpState::FinWait2 {
            evidence.count("half_closed_sockets", self.half_closed);
        }
        if let Some(Pressed { sockets, descriptors: DescriptorUse { open, limit, .. }, .. }) =
            self.descriptors
        {
            evidence
                .count("descriptors", sockets)
                .count("open_descriptors", open)
                .count("limit_descriptors", limit);
        }
        if let Some(process) = self.peer_process() {
            let mut object = EvidenceMap::default();
            object.process(process);
            evidence.object("peer_process", object);
        }
        let of_host = |(host, sockets): &(IpAddr, usize)| {
            let mut object = EvidenceMap::default();
            object.text("host", host.to_string()).count("sockets", *sockets as u64);
            object
        };
        evidence.list("sockets_by_host", hosts.iter().take(HOSTS).map(of_host));
        if !self.holders.is_empty() {
            evidence.count("processes", self.holders.len() as u64);
        }
        let details = |_: &WaitingSocket, sample: &mut EvidenceMap| {
            sample.flag("age_is_lower_bound", !self.age_is_exact());
        };
        evidence.list("sample_sockets", oldest_samples(self.sockets, self.now, details));
        evidence
    }

    fn remedies(&self, subject: &Subject) -> Vec<String> {
        let first = self.oldest();
        let here = |command: &str| text::in_its_namespace(subject, command);
        let port = first.service_port();
        // The filter of `ss` here, and at the other end.
        let (side, other_side) = match first.role {
            Role::Client => ("dport", "sport"),
            Role::Server => ("sport", "dport"),
        };
        let state = match self.state {
            TcpState::SynSent => "syn-sent",
            TcpState::FinWait2 => "fin-wait-2",
            TcpState::LastAck => "last-ack",
            _ => "closing",
        };
        let filter = |side: &str| match self.key.port {
            Some(port) => format!(" '( {side} = :{port} )'"),
            None => String::new(),
        };
        let list = format!("ss -tnpo state {state}{}", filter(side));
        let look = format!("Look at them: {}", here(&list));
        // The host with the most sockets: the one to begin with.
        let host = by_host(self.sockets).first().map_or(first.peer.address, |(host, _)| *host);
        let capture = here(&format!("tcpdump -ni any 'host {host} and tcp port {port}'"));
        match self.state {
            TcpState::SynSent if self.full_listener().is_some() => {
                vec![look, full_queue(subject, port), TIME_OUT.to_owned()]
            }
            TcpState::SynSent if self.are_local() => {
                vec![look, own_rules(subject, port), full_queue(subject, port), TIME_OUT.to_owned()]
            }
            TcpState::SynSent => vec![
                look,
                format!(
                    "Ask for the way: {}; then follow one SYN, here with {capture} and at the \
                     destination likewise: where it is seen last is the hop before the one that \
                     drops it.",
                    here(&format!("ip route get {host}"))
                ),
                format!(
                    "At {host}: is it up, does a firewall or security group let port {port} in, \
                     and is its accept queue full: `ss -ltn '( sport = :{port} )'` with Recv-Q above \
                     Send-Q?"
                ),
                TIME_OUT.to_owned(),
            ],
            TcpState::FinWait2 => vec![
                look,
                self.at_the_peer(subject, host, &filter(other_side)),
                "In the code here: a time-out for reading after shutdown(), then close(), which \
                 leaves the socket to the kernel (tcp_fin_timeout)."
                    .to_owned(),
                format!("To free the sockets here now: {}", text::restart(subject)),
            ],
            _ if self.are_local() => vec![
                format!("{look} (timer: how often the FIN was sent)"),
                own_rules(subject, port),
                format!("Proof: {capture} shows the FINs, sent again and again on this host."),
                "Nothing is to be freed here: the kernel gives them up by itself.".to_owned(),
            ],
            _ => vec![
                format!("{look} (timer: how often the FIN was sent)"),
                format!(
                    "Is {host} up, and do its packets arrive: {capture} shows this side's FINs, \
                     and whatever comes back."
                ),
                "Look for a firewall, NAT or load balancer on the way that was restarted, or that \
                 forgets connections sooner than these programs close them."
                    .to_owned(),
                "Nothing is to be freed here: the kernel gives them up by itself.".to_owned(),
            ],
        }
    }
}

impl Group<'_> {
    /// Where the process is found that does not close.
    fn at_the_peer(&self, subject: &Subject, host: IpAddr, filter: &str) -> String {
        match self.peer_process() {
            Some(process) => format!(
                "{} on this host holds the other ends in CLOSE_WAIT: find out why it does not \
                 close them. Until that is repaired: {}",
                text::named_as(&process.name, process.pid),
                text::restart_of(process)
            ),
            None if self.are_local() => format!(
                "{} names the process that does not close. An empty answer: it has forgotten the \
                 connections, and only keep-alive here would have found out.",
                text::in_its_namespace(subject, &format!("ss -tnp state close-wait{filter}"))
            ),
            None => format!(
                "At {host}: `ss -tnp state close-wait{filter}` names the process that does not \
                 close; repair or restart that one. If it has no such sockets it has forgotten \
                 them, and only keep-alive here would have found out."
            ),
        }
    }
}

/// The last advice for a connect() without an answer.
pub(crate) const TIME_OUT: &str = "In the code: a time-out of a few seconds for connect(), and a \
    pause that grows before the next one.";

/// A listener of this host drops SYNs without an answer when its queue is full.
pub(crate) fn full_queue(subject: &Subject, port: u16) -> String {
    let list = format!("ss -ltnp '( sport = :{port} )'");
    format!(
        "Its accept queue: {}; with Recv-Q above Send-Q the queue is full, and the process named \
         there does not accept.",
        text::in_its_namespace(subject, &list)
    )
}

/// The hosts at the other end, those with the most sockets first.
pub(crate) fn by_host(sockets: &[&WaitingSocket]) -> Vec<(IpAddr, usize)> {
    let mut hosts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for socket in sockets {
        *hosts.entry(socket.peer.address).or_default() += 1;
    }
    let mut hosts: Vec<_> = hosts.into_iter().collect();
    hosts.sort_by_key(|(_, sockets)| Reverse(*sockets));
    hosts
}
