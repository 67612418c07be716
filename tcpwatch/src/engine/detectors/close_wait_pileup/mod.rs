//! `close-wait-pileup`: an owner keeps sockets in CLOSE_WAIT.
//!
//! Signal: sockets in CLOSE_WAIT older than `min_age` on which nothing is sent any more, by
//! process, and by unit or container, over all ports and peers. The peer has closed; only the
//! application can end the state, no timer does (RFC 9293 section 3.3.2). Trip, of a process:
//! `info`, `warning` or `critical` of them; `growing` of them that have become more in every
//! quarter of `window`; a share of its limit of open files; critical near that limit. Of a unit or
//! container: `info` of them in all processes together; a warning only if these grow beyond what
//! pools of all its processes reach.
//! Cold start: the ages of sockets older than the agent are lower bounds, so a leak that was there
//! before is seen as soon as its age is proven. There is no verdict before half a window.
//! Recovery: below 0.9 of the threshold; where only growth raised it, below 0.9 of what there were
//! at most: a quiet hour is no cure, what has leaked is still there.
//! Misses: a leak spread over more processes than there are sockets; one whose sockets never reach
//! `min_age` because a keep-alive ends them. A leak of less than two sockets in a window is called
//! stuck. A program that sends and never closes is no leak until it is silent.
//!
//! One owner has one finding, which names the smallest thing that holds the sockets: a service of a
//! process, a process, a unit or container.

mod evidence;
mod pool;
mod relay;
mod remedies;
mod services;
mod stacks;
mod turnover;
mod verdict;
mod words;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::{
    pool::{Followed, Judged},
    turnover::Present,
    words::Group,
};
use crate::{
    config::{self, Detect},
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{FindingKind, Severity},
        groups::{
            held::{Held, holders},
            owners::OwnerKey,
            peers::Peers,
        },
        over_time::level::Levels,
    },
    facts::{CloseWaitSocket, Focus, Inventory, Namespace, Progress, Role, Timestamp},
};

/// Processes and services that are followed; more owners than that with old sockets is no leak of
/// one. The largest of all namespaces come first.
const FOLLOWED: usize = 1_024;
/// A socket on which data was acknowledged so lately is in use, however short `min_age` is.
const IN_USE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(crate) struct CloseWaitPileup {
    levels: Levels,
    followed: BTreeMap<String, Followed>,
    growing: Vec<u32>,
    /// Processes whose sockets were part of a finding in the last round.
    reported: BTreeSet<u32>,
    /// Findings that showed a relay then, with its backend on this host.
    mirrors: BTreeSet<String>,
}

impl Detector for CloseWaitPileup {
    /// Asks for the user stacks of processes with half of `growing` or more sockets that have become
    /// more within the last quarter of the window: the finding that comes can name the function.
    fn focus(&self, _detect: &Detect, focus: &mut Focus) {
        focus.stacks_of.extend(&self.growing);
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        self.levels.begin();
        let before = std::mem::take(&mut self.followed);
        let mut judging = Judging {
            detector: self,
            before,
            growing: Vec::new(),
            reported: BTreeSet::new(),
            mirrors: BTreeSet::new(),
        };
        let peers = Peers::of(round.inventory);
        let look_at = |namespace| Look {
            inventory: round.inventory,
            namespace,
            present: Present::new(&namespace.close_wait),
            beyond: Beyond::of(namespace),
            peers: &peers,
            now: round.now,
        };
        let looks: Vec<_> = round.inventory.namespaces.iter().map(look_at).collect();
        let mut all = Vec::new();
        for look in &looks {
            let owners = owners(round, look.namespace, verdicts).into_iter();
            all.extend(owners.map(|(key, found)| (look, key, found)));
        }
        all.retain(|(_, _, found)| !found.sockets.is_empty());
        // Of all namespaces together: the owners of one do not take the places of the others.
        all.sort_by_key(|(_, _, found)| Reverse(found.sockets.len()));
        for (look, key, found) in &all {
            let config = round.detect.close_wait_pileup.at(key.place);
            judging.judge_owner(key, found, look, config, verdicts);
        }
        let Judging { growing, reported, mirrors, .. } = judging;
        self.growing = largest(growing);
        self.reported = reported;
        self.mirrors = mirrors;
    }
}

