//! A judged condition, in the words that a person reads.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::config::Severity;
use crate::{
    config,
    engine::{evidence::EvidenceMap, links::Links},
    facts::{Listener, Namespace, Owner, Process, Role, Timestamp},
    plain,
};

/// Findings of one kind that are kept; the worst. A host with more has one problem, not a hundred.
pub(crate) const FINDINGS_PER_KIND: usize = 100;

/// The kind of condition; the names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// One owner keeps sockets in CLOSE_WAIT.
    CloseWaitPileup,
    /// TIME_WAIT near its limit.
    TimeWaitExhaustion,
    /// A destination is near the end of its ports, or a connect() found none.
    EphemeralPortExhaustion,
    /// A socket is connected to itself.
    SelfConnection,
    /// A port from which a socket may come to be connected to itself.
    SelfConnectRisk,
    /// Half-open connections from many sources crowd a listener.
    SynFlood,
    /// Half-open connections from few sources stay.
    HandshakeStall,
    /// A listener's accept queue is full or has overflowed.
    AcceptQueueOverflow,
    /// Resets at a rate far above the baseline of a process and port.
    ResetStorm,
    /// A bind() or listen() failed because the port is taken.
    BindConflict,
    /// Sockets wait for a peer that does not answer.
    StuckState,
    /// A server closes idle connections that its clients still use.
    KeepaliveRace,
    /// Sockets whose data is not acknowledged.
    StalledSend,
    /// A resource of the kernel is near its limit.
    KernelLimit,
}

impl FindingKind {
    /// Every kind that this version can raise.
    pub const ALL: [Self; 14] = [
        Self::CloseWaitPileup,
        Self::TimeWaitExhaustion,
        Self::EphemeralPortExhaustion,
        Self::SelfConnection,
        Self::SelfConnectRisk,
        Self::SynFlood,
        Self::HandshakeStall,
        Self::AcceptQueueOverflow,
        Self::ResetStorm,
        Self::BindConflict,
        Self::StuckState,
        Self::KeepaliveRace,
        Self::StalledSend,
        Self::KernelLimit,
    ];

    /// The stable name, kebab-case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CloseWaitPileup => "close-wait-pileup",
            Self::TimeWaitExhaustion => "time-wait-exhaustion",
            Self::EphemeralPortExhaustion => "ephemeral-port-exhaustion",
            Self::SelfConnection => "self-connection",
            Self::SelfConnectRisk => "self-connect-risk",
            Self::SynFlood => "syn-flood",
            Self::HandshakeStall => "handshake-stall",
            Self::AcceptQueueOverflow => "accept-queue-overflow",
            Self::ResetStorm => "reset-storm",
            Self::BindConflict => "bind-conflict",
            Self::StuckState => "stuck-state",
            Self::KeepaliveRace => "keepalive-race",
            Self::StalledSend => "stalled-send",
            Self::KernelLimit => "kernel-limit",
        }
    }

    /// Whether a process, unit or port can own what it is about; a namespace or the host does
    /// otherwise.
    #[must_use]
    pub const fn has_owner(self) -> bool {
        !matches!(self, Self::TimeWaitExhaustion | Self::KernelLimit)
    }

    /// Where its runbook lies, relative to the documentation.
    #[must_use]
    pub fn runbook(self) -> String {
        format!("docs/runbooks/{}.md", self.name())
    }
}

impl Serialize for FindingKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for FindingKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.name() == name).ok_or_else(|| {
            serde::de::Error::custom(format_args!("`{name}` is no kind of this version"))
        })
    }
}

/// Whom and what a finding is about. Unknown fields are absent, never guessed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subject {
    /// Name of the network namespace, as in the metrics.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub netns: Arc<str>,
    /// `comm` of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Its id; of several, the one that holds most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Its container or pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Which side this host is.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_role")]
    pub role: Option<Role>,
    /// This end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The other end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Descriptors of sample sockets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fds: Vec<u32>,
    /// User stack that opened the sockets, innermost frame first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
    /// The `port` label of the metrics: service port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl Subject {
    /// A listener, with its owner where that is known.
    pub(crate) fn of_listener(namespace: &Namespace, listener: &Listener) -> Self {
        let mut subject = Self {
            netns: namespace.name.clone(),
            role: Some(Role::Server),
            local: Some(listener.local.to_string()),
            port: Some(listener.local.port),
            ..Self::default()
        };
        if let Some(owner) = &listener.owner {
            subject.set_owner(owner);
        }
        subject
    }

    fn make_plain(&mut self) {
        // By name, so that a new field is decided here.
        let Self {
            netns,
            process,
            pid: _,
            exe,
            unit,
            container,
            role: _,
            local,
            peer,
            fds: _,
            stack,
            port: _,
        } = self;
        plain::make_shared(netns);
        let names = [process, exe, unit, container, local, peer];
        names.into_iter().flatten().chain(stack).for_each(plain::make);
    }

    /// Fills in what is known of the process.
    pub fn set_process(&mut self, process: &Process) {
        self.process = Some(process.name.clone());
        self.pid = Some(process.pid);
        self.exe.clone_from(&process.exe);
        self.unit.clone_from(&process.unit);
        self.container.clone_from(&process.container);
    }

    /// Fills in what is known of an owner: its process and descriptors.
    pub fn set_owner(&mut self, owner: &Owner) {
        self.set_process(&owner.process);
        self.fds.clone_from(&owner.fds);
    }

    /// The `unit` label of the metrics.
    #[must_use]
    pub fn unit_label(&self) -> &str {
        self.unit.as_deref().or(self.container.as_deref()).unwrap_or("")
    }
}

