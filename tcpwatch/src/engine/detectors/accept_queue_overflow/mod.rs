//! `accept-queue-overflow`: a listener does not accept fast enough.
//!
//! Signal: a queue longer than its limit; and attempts that a listener dropped (`sk_drops`) while
//! `ListenOverflows` of its namespace moved too, because a listener drops for other reasons as
//! well. Listeners that share a place (`SO_REUSEPORT`) are one.
//! Trip: `warning` or `critical` drops within `window`; a queue that two inventories in a row find
//! full.
//! Cold start: drops before the first inventory are not counted.
//! Recovery: `window` after the last drop, and the inventory that finds room.
//! Misses: a queue that fills and empties between two inventories without a drop; what a listener
//! dropped that was gone before the inventory. Drops for another reason are taken for overflows
//! while another listener of the namespace overflows.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use crate::{
    config::{self, Overridable},
    engine::{
        advice::text,
        finding::{EvidenceMap, FINDINGS_PER_KIND, Finding, FindingKind, Severity, Subject},
        over_time::{
            level::Levels,
            moved::{Moved, Moves},
        },
    },
    facts::{Endpoint, Inventory, Listener, Namespace, NetnsId, Process, Timestamp},
};

/// Places whose drops are followed; the queues of further ones are looked at, but not their drops.
const PLACES: usize = 8_192;

#[derive(Debug)]
pub(crate) struct AcceptQueueOverflow {
    pub(crate) config: Overridable<config::AcceptQueueOverflow>,
    levels: Levels,
    queues: HashMap<(NetnsId, Endpoint), Queue>,
    overflows: HashMap<NetnsId, u64>,
}

/// What was seen of the listeners at one place.
#[derive(Clone, Debug)]
struct Queue {
    /// Their counters, summed modulo 2^32.
    drops: u32,
    /// Dropped, but not found in `ListenOverflows` yet: it is read before the listeners are.
    unconfirmed: u64,
    moved: Moved,
    was_full: bool,
}

impl AcceptQueueOverflow {
    pub(crate) fn new(config: Overridable<config::AcceptQueueOverflow>) -> Self {
        Self {
            config,
            levels: Levels::default(),
            queues: HashMap::new(),
            overflows: HashMap::new(),
        }
    }

    /// The listeners that do not keep up at `now`.
    pub(crate) fn judge(&mut self, inventory: &Inventory, now: Timestamp) -> Vec<Finding> {
        self.levels.begin();
        // What has gone is forgotten.
        let mut queues_before = std::mem::take(&mut self.queues);
        let mut overflows_before = std::mem::take(&mut self.overflows);
        let mut findings = Vec::new();
        for namespace in &inventory.namespaces {
            let before = overflows_before.remove(&namespace.id);
            let overflowed = self.follow_namespace(namespace, before);
            for (local, listeners) in by_place(namespace) {
                let key = (namespace.id, local);
                let place = Place { namespace, listeners };
                let before = queues_before.remove(&key);
                let (moves, stays_full) = self.follow(key, &place, before, overflowed, now);
                findings.extend(self.judge_place(&place, local, moves, stays_full, now));
            }
        }
        findings.sort_by(|a, b| (Reverse(a.severity), &a.id).cmp(&(Reverse(b.severity), &b.id)));
        findings.truncate(FINDINGS_PER_KIND);
        findings
    }

    /// How far `ListenOverflows` has moved since it was last read; `None` where that is unknown.
    fn follow_namespace(&mut self, namespace: &Namespace, before: Option<u64>) -> Option<u64> {
        let total = namespace.netstat.as_ref().map(|netstat| netstat.listen_overflows);
        if let Some(total) = total.or(before) {
            self.overflows.insert(namespace.id, total);
        }
        Some(total?.saturating_sub(before?))
    }

    /// What was dropped, and whether the queue stays full.
    fn follow(
        &mut self,
        key: (NetnsId, Endpoint),
        place: &Place<'_>,
        before: Option<Queue>,
        overflowed: Option<u64>,
        now: Timestamp,
    ) -> (Moves, bool) {
        let drops = place.drops();
        let mut queue = before.unwrap_or_else(|| Queue {
            drops,
            unconfirmed: 0,
            moved: Moved::default(),
            was_full: false,
        });
        let dropped = place.dropped_since(queue.drops);
        let dropped_or_unconfirmed = queue.unconfirmed.saturating_add(dropped);
        let added = match overflowed {
            // Nothing is confirmed until the counter can be read again.
            None => 0,
            Some(overflowed) if place.drops_are_told() => dropped_or_unconfirmed.min(overflowed),
            Some(overflowed) if place.is_full() => overflowed,
            Some(_) => 0,
        };
        queue.unconfirmed = match overflowed {
            None => dropped_or_unconfirmed,
            // What the next reading does not show either was dropped for another reason.
            Some(_) => dropped.min(dropped_or_unconfirmed.saturating_sub(added)),
        };
        let stays_full = queue.was_full && place.is_full();
        queue.drops = drops;
        queue.was_full = place.is_full();
        let (_, local) = key;
        let window = self.config.of(place.process(), local.port).window;
        let moves = queue.moved.observe(added, window, now);
        if self.queues.len() < PLACES {
            self.queues.insert(key, queue);
        }
        (moves, stays_full)
    }

