//! `keepalive-race`: a server closes idle connections while its clients still send requests on them.
//!
//! Signal: the hook's counts of connections that a server closed before its client, by how long they
//! had been idle; and resets that answered data for a connection that its process had closed.
//! Trip: `warning` or `critical` such resets within `window`, and `share` of the idle closes. Most
//! closes by the server follow idleness, most of these the same time-out (`Peak`), and they are about
//! as many as the resets at least: else the data followed an answer, as where an upload is refused.
//! Where no data exceeds a close_notify of TLS it is info.
//! Cold start: what was counted before the first inventory is not known.
//! Recovery: `window` after the last such reset.
//! Misses: a server that sends a close_notify of TLS before its close, or whose connections have TCP
//! keep-alive sooner than its time-out, because both end the idleness; a request more than
//! tcp_fin_timeout after the close; a service that closes more connections right after an answer; a
//! server whose backlog is 0.

mod words;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use self::words::Case;
use crate::{
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{FindingKind, Severity},
        observers::reset_counts::ResetCounts,
        over_time::{level::Levels, window::Window},
        resets::seen_reset,
    },
    facts::{
        Amount, IdleClosed, NetnsId, Process, RecordedReset, ResetCause, ResetCount, Role,
        SeenReset, Timestamp,
    },
};

/// Ports that are remembered.
const PORTS: usize = 1_024;
/// Parts of a window: as many as there are inventories in the default one.
const PARTS: u32 = 6;
/// How many resets there may be for each idle close. A reset may come a window after its close, and
/// a busy table loses a count now and then.
const RESETS_PER_CLOSE: f64 = 1.25;

type Place = (NetnsId, u16);

#[derive(Debug, Default)]
pub(crate) struct KeepaliveRace {
    levels: Levels,
    resets: ResetCounts,
    ports: BTreeMap<Place, Port>,
    judged: Option<Timestamp>,
}

/// Recent counts of a port.
#[derive(Debug, Default)]
struct Port {
    window: Window<Counts>,
    /// The process that closed most of the last connections, and how many.
    process: Option<Arc<Process>>,
    closes: u64,
    last_peer: Option<IpAddr>,
}

/// Counts of a port.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Resets that answered data.
    late: u64,
    /// Of these, those whose data was larger than a close_notify.
    large: u64,
    /// The server's closes, by how long the connection had been idle.
    closed: [u64; IdleClosed::BUCKETS],
    /// The last time in each.
    last_ms: [u32; IdleClosed::BUCKETS],
}

/// The idle time-out that closes most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peak {
    closed: u64,
    timeout: Duration,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.late = self.late.saturating_add(other.late);
        self.large = self.large.saturating_add(other.large);
        for (bucket, count) in other.closed.into_iter().enumerate() {
            self.closed[bucket] = self.closed[bucket].saturating_add(count);
            if count > 0 {
                self.last_ms[bucket] = other.last_ms[bucket];
            }
        }
    }

    /// Connections that were idle when the server closed them.
    fn idle(&self) -> u64 {
        self.closed[1..].iter().fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    /// A configured time-out closes the larger part of the idle ones, and idleness the larger part of
    /// what the server closes.
    fn peak(&self) -> Option<Peak> {
        let idle = self.idle();
        let (bucket, closed) =
            self.closed.iter().copied().enumerate().skip(1).max_by_key(|(_, count)| *count)?;
        let is_larger = closed > idle / 2 && idle > self.closed[0];
        let timeout = Duration::from_millis(self.last_ms[bucket].into());
        is_larger.then_some(Peak { closed, timeout })
    }
}

