//! A race in words: title, explanation, evidence, remedies.

use super::{Counts, Peak, Port};
use crate::{
    config,
    engine::{
        advice::text,
        evidence::EvidenceMap,
        finding::{FindingKind, Severity, Subject, Verdict},
    },
    facts::{Namespace, Role},
};

/// A port whose clients lose requests.
pub(super) struct Case<'a> {
    pub(super) namespace: Option<&'a Namespace>,
    pub(super) port: u16,
    pub(super) known: &'a Port,
    pub(super) counts: Counts,
    pub(super) peak: Peak,
    pub(super) config: &'a config::KeepaliveRace,
}

impl Case<'_> {
    pub(super) fn verdict(&self, id: String, severity: Severity) -> Verdict {
        let subject = self.subject();
        Verdict {
            id,
            kind: FindingKind::KeepaliveRace,
            severity,
            title: self.title(&subject),
            explanation: self.explanation(),
            evidence: self.evidence(),
            remedies: self.remedies(),
            subject,
        }
    }

    fn subject(&self) -> Subject {
        let mut subject = Subject {
            role: Some(Role::Server),
            local: Some(format!("*:{}", self.port)),
            peer: self.known.last_peer.map(|peer| peer.to_string()),
            port: Some(self.port),
            ..Subject::default()
        };
        if let Some(namespace) = self.namespace {
            subject.netns = namespace.name.clone();
        }
        if let Some(process) = &self.known.process {
            subject.set_process(process);
        }
        subject
    }

    /// The measured time-out, for example `5.1 s`.
    fn timeout(&self) -> String {
        format!("{:.1} s", self.peak.timeout.as_secs_f64())
    }

    fn percent(&self) -> f64 {
        self.share() * 100.0
    }

    /// The part of the idle connections that had a request after their close.
    fn share(&self) -> f64 {
        (self.counts.late as f64 / self.counts.idle().max(1) as f64).min(1.0)
    }

    fn title(&self, subject: &Subject) -> String {
        let last = match self.known.last_peer {
            Some(peer) => format!("; the last from {peer}"),
            None => String::new(),
        };
        format!(
            "{who} closes idle connections to port {port} after {timeout}{netns} while clients still \
             use them: {late} answered with resets within {window}, {percent:.0} % of {idle}{last}",
            who = text::named(self.known.process.as_deref()),
            port = self.port,
            timeout = self.timeout(),
            netns = text::in_netns(&subject.netns),
            late = text::count(self.counts.late, "late request"),
            window = text::duration(self.config.window),
            percent = self.percent(),
            idle = text::count(self.counts.idle(), "idle close"),
        )
    }

    fn explanation(&self) -> String {
        let small = if self.counts.large == 0 {
            " None of the late data has more than 64 bytes, so it may be the close_notify with which \
             TLS answers a close."
        } else {
            ""
        };
        format!(
            "The server closes connections that had no segment for {}. Clients keep such connections \
             longer and send their next request on them. The kernel answers it with a reset, and the \
             client sees \"connection reset by peer\" or a 502.{small}",
            self.timeout()
        )
    }

    fn evidence(&self) -> EvidenceMap {
        let mut evidence = EvidenceMap::default();
        evidence
            .number("idle_timeout_seconds", self.peak.timeout.as_secs_f64())
            .count("late_resets_in_window", self.counts.late)
            .count("late_resets_over_64_bytes", self.counts.large)
            .count("idle_closes_in_window", self.counts.idle())
            .count("idle_closes_at_timeout", self.peak.closed)
            .count("quick_closes_in_window", self.counts.closed[0])
            .number("share_of_idle_closes", self.share())
            .number("window_seconds", self.config.window.as_secs_f64());
        if let Some(peer) = self.known.last_peer {
            evidence.text("last_peer", peer.to_string());
        }
        evidence
    }

    fn remedies(&self) -> Vec<String> {
        let timeout = self.timeout();
        let from =
            self.known.last_peer.map_or_else(|| "the client".to_owned(), |it| it.to_string());
        vec![
            format!(
                "Make the server's idle time-out, measured as {timeout}, longer than that of the \
                 clients' pools at {from}. Settings: gunicorn --keep-alive, Node \
                 server.keepAliveTimeout, Puma persistent_timeout, nginx keepalive_timeout. A \
                 balancer that keeps connections for 60 s needs 65 s or more."
            ),
            format!(
                "Where the server cannot change, set the idle time-out of the pool at {from} below \
                 {timeout}."
            ),
            "Let the client repeat idempotent requests (GET, PUT, DELETE) on a new connection after \
             a reset."
                .to_owned(),
        ]
    }
}
