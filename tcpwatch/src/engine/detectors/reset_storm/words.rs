//! `reset-storm` in words: who, how many, how often, against the time before, and most of them why.
//!
//! The meaning of each cause and its remedies are in `causes`.

use std::{net::IpAddr, sync::Arc};

use super::{causes, group::LastReset, rate::Storm};
use crate::{
    config,
    engine::{
        advice::text,
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
    },
    facts::{Process, ResetCause, Role, SeenReset, Timestamp},
};

/// A storm with all that is known of it.
pub(crate) struct Case<'a> {
    pub(crate) storm: &'a Storm,
    pub(crate) netns: Arc<str>,
    pub(crate) role: Role,
    pub(crate) port: u16,
    pub(crate) scanner: Option<IpAddr>,
    pub(crate) process: Option<&'a Process>,
    pub(crate) last: LastReset,
    /// Connections that ended in another way within the window, where they are counted.
    pub(crate) ended: Option<u64>,
    /// Packets that connection tracking found invalid meanwhile.
    pub(crate) conntrack: Option<u64>,
    /// Not one side's decision without loss.
    pub(crate) is_harm: bool,
    pub(crate) config: &'a config::ResetStorm,
    pub(crate) now: Timestamp,
}

impl Case<'_> {
    pub(crate) fn verdict(&self, id: String, severity: Severity) -> Verdict {
        let subject = self.subject();
        let remedies = match self.scanner {
            Some(source) => causes::against_scan(source),
            None if self.is_untranslated() => causes::against_untranslated(&subject),
            None => {
                let is_over = self.quiet_seconds() > 0;
                causes::remedies(self.most(), &subject, self.port, self.last.peer, is_over)
            }
        };
        Verdict {
            id,
            kind: FindingKind::ResetStorm,
            severity,
            title: self.title(),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies,
            subject,
        }
    }

    /// The storm as another finding's evidence.
    pub(crate) fn victim(&self) -> EvidenceMap {
        let mut evidence = EvidenceMap::default();
        if let Some(process) = self.process {
            evidence.process(process);
        }
        evidence.text("role", self.role.label());
        evidence.text("netns", &*self.netns);
        evidence.count("port", self.port.into());
        match self.most() {
            SeenReset::Sent(cause) => evidence.text("cause", cause.label()),
            SeenReset::Received(state) => evidence.text("state", state.label()),
        };
        evidence.count("resets", self.total());
        evidence
    }

    /// Resets within the window.
    pub(crate) fn total(&self) -> u64 {
        let counts = self.storm.counts.iter();
        counts.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The most frequent event.
    fn most(&self) -> SeenReset {
        let most = self.storm.counts.first().expect("a storm has at least one reset");
        most.0
    }

    /// Segments for this host itself that its address translation should have passed on: they come
    /// from a service, for connections that no socket of this host has. Connection tracking found at
    /// least half as many packets invalid: a few are invalid on every host.
    fn is_untranslated(&self) -> bool {
        self.role == Role::Client
            && self.most() == SeenReset::Sent(ResetCause::HalfOpen)
            && self.last.is_stray
            && self.conntrack.is_some_and(|invalid| invalid >= self.total() / 2)
    }

    fn subject(&self) -> Subject {
        let mut subject = Subject {
            netns: Arc::clone(&self.netns),
            role: Some(self.role),
            port: Some(self.port),
            ..Subject::default()
        };
        if let Some(source) = self.scanner {
            subject.port = None;
            subject.peer = Some(match self.last.other_port {
                Some(port) => std::net::SocketAddr::new(source, port).to_string(),
                None => source.to_string(),
            });
            return subject;
        }
        match self.role {
            Role::Client => subject.peer = Some(format!("*:{}", self.port)),
            Role::Server => subject.local = Some(format!("*:{}", self.port)),
        }
        if let Some(process) = self.process {
            subject.set_process(process);
        }
        subject
    }

    fn title(&self) -> String {
        let window = text::duration(self.config.window);
        let netns = text::in_netns(&self.netns);
        if let Some(source) = self.scanner {
            let probes = text::count(self.total(), "probe");
            return format!(
                "{source} scans this host: {probes} of many ports within {window}{netns}, each \
                 answered with a reset"
            );
        }
        let sent = matches!(self.most(), SeenReset::Sent(_));
        let who = match self.process {
            None if sent => "this host".to_owned(),
            process => text::named(process),
        };
        let resets = text::count(self.total(), "reset");
        let (did, side) = match (sent, self.role) {
            (true, Role::Client) => ("sent", "to"),
            (true, Role::Server) => ("sent", "from"),
            (false, Role::Client) => ("received", "from"),
            (false, Role::Server) => ("received", "on"),
        };
        let port = self.port;
        let refused = self.most() == SeenReset::Sent(ResetCause::NoListener)
            && self.role == Role::Server
            && self.process.is_none();
        if refused && self.storm.counts.len() == 1 {
            let last = self.last.peer.map(|peer| format!("; the last from {peer}"));
            return format!(
                "this host refused {} to port {port} within {window}{netns}, {before}: no process \
                 listens there{last}",
                text::count(self.total(), "connect"),
                before = self.against_before(),
                last = last.unwrap_or_default(),
            );
        }
        let part = if self.storm.counts.len() == 1 { "all" } else { "most" };
        let how = causes::how(self.most());
        let last = match self.last.peer {
            Some(peer) => format!("; the last {} {peer}", if sent { "to" } else { "from" }),
            None => String::new(),
        };
        format!(
            "{who} {did} {resets} {side} port {port} within {window}{netns}{share}, {before}, \
             {part} of them {how}{last}",
            share = self.share_in_words(),
            before = self.against_before(),
        )
    }

    /// `, 90 % of the connections that ended`.
    fn share_in_words(&self) -> String {
        match self.share() {
            Some(share) => format!(", {:.0} % of the connections that ended", share * 100.0),
            None => String::new(),
        }
    }

    /// Which part of the connections that ended were reset.
    fn share(&self) -> Option<f64> {
        let total = self.total() as f64;
        Some(total / (total + self.ended? as f64))
    }

    fn against_before(&self) -> String {
        match self.times_before() {
            None => "and had none before".to_owned(),
            Some(times) => format!("{times:.0} times as many as before"),
        }
    }

    /// `None` if there were none before.
    fn times_before(&self) -> Option<f64> {
        let baseline = self.storm.baseline;
        (baseline > 0.0).then(|| self.total() as f64 / baseline)
    }

    fn explanation(&self) -> String {
        let meaning = match self.scanner {
            Some(_) => {
                "One address tries many ports, with segments that belong to no connection. The \
                 answers tell it which ports are open. No connection of this host is affected."
                    .to_owned()
            }
            None if self.is_untranslated() => self.untranslated(),
            None => causes::meaning(self.most()).to_owned(),
        };
        let stray = if self.last.is_stray && self.scanner.is_none() {
            self.sources()
        } else {
            String::new()
        };
        let harm = if self.scanner.is_some() {
            ""
        } else if !self.is_harm {
            " One side decides so, and its socket shows no loss."
        } else if !self.storm.lasts {
            " It has not lasted for longer than a restart takes."
        } else {
            ""
        };
        let quiet = self.quiet_seconds();
        let end = if quiet > 0 {
            format!("It has been over for {quiet} s.")
        } else {
            format!(
                "A rate that stays like this for {} is no change any more, and the finding ends.",
                text::duration(self.config.history)
            )
        };
        format!("{meaning}{stray}{harm} {end}")
    }

    fn untranslated(&self) -> String {
        let invalid = self.conntrack.unwrap_or_default();
        format!(
            "Segments of a service arrive for ports of this host that no socket has. Connection \
             tracking (conntrack) found {} invalid at the same time: it leaves such a packet \
             untranslated, so this host takes it for its own and resets a connection that it only \
             passes on.",
            text::count(invalid, "packet")
        )
    }

    /// How many there are at the other end of stray resets.
    fn sources(&self) -> String {
        let (Some(peers), Some(ports)) = (self.last.peers, self.last.other_ports) else {
            return String::new();
        };
        let whose = match self.role {
            Role::Client => "local ports",
            Role::Server => "ports of theirs",
        };
        format!(
            " They go to about {} and concern about {ports} {whose}.",
            text::count(peers.into(), "address")
        )
    }

    /// For how long the rate has been below that of a storm.
    fn quiet_seconds(&self) -> u64 {
        self.now.since(self.storm.hot).as_secs()
    }

    fn evidence(&self) -> EvidenceMap {
        let window = self.config.window.as_secs_f64();
        let mut evidence = EvidenceMap::default();
        evidence
            .count("resets_in_window", self.total())
            .number("window_seconds", window)
            .number("resets_per_second", self.total() as f64 / window)
            .number("baseline_resets_per_second", self.storm.baseline / window);
        if let Some(times) = self.times_before() {
            evidence.number("baseline_ratio", times);
        }
        let counted = self.storm.counts.iter().map(|(what, count)| {
            let mut object = EvidenceMap::default();
            match what {
                SeenReset::Sent(cause) => object.text("cause", cause.label()),
                SeenReset::Received(state) => object.text("state", state.label()),
            };
            object.count("resets", *count);
            object
        });
        let key = match self.most() {
            SeenReset::Sent(_) => "by_cause",
            SeenReset::Received(_) => "by_state",
        };
        evidence.list(key, counted);
        if let (Some(ended), Some(share)) = (self.ended, self.share()) {
            evidence.count("other_ends_in_window", ended).number("share_of_ends", share);
        }
        evidence.flag("lasts", self.storm.lasts).flag("harm", self.is_harm);
        if let Some(peer) = self.last.peer {
            evidence.text("last_peer", peer.to_string());
        }
        self.stray_evidence(&mut evidence);
        if self.quiet_seconds() > 0 {
            evidence.count("quiet_seconds", self.quiet_seconds());
        }
        evidence
    }

    /// Both ports, and from how many.
    fn stray_evidence(&self, evidence: &mut EvidenceMap) {
        if !self.last.is_stray {
            return;
        }
        if let Some(other) = self.last.other_port {
            let (local, peer) = match self.role {
                Role::Client => (other, self.port),
                Role::Server => (self.port, other),
            };
            if self.scanner.is_none() {
                evidence.count("last_local_port", local.into());
            }
            evidence.count("last_peer_port", peer.into());
        }
        if let Some(peers) = self.last.peers {
            evidence.count("peers_about", peers.into());
        }
        if let Some(ports) = self.last.other_ports {
            evidence.count("other_ports_about", ports.into());
        }
        if let Some(invalid) = self.conntrack {
            evidence.count("conntrack_invalid_packets", invalid);
        }
    }
}
