//! The only place that knows aya, /proc and namespaces; it makes facts.
//!
//! [`Programs`] loads the kernel side with the running kernel's BTF offsets and attaches the
//! hooks. It splits into three readers: [`EventRing`] (rare events), [`CounterReader`] (what the
//! hooks count) and [`Walker`] (an inventory of every namespace, with the owners of the sockets
//! that stay). The walker blocks, so the agent runs it on a thread of its own.

mod attribution;
mod btf;
mod btf_file;
mod clock;
mod close_look;
mod code;
mod counters;
mod descriptors;
mod error;
mod events;
mod hooks;
mod inventory;
mod lru;
mod memory;
mod namespaces;
mod owners;
mod process;
mod programs;
mod records;
mod settings;
mod symbols;
mod walk;

pub use crate::facts::Scope;
pub use clock::now;
pub use counters::CounterReader;
pub use error::InventoryError;
pub use events::EventRing;
pub use hooks::{Hook, HookStatus};
pub use inventory::Walker;
pub use memory::OwnerPolicy;
pub use process::{ProcessReader, parse_cgroup};
pub use programs::{LoadError, LoadOptions, Programs, holds};
pub use symbols::{OWN_PROGRAM, describe as describe_addresses};