/// The sockets of an owner.
#[derive(Default)]
struct Found<'a> {
    /// Those that count, in the order of the walk.
    sockets: Vec<&'a CloseWaitSocket>,
    /// Those that are half-closed on purpose.
    half_closed: u64,
}

/// The thresholds and names by which sockets are judged.
struct Look<'a> {
    inventory: &'a Inventory,
    namespace: &'a Namespace,
    present: Present,
    beyond: Beyond,
    peers: &'a Peers<'a>,
    now: Timestamp,
}

/// One round of judging.
struct Judging<'a> {
    detector: &'a mut CloseWaitPileup,
    before: BTreeMap<String, Followed>,
    /// Processes whose sockets become more, with the number of these.
    growing: Vec<(usize, u32)>,
    /// See [`CloseWaitPileup`], of this round.
    reported: BTreeSet<u32>,
    mirrors: BTreeSet<String>,
}

/// Sockets by owner. One whose process is still to be looked for waits for that: a finding must not
/// name an unknown process that has a name a second later.
fn owners<'a>(
    round: &Round<'a>,
    namespace: &'a Namespace,
    verdicts: &Verdicts<'_>,
) -> BTreeMap<OwnerKey<'a>, Found<'a>> {
    let pileup = &round.detect.close_wait_pileup;
    let mut owners: BTreeMap<_, Found<'_>> = BTreeMap::new();
    for socket in &namespace.close_wait {
        let (process, port) = (socket.process(), socket.service_port());
        let place = pileup.place_of(process, port);
        let config = pileup.at(place);
        if !config.enabled || socket.owner_pending || verdicts.ignores(process, port) {
            continue;
        }
        let is_half_closed = is_half_closed(socket, config.min_age, round.now);
        if !is_half_closed && round.now.since(socket.since) < config.min_age {
            continue;
        }
        let found = owners.entry(OwnerKey::of(namespace.id, socket, place)).or_default();
        if is_half_closed {
            found.half_closed += 1;
        } else {
            found.sockets.push(socket);
        }
    }
    owners
}

/// Whether the process still sends on it, and the peer still takes it: then the peer has shut down
/// one direction on purpose (RFC 9293 section 3.6). Whatever was acknowledged before the FIN says
/// nothing; where the time of the FIN is not known, only what was acknowledged just now does.
fn is_half_closed(socket: &CloseWaitSocket, min_age: Duration, now: Timestamp) -> bool {
    let Some(Progress { sent_bytes, delivered, .. }) = socket.progress else { return false };
    let silent = now.since(delivered);
    let is_after_fin = delivered > socket.since && silent < min_age.saturating_mul(2).max(IN_USE);
    sent_bytes > 0 && (is_after_fin || !socket.since_exact && silent < IN_USE)
}

