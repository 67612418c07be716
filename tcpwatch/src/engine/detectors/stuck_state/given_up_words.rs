//! Connects that were given up in words: title, explanation, evidence, remedies.

use super::{
    given_up::{Unanswered, UnansweringHost},
    owner::GroupKey,
    words::{SILENCE, cause_of_silence, full_queue},
};
use crate::{
    engine::{
        advice::{text, this_host::own_rules},
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
    },
    facts::{Endpoint, Namespace, Role, TcpState, Timestamp, WaitingSocket},
};

/// Hosts named in the evidence, those with the most connects.
const HOSTS: usize = 3;

/// A group of connects that were given up, to be put into words.
pub(crate) struct GivenUpGroup<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) key: &'a GroupKey,
    pub(crate) unanswered: &'a Unanswered,
    /// Those that wait now.
    pub(crate) sockets: &'a [&'a WaitingSocket],
    pub(crate) now: Timestamp,
}

impl GivenUpGroup<'_> {
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

    fn port(&self) -> u16 {
        self.key.port.unwrap_or_default()
    }

    fn hosts(&self) -> &[UnansweringHost] {
        &self.unanswered.hosts
    }

    fn peer_of(&self, host: &UnansweringHost) -> Endpoint {
        Endpoint { address: host.address, port: self.port() }
    }

    fn are_local(&self) -> bool {
        self.hosts().iter().all(|host| host.is_local)
    }

    /// The process that gave most up.
    fn subject(&self) -> Subject {
        let peer = match self.hosts() {
            [host] => self.peer_of(host).to_string(),
            _ => format!("*:{}", self.port()),
        };
        let mut subject = Subject {
            netns: self.namespace.name.clone(),
            role: Some(Role::Client),
            port: Some(self.port()),
            peer: Some(peer),
            ..Subject::default()
        };
        if let Some(process) = self.unanswered.processes.first() {
            subject.set_process(process);
        }
        subject
    }

    fn title(&self, subject: &Subject) -> String {
        let (peers, to) = match self.hosts() {
            [host] => (format!("{} does", self.peer_of(host)), String::new()),
            hosts => (format!("{} hosts do", hosts.len()), format!(" to port {}", self.port())),
        };
        let connects = text::count(self.unanswered.given_up(), "connect");
        let whose = match (&subject.process, subject.pid) {
            (Some(name), Some(pid)) => text::named_as(name, pid),
            _ => "an unknown process".to_owned(),
        };
        let more = match self.unanswered.processes.len() as u64 {
            0 | 1 => String::new(),
            processes => format!(" and {}", text::count(processes - 1, "more process")),
        };
        let netns = text::in_netns(&self.namespace.name);
        let local = if self.are_local() { "; the peer is this host itself" } else { "" };
        format!(
            "{peers} not answer: {whose}{more} gave up {connects}{to} after {}{netns} in the last \
             {}{local}",
            self.waited(),
            text::duration(self.unanswered.window),
        )
    }

    /// `2 s`, or `1 s to 3 s`.
    fn waited(&self) -> String {
        let shortest = self.hosts().iter().map(|host| host.waited.0).min().unwrap_or_default();
        let longest = self.hosts().iter().map(|host| host.waited.1).max().unwrap_or_default();
        let (shortest, longest) = (text::duration(shortest), text::duration(longest));
        if shortest == longest { shortest } else { format!("{shortest} to {longest}") }
    }

    fn explanation(&self) -> String {
        let answered = match self.unanswered.answered() {
            0 => "No connect there was answered meanwhile".to_owned(),
            count => format!("{} there were answered meanwhile", text::count(count, "connect")),
        };
        let cause = cause_of_silence(self.are_local());
        let last = text::duration(self.now.since(self.unanswered.last));
        format!(
            "{SILENCE} The program has a time-out of its own, shorter than the kernel's default \
             (some two minutes), so the sockets are gone soon. {answered}; the last one was given \
             up {last} ago. {cause}"
        )
    }

    fn evidence(&self) -> EvidenceMap {
        let seconds = |pick: fn(&UnansweringHost) -> f64, start: f64, of: fn(f64, f64) -> f64| {
            self.hosts().iter().map(pick).fold(start, of)
        };
        let mut evidence = EvidenceMap::default();
        evidence
            .text("state", TcpState::SynSent.label())
            .count("sockets", self.sockets.len() as u64)
            .count("given_up_connections", self.unanswered.given_up())
            .count("answered_connections", self.unanswered.answered())
            .count("waiting_at_once", self.unanswered.at_once())
            .number(
                "shortest_wait_seconds",
                seconds(|host| host.waited.0.as_secs_f64(), f64::INFINITY, f64::min),
            )
            .number(
                "longest_wait_seconds",
                seconds(|host| host.waited.1.as_secs_f64(), 0.0, f64::max),
            )
            .number("window_seconds", self.unanswered.window.as_secs_f64())
            .count("hosts", self.hosts().len() as u64)
            .flag("peer_is_this_host", self.are_local());
        let of_host = |host: &UnansweringHost| {
            let mut object = EvidenceMap::default();
            object
                .text("host", host.address.to_string())
                .count("given_up_connections", host.given_up)
                .count("waiting_at_once", host.at_once);
            object
        };
        evidence.list("given_up_by_host", self.hosts().iter().take(HOSTS).map(of_host));
        if !self.unanswered.processes.is_empty() {
            evidence.count("processes", self.unanswered.processes.len() as u64);
        }
        evidence
    }

    fn remedies(&self, subject: &Subject) -> Vec<String> {
        let here = |command: &str| text::in_its_namespace(subject, command);
        let port = self.port();
        let list = format!("ss -tnpo state syn-sent '( dport = :{port} )'");
        let look =
            format!("Look at those that wait now: {} (they are gone soon; repeat it)", here(&list));
        if self.are_local() {
            return vec![look, own_rules(subject, port), full_queue(subject, port)];
        }
        let host = self.hosts()[0].address;
        let capture = here(&format!("tcpdump -ni any 'host {host} and tcp port {port}'"));
        vec![
            look,
            format!(
                "Ask for the way: {}; then follow one SYN, here with {capture} and at the \
                 destination likewise: where it is seen last is the hop before the one that drops \
                 it.",
                here(&format!("ip route get {host}"))
            ),
            format!(
                "At {host}: is it up, does a firewall or security group let port {port} in, and \
                 is its accept queue full: `ss -ltn '( sport = :{port} )'` with Recv-Q above Send-Q?"
            ),
            "In the code: keep the time-out of connect(), and let the pause before the next one \
             grow."
                .to_owned(),
        ]
    }
}
