//! The story of a host, step by step: each file is a chapter, in the order of their lines here.
//!
//! A step may rely on those before it. It leaves the service as it found it, unless its name says
//! otherwise.

mod configuration;
mod confinement;
mod crash;
mod finding;
mod installation;
mod removal;
mod rpm;
mod upgrade;

use super::{debian::Suite, step::Step};

/// The steps of this suite.
pub(super) fn steps(suite: &Suite) -> Vec<Step> {
    let chapters = [
        installation::STEPS,
        confinement::STEPS,
        configuration::STEPS,
        finding::STEPS,
        crash::STEPS,
        upgrade::STEPS,
        removal::STEPS,
    ];
    let rpm = if suite.rpm { rpm::STEPS } else { &[] };
    let mut steps = chapters.concat();
    steps.extend_from_slice(rpm);
    steps
}
