//! Every metric of `/metrics`, its name written once.
//!
//! A metric's doc comment below is its HELP line and its row in docs/METRICS.md. Gauges show the last
//! inventory and vanish with their object; counters only rise. Those by owner or namespace end with
//! it, their total under `other`. A series that needs a missing hook is absent, never 0. Every
//! value of a closed enum is there, zero included. No label carries a pid, an address or an
//! ephemeral port.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use prometheus::{TextEncoder, core::Desc, proto::MetricFamily};

use super::{
    WallClock,
    family::{Counter, Gauge, Histogram, MetricKind, MetricRow, Seconds},
    process,
};
use crate::{
    engine::{FindingKind, Samples, Severity, reset_cause},
    facts::{
        ConnectFailure, Inventory, KernelCounters, PassTotals, ResetCause, Role, TableUse, TcpState,
    },
};

macro_rules! row {
    ($kind:ident, $name:literal, [$($label:ident),*], $($help:literal),+) => {
        MetricRow {
            name: $name,
            kind: MetricKind::$kind,
            labels: &[$(stringify!($label)),*],
            help: concat!($($help),+).trim_ascii(),
        }
    };
}

macro_rules! families {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ident = $name:literal [$($label:ident),*];)+) => {
        /// Every metric of tcpwatch's own, in the order of docs/METRICS.md.
        pub const CATALOG: &[MetricRow] = &[$(row!($kind, $name, [$($label),*], $($help),+)),+];

        #[derive(Debug)]
        struct Families {
            $($(#[doc = $help])+ $field: $kind<{ arity(&[$(stringify!($label)),*]) }>,)+
        }

        impl Families {
            const fn new() -> Self {
                Self { $($field: $kind::new(row!($kind, $name, [$($label),*], $($help),+)),)+ }
            }

            fn families(&self) -> Vec<MetricFamily> {
                vec![$(self.$field.family()),+]
            }
        }
    };
}

const fn arity(labels: &[&str]) -> usize {
    labels.len()
}

families! {
    /// Version and revision of this tcpwatch; always 1.
    build_info: Gauge = "tcpwatch_build_info" [version, revision];
    /// The URL of the page where `web.external_url` is set, without a slash at its end; always 1.
    web_info: Gauge = "tcpwatch_web_info" [external_url];

    /// TCP sockets by state at the last inventory.
    sockets: Gauge = "tcpwatch_sockets" [netns, state];
    /// Transitions between TCP states; one to TIME_WAIT is reported as one to CLOSE.
    state_transitions: Counter = "tcpwatch_state_transitions_total" [from, to];

    /// Sockets in CLOSE_WAIT: the peer has closed, the owner has not. The port is the peer's for a
    /// client and the listening port for a server.
    close_wait_sockets: Gauge = "tcpwatch_close_wait_sockets" [netns, process, unit, role, port];
    /// Age of the owner's oldest socket in CLOSE_WAIT; a lower bound if it was not seen to enter.
    close_wait_oldest: Gauge = "tcpwatch_close_wait_oldest_seconds" [netns, process, unit, role, port];
    /// Time that sockets had spent in CLOSE_WAIT when they left it, of those seen to enter it; up to a
    /// tick of the kernel's clock (1 to 10 ms) too short on a busy CPU, and 0 if shorter than that.
    close_wait_duration: Histogram = "tcpwatch_close_wait_duration_seconds" [];

    /// TIME_WAIT sockets that the namespace may have: tcp_max_tw_buckets.
    time_wait_limit: Gauge = "tcpwatch_time_wait_limit" [netns];
    /// Sockets destroyed at once because the limit of TIME_WAIT sockets was reached.
    time_wait_overflows: Counter = "tcpwatch_time_wait_overflows_total" [netns];

    /// Local ports taken for the destination that has taken most.
    ephemeral_ports_used: Gauge = "tcpwatch_ephemeral_ports_used" [netns];
    /// Local ports that one destination can have: ip_local_port_range without the reserved ones.
    ephemeral_ports_available: Gauge = "tcpwatch_ephemeral_ports_available" [netns];
    /// Calls of connect() that failed after SYN_SENT, by process and reason.
    connect_failures: Counter = "tcpwatch_connect_failures_total" [netns, process, unit, reason];

    /// Sockets that were seen to be connected to themselves, as it happened.
    self_connections: Counter = "tcpwatch_self_connections_total" [netns];
    /// Sockets that are connected to themselves.
    self_connected_sockets: Gauge = "tcpwatch_self_connected_sockets" [netns];

    /// Resets that this host sent, by cause.
    resets_sent: Counter = "tcpwatch_resets_sent_total" [cause];
    /// Resets that this host received, by the state of the socket that they hit.
    resets_received: Counter = "tcpwatch_resets_received_total" [state];

    /// Half-open connections of a listening port.
    half_open_sockets: Gauge = "tcpwatch_half_open_sockets" [netns, process, unit, port];
    /// Connections that wait for accept() on a listening port.
    accept_queue_sockets: Gauge = "tcpwatch_accept_queue_sockets" [netns, process, unit, port];
    /// Connections that may wait for accept() on a listening port; the kernel lets in one more.
    accept_queue_limit: Gauge = "tcpwatch_accept_queue_limit" [netns, process, unit, port];
    /// Connections dropped because an accept queue was full.
    listen_overflows: Counter = "tcpwatch_listen_overflows_total" [netns];
    /// Connections dropped at a listener for any reason, full accept queues included.
    listen_drops: Counter = "tcpwatch_listen_drops_total" [netns];
    /// SYN cookies sent because the queue of half-open connections was full.
    syncookies_sent: Counter = "tcpwatch_syncookies_sent_total" [netns];

    /// Active findings.
    findings: Gauge = "tcpwatch_findings" [kind, severity];
    /// Active findings of an owner that no other finding leads; those cut as "other" are summed.
    finding_active: Gauge = "tcpwatch_finding_active" [kind, severity, netns, process, unit, port];
    /// When the first of these findings was raised, in seconds since the epoch.
    finding_start: Gauge = "tcpwatch_finding_start_timestamp_seconds" [kind, severity, netns, process, unit, port];

    /// Namespaces that the agent is in, `host` or `own`, and how it walks; always 1.
    scope_info: Gauge = "tcpwatch_scope_info" [pidns, netns, walk];
    /// Whether a hook is attached, 1 or 0; series that need a missing hook are absent.
    hook_attached: Gauge = "tcpwatch_hook_attached" [hook];
    /// Runs of a hook, as it counts them itself, also for sockets that it passes over.
    hook_runs: Counter = "tcpwatch_hook_runs_total" [hook];
    /// Starts of this process by what became of the hooks of the one before: they go on, with all
    /// counts and ages (adopted); new ones were attached before they ended (handed_over); there were
    /// none (fresh).
    handover: Counter = "tcpwatch_handover_total" [outcome];
    /// Time without hooks between this process and the one before; absent where that one left nothing.
    blind: Seconds = "tcpwatch_blind_seconds_total" [];
    /// Events lost on their way from the kernel, and log lines lost, by stage.
    events_lost: Counter = "tcpwatch_events_lost_total" [stage];
    /// Time that the last inventory took to walk the socket tables.
    inventory_duration: Gauge = "tcpwatch_inventory_duration_seconds" [];
    /// When the last inventory ended, in seconds since the epoch.
    inventory_timestamp: Gauge = "tcpwatch_inventory_timestamp_seconds" [];
    /// The present time from one inventory to the next: longer than configured where sockets are many.
    inventory_interval: Gauge = "tcpwatch_inventory_interval_seconds" [];
    /// Processor time that tcpwatch took, by part: inventories, or the loop with all that it serves.
    cpu: Seconds = "tcpwatch_cpu_seconds_total" [part];
    /// Slices of inventories: in each no other process runs on that CPU. Absent where the iterator walks.
    inventory_slices: Counter = "tcpwatch_inventory_slices_total" [];
    /// The longest slice of the last inventory, with the interrupts within it.
    inventory_longest_slice: Gauge = "tcpwatch_inventory_longest_slice_seconds" [];
    /// Chains of sockets that moved while an inventory read them, and were read again.
    inventory_chains_read_again: Counter = "tcpwatch_inventory_chains_read_again_total" [];
    /// Sockets in any state that the last inventory counted.
    inventory_sockets: Gauge = "tcpwatch_inventory_sockets" [netns];
    /// Entries in a table of fixed size.
    table_entries: Gauge = "tcpwatch_table_entries" [table];
    /// Entries that a table of fixed size can hold.
    table_limit: Gauge = "tcpwatch_table_limit" [table];
    /// Whether the configuration was accepted when it was last read, 1 or 0.
    config_last_reload_successful: Gauge = "tcpwatch_config_last_reload_successful" [];
    /// When a configuration was last accepted, in seconds since the epoch.
    config_last_reload_success: Gauge = "tcpwatch_config_last_reload_success_timestamp_seconds" [];
}

/// The table of metrics, in Markdown.
#[must_use]
pub fn catalog_markdown() -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for MetricRow { name, kind, labels, help } in CATALOG {
        let (kind, labels) = (kind.label(), labels.join(", "));
        // Writing to a String cannot fail.
        let _ = writeln!(table, "| `{name}` | {kind} | {labels} | {help} |");
    }
    table
}

