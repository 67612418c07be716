//! The rows of each view, from a snapshot and the rates.

use std::{cmp::Ordering, time::Duration};

use super::{
    history::{History, mean},
    snapshot::{Counter, Holdings, InNamespace, Listener, Owner, Snapshot},
    state::View,
    style::Tone,
    table::{Cell, Column, Row},
};
use crate::{
    engine::{FindingKind, Severity, text},
    plain,
    publish::{incidents, overview},
};

const FINDINGS: &[Column] = &[
    Column::text("SEVERITY", 8),
    Column::text("SINCE", 8),
    Column::text("WHO", 9),
    Column::number("PID", 5).leaves(1),
    Column::text("WHERE", 12),
    Column::text("WHAT", 17),
    Column::text("COUNT", 7),
];
const OWNERS: &[Column] = &[
    Column::text("WHO", 12),
    Column::text("UNIT", 12).leaves(2),
    Column::text("NETNS", 8),
    Column::number("CLOSE_WAIT", 6),
    Column::number("OLDEST", 10),
    Column::number("FAILED/s", 6),
    Column::number("FAILED", 6),
    Column::number("QUEUED", 6).leaves(1),
    Column::number("HALF-OPEN", 6).leaves(1),
];
const LISTENERS: &[Column] = &[
    Column::text("WHO", 12),
    Column::text("UNIT", 12).leaves(2),
    Column::text("NETNS", 8),
    Column::number("PORT", 5),
    Column::number("QUEUE/LIMIT", 9),
    Column::bar("FULL"),
    Column::number("HALF-OPEN", 6),
    Column::number("NETNS DROPS/s", 6).leaves(1),
];
const PORTS: &[Column] = &[
    Column::text("NETNS", 8),
    Column::number("PORTS USED/OF", 13),
    Column::bar("FULL"),
    Column::number("TIME_WAIT/LIMIT", 13),
    Column::bar("FULL"),
    Column::number("OVERFLOWS/s", 6),
    Column::number("SELF-CONNECTED", 6).leaves(1),
    Column::text("DESTINATION", 20).leaves(2),
];
const RATES: &[Column] = &[
    Column::text("WHAT", 24),
    Column::number("NOW/s", 8),
    Column::number("MEAN/s", 8).leaves(1),
    Column::number("PEAK/s", 8),
    Column::graph("LAST MINUTES"),
];

/// The columns of a view.
pub(super) const fn columns(view: View) -> &'static [Column] {
    match view {
        View::Findings => FINDINGS,
        View::Owners => OWNERS,
        View::Listeners => LISTENERS,
        View::Ports => PORTS,
        View::Rates => RATES,
    }
}

/// The rows of a view in the order of their importance.
pub(super) fn rows(view: View, snapshot: &Snapshot, history: &History) -> Vec<Row> {
    match view {
        View::Findings => findings(snapshot),
        View::Owners => owners(snapshot, history),
        View::Listeners => listeners(snapshot, history),
        View::Ports => ports(snapshot, history),
        View::Rates => rates(history),
    }
}

fn findings(snapshot: &Snapshot) -> Vec<Row> {
    let incidents = incidents(&snapshot.findings);
    let row = |row: crate::publish::Row<'_>| {
        let severity = row.severity.label().to_uppercase();
        let finding = snapshot.findings.iter().find(|finding| finding.id == row.id);
        let age = finding.map_or(0.0, |it| snapshot.wall.now().since(it.since).as_secs_f64());
        let below = if row.is_led { "└ " } else { "" };
        let subject = finding.map(|it| &it.subject);
        let who = subject.and_then(|it| it.process.as_deref()).unwrap_or(&row.who);
        let pid = subject.and_then(|it| it.pid);
        let (what, count) = row.what.split_once(", ").unwrap_or((&row.what, ""));
        let cell = |it: &str| Cell::text(plain::text(it));
        Row {
            key: row.id.to_owned(),
            cells: vec![
                Cell::number(rank(row.severity), severity).tone(Tone::of(row.severity)),
                Cell::number(age, plain::text(&row.since)),
                cell(who),
                pid.map_or_else(Cell::default, |it| Cell::number(f64::from(it), it.to_string())),
                cell(&row.place),
                cell(&format!("{below}{what}")),
                Cell::number(first_number(count), plain::text(count)),
            ],
        }
    };
    overview(&incidents, snapshot.wall).into_iter().map(row).collect()
}

/// The number at the beginning of words, as they show it; 0 where there is none.
fn first_number(words: &str) -> f64 {
    let number = words.split(' ').next().unwrap_or_default().replace(',', "");
    number.parse().unwrap_or_default()
}

