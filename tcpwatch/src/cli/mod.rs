//! The command line: its arguments, and the meaning of each exit code.
//!
//! Usage is checked here and nowhere else; each command has a file of its own. `check` follows the
//! monitoring-plugins convention and knows no other exit codes; see [`Exit`].

mod agent_api;
mod agent_stream;
mod case;
mod check;
mod config;
mod cost;
mod doctor;
mod events;
mod exit;
mod explain;
mod filter;
mod manual;
mod pager;
mod report;
mod run;
mod running;
mod sockets;
mod top;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{
    Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::PossibleValuesParser, error::ErrorKind,
};

pub use exit::Exit;

use self::{filter::Filter, report::Detail};

use crate::{
    agent::{ConfigSource, coloured},
    config::{Config, LogFormat, LogLevel},
    kernel::{SYMBOLS_COMMAND, serve_symbols},
    runbooks,
};

/// `tcpwatch --version`.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TCPWATCH_REVISION"), ")");

/// Watches TCP on this host and says what is wrong, which process causes it and what to do.
#[derive(Debug, Parser)]
#[command(name = "tcpwatch", version = VERSION, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: attach, watch, serve HTTP
    Run(Options),
    /// Print the findings of the running agent, or of one look, and exit: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
    Check(Box<CheckOptions>),
    /// List the sockets behind a finding, or in a state, with owner, age and queues
    Sockets(Box<sockets::SocketsOptions>),
    /// Print transitions, resets, failed connects and binds as they happen; Ctrl-C ends
    Events(events::EventsOptions),
    /// Watch findings, owners, listeners, ports and rates live in this terminal; `q` quits
    Top(top::TopOptions),
    /// Print the runbook of a kind of finding: what it means, how to confirm it, what to do
    Explain {
        /// The kind, or `agent` for the alerts about tcpwatch itself
        #[arg(value_name = "KIND", value_parser = PossibleValuesParser::new(runbooks::names()))]
        kind: String,
    },
    /// Show what this kernel and these privileges let tcpwatch see
    Doctor {
        /// Configuration file [default: /etc/tcpwatch/tcpwatch.toml if it exists]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Measure for 5 s what each hook takes: of the running agent where there is one. It takes
        /// root, and adds some 40 ns to each run of every eBPF program meanwhile
        #[arg(long)]
        cost: bool,
    },
    /// Name functions for the agent, which starts this
    #[command(name = SYMBOLS_COMMAND, hide = true)]
    Symbols,
    /// Write man pages and shell completions, for packages
    #[command(hide = true)]
    Manual {
        /// The folder; `man` and `completions` are made in it
        folder: PathBuf,
    },
    /// Check or print the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a file; exit with 78 if it is refused
    Check {
        /// The file
        #[arg(required_unless_present = "web_config_file")]
        file: Option<PathBuf>,
        /// Check a web configuration file, with the certificates and keys that it names
        #[arg(long = "web.config.file", value_name = "FILE")]
        web_config_file: Option<PathBuf>,
    },
    /// Print the default configuration with its comments
    Default,
}

#[derive(Debug, Args)]
struct Options {
    /// Configuration file [default: /etc/tcpwatch/tcpwatch.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on; may be repeated
    #[arg(long = "web.listen-address", value_name = "ADDR")]
    listen_addresses: Vec<SocketAddr>,
    /// TLS and passwords for these addresses, in the YAML of Prometheus' exporters; read anew when it
    /// changes
    #[arg(long = "web.config.file", value_name = "FILE")]
    web_config_file: Option<PathBuf>,
    /// Least severe level to log
    #[arg(long = "log.level", value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// Format of the log
    #[arg(long = "log.format", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Args)]
struct CheckOptions {
    /// Configuration file [default: /etc/tcpwatch/tcpwatch.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at this host even if an agent runs [default: the findings of the agent]
    #[arg(long, conflicts_with = "replay")]
    fresh: bool,
    /// Watch for this long first, so that events and rates count: 10s, 1m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_watch)]
    watch: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print each finding in full, with all its evidence
    #[arg(short, long)]
    verbose: bool,
    /// Print the first line only, with performance data: for a monitoring system
    #[arg(short, long, conflicts_with_all = ["verbose", "json"])]
    quiet: bool,
    /// When to print in colour
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
    /// Use no pager for output that is longer than the terminal [default: $PAGER, else less]
    #[arg(long)]
    no_pager: bool,
    #[command(flatten)]
    filter: Filter,
    /// Record the facts, to be judged again by --replay: they name processes and addresses
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Judge a recording instead of this host; needs no privileges
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "record"])]
    replay: Option<PathBuf>,
}

