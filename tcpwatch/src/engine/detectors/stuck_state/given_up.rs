//! Connects that programs gave up before an answer came, by owner and destination.
//!
//! One that is given up within a second says nothing: the loser of Happy Eyeballs (RFC 8305), a port
//! scan, a health check. A destination counts as unanswering only while hardly any connection to it
//! is established; that is counted in the kernel from the first such connect on
//! ([`Focus::answers`]), so nothing is said of the time before. A connect that the kernel times out
//! soon, because the program has set it so, is given up as well.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use super::owner::GroupKey;
use crate::{
    config::{self, Overridable},
    engine::{detector::Round, over_time::window::Window},
    facts::{ConnectFailure, Endpoint, Event, Focus, NetnsId, Process, Timestamp},
};

/// A connect() that the kernel times out later is in SYN_SENT for so long that the walk sees it. A
/// time-out that the program set there (TCP_USER_TIMEOUT, TCP_SYNCNT) is shorter.
const SHORT: Duration = Duration::from_secs(60);
/// Owners and services that are kept apart.
const GROUPS: usize = 128;
/// Destinations of each: a crawler with more dead ones hides none of another program.
const HOSTS: usize = 64;
/// Processes that are kept apart in each group.
const PROCESSES: usize = 16;
/// Connects whose times are known one by one, of all together between two inventories: 256 KiB.
const TIMED: usize = 16_384;
/// Parts of a window that are kept apart.
const PARTS: u32 = 6;
/// A destination answers where one connect of so many is answered: packets are lost at random too.
const HARDLY_ANY: u64 = 10;

#[derive(Debug, Default)]
pub(crate) struct GivenUps {
    groups: BTreeMap<GroupKey, OfGroup>,
    answers: BTreeMap<(NetnsId, Endpoint), Answers>,
    /// Connects in all [`OfHost::timed`].
    timed: usize,
}

#[derive(Debug, Default)]
struct OfGroup {
    hosts: BTreeMap<IpAddr, OfHost>,
    processes: Vec<GivingUp>,
}

/// A process that gave connects up.
#[derive(Debug)]
struct GivingUp {
    process: Arc<Process>,
    given_up: u64,
    last: Timestamp,
}

#[derive(Debug, Default)]
struct OfHost {
    /// When each ended and how long it had waited: those before the last inventory, then those since.
    timed: Vec<(Timestamp, Duration)>,
    /// How many of them were there at the last inventory.
    old: usize,
    /// Those since the last inventory that found no place there.
    untimed: u64,
    is_local: bool,
    parts: Window<Part>,
}

/// Connects between two inventories.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    given_up: u64,
    answered: u64,
    /// Most that waited at the same moment.
    at_once: u64,
    waited: Option<(Duration, Duration)>,
}

/// How often a destination has answered.
#[derive(Debug, Default)]
struct Answers {
    /// The counts at the last inventory; `None` before the first.
    counted: Option<u64>,
    /// Refusals and resets since the last inventory: answers too.
    refused: u64,
    /// Between the last two inventories; `None` where that is not known.
    lately: Option<u64>,
}

/// Destinations of one group that do not answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// Those with most connects first; never empty.
    pub(crate) hosts: Vec<UnansweringHost>,
    /// Those with most connects first.
    pub(crate) processes: Vec<Arc<Process>>,
    /// When the last one was given up.
    pub(crate) last: Timestamp,
    /// The time over which they are counted.
    pub(crate) window: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct UnansweringHost {
    pub(crate) address: IpAddr,
    /// Connects that were given up.
    pub(crate) given_up: u64,
    /// Connects that were answered meanwhile, by a connection or a refusal.
    pub(crate) answered: u64,
    /// Most that waited at the same moment.
    pub(crate) at_once: u64,
    /// The shortest and the longest time that one has waited.
    pub(crate) waited: (Duration, Duration),
    /// Its address is this host's.
    pub(crate) is_local: bool,
}

impl Unanswered {
    pub(crate) fn given_up(&self) -> u64 {
        self.hosts.iter().fold(0, |sum, host| sum.saturating_add(host.given_up))
    }

    pub(crate) fn answered(&self) -> u64 {
        self.hosts.iter().fold(0, |sum, host| sum.saturating_add(host.answered))
    }

    /// Most that waited for one host at the same moment.
    pub(crate) fn at_once(&self) -> u64 {
        self.hosts.iter().map(|host| host.at_once).max().unwrap_or_default()
    }
}

impl GivenUps {
    pub(crate) fn handle_event(&mut self, event: &Event, config: &Overridable<config::StuckState>) {
        let Event::ConnectFailed { at, netns, local, peer, reason, waited, process, .. } = event
        else {
            return;
        };
        match (reason, waited) {
            (ConnectFailure::Refused | ConnectFailure::Reset, _) => {
                if let Some(answers) = self.answers.get_mut(&(*netns, *peer)) {
                    answers.refused += 1;
                }
            }
            (ConnectFailure::TimedOut, Some(waited)) if *waited >= SHORT => {}
            (ConnectFailure::GivenUp | ConnectFailure::TimedOut, Some(waited)) => {
                let place = config.place_of(process.as_deref(), peer.port);
                let config = config.at(place);
                if config.enabled && *waited >= config.given_up_after {
                    let key = GroupKey::of_connect(*netns, process.as_deref(), peer.port, place);
                    let is_local = local.address == peer.address || peer.address.is_loopback();
                    self.add(key, (*peer, is_local), (*at, *waited), process.as_ref());
                }
            }
            _ => {}
        }
    }

