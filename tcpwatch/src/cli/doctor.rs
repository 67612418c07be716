//! `tcpwatch doctor`: what this kernel and these privileges let tcpwatch see.
//!
//! It loads the programs and takes one inventory, as `check` does, and says how each part fared. A
//! refusal is explained only by its error number and by the restrictions of this process.

use std::{fmt::Write as _, io::Write as _, path::PathBuf};

use rustix::thread::CapabilitySet;
use serde::Serialize;

use super::{
    Exit, config_source,
    cost::Cost,
    running::{RunningAgent, find_agents},
};
use crate::{
    config::Config,
    facts::{Focus, NotSeen},
    kernel::{
        AppArmor, Confinement, Hook, HookStatus, LoadError, LoadOptions, Measured, OnRequest,
        OwnerPolicy, Programs, Reach, Refusal, Restrictions, WalkStatus, Whose, holds,
    },
    plain,
};

/// Everything that is printed.
#[derive(Serialize)]
struct Report {
    verdict: String,
    kernel: String,
    hooks: Vec<HookRow>,
    /// `None` where nothing was loaded.
    walk: Option<WalkRow>,
    namespaces: Vec<NamespaceRow>,
    capabilities: Vec<CapabilityRow>,
    /// `None` where the kernel does not show it.
    lockdown: Option<String>,
    security_modules: Option<Vec<String>>,
    #[serde(flatten)]
    confinement: Confinement,
    configuration: ConfigurationRow,
    agents: Vec<RunningAgent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<Cost>,
    not_seen: Vec<NotSeen>,
}

