//! Whose resets are judged together, and what is remembered of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    harm::Harm,
    rate::{ResetRate, Times},
    sources,
};
use crate::{
    engine::over_time::window::{Part, Window},
    facts::{NetnsId, Process, ResetCount, Role, SeenReset, Timestamp},
};

/// Whose resets are judged together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupKey {
    pub(super) netns: NetnsId,
    pub(super) process: String,
    pub(super) unit: String,
    pub(super) role: Role,
    pub(super) port: u16,
    pub(super) sent: bool,
    /// All that this host answered a scan from there with, at whatever port.
    pub(super) scanner: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Group {
    /// The resets that did full harm.
    pub(super) harm: ResetRate,
    /// These and the mild ones.
    pub(super) any: ResetRate,
    /// Connections that ended in another way, within the window.
    pub(super) ended: Window<u64>,
    /// How many they were when the rate of a storm was last seen: the share is of one time.
    pub(super) ended_when_hot: u64,
    /// Whether it is known how many these are.
    pub(super) knows_ended: bool,
    /// Since when its resets are known, none included.
    pub(super) known: Timestamp,
    /// Of several, the one that had most in the last inventory that brought any.
    pub(super) process: Option<Arc<Process>>,
    /// Both ends of the last of these.
    pub(super) last: LastReset,
}

/// The ends of a reset, as far as the service does not tell them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastReset {
    pub(super) peer: Option<IpAddr>,
    pub(super) other_port: Option<u16>,
    pub(super) peers: Option<u32>,
    pub(super) other_ports: Option<u32>,
    /// No socket was there.
    pub(super) is_stray: bool,
}

/// Resets that were added to a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added<'a> {
    pub(super) row: &'a ResetCount,
    pub(super) what: SeenReset,
    pub(super) harm: Harm,
    pub(super) count: u64,
}

impl GroupKey {
    pub(super) fn of(row: &ResetCount, what: SeenReset) -> Self {
        let process = row.process.as_deref();
        Self {
            netns: row.netns,
            process: process.map(|process| process.name.clone()).unwrap_or_default(),
            unit: process.map(|process| process.unit_label().to_owned()).unwrap_or_default(),
            role: row.role,
            port: row.port,
            sent: matches!(what, SeenReset::Sent(_)),
            scanner: None,
        }
    }

    pub(super) fn id(&self) -> String {
        let Self { netns, process, unit, role, port, sent, scanner } = self;
        if let Some(peer) = scanner {
            return format!("reset-storm/{netns}/scan/{peer}");
        }
        let direction = if *sent { "sent" } else { "received" };
        format!("reset-storm/{netns}/{process}/{unit}/{}/{port}/{direction}", role.label())
    }
}

impl Group {
    pub(super) fn new(known: Timestamp) -> Self {
        Self {
            harm: ResetRate::default(),
            any: ResetRate::default(),
            ended: Window::default(),
            ended_when_hot: 0,
            knows_ended: false,
            known,
            process: None,
            last: LastReset::default(),
        }
    }

    pub(super) fn observe(&mut self, rows: &[Added<'_>], times: &Times) {
        let sums = |least: Harm| {
            let mut sums = BTreeMap::<SeenReset, u64>::new();
            for added in rows.iter().filter(|added| added.harm >= least) {
                let sum = sums.entry(added.what).or_default();
                *sum = sum.saturating_add(added.count);
            }
            sums
        };
        self.harm.observe(&sums(Harm::Full), times);
        self.any.observe(&sums(Harm::Mild), times);
        if let Some(Added { row, .. }) = rows.iter().max_by_key(|added| added.count) {
            self.process.clone_from(&row.process);
            self.last = LastReset {
                peer: row.last_peer.or(self.last.peer),
                other_port: row.other_port,
                peers: row.peers,
                other_ports: row.other_ports,
                is_stray: sources::is_stray(row),
            };
        }
    }

    pub(super) fn observe_ended(&mut self, added: Option<u64>, times: &Times) {
        self.ended.forget(|part| times.now.since(part.ended) >= times.window);
        self.knows_ended = added.is_some();
        if let Some(added) = added.filter(|added| *added > 0) {
            let (stretch, width) = ((times.before, times.now), times.part());
            self.ended.add(added, stretch, width, |sum, added| *sum = sum.saturating_add(added));
        }
    }

    pub(super) fn ended_in_window(&self, times: &Times) -> u64 {
        let begin = times.now - times.window;
        let of_part = |part: &Part<u64>| part.value as f64 * part.share_after(begin);
        self.ended.iter().map(of_part).sum::<f64>().round() as u64
    }
}
