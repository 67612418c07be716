//! `kernel-limit`: a resource of the kernel is near its limit.
//!
//! Signal: memory of all TCP queues (`tcp_mem`), orphans (`tcp_max_orphans`) and open files
//! (`fs.file-max`) of the host, and in each namespace the entries of connection tracking
//! (`nf_conntrack_max`); packets and connections that were lost at the limit.
//! Trip: `warning`, a part of the limit. It is info while nothing is lost, and a warning where
//! something is, or where growth from 0.9 of the limit on reaches it within `horizon`. It is critical
//! from `critical` losses within `window` on, and where memory or files are at the limit itself.
//! Packets that connection tracking drops count from 0.95 of its limit on, ended orphans from a
//! quarter of theirs.
//! Cold start: losses before the first inventory are not counted. Growth takes ten minutes.
//! Recovery: below 0.9 of the threshold, a hundredth or two below the limit itself, and `window`
//! after the last loss.
//! Misses: a limit of one process or cgroup; connection tracking that fills up and empties between
//! two inventories without a loss.

mod resource;
mod words;

use std::{collections::BTreeMap, time::Duration};

use self::{
    resource::{Reading, Resource, readings},
    words::Case,
};
use crate::{
    config,
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{FindingKind, Severity},
        over_time::{counter::Counter, level::Levels, moved::Moved, trend::Trend},
    },
    facts::{Inventory, NetnsId, Timestamp},
};

/// From this part of a limit on growth is followed.
const HALF: f64 = 0.5;
/// The time over which growth is taken. It must go on in each quarter of it, so the rise of a
/// morning counts and the peak of a minute does not.
const GROWTH_WINDOW: Duration = Duration::from_secs(600);
/// The kernel ends orphans from a quarter of `tcp_max_orphans` on, because it counts each up to
/// four times (`tcp_out_of_resources`).
const ORPHANS_END_FROM: f64 = 0.25;
/// From this part on a packet that connection tracking drops counts as dropped for want of an entry.
/// Entries last for minutes, so a table that was full is still near it at the next look; a gateway
/// that stands lower drops a packet now and then for other reasons.
const CROWDED: f64 = 0.95;
/// From this part on growth is a warning. The nearest healthy host is a gateway in the morning, whose
/// table grows for an hour to 0.85.
const CLOSE: f64 = 0.9;
/// Part of a limit that counts as reached: each CPU keeps some of the resource for itself, so the
/// sum seldom is the limit.
const FULL: f64 = 0.98;

#[derive(Debug, Default)]
pub(crate) struct KernelLimit {
    levels: Levels,
    followed: BTreeMap<Resource, Followed>,
}

/// The history of one resource.
#[derive(Debug, Default)]
struct Followed {
    lost: Counted,
    /// Connections that the kernel ended for want of memory or orphans, by namespace.
    ends: BTreeMap<NetnsId, Counter>,
    evicted: Counted,
    clashed: Counted,
    /// Growth, of a resource that is half used.
    trend: Trend,
    /// Since when each look found TCP memory above its pressure mark.
    pressed: Option<Timestamp>,
}

/// A counter of the kernel, and how far it moved lately.
#[derive(Debug, Default)]
struct Counted {
    counter: Counter,
    moved: Moved,
}

impl Counted {
    /// The count since the last look.
    fn added(&mut self, total: Option<u64>) -> u64 {
        total.and_then(|total| self.counter.added(total)).unwrap_or(0)
    }
}

/// Losses within the window.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    /// Packets dropped, or connections ended.
    lost: u64,
    /// Unanswered entries of connection tracking that were removed for others.
    evicted: u64,
    /// Packets that connection tracking dropped because two of them made the same entry.
    clashed: u64,
}

impl Detector for KernelLimit {
    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let config = &round.detect.kernel_limit;
        self.levels.begin();
        // Namespaces that have gone are forgotten.
        let mut before = std::mem::take(&mut self.followed);
        for reading in readings(round.inventory) {
            let mut followed = before.remove(&reading.resource).unwrap_or_default();
            let losses = followed.observe(&reading, round.inventory, config.window, round.now);
            let minutes_left = followed.minutes_left(&reading, round.now);
            let is_pressed = followed.pressed.is_some_and(|since| {
                // At the first look it is not known for how long.
                round.now.since(since) >= config.window
            });
            self.followed.insert(reading.resource, followed);
            if !config.enabled {
                continue;
            }
            let case = Case { reading, losses, minutes_left, config };
            if let Some(severity) = self.severity(&case, is_pressed) {
                let id = format!("{}/{}", FindingKind::KernelLimit.name(), reading.resource);
                // In thousandths of the limit, so that unlike resources compare.
                let weight = (reading.part() * 1_000.0) as u64;
                verdicts.push(case.verdict(id, severity, round.inventory), weight);
            }
        }
    }
}

