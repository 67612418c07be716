//! A backlog of 50, and 150 clients at once every 47 s, which are served within 2 s.

use anyhow::{Result, ensure};

use crate::stage::{Scene, Stage};

pub(crate) const SCENES: &[Scene] =
    &[Scene { group: "bursts", name: "bursts", needs: &["python3"], play }];

fn play(stage: &Stage) -> Result<()> {
    let mut program = stage.python("bursts.py", &["7002", "50", "150", "47"])?;
    stage.keep(&mut [&mut program])?;
    let dropped = stage.ns.netstat_counter("ListenOverflows")?;
    ensure!(dropped >= 100, "only {dropped} attempts met a full queue");
    stage.must_have_accepted(3 * 150)
}
