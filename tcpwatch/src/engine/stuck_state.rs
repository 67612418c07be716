//! `stuck-state`: sockets that wait for their peer, which does not answer.
//!
//! Signal: sockets in FIN_WAIT2, LAST_ACK or CLOSING older than `min_age`, and in SYN_SENT older
//! than `unanswered`, grouped by namespace, state, process, unit, role and service port. A socket
//! in FIN_WAIT2 that no process holds ends by `tcp_fin_timeout`, and one that is connected to itself
//! is of another kind: neither counts.
//! Trip: info at `warning` of a group, and `warning` or `critical` of them towards one host. Who
//! dials or serves many hosts (a mail server, a crawler, a scraper, a proxy) always has some that do
//! not answer, and clients that vanish one by one are the ordinary weather of the internet. LAST_ACK
//! and CLOSING end by a timer of the kernel: they are never critical.
//! Cold start: ages are lower bounds, but for SYN_SENT; what was stuck before the agent began is
//! seen as soon as its age is proven.
//! Recovery: the second inventory below 0.9 of the threshold. One alone may have met the moment at
//! which a program has given up all its connects and has begun anew, so that none of them is old. In
//! SYN_SENT, `window` after the last that was not below: a job that dials each minute pauses longer.
//! Misses: connects that are given up before `unanswered`; a service of many addresses that is down
//! as a whole is info; what is beyond the sockets that the
//! inventory describes; a group spread over more processes than there are sockets.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use super::{
    EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject, level::Levels, text,
};
use crate::{
    config::{self, Overridable},
    facts::{Inventory, Namespace, NetnsId, Process, Role, TcpState, Timestamp, WaitingSocket},
};

/// Sockets described in the evidence, and peers named there.
const SAMPLES: usize = 3;
/// Descriptors named in the subject.
const FDS: usize = 8;

#[derive(Debug)]
pub(super) struct StuckState {
    pub(super) config: Overridable<config::StuckState>,
    levels: Levels,
    shown: Vec<Shown>,
}

/// What an inventory showed, and of whom.
#[derive(Debug)]
struct Shown {
    process: Option<Arc<Process>>,
    state: TcpState,
    finding: Finding,
    /// When it was there last.
    met: Timestamp,
    /// The inventories since that have not shown it.
    missed: u32,
}

/// Whose sockets are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey<'a> {
    netns: NetnsId,
    state: TcpState,
    process: &'a str,
    unit: &'a str,
    role: Role,
    port: u16,
}

impl StuckState {
    pub(super) fn new(config: Overridable<config::StuckState>) -> Self {
        Self { config, levels: Levels::default(), shown: Vec::new() }
    }

    /// The groups that are stuck at `now`.
    pub(super) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        self.levels.begin();
        let before = std::mem::take(&mut self.shown);
        let mut findings = Vec::new();
        for namespace in &inventory.namespaces {
            for (key, sockets) in self.groups(namespace, now) {
                let id = id(&key);
                if let Some(severity) = self.judge_group(&id, &sockets) {
                    let group = Group { namespace, state: key.state, sockets: &sockets, now };
                    let process = sockets[0].owner.as_ref().map(|owner| Arc::clone(&owner.process));
                    let finding = group.finding(id, severity);
                    let shown = Shown { process, state: key.state, finding, met: now, missed: 0 };
                    findings.push((sockets.len(), shown));
                }
            }
        }
        findings.sort_by_key(|(sockets, shown): &(usize, Shown)| {
            (Reverse(shown.finding.severity), Reverse(*sockets))
        });
        findings.truncate(FINDINGS_PER_KIND);
        self.shown = findings.into_iter().map(|(_, shown)| shown).collect();
        self.keep(before, now);
        self.shown.iter().map(|shown| shown.told(now)).collect()
    }

    /// Sockets that have waited long enough. One whose owner is still to be looked for waits for
    /// that, so that nobody is told of an unknown process that has a name a second later.
    fn groups<'a>(
        &self,
        namespace: &'a Namespace,
        now: Timestamp,
    ) -> BTreeMap<GroupKey<'a>, Vec<&'a WaitingSocket>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for socket in &namespace.waiting {
            let process = process_of(socket);
            let config = self.config.of(process, socket.service_port());
            let is_young = now.since(socket.since) < least_age(config, socket.state);
            let is_timed = socket.state == TcpState::FinWait2 && socket.orphan;
            let is_self = socket.local == socket.peer;
            if !config.enabled || socket.owner_pending || is_young || is_timed || is_self {
                continue;
            }
            let key = GroupKey {
                netns: namespace.id,
                state: socket.state,
                process: process.map_or("", |process| &process.name),
                unit: process.map_or("", |process| process.unit_label()),
                role: socket.role,
                port: socket.service_port(),
            };
            groups.entry(key).or_default().push(socket);
        }
        groups
    }

    fn judge_group(&mut self, id: &str, sockets: &[&WaitingSocket]) -> Option<Severity> {
        let count = sockets.len() as f64;
        // All of a group have the same process, unit and port.
        let first = sockets.first()?;
        let config = self.config.of(process_of(first), first.service_port());
        let warning = config.warning as f64;
        let critical = match first.state {
            TcpState::LastAck | TcpState::Closing => f64::INFINITY,
            _ => config.critical as f64,
        };
        let most = by_host(sockets).first().map_or(0, |(_, sockets)| *sockets);
        let by_host = self.levels.judge(&host_id(id), most as f64, warning, critical);
        let by_count = self.levels.judge(id, count, warning, f64::INFINITY);
        by_count.map(|_| by_host.unwrap_or(Severity::Info))
    }

    /// Adds what has been there lately and is not now.
    fn keep(&mut self, before: Vec<Shown>, now: Timestamp) {
        let ids: HashSet<String> = self.shown.iter().map(|it| it.finding.id.clone()).collect();
        for mut shown in before {
            let id = &shown.finding.id;
            let port = shown.finding.subject.port.unwrap_or_default();
            let config = self.config.of(shown.process.as_deref(), port);
            shown.missed += 1;
            let is_recent = match shown.state {
                TcpState::SynSent => now.since(shown.met) <= config.window,
                _ => shown.missed == 1,
            };
            let is_wanted = config.enabled && is_recent && !ids.contains(id);
            if is_wanted && self.shown.len() < FINDINGS_PER_KIND {
                self.levels.hold(id, Severity::Warning);
                if shown.finding.severity > Severity::Info {
                    self.levels.hold(&host_id(id), shown.finding.severity);
                }
                self.shown.push(shown);
            }
        }
    }
}