impl Judging<'_> {
    /// Judges each process, and all of them together.
    fn judge_owner(
        &mut self,
        key: &OwnerKey<'_>,
        found: &Found<'_>,
        look: &Look<'_>,
        config: &config::CloseWaitPileup,
        verdicts: &mut Verdicts<'_>,
    ) {
        let id = format!("{}/{key}", FindingKind::CloseWaitPileup.name());
        let pools = pools(&found.sockets);
        let judged: Vec<_> = pools
            .iter()
            .map(|(pid, sockets)| {
                let id = match pid {
                    Some(pid) if key.is_service() => format!("{id}#{pid}"),
                    _ => id.clone(),
                };
                let judged = self.judge_pool(id, *pid, sockets, look, config);
                if let (Some(pid), true) = (pid, judged.wants_stacks) {
                    self.growing.push((sockets.len(), *pid));
                }
                judged
            })
            .collect();
        let together = key.is_service().then(|| {
            let in_all = judged.iter().map(|pool| pool.in_all).sum();
            self.judge_together(&id, (&found.sockets, in_all), pools.len(), look, config)
        });
        let Some((scope, severity)) = narrowest(&judged, together.as_ref(), config) else { return };
        let (sockets, shown) = match (scope, &together) {
            (Scope::Process(at), _) => (&pools[at].1, &judged[at]),
            (Scope::All, Some(together)) => (&found.sockets, together),
            (Scope::All, None) => return,
        };
        let relay = relay::of(sockets, look);
        let backend = relay.as_ref().and_then(|relay| relay.process.as_ref());
        let is_mirror = backend.is_some_and(|backend| self.is_mirror(&id, backend.pid));
        let severity = if is_mirror { severity.min(mirrored(shown)) } else { severity };
        let group = Group {
            namespace: look.namespace,
            sockets,
            holders: &holders(sockets),
            now: look.now,
            window: config.window,
            half_closed: found.half_closed,
            severity,
            relay,
            // Of several processes that one is named whose descriptors run out.
            worst: judged.iter().find(|pool| pool.is_near_limit).unwrap_or(shown),
            shown,
        };
        self.reported.extend(group.holders.iter().map(|(pid, _)| *pid));
        verdicts.push(verdict::of(&group, id), sockets.len() as u64);
    }

    /// Whether the process that does not close has a finding of its own. In the first round of a
    /// relay that is not known yet.
    fn is_mirror(&mut self, id: &str, backend: u32) -> bool {
        self.mirrors.insert(id.to_owned());
        !self.detector.mirrors.contains(id) || self.detector.reported.contains(&backend)
    }

    fn judge_pool(
        &mut self,
        id: String,
        pid: Option<u32>,
        sockets: &[&CloseWaitSocket],
        look: &Look<'_>,
        config: &config::CloseWaitPileup,
    ) -> Judged {
        let mut followed = self.before.remove(&id).unwrap_or_default();
        let leaving = followed.leaving(sockets, look, config.window);
        let descriptors = pid.and_then(|pid| look.inventory.descriptors.get(&pid));
        let in_all = sockets.len() as u64 + look.beyond.of_pool(pid, sockets);
        let count = (sockets.len() as u64, in_all);
        let levels = &mut self.detector.levels;
        let judged =
            followed.judge_process(&id, count, descriptors, leaving, levels, (look.now, config));
        self.follow(id, followed);
        judged
    }

    fn judge_together(
        &mut self,
        id: &str,
        (sockets, in_all): (&[&CloseWaitSocket], u64),
        processes: usize,
        look: &Look<'_>,
        config: &config::CloseWaitPileup,
    ) -> Judged {
        let mut followed = self.before.remove(id).unwrap_or_default();
        let leaving = followed.leaving(sockets, look, config.window);
        let levels = &mut self.detector.levels;
        let now = (look.now, config);
        let judged = followed.judge_together(id, in_all, processes as u64, leaving, levels, now);
        self.follow(id.to_owned(), followed);
        judged
    }

    fn follow(&mut self, id: String, followed: Followed) {
        let all = &mut self.detector.followed;
        if all.len() < FOLLOWED {
            all.insert(id, followed);
        }
    }
}

/// An owner's sockets by process, each in the order of the walk, the most first.
fn pools<'a>(sockets: &[&'a CloseWaitSocket]) -> Vec<(Option<u32>, Vec<&'a CloseWaitSocket>)> {
    let mut by_pid: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for socket in sockets {
        by_pid.entry(socket.process().map(|process| process.pid)).or_default().push(*socket);
    }
    let mut pools: Vec<_> = by_pid.into_iter().collect();
    pools.sort_by_key(|(_, sockets)| Reverse(sockets.len()));
    pools
}

