//! `close-wait-pileup`: one owner keeps sockets in CLOSE_WAIT.
//!
//! Signal: sockets in CLOSE_WAIT older than `min_age`, grouped by namespace, process, unit, role
//! and service port. The peer has closed; only the application can end the state, no timer does
//! (RFC 9293 section 3.3.2).
//! Trip: `warning` or `critical` of them; `growing` of them that have become more in every quarter
//! of `window`; critical too if they grow and the process is near its limit of open files.
//! Cold start: the ages of sockets older than the agent are lower bounds, so a leak that was there
//! before is seen as soon as its age is proven. There is no verdict before half a window.
//! Recovery: below 0.9 of the threshold; for growth alone, below 0.9 of what there were at most: a
//! quiet hour is no cure, what has leaked is still there.
//! Misses: a leak spread over more processes than there are sockets; one whose sockets never reach
//! `min_age` because a keep-alive ends them. A leak of less than two sockets in a window is called
//! stuck.

mod stacks;
mod turnover;
mod words;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use self::{
    turnover::{Leaving, Present, Turnover},
    words::{Course, Descriptors, Group},
};
use crate::{
    config::{self, Detect, Overridable},
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{FindingKind, Severity, Verdict},
        groups::held::{Held, Holders, ServiceKey, holders},
        over_time::{
            level::{Levels, RELEASE},
            trend::Trend,
        },
    },
    facts::{CloseWaitSocket, DescriptorUse, Focus, Inventory, Namespace, Timestamp},
};

/// Groups that are followed; more owners than that with old sockets is no leak of one.
const GROUPS: usize = 1_024;
/// At most so long before the descriptors run out it is critical. A person who is called needs that
/// long to log in and restart one process; and less would be over before an alert has fired.
const NEAR_LIMIT: Duration = Duration::from_secs(600);
/// At least this part of the descriptors is critical while their number grows, however slowly: what
/// is left is what an ordinary peak of traffic takes.
const FULL: f64 = 0.9;
/// Longest prediction. Nobody's growth is the same for a month.
const FORESIGHT: f64 = 30.0 * 24.0 * 60.0;

#[derive(Debug, Default)]
pub(crate) struct CloseWaitPileup {
    levels: Levels,
    followed: HashMap<String, Followed>,
    growing: Vec<u32>,
}

/// What is known of a group from its past.
#[derive(Debug, Default)]
struct Followed {
    trend: Trend,
    turnover: Turnover,
    /// The most there were since growth raised a finding.
    grown_to: Option<u64>,
    /// It was critical for want of descriptors.
    was_near_limit: bool,
}

impl Detector for CloseWaitPileup {
    /// Asks for the user stacks of the holders of groups of `growing` or more that have grown within
    /// the last quarter of the window.
    fn focus(&self, _detect: &Detect, focus: &mut Focus) {
        focus.stacks_of.extend(&self.growing);
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let Round { inventory, now, .. } = *round;
        let pileup = &round.detect.close_wait_pileup;
        self.levels.begin();
        let mut before = std::mem::take(&mut self.followed);
        let mut growing = Vec::new();
        for namespace in &inventory.namespaces {
            let present = Present::new(&namespace.close_wait);
            for (key, sockets) in groups(namespace, pileup, now) {
                let id = format!("{}/{key}", FindingKind::CloseWaitPileup.name());
                let mut followed = before.remove(&id).unwrap_or_default();
                let config = config_of(&sockets, pileup);
                let look = Look { inventory, namespace, present: &present, config, now };
                let holders = holders(&sockets);
                let verdict = self.judge_group(&id, &sockets, &holders, &look, &mut followed);
                if let Some(verdict) = verdict {
                    verdicts.push(verdict, sockets.len() as u64);
                }
                let grows = sockets.len() as u64 >= config.growing
                    && followed.trend.grew_within(config.window / 4);
                if config.stacks && grows {
                    growing.extend(holders.iter().map(|(pid, held)| (held.len(), *pid)));
                }
                if self.followed.len() < GROUPS {
                    self.followed.insert(id, followed);
                }
            }
        }
        self.growing = largest(growing);
    }
}

impl CloseWaitPileup {
    fn judge_group(
        &mut self,
        id: &str,
        sockets: &[&CloseWaitSocket],
        holders: &Holders<'_, CloseWaitSocket>,
        look: &Look<'_>,
        followed: &mut Followed,
    ) -> Option<Verdict> {
        let config = look.config;
        let count = sockets.len() as u64;
        let in_all = count + look.beyond(sockets);
        followed.trend.observe(look.now, in_all, config.window);
        let leaving = followed.leaving(sockets, look, config.window);
        let by_growth = followed.stands_by_growth(in_all, config).then_some(Severity::Warning);
        let by_count =
            self.levels.judge(id, count as f64, config.warning as f64, config.critical as f64);
        let descriptors = followed.descriptors(holders, count, look.inventory, config.window);
        let reached = by_count.max(by_growth);
        let near_limit = reached.is_some()
            && descriptors.is_some_and(|it| followed.is_near_limit(it, config.window));
        followed.was_near_limit = near_limit;
        let severity = if near_limit { Severity::Critical } else { reached? };
        let group = Group {
            namespace: look.namespace,
            sockets,
            holders,
            now: look.now,
            window: config.window,
            grows: followed.trend.grew_in_every_quarter(config.window),
            per_minute: followed.trend.per_minute(config.window),
            leaving,
            course: leaving.and_then(|leaving| followed.course(leaving, config.window)),
            descriptors,
            near_limit,
        };
        Some(group.verdict(id.to_owned(), severity))
    }
}

