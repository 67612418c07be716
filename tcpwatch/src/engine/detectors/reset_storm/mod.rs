//! `reset-storm`: far more resets, sent or received, than this process and port usually have.
//!
//! Signal: the kernel's counts of resets by process, role, service port and cause.
//! Trip: `warning` or `critical` resets within `window`, and `factor` times the number that a window
//! of the last `history` had; see `rate`. A constant rate, of health checks that end with a
//! reset, is the usual one, however high.
//! Cold start: what was counted before the first inventory is not known. Nothing is raised until
//! `factor` windows have been watched, or a `history` where that is less: one such window among
//! fewer is not `factor` times their mean. For a container or a scope, whose name is new with each
//! start, that time begins with its first process: what its forerunner of another name usually had
//! is not known of it. A service of systemd keeps its name, so that one which was quiet can storm
//! at once after a restart; and so can what nobody listens to.
//! Recovery: `window` after the rate was last nearer to what raises it than to the usual; or after a
//! `history`, when the rate of the storm has become the usual one. One that begins within ten
//! windows after the last is of the same loop, and is held over pauses as long: what comes back
//! every few minutes is raised twice, then it is usual.
//! Misses: a storm that was under way when watching began, or when a container started; a service of
//! systemd that is new and always resets is a storm once; resets that spread over many ports, as
//! those do that answer late segments to a client's ports of old connections; what the kernel's
//! table had no room for. A burst that is shorter than the inventory's interval, where that is
//! longer than `window`, is thinned out.

mod causes;
mod counts;
mod rate;
mod words;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use self::{
    counts::ResetCounts,
    rate::{ResetRate, Times},
    words::Case,
};
use crate::{
    config::{self, Overridable},
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{Severity, Verdict},
        over_time::level::Levels,
    },
    facts::{NetnsId, Process, ResetCount, Role, SeenReset, Timestamp},
};

/// Groups whose rate is remembered, the larger first: a scan of all ports must not push out the
/// services. A group takes 1 KiB at most.
const GROUPS: usize = 1_024;

#[derive(Debug, Default)]
pub(crate) struct ResetStorm {
    levels: Levels,
    counts: ResetCounts,
    groups: BTreeMap<GroupKey, Group>,
    /// Since when resets are watched.
    watched: Option<Timestamp>,
    /// When they were judged last.
    judged: Timestamp,
}

/// Whose resets are judged together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey {
    netns: NetnsId,
    process: String,
    unit: String,
    role: Role,
    port: u16,
    sent: bool,
}

#[derive(Debug)]
struct Group {
    rate: ResetRate,
    /// Since when its resets are known, none included.
    known: Timestamp,
    /// Of several, the one that had most in the last inventory that brought any.
    process: Option<Arc<Process>>,
    /// The peer of the last of these.
    last_peer: Option<IpAddr>,
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
        self.observe(rows, config, &look);
        let names: HashMap<NetnsId, &Arc<str>> =
            inventory.namespaces.iter().map(|it| (it.id, &it.name)).collect();
        let mut groups = std::mem::take(&mut self.groups);
        for (key, group) in &mut groups {
            let netns = names.get(&key.netns).map(|name| Arc::clone(name)).unwrap_or_default();
            if let Some((verdict, resets)) = self.judge_group(key, group, netns, config, &look) {
                verdicts.push(verdict, resets);
            }
        }
        self.groups = groups;
    }
}

impl ResetStorm {
    fn forget(&mut self) {
        self.counts = ResetCounts::default();
        self.groups.clear();
        self.watched = None;
    }

    /// Adds what is new to its group, and forgets the groups that have been quiet for a history.
    fn observe(
        &mut self,
        rows: &[ResetCount],
        config: &Overridable<config::ResetStorm>,
        look: &Look,
    ) {
        let mut added: BTreeMap<GroupKey, Vec<(&ResetCount, u64)>> = BTreeMap::new();
        for (row, count) in self.counts.added(rows) {
            added.entry(GroupKey::of(row)).or_default().push((row, count));
        }
        for (key, rows) in &added {
            let begun = rows.iter().map(|(row, _)| begun(row.process.as_deref(), look));
            let known = begun.fold(look.now, Timestamp::min);
            let group = self.groups.entry(key.clone()).or_insert_with(|| Group::new(known));
            group.known = group.known.min(known);
        }
        for (key, group) in &mut self.groups {
            let rows = added.get(key).map_or(&[][..], Vec::as_slice);
            let process = rows.first().and_then(|(row, _)| row.process.as_ref());
            let process = process.or(group.process.as_ref()).cloned();
            let config = config.of(process.as_deref(), key.port);
            let times = look.times(config, group.known);
            group.observe(rows, &times);
        }
        self.groups.retain(|_, group| group.rate.weight() > 0.0);
        if self.groups.len() > GROUPS {
            let mut groups: Vec<_> = std::mem::take(&mut self.groups).into_iter().collect();
            groups.sort_by(|(_, a), (_, b)| b.rate.weight().total_cmp(&a.rate.weight()));
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
    ) -> Option<(Verdict, u64)> {
        let config = config.of(group.process.as_deref(), key.port);
        let times = &look.times(config, group.known);
        let usual = group.rate.usual(times);
        let least = usual * config.factor as f64;
        let (warning, critical) =
            (least.max(config.warning as f64), least.max(config.critical as f64));
        let cold = config.window.saturating_mul(config.factor).min(config.history);
        let may_begin = times.now.since(times.known) >= cold;
        let storm = group.rate.judge(warning, may_begin, times)?;
        if !config.enabled {
            return None;
        }
        let case = Case {
            storm,
            netns,
            role: key.role,
            port: key.port,
            process: group.process.as_deref(),
            last_peer: group.last_peer,
            config,
            now: times.now,
        };
        let id = key.id();
        let by_number = self.levels.judge(&id, case.total() as f64, warning, critical);
        let severity = by_number.unwrap_or(Severity::Warning);
        self.levels.hold(&id, severity);
        Some((case.verdict(id, severity), case.total()))
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

impl GroupKey {
    fn of(row: &ResetCount) -> Self {
        let process = row.process.as_deref();
        Self {
            netns: row.netns,
            process: process.map(|process| process.name.clone()).unwrap_or_default(),
            unit: process.map(|process| process.unit_label().to_owned()).unwrap_or_default(),
            role: row.role,
            port: row.port,
            sent: matches!(row.what, SeenReset::Sent(_)),
        }
    }

    fn id(&self) -> String {
        let Self { netns, process, unit, role, port, sent } = self;
        let direction = if *sent { "sent" } else { "received" };
        format!("reset-storm/{netns}/{process}/{unit}/{}/{port}/{direction}", role.label())
    }
}

impl Group {
    fn new(known: Timestamp) -> Self {
        Self { rate: ResetRate::default(), known, process: None, last_peer: None }
    }

    fn observe(&mut self, rows: &[(&ResetCount, u64)], times: &Times) {
        let mut added = BTreeMap::<SeenReset, u64>::new();
        for (row, count) in rows {
            let sum = added.entry(row.what).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.rate.observe(&added, times);
        if let Some((most, _)) = rows.iter().max_by_key(|(_, count)| *count) {
            self.process.clone_from(&most.process);
            self.last_peer = most.last_peer.or(self.last_peer);
        }
    }
}