impl Detector for KeepaliveRace {
    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        self.levels.begin();
        let before = self.judged.replace(round.now).unwrap_or(round.now);
        let Some(rows) = &round.inventory.resets else {
            *self = Self::default();
            return;
        };
        self.observe(rows, round, before);
        for (&(netns, port), known) in &self.ports {
            let config = round.detect.keepalive_race.of(known.process.as_deref(), port);
            let mut counts = Counts::default();
            known.window.iter().for_each(|part| counts.add(part.value));
            let Some(peak) = counts.peak() else { continue };
            let (late, idle) = (counts.late as f64, counts.idle() as f64);
            if late < idle * config.share || late > idle * RESETS_PER_CLOSE {
                continue;
            }
            let id = format!("{}/{netns}/{port}", FindingKind::KeepaliveRace.name());
            let (warning, critical) = (config.warning as f64, config.critical as f64);
            let steps = [(Severity::Critical, critical), (Severity::Warning, warning)];
            let large = self.levels.judge_steps(&id, counts.large as f64, &steps);
            let severity = large.or((late >= warning).then_some(Severity::Info));
            let Some(severity) = severity.filter(|_| config.enabled) else { continue };
            let namespace = round.inventory.namespaces.iter().find(|it| it.id == netns);
            let case = Case { namespace, port, known, counts, peak, config };
            verdicts.push(case.verdict(id, severity), counts.late);
        }
    }
}

impl KeepaliveRace {
    /// Adds what is new, and forgets what has left its window.
    fn observe(&mut self, rows: &[ResetCount], round: &Round<'_>, before: Timestamp) {
        let mut added: BTreeMap<Place, (Counts, Port)> = BTreeMap::new();
        // Only these rows are followed: `reset-storm` follows all of them already.
        let late: Vec<_> = rows.iter().filter(|row| late_data(row).is_some()).cloned().collect();
        for (row, count) in self.resets.added(&late) {
            let Some(unread) = late_data(row) else { continue };
            let (counts, port) = added.entry((row.netns, row.port)).or_default();
            counts.late = counts.late.saturating_add(count);
            if unread > Amount::Few {
                counts.large = counts.large.saturating_add(count);
            }
            port.last_peer = row.last_peer.or(port.last_peer);
        }
        let services = round.inventory.services.iter().flatten();
        for service in services.filter(|service| service.role == Role::Server) {
            let Some(idle) = &service.idle else { continue };
            let (counts, port) = added.entry((service.netns, service.port)).or_default();
            let closes = idle.iter().fold(0, |sum: u64, it| sum.saturating_add(it.count));
            if closes > port.closes {
                (port.closes, port.process) = (closes, Some(Arc::clone(&service.process)));
            }
            for closes in idle {
                let bucket = usize::from(closes.bucket).min(IdleClosed::BUCKETS - 1);
                counts.closed[bucket] = counts.closed[bucket].saturating_add(closes.count);
                counts.last_ms[bucket] = closes.last_ms;
            }
        }
        for (place, (counts, new)) in added {
            if !self.ports.contains_key(&place) && self.ports.len() >= PORTS {
                continue;
            }
            let known = self.ports.entry(place).or_default();
            known.process = new.process.or(known.process.take());
            known.last_peer = new.last_peer.or(known.last_peer);
            let config = round.detect.keepalive_race.of(known.process.as_deref(), place.1);
            let width = config.window / PARTS;
            known.window.add(counts, (before, round.now), width, Counts::add);
        }
        for (place, known) in &mut self.ports {
            let config = round.detect.keepalive_race.of(known.process.as_deref(), place.1);
            known.window.forget(|part| round.now.since(part.ended) > config.window);
        }
        self.ports.retain(|_, known| !known.window.is_empty());
    }
}

/// The data of a reset that answered what came after the server's close.
fn late_data(row: &ResetCount) -> Option<Amount> {
    let RecordedReset::Seen(seen) = &row.what else { return None };
    let is_late = row.role == Role::Server
        && seen_reset(&row.what) == Some(SeenReset::Sent(ResetCause::LateData));
    seen.unread.filter(|unread| is_late && *unread > Amount::Nothing)
}
