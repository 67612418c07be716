//! A pileup in words: title, explanation, evidence, remedies.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use super::stacks::Stacks;
use super::turnover::Leaving;
use crate::{
    engine::{
        advice::text,
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
        groups::{
            held::{Holders, name_holder, oldest_samples},
            queued::Queued,
        },
    },
    facts::{CloseWaitSocket, Namespace, Role, Timestamp, Unread},
};

/// Why the number is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// It grows and hardly any leave.
    Leak,
    /// It neither grows nor falls.
    Stuck,
    /// They leave, later than they should.
    Slow,
}

/// Descriptors of the process that holds most of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptors {
    pub(crate) open: u64,
    pub(crate) limit: u64,
    /// 0 where it is not known.
    pub(crate) hard_limit: u64,
    /// Until they run out if the group goes on growing like this; `None` while it does not.
    pub(crate) minutes_left: Option<f64>,
}

/// A pileup, to be put into words.
pub(crate) struct Group<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) sockets: &'a [&'a CloseWaitSocket],
    pub(crate) holders: &'a Holders<'a, CloseWaitSocket>,
    pub(crate) now: Timestamp,
    pub(crate) window: Duration,
    pub(crate) grows: bool,
    pub(crate) per_minute: Option<f64>,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) course: Option<Course>,
    pub(crate) descriptors: Option<Descriptors>,
    /// These are about to run out.
    pub(crate) near_limit: bool,
}

