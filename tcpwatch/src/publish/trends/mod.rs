//! Numbers over the last hour, for the plots of the page: sockets by state, rates, and the main
//! number of each finding.
//!
//! Pure: time and numbers are arguments. The memory is bounded by `MOST_BYTES`, whatever happens:
//! each series has the size of its [`Ring`], and the series of a finding goes with the finding.

mod ring;

use std::time::Duration;

pub use ring::{Line, Ring, SLOT, SLOTS};

use super::overview::main_number;
use crate::{
    engine::{Finding, Samples},
    facts::{KernelCounters, TcpState, Timestamp},
};

/// Findings that have a series. The worst come first; a person compares no more lines.
const FINDINGS: usize = 100;

/// Longest id and longest key of a finding that has a series; both are far shorter.
const NAME_BYTES: usize = 256;

/// No more memory than this is used.
const MOST_BYTES: usize =
    size_of::<Trends>() + FINDINGS * (size_of::<FindingTrend>() + 2 * NAME_BYTES);

// Little beside the agent, which takes some megabytes.
const _: () = assert!(MOST_BYTES < 256 * 1024);

/// A series of the whole host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// Sockets in ESTABLISHED.
    Established,
    /// Sockets in TIME_WAIT.
    TimeWait,
    /// Sockets in CLOSE_WAIT.
    CloseWait,
    /// Half-open sockets: SYN_RECV.
    HalfOpen,
    /// Connections that became established, a second.
    Opened,
    /// Failed connects, a second.
    ConnectFailures,
    /// Resets sent, a second.
    ResetsSent,
    /// Resets received, a second.
    ResetsReceived,
}

impl Trend {
    /// In the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Established,
        Self::TimeWait,
        Self::CloseWait,
        Self::HalfOpen,
        Self::Opened,
        Self::ConnectFailures,
        Self::ResetsSent,
        Self::ResetsReceived,
    ];

    /// Its heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::TimeWait => "TIME_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::HalfOpen => "SYN_RECV",
            Self::Opened => "connections opened",
            Self::ConnectFailures => "connects failed",
            Self::ResetsSent => "resets sent",
            Self::ResetsReceived => "resets received",
        }
    }

    /// Whether its values are per second.
    #[must_use]
    pub const fn is_rate(self) -> bool {
        matches!(
            self,
            Self::Opened | Self::ConnectFailures | Self::ResetsSent | Self::ResetsReceived
        )
    }
}

/// Totals whose growth is a rate; `None` where a hook is missing.
#[derive(Clone, Copy, Debug)]
struct Totals {
    opened: u64,
    connect_failures: u64,
    resets_sent: Option<u64>,
    resets_received: Option<u64>,
}

/// The main number of one finding.
#[derive(Clone, Debug)]
struct FindingTrend {
    id: Box<str>,
    /// The key of the number in the evidence.
    key: Box<str>,
    ring: Ring,
}

/// The numbers of the last hour.
#[derive(Clone, Debug, Default)]
pub struct Trends {
    /// When the first values came.
    began: Option<Timestamp>,
    rings: [Ring; Trend::ALL.len()],
    totals: Option<(Timestamp, Totals)>,
    findings: Vec<FindingTrend>,
}

impl Trends {
    /// Takes the numbers of an inventory. Without `counters` the rates have no value at this time.
    pub fn observe(
        &mut self,
        now: Timestamp,
        samples: &Samples,
        counters: Option<&KernelCounters>,
        findings: &[Finding],
    ) {
        self.began.get_or_insert(now);
        for (trend, state) in [
            (Trend::Established, TcpState::Established),
            (Trend::TimeWait, TcpState::TimeWait),
            (Trend::CloseWait, TcpState::CloseWait),
            (Trend::HalfOpen, TcpState::SynRecv),
        ] {
            let sockets = samples.namespaces.iter().map(|it| it.sockets.get(state));
            let sockets = sockets.fold(0, u64::saturating_add);
            self.rings[trend as usize].record(now, sockets as f64);
        }
        if let Some(counters) = counters {
            self.observe_totals(now, totals(samples, counters));
        }
        self.observe_findings(now, findings);
    }