impl CheckOptions {
    /// Whether the running agent's findings are no answer.
    fn looks_itself(&self) -> bool {
        self.fresh || self.watch.is_some() || self.record.is_some() || self.replay.is_some()
    }

    /// Whether a text that is longer than the terminal goes to a pager.
    fn is_paged(&self) -> bool {
        !(self.json || self.quiet || self.no_pager)
    }

    fn detail(&self) -> Detail {
        match (self.quiet, self.verbose) {
            (true, _) => Detail::Line,
            (false, true) => Detail::All,
            (false, false) => Detail::Steps,
        }
    }
}

/// When to print in colour.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ColorChoice {
    /// In a terminal, unless NO_COLOR or TERM=dumb says otherwise
    Auto,
    /// Also into a file or a pipe
    Always,
    /// Nowhere
    Never,
}

impl ColorChoice {
    fn is_on(self) -> bool {
        match self {
            Self::Auto => coloured(&std::io::stdout()),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// From 1 s, below which no rate means anything, to an hour.
fn parse_watch(text: &str) -> Result<Duration, String> {
    let watch = crate::config::parse_duration(text)?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3_600);
    bounds.contains(&watch).then_some(watch).ok_or_else(|| "expected from 1s to 1h".to_owned())
}

/// Parses the command line, runs the command and returns its exit code. A failure is
/// one line on stderr.
#[must_use]
pub fn main() -> ExitCode {
    // No command starts a program that gains privileges. A kernel that refuses is older than 3.5.
    let _ = rustix::thread::set_no_new_privs(true);
    let is_check = std::env::args_os().nth(1).is_some_and(|argument| argument == "check");
    if is_check && !std::env::args_os().any(|argument| argument == "--json") {
        exit::say_to_monitoring();
    }
    let exit = match parse() {
        Ok(cli) => {
            // The daemon answers clients that close early, so it ignores the signal, as Rust does.
            if !matches!(cli.command, Command::Run(_) | Command::Top(_)) {
                end_by_sigpipe();
            }
            match cli.command {
                Command::Run(options) => run::run(options),
                Command::Check(options) => check::check(&options),
                Command::Sockets(options) => sockets::sockets(&options),
                Command::Events(options) => events::events(&options),
                Command::Top(options) => top::top(options),
                Command::Explain { kind } => explain::explain(&kind),
                Command::Doctor { config, json, cost } => doctor::doctor(json, config, cost),
                Command::Symbols => symbols(),
                Command::Config { command: ConfigCommand::Check { file, web_config_file } } => {
                    config::check(file.as_deref(), web_config_file.as_deref())
                }
                Command::Manual { folder } => manual::write(&folder),
                Command::Config { command: ConfigCommand::Default } => config::print_default(),
            }
        }
        Err(exit) => exit,
    };
    if is_check { exit.for_check() } else { exit.into() }
}

fn symbols() -> Exit {
    match serve_symbols() {
        Ok(()) => Exit::Ok,
        Err(error) => Exit::failed(&error),
    }
}

fn parse() -> Result<Cli, Exit> {
    let matches =
        Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    matches.map_err(|error| match error.kind() {
        // The user requested it, so it goes to stdout and is no failure.
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            Exit::Ok
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let line = line.strip_prefix("error: ").unwrap_or(line);
            let listed = text.lines().skip(1).map(str::trim).take_while(|line| !line.is_empty());
            let line = listed.fold(line.to_owned(), |line, more| format!("{line} {more}"));
            Exit::usage(&format!("{line}; see `tcpwatch --help`"))
        }
    })
}

/// The configuration that the options name, or the default.
fn config_source(path: Option<PathBuf>) -> ConfigSource {
    ConfigSource { path, overrides: Arc::new(|_: &mut Config| {}) }
}

/// A command that prints and ends does so in silence when its reader has gone, as in
/// `tcpwatch config default | head`. Rust ignores SIGPIPE and would report an error there.
fn end_by_sigpipe() {
    // SAFETY: SIG_DFL is a valid disposition, and no other thread runs yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
