//! `tcpwatch check`: one look at this host, for a person or a monitoring system.
//!
//! Without `--for` there is no history: how long a socket has been in CLOSE_WAIT is known only as
//! "at least", so pileups that are not provably old enough are shown as info.

use std::{
    fmt::Write as _,
    io::Write as _,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{CheckOptions, Exit, config_source};
use crate::{
    agent::scope,
    config::Config,
    engine::{Engine, Evidence, Finding, FindingKind, Severity},
    facts::Inventory,
    kernel::{
        self, EventRing, InventoryError, LoadError, LoadOptions, OwnerPolicy, Programs, Walker,
    },
    publish::{WallClock, findings_json},
};

/// Inventories in a `--for`, so that growth and recovery show.
const LOOKS: u32 = 4;

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
}

pub(super) fn check(options: &CheckOptions) -> Exit {
    let config = match config_source(options.config.clone()).load() {
        Ok(config) => config,
        Err(error) => return Exit::config(&error),
    };
    let findings = match look(&config, options.watch) {
        Ok(findings) => findings,
        Err(CheckError::Load(error)) => return Exit::load(&error),
        Err(error) => return Exit::failed(&error),
    };
    let wall = WallClock::capture();
    let text = if options.json { findings_json(&findings, wall) } else { report(&findings, wall) };
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        return Exit::failed(&error);
    }
    Exit::Found(findings.iter().map(|finding| finding.severity).max())
}

fn look(config: &Config, watch: Option<Duration>) -> Result<Vec<Finding>, CheckError> {
    let options = LoadOptions { ring_buffer_bytes: config.limits.ring_buffer_bytes };
    let programs = Programs::load(&options)?;
    programs.require_indispensable()?;
    let (mut ring, _, mut walker, _links) =
        programs.split(scope(config.inventory.namespaces), config.limits.close_wait_sockets)?;
    let mut engine = Engine::new(&config.detect, &config.ignore, config.limits.owners);
    let inventory = match watch {
        Some(watch) => observe(&mut engine, &mut ring, &mut walker, watch)?,
        None => walker.inventory(OwnerPolicy::AtOnce)?,
    };
    engine.handle_inventory(&inventory, kernel::now());
    let mut findings = engine.findings().to_vec();
    if watch.is_none() {
        findings.extend(pileups_of_unproven_age(config, &inventory, &findings));
    }
    Ok(findings)
}

/// Watches for a while; returns the last inventory, not judged yet.
fn observe(
    engine: &mut Engine,
    ring: &mut EventRing,
    walker: &mut Walker,
    watch: Duration,
) -> Result<Inventory, InventoryError> {
    let began = Instant::now();
    for look in 1..=LOOKS {
        let inventory = walker.inventory(OwnerPolicy::AtOnce)?;
        engine.handle_inventory(&inventory, kernel::now());
        let next = began + watch * look / LOOKS;
        // The ring holds what happens meanwhile; short naps keep it from filling up.
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            sleep(left.min(Duration::from_millis(100)));
            let (events, _) = ring.drain(usize::MAX);
            events.iter().for_each(|event| engine.handle_event(event));
        }
    }
    walker.inventory(OwnerPolicy::AtOnce)
}

/// What would be a pileup if its sockets were old enough, which one look cannot tell.
fn pileups_of_unproven_age(
    config: &Config,
    inventory: &Inventory,
    proven: &[Finding],
) -> Vec<Finding> {
    let mut detect = config.detect.clone();
    detect.close_wait_pileup.edit_all(|pileup| pileup.min_age = Duration::ZERO);
    let mut engine = Engine::new(&detect, &config.ignore, config.limits.owners);
    engine.handle_inventory(inventory, kernel::now());
    let is_new = |finding: &&Finding| {
        finding.kind == FindingKind::CloseWaitPileup
            && proven.iter().all(|known| known.id != finding.id)
    };
    let unproven = engine.findings().iter().filter(is_new).cloned();
    unproven.map(|finding| Finding { severity: Severity::Info, ..finding }).collect()
}

/// The first line is what a monitoring system shows; the rest is for a person.
fn report(findings: &[Finding], wall: WallClock) -> String {
    let worst = findings.iter().map(|finding| finding.severity).max();
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let status = match worst {
        Some(Severity::Critical) => "CRITICAL",
        Some(Severity::Warning) => "WARNING",
        Some(Severity::Info) | None => "OK",
    };
    let mut text = format!(
        "{status}: {} critical, {} warning, {} info",
        count(Severity::Critical),
        count(Severity::Warning),
        count(Severity::Info)
    );
    if let Some(first) = findings.iter().find(|finding| finding.severity > Severity::Info) {
        let _ = write!(text, "; {}", first.title);
    }
    text.push('\n');
    for finding in findings {
        describe(&mut text, finding, wall);
    }
    text
}

fn describe(text: &mut String, finding: &Finding, wall: WallClock) {
    let _ = writeln!(text, "\n{:<8}  {}", finding.severity.label().to_uppercase(), finding.title);
    let _ = writeln!(text, "  kind    {}", finding.kind.name());
    let _ = writeln!(text, "  why     {}", finding.explanation);
    for (key, value) in finding.evidence.iter() {
        let value = match value {
            Evidence::Count(count) => count.to_string(),
            Evidence::Number(number) => number.to_string(),
            Evidence::Text(word) => word.clone(),
            Evidence::List(words) => words.join("; "),
        };
        let _ = writeln!(text, "  data    {}: {value}", key.replace('_', " "));
    }
    for (number, remedy) in finding.remedies.iter().enumerate() {
        let _ = writeln!(text, "  do {}    {remedy}", number + 1);
    }
    let _ = writeln!(text, "  seen    {}", wall.rfc3339(finding.last_seen));
    let _ = writeln!(text, "  more    {}", finding.kind.runbook());
}
