//! `close-wait-pileup`: one owner keeps sockets in CLOSE_WAIT.
//!
//! Signal: sockets in CLOSE_WAIT older than `min_age`, grouped by namespace, process, unit, role
//! and service port. The peer has closed; only the application can end the state, no timer does
//! (RFC 9293 section 3.3.2).
//! Trip: `warning` or `critical` of them; `growing` of them that have become more in every quarter
//! of `window`.
//! Cold start: the ages of sockets older than the agent are lower bounds, so a leak that was there
//! before is seen as soon as its age is proven.
//! Recovery: below 0.9 of the threshold; for growth alone, the first quarter that adds nothing.
//! Misses: a leak spread over more processes than there are sockets; one whose sockets never reach
//! `min_age` because a keep-alive ends them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject, level::Levels, text,
    trend::Trend,
};
use crate::{
    config::{self, Overridable},
    facts::{CloseWaitSocket, Inventory, Namespace, NetnsId, Process, Role, Timestamp, Unread},
};

/// Groups whose growth is followed; more owners than that with old sockets is no leak of one.
const TRENDS: usize = 1_024;
/// Sockets described in the evidence.
const SAMPLES: usize = 3;
/// Descriptors named in the subject.
const FDS: usize = 8;

#[derive(Debug)]
pub(super) struct CloseWaitPileup {
    pub(super) config: Overridable<config::CloseWaitPileup>,
    levels: Levels,
    trends: HashMap<String, Trend>,
}

/// Whose sockets are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey<'a> {
    netns: NetnsId,
    process: &'a str,
    unit: &'a str,
    role: Role,
    port: u16,
}

impl CloseWaitPileup {
    pub(super) fn new(config: Overridable<config::CloseWaitPileup>) -> Self {
        Self { config, levels: Levels::default(), trends: HashMap::new() }
    }

    /// The pileups that hold at `now`.
    pub(super) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        self.levels.begin();
        let mut findings = Vec::new();
        let mut followed = HashMap::new();
        for namespace in &inventory.namespaces {
            for (key, sockets) in self.groups(namespace, now) {
                let id = id(&key);
                let trend = self.trends.remove(&id).unwrap_or_default();
                let (finding, trend) =
                    self.judge_group(id.clone(), &sockets, namespace, trend, now);
                findings.extend(finding);
                if followed.len() < TRENDS {
                    followed.insert(id, trend);
                }
            }
        }
        self.trends = followed;
        findings.sort_by_key(|(sockets, finding): &(usize, Finding)| {
            (std::cmp::Reverse(finding.severity), std::cmp::Reverse(*sockets))
        });
        findings.truncate(FINDINGS_PER_KIND);
        findings.into_iter().map(|(_, finding)| finding).collect()
    }

    /// Old sockets by owner. One whose owner is still to be looked for waits for that, so that
    /// nobody is told of an unknown process that has a name a second later.
    fn groups<'a>(
        &self,
        namespace: &'a Namespace,
        now: Timestamp,
    ) -> BTreeMap<GroupKey<'a>, Vec<&'a CloseWaitSocket>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for socket in &namespace.close_wait {
            let process = process_of(socket);
            let config = self.config.of(process, socket.service_port());
            let is_old = now.since(socket.since) >= config.min_age;
            if socket.owner_pending || !config.enabled || !is_old {
                continue;
            }
            let key = GroupKey {
                netns: namespace.id,
                process: process.map_or("", |process| &process.name),
                unit: process.map_or("", |process| process.unit_label()),
                role: socket.role,
                port: socket.service_port(),
            };
            groups.entry(key).or_default().push(socket);
        }
        groups
    }

    fn judge_group(
        &mut self,
        id: String,
        sockets: &[&CloseWaitSocket],
        namespace: &Namespace,
        mut trend: Trend,
        now: Timestamp,
    ) -> (Option<(usize, Finding)>, Trend) {
        // All of a group have the same process, unit and port.
        let first = sockets.first().expect("a group has at least one socket");
        let config = self.config.of(process_of(first), first.service_port());
        let count = sockets.len() as u64;
        trend.observe(now, count, config.window);
        let grows = trend.grew_in_every_quarter(config.window);
        let by_count =
            self.levels.judge(&id, count as f64, config.warning as f64, config.critical as f64);
        let growing = (grows && count >= config.growing).then_some(Severity::Warning);
        let Some(severity) = by_count.max(growing) else { return (None, trend) };
        let per_minute = trend.per_minute(config.window);
        let group = Group { namespace, sockets, now, grows, per_minute };
        (Some((sockets.len(), group.finding(id, severity))), trend)
    }
}