impl Group<'_> {
    pub(crate) fn verdict(&self, id: String, severity: Severity) -> Verdict {
        let stacks = Stacks::of(self.sockets);
        let mut subject = self.subject();
        subject.stack = stacks.first();
        Verdict {
            id,
            kind: FindingKind::CloseWaitPileup,
            severity,
            title: self.title(&subject),
            explanation: self.explanation(&stacks),
            evidence: self.evidence(&stacks),
            remedies: self.remedies(&subject, &stacks),
            subject,
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
        name_holder(&mut subject, self.holders);
        subject
    }

    fn title(&self, subject: &Subject) -> String {
        let first = self.oldest();
        let who = match (&subject.process, subject.pid) {
            (Some(name), Some(pid)) => text::named_as(name, pid),
            _ => text::named(None),
        };
        let keeps = match self.holders.len() as u64 {
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
        let near = match self.descriptors {
            Some(Descriptors { open, limit, .. }) if self.near_limit => {
                format!("; {open} of {limit} descriptors are open")
            }
            _ => String::new(),
        };
        format!(
            "{who} {keeps} {what} in CLOSE_WAIT{netns}, the oldest for {at_least}{age}{near}{beyond}"
        )
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

    fn explanation(&self, stacks: &Stacks) -> String {
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
        let mut text = match self.queued() {
            Some(queued) => queued.explanation(number, total),
            None => format!(
                "The peers have closed; only close() by this process frees the sockets. {number} of \
                 {total} {reading}"
            ),
        };
        if self.grows {
            text.push_str(" Their number keeps growing.");
        }
        text.push_str(&self.reading_of_verdict());
        if let Some((opener, count)) = stacks.opener() {
            let known = stacks.known();
            let of = match (count == known, known == total) {
                (true, true) => "All".to_owned(),
                (false, true) => format!("{count} of {total}"),
                // The others were open before the stacks were recorded.
                (true, false) => format!("All {known} whose opening was seen"),
                (false, false) => format!("{count} of the {known} whose opening was seen"),
            };
            text.push_str(&format!(" {of} were opened by {opener}."));
        }
        text.push_str(&self.reading_of_descriptors());
        text
    }

    /// The queue in which most of them wait.
    fn queued(&self) -> Option<Queued<'_>> {
        let waiting = self.sockets.iter().find(|socket| socket.unaccepted)?;
        self.most_are_unaccepted().then(|| Queued::of(self.namespace, waiting))
    }

    fn reading_of_verdict(&self) -> String {
        let (Some(verdict), Some(Leaving { followed, left })) = (self.course, self.leaving) else {
            return String::new();
        };
        let window = text::duration(self.window);
        match verdict {
            Course::Leak if left == 0 => {
                format!(" This is a leak: more come and none of {followed} watched left.")
            }
            Course::Leak => format!(
                " This is a leak: more come, and within {window} only {left} left while {followed} \
                 were watched."
            ),
            Course::Stuck => " They are stuck: their number does not grow and they do not leave; \
                a thread hangs, or a pool keeps them."
                .to_owned(),
            Course::Slow => format!(
                " They are closed in the end, but late: within {window} {left} left while \
                 {followed} were watched."
            ),
        }
    }

    fn reading_of_descriptors(&self) -> String {
        let Some(Descriptors { open, limit, minutes_left, .. }) = self.descriptors else {
            return String::new();
        };
        let state = format!(" {open} of {limit} descriptors are open");
        let Some(minutes) = minutes_left else { return format!("{state}.") };
        let call = match self.oldest().role {
            Role::Client => "socket()",
            Role::Server => "accept()",
        };
        let left = text::minutes(minutes);
        format!("{state}; at this growth {call} and open() fail in {left}.")
    }

    fn evidence(&self, stacks: &Stacks) -> EvidenceMap {
        let mut evidence = EvidenceMap::default();
        evidence
            .count("sockets", self.sockets.len() as u64)
            .number("oldest_age_seconds", self.oldest_age().as_secs_f64())
            .flag("oldest_age_is_lower_bound", !self.oldest().since_exact);
        if self.beyond() > 0 {
            evidence.count("sockets_not_examined", self.beyond());
        }
        if let Some(per_minute) = self.per_minute {
            evidence.number("growth_sockets_per_minute", per_minute);
        }
        if let Some(verdict) = self.course {
            evidence.text("verdict", verdict.label());
        }
        if let Some(Leaving { followed, left }) = self.leaving {
            evidence.count("sockets_watched", followed).count("sockets_left_in_window", left);
        }
        if let Some(Descriptors { open, limit, minutes_left, .. }) = self.descriptors {
            evidence.count("open_descriptors", open).count("limit_descriptors", limit);
            if let Some(minutes) = minutes_left {
                evidence.number("time_to_limit_minutes", minutes);
            }
        }
        evidence
            .count("sockets_eof_read", self.count_of(Unread::Nothing))
            .count("sockets_eof_unread", self.count_of(Unread::End))
            .count("data_unread_sockets", self.count_of(Unread::Data));
        if self.unaccepted() > 0 {
            evidence.count("unaccepted_sockets", self.unaccepted());
        }
        if let Some(queued) = self.queued() {
            queued.evidence(&mut evidence);
        }
        if !self.holders.is_empty() {
            evidence.count("processes", self.holders.len() as u64);
        }
        let holders = self.sockets.iter().filter_map(|socket| Some(socket.owner.as_ref()?.holders));
        if let Some(most) = holders.max().filter(|holders| *holders > 1) {
            evidence.count("shared_socket_processes", u64::from(most));
        }
        let details = |socket: &CloseWaitSocket, sample: &mut EvidenceMap| {
            sample
                .flag("age_is_lower_bound", !socket.since_exact)
                .count("recv_queue_bytes", u64::from(socket.recv_queue));
        };
        evidence
            .list("sample_sockets", oldest_samples(self.sockets, self.now, details))
            .list("stacks", stacks.evidence());
        evidence
    }

    fn remedies(&self, subject: &Subject, stacks: &Stacks) -> Vec<String> {
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
        if let Some((opener, _)) = stacks.opener() {
            remedies.push(format!(
                "Begin with {opener}: follow what it opens to each place where it should be closed."
            ));
        }
        if let (true, Some(pid), Some(descriptors)) =
            (self.near_limit, subject.pid, self.descriptors)
        {
            remedies.push(format!(
                "To win time: {}. Many programs read it only at the start, and the leak goes on.",
                descriptors.more(pid)
            ));
        }
        let by_worker = self.queued().and_then(|queued| queued.remedy());
        remedies.push(
            by_worker
                .unwrap_or_else(|| format!("To free the sockets now: {}", text::restart(subject))),
        );
        remedies
    }
}

impl Descriptors {
    /// The command that gives `pid` more of them.
    fn more(self, pid: u32) -> String {
        let Self { limit, hard_limit, .. } = self;
        let twice = limit.saturating_mul(2);
        match hard_limit {
            // Recorded without it.
            0 => format!(
                "prlimit --pid {pid} --nofile={twice}: (the soft limit, up to the hard one)"
            ),
            hard if hard > limit => {
                let more = twice.min(hard);
                let hard = if hard == u64::MAX { String::new() } else { format!(" of {hard}") };
                format!(
                    "prlimit --pid {pid} --nofile={more}: (the soft limit, up to the hard one{hard})"
                )
            }
            _ => format!(
                "prlimit --pid {pid} --nofile={twice}:{twice} (as root: the hard limit is no higher \
                 than the soft one; fs.nr_open bounds both)"
            ),
        }
    }
}

impl Course {
    const fn label(self) -> &'static str {
        match self {
            Self::Leak => "leak",
            Self::Stuck => "stuck",
            Self::Slow => "slow",
        }
    }
}
