//! `reset-storm`: far more resets, sent or received, than this process and port had before.
//!
//! Signal: the kernel's counts of resets by process, role, service port and what was seen of them,
//! and of the connections that the same process and service closed in order. A reset that did no
//! harm (`harm`) is an end as any other.
//! Trip: `warning` or `critical` resets within `window`, `factor` times the number that a window of
//! the last `history` had (see `rate`), and `share` of the connections that ended. A constant rate
//! is no change, however high. Resets that one side decides without loss are info; so is a burst
//! that is over sooner than half a window, as a restart is. Resets at a port whose accept queue is
//! full belong to `accept-queue-overflow` under tcp_abort_on_overflow. Both sides of a storm on one
//! host are one finding, led by the side that sends (`joined`). A scan is one finding for its
//! source (`sources`).
//! Cold start: what was counted before the first inventory is not known. Nothing is raised until
//! `factor` windows have been watched, or a `history` where that is less: one such window among
//! fewer is not `factor` times their mean. For a container or a scope, whose name is new with each
//! start, that time begins with its first process: what its forerunner of another name had is not
//! known. A service of systemd keeps its name, so that one which was quiet can storm at once after
//! a restart; and so can a port without a listener.
//! Recovery: `window` after the rate was last nearer to what raises it than to the one before; or
//! after a `history`, when the rate of the storm is no change any more.
//! Misses: a storm that was under way when watching began, or when a container started; a middlebox
//! that cuts a server's connections, which looks as clients that leave do, and so is info; a stray
//! segment between two ports whose service has the higher one; rows that the kernel's table had no
//! place for. A burst that is shorter than the inventory's interval, where that is longer than
//! `window`, is thinned out.

mod causes;
mod group;
mod harm;
mod joined;
mod rate;
mod sources;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    group::{Added, Group, GroupKey},
    harm::Harm,
    joined::InStorm,
    rate::{ResetRate, Times},
    sources::Conntrack,
    words::Case,
};
use crate::{
    config::{self, Overridable},
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::Severity,
        observers::reset_counts::ResetCounts,
        over_time::level::Levels,
    },
    facts::{
        Inventory, NetnsId, Process, ResetCount, Role, SeenReset, ServiceCount, TcpState, Timestamp,
    },
};

/// Groups whose rate is remembered, the larger first: a scan of all ports must not push out the
/// services. A group takes 2 KiB at most.
const GROUPS: usize = 1_024;

#[derive(Debug, Default)]
pub(crate) struct ResetStorm {
    levels: Levels,
    counts: ResetCounts,
    groups: BTreeMap<GroupKey, Group>,
    conntrack: Conntrack,
    /// The id of the finding that each group had in the last round.
    ids: BTreeMap<GroupKey, String>,
    /// Since when resets are watched.
    watched: Option<Timestamp>,
    /// When they were judged last.
    judged: Timestamp,
}

impl Detector for ResetStorm {
    /// Resets that found no place among the counts that are followed.
    fn left_out(&self) -> u64 {
        self.counts.left_out()
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let Round { inventory, now, .. } = *round;
        let config = &round.detect.reset_storm;
        self.levels.begin();
        let before = std::mem::replace(&mut self.judged, now);
        let Some(rows) = &inventory.resets else {
            // Without the hooks there is nothing to go on.
            self.forget();
            return;
        };
        let watched = *self.watched.get_or_insert(now);
        let look = Look { watched, before, now };
        let longest = config.all().map(|config| config.window).max().unwrap_or_default();
        self.conntrack.observe(inventory, (before, now), longest);
        self.observe(rows, round, &look);
        let names: BTreeMap<NetnsId, &Arc<str>> =
            inventory.namespaces.iter().map(|it| (it.id, &it.name)).collect();
        let mut groups = std::mem::take(&mut self.groups);
        let mut storms = Vec::new();
        for (key, group) in &mut groups {
            let netns = names.get(&key.netns).map(|name| Arc::clone(name)).unwrap_or_default();
            storms.extend(self.judge_group(key, group, netns, config, &look));
        }
        let mut storms = joined::join(storms, &self.ids);
        storms.retain(|storm| {
            storm.verdict.severity > Severity::Info
                || !is_the_other_end(storm, &groups, config, &look)
        });
        self.groups = groups;
        self.ids = joined::ids(&storms);
        for storm in storms {
            verdicts.push(storm.verdict, storm.resets);
        }
    }
}

impl ResetStorm {
    fn forget(&mut self) {
        self.counts = ResetCounts::default();
        self.groups.clear();
        self.ids.clear();
        self.watched = None;
    }