    fn observe_totals(&mut self, now: Timestamp, new: Totals) {
        let Some((then, old)) = self.totals.replace((now, new)) else { return };
        let seconds = now.since(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let resets = |new: Option<u64>, old: Option<u64>| Some((new?, old?));
        for (trend, totals) in [
            (Trend::Opened, Some((new.opened, old.opened))),
            (Trend::ConnectFailures, Some((new.connect_failures, old.connect_failures))),
            (Trend::ResetsSent, resets(new.resets_sent, old.resets_sent)),
            (Trend::ResetsReceived, resets(new.resets_received, old.resets_received)),
        ] {
            if let Some((new, old)) = totals {
                let rate = new.saturating_sub(old) as f64 / seconds;
                self.rings[trend as usize].record(now, rate);
            }
        }
    }

    /// A finding that has ended loses its series, and gives its place to another.
    fn observe_findings(&mut self, now: Timestamp, findings: &[Finding]) {
        self.findings.retain(|trend| findings.iter().any(|finding| *finding.id == *trend.id));
        self.findings.shrink_to(FINDINGS);
        for finding in findings {
            let Some((key, value)) = main_number(finding) else { continue };
            if finding.id.len() > NAME_BYTES || key.len() > NAME_BYTES {
                continue;
            }
            let known = self.findings.iter().position(|trend| *trend.id == *finding.id);
            let place = match known {
                Some(place) => place,
                None if self.findings.len() < FINDINGS => {
                    self.findings.reserve_exact(1);
                    let (id, key) = (finding.id.as_str().into(), key.into());
                    self.findings.push(FindingTrend { id, key, ring: Ring::new() });
                    self.findings.len() - 1
                }
                None => continue,
            };
            let trend = &mut self.findings[place];
            // Another number is another line.
            if *trend.key != *key {
                (trend.key, trend.ring) = (key.into(), Ring::new());
            }
            trend.ring.record(now, value as f64);
        }
    }

    /// One series of the host.
    #[must_use]
    pub fn ring(&self, trend: Trend) -> &Ring {
        &self.rings[trend as usize]
    }

    /// The series of a finding's main number.
    #[must_use]
    pub fn finding(&self, id: &str) -> Option<&Ring> {
        self.findings.iter().find(|trend| &*trend.id == id).map(|trend| &trend.ring)
    }

    /// The shortest of a few windows, an hour the longest, that shows all there is: a young agent
    /// would else show an empty hour.
    #[must_use]
    pub fn window(&self, now: Timestamp) -> Duration {
        const MINUTES: [u64; 4] = [5, 15, 30, 60];
        let age = self.began.map_or(Duration::ZERO, |began| now.since(began));
        let mut windows = MINUTES.map(|minutes| Duration::from_secs(60 * minutes)).into_iter();
        windows.find(|window| *window >= age).unwrap_or(SLOT * SLOTS as u32)
    }
}

fn totals(samples: &Samples, counters: &KernelCounters) -> Totals {
    let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0, u64::saturating_add);
    let opened = counters.transitions.iter();
    let mut opened = opened.filter(|((_, to), _)| *to == TcpState::Established).map(|it| it.1);
    let mut failures = samples.connect_failures.iter().map(|sample| sample.total);
    Totals {
        opened: sum(&mut opened),
        connect_failures: sum(&mut failures),
        resets_sent: counters.resets_sent.as_ref().map(|all| sum(&mut all.iter().map(|it| it.1))),
        resets_received: counters
            .resets_received
            .as_ref()
            .map(|all| sum(&mut all.iter().map(|it| it.1))),
    }
}

#[cfg(test)]
mod tests;
