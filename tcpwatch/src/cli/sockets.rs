//! `tcpwatch sockets`: the sockets behind a finding, or in a state.
//!
//! The running agent lists them where there is one: it knows how long a socket is in CLOSE_WAIT, and
//! all findings. Else, or with `--fresh`, this process looks itself, as `check` does; it then knows
//! the findings that one look can prove.

use std::{io::Write as _, path::PathBuf};

use clap::Args;

use super::{
    ColorChoice, Exit,
    agent_api::{self, AgentError},
    case::{Case, CheckError},
    config_source,
    report::{Paper, Source, sockets_report},
};
use crate::{
    agent::{VERSION, host_name},
    config::Config,
    facts::SocketListing,
    kernel::{self, InventoryError, LoadError, LoadOptions, OnRequest, Programs},
    publish::{
        NoListing, SocketRequest, WallClock, parse_states, read_sockets, sockets_json,
        unknown_namespace,
    },
};

#[derive(Debug, Args)]
pub(super) struct SocketsOptions {
    /// Configuration file [default: /etc/tcpwatch/tcpwatch.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The sockets behind this finding: an id as `check --json` and the API print it
    ///
    /// An id stays the same as long as its condition holds, and comes back with it. It cannot be
    /// found when the condition has ended; where an agent runs, /api/v1/history says when. Without
    /// an agent, one look finds only what needs no history: no rates, no events.
    #[arg(long, value_name = "ID")]
    finding: Option<String>,
    /// Only sockets in this state, as Linux or ss spells it; several separated by commas
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<String>,
    /// Only sockets that a process of this name (comm) holds
    #[arg(long, value_name = "NAME")]
    process: Option<String>,
    /// Only sockets of this systemd unit
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// Only sockets of this container or pod
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Only sockets in this network namespace, `host` for the host's own
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Only sockets with this port at either end
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// List at most N sockets, 1 to 1000: those that have been longest in their state
    #[arg(long, value_name = "N", value_parser = limit(), default_value_t = 100)]
    limit: u16,
    /// Look at this host even if an agent runs
    #[arg(long)]
    fresh: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// When to print in colour
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

fn limit() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=SocketListing::MOST as i64)
}

fn state(text: &str) -> Result<String, String> {
    parse_states(text).map(|_| text.to_owned())
}

/// Why nothing was listed.
#[derive(Debug, thiserror::Error)]
enum SocketsError {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error("{0}; without the running agent only findings of one look are known")]
    NoFinding(NoListing),
    #[error("{0}")]
    NoNamespace(String),
}

impl From<LoadError> for SocketsError {
    fn from(error: LoadError) -> Self {
        Self::Check(error.into())
    }
}

pub(super) fn sockets(options: &SocketsOptions) -> Exit {
    let config = match config_source(options.config.clone()).load() {
        Ok(config) => config,
        Err(error) => return Exit::config(&error),
    };
    let request = options.request();
    // A look gives up the system call that tells the size of a terminal.
    let paper = Paper::of_stdout(options.color.is_on());
    let (json, source, why_not) = match of_agent(&config, options, &request) {
        Ok(Some(json)) => (Ok(json), Source::Agent, None),
        Ok(None) => (look(&config, &request), Source::Look, None),
        Err(error @ AgentError::Refused(_)) => return Exit::failed(&error),
        Err(error) => (look(&config, &request), Source::Look, Some(error)),
    };
    let json = match json {
        Ok(json) => json,
        Err(SocketsError::Check(CheckError::Load(error))) => {
            return match why_not {
                Some(why) => Exit::load_beside(&error, &why.of(&config.web.socket)),
                None => Exit::load(&error),
            };
        }
        Err(error) => return Exit::failed(&error),
    };
    // Only beside a result: a failure is one line.
    if let Some(error) = why_not {
        agent_api::say_left_out(&config.web.socket, &error);
    }
    let text = if options.json {
        json
    } else {
        match read_sockets(json.as_bytes()) {
            Ok(read) => sockets_report(&read, source, paper),
            Err(error) => return Exit::failed(&AgentError::Version(error)),
        }
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(error) => Exit::failed(&error),
    }
}

impl SocketsOptions {
    fn request(&self) -> SocketRequest {
        SocketRequest {
            finding: self.finding.clone(),
            state: self.state.clone(),
            process: self.process.clone(),
            unit: self.unit.clone(),
            container: self.container.clone(),
            netns: self.netns.clone(),
            port: self.port,
            limit: Some(self.limit.into()),
        }
    }
}

/// The listing of the running agent, where there is one and no look of its own is ordered.
fn of_agent(
    config: &Config,
    options: &SocketsOptions,
    request: &SocketRequest,
) -> Result<Option<String>, AgentError> {
    if options.fresh {
        return Ok(None);
    }
    agent_api::sockets(&config.web.socket, request)
}

/// The listing of this process.
fn look(config: &Config, request: &SocketRequest) -> Result<String, SocketsError> {
    let load = LoadOptions {
        ring_buffer_bytes: config.limits.ring_buffer_bytes,
        one_pass: config.inventory.one_pass,
        on_request: OnRequest { listing: true, ..OnRequest::default() },
        ..LoadOptions::default()
    };
    let programs = Programs::load(&load)?;
    programs.require_indispensable()?;
    let scope = config.inventory.namespaces;
    let (_, _, mut walker, _links) = programs.split(scope, config.limits.close_wait_sockets)?;
    kernel::confine(scope).map_err(CheckError::Confine)?;
    let mut case = Case::new(config);
    let mut findings = Vec::new();
    if request.finding.is_some() {
        case.take_inventory(&mut walker)?;
        findings = case.findings();
    }
    let selection = request.selection(&findings).map_err(SocketsError::NoFinding)?;
    let listing = walker.list_sockets(&selection, request.limit())?;
    if let Some(why) = unknown_namespace(&listing, selection.netns.as_deref()) {
        return Err(SocketsError::NoNamespace(why));
    }
    let wall = WallClock::at(listing.taken);
    let about = (request.finding.as_deref(), selection);
    Ok(sockets_json(&listing, about, (&host_name(), VERSION), wall))
}