impl Followed {
    fn observe(
        &mut self,
        reading: &Reading<'_>,
        inventory: &Inventory,
        window: Duration,
        now: Timestamp,
    ) -> Losses {
        let clashed = self.clashed.added(reading.clashed);
        // A clash is counted as a drop too (`nf_ct_resolve_clash`), and no limit made it.
        let lost = match reading.resource {
            Resource::Orphans => self.ended(inventory),
            _ => self.lost.added(reading.lost).saturating_sub(clashed),
        };
        let evicted = self.evicted.added(reading.evicted);
        let is_pressed = reading.pressure.is_some_and(|mark| reading.used > mark);
        self.pressed = self.pressed.or(Some(now)).filter(|_| is_pressed);
        Losses {
            lost: self.lost.moved.observe(lost, window, now).in_window,
            evicted: self.evicted.moved.observe(evicted, window, now).in_window,
            clashed: self.clashed.moved.observe(clashed, window, now).in_window,
        }
    }

    /// Connections that the kernel has ended since the last look. Each namespace has a counter of its
    /// own, so that one that comes or goes is no loss.
    fn ended(&mut self, inventory: &Inventory) -> u64 {
        let mut before = std::mem::take(&mut self.ends);
        let mut ended: u64 = 0;
        for namespace in &inventory.namespaces {
            let total = namespace.netstat.as_ref().and_then(|netstat| netstat.memory_aborts);
            let Some(total) = total else { continue };
            let mut counter = before.remove(&namespace.id).unwrap_or_default();
            ended = ended.saturating_add(counter.added(total).unwrap_or(0));
            self.ends.insert(namespace.id, counter);
        }
        ended
    }

    /// Until the limit is met; `None` while the resource does not grow through the whole window.
    fn minutes_left(&mut self, reading: &Reading<'_>, now: Timestamp) -> Option<f64> {
        if reading.part() < HALF {
            self.trend = Trend::default();
            return None;
        }
        self.trend.observe(now, reading.used, GROWTH_WINDOW);
        let grows = self.trend.grew_in_every_quarter(GROWTH_WINDOW);
        self.trend.minutes_to(reading.limit, GROWTH_WINDOW).filter(|_| grows)
    }
}

impl KernelLimit {
    fn severity(&mut self, case: &Case<'_>, is_pressed: bool) -> Option<Severity> {
        let Case { reading, losses, config, .. } = case;
        let id = reading.resource.to_string();
        let near = self.levels.judge_steps(
            &id,
            reading.part_of_mark(),
            &[(Severity::Info, config.warning)],
        );
        let is_full = self.reaches(&format!("{id}/full"), reading.part(), FULL);
        let harm = match reading.resource {
            Resource::TcpMemory if is_full => Some(Severity::Critical),
            Resource::TcpMemory if is_pressed => Some(Severity::Warning),
            Resource::Files if is_full => Some(Severity::Critical),
            Resource::TcpMemory | Resource::Files => None,
            Resource::Orphans => {
                let may_end = reading.part() >= ORPHANS_END_FROM;
                losses.severity(config).filter(|_| may_end).map(|severity| {
                    // Far from the limit only orphans that make no progress are ended.
                    if near.is_some() { severity } else { Severity::Warning }
                })
            }
            Resource::Conntrack(_) => {
                let was_full = reading.part() >= CROWDED || losses.evicted > 0;
                let evicted = (losses.evicted > 0).then_some(Severity::Info);
                losses.severity(config).filter(|_| was_full).max(evicted)
            }
        };
        let soon = case.minutes_left.map_or(0.0, |it| config.horizon.as_secs_f64() / (it * 60.0));
        let is_soon = self.levels.judge(&format!("{id}/soon"), soon, 1.0, f64::INFINITY).is_some();
        let is_close = self.reaches(&format!("{id}/close"), reading.part(), CLOSE);
        let growth = (is_soon && is_close).then_some(Severity::Warning);
        near.max(harm).max(growth)
    }

    /// Whether a part of a limit reaches this one, and how long it stays so: down to a hundredth or two
    /// below, because a spike to the limit must not stand for hours at nine tenths of it.
    fn reaches(&mut self, id: &str, part: f64, threshold: f64) -> bool {
        const FLOOR: f64 = 0.8;
        let above = |part: f64| (part - FLOOR).max(0.0);
        self.levels.judge(id, above(part), above(threshold), f64::INFINITY).is_some()
    }
}

impl Losses {
    fn severity(self, config: &config::KernelLimit) -> Option<Severity> {
        match self.lost {
            0 => None,
            lost if lost >= config.critical => Some(Severity::Critical),
            _ => Some(Severity::Warning),
        }
    }
}