/// All metrics, with their values.
#[derive(Debug)]
pub struct Metrics {
    families: Families,
}

impl Metrics {
    /// Without values but for the build and the configuration, which was read or there would be no
    /// agent.
    ///
    /// # Errors
    ///
    /// When Prometheus allows no such name; a test sees to it that it does.
    pub fn new(version: &str, revision: &str) -> Result<Self, prometheus::Error> {
        for MetricRow { name, labels, help, .. } in CATALOG {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new((*name).to_owned(), (*help).to_owned(), labels, HashMap::new())?;
        }
        let mut families = Families::new();
        families.build_info.set([version, revision], 1.0);
        families.config_last_reload_successful.set([], 1.0);
        Ok(Self { families })
    }

    /// Takes over the samples of the engine.
    pub fn observe_samples(&mut self, samples: &Samples, wall: WallClock) {
        self.observe_namespaces(samples);
        self.observe_owners(samples);
        self.observe_findings(samples, wall);
        self.families.events_lost.grow([(["reset_rows"], samples.reset_rows_lost)]);
    }

    fn observe_namespaces(&mut self, samples: &Samples) {
        let families = &mut self.families;
        families.sockets.clear();
        families.time_wait_limit.clear();
        families.ephemeral_ports_used.clear();
        families.ephemeral_ports_available.clear();
        families.self_connected_sockets.clear();
        for namespace in &samples.namespaces {
            let netns = &*namespace.netns;
            for state in TcpState::ALL {
                let sockets = namespace.sockets.get(state);
                families.sockets.add([netns, state.label()], sockets as f64);
            }
            if let Some(limit) = namespace.time_wait_limit {
                families.time_wait_limit.add([netns], limit as f64);
            }
            families.ephemeral_ports_used.add([netns], namespace.ports_used as f64);
            families.ephemeral_ports_available.add([netns], namespace.ports_available as f64);
            families.self_connected_sockets.add([netns], namespace.self_connected as f64);
        }

        let all = || samples.namespace_totals.iter();
        families
            .self_connections
            .show(all().map(|totals| ([&*totals.netns], totals.self_connections)));
        let netstat = || all().filter_map(|totals| Some((&*totals.netns, totals.netstat?)));
        let families = &mut self.families;
        families
            .time_wait_overflows
            .show(netstat().map(|(netns, netstat)| ([netns], netstat.time_wait_overflows)));
        families
            .listen_overflows
            .show(netstat().map(|(netns, netstat)| ([netns], netstat.listen_overflows)));
        families
            .listen_drops
            .show(netstat().map(|(netns, netstat)| ([netns], netstat.listen_drops)));
        families
            .syncookies_sent
            .show(netstat().map(|(netns, netstat)| ([netns], netstat.syncookies_sent)));
    }

