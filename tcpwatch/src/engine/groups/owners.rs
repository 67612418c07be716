//! Whose sockets are judged together, whatever their ports, peers and names.
//!
//! A service that runs as a unit, and a container of one application, are one owner with all their
//! processes. Every other process is an owner by itself: one name says little, because it may be
//! that of two programs, and one program may change its own. Sockets of which no process is known are
//! grouped by service.

use std::fmt;

use crate::{
    engine::groups::held::Held,
    facts::{NetnsId, Process, Role, is_short_id},
};

/// An owner, with the place of the thresholds that it is judged by. Displayed it is the end of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwnerKey<'a> {
    netns: NetnsId,
    by: OwnedBy<'a>,
    /// See `Overridable::place_of`.
    pub(crate) place: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OwnedBy<'a> {
    /// A unit or a container.
    Service(&'a str),
    /// A process that is in none.
    Process(u32),
    /// No process is known.
    Unknown(Role, u16),
}

impl<'a> OwnerKey<'a> {
    pub(crate) fn of(netns: NetnsId, socket: &'a impl Held, place: usize) -> Self {
        let by = match socket.process() {
            None => OwnedBy::Unknown(socket.role(), socket.service_port()),
            Some(process) => match service(process) {
                Some(service) => OwnedBy::Service(service),
                None => OwnedBy::Process(process.pid),
            },
        };
        Self { netns, by, place }
    }

    /// Whether several processes are one owner.
    pub(crate) const fn is_service(&self) -> bool {
        matches!(self.by, OwnedBy::Service(_))
    }
}

impl fmt::Display for OwnerKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { netns, by, place } = self;
        match by {
            OwnedBy::Service(name) => write!(f, "{netns}/service/{name}")?,
            OwnedBy::Process(pid) => write!(f, "{netns}/process/{pid}")?,
            OwnedBy::Unknown(role, port) => write!(f, "{netns}/unknown/{}/{port}", role.label())?,
        }
        if *place > 0 { write!(f, "/override-{place}") } else { Ok(()) }
    }
}

/// The unit or container whose processes are one application. The others hold what has nothing to
/// do with each other: the session of a person, a user's service manager, a container that runs a
/// whole system (LXC, nspawn; these have names, and no ids).
pub(crate) fn service(process: &Process) -> Option<&str> {
    let is_of_one = |unit: &&str| unit.ends_with(".service") && !unit.starts_with("user@");
    match (process.container.as_deref(), process.unit.as_deref()) {
        (Some(container), _) => Some(container).filter(|id| is_short_id(id)),
        (None, unit) => unit.filter(is_of_one),
    }
}