    fn add(
        &mut self,
        key: GroupKey,
        (peer, is_local): (Endpoint, bool),
        timed: (Timestamp, Duration),
        process: Option<&Arc<Process>>,
    ) {
        let netns = key.netns;
        if !self.groups.contains_key(&key) && self.groups.len() >= GROUPS {
            let evicted = make_place(&mut self.groups, OfGroup::weight);
            let hosts = evicted.iter().flat_map(|group| group.hosts.values());
            self.timed -= hosts.map(|host| host.timed.len()).sum::<usize>();
        }
        let group = self.groups.entry(key).or_default();
        if !group.hosts.contains_key(&peer.address) && group.hosts.len() >= HOSTS {
            let evicted = make_place(&mut group.hosts, OfHost::weight);
            self.timed -= evicted.map_or(0, |host| host.timed.len());
        }
        let host = group.hosts.entry(peer.address).or_default();
        host.is_local = is_local;
        if self.timed < TIMED {
            self.timed += 1;
            host.timed.push(timed);
        } else {
            host.untimed += 1;
        }
        // Those of evicted hosts go with the next inventory.
        if self.answers.len() < GROUPS * HOSTS {
            self.answers.entry((netns, peer)).or_default();
        }
        let Some(process) = process else { return };
        let processes = &mut group.processes;
        if let Some(known) = processes.iter_mut().find(|it| it.process.pid == process.pid) {
            known.given_up += 1;
            known.last = known.last.max(timed.0);
        } else if processes.len() < PROCESSES {
            let process = Arc::clone(process);
            processes.push(GivingUp { process, given_up: 1, last: timed.0 });
        }
    }

    /// Destinations of which it is to be known whether they answer, those with most connects first.
    pub(crate) fn focus(&self, focus: &mut Focus) {
        let mut selected: Vec<_> = Vec::new();
        for (key, group) in &self.groups {
            let Some(port) = key.port else { continue };
            let of_group = group.hosts.iter().map(|(address, host)| {
                (host.total(), (key.netns, Endpoint { address: *address, port }))
            });
            selected.extend(of_group);
        }
        selected.sort_by_key(|(total, destination)| (Reverse(*total), *destination));
        focus.answers.extend(selected.into_iter().take(Focus::ANSWERS).map(|(_, it)| it));
    }

    /// Takes what an inventory says of the destinations, and sums up what came since the last one.
    pub(crate) fn observe(&mut self, round: &Round<'_>, config: &Overridable<config::StuckState>) {
        let Round { inventory, now, .. } = *round;
        let counts: BTreeMap<_, _> =
            inventory.answers.iter().map(|it| ((it.netns, it.peer), it.count)).collect();
        for (destination, answers) in &mut self.answers {
            answers.take(counts.get(destination).copied());
        }
        for (key, group) in &mut self.groups {
            let port = key.port.unwrap_or_default();
            let window = config.at(key.place).window;
            group.processes.retain(|it| now.since(it.last) <= round.window(window, it.last));
            for (address, host) in &mut group.hosts {
                let destination = (key.netns, Endpoint { address: *address, port });
                let lately = self.answers.get(&destination).and_then(|answers| answers.lately);
                host.sum_up(lately, window, round);
            }
            group.hosts.retain(|_, host| host.total() > 0);
        }
        self.groups.retain(|_, group| !group.hosts.is_empty());
        let groups = &self.groups;
        self.answers.retain(|(netns, peer), _| {
            groups.iter().any(|(key, group)| {
                key.netns == *netns
                    && key.port == Some(peer.port)
                    && group.hosts.contains_key(&peer.address)
            })
        });
        let hosts = self.groups.values().flat_map(|group| group.hosts.values());
        self.timed = hosts.map(|host| host.timed.len()).sum();
    }

    /// The groups of a namespace with destinations that do not answer.
    pub(crate) fn unanswered(
        &self,
        netns: NetnsId,
        config: &Overridable<config::StuckState>,
    ) -> Vec<(GroupKey, Unanswered)> {
        let of_netns = self.groups.iter().filter(|(key, _)| key.netns == netns);
        of_netns
            .filter_map(|(key, group)| Some((key.clone(), group.unanswered(key, config)?)))
            .collect()
    }
}

impl OfGroup {
    /// See [`OfHost::weight`].
    fn weight(&self) -> (u64, Timestamp) {
        let weights = self.hosts.values().map(OfHost::weight);
        weights.fold((0, Timestamp::default()), |(sum, last), (total, at)| {
            (sum.saturating_add(total), last.max(at))
        })
    }

