//! Why the daemon did not start, or has ended.

use std::{any::Any, io, net::SocketAddr, path::PathBuf};

use tokio::task::JoinError;

use super::log::panic_message;
use crate::kernel::LoadError;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listen address.
    #[error("cannot listen on {address}: {error}; choose another with --web.listen-address")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's reason; not a source, the line has it.
        error: io::Error,
    },
    /// An agent answers at the UNIX socket.
    #[error(
        "another tcpwatch{} answers at {}: one agent watches a host; end that one, or set another \
         web.socket for this one (\"\" for none)",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), .path.display()
    )]
    Runs {
        /// The socket.
        path: PathBuf,
        /// The process, where the kernel knows it.
        pid: Option<i32>,
    },
    /// The kernel side.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Privileges that stay would be a surprise.
    #[error("cannot give up privileges: {0}")]
    Confine(io::Error),
    /// Something of the runtime.
    #[error("cannot start: {0}")]
    Runtime(#[from] io::Error),
    /// The metrics.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Why the daemon has ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A part without which it is of no use has ended.
    #[error("{part} has ended: {reason}")]
    Ended {
        /// Which.
        part: &'static str,
        /// Its panic, if it was one.
        reason: String,
    },
}

impl RunError {
    /// A part has panicked.
    #[must_use]
    pub fn of_panic(part: &'static str, panic: &(dyn Any + Send)) -> Self {
        Self::Ended { part, reason: format!("panicked: {}", panic_message(panic)) }
    }

    pub(super) fn of_server(ended: Result<(), JoinError>) -> Self {
        const PART: &str = "the HTTP server";
        match ended.map_err(JoinError::try_into_panic) {
            Err(Ok(panic)) => Self::of_panic(PART, &*panic),
            Ok(()) | Err(Err(_)) => {
                Self::Ended { part: PART, reason: "it has returned".to_owned() }
            }
        }
    }
}