    /// Adds what is new to its group, and forgets the groups that have been quiet for a history.
    fn observe(&mut self, rows: &[ResetCount], round: &Round<'_>, look: &Look) {
        let config = &round.detect.reset_storm;
        let counted = self.counts.added(rows);
        let scanners = sources::scanners(&counted);
        let overflows = overflowing(round);
        let mut added: BTreeMap<GroupKey, Vec<Added<'_>>> = BTreeMap::new();
        let mut harmless: BTreeMap<GroupKey, u64> = BTreeMap::new();
        for (row, count) in counted {
            let Some((what, mut harm)) = harm::judge(&row.what, row.role) else { continue };
            let mut key = GroupKey::of(row, what);
            if let Some(peer) = sources::source_of(row)
                && scanners.contains(&(row.netns, peer))
            {
                harm = harm.min(Harm::Mild);
                key = GroupKey { role: Role::Server, port: 0, scanner: Some(peer), ..key };
            }
            let is_explained = row.role == Role::Server
                && overflows.contains(&(row.netns, row.port))
                && harm::is_of_full_queue(&row.what);
            if harm == Harm::None || is_explained {
                if ends_a_connection(what) {
                    *harmless.entry(key).or_default() += count;
                }
                continue;
            }
            added.entry(key).or_default().push(Added { row, what, harm, count });
        }
        for (key, rows) in &added {
            let begun = rows.iter().map(|added| begun(added.row.process.as_deref(), look));
            let known = begun.fold(look.now, Timestamp::min);
            let group = self.groups.entry(key.clone()).or_insert_with(|| Group::new(known));
            group.known = group.known.min(known);
        }
        let closed = Closed::of(round.inventory);
        for (key, group) in &mut self.groups {
            let rows = added.get(key).map_or(&[][..], Vec::as_slice);
            let process = rows.first().and_then(|added| added.row.process.as_ref());
            let process = process.or(group.process.as_ref()).cloned();
            let config = config.of(process.as_deref(), key.port);
            let times = look.times(config, group.known);
            group.observe(rows, &times);
            let others = harmless.get(key).copied().unwrap_or(0);
            group.observe_ended(closed.by(key).map(|closed| closed + others), &times);
        }
        self.groups.retain(|_, group| group.any.weight() > 0.0);
        if self.groups.len() > GROUPS {
            let mut groups: Vec<_> = std::mem::take(&mut self.groups).into_iter().collect();
            groups.sort_by(|(_, a), (_, b)| b.any.weight().total_cmp(&a.any.weight()));
            groups.truncate(GROUPS);
            self.groups = groups.into_iter().collect();
        }
    }

    fn judge_group(
        &mut self,
        key: &GroupKey,
        group: &mut Group,
        netns: Arc<str>,
        config: &Overridable<config::ResetStorm>,
        look: &Look,
    ) -> Option<InStorm> {
        let config = config.of(group.process.as_deref(), key.port);
        let times = &look.times(config, group.known);
        let ended = group.ended_in_window(times);
        let cold = config.window.saturating_mul(config.factor).min(config.history);
        let may_begin = times.now.since(times.known) >= cold;
        // Of all that ended `share` are resets, the others are `ended`.
        let by_share = ended as f64 * config.share / (1.0 - config.share).max(f64::EPSILON);
        let least = |rate: &ResetRate| (rate.baseline(times) * config.factor as f64).max(by_share);
        let full = least(&group.harm);
        let warning = full.max(config.warning as f64);
        let any = least(&group.any).max(config.warning as f64);
        let harm = group.harm.judge(warning, may_begin, times);
        let mild = group.any.judge(any, may_begin, times);
        let is_harm = harm.is_some();
        let storm = harm.or(mild)?;
        if storm.hot == look.now {
            group.ended_when_hot = ended;
        }
        let ended = group.ended_when_hot;
        let critical = full.max(config.critical as f64).max(ended as f64);
        if !config.enabled {
            return None;
        }
        let case = Case {
            storm,
            netns,
            role: key.role,
            port: key.port,
            scanner: key.scanner,
            process: group.process.as_deref(),
            last: group.last,
            ended: group.knows_ended.then_some(ended),
            conntrack: self.conntrack.invalid(key.netns, storm.hot, config.window),
            is_harm,
            config,
            now: times.now,
        };
        let id = key.id();
        let severity = if is_harm && storm.lasts {
            let total = case.total() as f64;
            let by_number = self.levels.judge(&id, total, warning, critical);
            let severity = by_number.unwrap_or(Severity::Warning);
            self.levels.hold(&id, severity);
            severity
        } else {
            Severity::Info
        };
        let resets = case.total();
        Some(InStorm {
            key: key.clone(),
            last_peer: group.last.peer,
            resets,
            victim: case.victim(),
            verdict: case.verdict(id, severity),
            others: Vec::new(),
        })
    }
}

