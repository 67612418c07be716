//! A group that is stuck in words: title, explanation, evidence, remedies.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use crate::{
    engine::{
        advice::text,
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
        groups::held::{Holders, name_holder, oldest_samples},
    },
    facts::{Namespace, Role, TcpState, Timestamp, WaitingSocket},
};

/// Hosts named in the evidence, those with the most sockets.
const HOSTS: usize = 3;

/// A group that is stuck, to be put into words.
pub(crate) struct Group<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) state: TcpState,
    pub(crate) sockets: &'a [&'a WaitingSocket],
    pub(crate) holders: &'a Holders<'a, WaitingSocket>,
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

    /// The process that holds most of them, with the descriptors of its oldest sockets.
    fn subject(&self) -> Subject {
        let first = self.oldest();
        let mut subject = Subject {
            netns: self.namespace.name.clone(),
            role: Some(first.role),
            port: Some(first.service_port()),
            ..Subject::default()
        };
        let port = first.service_port();
        match (first.role, &*by_host(self.sockets)) {
            (Role::Client, [_]) => subject.peer = Some(first.peer.to_string()),
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
            (Role::Client, [_]) => format!("{} does", first.peer),
            (Role::Server, [(host, _)]) => format!("{host} does"),
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
        let port = first.service_port();
        let state = self.state.label().to_uppercase();
        let netns = text::in_netns(&self.namespace.name);
        let at_least = if self.age_is_exact() { "" } else { "at least " };
        let age = text::duration(self.now.since(first.since));
        format!(
            "{peers} not {does_not}: {connections} {whose}{more} {side} port {port} stay in \
             {state}{netns}, the oldest for {at_least}{age}"
        )
    }

    /// connect() notes when SYN_SENT began; the other states are seen by the walk alone.
    fn age_is_exact(&self) -> bool {
        self.state == TcpState::SynSent
    }

    fn explanation(&self) -> String {
        let text = match self.state {
            TcpState::SynSent => {
                "SYNs were sent, and sent again, and nothing came back, not even a refusal: a port \
                 on which nobody listens would have answered with a reset. So packets are dropped, \
                 there or on the way: by a firewall or a security group, a wrong route, a host \
                 that is down, or a listener whose accept queue is full."
            }
            TcpState::FinWait2 => {
                "This side has sent its FIN, the peer has acknowledged it and does not send its \
                 own: there the sockets are in CLOSE_WAIT until the peer's process closes them \
                 (RFC 9293 section 3.6). The process here still holds its ends (shutdown(), not \
                 close()) and waits without a time-out, so no timer of the kernel ends them \
                 either."
            }
            _ => {
                "Both sides have closed. This side sends its FIN again and again, and no ACK \
                 comes: the peer vanished after its own FIN, or a firewall or NAT on the way has \
                 forgotten the connection."
            }
        };
        let end = match self.state {
            TcpState::SynSent | TcpState::FinWait2 => "",
            // `tcp_orphan_retries` 0 means 8, which took 108 s on 6.18.
            _ if self.are_orphans() => " No process holds them; the kernel gives up after 2 min.",
            _ => " The kernel gives up after some 15 min (tcp_retries2).",
        };
        format!("{text}{end}")
    }

    fn evidence(&self) -> EvidenceMap {
        let hosts = by_host(self.sockets);
        let mut evidence = EvidenceMap::default();
        evidence
            .text("state", self.state.label())
            .count("sockets", self.sockets.len() as u64)
            .number("oldest_age_seconds", self.now.since(self.oldest().since).as_secs_f64())
            .flag("oldest_age_is_lower_bound", !self.age_is_exact())
            .count("hosts", hosts.len() as u64);
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
        // What `ss` must ask for here, and at the other end.
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
        let list = format!("ss -tnpo state {state} '( {side} = :{port} )'");
        let look = format!("Look at them: {}", here(&list));
        // The host with the most sockets: the one to begin with.
        let host = by_host(self.sockets).first().map_or(first.peer.address, |(host, _)| *host);
        let capture = here(&format!("tcpdump -ni any 'host {host} and tcp port {port}'"));
        match self.state {
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
                     and is its accept queue full: ss -ltn '( sport = :{port} )' with Recv-Q above \
                     Send-Q?"
                ),
                "In the code: a time-out of a few seconds for connect(), and a pause that grows \
                 before the next one."
                    .to_owned(),
            ],
            TcpState::FinWait2 => vec![
                look,
                format!(
                    "At {host}: ss -tnp state close-wait '( {other_side} = :{port} )' names the \
                     process that does not close; mend or restart that one. If it has no such \
                     sockets it has forgotten them, and only keep-alive here would have told."
                ),
                "In the code here: a time-out for reading after shutdown(), then close(), which \
                 leaves the rest to the kernel (tcp_fin_timeout)."
                    .to_owned(),
                format!("To free the sockets here now: {}", text::restart(subject)),
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
