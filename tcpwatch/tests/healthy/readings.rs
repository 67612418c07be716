//! The highest readings of each signal while a scene plays, and the findings that the agent raised
//! for it.
//!
//! Numbers that the agent publishes by namespace come from /metrics. Resets it publishes for the whole
//! host, so those come from the kernel's counters of the namespace, OutRsts of /proc/net/snmp.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use scenes::{Namespace, State};
use serde_json::Value;

use crate::{NOT_YET, stage::Scene};

/// How often the counters of the namespace are read.
const EVERY: Duration = Duration::from_secs(5);

/// The window of reset-storm and of accept-queue-overflow.
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) struct Readings {
    group: &'static str,
    scene: &'static str,
    ns: Namespace,
    seen: bool,
    /// Title of the first finding of each kind and severity.
    findings: BTreeMap<(String, String), String>,
    read: Option<Instant>,
    /// When, resets sent, connections dropped at a listener, connects that failed.
    counters: VecDeque<(Instant, [u64; 3])>,
    in_a_minute: [u64; 3],
    resets: u64,
    connects: u64,
    /// Since when a socket is in CLOSE_WAIT.
    close_wait: BTreeMap<(SocketAddr, SocketAddr), Instant>,
    oldest: Duration,
    most: BTreeMap<&'static str, f64>,
}

/// Gauges of the namespace, summed or the highest of its owners.
const GAUGES: [(&str, &str, &str); 9] = [
    ("close_wait", "tcpwatch_sockets{", "state=\"close_wait\""),
    ("close_wait_of_one", "tcpwatch_close_wait_sockets{", ""),
    ("queue", "tcpwatch_accept_queue_sockets{", ""),
    ("half_open", "tcpwatch_half_open_sockets{", ""),
    ("time_wait", "tcpwatch_sockets{", "state=\"time_wait\""),
    ("time_wait_limit", "tcpwatch_time_wait_limit{", ""),
    ("ports", "tcpwatch_ephemeral_ports_used{", ""),
    ("syn_sent", "tcpwatch_sockets{", "state=\"syn_sent\""),
    ("fin_wait2", "tcpwatch_sockets{", "state=\"fin_wait2\""),
];

impl Readings {
    pub(crate) fn new(scene: &Scene, ns: &Namespace) -> Self {
        Self {
            group: scene.group,
            scene: scene.name,
            ns: ns.clone(),
            seen: false,
            findings: BTreeMap::new(),
            read: None,
            counters: VecDeque::new(),
            in_a_minute: [0; 3],
            resets: 0,
            connects: 0,
            close_wait: BTreeMap::new(),
            oldest: Duration::ZERO,
            most: BTreeMap::new(),
        }
    }

    pub(crate) fn observe(&mut self, findings: &[Value], metrics: &str) -> Result<()> {
        for finding in findings.iter().filter(|it| it["subject"]["netns"] == self.ns.name()) {
            let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            self.findings.entry((text("kind"), text("severity"))).or_insert_with(|| text("title"));
        }
        let netns = format!("netns=\"{}\"", self.ns.name());
        for line in metrics.lines().filter(|line| line.contains(&netns)) {
            self.seen = true;
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            for (signal, name, label) in GAUGES {
                if series.starts_with(name) && series.contains(label) {
                    let most = self.most.entry(signal).or_default();
                    *most = most.max(value.parse()?);
                }
            }
        }
        let now = Instant::now();
        if self.read.is_none_or(|read| now - read >= EVERY) {
            self.read = Some(now);
            self.read_namespace(now)?;
        }
        Ok(())
    }

