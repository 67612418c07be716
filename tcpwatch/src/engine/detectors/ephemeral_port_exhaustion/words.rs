//! A shortage of ports towards a destination in words: title, explanation, evidence, remedies.

use super::failures::Failures;
use crate::{
    engine::{
        advice::{reserved_ports, text, tw_reuse::TimeWaitReuse},
        evidence::EvidenceMap,
        finding::Subject,
        groups::{
            destinations::{Destination, worst_destinations},
            port_users::{self, Users, in_state},
        },
        observers::closers::{self, Closer},
    },
    facts::{Namespace, PortUser, Process, StateCounts, TcpState},
};

/// States that the title tells of.
const STATES_IN_TITLE: usize = 2;

/// A shortage, to be put into words.
pub(crate) struct Shortage<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) key: Destination,
    /// `None` where the inventory does not name it: fewer than half of the ports are taken, as a
    /// rule.
    pub(crate) used: Option<u32>,
    /// The same by state, less the pinned ones; `None` where that is not known.
    pub(crate) states: Option<StateCounts>,
    /// Until the last one is taken; `None` while their number does not grow.
    pub(crate) minutes_left: Option<f64>,
    pub(crate) failures: Option<&'a Failures>,
    /// The programs that close connections to it, the one to be named first.
    pub(crate) closers: Vec<Closer<'a>>,
}