/// Old sockets by owner. One whose owner is still to be looked for waits for that, so that
/// nobody is told of an unknown process that has a name a second later.
fn groups<'a>(
    namespace: &'a Namespace,
    pileup: &Overridable<config::CloseWaitPileup>,
    now: Timestamp,
) -> BTreeMap<ServiceKey<'a>, Vec<&'a CloseWaitSocket>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for socket in &namespace.close_wait {
        let config = pileup.of(socket.process(), socket.service_port());
        let is_young = now.since(socket.since) < config.min_age;
        if !config.enabled || socket.owner_pending || is_young {
            continue;
        }
        groups.entry(ServiceKey::of(namespace.id, socket)).or_default().push(socket);
    }
    groups
}

/// All sockets of a group have the same process, unit and port.
fn config_of<'a>(
    sockets: &[&CloseWaitSocket],
    pileup: &'a Overridable<config::CloseWaitPileup>,
) -> &'a config::CloseWaitPileup {
    let first = sockets.first().expect("a group has at least one socket");
    pileup.of(first.process(), first.service_port())
}

/// What a group is looked at with.
struct Look<'a> {
    inventory: &'a Inventory,
    namespace: &'a Namespace,
    present: &'a Present,
    config: &'a config::CloseWaitPileup,
    now: Timestamp,
}

impl Look<'_> {
    /// How many sockets of the group's service are too many to be described and count as the group's:
    /// all of them if it owns every one that is described, as far as these are as old; else none,
    /// because it is not known whose they are.
    fn beyond(&self, group: &[&CloseWaitSocket]) -> u64 {
        let Some(first) = group.first() else { return 0 };
        let service = (first.role, first.service_port());
        let Some(&beyond) = self.namespace.close_wait_beyond.get(&service) else { return 0 };
        let key = ServiceKey::of(self.namespace.id, *first);
        let mut described = 0_u64;
        for socket in &self.namespace.close_wait {
            if (socket.role, socket.service_port()) != service {
                continue;
            }
            described += 1;
            // One whose owner is still to be looked for may be anybody's.
            if !socket.owner_pending && ServiceKey::of(self.namespace.id, socket) != key {
                return 0;
            }
        }
        let old = beyond as f64 * group.len() as f64 / described.max(1) as f64;
        old.round() as u64
    }
}

impl Followed {
    /// How many sockets leave; `None` while that cannot be known.
    fn leaving(
        &mut self,
        sockets: &[&CloseWaitSocket],
        look: &Look<'_>,
        window: Duration,
    ) -> Option<Leaving> {
        let service = sockets.first().map(|socket| (socket.role, socket.service_port()))?;
        let is_cut = look.namespace.close_wait_beyond.contains_key(&service);
        self.turnover.observe(sockets, (look.present, is_cut), window, look.now)
    }

    /// Whether growth makes it a finding. Once it does, it stands until sockets are closed: no
    /// process closes at night what it has leaked by day, so a pause is not the end.
    fn stands_by_growth(&mut self, count: u64, config: &config::CloseWaitPileup) -> bool {
        let is_kept = |most: &u64| count as f64 >= *most as f64 * RELEASE;
        self.grown_to = self.grown_to.map(|most| most.max(count)).filter(is_kept);
        if count >= config.growing && self.trend.grew_in_every_quarter(config.window) {
            self.grown_to = self.grown_to.max(Some(count));
        }
        self.grown_to.is_some()
    }

    fn course(&self, leaving: Leaving, window: Duration) -> Option<Course> {
        // A tenth in a window: at the default each would stay for 100 minutes, which to a person
        // who waits is for ever.
        if leaving.left * 10 > leaving.followed {
            return Some(Course::Slow);
        }
        // One step is a burst, two are growth.
        match (self.trend.parts_grown(4, window / 4), self.trend.parts_grown(2, window / 4)) {
            (Some(2..), _) | (None, Some(2)) => Some(Course::Leak),
            (Some(_), _) => Some(Course::Stuck),
            (None, _) => None,
        }
    }

    fn descriptors(
        &self,
        holders: &Holders<'_, CloseWaitSocket>,
        count: u64,
        inventory: &Inventory,
        window: Duration,
    ) -> Option<Descriptors> {
        let (pid, held) = holders.first()?;
        let DescriptorUse { open, limit, hard_limit } = *inventory.descriptors.get(pid)?;
        // Each process is taken to have its part of the growth.
        let part = held.len() as f64 / count as f64;
        let grows = self.was_near_limit || self.trend.grew_within(window / 4);
        let per_minute = self.trend.per_minute(window).filter(|it| grows && *it > 0.0);
        let minutes_left = per_minute
            .map(|per_minute| limit.saturating_sub(open) as f64 / (per_minute * part))
            .filter(|minutes| *minutes <= FORESIGHT);
        Some(Descriptors { open, limit, hard_limit, minutes_left })
    }

    /// Whether accept() and open() are about to fail. It begins with growth in two eighths of the
    /// window, which one burst does not make, and lasts until a whole window adds nothing.
    fn is_near_limit(&self, descriptors: Descriptors, window: Duration) -> bool {
        let (grows, release) = if self.was_near_limit {
            (self.trend.grew_within(window), RELEASE)
        } else {
            (self.trend.parts_grown(2, window / 8) == Some(2), 1.0)
        };
        let Descriptors { open, limit, minutes_left, .. } = descriptors;
        let is_full = open as f64 >= limit as f64 * FULL * release;
        let soon = NEAR_LIMIT.as_secs_f64() / 60.0 / release;
        grows && (is_full || minutes_left.is_some_and(|minutes| minutes < soon))
    }
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