    fn read_namespace(&mut self, now: Instant) -> Result<()> {
        self.resets = self.ns.snmp_counter("OutRsts")?;
        self.connects = self.ns.snmp_counter("ActiveOpens")?;
        let failed = self.ns.snmp_counter("AttemptFails")?;
        let counters = [self.resets, self.ns.netstat_counter("ListenDrops")?, failed];
        self.counters.push_back((now, counters));
        while self.counters.front().is_some_and(|(then, _)| now - *then > MINUTE) {
            self.counters.pop_front();
        }
        if let Some((_, first)) = self.counters.front() {
            for ((most, now), then) in self.in_a_minute.iter_mut().zip(counters).zip(first) {
                *most = (*most).max(now - then);
            }
        }
        let mut close_wait = BTreeMap::new();
        for socket in self.ns.sockets()?.iter().filter(|it| it.state == State::CloseWait) {
            let key = (socket.local, socket.peer);
            let since = self.close_wait.get(&key).copied().unwrap_or(now);
            self.oldest = self.oldest.max(now - since);
            close_wait.insert(key, since);
        }
        self.close_wait = close_wait;
        Ok(())
    }

    /// Whether the scene plays in that namespace.
    pub(crate) fn is_of(&self, netns: &str) -> bool {
        netns == self.ns.name()
    }

    pub(crate) fn must_have_been_watched(&self) -> Result<()> {
        ensure!(self.seen, "the agent did not watch {}", self.ns.name());
        Ok(())
    }

    /// Kinds that are raised for this scene above info.
    pub(crate) fn raised(&self) -> impl Iterator<Item = (&str, &str)> {
        let above_info = |(_, severity): &&(String, String)| severity != "info";
        self.findings.keys().filter(above_info).map(|(kind, _)| (self.group, kind.as_str()))
    }

    /// Kinds that may still be raised for this scene.
    pub(crate) fn not_yet(&self) -> impl Iterator<Item = &str> {
        NOT_YET.iter().filter(|(group, _)| *group == self.group).map(|(_, kind)| *kind)
    }

    /// Findings of this scene that must not be raised.
    pub(crate) fn loud(&self) -> Vec<String> {
        let is_loud = |((kind, severity), _): &(&(String, String), &String)| {
            severity != "info" && self.not_yet().all(|it| it != kind)
        };
        let line = |((kind, severity), title): (&(String, String), &String)| {
            format!("{}: {kind}, {severity}: {title}", self.scene)
        };
        self.findings.iter().filter(is_loud).map(line).collect()
    }
}

/// A table in Markdown, a row for each scene.
pub(crate) fn table(readings: &[Readings]) -> String {
    let mut text = "| scene | resets in a minute | resets for 100 connects | failed connects in a \
        minute | CLOSE_WAIT (of one owner) | oldest, s | accept queue | drops in a minute | \
        half-open | TIME_WAIT | ports | SYN_SENT | FIN_WAIT2 | findings |\n"
        .to_owned();
    text.push_str(&"|---".repeat(14));
    text.push_str("|\n");
    for it in readings {
        let most = |signal: &str| it.most.get(signal).copied().unwrap_or_default();
        let [resets, drops, failed] = it.in_a_minute;
        // A scan makes no connection.
        let share = (100 * it.resets).checked_div(it.connects);
        let share = share.map_or_else(|| "-".to_owned(), |share| share.to_string());
        let findings: Vec<_> =
            it.findings.keys().map(|(kind, severity)| format!("{kind} {severity}")).collect();
        let _ = writeln!(
            text,
            "| {} | {resets} | {share} | {failed} | {} ({}) | {} | {} | {drops} | {} | {} of {} | {} \
             | {} | {} | {} |",
            it.scene,
            most("close_wait"),
            most("close_wait_of_one"),
            it.oldest.as_secs(),
            most("queue"),
            most("half_open"),
            most("time_wait"),
            most("time_wait_limit"),
            most("ports"),
            most("syn_sent"),
            most("fin_wait2"),
            findings.join(", "),
        );
    }
    for it in readings {
        for ((kind, severity), title) in &it.findings {
            let _ = writeln!(text, "{}: {kind}, {severity}: {title}", it.scene);
        }
    }
    text
}
