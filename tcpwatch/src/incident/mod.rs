//! Incidents as data: a stream of facts, written down as it was judged, and read again.
//!
//! A recording is JSON Lines. The first line is the [`Header`]; each further one is a [`Fact`], in
//! the order in which the engine was given them. Judging them again, with another configuration,
//! needs neither the kernel nor privileges. Kernel addresses are never written: a
//! [`Recorder`] puts small numbers in their place.
//!
//! Opening files is left to others: a recording is written to a [`Write`](std::io::Write) and read
//! from a [`BufRead`](std::io::BufRead).

mod reader;
mod recorder;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::{
    reader::{IncidentError, Recording},
    recorder::Recorder,
};
use crate::{
    engine::Engine,
    facts::{Event, Inventory, Timestamp},
};

/// Tells a recording from any other file.
const FORMAT: &str = "tcpwatch-incident";

/// Changes when older recordings cannot be read any more. A fact that gains a field does not
/// change it.
const VERSION: u32 = 1;

/// Longest line of a recording: four times the largest inventory by default (16,384 described
/// sockets in CLOSE_WAIT and as many listeners, below 512 bytes each). One line is in memory at a
/// time, so this bounds the memory that any other file takes.
const LINE_BYTES: u64 = 64 << 20;

/// Where and when a recording was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Release of the kernel.
    pub kernel: String,
    /// Version of tcpwatch.
    pub tcpwatch: String,
    /// Time of day when it began, RFC 3339.
    pub recorded_at: String,
    /// The same moment on the clock of all its facts.
    pub monotonic_ns: Timestamp,
}

/// One thing that the engine was given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// An event.
    Event(Event),
    /// An inventory.
    Inventory {
        /// When it was judged.
        now: Timestamp,
        /// Its result.
        found: Inventory,
    },
}

impl Fact {
    /// Lets the engine judge it.
    pub fn give_to(&self, engine: &mut Engine) {
        match self {
            Self::Event(event) => engine.handle_event(event),
            Self::Inventory { now, found } => engine.handle_inventory(found, *now),
        }
    }
}
