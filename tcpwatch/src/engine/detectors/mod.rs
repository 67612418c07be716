//! One folder for each kind of finding: `mod.rs` judges, `words.rs` says it to a person.

mod accept_queue_overflow;
mod bind_conflict;
mod close_wait_pileup;
mod ephemeral_port_exhaustion;
mod handshake_stall;
mod keepalive_race;
mod kernel_limit;
mod reset_storm;
mod self_connect_risk;
mod self_connection;
mod stalled_send;
mod stuck_state;
mod syn_flood;
mod time_wait_exhaustion;

use crate::engine::detector::Detector;

/// Every detector, each once.
pub(crate) fn all() -> Vec<Box<dyn Detector>> {
    vec![
        Box::new(accept_queue_overflow::AcceptQueueOverflow::default()),
        Box::new(bind_conflict::BindConflict::default()),
        Box::new(close_wait_pileup::CloseWaitPileup::default()),
        Box::new(ephemeral_port_exhaustion::EphemeralPortExhaustion::default()),
        Box::new(handshake_stall::HandshakeStall::default()),
        Box::new(keepalive_race::KeepaliveRace::default()),
        Box::new(kernel_limit::KernelLimit::default()),
        Box::new(reset_storm::ResetStorm::default()),
        Box::new(self_connect_risk::SelfConnectRisk::default()),
        Box::new(self_connection::SelfConnection::default()),
        Box::new(stalled_send::StalledSend::default()),
        Box::new(stuck_state::StuckState::default()),
        Box::new(syn_flood::SynFlood::default()),
        Box::new(time_wait_exhaustion::TimeWaitExhaustion::default()),
    ]
}