fn rank(severity: Severity) -> f64 {
    f64::from(severity as u8)
}

fn owners(snapshot: &Snapshot, history: &History) -> Vec<Row> {
    let mut all = snapshot.owners.clone();
    for listener in &snapshot.listeners {
        // An owner that only listens has its row in the view of listeners.
        if listener.queue + listener.half_open > 0 {
            all.entry(listener.owner.clone()).or_default();
        }
    }
    let mut rows: Vec<([f64; 3], Row)> = Vec::new();
    for (owner, Holdings { close_wait, failures }) in all {
        let sockets: u64 = close_wait.iter().map(|it| it.sockets).sum();
        let oldest = close_wait.iter().map(|it| it.oldest).max();
        let failed: f64 = failures.values().sum();
        let failing = history.now(|it| *it == Counter::FailuresOf(owner.clone()));
        let of_owner = || snapshot.listeners.iter().filter(|it| it.owner == owner);
        let queued = of_owner().map(|it| it.queue).sum();
        let half_open = of_owner().map(|it| it.half_open).sum();
        if sockets == 0 && failed == 0.0 && queued + half_open == 0 {
            continue;
        }
        let age = match oldest {
            Some(oldest) if sockets > 0 => duration(oldest),
            _ => nothing(),
        };
        let row = Row {
            key: key_of_owner(&owner),
            cells: vec![
                Cell::text(named(&owner.process)),
                Cell::text(&owner.unit),
                Cell::text(netns(&owner.netns)),
                count(sockets),
                age,
                rate(failing),
                if failures.is_empty() { nothing() } else { count(failed as u64) },
                count(queued),
                count(half_open),
            ],
        };
        rows.push(([sockets as f64, failing.unwrap_or(0.0), failed], row));
    }
    rows.sort_by(|(one, _), (other, _)| other.partial_cmp(one).unwrap_or(Ordering::Equal));
    rows.into_iter().map(|(_, row)| row).collect()
}

fn listeners(snapshot: &Snapshot, history: &History) -> Vec<Row> {
    let mut all: Vec<&Listener> = snapshot.listeners.iter().collect();
    all.sort_by(|one, other| {
        share(other.queue, other.limit)
            .total_cmp(&share(one.queue, one.limit))
            .then(other.half_open.cmp(&one.half_open))
            .then(port_number(&one.port).cmp(&port_number(&other.port)))
    });
    let row = |it: &Listener| {
        let owner = &it.owner;
        let share = share(it.queue, it.limit);
        let queue = format!("{}/{}", text::number(it.queue), text::number(it.limit));
        let drops = history.now(|counter| {
            matches!(counter, Counter::In(InNamespace::ListenDrops, netns) if *netns == owner.netns)
        });
        Row {
            key: key_of_listener(it),
            cells: vec![
                Cell::text(named(&owner.process)),
                Cell::text(&owner.unit),
                Cell::text(netns(&owner.netns)),
                Cell::number(f64::from(port_number(&it.port)), &it.port),
                Cell::number(it.queue as f64, queue).tone(if it.queue > 0 {
                    Tone::of_part(share)
                } else {
                    Tone::Plain
                }),
                Cell::bar(share),
                count(it.half_open),
                rate(drops),
            ],
        }
    };
    all.into_iter().map(row).collect()
}

