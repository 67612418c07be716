//! `syn-flood`: half-open connections from many sources crowd a listener.
//!
//! Signal: see [`half_open`](crate::engine::observers::half_open).
//! Trip: `warning` or `critical` of them, or half of the listener's queue where that is less.
//! Cold start: none.
//! Recovery: below 0.9 of the threshold; the kernel gives a request up after about a minute
//! (`tcp_synack_retries` 5), sooner when the queue is half full.
//! Misses: under SYN cookies a flood leaves no more requests than the queue holds, so their number
//! says nothing of its size. The requests of a port that a full accept queue explains: there the
//! kernel itself drops the answers, and `accept-queue-overflow` says so.

mod words;

use crate::engine::{
    detector::{Detector, Round, Verdicts},
    finding::FindingKind,
    over_time::level::Levels,
};

#[derive(Debug, Default)]
pub(crate) struct SynFlood {
    levels: Levels,
}

impl Detector for SynFlood {
    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        self.levels.begin();
        for namespace in &round.inventory.namespaces {
            for crowd in round.half_open.crowds(namespace, true) {
                let port = crowd.port();
                let id = format!("{}/{}/{port}", FindingKind::SynFlood.name(), namespace.id);
                let config = round.detect.syn_flood.of(crowd.process(), port);
                let (warning, critical) = (crowd.threshold(config.warning), config.critical as f64);
                let severity = self.levels.judge(&id, crowd.unexplained(), warning, critical);
                if let Some(severity) = severity.filter(|_| config.enabled) {
                    verdicts.push(words::verdict(&crowd, id, severity), crowd.unanswered.into());
                }
            }
        }
    }
}
