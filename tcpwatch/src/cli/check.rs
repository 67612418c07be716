//! `tcpwatch check`: one look at this host, for a person or a monitoring system.
//!
//! Without `--for` there is no history: the age of a socket in CLOSE_WAIT is only a lower bound. So
//! pileups that are not provably old enough are shown as info. The facts can be
//! recorded, and a recording judged instead of a host; both take the same path through [`Case`].

use std::{
    fmt::Write as _,
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
    agent::{VERSION, host_name},
    config::Config,
    engine::{Finding, Severity},
    facts::NotSeen,
    incident::{Fact, Recording},
    kernel::{self, EventRing, LoadOptions, Programs, Walker},
    plain,
    publish::{Origin, WallClock, findings_json, incidents},
    regular_file,
};

/// Inventories in a `--for`, so that growth and recovery show.
const LOOKS: u32 = 4;

pub(super) fn check(options: &CheckOptions) -> Exit {
    let mut config = match config_source(options.config.clone()).load() {
        Ok(config) => config,
        Err(error) => return Exit::config(&error),
    };
    for ended in config.end_entries(WallClock::at(kernel::now()).today()) {
        // A lost line costs no result.
        let _ = writeln!(std::io::stderr(), "tcpwatch: {ended}");
    }
    let outcome = match &options.replay {
        Some(file) => replay(&config, file),
        None => look(&config, options),
    };
    let seen = match outcome {
        Ok(outcome) => outcome,
        Err(CheckError::Load(error)) => return Exit::load(&error),
        Err(error) => return Exit::failed(&error),
    };
    let text = if options.json { seen.json() } else { seen.report() };
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        return Exit::failed(&error);
    }
    match seen.hidden_host() {
        Some(_) => Exit::HostNotSeen,
        None => Exit::Found(seen.worst()),
    }
}

/// The result of a look.
struct Seen {
    findings: Vec<Finding>,
    not_seen: Vec<NotSeen>,
    /// `None` for a recording, which does not say it.
    host: Option<String>,
    wall: WallClock,
}

fn look(config: &Config, options: &CheckOptions) -> Result<Seen, CheckError> {
    let mut case = Case::new(config);
    let load = LoadOptions {
        ring_buffer_bytes: config.limits.ring_buffer_bytes,
        // Stacks show only in a second inventory.
        symbols_by: options.watch.map(|_| kernel::OWN_PROGRAM),
        ..LoadOptions::default()
    };
    let programs = Programs::load(&load)?;
    programs.require_indispensable()?;
    // Only now, so that a user without permission overwrites nothing.
    if let Some(file) = &options.record {
        case.record(file)?;
    }
    let scope = config.inventory.namespaces;
    let (mut ring, _, mut walker, _links) =
        programs.split(scope, config.limits.close_wait_sockets)?;
    kernel::confine(scope).map_err(CheckError::Confine)?;
    if let Some(watch) = options.watch {
        observe(&mut case, &mut ring, &mut walker, watch)?;
    }
    case.take_inventory(&mut walker)?;
    Ok(Seen::of(&case, Some(host_name()), WallClock::at(crate::kernel::now())))
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
        // The ring holds events meanwhile; short pauses keep it from filling up.
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            sleep(left.min(Duration::from_millis(100)));
            let (events, _) = ring.drain(usize::MAX);
            events.into_iter().try_for_each(|event| case.take(Fact::Event(event)))?;
        }
    }
    Ok(())
}

/// Judges a recording, with its times of day.
fn replay(config: &Config, file: &Path) -> Result<Seen, CheckError> {
    let unreadable = |error| CheckError::Unreadable { file: file.to_owned(), error };
    let open = regular_file::open(file).map_err(|error| unreadable(error.into()))?;
    let recording = Recording::open(BufReader::new(open), file)?;
    let then = WallClock::of_recording(recording.header());
    let mut case = Case::new(config);
    for fact in recording {
        case.take(fact?)?;
    }
    match then {
        None => Err(CheckError::NoTime(file.to_owned())),
        Some(_) if !case.has_looked() => Err(CheckError::NoInventory(file.to_owned())),
        Some(then) => Ok(Seen::of(&case, None, then)),
    }
}

impl Seen {
    fn of(case: &Case<'_>, host: Option<String>, wall: WallClock) -> Self {
        Self { findings: case.findings(), not_seen: case.not_seen().to_vec(), host, wall }
    }

    fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// The limit of sight that hides the host itself, if there is one.
    fn hidden_host(&self) -> Option<&NotSeen> {
        self.not_seen.iter().find(|it| it.hides_host)
    }

    fn json(&self) -> String {
        let origin =
            Origin { host: self.host.as_deref(), version: VERSION, not_seen: &self.not_seen };
        findings_json(&self.findings, &origin, self.wall)
    }

    /// A monitoring system shows the first line; the others are for a person.
    fn report(&self) -> String {
        let mut text = self.first_line();
        text.push('\n');
        for it in &self.not_seen {
            let _ = writeln!(text, "not seen  {}", plain::text(&it.to_string()));
        }
        for incident in incidents(&self.findings) {
            describe(&mut text, incident.leader, self.wall);
            for led in incident.led {
                let mut below = String::new();
                describe(&mut below, led, self.wall);
                below.lines().for_each(|line| text.push_str(&indented(line)));
            }
        }
        text
    }

    fn first_line(&self) -> String {
        let count =
            |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let mut line = match (self.hidden_host(), self.worst()) {
            (Some(hidden), _) => format!("UNKNOWN: not seen: {}; ", hidden.lost),
            (None, Some(Severity::Critical)) => "CRITICAL: ".to_owned(),
            (None, Some(Severity::Warning)) => "WARNING: ".to_owned(),
            (None, Some(Severity::Info) | None) => "OK: ".to_owned(),
        };
        let _ = write!(
            line,
            "{} critical, {} warning, {} info",
            count(Severity::Critical),
            count(Severity::Warning),
            count(Severity::Info)
        );
        if !self.not_seen.is_empty() {
            let _ = write!(line, ", {} not seen", self.not_seen.len());
        }
        let incidents = incidents(&self.findings);
        if let Some(worst) = incidents.first().filter(|it| it.severity() > Severity::Info) {
            let _ = write!(line, "; {}", plain::text(&worst.leader.title));
        }
        // A monitoring system takes text after a bar for performance data.
        line.replace('|', "/")
    }
}

/// A line of a finding that another leads.
fn indented(line: &str) -> String {
    if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }
}

fn describe(text: &mut String, finding: &Finding, wall: WallClock) {
    let title = plain::text(&finding.title);
    let _ = writeln!(text, "\n{:<8}  {title}", finding.severity.label().to_uppercase());
    let _ = writeln!(text, "  kind    {}", finding.kind.name());
    let _ = writeln!(text, "  why     {}", plain::text(&finding.explanation));
    for (key, value) in finding.evidence.iter() {
        let mut before = format!("  data    {}: ", key.replace('_', " "));
        for line in value.lines() {
            let _ = writeln!(text, "{before}{}", plain::text(&line));
            // The other lines of a list stand below the first.
            before = " ".repeat(before.len());
        }
    }
    for (number, remedy) in finding.remedies.iter().enumerate() {
        let _ = writeln!(text, "  do {}    {}", number + 1, plain::text(remedy));
    }
    let _ = writeln!(text, "  seen    {}", wall.rfc3339(finding.last_seen));
    let _ = writeln!(text, "  more    {}", finding.kind.runbook());
}