fn process_of(socket: &CloseWaitSocket) -> Option<&Process> {
    socket.owner.as_ref().map(|owner| &*owner.process)
}

fn id(key: &GroupKey<'_>) -> String {
    let GroupKey { netns, process, unit, role, port } = key;
    format!("close-wait-pileup/{netns}/{process}/{unit}/{}/{port}", role.label())
}

/// A pileup, to be put into words.
struct Group<'a> {
    namespace: &'a Namespace,
    sockets: &'a [&'a CloseWaitSocket],
    now: Timestamp,
    grows: bool,
    per_minute: Option<f64>,
}

impl Group<'_> {
    fn finding(&self, id: String, severity: Severity) -> Finding {
        let subject = self.subject();
        Finding {
            id,
            kind: FindingKind::CloseWaitPileup,
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

    fn oldest(&self) -> &CloseWaitSocket {
        self.sockets
            .iter()
            .min_by_key(|socket| socket.since)
            .expect("a group has at least one socket")
    }

    fn oldest_age(&self) -> Duration {
        self.now.since(self.oldest().since)
    }

    fn peers(&self) -> HashSet<IpAddr> {
        self.sockets.iter().map(|socket| socket.peer.address).collect()
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
        match first.role {
            Role::Client if self.peers().len() == 1 => subject.peer = Some(first.peer.to_string()),
            Role::Client => subject.peer = Some(format!("*:{}", first.peer.port)),
            Role::Server => subject.local = Some(format!("*:{}", first.local.port)),
        }
        let mut by_pid: BTreeMap<u32, Vec<&CloseWaitSocket>> = BTreeMap::new();
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

    fn title(&self, subject: &Subject) -> String {
        let first = self.oldest();
        let who = match (&subject.process, subject.pid) {
            (Some(name), Some(pid)) => text::named_as(name, pid),
            _ => text::named(None),
        };
        let keeps = match self.processes() {
            0 | 1 => "keeps".to_owned(),
            processes => format!("and {} keep", text::count(processes - 1, "more process")),
        };
        let count = self.sockets.len() as u64;
        let hosts = self.peers().len();
        let what = match first.role {
            Role::Client => {
                let connections = text::count(count, "connection");
                match hosts {
                    1 => format!("{connections} to {}", first.peer),
                    hosts => format!("{connections} to port {} of {hosts} hosts", first.peer.port),
                }
            }
            Role::Server => {
                let accepted = if self.most_are_unaccepted() { "unaccepted" } else { "accepted" };
                let connections = text::count(count, &format!("{accepted} connection"));
                let from = match hosts {
                    1 => first.peer.address.to_string(),
                    hosts => format!("{hosts} hosts"),
                };
                format!("{connections} on port {} from {from}", first.local.port)
            }
        };
        let at_least = if first.since_exact { "" } else { "at least " };
        let age = text::duration(self.oldest_age());
        let netns = text::in_netns(&self.namespace.name);
        let beyond = match self.beyond() {
            0 => String::new(),
            beyond => format!("; {beyond} more of that service were too many to look at"),
        };
        format!("{who} {keeps} {what} in CLOSE_WAIT{netns}, the oldest for {at_least}{age}{beyond}")
    }

    /// Sockets of the same role and port that were counted, not described: whose they are is not
    /// known.
    fn beyond(&self) -> u64 {
        let first = self.oldest();
        let service = (first.role, first.service_port());
        self.namespace.close_wait_beyond.get(&service).copied().unwrap_or(0)
    }

    fn count_of(&self, unread: Unread) -> u64 {
        self.sockets.iter().filter(|socket| socket.unread() == unread).count() as u64
    }

    fn unaccepted(&self) -> u64 {
        self.sockets.iter().filter(|socket| socket.unaccepted).count() as u64
    }

    fn most_are_unaccepted(&self) -> bool {
        self.unaccepted() * 2 > self.sockets.len() as u64
    }

    /// How many processes are known to hold them.
    fn processes(&self) -> u64 {
        let owners = self.sockets.iter().filter_map(|socket| socket.owner.as_ref());
        owners.map(|owner| owner.process.pid).collect::<HashSet<_>>().len() as u64
    }

    fn explanation(&self) -> String {
        let total = self.sockets.len() as u64;
        let (nothing, end, data) = (
            self.count_of(Unread::Nothing),
            self.count_of(Unread::End),
            self.count_of(Unread::Data),
        );
        let (number, reading) = if self.most_are_unaccepted() {
            let reading = "wait in the accept queue: the thread that calls accept() is stuck or \
                           too slow.";
            (self.unaccepted(), reading)
        } else if nothing >= end && nothing >= data {
            let reading = "were read to the end (Recv-Q 0) and not closed: a code path sees the \
                           end of the stream, or an error, and does not close the socket.";
            (nothing, reading)
        } else if end >= data {
            let reading = "were not read since (Recv-Q 1, the FIN alone): they lie in a pool, or \
                           with a thread, that never looks at them again.";
            (end, reading)
        } else {
            let reading = "hold unread data: the process has stopped reading, and closing them \
                           will send resets.";
            (data, reading)
        };
        let mut text = format!(
            "The peers have closed; only close() by this process ends it. {number} of {total} \
             {reading}"
        );
        if self.grows {
            text.push_str(" Their number keeps growing.");
        }
        text
    }

    fn evidence(&self) -> EvidenceMap {
        let mut evidence = EvidenceMap::default();
        let exact = self.oldest().since_exact;
        evidence
            .count("sockets", self.sockets.len() as u64)
            .number("oldest_age_seconds", self.oldest_age().as_secs_f64())
            .text("oldest_age_is", if exact { "exact" } else { "at least" });
        if self.beyond() > 0 {
            evidence.count("sockets_of_that_service_not_looked_at", self.beyond());
        }
        if let Some(per_minute) = self.per_minute {
            evidence.number("growth_per_minute", per_minute);
        }
        evidence
            .count("end_seen_not_closed_sockets", self.count_of(Unread::Nothing))
            .count("never_read_again_sockets", self.count_of(Unread::End))
            .count("data_unread_sockets", self.count_of(Unread::Data));
        if self.unaccepted() > 0 {
            evidence.count("unaccepted_sockets", self.unaccepted());
        }
        if self.processes() > 0 {
            evidence.count("processes", self.processes());
        }
        let holders = self.sockets.iter().filter_map(|socket| Some(socket.owner.as_ref()?.holders));
        if let Some(most) = holders.max().filter(|holders| *holders > 1) {
            evidence.count("processes_holding_one_socket", u64::from(most));
        }
        let mut oldest_first = self.sockets.to_vec();
        oldest_first.sort_by_key(|socket| socket.since);
        let described = oldest_first.iter().take(SAMPLES).map(|socket| {
            let age = self.now.since(socket.since).as_secs();
            format!("{} -> {} for {age} s, Recv-Q {}", socket.local, socket.peer, socket.recv_queue)
        });
        evidence.list("samples", described.collect());
        evidence
    }

    fn remedies(&self, subject: &Subject) -> Vec<String> {
        let first = self.oldest();
        let (side, port) = match first.role {
            Role::Client => ("dport", first.peer.port),
            Role::Server => ("sport", first.local.port),
        };
        let list = format!("ss -tnpo state close-wait '( {side} = :{port} )'");
        let mut remedies =
            vec![format!("Look at them: {}", text::in_its_namespace(subject, &list))];
        remedies.push(match first.role {
            Role::Server if self.most_are_unaccepted() => "Find what keeps the accepting thread \
                 from accept(): a full pool of workers, a lock, or no file descriptor left \
                 (EMFILE)."
                .to_owned(),
            Role::Client => "In the code: close the connection on every path that ends its use, \
                 and let the pool drop idle connections sooner than the server does."
                .to_owned(),
            Role::Server => "In the code: close the accepted socket when read() returns 0 or an \
                 error, also on early returns and timeouts."
                .to_owned(),
        });
        remedies.push(match text::restart(subject) {
            Some(restart) => format!("To free the sockets now: {restart}"),
            None => "To free the sockets now: restart the process.".to_owned(),
        });
        remedies
    }
}
