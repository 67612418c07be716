//! Sockets that get no acknowledgement, in words.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{
    engine::{
        advice::{
            giving_up, text,
            this_host::{is_of_this_host, own_rules},
        },
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
        groups::held::{Holders, name_holder, oldest_samples},
    },
    facts::{Namespace, Role, SharedLimits, StalledSocket, TcpState, Timestamp},
};

/// Hosts named in the evidence, those with the most sockets.
const HOSTS: usize = 3;

/// A group that stalls, to be put into words.
pub(super) struct Group<'a> {
    pub(super) namespace: &'a Namespace,
    /// Never empty.
    pub(super) sockets: &'a [&'a StalledSocket],
    pub(super) holders: &'a Holders<'a, StalledSocket>,
    pub(super) role: Role,
    pub(super) port: u16,
    pub(super) is_window_closed: bool,
    pub(super) limits: Option<SharedLimits>,
    pub(super) now: Timestamp,
}

impl Group<'_> {
    pub(super) fn verdict(&self, id: String, severity: Severity) -> Verdict {
        let subject = self.subject();
        Verdict {
            id,
            kind: FindingKind::StalledSend,
            severity,
            title: self.title(&subject),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies: self.remedies(&subject),
            subject,
        }
    }

    fn oldest_age(&self) -> Duration {
        let oldest = self.sockets.iter().map(|socket| socket.quiet_since()).min();
        self.now.since(oldest.unwrap_or(self.now))
    }

    fn are_orphans(&self) -> bool {
        self.sockets.iter().all(|socket| socket.orphan)
    }

    fn unacknowledged_bytes(&self) -> u64 {
        self.sockets.iter().map(|socket| u64::from(socket.unacked_bytes)).sum()
    }

    /// Sockets by state, most first.
    fn by_state(&self) -> Vec<(TcpState, u64)> {
        let count = |state| self.sockets.iter().filter(|it| it.state == state).count() as u64;
        let mut states: Vec<_> = TcpState::ALL.map(|state| (state, count(state))).into();
        states.retain(|(_, count)| *count > 0);
        states.sort_by_key(|(_, count)| Reverse(*count));
        states
    }

    /// The shortest and the longest time-out that the program has set; `None` where some have none.
    fn user_timeouts(&self) -> Option<(Duration, Duration)> {
        let all = || self.sockets.iter().map(|it| it.user_timeout);
        Some((all().min()??, all().max()??))
    }

    /// Whether no other host is involved.
    fn are_local(&self) -> bool {
        self.sockets.iter().all(|it| is_of_this_host(self.namespace, it.local, it.peer))
    }

    fn subject(&self) -> Subject {
        let mut subject = Subject {
            netns: self.namespace.name.clone(),
            role: Some(self.role),
            port: Some(self.port),
            ..Subject::default()
        };
        match (self.role, &*by_host(self.sockets)) {
            (Role::Client, [(host, _)]) => {
                subject.peer = Some(std::net::SocketAddr::new(*host, self.port).to_string());
            }
            (Role::Client, _) => subject.peer = Some(format!("*:{}", self.port)),
            (Role::Server, _) => subject.local = Some(format!("*:{}", self.port)),
        }
        name_holder(&mut subject, self.holders);
        subject
    }

    fn title(&self, subject: &Subject) -> String {
        let peers = match (self.role, &*by_host(self.sockets)) {
            (Role::Client, [(host, _)]) => std::net::SocketAddr::new(*host, self.port).to_string(),
            (_, [(host, _)]) => host.to_string(),
            (_, hosts) => format!("{} hosts", hosts.len()),
        };
        let does_not = match (self.is_window_closed, by_host(self.sockets).len()) {
            (true, 1) => "does not read",
            (true, _) => "do not read",
            (false, 1) => "does not acknowledge",
            (false, _) => "do not acknowledge",
        };
        let whose = match (&subject.process, subject.pid) {
            (Some(name), Some(pid)) => format!("of {}", text::named_as(name, pid)),
            _ if self.are_orphans() => "that no process holds any more".to_owned(),
            _ => "of an unknown process".to_owned(),
        };
        let more = match self.holders.len() as u64 {
            0 | 1 => String::new(),
            processes => format!(" and {}", text::count(processes - 1, "more process")),
        };
        // The peer's name has the port already.
        let port = match (self.role, by_host(self.sockets).len()) {
            (Role::Client, 1) => String::new(),
            (Role::Client, _) => format!(" to port {}", self.port),
            (Role::Server, _) => format!(" on port {}", self.port),
        };
        let connections = text::count(self.sockets.len() as u64, "connection");
        let bytes = text::bytes(self.unacknowledged_bytes());
        let (state, _) = self.by_state().first().copied().unwrap_or((TcpState::Established, 0));
        let state = state.label().to_uppercase();
        let most = if self.by_state().len() == 1 { "" } else { "most in " };
        format!(
            "{peers} {does_not} {connections} {whose}{more}{port}{}: {most}{state}, {bytes} \
             unacknowledged, the oldest for {}",
            text::in_netns(&self.namespace.name),
            text::duration(self.oldest_age()),
        )
    }

    fn explanation(&self) -> String {
        let text = match (self.is_window_closed, self.are_local()) {
            (true, _) => {
                "The peers' kernels answer, but offer a window of 0: their processes do not read \
                 what has come. This side may send nothing more, and probes the window again and \
                 again (RFC 9293 section 3.8.6.1)."
            }
            (false, true) => {
                "The kernel sends each segment again at doubling intervals, and no acknowledgement \
                 comes. The peer's address is this host's own: a firewall rule or a filter on the \
                 peer's socket drops the segments. The program learns nothing of it and waits."
            }
            (false, false) => {
                "The kernel sends each segment again at doubling intervals, and no acknowledgement \
                 comes: the peer is gone, or a router, firewall or NAT on the way drops the \
                 segments or has forgotten the connection. The program learns nothing of it and \
                 waits."
            }
        };
        format!("{text}{}", self.end())
    }

    /// How long the kernel goes on.
    fn end(&self) -> String {
        if self.are_orphans() {
            let mut text = " The process has closed them: the FIN waits behind the data, and no \
                            process holds them any more. "
                .to_owned();
            text.push_str(&match self.is_window_closed {
                // `tcp_probe_timer`: the interval has doubled to TCP_RTO_MAX.
                true => format!(
                    "The kernel gives them up when its probes are 2 min apart, some 4 min after the \
                     first (tcp_orphan_retries is {}), sooner when orphans are many.",
                    self.namespace.orphan_retries.unwrap_or_default()
                ),
                false => giving_up::orphans_end(self.namespace),
            });
            let limits = self.limits.and_then(|it| Some((it.orphans?, it.orphans_limit?)));
            if let Some((orphans, limit)) = limits {
                text.push_str(&format!(
                    " This host has {} of at most {} (tcp_max_orphans).",
                    text::count(orphans, "orphan"),
                    text::number(limit)
                ));
            }
            return text;
        }
        if self.is_window_closed {
            return " It lasts for as long as the peer's kernel answers the probes.".to_owned();
        }
        let of_program = match self.user_timeouts() {
            None => return format!(" {}", giving_up::sockets_end(self.namespace)),
            Some((shortest, longest)) if shortest == longest => text::duration(longest),
            Some((shortest, longest)) => {
                format!("{} to {}", text::duration(shortest), text::duration(longest))
            }
        };
        format!(" The kernel gives up after {of_program} (TCP_USER_TIMEOUT of the program).")
    }

    fn evidence(&self) -> EvidenceMap {
        let hosts = by_host(self.sockets);
        let most = |of: fn(&StalledSocket) -> u8| {
            self.sockets.iter().map(|it| of(it)).max().unwrap_or_default()
        };
        let mut evidence = EvidenceMap::default();
        evidence
            .text("cause", if self.is_window_closed { "zero_window" } else { "silence" })
            .count("sockets", self.sockets.len() as u64)
            .count("unacknowledged_bytes", self.unacknowledged_bytes())
            .number("oldest_age_seconds", self.oldest_age().as_secs_f64())
            .flag("orphans", self.are_orphans())
            .count("most_retransmits", most(|it| it.retransmits).into())
            .count("most_probes", most(|it| it.probes).into())
            .count("hosts", hosts.len() as u64);
        if let Some((timeout, _)) = self.user_timeouts().filter(|(short, long)| short == long) {
            evidence.number("user_timeout_seconds", timeout.as_secs_f64());
        }
        if let Some(limits) = self.limits.filter(|_| self.are_orphans())
            && let (Some(orphans), Some(limit)) = (limits.orphans, limits.orphans_limit)
        {
            evidence.count("host_orphans", orphans).count("limit_orphans", limit);
        }
        let of_state = |(state, sockets): (TcpState, u64)| {
            let mut object = EvidenceMap::default();
            object.text("state", state.label()).count("sockets", sockets);
            object
        };
        evidence.list("sockets_by_state", self.by_state().into_iter().map(of_state));
        let of_host = |(host, sockets): &(IpAddr, u64)| {
            let mut object = EvidenceMap::default();
            object.text("host", host.to_string()).count("sockets", *sockets);
            object
        };
        evidence.list("sockets_by_host", hosts.iter().take(HOSTS).map(of_host));
        if !self.holders.is_empty() {
            evidence.count("processes", self.holders.len() as u64);
        }
        let details = |socket: &StalledSocket, sample: &mut EvidenceMap| {
            sample
                .text("state", socket.state.label())
                .count("unacknowledged_bytes", socket.unacked_bytes.into());
        };
        evidence.list("sample_sockets", oldest_samples(self.sockets, self.now, details));
        evidence
    }

    fn remedies(&self, subject: &Subject) -> Vec<String> {
        let here = |command: &str| text::in_its_namespace(subject, command);
        let port = self.port;
        let side = if self.role == Role::Client { "dport" } else { "sport" };
        let (state, _) = self.by_state().first().copied().unwrap_or((TcpState::Established, 0));
        let state = state.label().replace('_', "-").replace("wait1", "wait-1");
        let look = here(&format!("ss -tnpo state {state} '( {side} = :{port} )'"));
        let look = format!("Look at them: {look} (Send-Q, and timer: how often it was sent again)");
        let host = by_host(self.sockets).first().map(|(host, _)| host.to_string());
        let host = host.unwrap_or_default();
        if self.is_window_closed {
            let other = if side == "dport" { "sport" } else { "dport" };
            let reader = format!("ss -tnp '( {other} = :{port} )'");
            let reader = match self.are_local() {
                true => here(&reader),
                false => format!("at {host}: {}", text::to_paste(&reader)),
            };
            let end = if self.are_orphans() {
                "In the program that closed them: TCP_USER_TIMEOUT before close(), which bounds the \
                 orphan too. Orphans end by themselves."
            } else {
                "In the program here: a time-out for writing, and a bound on what waits for one peer."
            };
            return vec![
                look,
                format!(
                    "Find the process that does not read, {reader} (Recv-Q above 0), and dump its \
                     threads: {}.",
                    text::dump(None)
                ),
                end.to_owned(),
            ];
        }
        let capture = here(&format!("tcpdump -ni any 'host {host} and tcp port {port}'"));
        let mut remedies = vec![look];
        if self.are_local() {
            remedies.push(own_rules(subject, port));
            remedies.push(format!("Proof: {capture} shows the segments, sent again on this host."));
        } else {
            remedies.push(format!(
                "Follow a segment: {capture} here and the same at {host}. The hop after the last \
                 one that shows it drops it."
            ));
            remedies.push(format!(
                "Is {host} up, and does it still have the address? Was a firewall, NAT or load \
                 balancer on the way restarted, or does it forget idle connections?"
            ));
        }
        if self.are_orphans() {
            remedies
                .push("Nothing is to be freed here: the kernel ends them by itself.".to_owned());
        } else {
            let kill = here(&format!("ss -tK state {state} '( dst {host} and {side} = :{port} )'"));
            remedies.push(format!(
                "To be rid of them now: {kill}, where the kernel has CONFIG_INET_DIAG_DESTROY. It \
                 also ends healthy connections to {host} in that state; each call on them fails \
                 with ECONNABORTED. Else {}",
                text::restart(subject)
            ));
            remedies.push(
                "In the code: a time-out for each answer, TCP_USER_TIMEOUT of some seconds more, and \
                 TCP keep-alive sooner than the idle time-out of NAT and balancers."
                    .to_owned(),
            );
        }
        remedies
    }
}

/// The hosts at the other end, those with the most sockets first.
pub(super) fn by_host(sockets: &[&StalledSocket]) -> Vec<(IpAddr, u64)> {
    let mut hosts: BTreeMap<IpAddr, u64> = BTreeMap::new();
    for socket in sockets {
        *hosts.entry(socket.peer.address).or_default() += 1;
    }
    let mut hosts: Vec<_> = hosts.into_iter().collect();
    hosts.sort_by_key(|(_, sockets)| Reverse(*sockets));
    hosts
}
