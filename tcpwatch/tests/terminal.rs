//! Output in a terminal: colour there, none in a pipe, and no complaint of a library.

mod support;

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use support::{Agent, Folder, free_address, poll, tcpwatch};

const ESCAPE: char = '\u{1b}';

/// The log of an agent in a pseudo-terminal of script(1), with this environment.
fn log_in_a_terminal(variable: &str) -> Result<String> {
    let folder = Folder::new()?;
    let typescript = folder.path.join("typescript");
    let address = free_address()?;
    let program = tcpwatch().get_program().to_str().context("a path in UTF-8")?.to_owned();
    let line = format!("exec env {variable} {program} run --web.listen-address {address}");
    let mut terminal = support::Daemon::start(
        // A PID namespace ends with its first process. The end of the terminal would not end the
        // agent: SIGHUP makes it read its configuration.
        Command::new("unshare")
            .args(["--fork", "--pid", "--kill-child", "--"])
            .args(["script", "--quiet", "--flush", "--command", &line])
            .arg(&typescript),
        &folder.path.join("script.log"),
    )?;
    poll("the agent to say that it listens", || {
        terminal.must_run()?;
        let log = fs::read(&typescript).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        Ok(log.contains("listening").then_some(log))
    })
}

#[test]
fn log_is_coloured_in_a_terminal_only_and_begins_with_our_own_words() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    // The first line is script's own.
    let coloured = log_in_a_terminal("TERM=xterm")?;
    let first = coloured.lines().nth(1).context("an empty log")?;
    ensure!(first.starts_with(ESCAPE) && first.contains("20"), "{coloured}");
    ensure!(!coloured.contains("crate feature"), "{coloured}");
    for variable in ["NO_COLOR=1", "TERM=dumb"] {
        let plain = log_in_a_terminal(variable)?;
        ensure!(plain.contains("listening") && !plain.contains(ESCAPE), "{variable}: {plain}");
    }
    let agent = Agent::start("")?;
    let piped = agent.log()?;
    ensure!(piped.contains("listening") && !piped.contains(ESCAPE), "{piped}");
    Ok(())
}