    fn judge_place(
        &mut self,
        place: &Place<'_>,
        local: Endpoint,
        moves: Moves,
        stays_full: bool,
        now: Timestamp,
    ) -> Option<Finding> {
        let id = format!("accept-queue-overflow/{}/{local}", place.namespace.id);
        let config = self.config.of(place.process(), local.port);
        if !config.enabled {
            return None;
        }
        let (warning, critical) = (config.warning as f64, config.critical as f64);
        let by_drops = self.levels.judge_moves(&id, moves, warning, critical);
        if stays_full {
            // With drops, however few, it holds for the window as well.
            self.levels.hold(&id, Severity::Warning);
        }
        let severity = by_drops.max(stays_full.then_some(Severity::Warning))?;
        finding(id, severity, place, moves, now)
    }
}

/// The listeners of a namespace by where they listen.
fn by_place(namespace: &Namespace) -> BTreeMap<Endpoint, Vec<&Listener>> {
    let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for listener in &namespace.listeners {
        places.entry(listener.local).or_default().push(listener);
    }
    places
}

/// The listeners at one place.
struct Place<'a> {
    namespace: &'a Namespace,
    listeners: Vec<&'a Listener>,
}

impl Place<'_> {
    fn drops(&self) -> u32 {
        self.listeners.iter().fold(0, |sum, listener| sum.wrapping_add(listener.drops))
    }

    /// What was dropped since the counter showed `before`. It is 32 bits wide: a step of more than
    /// half of that is one back, because a listener has gone.
    fn dropped_since(&self, before: u32) -> u64 {
        let step = self.drops().wrapping_sub(before);
        if step <= i32::MAX as u32 {
            return step.into();
        }
        match &*self.listeners {
            // Another one at the same place: all that it has dropped is new.
            [listener] => listener.drops.into(),
            // Which of several has gone cannot be told.
            _ => 0,
        }
    }

    fn is_full(&self) -> bool {
        self.listeners.iter().any(|listener| listener.is_full())
    }

    /// Whether the kernel tells what each listener dropped: if `ListenOverflows` moved and none has
    /// dropped anything, it does not.
    fn drops_are_told(&self) -> bool {
        self.namespace.listeners.iter().any(|listener| listener.drops > 0)
    }

    /// The one with the longest queue; the fullest of those.
    fn worst(&self) -> Option<&Listener> {
        let order = |listener: &&Listener| {
            (listener.is_full(), listener.accept_queue, Reverse(listener.accept_limit))
        };
        self.listeners.iter().copied().max_by_key(order)
    }

    /// The one to ask why.
    fn process(&self) -> Option<&Process> {
        Some(&*self.worst()?.owner.as_ref()?.process)
    }
}

fn finding(
    id: String,
    severity: Severity,
    place: &Place<'_>,
    moves: Moves,
    now: Timestamp,
) -> Option<Finding> {
    let Place { namespace, listeners } = place;
    let listener = place.worst()?;
    let port = listener.local.port;
    let subject = Subject::of_listener(namespace, listener);
    let half_open = listeners.iter().map(|listener| u64::from(listener.half_open)).sum();
    let mut evidence = EvidenceMap::default();
    evidence
        .count("waiting_connections", u64::from(listener.accept_queue))
        .count("limit_connections", u64::from(listener.accept_limit))
        .count("dropped_attempts", moves.total)
        .count("dropped_attempts_in_window", moves.in_window)
        .count("half_open_connections", half_open);
    if listeners.len() > 1 {
        evidence.count("listeners", listeners.len() as u64);
    }
    let look = text::in_its_namespace(&subject, &format!("ss -ltnp '( sport = :{port} )'"));
    Some(Finding {
        id,
        kind: FindingKind::AcceptQueueOverflow,
        severity,
        title: title(namespace, listener, moves.total),
        explanation: "The kernel completes the handshake; the connection then waits until the \
             process calls accept(). When the queue is full the kernel drops the client's last \
             ACK, so that the client believes it is connected and waits, or its SYN, which it \
             sends again after a second. Each try that is dropped counts."
            .to_owned(),
        evidence,
        remedies: vec![
            format!("Look at it: {look} (Recv-Q is what waits, Send-Q the limit)"),
            "In the program: accept in a loop of its own and hand the work on; more workers if all \
             of them are busy."
                .to_owned(),
            format!(
                "Room for bursts: a larger backlog in listen(), now {}, and net.core.somaxconn, \
                 which cuts it; the program must listen() again.",
                listener.accept_limit
            ),
        ],
        subject,
        since: now,
        last_seen: now,
    })
}

fn title(namespace: &Namespace, listener: &Listener, dropped: u64) -> String {
    let who = text::named(listener.owner.as_ref().map(|owner| &*owner.process));
    let netns = text::in_netns(&namespace.name);
    let (waiting, limit) = (listener.accept_queue, listener.accept_limit);
    let queue = if listener.is_full() {
        format!("its accept queue is full ({waiting} wait, the limit is {limit})")
    } else {
        format!("{waiting} wait now, the limit is {limit}")
    };
    let dropped = match dropped {
        0 => String::new(),
        1 => ", 1 attempt to connect was dropped".to_owned(),
        dropped => format!(", {dropped} attempts to connect were dropped"),
    };
    format!("{who} does not accept fast enough on {}{netns}: {queue}{dropped}", listener.local)
}
