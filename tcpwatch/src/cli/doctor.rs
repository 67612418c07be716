//! `tcpwatch doctor`: what this kernel and these privileges let tcpwatch see.

use std::{fmt::Write as _, io::Write as _};

use rustix::thread::CapabilitySet;
use serde::Serialize;

use super::Exit;
use crate::{
    kernel::{Hook, HookStatus, LoadError, LoadOptions, Programs, holds},
    plain,
};

/// Everything that is printed.
#[derive(Serialize)]
struct Report {
    kernel: String,
    hooks: Vec<HookRow>,
    capabilities: Vec<CapabilityRow>,
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
    remedy: Option<&'static str>,
}

/// A row for a capability.
#[derive(Serialize)]
struct CapabilityRow {
    capability: &'static str,
    held: bool,
    lost_without: &'static str,
}

const CAPABILITIES: [(CapabilitySet, &str, &str); 4] = [
    (CapabilitySet::BPF, "CAP_BPF", "everything: no eBPF program can be loaded"),
    (CapabilitySet::PERFMON, "CAP_PERFMON", "everything: no eBPF program can be attached"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN", "network namespaces other than the agent's own"),
    (
        CapabilitySet::SYS_PTRACE,
        "CAP_SYS_PTRACE",
        "namespaces, executables and stacks of processes of other users",
    ),
];

pub(super) fn doctor(json: bool) -> Exit {
    let loaded = Programs::load(&LoadOptions::default());
    let report = Report {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        hooks: hooks(&loaded),
        capabilities: capabilities(),
    };
    let text = if json { as_json(&report) } else { as_text(&report) };
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        return Exit::failed(&error);
    }
    let usable = loaded.and_then(|programs| programs.require_indispensable());
    usable.map_or_else(|error| Exit::load(&error), |()| Exit::Ok)
}

fn hooks(loaded: &Result<Programs, LoadError>) -> Vec<HookRow> {
    let statuses = match loaded {
        Ok(programs) => programs.statuses().to_vec(),
        Err(error) => {
            let refused = |hook| HookStatus { hook, outcome: Err(error.to_string()) };
            Hook::ALL.map(refused).to_vec()
        }
    };
    let row = |HookStatus { hook, outcome }| HookRow {
        hook: hook.name,
        target: hook.target,
        attached: outcome.is_ok(),
        remedy: outcome.is_err().then(|| remedy(loaded, &hook)),
        why_not: outcome.err(),
        lost_without: hook.lost_without,
    };
    statuses.into_iter().map(row).collect()
}

fn remedy(loaded: &Result<Programs, LoadError>, hook: &Hook) -> &'static str {
    match loaded {
        Err(error) if error.is_not_permitted() => "run as root, or as the packaged systemd unit",
        Err(LoadError::Btf(_)) => "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, 5.10 or later",
        Ok(_) if hook.is_trampoline() => {
            "a kernel with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y, as the distributions have it"
        }
        Err(_) | Ok(_) => "a newer kernel; tcpwatch is tested on 5.10 and later",
    }
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
    let mut text = format!("kernel {}\n\n", plain::text(&report.kernel));
    for row in &report.hooks {
        let state = if row.attached { "attached" } else { "missing" };
        let _ = writeln!(text, "{:<14} {:<30} {state}", row.hook, row.target);
        if let Some(why) = &row.why_not {
            let _ = writeln!(text, "    why not: {}", plain::text(why));
            let _ = writeln!(text, "    lost:    {}", row.lost_without);
        }
        if let Some(remedy) = row.remedy {
            let _ = writeln!(text, "    do:      {remedy}");
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
    text
}
