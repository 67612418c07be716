//! Parts that the tests share: the agent as a child process, plain HTTP, polling with a deadline.

#![allow(dead_code, reason = "each test binary uses a part of it")]

mod agent;
mod daemon;
pub(crate) mod ended;
pub(crate) mod events;
mod http;
pub(crate) mod leak;
pub(crate) mod prometheus;
mod sockets;

use std::{
    env,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use self::{agent::*, daemon::*, http::*, sockets::*};

/// A machine that builds at the same time needs a multiple of what an idle one needs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A bound on how soon something shows. `TCPWATCH_SLOW=4` multiplies it by four: in an emulated
/// machine (`cargo xtask vm`) the same work takes ten times as long.
pub(crate) fn within(bound: Duration) -> Duration {
    let factor = env::var("TCPWATCH_SLOW").ok().and_then(|factor| factor.parse().ok());
    bound * factor.unwrap_or(1)
}

/// For a test of a hook that this machine refuses. A kernel that takes one hook by trampoline takes
/// all of them, so `others` must be refused too. The guests of `cargo xtask vm` have them all: there
/// `TCPWATCH_REQUIRE_HOOKS=1` makes a missing one a failure.
pub(crate) fn skip_without_hook(hook: &str, others: &[(&str, bool)]) -> Result<()> {
    let required = env::var_os("TCPWATCH_REQUIRE_HOOKS").is_some_and(|value| value == "1");
    ensure!(!required, "the hook `{hook}` is not attached, and this kernel must have it");
    for (other, attached) in others {
        ensure!(!attached, "the hook `{hook}` is not attached, and `{other}` is");
    }
    scenes::note_skip("needs fentry or fexit, which this kernel refuses; cargo xtask vm tests it");
    Ok(())
}

/// The binary under test: cargo's own build of it, or what `TCPWATCH_BINARY` names.
pub(crate) fn binary() -> PathBuf {
    let other = env::var_os("TCPWATCH_BINARY").map(PathBuf::from);
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_tcpwatch").into())
}

/// Its command.
pub(crate) fn tcpwatch() -> Command {
    Command::new(binary())
}

/// Asks again until there is an answer; an error ends it at once.
pub(crate) fn poll<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    // Often enough for states that change once a second.
    const PAUSE: Duration = Duration::from_millis(200);
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < end, "timed out after {DEADLINE:?}: {what}");
        thread::sleep(PAUSE);
    }
}

pub(crate) fn skip(why: &str) -> Result<()> {
    if env::var_os("TCPWATCH_REQUIRE_ALL").is_some_and(|value| value == "1") {
        bail!("this test {why}, and TCPWATCH_REQUIRE_ALL=1 turns a skip into a failure");
    }
    scenes::note_skip(why);
    Ok(())
}
