//! `reset-storm` in words: who, how many, how often, against what is usual, and most of them why.
//!
//! What each cause means and what to do about it is in `causes`.

use std::{net::IpAddr, sync::Arc};

use super::{causes, rate::Storm};
use crate::{
    config,
    engine::{
        advice::text,
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
    },
    facts::{Process, Role, SeenReset, Timestamp},
};

/// A storm with all that is known of it.
pub(crate) struct Case<'a> {
    pub(crate) storm: &'a Storm,
    pub(crate) netns: Arc<str>,
    pub(crate) role: Role,
    pub(crate) port: u16,
    pub(crate) process: Option<&'a Process>,
    pub(crate) last_peer: Option<IpAddr>,
    pub(crate) config: &'a config::ResetStorm,
    pub(crate) now: Timestamp,
}

impl Case<'_> {
    pub(crate) fn verdict(&self, id: String, severity: Severity) -> Verdict {
        let subject = self.subject();
        Verdict {
            id,
            kind: FindingKind::ResetStorm,
            severity,
            title: self.title(),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies: causes::remedies(self.most(), &subject, self.port, self.last_peer),
            subject,
        }
    }

    /// Resets within the window.
    pub(crate) fn total(&self) -> u64 {
        let counts = self.storm.counts.iter();
        counts.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// What happened most.
    fn most(&self) -> SeenReset {
        let most = self.storm.counts.first().expect("a storm has at least one reset");
        most.0
    }

    fn subject(&self) -> Subject {
        let mut subject = Subject {
            netns: Arc::clone(&self.netns),
            role: Some(self.role),
            port: Some(self.port),
            ..Subject::default()
        };
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
        let sent = matches!(self.most(), SeenReset::Sent(_));
        let who = match self.process {
            // Where nobody listens, nobody is to be named.
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
        let (port, netns) = (self.port, text::in_netns(&self.netns));
        let window = text::duration(self.config.window);
        let share = if self.storm.counts.len() == 1 { "all" } else { "most" };
        let how = causes::how(self.most());
        let last = match self.last_peer {
            Some(peer) => format!("; the last {} {peer}", if sent { "to" } else { "from" }),
            None => String::new(),
        };
        format!(
            "{who} {did} {resets} {side} port {port} within {window}{netns}, {}, {share} of them \
             {how}{last}",
            self.against_usual()
        )
    }

    fn against_usual(&self) -> String {
        match self.times_usual() {
            None => "and had none before".to_owned(),
            Some(times) => format!("{times:.0} times the usual"),
        }
    }

    /// `None` if there were none before.
    fn times_usual(&self) -> Option<f64> {
        let usual = self.storm.usual;
        (usual > 0.0).then(|| self.total() as f64 / usual)
    }

    fn explanation(&self) -> String {
        let meaning = causes::meaning(self.most());
        let quiet = self.quiet_seconds();
        let end = if quiet > 0 && self.storm.comes_back {
            format!("It comes in bursts; the last was over {quiet} s ago.")
        } else if quiet > 0 {
            format!("It has been over for {quiet} s.")
        } else {
            format!(
                "A rate that stays like this for {} becomes the usual one, and the finding ends.",
                text::duration(self.config.history)
            )
        };
        format!("{meaning} {end}")
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
            .number("baseline_resets_per_second", self.storm.usual / window);
        if let Some(times) = self.times_usual() {
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
        if let Some(peer) = self.last_peer {
            evidence.text("last_peer", peer.to_string());
        }
        if self.quiet_seconds() > 0 {
            evidence.count("quiet_seconds", self.quiet_seconds());
        }
        evidence
    }
}