/// The owner or service of a finding.
#[derive(Clone, Copy)]
enum Scope {
    /// One process, by its place.
    Process(usize),
    /// All processes of the owner.
    All,
}

/// The smallest thing that holds the sockets, and how severe it is. One process is named without the
/// others where it has nine tenths, or where the others have too few for a finding.
fn narrowest(
    pools: &[Judged],
    together: Option<&Judged>,
    config: &config::CloseWaitPileup,
) -> Option<(Scope, Severity)> {
    let together = together.filter(|_| pools.len() > 1);
    let of_all = together.and_then(|it| it.severity);
    let severity = pools.iter().map(|pool| pool.severity).max()?.max(of_all)?;
    let (at, worst) =
        pools.iter().enumerate().max_by_key(|(_, pool)| (pool.severity, pool.in_all))?;
    let all: u64 = pools.iter().map(|pool| pool.in_all).sum();
    let has_nearly_all = worst.in_all * 10 >= all * 9;
    let others_are_few = all - worst.in_all < config.info.min(config.warning)
        && pools.iter().filter(|pool| pool.severity.is_some()).count() == 1;
    let is_one = together.is_none() || has_nearly_all || others_are_few;
    let scope = if is_one && worst.severity >= of_all { Scope::Process(at) } else { Scope::All };
    Some((scope, severity))
}

/// The most that a finding is which another one explains: it is the relay whose descriptors run out.
fn mirrored(shown: &Judged) -> Severity {
    if shown.is_near_limit { Severity::Critical } else { Severity::Info }
}

/// The processes with most sockets, each once, in the order of their numbers.
fn largest(mut growing: Vec<(usize, u32)>) -> Vec<u32> {
    growing.sort_by_key(|(count, pid)| (Reverse(*count), *pid));
    let mut pids: Vec<u32> = Vec::new();
    for (_, pid) in growing {
        if pids.len() < Focus::STACKS && !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids
}

/// Sockets that are too many to be described, by service, and whose they are: the process's that has
/// every described one of that service; else that is not known.
struct Beyond(BTreeMap<(Role, u16), BeyondService>);

struct BeyondService {
    beyond: u64,
    described: u64,
    /// `None` while none is described; `Some(None)` is a process that is not known.
    holder: Option<Option<u32>>,
    is_of_one: bool,
}

impl Beyond {
    fn of(namespace: &Namespace) -> Self {
        let cut = |(service, &beyond): (&(Role, u16), &u64)| {
            (*service, BeyondService { beyond, described: 0, holder: None, is_of_one: true })
        };
        let mut services: BTreeMap<_, _> = namespace.close_wait_beyond.iter().map(cut).collect();
        if services.is_empty() {
            return Self(services);
        }
        for socket in &namespace.close_wait {
            let service = services.get_mut(&(socket.role, socket.service_port()));
            let Some(service) = service else { continue };
            service.described += 1;
            // A socket whose owner is still to be looked for may be any process's.
            if !socket.owner_pending {
                let holder = socket.process().map(|process| process.pid);
                service.is_of_one &= *service.holder.get_or_insert(holder) == holder;
            }
        }
        Self(services)
    }

    /// How many of a process's sockets they are, as far as these are as old as the described ones.
    fn of_pool(&self, pid: Option<u32>, sockets: &[&CloseWaitSocket]) -> u64 {
        let mut of_services: BTreeMap<(Role, u16), u64> = BTreeMap::new();
        if self.0.is_empty() {
            return 0;
        }
        for socket in sockets {
            *of_services.entry((socket.role, socket.service_port())).or_default() += 1;
        }
        let old = |(service, count): (&(Role, u16), &u64)| {
            let cut = self.0.get(service).filter(|it| it.is_of_one && it.holder == Some(pid))?;
            Some((cut.beyond as f64 * *count as f64 / cut.described.max(1) as f64).round() as u64)
        };
        of_services.iter().filter_map(old).sum()
    }
}