fn serialize_role<S: Serializer>(role: &Option<Role>, serializer: S) -> Result<S::Ok, S::Error> {
    role.map(Role::label).serialize(serializer)
}

/// A condition that holds in a round, as its detector says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// Stable while the condition lasts.
    pub(crate) id: String,
    pub(crate) kind: FindingKind,
    pub(crate) severity: Severity,
    pub(crate) title: String,
    pub(crate) explanation: String,
    pub(crate) evidence: EvidenceMap,
    pub(crate) subject: Subject,
    pub(crate) remedies: Vec<String>,
}

/// A condition that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Stable while the condition lasts; fit for the query and the fragment of a URL.
    pub id: String,
    /// Its kind.
    pub kind: FindingKind,
    /// How bad.
    pub severity: Severity,
    /// One sentence with the number, the owner and the peer.
    pub title: String,
    /// Why, from the evidence.
    pub explanation: String,
    /// The numbers.
    pub evidence: EvidenceMap,
    /// Whom it is about.
    pub subject: Subject,
    /// Steps to take: ordered, concrete, safest first.
    pub remedies: Vec<String>,
    /// Ids of the findings with the same cause, which this one leads.
    pub related: Vec<String>,
    /// Id of the finding with the same cause that leads this one; it leads none itself.
    pub led_by: Option<String>,
    /// Since when the condition holds.
    pub since: Timestamp,
    /// When it was seen last.
    pub last_seen: Timestamp,
}

impl Finding {
    /// The finding that a verdict makes.
    pub(crate) fn new(
        verdict: Verdict,
        links: &Links,
        since: Timestamp,
        last_seen: Timestamp,
    ) -> Self {
        let Verdict { id, kind, severity, title, explanation, evidence, subject, remedies } =
            verdict;
        Self {
            related: links.led_by(&id).to_vec(),
            led_by: links.leader_of(&id).cloned(),
            id,
            kind,
            severity,
            title,
            explanation,
            evidence,
            subject,
            remedies,
            since,
            last_seen,
        }
    }
}

impl Verdict {
    /// Makes every string in it [plain](crate::plain), wherever its name is from. All verdicts pass
    /// here, so the code that shows a finding has nothing left to clean.
    pub(crate) fn make_plain(&mut self) {
        let Self { id, kind: _, severity: _, title, explanation, evidence, subject, remedies } =
            self;
        *id = fit_for_urls(id);
        [title, explanation].into_iter().chain(remedies).for_each(plain::make);
        evidence.change_texts(&plain::make);
        subject.make_plain();
    }

    /// Whether `[ignore]` suppresses it. A finding about a namespace or a destination is not
    /// matched by process: the process that it names is only the current top talker.
    pub(crate) fn is_ignored(&self, ignore: &config::Ignore) -> bool {
        // The subject is plain already.
        let names =
            |list: &[String], name: &str| list.iter().any(|ignored| plain::text(ignored) == name);
        let subject = &self.subject;
        let by_port = || subject.port.is_some_and(|port| ignore.ports.contains(&port));
        let by_owner = || {
            subject.process.as_ref().is_some_and(|process| names(&ignore.processes, process))
                || names(&ignore.units, subject.unit_label())
        };
        let by_what_it_is_about = match self.kind {
            kind if !kind.has_owner() => false,
            FindingKind::EphemeralPortExhaustion => by_port(),
            _ => by_port() || by_owner(),
        };
        names(&ignore.namespaces, &subject.netns) || by_what_it_is_about
    }
}

/// An id that stands in the query and the fragment of a URL as it is (RFC 3986 section 3.4): without
/// the brackets of an IPv6 address, and of other bytes, which come from names, the value in
/// hexadecimal after a tilde.
fn fit_for_urls(id: &str) -> String {
    let mut fit = String::with_capacity(id.len());
    let mut left = id;
    while let Some(character) = left.chars().next() {
        if let Some((address, after)) = bracketed(left) {
            fit.push_str(address);
            left = after;
            continue;
        }
        let (bytes, after) = left.split_at(character.len_utf8());
        left = after;
        if character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_' | '/' | ':') {
            fit.push(character);
        } else {
            bytes.bytes().for_each(|byte| fit.push_str(&format!("~{byte:02x}")));
        }
    }
    fit
}

/// The IPv6 address in brackets at the beginning of `text`, and what follows it. A name in brackets
/// is none.
fn bracketed(text: &str) -> Option<(&str, &str)> {
    let (address, after) = text.strip_prefix('[')?.split_once(']')?;
    address.parse::<std::net::Ipv6Addr>().ok().map(|_| (address, after))
}

/// A change that is reported once.
#[derive(Clone, Debug, PartialEq)]
pub enum FindingChange {
    /// It has begun.
    Raised(Finding),
    /// It has become better or worse.
    SeverityChanged {
        /// As it is now.
        finding: Finding,
        /// As it was.
        from: Severity,
    },
    /// It has ended; as it was last.
    Cleared(Finding),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_need_no_encoding_in_a_url_and_differ_where_names_do() {
        for (id, fit) in [
            ("close-wait-pileup/12/process/6227", "close-wait-pileup/12/process/6227"),
            ("self-connection/1/[::1]:8080", "self-connection/1/::1:8080"),
            ("stuck-state/1/[python3]/8080", "stuck-state/1/~5bpython3~5d/8080"),
            ("reset-storm/1/a b?#&%~é/server", "reset-storm/1/a~20b~3f~23~26~25~7e~c3~a9/server"),
        ] {
            assert_eq!(fit_for_urls(id), fit);
        }
    }
}
