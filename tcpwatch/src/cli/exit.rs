//! Exit codes, and the one line that goes with each failure.

use std::{
    io::{IsTerminal, Write as _},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    agent::{self, RunError, StartError},
    config::ConfigError,
    engine::Severity,
    kernel::LoadError,
    plain,
};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0.
    Ok,
    /// 1: failed at run time.
    Failed,
    /// 64 (`EX_USAGE` of sysexits.h).
    Usage,
    /// 77 (`EX_NOPERM`).
    NotPermitted,
    /// 78 (`EX_CONFIG`).
    BadConfig,
    /// Only of `check`: the worst finding, 0 to 2.
    Found(Option<Severity>),
    /// Only of `check`: the host itself is not seen, so that no finding says how it is.
    HostNotSeen,
}

impl Exit {
    /// Names the fault of the command line.
    pub(super) fn usage(line: &str) -> Self {
        say(line);
        Self::Usage
    }

    /// Says why the configuration is refused.
    pub(super) fn config(error: &ConfigError) -> Self {
        say(&error.to_string());
        Self::BadConfig
    }

    /// Says why the kernel side could not be loaded.
    pub(super) fn load(error: &LoadError) -> Self {
        say(&error.to_string());
        if error.is_not_permitted() { Self::NotPermitted } else { Self::Failed }
    }

    /// The same, of a command that could use neither the running agent nor its own look.
    pub(super) fn load_beside(error: &LoadError, why_no_agent: &str) -> Self {
        say(&format!("{error}; {why_no_agent}"));
        if error.is_not_permitted() { Self::NotPermitted } else { Self::Failed }
    }

    /// Says why the daemon did not start, or has ended.
    pub(crate) fn run(error: &RunError) -> Self {
        match error {
            RunError::Start(StartError::Load(error)) => Self::load(error),
            error => Self::failed(error),
        }
    }

    /// Names the failure.
    pub(super) fn failed(error: &dyn std::error::Error) -> Self {
        say(&error.to_string());
        Self::Failed
    }

    /// The code of `check`: any failure to look is 3, UNKNOWN.
    pub(super) fn for_check(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Ok | Self::Found(None | Some(Severity::Info)) => 0,
            Self::Found(Some(Severity::Warning)) => 1,
            Self::Found(Some(Severity::Critical)) => 2,
            Self::HostNotSeen
            | Self::Failed
            | Self::Usage
            | Self::NotPermitted
            | Self::BadConfig => 3,
        })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok | Exit::Found(_) => 0,
            Exit::Failed | Exit::HostNotSeen => 1,
            Exit::Usage => 64,
            Exit::NotPermitted => 77,
            Exit::BadConfig => 78,
        })
    }
}

/// Whether a monitoring system reads standard output.
static IS_MONITORED: AtomicBool = AtomicBool::new(false);

/// A monitoring system reads standard output only: the line of a failure goes there too, as the
/// state that it knows, unless a person sees both.
pub(super) fn say_to_monitoring() {
    IS_MONITORED.store(!std::io::stdout().is_terminal(), Ordering::Relaxed);
}

/// Arguments, names of files and a library's errors about them come through here.
fn say(line: &str) {
    let line = plain::text(line);
    if IS_MONITORED.load(Ordering::Relaxed) {
        let state = line.replace('|', "/");
        // The exit code says it too.
        let _ = writeln!(std::io::stdout(), "UNKNOWN: {state}");
    }
    agent::last_line(&format!("tcpwatch: {line}"));
}