    fn observe_owners(&mut self, samples: &Samples) {
        let families = &mut self.families;
        families.close_wait_sockets.clear();
        families.close_wait_oldest.clear();
        for sample in &samples.close_wait {
            let (role, port) = (sample.role.map_or("", Role::label), port_label(sample.port));
            let owner = &sample.owner;
            let labels = [&*sample.netns, &owner.process, &owner.unit, role, &port];
            families.close_wait_sockets.add(labels, sample.sockets as f64);
            families.close_wait_oldest.raise(labels, sample.oldest.as_secs_f64());
        }

        families.half_open_sockets.clear();
        families.accept_queue_sockets.clear();
        families.accept_queue_limit.clear();
        for sample in &samples.listeners {
            let port = port_label(sample.port);
            let labels = [&*sample.netns, &sample.owner.process, &sample.owner.unit, &port];
            families.half_open_sockets.add(labels, sample.half_open as f64);
            families.accept_queue_sockets.add(labels, sample.accept_queue as f64);
            families.accept_queue_limit.add(labels, sample.accept_limit as f64);
        }

        families.connect_failures.show(samples.connect_failures.iter().flat_map(|sample| {
            ConnectFailure::ALL.map(|reason| {
                let total = if reason == sample.reason { sample.total } else { 0 };
                (
                    [&*sample.netns, &*sample.owner.process, &*sample.owner.unit, reason.label()],
                    total,
                )
            })
        }));
    }

