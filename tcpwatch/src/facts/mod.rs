//! Facts about the host, as types: the only input of the engine.
//!
//! Nothing here reads anything. [`kernel`](crate::kernel) makes facts, the
//! [`engine`](crate::engine) judges them. All times are CLOCK_MONOTONIC, see [`Timestamp`].
//!
//! Facts can be written down, see [`incident`](crate::incident). Recordings must stay
//! readable: a field that a type with `#[serde(default)]` gains is its default there; in any other
//! type it needs `#[serde(default)]` itself.

mod counters;
mod endpoint;
mod event;
mod focus;
mod inventory;
mod limits;
mod listing;
mod name;
mod process;
mod reset;
mod sight;
mod sockets;
mod stalled;
mod state;
mod stream;
mod time;
mod written;

pub use counters::{CloseWaitDurations, KernelCounters, PassTotals, TableUse};
pub use endpoint::Endpoint;
pub use event::{ConnectFailure, Event, NoConnect};
pub use focus::Focus;
pub use inventory::{
    AnswerCount, CloserCount, DestinationUse, Inventory, Namespace, NetnsId, NetstatCounters,
    PortUse, Scope, StateCounts, TimeWaitUse, TwReuse, saturating_sum,
};
pub use limits::{Conntrack, SharedLimits};
pub use listing::{
    AcceptQueue, ListedSocket, SocketCondition, SocketHolder, SocketListing, SocketSelection,
    Transfer,
};
pub use name::{is_container_name, is_short_id, is_unit, short_id};
pub use process::{DescriptorUse, Owner, Process};
pub use reset::{
    Amount, IdleClosed, RecordedReset, ResetCause, ResetCount, ResetObservation, ResetReason,
    SeenReset, ServiceCount,
};
pub use sight::{NotSeen, Unseen};
pub use sockets::{
    CloseWaitSocket, Listener, PortHolder, PortUser, Progress, Role, SelfConnectedSocket, Unread,
    WaitingSocket,
};
pub use stalled::StalledSocket;
pub use state::TcpState;
pub use stream::{StreamChange, StreamEvent, StreamProcess, StreamSelection};
pub use time::Timestamp;
