//! The past of a process's or a service's sockets, and the severity that follows from it.

use std::time::Duration;

use super::{
    Look,
    turnover::{Leaving, Turnover},
};
use crate::{
    config::CloseWaitPileup,
    engine::{
        finding::Severity,
        over_time::{
            level::{Levels, RELEASE},
            trend::Trend,
        },
    },
    facts::{CloseWaitSocket, DescriptorUse, Timestamp},
};

/// At most so long before the descriptors run out it is critical. A person who is called needs that
/// long to log in and restart one process; and less would be over before an alert has fired.
const NEAR_LIMIT: Duration = Duration::from_secs(600);
/// At this part of its descriptors a process is near the limit: what is left is what an ordinary
/// peak of traffic takes.
const FULL: f64 = 0.9;
/// A leak that has this part of the limit is worth a warning, and is why the limit is near when it
/// is. A pool of 30 is a quarter of 120, and no server has a limit that low.
const SHARE: f64 = 0.25;
/// Longest prediction. No growth is the same for a month.
const FORESIGHT: f64 = 30.0 * 24.0 * 60.0;

/// The past of the sockets.
#[derive(Debug, Default)]
pub(super) struct Followed {
    trend: Trend,
    turnover: Turnover,
    /// The most there were since growth raised a finding.
    grown_to: Option<u64>,
    /// It was critical for want of descriptors.
    was_near_limit: bool,
}

/// The result of a round.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) severity: Option<Severity>,
    /// Its sockets, with those that are too many to be described.
    pub(super) in_all: u64,
    pub(super) grows: bool,
    /// Only growth raised it: the most that there were.
    pub(super) grown_to: Option<u64>,
    pub(super) per_minute: Option<f64>,
    pub(super) leaving: Option<Leaving>,
    pub(super) course: Option<Course>,
    pub(super) descriptors: Option<Descriptors>,
    /// These are about to run out.
    pub(super) is_near_limit: bool,
    pub(super) wants_stacks: bool,
}

/// Why the number is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// It grows and hardly any leave.
    Leak,
    /// It neither grows nor falls.
    Stuck,
    /// They leave, later than they should.
    Slow,
}

/// Descriptors of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    pub(super) open: u64,
    pub(super) limit: u64,
    /// 0 where it is not known.
    pub(super) hard_limit: u64,
    /// Until they run out if the sockets go on growing like this; `None` while they do not.
    pub(super) minutes_left: Option<f64>,
}

/// The time, and what counts.
type Now<'a> = (Timestamp, &'a CloseWaitPileup);

impl Followed {
    /// Judges a process by all its sockets; `count` of them are described.
    pub(super) fn judge_process(
        &mut self,
        id: &str,
        (count, in_all): (u64, u64),
        descriptors: Option<&DescriptorUse>,
        leaving: Option<Leaving>,
        levels: &mut Levels,
        (now, config): Now<'_>,
    ) -> Judged {
        self.trend.observe(now, in_all, config.window);
        let by_growth = self.stands_by_growth(in_all, config.growing, config.window);
        let steps = [
            (Severity::Critical, config.critical as f64),
            (Severity::Warning, config.warning as f64),
            (Severity::Info, config.info.min(config.warning) as f64),
        ];
        let by_count = levels.judge_steps(id, in_all as f64, &steps);
        let by_share = descriptors.and_then(|it| {
            let share = [(Severity::Warning, it.limit as f64 * SHARE)];
            levels.judge_steps(&format!("{id}#share"), in_all as f64, &share)
        });
        let reached = by_count.max(by_share).max(by_growth.then_some(Severity::Warning));
        let descriptors = descriptors.map(|it| self.descriptors(*it, config.window));
        let is_near_limit = reached.is_some()
            && descriptors.is_some_and(|it| self.is_near_limit(it, in_all, config.window));
        self.was_near_limit = is_near_limit;
        let severity = if is_near_limit { Some(Severity::Critical) } else { reached };
        let wants_stacks = config.stacks
            && count >= config.growing.div_ceil(2)
            && self.trend.grew_within(config.window / 4);
        Judged {
            descriptors: descriptors.map(|it| it.shown_at(severity)),
            is_near_limit,
            grown_to: self.grown_to.filter(|_| severity > by_count.max(by_share)),
            wants_stacks,
            ..self.judged(severity, in_all, leaving, config.window)
        }
    }

    /// Judges several processes together. Each may have a pool that its server has closed.
    pub(super) fn judge_together(
        &mut self,
        id: &str,
        in_all: u64,
        processes: u64,
        leaving: Option<Leaving>,
        levels: &mut Levels,
        (now, config): Now<'_>,
    ) -> Judged {
        self.trend.observe(now, in_all, config.window);
        let growing = config.growing.saturating_mul(processes.max(1));
        let by_growth = self.stands_by_growth(in_all, growing, config.window);
        let info = [(Severity::Info, config.info.min(config.warning) as f64)];
        let by_count = levels.judge_steps(&format!("{id}#all"), in_all as f64, &info);
        let severity = by_count.max(by_growth.then_some(Severity::Warning));
        let grown_to = self.grown_to.filter(|_| severity > by_count);
        Judged { grown_to, ..self.judged(severity, in_all, leaving, config.window) }
    }

