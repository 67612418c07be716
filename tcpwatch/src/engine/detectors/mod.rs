//! One folder for each kind of finding: `mod.rs` judges, `words.rs` says it to a person.

pub(crate) mod accept_queue_overflow;
pub(crate) mod bind_conflict;
pub(crate) mod close_wait_pileup;
pub(crate) mod ephemeral_port_exhaustion;
pub(crate) mod reset_storm;
pub(crate) mod self_connect_risk;
pub(crate) mod self_connection;
pub(crate) mod stuck_state;
pub(crate) mod time_wait_exhaustion;
