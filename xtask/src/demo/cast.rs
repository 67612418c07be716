//! The actors on stage: this very program, run again as `scene ACTOR` for
//! each, stopped by closing its stdin.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use scenes::Namespace;

use super::Interrupt;
use crate::scene::Actor;

/// An actor whose stdin is closed only ends.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);

/// Those on stage; dropping it stops them all.
pub(super) struct Cast<'a> {
    ns: &'a Namespace,
    interrupt: &'a Interrupt,
    on_stage: Vec<(Actor, Child)>,
}

impl<'a> Cast<'a> {
    pub(super) fn new(ns: &'a Namespace, interrupt: &'a Interrupt) -> Self {
        Self { ns, interrupt, on_stage: Vec::new() }
    }

    /// Starts an actor and waits for the line that says what it did.
    pub(super) fn enter(&mut self, actor: Actor) -> Result<()> {
        self.interrupt.check()?;
        let mut child = Command::new("/proc/self/exe")
            .args(["scene", actor.name(), "--netns", self.ns.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", actor.name()))?;
        let stdout = child.stdout.take();
        self.on_stage.push((actor, child));
        let mut line = String::new();
        // Each step of an actor has a deadline, so this ends.
        let stdout = stdout.context("an actor has an stdout")?;
        BufReader::new(stdout).read_line(&mut line).context("listening to an actor")?;
        self.interrupt.check()?;
        if line.is_empty() {
            bail!("{} ended before it had done its part", actor.name());
        }
        println!("  {} {}", actor.name(), line.trim_end());
        Ok(())
    }

    /// Stops an actor and waits until it has ended.
    pub(super) fn leave(&mut self, actor: Actor) -> Result<()> {
        let Some(index) = self.on_stage.iter().position(|(a, _)| *a == actor) else {
            bail!("{} is not on stage", actor.name());
        };
        let (_, child) = self.on_stage.remove(index);
        stop(child).with_context(|| format!("stopping {}", actor.name()))
    }
}

impl Drop for Cast<'_> {
    fn drop(&mut self) {
        for (actor, child) in self.on_stage.drain(..).rev() {
            if let Err(error) = stop(child) {
                eprintln!("stopping {}: {error:#}", actor.name());
            }
        }
    }
}

fn stop(mut child: Child) -> Result<()> {
    drop(child.stdin.take());
    let end = Instant::now() + LEAVE_DEADLINE;
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            bail!("did not end within {LEAVE_DEADLINE:?} and was killed");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
