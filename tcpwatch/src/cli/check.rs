//! `tcpwatch check`: the findings, for a person or a monitoring system.
//!
//! They are those of the running agent where there is one, so that a person sees what an alert saw;
//! else, or with `--fresh` or `--for`, of one look of its own.
//!
//! Without `--for` there is no history: the age of a socket in CLOSE_WAIT is only a lower bound. So
//! pileups that are not provably old enough are shown as info. The facts can be
//! recorded, and a recording judged instead of a host; both take the same path through [`Case`].

use std::{
    io::{BufReader, Write as _},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    CheckOptions, Exit,
    agent_api::{self, AgentError},
    case::{Case, CheckError},
    config_source,
    pager::{Pager, is_long},
    report::{Paper, Seen, Source},
};
use crate::{
    agent::{VERSION, hook_states, host_name, kernel_release},
    config::Config,
    incident::{Fact, Recording},
    kernel::{self, EventRing, LoadOptions, Programs, Walker},
    publish::{WallClock, base_url},
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
    let (of_agent, why_not) = match of_agent(&config, options) {
        Ok(seen) => (seen, None),
        Err(error) => (None, Some(error)),
    };
    // A look gives up the system call that tells the size of a terminal.
    let paper = Paper::of_stdout(options.color.is_on());
    let mut pager = None;
    let outcome = match (&options.replay, of_agent) {
        (Some(file), _) => replay(&config, file),
        (None, Some(seen)) => Ok(seen),
        (None, None) => {
            // Afterwards this process can start no program any more.
            pager = options.is_paged().then(Pager::start).flatten();
            look(&config, options)
        }
    };
    let mut seen = match outcome {
        Ok(outcome) => {
            // Only beside a result: a failure is one line.
            if let Some(error) = why_not {
                agent_api::say_left_out(&config.web.socket, &error);
            }
            outcome
        }
        Err(CheckError::Load(error)) => {
            return match why_not {
                Some(why) => Exit::load_beside(&error, &why.of(&config.web.socket)),
                None => Exit::load(&error),
            };
        }
        Err(error) => return Exit::failed(&error),
    };
    seen.left_out = options.filter.apply(&mut seen.findings);
    let text = match options.json {
        true => seen.json(),
        false => seen.report(paper, options.detail()),
    };
    if pager.is_none() && options.is_paged() && is_long(&text) && seen.source != Source::Look {
        pager = Pager::start();
    }
    if !pager.is_some_and(|pager| pager.show(&text))
        && let Err(error) = std::io::stdout().write_all(text.as_bytes())
    {
        return Exit::failed(&error);
    }
    match seen.hidden_host() {
        Some(_) => Exit::HostNotSeen,
        None => Exit::Found(seen.worst()),
    }
}

/// The findings of the running agent, where there is one and no look of its own is ordered.
fn of_agent(config: &Config, options: &CheckOptions) -> Result<Option<Seen>, AgentError> {
    if options.looks_itself() {
        return Ok(None);
    }
    Ok(agent_api::findings(&config.web.socket)?.map(|read| Seen {
        source: Source::Agent,
        findings: read.findings,
        left_out: 0,
        not_seen: read.not_seen,
        host: read.host,
        version: read.version,
        kernel: read.kernel,
        sockets: read.sockets,
        namespaces: read.namespaces,
        url: read.url,
        hooks: read.hooks,
        wall: read.wall,
    }))
}

fn look(config: &Config, options: &CheckOptions) -> Result<Seen, CheckError> {
    let mut case = Case::new(config);
    let load = LoadOptions {
        ring_buffer_bytes: config.limits.ring_buffer_bytes,
        // Stacks show only in a second inventory.
        symbols_by: options.watch.map(|_| kernel::OWN_PROGRAM),
        by_iterator: options.by_iterator,
        ..LoadOptions::default()
    };
    let programs = Programs::load(&load)?;
    programs.require_indispensable()?;
    // Only now, so that a user without permission overwrites nothing.
    if let Some(file) = &options.record {
        case.record(file)?;
    }
    let hooks = hook_states(programs.statuses());
    let scope = config.inventory.namespaces;
    let (mut ring, _, mut walker, _links) =
        programs.split(scope, config.limits.close_wait_sockets)?;
    kernel::confine(scope).map_err(CheckError::Confine)?;
    if let Some(watch) = options.watch {
        observe(&mut case, &mut ring, &mut walker, watch)?;
    }
    case.take_inventory(&mut walker)?;
    let wall = WallClock::at(kernel::now());
    let (host, url) = (host_name(), base_url(&config.web, &host_name(), "http"));
    let this = Seen { host: Some(host), url, hooks: Some(hooks), ..seen(&case, wall) };
    Ok(Seen { source: Source::Look, kernel: kernel_release(), ..this })
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
    let kernel = recording.header().kernel.clone();
    let mut case = Case::new(config);
    for fact in recording {
        case.take(fact?)?;
    }
    match then {
        None => Err(CheckError::NoTime(file.to_owned())),
        Some(_) if !case.has_looked() => Err(CheckError::NoInventory(file.to_owned())),
        Some(then) => Ok(Seen {
            kernel,
            url: base_url(&config.web, &host_name(), "http"),
            ..seen(&case, then)
        }),
    }
}

/// The result of a case, as of a recording.
fn seen(case: &Case<'_>, wall: WallClock) -> Seen {
    let (sockets, namespaces) = case.size();
    Seen {
        source: Source::Recording,
        findings: case.findings(),
        left_out: 0,
        not_seen: case.not_seen().to_vec(),
        host: None,
        version: VERSION.to_owned(),
        kernel: String::new(),
        sockets,
        namespaces,
        url: String::new(),
        hooks: None,
        wall,
    }
}
