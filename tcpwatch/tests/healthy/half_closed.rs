//! Connections that are half-closed on purpose: the client has sent all it had, and the server goes
//! on. And a long poll, whose clients leave before there is an answer.

use anyhow::Result;

use crate::stage::{Scene, Stage};

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        group: "half-closed",
        name: "streams-25",
        needs: &["python3"],
        play: |stage| play(stage, "streams", 25),
    },
    Scene {
        group: "half-closed",
        name: "patient-12",
        needs: &["python3"],
        play: |stage| play(stage, "patient", 12),
    },
    Scene {
        group: "half-closed",
        name: "long-poll",
        needs: &["python3"],
        play: |stage| play(stage, "poll", 100),
    },
];

fn play(stage: &Stage, which: &str, at_least: u64) -> Result<()> {
    let mut program = stage.python("half_closed.py", &[which, "7001"])?;
    stage.keep(&mut [&mut program])?;
    stage.must_have_accepted(at_least)
}