    fn observe_findings(&mut self, samples: &Samples, wall: WallClock) {
        let families = &mut self.families;
        families.findings.clear();
        for kind in FindingKind::ALL {
            for severity in Severity::ALL {
                families.findings.set([kind.name(), severity.label()], 0.0);
            }
        }
        families.finding_active.clear();
        families.finding_start.clear();
        for sample in &samples.findings {
            let (kind, severity) = (sample.kind.name(), sample.severity.label());
            let (owner, port) = (&sample.owner, port_label(sample.port));
            let labels = [kind, severity, &*sample.netns, &owner.process, &owner.unit, &port];
            families.findings.add([kind, severity], sample.count as f64);
            if !sample.is_led {
                families.finding_active.add(labels, sample.count as f64);
                families.finding_start.lower(labels, wall.unix_seconds(sample.since));
            }
        }
    }

    /// Takes over the counters of the kernel side.
    pub fn observe_counters(&mut self, counters: &KernelCounters) {
        let families = &mut self.families;
        families.hook_runs.grow(counters.runs.iter().map(|&(hook, total)| ([hook], total)));
        let every_transition = TcpState::TRANSITIONS.map(|transition| (transition, 0));
        let transitions = every_transition.into_iter().chain(counters.transitions.iter().copied());
        families
            .state_transitions
            .grow(transitions.map(|((from, to), total)| ([from.label(), to.label()], total)));

        families.close_wait_duration.set([], counters.close_wait.clone());

        match &counters.resets_sent {
            None => families.resets_sent.clear(),
            Some(observations) => {
                let can_be_seen = |cause: &ResetCause| !counters.unseen_causes.contains(cause);
                let every_cause =
                    ResetCause::ALL.into_iter().filter(can_be_seen).map(|cause| (cause, 0));
                let seen = observations.iter().map(|(seen, total)| (reset_cause(seen), *total));
                let totals = every_cause.chain(seen).map(|(cause, total)| ([cause.label()], total));
                families.resets_sent.grow(totals);
            }
        }
        match &counters.resets_received {
            None => families.resets_received.clear(),
            Some(totals) => {
                // Only a full socket is reset: a minisocket is just dropped, a listener ignores it.
                let every_state = TcpState::ALL
                    .into_iter()
                    .filter(|state| !matches!(state, TcpState::TimeWait | TcpState::Listen))
                    .map(|state| (state, 0));
                let totals = every_state.chain(totals.iter().copied());
                families
                    .resets_received
                    .grow(totals.map(|(state, total)| ([state.label()], total)));
            }
        }

        self.observe_tables(&counters.tables);
        let families = &mut self.families;
        families.events_lost.grow(counters.lost.iter().map(|&(stage, total)| ([stage], total)));
    }

    /// Takes over how an inventory went.
    pub fn observe_inventory(
        &mut self,
        duration: Duration,
        finished_unix_seconds: f64,
        inventory: &Inventory,
    ) {
        let families = &mut self.families;
        families.inventory_duration.set([], duration.as_secs_f64());
        families.inventory_timestamp.set([], finished_unix_seconds);
        families.inventory_sockets.clear();
        for namespace in &inventory.namespaces {
            let sockets = namespace.sockets.total();
            families.inventory_sockets.add([&namespace.name], sockets as f64);
        }
    }

