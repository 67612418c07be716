//! The only place that knows aya, /proc and namespaces; it makes facts.
//!
//! [`Programs`] loads the kernel side with the running kernel's BTF offsets and attaches the
//! hooks. It splits into three readers: [`EventRing`] (rare events), [`CounterReader`] (what the
//! hooks count) and [`Walker`] (an inventory of every namespace, with the owners of the sockets
//! that stay). The walker blocks, so the agent runs it on a thread of its own. [`EventStream`] has
//! every event, while it is armed.

mod acceptors;
mod answers;
mod attribution;
mod bpf;
mod btf;
mod btf_file;
mod capabilities;
mod cgroup;
mod clock;
mod close_look;
mod closers;
mod code;
mod confinement;
mod cost;
mod counted;
mod counters;
mod descriptors;
mod elf;
mod endpoint;
mod error;
mod events;
mod handover;
mod heap;
mod hooks;
mod in_turn;
mod inventory;
mod kernel_log;
mod kernel_side;
mod limits;
mod listing;
mod lru;
mod mapped_file;
mod memory;
mod namespaces;
mod notes;
mod one_pass;
mod owners;
mod placeholders;
mod privileges;
mod process;
mod programs;
mod reach;
mod records;
mod refusal;
mod reset_totals;
mod seccomp;
mod serving;
mod settings;
mod stream;
mod symbol_server;
mod symbols;
mod tally;
mod tour;
mod walk;

use endpoint::endpoint;

pub use crate::facts::Scope;
pub use cgroup::parse_cgroup;
pub use clock::{now, thread_cpu_time};
pub use confinement::{AppArmor, Confinement, SeLinux};
pub use cost::{CostError, HookCost, Measured};
pub use counters::CounterReader;
pub use error::InventoryError;
pub use events::EventRing;
pub use handover::{Handover, Predecessor};
pub use hooks::{Hook, HookStatus};
pub use inventory::Walker;
pub use memory::OwnerPolicy;
pub use privileges::{confine, confine_at_terminal};
pub use process::ProcessReader;
pub use programs::{LoadError, LoadOptions, OnRequest, Programs, WalkStatus, holds};
pub use reach::{Reach, Whose};
pub use refusal::{Refusal, Restrictions};
pub use stream::{EventStream, StreamError};
pub use symbol_server::serve_symbols;
pub use symbols::{OWN_PROGRAM, SYMBOLS_COMMAND};

// The facts know nothing of the kernel side; its tables hold what the engine may request.
const _: () = {
    use tcpwatch_common::{IDLE_BUCKETS_MS, STACK_PROCESSES, maps};

    use crate::facts::{Focus, IdleClosed};
    assert!(IdleClosed::BUCKETS == IDLE_BUCKETS_MS.len() + 1);
    assert!(Focus::STACKS == STACK_PROCESSES);
    assert!(Focus::ANSWERS == maps::ANSWERS_LIMIT as usize);
    assert!(Focus::CLOSERS_IN == maps::CLOSERS_IN_LIMIT as usize);
    assert!(Focus::CLOSERS == (maps::CLOSERS_LIMIT + maps::CLOSERS_ELSEWHERE_LIMIT) as usize);
};
