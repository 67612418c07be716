//! `stuck-state`: sockets that wait for their peer, which does not answer.
//!
//! Signal: sockets in FIN_WAIT2, LAST_ACK or CLOSING older than `min_age`, and in SYN_SENT older
//! than `unanswered`, grouped by namespace, state, owner (see `owner`), role and service port;
//! connects that a program gave up after `given_up_after`, with the answers of their destination
//! (see `given_up`). A socket in FIN_WAIT2 that no process holds ends by `tcp_fin_timeout`, one
//! whose peer still sends is half-closed on purpose (see `half_closed`), and one that is connected
//! to itself is of another kind: none of them counts.
//! Trip: info at `warning` of a group, and `warning` or `critical` of them towards one host; of
//! connects that were given up, so many that waited at the same moment. A program that connects or
//! serves many hosts (a mail server, a crawler, a scraper, a proxy) always has some that do not
//! answer, and clients that vanish one by one are the ordinary weather of the internet. FIN_WAIT2
//! is info until ten times `min_age`, because a client may shut down its side and wait for its
//! answer; a process that holds a quarter of its descriptors there is a warning at once, and
//! critical with nine tenths of them open. LAST_ACK and CLOSING end by a timer of the kernel: never
//! critical.
//! Cold start: ages are lower bounds, but for SYN_SENT; what was stuck before the agent began is
//! seen as soon as its age is proven. Connects that are given up count from the second inventory
//! after the first of them: only then is it known who answers.
//! Recovery: the second inventory below 0.9 of the threshold. One may have met the moment at which
//! a program has given up all its connects and has begun anew, so that none of them is old. In
//! SYN_SENT, `window` after the last that was not below: a job that connects each minute pauses
//! longer. Connects that were given up stand for `window`, or until the destination answers.
//! Misses: connects that are given up within `given_up_after`; a destination of which one connect
//! in ten is answered; a service of many addresses that is down as a whole is info; what is beyond
//! the sockets that the inventory describes.

mod given_up;
mod given_up_words;
mod half_closed;
mod owner;
mod words;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    given_up::{GivenUps, Unanswered},
    given_up_words::GivenUpGroup,
    half_closed::{HalfClosed, patience},
    owner::GroupKey,
    words::{Group, by_host},
};
use crate::{
    config::{self, Detect, Overridable},
    engine::{
        advice::text,
        detector::{Detector, Round, Verdicts},
        finding::{FINDINGS_PER_KIND, FindingKind, Severity, Verdict},
        groups::{
            held::{Held as _, Holders, holders},
            peers::Peers,
        },
        over_time::level::{Levels, RELEASE},
    },
    facts::{
        DescriptorUse, Event, Focus, Inventory, Namespace, Process, TcpState, Timestamp,
        WaitingSocket,
    },
};

/// A process that holds this part of its limit of descriptors in FIN_WAIT2 is a warning. The nearest
/// healthy program is a proxy of 1,000 connections with a limit of 1,024, of which some hundred
/// clients have not closed yet.
const DESCRIPTORS_WARNING: f64 = 0.25;
/// It is critical where this part of the limit is open altogether: accept() and open() are about to
/// fail. No healthy program runs so near its limit for a minute.
const DESCRIPTORS_CRITICAL: f64 = 0.9;

#[derive(Debug, Default)]
pub(crate) struct StuckState {
    levels: Levels,
    shown: Vec<Shown>,
    half_closed: HalfClosed,
    given_ups: GivenUps,
    /// Findings of the last round that were about connects that were given up.
    were_given_up: BTreeSet<String>,
}

/// Sockets that an inventory showed, and their owner.
#[derive(Debug)]
struct Shown {
    process: Option<Arc<Process>>,
    state: TcpState,
    /// Raised by what was given up, which remembers a window by itself.
    is_given_up: bool,
    verdict: Verdict,
    /// How many sockets it was about.
    sockets: u64,
    /// When it was there last.
    met: Timestamp,
    /// The inventories since that have not shown it.
    missed: u32,
}

/// Sockets that are judged together.
#[derive(Debug, Default)]
struct Found<'a> {
    sockets: Vec<&'a WaitingSocket>,
    /// Sockets in FIN_WAIT2 of the same group whose peer works.
    half_closed: u64,
    unanswered: Option<Unanswered>,
}

type Groups<'a> = BTreeMap<(TcpState, GroupKey), Found<'a>>;

impl Detector for StuckState {
    fn handle_event(&mut self, event: &Event, detect: &Detect) {
        self.given_ups.handle_event(event, &detect.stuck_state);
    }