    /// Takes over the processor time of one more inventory.
    pub fn observe_inventory_cpu(&mut self, cpu_time: Duration) {
        self.families.cpu.add(["inventory"], cpu_time);
    }

    /// Takes over the slices of the one pass. Without one there are no such series.
    pub fn observe_passes(&mut self, passes: &PassTotals) {
        if passes.slices == 0 {
            return;
        }
        let families = &mut self.families;
        families.inventory_slices.grow([([], passes.slices)]);
        families.inventory_longest_slice.set([], passes.longest_slice.as_secs_f64());
        families.inventory_chains_read_again.grow([([], passes.read_again)]);
    }

    /// Takes over the present interval between inventories, and the processor time that the calling
    /// thread, the loop's, has taken since it began.
    pub fn observe_loop(&mut self, interval: Duration, cpu_time: Duration) {
        self.families.inventory_interval.set([], interval.as_secs_f64());
        self.families.cpu.raise(["loop"], cpu_time);
    }

    /// Takes over whether the agent's pid and network namespaces are the host's, and how it walks.
    pub fn observe_scope(&mut self, pidns: &str, netns: &str, walk: &str) {
        self.families.scope_info.clear();
        self.families.scope_info.set([pidns, netns, walk], 1.0);
    }

    /// Takes over the URL under which people reach the page, where one is configured.
    pub fn observe_external_url(&mut self, url: &str) {
        self.families.web_info.clear();
        self.families.web_info.set([url.trim_end_matches('/')], 1.0);
    }

    /// Takes over how the hooks came about, and whether there were any all the time since the process
    /// before.
    pub fn observe_handover(&mut self, outcome: &str, goes_on: bool) {
        const OUTCOMES: [&str; 3] = ["adopted", "handed_over", "fresh"];
        let count = |it: &'static str| ([it], u64::from(it == outcome));
        self.families.handover.grow(OUTCOMES.map(count));
        if goes_on {
            self.families.blind.raise([], Duration::ZERO);
        }
    }

    /// Takes over which hooks are attached.
    pub fn observe_hooks(&mut self, hooks: &[(&'static str, bool)]) {
        self.families.hook_attached.clear();
        for &(hook, attached) in hooks {
            self.families.hook_attached.set([hook], f64::from(u8::from(attached)));
        }
    }

    /// Takes over how full the tables are; one that is not mentioned keeps its number.
    pub fn observe_tables(&mut self, tables: &[TableUse]) {
        let families = &mut self.families;
        for &TableUse { table, entries, limit } in tables {
            families.table_entries.set([table], entries as f64);
            families.table_limit.set([table], limit as f64);
        }
    }

    /// Takes over when the configuration last read was accepted, in seconds since the epoch; `None`
    /// if it was refused.
    pub fn observe_reload(&mut self, accepted: Option<f64>) {
        let is_accepted = f64::from(u8::from(accepted.is_some()));
        self.families.config_last_reload_successful.set([], is_accepted);
        if let Some(at) = accepted {
            self.families.config_last_reload_success.set([], at);
        }
    }

    /// The text that Prometheus reads, format 0.0.4, by name and labels.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut families = self.families.families();
        families.extend(process::collect());
        self::encode(families)
    }

    /// Without `process_*`, whose values no two runs share.
    #[cfg(test)]
    pub(super) fn encode_own(&self) -> String {
        self::encode(self.families.families())
    }
}

fn encode(mut families: Vec<MetricFamily>) -> String {
    families.retain(|family| !family.get_metric().is_empty());
    families.sort_by(|one, other| one.name().cmp(other.name()));
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
        // Writing to a String cannot fail, and empty families were removed; a scrape that ends
        // early is still better than an agent that does.
        tracing::error!(%error, "cannot encode the metrics");
    }
    text
}

fn port_label(port: Option<u16>) -> String {
    port.map_or_else(String::new, |port| port.to_string())
}