/// Whether the resets that were received are those that groups of this host have sent. These lead
/// the storm when they come to their own number.
fn is_the_other_end(
    storm: &InStorm,
    groups: &BTreeMap<GroupKey, Group>,
    config: &Overridable<config::ResetStorm>,
    look: &Look,
) -> bool {
    let is_sender = |key: &GroupKey| {
        key.sent
            && key.scanner.is_none()
            && key.port == storm.key.port
            && key.role != storm.key.role
    };
    let is_other_end = |key: &GroupKey, group: &Group| {
        let is_one_namespace = key.netns == storm.key.netns;
        joined::may_be_two_ends(group.last.peer, storm.last_peer, is_one_namespace)
    };
    let senders = groups.iter().filter(|(key, group)| is_sender(key) && is_other_end(key, group));
    let sent = senders.map(|(key, group)| {
        let config = config.of(group.process.as_deref(), key.port);
        group.any.now(&look.times(config, group.known))
    });
    !storm.key.sent && joined::is_as_many(storm.resets, sent.fold(0, u64::saturating_add))
}

/// Connections closed in order since the inventory before, by service and process name.
struct Closed<'a>(Option<BTreeMap<Place, Vec<&'a ServiceCount>>>);

/// A port in a namespace, on one side of its connections.
type Place = (NetnsId, Role, u16);

impl<'a> Closed<'a> {
    fn of(inventory: &'a Inventory) -> Self {
        Self(inventory.services.as_ref().map(|counts| {
            let mut services: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for count in counts {
                let service = (count.netns, count.role, count.port);
                services.entry(service).or_default().push(count);
            }
            services
        }))
    }

    /// Those of the group's process, or of all where it is not known; `None` where nothing counts
    /// them.
    fn by(&self, key: &GroupKey) -> Option<u64> {
        let services = self.0.as_ref()?;
        let counts = services.get(&(key.netns, key.role, key.port));
        let of_group = counts
            .into_iter()
            .flatten()
            .filter(|count| key.process.is_empty() || count.process.name == key.process);
        Some(of_group.fold(0, |sum, count| sum.saturating_add(count.closed)))
    }
}

/// The ports at which a full accept queue answers with resets now.
fn overflowing(round: &Round<'_>) -> BTreeSet<(NetnsId, u16)> {
    let namespaces = round.inventory.namespaces.iter();
    let resetting = namespaces.filter(|namespace| namespace.abort_on_overflow == Some(true));
    resetting
        .flat_map(|namespace| namespace.listeners.iter().map(|it| (namespace.id, it.local.port)))
        .filter(|&(netns, port)| round.half_open.was_full(netns, port))
        .collect()
}

/// Whether a connection ended by it that was not closed before, and so is not among the closed.
fn ends_a_connection(what: SeenReset) -> bool {
    use crate::facts::ResetCause as Cause;
    match what {
        SeenReset::Sent(cause) => matches!(cause, Cause::UnreadData | Cause::LingerZero),
        SeenReset::Received(state) => matches!(state, TcpState::Established | TcpState::CloseWait),
    }
}

/// When a round is judged.
#[derive(Clone, Copy, Debug)]
struct Look {
    watched: Timestamp,
    before: Timestamp,
    now: Timestamp,
}

impl Look {
    fn times(self, config: &config::ResetStorm, known: Timestamp) -> Times {
        let config::ResetStorm { window, history, .. } = *config;
        Times { window, history, known, before: self.before, now: self.now }
    }
}

/// Since when it is known what resets there are under the name of `process`.
fn begun(process: Option<&Process>, look: &Look) -> Timestamp {
    // A service's name, and that of a process without a unit, was the same before it started.
    let is_its_own = |process: &&Process| match &process.unit {
        Some(unit) => unit.ends_with(".scope"),
        None => process.container.is_some(),
    };
    match process.filter(is_its_own).map(|process| process.started) {
        None => look.watched,
        // It could not be read when it started: then since its first reset.
        Some(started) if started == Timestamp::default() => look.now,
        Some(started) => started.clamp(look.watched, look.now),
    }
}
