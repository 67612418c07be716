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
        detector::{Detector, Round, Verdicts},
        finding::{FINDINGS_PER_KIND, FindingKind, Severity, Verdict},
        groups::held::{Held, ServiceKey, holders},
        over_time::level::Levels,
    },
    facts::{Namespace, Process, TcpState, Timestamp, WaitingSocket},
};

#[derive(Debug, Default)]
pub(crate) struct StuckState {
    levels: Levels,
    shown: Vec<Shown>,
}

/// What an inventory showed, and of whom.
#[derive(Debug)]
struct Shown {
    process: Option<Arc<Process>>,
    state: TcpState,
    verdict: Verdict,
    /// How many sockets it was about.
    sockets: u64,
    /// When it was there last.
    met: Timestamp,
    /// The inventories since that have not shown it.
    missed: u32,
}

impl Detector for StuckState {
    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let Round { inventory, now, .. } = *round;
        let config = &round.detect.stuck_state;
        self.levels.begin();
        let before = std::mem::take(&mut self.shown);
        for namespace in &inventory.namespaces {
            for ((state, key), sockets) in groups(namespace, config, now) {
                let id = format!("{}/{}/{key}", FindingKind::StuckState.name(), state.label());
                let Some(severity) = self.judge_group(&id, &sockets, config) else { continue };
                let holders = holders(&sockets);
                let group = Group { namespace, state, sockets: &sockets, holders: &holders, now };
                let process = sockets[0].owner.as_ref().map(|owner| Arc::clone(&owner.process));
                let verdict = group.verdict(id, severity);
                let sockets = sockets.len() as u64;
                self.shown.push(Shown { process, state, verdict, sockets, met: now, missed: 0 });
            }
        }
        self.shown.sort_by_key(|shown| (Reverse(shown.verdict.severity), Reverse(shown.sockets)));
        self.shown.truncate(FINDINGS_PER_KIND);
        self.keep(before, config, now);
        for shown in &self.shown {
            verdicts.push(shown.verdict_at(now), shown.sockets);
        }
    }
}

impl StuckState {
    fn judge_group(
        &mut self,
        id: &str,
        sockets: &[&WaitingSocket],
        config: &Overridable<config::StuckState>,
    ) -> Option<Severity> {
        let count = sockets.len() as f64;
        // All of a group have the same process, unit and port.
        let first = sockets.first()?;
        let config = config.of(first.process(), first.service_port());
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
    fn keep(
        &mut self,
        before: Vec<Shown>,
        config: &Overridable<config::StuckState>,
        now: Timestamp,
    ) {
        let ids: HashSet<String> = self.shown.iter().map(|it| it.verdict.id.clone()).collect();
        for mut shown in before {
            let id = &shown.verdict.id;
            let port = shown.verdict.subject.port.unwrap_or_default();
            let config = config.of(shown.process.as_deref(), port);
            shown.missed += 1;
            let is_recent = match shown.state {
                TcpState::SynSent => now.since(shown.met) <= config.window,
                _ => shown.missed == 1,
            };
            let is_wanted = config.enabled && is_recent && !ids.contains(id);
            if is_wanted && self.shown.len() < FINDINGS_PER_KIND {
                self.levels.hold(id, Severity::Warning);
                if shown.verdict.severity > Severity::Info {
                    self.levels.hold(&host_id(id), shown.verdict.severity);
                }
                self.shown.push(shown);
            }
        }
    }
}

impl Shown {
    /// The verdict, which says since when the condition has not been met.
    fn verdict_at(&self, now: Timestamp) -> Verdict {
        let mut verdict = self.verdict.clone();
        if self.missed > 1 {
            let age = text::duration(now.since(self.met));
            verdict.explanation.push_str(&format!(" So many were there last {age} ago."));
        }
        verdict
    }
}

/// Sockets that have waited long enough. One whose owner is still to be looked for waits for
/// that, so that nobody is told of an unknown process that has a name a second later.
fn groups<'a>(
    namespace: &'a Namespace,
    config: &Overridable<config::StuckState>,
    now: Timestamp,
) -> BTreeMap<(TcpState, ServiceKey<'a>), Vec<&'a WaitingSocket>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for socket in &namespace.waiting {
        let config = config.of(socket.process(), socket.service_port());
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
