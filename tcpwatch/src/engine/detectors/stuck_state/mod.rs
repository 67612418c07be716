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

mod words;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use self::words::{Group, by_host};
use crate::{
    config::{self, Overridable},
    engine::{
        advice::text,
        finding::{FINDINGS_PER_KIND, Finding, FindingKind, Severity},
        groups::held::{Held, ServiceKey, holders},
        over_time::level::Levels,
    },
    facts::{Inventory, Namespace, Process, TcpState, Timestamp, WaitingSocket},
};

#[derive(Debug)]
pub(crate) struct StuckState {
    pub(crate) config: Overridable<config::StuckState>,
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

impl StuckState {
    pub(crate) fn new(config: Overridable<config::StuckState>) -> Self {
        Self { config, levels: Levels::default(), shown: Vec::new() }
    }

    /// The groups that are stuck at `now`.
    pub(crate) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        self.levels.begin();
        let before = std::mem::take(&mut self.shown);
        let mut findings = Vec::new();
        for namespace in &inventory.namespaces {
            for ((state, key), sockets) in self.groups(namespace, now) {
                let id = format!("{}/{}/{key}", FindingKind::StuckState.name(), state.label());
                if let Some(severity) = self.judge_group(&id, &sockets) {
                    let holders = holders(&sockets);
                    let group =
                        Group { namespace, state, sockets: &sockets, holders: &holders, now };
                    let process = sockets[0].owner.as_ref().map(|owner| Arc::clone(&owner.process));
                    let finding = group.finding(id, severity);
                    let shown = Shown { process, state, finding, met: now, missed: 0 };
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
    ) -> BTreeMap<(TcpState, ServiceKey<'a>), Vec<&'a WaitingSocket>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for socket in &namespace.waiting {
            let config = self.config.of(socket.process(), socket.service_port());
            let is_young = now.since(socket.since) < least_age(config, socket.state);
            let is_timed = socket.state == TcpState::FinWait2 && socket.orphan;
            let is_self = socket.local == socket.peer;
            if !config.enabled || socket.owner_pending || is_young || is_timed || is_self {
                continue;
            }
            let key = (socket.state, ServiceKey::of(namespace.id, socket));
            groups.entry(key).or_default().push(socket);
        }
        groups
    }

    fn judge_group(&mut self, id: &str, sockets: &[&WaitingSocket]) -> Option<Severity> {
        let count = sockets.len() as f64;
        // All of a group have the same process, unit and port.
        let first = sockets.first()?;
        let config = self.config.of(first.process(), first.service_port());
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

fn least_age(config: &config::StuckState, state: TcpState) -> Duration {
    match state {
        TcpState::SynSent => config.unanswered,
        _ => config.min_age,
    }
}

/// The condition of the one host with the most sockets. An id ends in a port, so this is no other
/// group's.
fn host_id(id: &str) -> String {
    format!("{id}/host")
}
