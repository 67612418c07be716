//! Whose sockets are judged together.
//!
//! A unit of the host's service manager, and a container of one application, are one owner with all
//! their processes. Elsewhere a process is an owner by itself. Only connects under way are counted
//! by program: many of them are of processes that end with their only connect.

use std::fmt;

use crate::{
    engine::groups::{held::Held as _, owners::service},
    facts::{NetnsId, Process, Role, TcpState, WaitingSocket},
};

/// A group of sockets. Displayed it is the end of an id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    pub(crate) netns: NetnsId,
    owner: GroupOwner,
    pub(crate) role: Role,
    /// `None` where the sockets of several services are judged together.
    pub(crate) port: Option<u16>,
    /// See `Overridable::place_of`: all of a group are judged by the same thresholds.
    pub(crate) place: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum GroupOwner {
    /// A unit or a container.
    Service(String),
    /// A program, by its name and its executable: one name may be that of two.
    Program(String, Option<String>),
    /// A process that is in no unit.
    Process(u32),
    Unknown,
}

impl GroupKey {
    pub(crate) fn of(netns: NetnsId, socket: &WaitingSocket, place: usize) -> Self {
        let owner = match socket.process() {
            Some(process) if socket.state == TcpState::SynSent => GroupOwner::connecting(process),
            Some(process) => {
                GroupOwner::service(process).unwrap_or(GroupOwner::Process(process.pid))
            }
            None => GroupOwner::Unknown,
        };
        Self { netns, owner, role: socket.role, port: Some(socket.service_port()), place }
    }

    /// Of a connect() that was given up.
    pub(crate) fn of_connect(
        netns: NetnsId,
        process: Option<&Process>,
        port: u16,
        place: usize,
    ) -> Self {
        let owner = process.map_or(GroupOwner::Unknown, GroupOwner::connecting);
        Self { netns, owner, role: Role::Client, port: Some(port), place }
    }

    /// The same owner, whatever the service.
    pub(crate) fn of_all_services(&self) -> Self {
        Self { port: None, ..self.clone() }
    }

    /// Whether a process or service is known.
    pub(crate) fn is_known(&self) -> bool {
        self.owner != GroupOwner::Unknown
    }
}

impl GroupOwner {
    fn connecting(process: &Process) -> Self {
        Self::service(process)
            .unwrap_or_else(|| Self::Program(process.name.clone(), process.exe.clone()))
    }

    /// The unit or container that the process is a part of.
    fn service(process: &Process) -> Option<Self> {
        service(process).map(|name| Self::Service(name.to_owned()))
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { netns, owner, role, port, place } = self;
        write!(f, "{netns}/")?;
        match owner {
            GroupOwner::Service(name) => write!(f, "service/{name}")?,
            GroupOwner::Program(name, exe) => {
                write!(f, "program/{name}/{}", exe.as_deref().unwrap_or_default())?;
            }
            GroupOwner::Process(pid) => write!(f, "process/{pid}")?,
            GroupOwner::Unknown => f.write_str("unknown")?,
        }
        match port {
            Some(port) => write!(f, "/{}/{port}", role.label())?,
            None => write!(f, "/{}/any", role.label())?,
        }
        if *place > 0 { write!(f, "/override-{place}") } else { Ok(()) }
    }
}