    fn judged(
        &self,
        severity: Option<Severity>,
        in_all: u64,
        leaving: Option<Leaving>,
        window: Duration,
    ) -> Judged {
        // So few that become more may be a pool that goes stale, one connection after the other.
        let is_sure = |course: &Course| severity > Some(Severity::Info) || *course != Course::Leak;
        Judged {
            severity,
            in_all,
            grows: self.trend.grew_in_every_quarter(window),
            grown_to: None,
            per_minute: self.trend.per_minute(window),
            leaving,
            course: leaving.and_then(|leaving| self.course(leaving, window)).filter(is_sure),
            descriptors: None,
            is_near_limit: false,
            wants_stacks: false,
        }
    }

    /// How many sockets leave; `None` while that cannot be known.
    pub(super) fn leaving(
        &mut self,
        sockets: &[&CloseWaitSocket],
        look: &Look<'_>,
        window: Duration,
    ) -> Option<Leaving> {
        let is_cut = |socket: &&CloseWaitSocket| {
            let service = (socket.role, socket.service_port());
            look.namespace.close_wait_beyond.contains_key(&service)
        };
        let beyond = &look.namespace.close_wait_beyond;
        let is_cut = !beyond.is_empty() && sockets.iter().any(is_cut);
        self.turnover.observe(sockets, (&look.present, is_cut), window, look.now)
    }

    /// Whether growth makes it a finding. Once it does, it stands until sockets are closed: no
    /// process closes at night what it has leaked by day, so a pause is not the end.
    fn stands_by_growth(&mut self, count: u64, least: u64, window: Duration) -> bool {
        let is_kept = |most: &u64| count as f64 >= *most as f64 * RELEASE;
        self.grown_to = self.grown_to.map(|most| most.max(count)).filter(is_kept);
        if count >= least && self.trend.grew_in_every_quarter(window) {
            self.grown_to = self.grown_to.max(Some(count));
        }
        self.grown_to.is_some()
    }

    fn course(&self, leaving: Leaving, window: Duration) -> Option<Course> {
        // With fewer than a tenth in a window each stays for 100 minutes at the default: as good as
        // never closed.
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

    fn descriptors(&self, it: DescriptorUse, window: Duration) -> Descriptors {
        let DescriptorUse { open, limit, hard_limit } = it;
        let grows = self.was_near_limit || self.trend.grew_within(window / 4);
        let per_minute = self.trend.per_minute(window).filter(|it| grows && *it > 0.0);
        let minutes_left = per_minute
            .map(|per_minute| limit.saturating_sub(open) as f64 / per_minute)
            .filter(|minutes| *minutes <= FORESIGHT);
        Descriptors { open, limit, hard_limit, minutes_left }
    }

    /// Whether accept() and open() are about to fail, or do: the descriptors are nearly all open and
    /// the sockets have much of them, or they grow. Growth begins with two eighths of the window,
    /// which one burst does not make, and lasts until a whole window adds nothing.
    fn is_near_limit(&self, descriptors: Descriptors, count: u64, window: Duration) -> bool {
        let (grows, release) = if self.was_near_limit {
            (self.trend.grew_within(window), RELEASE)
        } else {
            (self.trend.parts_grown(2, window / 8) == Some(2), 1.0)
        };
        let Descriptors { open, limit, minutes_left, .. } = descriptors;
        let is_full = open as f64 >= limit as f64 * FULL * release;
        let is_why = count as f64 >= limit as f64 * SHARE * release;
        let soon = NEAR_LIMIT.as_secs_f64() / 60.0 / release;
        is_full && (is_why || grows) || grows && minutes_left.is_some_and(|left| left < soon)
    }
}

impl Descriptors {
    /// Without a prediction where nothing says that the growth goes on.
    fn shown_at(self, severity: Option<Severity>) -> Self {
        let minutes_left = self.minutes_left.filter(|_| severity > Some(Severity::Info));
        Self { minutes_left, ..self }
    }

    /// The command that gives `pid` more of them.
    pub(super) fn more(self, pid: u32) -> String {
        let Self { limit, hard_limit, .. } = self;
        let twice = limit.saturating_mul(2);
        match hard_limit {
            // Recorded without it.
            0 => format!(
                "`prlimit --pid {pid} --nofile={twice}:` (the soft limit, up to the hard one)"
            ),
            hard if hard > limit => {
                let more = twice.min(hard);
                let hard = if hard == u64::MAX { String::new() } else { format!(" of {hard}") };
                format!(
                    "`prlimit --pid {pid} --nofile={more}:` (the soft limit, up to the hard one{hard})"
                )
            }
            _ => format!(
                "`prlimit --pid {pid} --nofile={twice}:{twice}` (as root: the hard limit is no \
                 higher than the soft one; fs.nr_open bounds both)"
            ),
        }
    }
}

impl Course {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Leak => "leak",
            Self::Stuck => "stuck",
            Self::Slow => "slow",
        }
    }
}