fn ports(snapshot: &Snapshot, history: &History) -> Vec<Row> {
    let mut rows: Vec<(f64, Row)> = Vec::new();
    for (name, it) in &snapshot.namespaces {
        let time_wait = it.states.get("time_wait").copied().unwrap_or_default();
        let used = share(it.ports_used, it.ports_available);
        let of_limit = it.time_wait_limit.map(|limit| share(time_wait, limit));
        let fraction = |part: u64, of: u64| {
            let text = format!("{}/{}", text::number(part), text::number(of));
            Cell::number(part as f64, text)
        };
        let overflows = history.now(|counter| {
            matches!(counter, Counter::In(InNamespace::TimeWaitOverflows, netns) if netns == name)
        });
        let row = Row {
            key: name.clone(),
            cells: vec![
                Cell::text(netns(name)),
                fraction(it.ports_used, it.ports_available),
                Cell::bar(used),
                it.time_wait_limit.map_or_else(nothing, |limit| fraction(time_wait, limit)),
                of_limit.map_or_else(Cell::default, Cell::bar),
                rate(overflows),
                count(it.self_connected),
                Cell::text(worst_destination(snapshot, name)),
            ],
        };
        rows.push((used.max(of_limit.unwrap_or(0.0)), row));
    }
    rows.sort_by(|one, other| other.0.total_cmp(&one.0));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// The destination whose ports are scarce; metrics have no addresses, findings do.
fn worst_destination(snapshot: &Snapshot, netns: &str) -> String {
    let mut findings = snapshot.findings.iter().filter(|it| {
        it.kind == FindingKind::EphemeralPortExhaustion && *plain::text(&it.subject.netns) == *netns
    });
    let peer = findings.find_map(|it| it.subject.peer.as_deref());
    plain::text(peer.unwrap_or_default()).into_owned()
}

/// One row for each rate, those of one kind together. Causes that never moved have none.
fn rates(history: &History) -> Vec<Row> {
    use Counter::{
        Accepts, ActiveCloses, Connects, EventsLost, Failures, In, PassiveCloses, ResetsReceived,
        ResetsSent, Transitions,
    };
    use InNamespace::{
        ListenDrops, ListenOverflows, SelfConnections, SynCookies, TimeWaitOverflows,
    };
    type Group = (&'static str, fn(&Counter) -> bool);
    let groups: [Group; 14] = [
        ("state transitions", |it| *it == Transitions),
        ("connects to peers", |it| *it == Connects),
        ("connects from peers", |it| *it == Accepts),
        ("closed by this host first", |it| *it == ActiveCloses),
        ("closed by the peer first", |it| *it == PassiveCloses),
        ("failed connects", |it| matches!(it, Failures(_))),
        ("resets sent", |it| matches!(it, ResetsSent(_))),
        ("resets received", |it| matches!(it, ResetsReceived(_))),
        ("accept queue overflows", |it| matches!(it, In(ListenOverflows, _))),
        ("drops at listeners", |it| matches!(it, In(ListenDrops, _))),
        ("SYN cookies", |it| matches!(it, In(SynCookies, _))),
        ("TIME_WAIT overflows", |it| matches!(it, In(TimeWaitOverflows, _))),
        ("self-connections", |it| matches!(it, In(SelfConnections, _))),
        ("events lost by tcpwatch", |it| *it == EventsLost),
    ];
    let mut rows = Vec::new();
    for (name, is_part) in groups {
        if !history.has(is_part) {
            continue;
        }
        rows.push(rate_row(name.to_owned(), name, history, is_part));
        for part in history.moving().filter(|it| is_part(it)) {
            let label = match part {
                Failures(label) | ResetsSent(label) | ResetsReceived(label) => label,
                _ => continue,
            };
            let (key, below) = (format!("{name} {label}"), format!("└ {label}"));
            rows.push(rate_row(key, &below, history, |it| it == part));
        }
    }
    rows
}

fn rate_row(key: String, name: &str, history: &History, is_part: impl Fn(&Counter) -> bool) -> Row {
    let rates = history.rates(is_part);
    let peak = rates.iter().copied().flatten().reduce(f64::max);
    let cells = vec![
        Cell::text(name),
        rate(history.mean_of_last(&rates)),
        rate(mean(&rates)),
        rate(peak),
        Cell::graph(rates),
    ];
    Row { key, cells }
}

pub(super) fn key_of_owner(owner: &Owner) -> String {
    format!("{}\n{}\n{}", owner.netns, owner.unit, owner.process)
}

pub(super) fn key_of_listener(listener: &Listener) -> String {
    format!("{}\n{}", key_of_owner(&listener.owner), listener.port)
}

/// The name of a process.
pub(super) fn named(process: &str) -> &str {
    if process.is_empty() { "unknown" } else { process }
}

/// The name of a network namespace.
pub(super) fn netns(name: &str) -> &str {
    if name.is_empty() { "unnamed" } else { name }
}

/// A share of a limit; of none nothing is taken.
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

fn port_number(port: &str) -> u16 {
    port.parse().unwrap_or_default()
}

fn nothing() -> Cell {
    Cell::text("-").tone(Tone::Faint)
}

fn count(count: u64) -> Cell {
    let cell = Cell::number(count as f64, text::number(count));
    if count == 0 { cell.tone(Tone::Faint) } else { cell }
}

fn duration(duration: Duration) -> Cell {
    Cell::number(duration.as_secs_f64(), text::duration(duration))
}

fn rate(rate: Option<f64>) -> Cell {
    let Some(rate) = rate else { return nothing() };
    let cell = Cell::number(rate, text::amount(rate));
    if rate == 0.0 { cell.tone(Tone::Faint) } else { cell }
}