impl<'a> Shortage<'a> {
    /// The sample of the sockets to this destination.
    fn sample(&self) -> Vec<&'a PortUser> {
        let Destination { local, peer, .. } = self.key;
        let users = self.namespace.port_users.iter();
        users.filter(|it| !it.pinned && it.local.address == local && it.peer == peer).collect()
    }

    /// Its sockets by state, most ports first; empty where that is not known.
    pub(crate) fn by_state(&self) -> Vec<(TcpState, Users<'a>)> {
        self.states.map_or_else(Vec::new, |it| port_users::by_state(&it, &self.sample()))
    }

    /// The states that are worth a word.
    pub(crate) fn main_states(&self) -> Vec<(TcpState, Users<'a>)> {
        let used = u64::from(self.used.unwrap_or_default());
        let mut states = self.by_state();
        states.retain(|(_, users)| users.are_worth_a_word(used));
        states
    }

    /// Ports that bind() before connect() has taken, with those that hold them.
    pub(crate) fn bound(&self) -> Users<'a> {
        let pinned = self.namespace.port_users.iter().filter(|user| user.pinned);
        Users::new(self.namespace.ports.bound_before_connect.into(), pinned)
    }

    /// The same, if they are worth a word.
    pub(crate) fn bound_worth_a_word(&self) -> Option<Users<'a>> {
        let bound = self.bound();
        bound.are_worth_a_word(u64::from(self.used.unwrap_or_default())).then_some(bound)
    }

    /// Whether TIME_WAIT is a part of the shortage, as far as is known.
    pub(crate) fn may_be_time_wait(&self) -> bool {
        let is_time_wait = |(state, _): &(TcpState, Users<'_>)| *state == TcpState::TimeWait;
        self.states.is_none() || self.main_states().iter().any(is_time_wait)
    }

    /// Whether most ports that are not pinned are in TIME_WAIT, which no process holds; or it is
    /// not known what they are.
    fn is_mostly_time_wait(&self) -> bool {
        self.by_state().first().is_none_or(|(state, _)| *state == TcpState::TimeWait)
    }

    /// The process whose connect() has failed most often.
    fn failed_most(&self) -> Option<&Process> {
        self.failures?.worst_process()
    }

    /// The process to be named: the holder of most of them; where none is known, the process whose
    /// connects fail, else the one that closes most.
    pub(super) fn name_culprit(&self, subject: &mut Subject) {
        let states = self.by_state();
        if let Some((_, users)) = states.first()
            && users.ports >= self.bound().ports
            && users.name_in(subject)
        {
            return;
        }
        if let Some((_, users)) = states.first()
            && users.ports < self.bound().ports
            && self.bound().name_in(subject)
        {
            return;
        }
        if let Some(process) = self.failed_most() {
            subject.set_process(process);
        } else if let Some(closer) = self.closers.first() {
            closer.name_in(subject);
        }
    }

    /// `25,000 of 28,232 local ports from A to B are taken, 24,000 ESTABLISHED by hitch (pid 7)`, with
    /// `netns` after the verb.
    fn state_of_ports(&self, netns: &str) -> Option<String> {
        let Destination { local, peer, .. } = self.key;
        let [used, available] = [self.used?, self.namespace.ports.available].map(text::number);
        let mut text =
            format!("{used} of {available} local ports from {local} to {peer} are taken{netns}");
        if let Some(bound) = self.bound_worth_a_word() {
            let (ports, by_whom) = (text::number(bound.ports), bound.by_whom());
            text.push_str(&format!(", {ports} for every destination by bind(){by_whom}"));
        }
        for (state, users) in self.main_states().iter().take(STATES_IN_TITLE) {
            let (ports, by_whom) = (in_state(users.ports, *state), users.by_whom());
            text.push_str(&format!(", {ports}{by_whom}"));
        }
        Some(text)
    }

    pub(super) fn title(&self) -> String {
        let netns = text::in_netns(&self.namespace.name);
        let peer = self.key.peer;
        match self.failures {
            Some(failures) => {
                let state = self.state_of_ports("");
                let who = text::named(self.failed_most());
                let most = if failures.are_of_one_process() { "" } else { "most " };
                let times = text::count(failures.count, "connect() call");
                let state = state.map(|state| format!(": {state}")).unwrap_or_default();
                format!("{times} to {peer} found no free local port{netns}, {most}by {who}{state}")
            }
            None => {
                let closer = self.closers.first().filter(|_| self.is_mostly_time_wait());
                let closer = closer.map(|closer| format!("; {}", closer.and_rate()));
                let state = self.state_of_ports(&netns).unwrap_or_default();
                format!("{state}{}", closer.unwrap_or_default())
            }
        }
    }

    pub(super) fn explanation(&self) -> String {
        let mut text = which_ports(self.namespace);
        if self.may_be_time_wait() {
            text.push(' ');
            text.push_str(self.reuse().meaning());
        }
        if let Some((state, _)) = self.main_states().first() {
            text.push(' ');
            text.push_str(meaning_of(*state));
        }
        if let Some(minutes) = self.minutes_left {
            let left = text::minutes(minutes);
            text.push_str(&format!(" At this rate the last one is taken in {left}."));
        }
        if let Some(closer) = self.closers.first()
            && self.may_be_time_wait()
        {
            text.push_str(&format!(" {}: these stay in TIME_WAIT.", closer.in_words()));
        }
        text
    }

    pub(crate) fn reuse(&self) -> TimeWaitReuse {
        TimeWaitReuse::new(&self.namespace.ports, Some(self.is_loopback()))
    }

    pub(crate) fn is_loopback(&self) -> bool {
        self.key.peer.address.is_loopback() || self.key.local.is_loopback()
    }

    /// `hitch (pid 7)`: the process whose connects fail, else the one that closes most.
    pub(crate) fn opener(&self) -> Option<String> {
        let failed = self.failed_most().map(|process| text::named(Some(process)));
        failed.or_else(|| self.closers.first().map(Closer::who))
    }

    pub(super) fn evidence(&self) -> EvidenceMap {
        let ports = &self.namespace.ports;
        let mut evidence = EvidenceMap::default();
        if let Some(used) = self.used {
            evidence.count("used_ports", u64::from(used));
        }
        evidence.count("available_ports", u64::from(ports.available));
        let states = self.by_state().into_iter().map(|(state, users)| {
            let mut object = EvidenceMap::default();
            object.text("state", state.label()).count("ports", users.ports);
            object
        });
        evidence
            .list("ports_by_state", states)
            .list("holders", port_users::evidence(&self.sample()))
            .count("pinned_ports", u64::from(ports.pinned))
            .object("port_range", reserved_ports::evidence_of_range(ports))
            .count("tcp_tw_reuse", self.reuse().value())
            .flag("tcp_timestamps_enabled", ports.timestamps);
        if ports.bound_before_connect > 0 {
            evidence.count("bound_before_connect_ports", ports.bound_before_connect.into());
        }
        if let Some(minutes) = self.minutes_left {
            evidence.number("time_to_last_port_minutes", minutes);
        }
        if let Some(failures) = self.failures {
            failures.add_to(&mut evidence);
        }
        evidence
            .list("closers", closers::evidence(&self.closers))
            .list("worst_destinations", worst_destinations(self.namespace));
        evidence
    }
}

/// The limit of connect().
fn which_ports(namespace: &Namespace) -> String {
    let ports = &namespace.ports;
    let (low, high) = ports.range;
    format!(
        "A connection needs a local port that is free for its source, destination and destination \
         port. ip_local_port_range {low}-{high} less the reserved ones leaves {}.",
        text::number(ports.available)
    )
}

/// Why sockets in this state hold their ports.
const fn meaning_of(state: TcpState) -> &'static str {
    match state {
        TcpState::Established => "Most of these connections are open at the same time.",
        TcpState::CloseWait => {
            "Most of these connections were closed by the peer; no port is free again until the \
             process closes its socket."
        }
        TcpState::SynSent | TcpState::SynRecv => {
            "Most of these connects wait for an answer, and hold their port meanwhile."
        }
        TcpState::FinWait1 | TcpState::LastAck | TcpState::Closing => {
            "Most of these connections are closed here, and the peer has not acknowledged it."
        }
        TcpState::FinWait2 => {
            "Most of these connections are closed here, and the peer has not closed its end."
        }
        TcpState::TimeWait => "Most of these connections are over: this side closed first.",
        TcpState::Close | TcpState::Listen => "Most of these sockets carry no connection.",
    }
}