/// A row for a hook.
#[derive(Serialize)]
struct HookRow {
    hook: &'static str,
    target: &'static str,
    attached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
    lost_without: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// How inventories see the sockets.
#[derive(Serialize)]
struct WalkRow {
    /// `one_pass` or `iterator`.
    walk: &'static str,
    /// Why the one pass is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not_one_pass: Option<String>,
}

/// A row for a namespace of this process.
#[derive(Serialize)]
struct NamespaceRow {
    namespace: &'static str,
    /// `host`, `own`, or empty where it is not known.
    of: &'static str,
    lost_without: &'static str,
}

/// A row for a capability.
#[derive(Serialize)]
struct CapabilityRow {
    capability: &'static str,
    held: bool,
    lost_without: &'static str,
}

/// The configuration that the agent would start with.
#[derive(Serialize)]
struct ConfigurationRow {
    /// `None`: there is no file, the defaults hold.
    file: Option<PathBuf>,
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

const CAPABILITIES: [(CapabilitySet, &str, &str); 4] = [
    (CapabilitySet::BPF, "CAP_BPF", "everything: no eBPF program can be loaded"),
    (CapabilitySet::PERFMON, "CAP_PERFMON", "everything: no eBPF program can be attached"),
    (
        CapabilitySet::SYS_ADMIN,
        "CAP_SYS_ADMIN",
        "counters of namespaces without a process; before Linux 6.1 all of other namespaces",
    ),
    (
        CapabilitySet::SYS_PTRACE,
        "CAP_SYS_PTRACE",
        "namespaces, executables and stacks of processes of other users",
    ),
];

pub(super) fn doctor(json: bool, config: Option<PathBuf>, with_cost: bool) -> Exit {
    let (configuration, config) = configuration(config);
    let measured = with_cost.then(Measured::of_this_host);
    let loaded = Programs::load(&LoadOptions {
        one_pass: config.inventory.one_pass,
        on_request: OnRequest::ALL,
        ..LoadOptions::default()
    });
    let restrictions = Restrictions::read();
    let hooks = hooks(&loaded, &restrictions);
    let walk = loaded.as_ref().ok().map(|programs| walk(programs.walk()));
    let reach = Reach::detect();
    let cost = measured.map(Cost::measure);
    let (outcome, not_seen) = match loaded {
        Ok(programs) => look(programs, &config),
        Err(error) => (Err(Unable::Load(error)), Vec::new()),
    };
    let report = Report {
        verdict: verdict(&outcome, &not_seen),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        hooks,
        walk,
        namespaces: namespaces(reach),
        capabilities: capabilities(),
        lockdown: restrictions.lockdown,
        security_modules: restrictions.modules,
        confinement: Confinement::read(),
        configuration,
        agents: find_agents(&config.web.socket, &config.web.listen_addresses),
        cost,
        not_seen,
    };
    let text = if json { as_json(&report) } else { as_text(&report) };
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        return Exit::failed(&error);
    }
    match outcome {
        Ok(()) => Exit::Ok,
        Err(Unable::Load(error)) => Exit::load(&error),
        Err(Unable::Look(error)) => Exit::failed(&*error),
    }
}

/// Why tcpwatch cannot run here.
enum Unable {
    Load(LoadError),
    Look(Box<dyn std::error::Error>),
}

/// One inventory: the agent has the same limits of sight.
fn look(programs: Programs, config: &Config) -> (Result<(), Unable>, Vec<NotSeen>) {
    let known = programs.not_seen();
    if let Err(error) = programs.require_indispensable() {
        return (Err(Unable::Load(error)), known);
    }
    let split = programs.split(config.inventory.namespaces, config.limits.close_wait_sockets);
    let (_ring, _counters, mut walker, _links) = match split {
        Ok(split) => split,
        Err(error) => return (Err(Unable::Load(error)), known),
    };
    match walker.inventory(OwnerPolicy::AtOnce, &Focus::default()) {
        Ok(inventory) => (Ok(()), inventory.not_seen),
        Err(error) => (Err(Unable::Look(Box::new(error))), known),
    }
}

fn verdict(outcome: &Result<(), Unable>, not_seen: &[NotSeen]) -> String {
    let hidden: Vec<&str> =
        not_seen.iter().filter(|it| it.hides_host).map(|it| it.lost.as_str()).collect();
    match outcome {
        Err(Unable::Load(error)) => format!("tcpwatch cannot run here: {error}"),
        Err(Unable::Look(error)) => format!("tcpwatch cannot take an inventory here: {error}"),
        Ok(()) if !hidden.is_empty() => {
            format!("tcpwatch runs here, but does not see {}", hidden.join(", nor "))
        }
        Ok(()) if !not_seen.is_empty() => {
            format!("tcpwatch runs here; not seen ({}), see the end", not_seen.len())
        }
        Ok(()) => "tcpwatch runs here and sees all of this host".to_owned(),
    }
}

/// The row, and the configuration to look with: the default where the file is refused.
fn configuration(named: Option<PathBuf>) -> (ConfigurationRow, Config) {
    let source = config_source(named);
    let file = source.file();
    match source.load() {
        Ok(config) => (ConfigurationRow { file, valid: true, error: None }, config),
        Err(error) => {
            let error = Some(error.to_string());
            (ConfigurationRow { file, valid: false, error }, Config::default())
        }
    }
}

fn hooks(loaded: &Result<Programs, LoadError>, restrictions: &Restrictions) -> Vec<HookRow> {
    let statuses = match loaded {
        Ok(programs) => programs.statuses().to_vec(),
        Err(error) => {
            let outcome = Err(Refusal::other(error.to_string()));
            Hook::ALL.map(|hook| HookStatus { hook, outcome: outcome.clone() }).to_vec()
        }
    };
    let row = |HookStatus { hook, outcome }: HookStatus| HookRow {
        hook: hook.name,
        target: hook.target,
        attached: outcome.is_ok(),
        remedy: outcome.as_ref().err().map(|refusal| remedy(loaded, &hook, refusal, restrictions)),
        why_not: outcome.err().map(|refusal| refusal.to_string()),
        lost_without: hook.lost_without,
    };
    statuses.into_iter().map(row).collect()
}

fn walk(status: &WalkStatus) -> WalkRow {
    let why_not_one_pass = match status {
        WalkStatus::OnePass => None,
        WalkStatus::Iterator(refusal) => Some(refusal.to_string()),
    };
    WalkRow { walk: status.label(), why_not_one_pass }
}

fn remedy(
    loaded: &Result<Programs, LoadError>,
    hook: &Hook,
    refusal: &Refusal,
    restrictions: &Restrictions,
) -> String {
    match loaded {
        Ok(_) => refusal.remedy(hook, restrictions),
        Err(error) if error.is_not_permitted() => {
            "run as root, or as the packaged systemd unit".to_owned()
        }
        // The error itself names the remedy, if one is known.
        Err(error) => error.to_string(),
    }
}

fn namespaces(reach: Reach) -> Vec<NamespaceRow> {
    let row = |namespace, of: Whose, lost_without| NamespaceRow {
        namespace,
        of: of.label(),
        lost_without,
    };
    vec![
        row("pid", reach.pidns, "the host's processes: owners outside the container"),
        row("network", reach.netns, "the host's own sockets, unless its namespace is found"),
    ]
}

fn capabilities() -> Vec<CapabilityRow> {
    CAPABILITIES
        .iter()
        .map(|&(capability, name, lost_without)| CapabilityRow {
            capability: name,
            held: holds(capability),
            lost_without,
        })
        .collect()
}

fn as_json(report: &Report) -> String {
    let json = serde_json::to_string_pretty(report).expect("plain data is always JSON");
    format!("{json}\n")
}

fn as_text(report: &Report) -> String {
    let mut text =
        format!("{}\n\nkernel {}\n\n", plain::text(&report.verdict), plain::text(&report.kernel));
    for row in &report.hooks {
        let state = if row.attached { "attached" } else { "missing" };
        let _ = writeln!(text, "{:<14} {:<30} {state}", row.hook, row.target);
        if let Some(why) = &row.why_not {
            let _ = writeln!(text, "    why not: {}", plain::text(why));
            let _ = writeln!(text, "    lost:    {}", row.lost_without);
        }
        if let Some(remedy) = &row.remedy {
            let _ = writeln!(text, "    do:      {remedy}");
        }
    }
    if let Some(row) = &report.walk {
        write_walk(&mut text, row);
    }
    text.push('\n');
    for row in &report.namespaces {
        let state = match row.of {
            "host" => "the host's",
            "own" => "not the host's",
            _ => "not known",
        };
        let name = format!("{} namespace", row.namespace);
        let _ = writeln!(text, "{name:<18} {state}");
        if row.of != "host" {
            let _ = writeln!(text, "    lost:    {}", row.lost_without);
        }
    }
    text.push('\n');
    for row in &report.capabilities {
        let state = if row.held { "held" } else { "missing" };
        let _ = writeln!(text, "{:<14} {state}", row.capability);
        if !row.held {
            let _ = writeln!(text, "    lost:    {}", row.lost_without);
        }
    }
    text.push('\n');
    write_host(&mut text, report);
    if let Some(cost) = &report.cost {
        text.push('\n');
        cost.write(&mut text);
    }
    if !report.not_seen.is_empty() {
        text.push('\n');
    }
    for it in &report.not_seen {
        let _ = writeln!(text, "not seen       {it}");
    }
    text
}

fn write_walk(text: &mut String, row: &WalkRow) {
    let how = match row.why_not_one_pass {
        None => "one pass over the sockets of all namespaces",
        Some(_) => "one namespace after the other, by iter/tcp",
    };
    let _ = writeln!(text, "{:<14} {how}", "walk");
    if let Some(why) = &row.why_not_one_pass {
        let _ = writeln!(text, "    why not: one pass: {}", plain::text(why));
        let _ = writeln!(
            text,
            "    lost:    namespaces that only a descriptor keeps, sockets that are only bound"
        );
    }
}

/// Restrictions of tcpwatch, and the agents that run.
fn write_host(text: &mut String, report: &Report) {
    let unknown = "not shown (securityfs is not mounted)";
    let lockdown = report.lockdown.as_deref().unwrap_or(unknown);
    let _ = writeln!(text, "{:<14} {lockdown}", "lockdown");
    let modules = match &report.security_modules {
        Some(modules) if modules.is_empty() => "none".to_owned(),
        Some(modules) => modules.join(", "),
        None => unknown.to_owned(),
    };
    let _ = writeln!(text, "{:<14} {modules}", "LSMs");
    write_confinement(text, &report.confinement);
    let file = match &report.configuration.file {
        Some(file) => file.display().to_string(),
        None => "no file, the defaults".to_owned(),
    };
    let state = if report.configuration.valid { "valid" } else { "refused" };
    let _ = writeln!(text, "{:<14} {file}: {state}", "configuration");
    if let Some(error) = &report.configuration.error {
        let _ = writeln!(text, "    why not: {error}");
    }
    for agent in &report.agents {
        let _ = writeln!(text, "{:<14} {agent}", "agent");
    }
}

/// A row for each module that can confine this process by a policy.
fn write_confinement(text: &mut String, confinement: &Confinement) {
    let selinux = match &confinement.selinux {
        None => "not in force".to_owned(),
        Some(selinux) => {
            let mode = if selinux.enforcing { "enforcing" } else { "permissive, it only logs" };
            let context = selinux.context.as_deref().unwrap_or("a context that is not shown");
            format!("{mode}; this process runs as {}", plain::text(context))
        }
    };
    let _ = writeln!(text, "{:<14} {selinux}", "SELinux");
    let apparmor = match &confinement.apparmor {
        None => "not in force".to_owned(),
        Some(AppArmor { profile: None, .. }) => "no profile confines this process".to_owned(),
        Some(AppArmor { profile: Some(profile), mode }) => {
            let mode = mode.as_deref().unwrap_or("mode not shown");
            let (profile, mode) = (plain::text(profile), plain::text(mode));
            format!("profile {profile} ({mode}) confines this process")
        }
    };
    let _ = writeln!(text, "{:<14} {apparmor}", "AppArmor");
    let confines = |it: &AppArmor| it.profile.is_some() && it.mode.as_deref() != Some("complain");
    if confinement.apparmor.as_ref().is_some_and(confines) {
        let _ = writeln!(
            text,
            "    lost:    processes that the profile hides: their namespaces, executables and stacks"
        );
        let _ = writeln!(text, "    do:      run tcpwatch without a profile (unconfined)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{facts::Unseen, kernel::SeLinux};

    #[test]
    fn a_policy_that_confines_has_a_row_and_one_that_enforces_a_remedy() {
        let rows = |confinement: &Confinement| {
            let mut text = String::new();
            write_confinement(&mut text, confinement);
            text
        };
        let free = rows(&Confinement::default());
        assert_eq!(free.matches("not in force").count(), 2, "{free}");
        let context = Some("system_u:system_r:init_t:s0".to_owned());
        let selinux = Some(SeLinux { enforcing: true, context });
        let shown = rows(&Confinement { selinux, apparmor: None });
        assert!(shown.contains("enforcing; this process runs as system_u:"), "{shown}");
        let profile = |mode: &str| {
            let (profile, mode) = (Some("docker-default".to_owned()), Some(mode.to_owned()));
            rows(&Confinement { selinux: None, apparmor: Some(AppArmor { profile, mode }) })
        };
        let enforced = profile("enforce");
        assert!(enforced.contains("profile docker-default (enforce) confines"), "{enforced}");
        assert!(enforced.contains("do:      run tcpwatch without a profile"), "{enforced}");
        assert!(!profile("complain").contains("do:"));
        let none = AppArmor { profile: None, mode: None };
        let unconfined = rows(&Confinement { selinux: None, apparmor: Some(none) });
        assert!(unconfined.contains("no profile confines") && !unconfined.contains("do:"));
    }

    #[test]
    fn the_verdict_says_first_what_matters_most() {
        let hook = NotSeen::new(Unseen::Hook, "resets received", "hook receive_reset is missing");
        let host = NotSeen::new(Unseen::PidNamespace, "the host's processes", "own").hiding_host();
        assert_eq!(verdict(&Ok(()), &[]), "tcpwatch runs here and sees all of this host");
        assert!(verdict(&Ok(()), std::slice::from_ref(&hook)).contains("not seen (1)"));
        let hidden = verdict(&Ok(()), &[hook, host]);
        assert_eq!(hidden, "tcpwatch runs here, but does not see the host's processes");
        let error = LoadError::NotPermitted { missing: "CAP_BPF".to_owned() };
        let cannot = verdict(&Err(Unable::Load(error)), &[]);
        assert!(cannot.starts_with("tcpwatch cannot run here: not permitted"), "{cannot}");
    }
}
