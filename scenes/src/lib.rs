//! TCP situations made on purpose, with real sockets, each in a network
//! namespace of its own.
//!
//! The kernel tests of tcpwatch compare the report of the agent with what was
//! made here; the demos use the same situations. A situation
//! is a value that holds its sockets. Its methods do the next step and return
//! once the kernel shows that step done. Dropping it ends it.
//!
//! Nothing here knows tcpwatch, and nothing waits longer than its deadline.

mod close_wait;
mod dead_link;
mod established;
mod fin_wait2;
mod half_open;
mod namespace;
mod ports;
mod segment;
mod self_connection;
mod simultaneous_open;
mod socket_table;
mod stray_acks;
mod stream;
mod stuck;
mod taken_port;
mod time_wait;
mod wait;

pub use close_wait::{CloseWaitLeak, Keeper};
pub use established::Established;
pub use fin_wait2::{OrphanedFinWait2, orphaned_fin_wait2};
pub use half_open::half_open;
pub use namespace::{Namespace, SKIPPED, is_root, note_skip, root_or_skip};
pub use ports::PortRange;
pub use self_connection::SelfConnection;
pub use simultaneous_open::{SimultaneousOpen, simultaneous_open};
pub use socket_table::{SocketLine, State};
pub use stray_acks::stray_acks;
pub use stuck::Stuck;
pub use taken_port::{TakenPort, bind};
pub use time_wait::TimeWaits;
pub use wait::{STEP_DEADLINE, wait_until};
