//! `bind-conflict`: a process cannot have the port that it wants.
//!
//! Signal: a bind() or listen() that failed with EADDRINUSE, grouped by namespace, process name and
//! port; a service that is restarted again and again has another pid each time. The holder of the
//! port is in the next inventory, because the detector requests it ([`Focus::ports`]).
//! Trip: info at the first failure, warning at `warning` of them within `window`, but not where a
//! listener of the same program has the port: that one serves, and a second instance, or a check of
//! its configuration (`nginx -t`), does not. A bind() of port 0, which stands for any, that fails
//! is a warning at once: a program has no other to try.
//! Cold start: none; what failed before the agent began is not known.
//! Recovery: `window` after the last failure, or when the process, or one of that name that was
//! started since, listens there; or when it has come to listen on another port instead, as sshd
//! does for X11, until it fails again. A program that binds the same port for both families, and
//! learns that it has one of them already, raises nothing.
//! Misses: by the iterator, a holder that is bound but neither listens nor is connected; one
//! that was gone before the inventory. On kernels without the hook, everything.

mod holder;
mod words;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    holder::{HeldBy, Holding},
    words::BindRefusal,
};
use crate::{
    config::Detect,
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::Severity,
        over_time::{level::Levels, moved::Moved},
    },
    facts::{Endpoint, Event, Focus, Namespace, NetnsId, Owner, Process, Timestamp},
};

/// Conflicts that are remembered; a program that tries port after port makes one for each.
const CONFLICTS: usize = 256;
/// Ports whose holders are requested, those of the latest conflicts: more services than that
/// hardly fail to start at the same time.
const PORTS: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct BindConflict {
    levels: Levels,
    conflicts: BTreeMap<Key, Conflict>,
}

/// Which failures are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    netns: NetnsId,
    process: String,
    port: u16,
}

#[derive(Debug)]
struct Conflict {
    failed: Moved,
    first: Timestamp,
    last: Timestamp,
    /// The last request, and its process.
    local: Endpoint,
    process: Option<Arc<Process>>,
    /// The holder that was seen last.
    holding: Option<Holding>,
    /// Which process was seen to listen on another port, and since when.
    elsewhere: Option<(u32, Timestamp)>,
}

impl Detector for BindConflict {
    fn handle_event(&mut self, event: &Event, detect: &Detect) {
        let Event::BindFailed { at, netns, local, process } = event else { return };
        let name = process.as_ref().map_or("", |process| &process.name);
        let key = Key { netns: *netns, process: name.to_owned(), port: local.port };
        if !self.conflicts.contains_key(&key) && self.conflicts.len() >= CONFLICTS {
            return;
        }
        let conflict = self.conflicts.entry(key).or_insert_with(|| Conflict {
            failed: Moved::default(),
            first: *at,
            last: *at,
            local: *local,
            process: None,
            holding: None,
            elsewhere: None,
        });
        let config = detect.bind_conflict.of(process.as_deref(), local.port);
        conflict.failed.observe(1, config.window, *at);
        conflict.last = conflict.last.max(*at);
        conflict.local = *local;
        conflict.process.clone_from(process);
    }

    fn focus(&self, detect: &Detect, focus: &mut Focus) {
        let mut latest: Vec<(Reverse<Timestamp>, u16)> = self
            .conflicts
            .iter()
            .filter(|(key, conflict)| {
                let config = detect.bind_conflict.of(conflict.process.as_deref(), key.port);
                key.port != 0 && config.enabled && !conflict.is_settled()
            })
            .map(|(key, conflict)| (Reverse(conflict.last), key.port))
            .collect();
        latest.sort_unstable();
        let mut seen = BTreeSet::new();
        let ports = latest.into_iter().map(|(_, port)| port).filter(|port| seen.insert(*port));
        focus.ports.extend(ports.take(PORTS));
    }

    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        let Round { inventory, now, .. } = *round;
        self.levels.begin();
        let config = &round.detect.bind_conflict;
        self.conflicts.retain(|key, conflict| {
            let window = config.of(conflict.process.as_deref(), key.port).window;
            now.since(conflict.last) <= round.window(window, conflict.last)
        });
        for namespace in &inventory.namespaces {
            self.conflicts.retain(|key, conflict| {
                key.netns != namespace.id || !has_its_port(conflict, namespace)
            });
            // One that failed while the tables were walked is judged with the next inventory, which
            // has looked for its port.
            let here = self.conflicts.iter_mut().filter(|(key, conflict)| {
                key.netns == namespace.id && conflict.first <= inventory.started
            });
            for (key, conflict) in here {
                conflict.look_elsewhere(namespace, inventory.started);
                let process = conflict.process.as_deref();
                if let Some(holding) = holder::holding(namespace, conflict.local, process) {
                    conflict.holding = Some(holding);
                }
                let config = config.of(process, key.port);
                let window = round.window(config.window, conflict.last);
                let failures = conflict.failed.observe(0, window, now);
                let Key { netns, process, port } = key;
                let id = format!("bind-conflict/{netns}/{process}/{port}");
                let threshold = config.warning as f64;
                let level = self.levels.judge_moves(&id, failures, threshold, f64::INFINITY);
                let least = if *port == 0 { Severity::Warning } else { Severity::Info };
                let most = if conflict.is_served() { least } else { Severity::Critical };
                let severity = level.unwrap_or(least).clamp(least, most);
                if config.enabled && !conflict.is_settled() {
                    let refusal = BindRefusal {
                        namespace,
                        local: conflict.local,
                        process: conflict.process.as_deref(),
                        holding: conflict.holding.as_ref(),
                        failures,
                    };
                    verdicts.push(refusal.verdict(id, severity), failures.in_window);
                }
            }
        }
    }
}

impl Conflict {
    /// Whether its own program has the port, and so the service is there.
    fn is_served(&self) -> bool {
        let listener = self.holding.as_ref().filter(|holding| holding.by == HeldBy::Listener);
        let owner = listener.and_then(|holding| holding.owner.as_ref());
        owner.zip(self.process.as_ref()).is_some_and(|(owner, asker)| owner.name == asker.name)
    }

    /// Notes whether the program that failed listens on another port by now.
    fn look_elsewhere(&mut self, namespace: &Namespace, now: Timestamp) {
        let Some(pid) = self.process.as_ref().map(|process| process.pid) else { return };
        let is_its_own = |owner: &Owner| owner.process.pid == pid;
        let listens = namespace.listeners.iter().any(|listener| {
            listener.local.port != self.local.port
                && listener.owner.as_ref().is_some_and(is_its_own)
        });
        let known = self.elsewhere.filter(|(known, _)| *known == pid);
        self.elsewhere = listens.then(|| known.unwrap_or((pid, now)));
    }

    /// Whether it has another port instead. One that fails again while it has that wants both.
    fn is_settled(&self) -> bool {
        self.elsewhere.is_some_and(|(_, since)| self.last <= since)
    }
}

/// Whether the program that failed listens there by now: itself, or a later one of its name.
fn has_its_port(conflict: &Conflict, namespace: &Namespace) -> bool {
    let process = conflict.process.as_deref();
    let holding = holder::holding(namespace, conflict.local, process);
    let listener = holding.filter(|holding| holding.by == HeldBy::Listener);
    let (Some(process), Some(owner)) = (process, listener.and_then(|it| it.owner)) else {
        return false;
    };
    owner.pid == process.pid || (owner.name == process.name && owner.started > conflict.last)
}
