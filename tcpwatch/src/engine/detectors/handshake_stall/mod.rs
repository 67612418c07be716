//! `handshake-stall`: half-open connections of few sources stay: their answers do not arrive.
//!
//! Signal: see [`half_open`](crate::engine::observers::half_open).
//! Trip: `warning` or `critical` of them, or half of the listener's queue where that is less.
//! Cold start: none.
//! Recovery: below 0.9 of the threshold; the kernel gives a request up after about a minute
//! (`tcp_synack_retries` 5), sooner when the queue is half full.
//! Misses: a port whose accept queue is or was just full, as in `syn-flood`.

mod words;

use crate::engine::{
    detector::{Detector, Round, Verdicts},
    finding::FindingKind,
    over_time::level::Levels,
};

#[derive(Debug, Default)]
pub(crate) struct HandshakeStall {
    levels: Levels,
}

impl Detector for HandshakeStall {
    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        self.levels.begin();
        for namespace in &round.inventory.namespaces {
            for crowd in round.half_open.crowds(namespace, false) {
                let port = crowd.port();
                let id = format!("{}/{}/{port}", FindingKind::HandshakeStall.name(), namespace.id);
                let config = round.detect.handshake_stall.of(crowd.process(), port);
                let (warning, critical) = (crowd.threshold(config.warning), config.critical as f64);
                let severity = self.levels.judge(&id, crowd.unexplained(), warning, critical);
                if let Some(severity) = severity.filter(|_| config.enabled) {
                    verdicts.push(words::verdict(&crowd, id, severity), crowd.unanswered.into());
                }
            }
        }
    }
}