impl Shown {
    /// The finding, and since when it has not been met.
    fn told(&self, now: Timestamp) -> Finding {
        let mut finding = self.finding.clone();
        if self.missed > 1 {
            let age = text::duration(now.since(self.met));
            finding.explanation.push_str(&format!(" So many were there last {age} ago."));
        }
        finding
    }
}

fn process_of(socket: &WaitingSocket) -> Option<&Process> {
    socket.owner.as_ref().map(|owner| &*owner.process)
}

fn least_age(config: &config::StuckState, state: TcpState) -> Duration {
    match state {
        TcpState::SynSent => config.unanswered,
        _ => config.min_age,
    }
}

fn id(key: &GroupKey<'_>) -> String {
    let GroupKey { netns, state, process, unit, role, port } = key;
    format!("stuck-state/{}/{netns}/{process}/{unit}/{}/{port}", state.label(), role.label())
}

/// The condition of the one host with the most sockets. An id ends in a port, so this is no other
/// group's.
fn host_id(id: &str) -> String {
    format!("{id}/host")
}

/// The hosts at the other end, those with the most sockets first.
fn by_host(sockets: &[&WaitingSocket]) -> Vec<(IpAddr, usize)> {
    let mut hosts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for socket in sockets {
        *hosts.entry(socket.peer.address).or_default() += 1;
    }
    let mut hosts: Vec<_> = hosts.into_iter().collect();
    hosts.sort_by_key(|(_, sockets)| Reverse(*sockets));
    hosts
}

/// A group that is stuck, to be put into words.
struct Group<'a> {
    namespace: &'a Namespace,
    state: TcpState,
    sockets: &'a [&'a WaitingSocket],
    now: Timestamp,
}

impl Group<'_> {
    fn finding(&self, id: String, severity: Severity) -> Finding {
        let subject = self.subject();
        Finding {
            id,
            kind: FindingKind::StuckState,
            severity,
            title: self.title(&subject),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies: self.remedies(&subject),
            subject,
            since: self.now,
            last_seen: self.now,
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
        let mut by_pid: BTreeMap<u32, Vec<&WaitingSocket>> = BTreeMap::new();
        for socket in self.sockets {
            if let Some(owner) = &socket.owner {
                by_pid.entry(owner.process.pid).or_default().push(socket);
            }
        }
        if let Some(most) = by_pid.values_mut().max_by_key(|sockets| sockets.len()) {
            most.sort_by_key(|socket| socket.since);
            let owners = || most.iter().filter_map(|socket| socket.owner.as_ref());
            if let Some(owner) = owners().next() {
                subject.set_process(&owner.process);
            }
            subject.fds = owners().flat_map(|owner| owner.fds.iter().copied()).take(FDS).collect();
        }
        subject
    }

    /// How many processes are known to hold them.
    fn processes(&self) -> u64 {
        let owners = self.sockets.iter().filter_map(|socket| socket.owner.as_ref());
        owners.map(|owner| owner.process.pid).collect::<HashSet<_>>().len() as u64
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
        let more = match self.processes() {
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
            .text("oldest_age_is", if self.age_is_exact() { "exact" } else { "at least" })
            .count("hosts", hosts.len() as u64);
        let most = hosts.iter().take(SAMPLES).map(|(host, sockets)| format!("{host}: {sockets}"));
        evidence.list("sockets_by_host", most.collect());
        if self.processes() > 0 {
            evidence.count("processes", self.processes());
        }
        let mut oldest_first = self.sockets.to_vec();
        oldest_first.sort_by_key(|socket| socket.since);
        let described = oldest_first.iter().take(SAMPLES).map(|socket| {
            let age = self.now.since(socket.since).as_secs();
            format!("{} -> {} for {age} s", socket.local, socket.peer)
        });
        evidence.list("samples", described.collect());
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
                match text::restart(subject) {
                    Some(restart) => format!("To free the sockets here now: {restart}"),
                    None => "To free the sockets here now: restart the process.".to_owned(),
                },
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