    fn focus(&self, _detect: &Detect, focus: &mut Focus) {
        self.given_ups.focus(focus);
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let Round { inventory, now, .. } = *round;
        let config = &round.detect.stuck_state;
        self.levels.begin();
        self.half_closed.observe(inventory, now);
        self.given_ups.observe(round, config);
        let before = std::mem::take(&mut self.shown);
        let given_up = before.iter().filter(|it| it.is_given_up);
        self.were_given_up = given_up.map(|it| it.verdict.id.clone()).collect();
        let peers = Peers::of(inventory);
        for namespace in &inventory.namespaces {
            let groups = self.groups(namespace, config, now);
            let held = InFinWait2::of(&groups);
            for ((state, key), found) in groups {
                let id = id_of(state, &key);
                let around = (namespace, &peers, &held);
                let shown = self.judge_group(id, state, (&key, found), around, round);
                self.shown.extend(shown);
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
        id: String,
        state: TcpState,
        (key, found): (&GroupKey, Found<'_>),
        (namespace, peers, held): (&Namespace, &Peers<'_>, &InFinWait2),
        round: &Round<'_>,
    ) -> Option<Shown> {
        let Found { sockets, half_closed, unanswered } = found;
        let now = round.now;
        let holders = holders(&sockets);
        // All of a group have the same thresholds.
        let process = match (&unanswered, holders.first()) {
            (Some(unanswered), None) => unanswered.processes.first().cloned(),
            (_, Some((_, held))) => {
                held.first().and_then(|it| Some(Arc::clone(&it.owner.as_ref()?.process)))
            }
            (None, None) => None,
        };
        let config = round.detect.stuck_state.at(key.place);
        let given_up = unanswered.as_ref().map_or(0, Unanswered::given_up);
        let count = given_up.max(sockets.len() as u64);
        let descriptors = match state {
            TcpState::FinWait2 => held.pressed(&holders, round.inventory),
            _ => None,
        };
        let waits_long = |socket: &&&WaitingSocket| {
            let worked = self.half_closed.worked(namespace.id, socket);
            let quiet = now.since(worked.unwrap_or(socket.since).max(socket.since));
            state != TcpState::FinWait2 || quiet >= patience(config.min_age)
        };
        let long: Vec<_> = sockets.iter().filter(waits_long).copied().collect();
        let at_one_host = by_host(&long).first().map_or(0, |(_, sockets)| *sockets as u64);
        let at_once = unanswered.as_ref().map_or(0, Unanswered::at_once);
        let critical = match state {
            TcpState::LastAck | TcpState::Closing => f64::INFINITY,
            _ => config.critical as f64,
        };
        let warning = config.warning as f64;
        let by_host =
            self.levels.judge(&host_id(&id), at_one_host.max(at_once) as f64, warning, critical);
        let by_count = self.levels.judge(&id, count as f64, warning, f64::INFINITY);
        let by_descriptors = self.judge_descriptors(&id, descriptors.as_ref());
        by_count?;
        let severity = by_host.max(by_descriptors).unwrap_or(Severity::Info);
        // The sentence is about what there is more of.
        let least = if self.were_given_up.contains(&id) { warning * RELEASE } else { warning };
        let is_given_up = given_up as f64 >= least && at_once >= at_one_host;
        let verdict = match unanswered {
            Some(unanswered) if is_given_up || sockets.is_empty() => {
                GivenUpGroup { namespace, key, unanswered: &unanswered, sockets: &sockets, now }
                    .verdict(id, severity)
            }
            _ => Group {
                namespace,
                state,
                key,
                sockets: &sockets,
                holders: &holders,
                peers,
                half_closed,
                descriptors: by_descriptors.and(descriptors),
                now,
            }
            .verdict(id, severity),
        };
        Some(Shown { process, state, is_given_up, verdict, sockets: count, met: now, missed: 0 })
    }

    /// By the descriptors of the process that has the largest part of its own there.
    fn judge_descriptors(&mut self, id: &str, pressed: Option<&Pressed>) -> Option<Severity> {
        let pressed = pressed?;
        let mut is_reached = |what: &str, value: f64, threshold: f64| {
            let id = format!("{id}/{what}");
            self.levels.judge(&id, value, threshold, f64::INFINITY).is_some()
        };
        let is_warning = is_reached("descriptors", pressed.share(), DESCRIPTORS_WARNING);
        let is_critical = is_reached("open", pressed.open_share(), DESCRIPTORS_CRITICAL);
        match (is_warning, is_critical) {
            (false, _) => None,
            (true, false) => Some(Severity::Warning),
            (true, true) => Some(Severity::Critical),
        }
    }

    /// Sockets that have waited long enough, and connects that were given up. A socket whose owner is
    /// still to be looked for waits for that, so that no finding names an unknown process that has a
    /// name a second later.
    fn groups<'a>(
        &self,
        namespace: &'a Namespace,
        config: &Overridable<config::StuckState>,
        now: Timestamp,
    ) -> Groups<'a> {
        let mut groups: Groups<'a> = BTreeMap::new();
        for socket in &namespace.waiting {
            let place = config.place_of(socket.process(), socket.service_port());
            let config = config.at(place);
            let worked = self.half_closed.worked(namespace.id, socket);
            let (since, least_age) = match (socket.state, worked) {
                (TcpState::SynSent, _) => (socket.since, config.unanswered),
                (_, Some(worked)) => (worked.max(socket.since), patience(config.min_age)),
                (_, None) => (socket.since, config.min_age),
            };
            let is_timed = socket.state == TcpState::FinWait2 && socket.orphan;
            let is_self = socket.local == socket.peer;
            if !config.enabled || socket.owner_pending || is_timed || is_self {
                continue;
            }
            let key = (socket.state, GroupKey::of(namespace.id, socket, place));
            if now.since(since) >= least_age {
                groups.entry(key).or_default().sockets.push(socket);
            } else if worked.is_some() {
                groups.entry(key).or_default().half_closed += 1;
            }
        }
        join_services(&mut groups, &self.levels, config);
        for (key, unanswered) in self.given_ups.unanswered(namespace.id, config) {
            groups.entry((TcpState::SynSent, key)).or_default().unanswered = Some(unanswered);
        }
        groups
    }

    /// Adds what has been there lately and is not now.
    fn keep(
        &mut self,
        before: Vec<Shown>,
        config: &Overridable<config::StuckState>,
        now: Timestamp,
    ) {
        let ids: BTreeSet<String> = self.shown.iter().map(|it| it.verdict.id.clone()).collect();
        for mut shown in before {
            let id = &shown.verdict.id;
            let port = shown.verdict.subject.port.unwrap_or_default();
            let config = config.of(shown.process.as_deref(), port);
            shown.missed += 1;
            let is_recent = match shown.state {
                TcpState::SynSent if shown.is_given_up => false,
                TcpState::SynSent => now.since(shown.met) <= config.window,
                _ => shown.missed == 1,
            };
            let is_selected = config.enabled && is_recent && !ids.contains(id);
            if is_selected && self.shown.len() < FINDINGS_PER_KIND {
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

/// Judges the services of an owner in FIN_WAIT2 together where none of them has enough by itself: a
/// process that half-closes towards fifty services of fifty hosts holds as many descriptors.
fn join_services(
    groups: &mut Groups<'_>,
    levels: &Levels,
    config: &Overridable<config::StuckState>,
) {
    let mut of_owner: BTreeMap<String, Vec<(TcpState, GroupKey)>> = BTreeMap::new();
    for ((state, key), found) in groups.iter() {
        // A finding that stands, of one service or of all, stays the one that it is.
        let kept = match levels.is_held(&id_of(*state, key)) {
            true => RELEASE,
            false if levels.is_held(&id_of(*state, &key.of_all_services())) => 1.0 / RELEASE,
            false => 1.0,
        };
        let warning = config.at(key.place).warning as f64 * kept;
        let is_few = (found.sockets.len() as f64) < warning;
        if *state == TcpState::FinWait2 && key.is_known() && is_few {
            let owner = key.of_all_services().to_string();
            of_owner.entry(owner).or_default().push((*state, key.clone()));
        }
    }
    for keys in of_owner.into_values().filter(|keys| keys.len() > 1) {
        let mut joined = Found::default();
        for key in &keys {
            let Some(found) = groups.remove(key) else { continue };
            joined.sockets.extend(found.sockets);
            joined.half_closed += found.half_closed;
        }
        if let Some((state, key)) = keys.first() {
            groups.insert((*state, key.of_all_services()), joined);
        }
    }
}

/// A process whose descriptors the sockets of a group take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pressed {
    pub(crate) pid: u32,
    pub(crate) sockets: u64,
    pub(crate) descriptors: DescriptorUse,
}

impl Pressed {
    fn share(&self) -> f64 {
        self.sockets as f64 / self.descriptors.limit.max(1) as f64
    }

    fn open_share(&self) -> f64 {
        self.descriptors.open as f64 / self.descriptors.limit.max(1) as f64
    }
}

/// Sockets in FIN_WAIT2 by process, in all groups of a namespace, and in its largest group.
struct InFinWait2(BTreeMap<u32, (u64, usize)>);

impl InFinWait2 {
    fn of(groups: &Groups<'_>) -> Self {
        let mut held = BTreeMap::<u32, (u64, usize)>::new();
        for ((state, _), found) in groups {
            if *state != TcpState::FinWait2 {
                continue;
            }
            for (pid, sockets) in holders(&found.sockets) {
                let (all, largest) = held.entry(pid).or_default();
                *all += sockets.len() as u64;
                *largest = sockets.len().max(*largest);
            }
        }
        Self(held)
    }

    /// The process of a group that holds the largest part of its descriptors in FIN_WAIT2. All its
    /// groups count, and the largest is the one that it presses.
    fn pressed(
        &self,
        holders: &Holders<'_, WaitingSocket>,
        inventory: &Inventory,
    ) -> Option<Pressed> {
        let of_process = |(pid, sockets): &(u32, Vec<&WaitingSocket>)| {
            let descriptors = *inventory.descriptors.get(pid)?;
            let (all, largest) = *self.0.get(pid)?;
            (sockets.len() == largest).then_some(Pressed { pid: *pid, sockets: all, descriptors })
        };
        holders.iter().filter_map(of_process).max_by(|a, b| a.share().total_cmp(&b.share()))
    }
}

fn id_of(state: TcpState, key: &GroupKey) -> String {
    format!("{}/{}/{key}", FindingKind::StuckState.name(), state.label())
}

/// The condition of the one host with the most sockets. An id ends in a port, in "any" or in an
/// override, so this is no other group's.
fn host_id(id: &str) -> String {
    format!("{id}/host")
}