    fn unanswered(
        &self,
        key: &GroupKey,
        config: &Overridable<config::StuckState>,
    ) -> Option<Unanswered> {
        let mut processes: Vec<&GivingUp> = self.processes.iter().collect();
        processes.sort_by_key(|it| Reverse(it.given_up));
        let processes: Vec<_> = processes.into_iter().map(|it| Arc::clone(&it.process)).collect();
        let config = config.at(key.place);
        let mut hosts: Vec<_> =
            self.hosts.iter().filter_map(|(address, host)| host.unanswering(*address)).collect();
        hosts.sort_by_key(|host| Reverse(host.given_up));
        let parts = self.hosts.values().flat_map(|host| host.parts.iter());
        let last = parts.filter(|it| it.value.given_up > 0).map(|part| part.ended).max()?;
        let is_any = config.enabled && !hosts.is_empty();
        is_any.then_some(Unanswered { hosts, processes, last, window: config.window })
    }
}

impl OfHost {
    /// How many connects of it are remembered, and when the last of them ended.
    fn weight(&self) -> (u64, Timestamp) {
        let last = self.timed.iter().map(|(at, _)| *at).max().unwrap_or_default();
        (self.total(), last)
    }

    /// Connects of it that are remembered.
    fn total(&self) -> u64 {
        let parts = self.parts.iter().fold(0_u64, |sum, it| sum.saturating_add(it.value.given_up));
        parts.saturating_add(self.timed.len() as u64).saturating_add(self.untimed)
    }

    /// Makes a part of what came since the last inventory, where it is known how many were answered.
    fn sum_up(&mut self, answered: Option<u64>, window: Duration, round: &Round<'_>) {
        let now = round.now;
        let new = &self.timed[self.old..];
        let given_up = (new.len() as u64).saturating_add(self.untimed);
        if let Some(answered) = answered {
            let waited = new.iter().map(|(_, waited)| *waited);
            let waited = waited.clone().min().zip(waited.max());
            // Those before the last inventory may have waited beside the first of these.
            let at_once = if new.is_empty() { 0 } else { most_at_once(&self.timed) };
            let part = Part { given_up, answered, at_once, waited };
            let ended = new.iter().map(|(at, _)| *at).max().unwrap_or(now).min(now);
            if given_up > 0 || answered > 0 {
                self.parts.add(part, (ended, ended), window / PARTS, Part::join);
            }
            // It answers again.
            if answered > 0 && given_up == 0 {
                self.parts = Window::default();
            }
        }
        self.parts.forget(|part| now.since(part.ended) > round.window(window, part.ended));
        self.timed.drain(..self.old);
        self.old = self.timed.len();
        self.untimed = 0;
    }

    fn unanswering(&self, address: IpAddr) -> Option<UnansweringHost> {
        let sum = self.parts.iter().map(|part| part.value).reduce(|mut sum, part| {
            sum.join(part);
            sum
        })?;
        let answers = sum.answered.saturating_mul(HARDLY_ANY) > sum.given_up;
        let host = |waited| UnansweringHost {
            address,
            given_up: sum.given_up,
            answered: sum.answered,
            at_once: sum.at_once,
            waited,
            is_local: self.is_local,
        };
        sum.waited.filter(|_| !answers).map(host)
    }
}

impl Part {
    fn join(&mut self, other: Self) {
        self.given_up = self.given_up.saturating_add(other.given_up);
        self.answered = self.answered.saturating_add(other.answered);
        self.at_once = self.at_once.max(other.at_once);
        self.waited = match (self.waited, other.waited) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }
}

impl Answers {
    /// Takes the counts since they were requested.
    fn take(&mut self, count: Option<u64>) {
        let refused = std::mem::take(&mut self.refused);
        let lately = count.zip(self.counted).map(|(count, before)| count.saturating_sub(before));
        self.lately = lately.map(|lately| lately.saturating_add(refused));
        self.counted = count;
    }
}

/// Removes the least, the oldest of these: a scan has one or two connects for each port or host, and
/// shall not hide a service that is down.
fn make_place<K: Ord + Clone, V>(
    of: &mut BTreeMap<K, V>,
    weight: fn(&V) -> (u64, Timestamp),
) -> Option<V> {
    let least = of.iter().min_by_key(|(_, it)| weight(it)).map(|(key, _)| key.clone());
    of.remove(&least?)
}

/// The most of these that waited at the same moment.
fn most_at_once(timed: &[(Timestamp, Duration)]) -> u64 {
    let mut moves: Vec<(Timestamp, i64)> = Vec::with_capacity(2 * timed.len());
    for (at, waited) in timed {
        moves.extend([(*at - *waited, 1), (*at, -1)]);
    }
    // Of one moment those that end come first.
    moves.sort_unstable();
    let (mut waiting, mut most) = (0_i64, 0_i64);
    for (_, step) in moves {
        waiting += step;
        most = most.max(waiting);
    }
    most.unsigned_abs()
}
