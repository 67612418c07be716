//! `tcpwatch check`: one look at this host, for a person or a monitoring system.
//!
//! Without `--for` there is no history: how long a socket has been in CLOSE_WAIT is known only as
//! "at least", so pileups that are not provably old enough are shown as info. What was seen can be
//! recorded, and a recording judged instead of a host; both go the same way through [`Case`].

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufReader, Write as _},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    CheckOptions, Exit,
    case::{Case, CheckError},
    config_source,
};
use crate::{
    agent::scope,
    config::Config,
    engine::{Finding, Severity},
    incident::{Fact, Recording},
    kernel::{self, EventRing, LoadOptions, Programs, Walker},
    publish::{WallClock, findings_json, incidents},
};

/// Inventories in a `--for`, so that growth and recovery show.
const LOOKS: u32 = 4;

pub(super) fn check(options: &CheckOptions) -> Exit {
    let config = match config_source(options.config.clone()).load() {
        Ok(config) => config,
        Err(error) => return Exit::config(&error),
    };
    let outcome = match &options.replay {
        Some(file) => replay(&config, file),
        None => look(&config, options),
    };
    let (findings, wall) = match outcome {
        Ok(outcome) => outcome,
        Err(CheckError::Load(error)) => return Exit::load(&error),
        Err(error) => return Exit::failed(&error),
    };
    let text = if options.json { findings_json(&findings, wall) } else { report(&findings, wall) };
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        return Exit::failed(&error);
    }
    Exit::Found(findings.iter().map(|finding| finding.severity).max())
}

fn look(config: &Config, options: &CheckOptions) -> Result<(Vec<Finding>, WallClock), CheckError> {
    let mut case = Case::new(config);
    let load = LoadOptions {
        ring_buffer_bytes: config.limits.ring_buffer_bytes,
        symbols_by: Some(kernel::OWN_PROGRAM),
    };
    let programs = Programs::load(&load)?;
    programs.require_indispensable()?;
    // Only now, so that who may not look overwrites nothing.
    if let Some(file) = &options.record {
        case.record(file)?;
    }
    let (mut ring, _, mut walker, _links) =
        programs.split(scope(config.inventory.namespaces), config.limits.close_wait_sockets)?;
    if let Some(watch) = options.watch {
        observe(&mut case, &mut ring, &mut walker, watch)?;
    }
    case.take_inventory(&mut walker)?;
    Ok((case.findings(), WallClock::capture()))
}

/// Watches for a while, up to the last inventory.
fn observe(
    case: &mut Case<'_>,
    ring: &mut EventRing,
    walker: &mut Walker,
    watch: Duration,
) -> Result<(), CheckError> {
    let began = Instant::now();
    for look in 1..=LOOKS {
        case.take_inventory(walker)?;
        let next = began + watch * look / LOOKS;
        // The ring holds what happens meanwhile; short naps keep it from filling up.
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            sleep(left.min(Duration::from_millis(100)));
            let (events, _) = ring.drain(usize::MAX);
            events.into_iter().try_for_each(|event| case.take(Fact::Event(event)))?;
        }
    }
    Ok(())
}

/// Judges what was recorded, in the time of day of then.
fn replay(config: &Config, file: &Path) -> Result<(Vec<Finding>, WallClock), CheckError> {
    let unreadable = |error| CheckError::Unreadable { file: file.to_owned(), error };
    let open = File::open(file).map_err(unreadable)?;
    let recording = Recording::open(BufReader::new(open), file)?;
    let then = WallClock::of_recording(recording.header());
    let mut case = Case::new(config);
    for fact in recording {
        case.take(fact?)?;
    }
    match then {
        None => Err(CheckError::NoTime(file.to_owned())),
        Some(_) if !case.has_looked() => Err(CheckError::NoInventory(file.to_owned())),
        Some(then) => Ok((case.findings(), then)),
    }
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
    let incidents = incidents(findings);
    if let Some(worst) = incidents.first().filter(|it| it.severity() > Severity::Info) {
        let _ = write!(text, "; {}", worst.leader.title);
    }
    text.push('\n');
    for incident in incidents {
        describe(&mut text, incident.leader, wall);
        for led in incident.led {
            let mut below = String::new();
            describe(&mut below, led, wall);
            below.lines().for_each(|line| text.push_str(&indented(line)));
        }
    }
    text
}

/// A line of a finding that another leads.
fn indented(line: &str) -> String {
    if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }
}

fn describe(text: &mut String, finding: &Finding, wall: WallClock) {
    let _ = writeln!(text, "\n{:<8}  {}", finding.severity.label().to_uppercase(), finding.title);
    let _ = writeln!(text, "  kind    {}", finding.kind.name());
    let _ = writeln!(text, "  why     {}", finding.explanation);
    for (key, value) in finding.evidence.iter() {
        let mut before = format!("  data    {}: ", key.replace('_', " "));
        for line in value.lines() {
            let _ = writeln!(text, "{before}{line}");
            // The other lines of a list stand below the first.
            before = " ".repeat(before.len());
        }
    }
    for (number, remedy) in finding.remedies.iter().enumerate() {
        let _ = writeln!(text, "  do {}    {remedy}", number + 1);
    }
    let _ = writeln!(text, "  seen    {}", wall.rfc3339(finding.last_seen));
    let _ = writeln!(text, "  more    {}", finding.kind.runbook());
}
