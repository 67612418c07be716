//! Orphans of the tests: processes that outlive the test that started them.
//!
//! While the tests run, this process adopts their orphans (PR_SET_CHILD_SUBREAPER), so each one is
//! the tests' own, and other processes of the machine are not counted. An agent that is left would
//! also keep its hooks attached, and a namespace with a process in it would stay.

use std::{
    collections::BTreeSet,
    fs, process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{getpid, set_child_subreaper};

/// A killed process is gone when the kernel has taken it apart.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `work`; fails if a process of it is left.
pub(crate) fn none_of(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let before: BTreeSet<String> = children()?.into_iter().collect();
    set_child_subreaper(Some(getpid())).context("adopting orphans of the tests")?;
    let outcome = work();
    let left = left_beside(&before);
    set_child_subreaper(None).context("ending the adoption of orphans")?;
    outcome?;
    let left = left?;
    ensure!(left.is_empty(), "the tests have left processes behind: {}", left.join(", "));
    Ok(())
}

/// Children that are not among `before` and do not end, with their command.
fn left_beside(before: &BTreeSet<String>) -> Result<Vec<String>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let left: Vec<String> = children()?
            .into_iter()
            .filter(|pid| !before.contains(pid))
            .filter_map(|pid| Some(format!("{} (pid {pid})", name_of_living(&pid)?)))
            .collect();
        if left.is_empty() || Instant::now() >= end {
            return Ok(left);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn children() -> Result<Vec<String>> {
    let mut pids = Vec::new();
    let tasks = format!("/proc/{}/task", process::id());
    for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
        let children = task?.path().join("children");
        // A thread may end meanwhile.
        let text = fs::read_to_string(children).unwrap_or_default();
        pids.extend(text.split_whitespace().map(str::to_owned));
    }
    Ok(pids)
}

/// `None` for a zombie: it has ended, and nothing waits for it here.
fn name_of_living(pid: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    (!line("State:")?.trim_start().starts_with('Z')).then_some(())?;
    Some(line("Name:")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::none_of;

    /// One test: what a process adopts is the process's, not the thread's.
    #[test]
    fn an_orphan_that_stays_is_named_and_one_that_ends_is_not() {
        let shell = |script: &str| {
            let status = Command::new("sh").args(["-c", script]).status()?;
            anyhow::ensure!(status.success(), "{script}");
            Ok(())
        };
        none_of(|| shell("true & sleep 0.2 &")).expect("both end");
        // It ends by itself if this test fails.
        let error = none_of(|| shell("sleep 30 & echo $! >&2")).expect_err("one stays");
        let text = error.to_string();
        assert!(text.contains("sleep (pid "), "{text}");
        let pid =
            text.rsplit("pid ").next().and_then(|text| text.trim_end_matches(')').parse().ok());
        let pid = pid.and_then(rustix::process::Pid::from_raw).expect("the pid of our orphan");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
    }
}
