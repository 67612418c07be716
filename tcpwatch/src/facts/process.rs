//! Processes that hold sockets.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A process. A field that could not be read is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Process id in the agent's pid namespace.
    pub pid: u32,
    /// `comm` of the thread-group leader, at most 15 bytes.
    pub name: String,
    /// When it started.
    pub started: Timestamp,
    /// The executable's path.
    pub exe: Option<String>,
    /// The unit of the host's own service manager, for example `nginx.service`. Units of a manager
    /// within a container or of a user's manager are not known by name.
    pub unit: Option<String>,
    /// Container id, or pod id where only that is known, in short form; the name of a system
    /// container (LXC, Incus, nspawn). Where it is known there is no unit.
    pub container: Option<String>,
}

impl Process {
    /// The `unit` label: the systemd unit, else the container, else empty.
    #[must_use]
    pub fn unit_label(&self) -> &str {
        self.unit.as_deref().or(self.container.as_deref()).unwrap_or("")
    }
}

/// The process that holds one socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The oldest of the processes that hold it, except pid 1.
    pub process: Arc<Process>,
    /// The descriptors by which that process holds it; the first few.
    pub fds: Vec<u32>,
    /// How many processes hold it.
    pub holders: u32,
}

/// Open file descriptors of a process against their limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorUse {
    /// How many are open.
    pub open: u64,
    /// RLIMIT_NOFILE, the soft one: from there on open(), socket() and accept() fail with EMFILE.
    pub limit: u64,
    /// The hard one, up to which the soft one can be raised; 0 where it is not known.
    #[serde(default)]
    pub hard_limit: u64,
}
