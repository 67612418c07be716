//! `tcpwatch top` in a terminal of tmux: drawn, driven by keys, and the terminal as it was after it.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace};
use support::{Agent, Folder, binary, poll, tcpwatch};

const QUICK: &str = "[inventory]\ninterval = \"1s\"\n[detect.close_wait_pileup]\nwarning = 10\n\
                     min_age = \"2s\"\n";

/// A terminal of a tmux server of its own, with a shell that has job control.
struct Tmux {
    socket: PathBuf,
    folder: Folder,
}

impl Tmux {
    /// `None` without tmux, which is noted.
    fn start(columns: u16, rows: u16) -> Result<Option<Self>> {
        if Command::new("tmux").arg("-V").output().is_err() {
            support::skip("needs tmux")?;
            return Ok(None);
        }
        let folder = Folder::new()?;
        let tmux = Self { socket: folder.path.join("tmux"), folder };
        let [columns, rows] = [columns, rows].map(|it| it.to_string());
        // Its prompt is a word of no other line.
        let shell = "env PS1=ready: bash --norc --noprofile";
        tmux.run(&["new-session", "-d", "-x", &columns, "-y", &rows, shell])?;
        tmux.shows(&["ready:"])?;
        Ok(Some(tmux))
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("tmux")
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .output()?;
        ensure!(output.status.success(), "tmux {arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Presses keys, by their names in tmux.
    fn press(&self, keys: &[&str]) -> Result<()> {
        self.run(&[&["send-keys"], keys].concat()).map(drop)
    }

    fn type_line(&self, line: &str) -> Result<()> {
        self.run(&["send-keys", "-l", line])?;
        self.press(&["Enter"])
    }

    fn screen(&self) -> Result<String> {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until the screen has all of these texts; returns it.
    fn shows(&self, texts: &[&str]) -> Result<String> {
        self.waits(&format!("a screen with {texts:?}"), |screen| {
            texts.iter().all(|text| screen.contains(text))
        })
    }

    /// Waits until the screen is as it should be; fails with what it shows instead.
    fn waits(&self, what: &str, is_it: impl Fn(&str) -> bool) -> Result<String> {
        let shown = poll(what, || Ok(Some(self.screen()?).filter(|screen| is_it(screen))));
        shown.with_context(|| format!("it shows:\n{}", self.screen().unwrap_or_default()))
    }

    /// Starts `top`; the terminal's modes before it are kept.
    fn start_top(&self, arguments: &str) -> Result<()> {
        let (folder, program) = (self.folder.path.display(), binary());
        let (pid, top) = (format!("{folder}/pid"), program.display());
        self.type_line(&format!(
            "clear; stty -g >{folder}/before; \
             bash -c 'echo $$ >{pid}; exec {top} top {arguments}'; echo ended:$?"
        ))
    }

    /// The terminal has the modes that it had before `top`, and nothing that `top` has drawn.
    fn is_as_before(&self) -> Result<()> {
        let folder = &self.folder.path;
        let after = folder.join("after");
        self.type_line(&format!("stty -g >{0}.new; mv {0}.new {0}", after.display()))?;
        let after = poll("the modes", || Ok(fs::read_to_string(&after).ok()))?;
        assert_eq!(after, fs::read_to_string(folder.join("before"))?);
        let screen = self.screen()?;
        ensure!(!screen.contains("1 findings"), "{screen}");
        fs::remove_file(folder.join("after"))?;
        Ok(())
    }

    /// The process id of `top`.
    fn pid(&self) -> Result<libc::pid_t> {
        Ok(fs::read_to_string(self.folder.path.join("pid"))?.trim().parse()?)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // It fails only if no server was started.
        let _ = self.run(&["kill-server"]);
    }
}

fn agent_at(socket: &Path) -> Result<Agent> {
    Agent::start_with_web(QUICK, &format!("socket = \"{}\"\n", socket.display()))
}

/// A configuration under which `top` finds the socket, or none.
fn arguments(folder: &Folder, socket: &Path) -> Result<String> {
    let text = format!("{QUICK}[web]\nsocket = \"{}\"\n", socket.display());
    Ok(format!("--interval 1s --config {}", folder.write("top.toml", &text)?.display()))
}

#[test]
fn a_leak_is_shown_in_full_and_a_killed_agent_is_reported_until_it_is_back() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    for (columns, rows) in [(80, 24), (200, 50)] {
        let Some(tmux) = Tmux::start(columns, rows)? else { return Ok(()) };
        let socket = tmux.folder.path.join("tcpwatch.sock");
        let agent = agent_at(&socket)?;
        let ns = Namespace::new("top")?;
        let _leak = CloseWaitLeak::client(&ns, 20, 7_300, false)?;
        tmux.start_top(&arguments(&tmux.folder, &socket)?)?;
        tmux.shows(&["running agent, inventory", "1 findings", "q quit"])?;

        tmux.press(&["/"])?;
        tmux.run(&["send-keys", "-l", ns.name()])?;
        tmux.shows(&[&format!("filter: {}", ns.name())])?;
        tmux.press(&["Enter"])?;
        tmux.shows(&["1 findings 1", "close-wait-pileup", "WARNING", "leaves out"])?;
        tmux.press(&["Enter"])?;
        let detail = tmux.shows(&["help 1", "kind    close-wait-pileup"])?;
        ensure!(detail.lines().all(|line| line.chars().count() <= columns.into()), "{detail}");
        ensure!(detail.contains("20 connections to 127.0.0.1:7300"), "{detail}");
        tmux.press(&["e"])?;
        tmux.shows(&["The peer sent its FIN"])?;
        tmux.press(&["Escape"])?;
        tmux.shows(&["help 1"])?;
        tmux.press(&["Escape"])?;
        tmux.shows(&["Enter detail"])?;
        tmux.press(&["2"])?;
        tmux.shows(&["CLOSE_WAIT", "20", "1 findings 1  2 owners 1"])?;
        tmux.press(&["Space"])?;
        tmux.shows(&["PAUSED"])?;

        agent.signal(libc::SIGKILL)?;
        drop(agent);
        let lost = tmux.shows(&["connection lost", "retry every 1 s: no agent answers at"])?;
        ensure!(lost.contains("CLOSE_WAIT"), "the last known state stays: {lost}");
        let again = agent_at(&socket)?;
        tmux.waits("the connection to be back", |screen| !screen.contains("connection lost"))?;
        tmux.press(&["Space", "1"])?;
        tmux.shows(&["1 findings 1", "close-wait-pileup"])?;
        tmux.press(&["q"])?;
        tmux.shows(&["ended:0"])?;
        tmux.is_as_before()?;
        drop(again);
    }
    Ok(())
}

#[test]
fn terminal_is_as_before_after_every_end_and_while_top_is_suspended() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let Some(tmux) = Tmux::start(90, 30)? else { return Ok(()) };
    let socket = tmux.folder.path.join("tcpwatch.sock");
    let _agent = agent_at(&socket)?;
    let arguments = arguments(&tmux.folder, &socket)?;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        tmux.start_top(&arguments)?;
        tmux.shows(&["running agent", "q quit"])?;
        // SAFETY: takes no pointer; the shell has not reaped it, because it runs.
        ensure!(unsafe { libc::kill(tmux.pid()?, signal) } == 0);
        tmux.shows(&["ended:0"])?;
        tmux.is_as_before()?;
    }
    tmux.start_top(&arguments)?;
    tmux.shows(&["running agent", "q quit"])?;
    tmux.press(&["C-z"])?;
    tmux.shows(&["Stopped"])?;
    tmux.is_as_before()?;
    tmux.type_line("clear; fg")?;
    tmux.shows(&["running agent", "q quit"])?;
    tmux.run(&["resize-window", "-x", "79", "-y", "30"])?;
    tmux.shows(&["79x30: top needs 80x24"])?;
    tmux.run(&["resize-window", "-x", "120", "-y", "40"])?;
    tmux.shows(&["running agent", "q quit"])?;
    tmux.press(&["C-c"])?;
    tmux.waits("top to end", |screen| !screen.contains("q quit"))?;
    tmux.is_as_before()
}

/// The agent within it has given up its privileges; the terminal can be restored all the same.
#[test]
fn without_an_agent_top_looks_itself() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let Some(tmux) = Tmux::start(80, 24)? else { return Ok(()) };
    let ns = Namespace::new("own")?;
    let _leak = CloseWaitLeak::client(&ns, 20, 7_300, false)?;
    let none = tmux.folder.path.join("none.sock");
    tmux.start_top(&arguments(&tmux.folder, &none)?)?;
    tmux.shows(&["looks of its own, inventory", "q quit"])?;
    tmux.press(&["/"])?;
    tmux.run(&["send-keys", "-l", ns.name()])?;
    tmux.press(&["Enter"])?;
    tmux.shows(&["1 findings 1", "close-wait-pileup", "WARNING"])?;
    let status = fs::read_to_string(format!("/proc/{}/status", tmux.pid()?))?;
    ensure!(status.contains("\nSeccomp:\t2\n"), "{status}");
    tmux.press(&["C-z"])?;
    tmux.shows(&["Stopped"])?;
    tmux.is_as_before()?;
    tmux.type_line("clear; fg")?;
    tmux.shows(&["looks of its own, inventory", "q quit"])?;
    tmux.press(&["q"])?;
    tmux.waits("top to end", |screen| !screen.contains("q quit"))?;
    tmux.is_as_before()
}

/// Runs a line in a pseudo-terminal of script(1).
fn in_terminal(line: &str) -> Result<Output> {
    Ok(Command::new("script").args(["-qec", line, "/dev/null"]).output()?)
}

#[test]
fn where_nothing_can_be_drawn_one_line_names_check() -> Result<()> {
    let piped = tcpwatch().arg("top").output()?;
    assert_eq!(piped.status.code(), Some(64), "{piped:?}");
    let line = String::from_utf8(piped.stderr)?;
    ensure!(line.lines().count() == 1 && line.contains("`tcpwatch check`"), "{line}");
    ensure!(piped.stdout.is_empty());

    let dumb = in_terminal(&format!("TERM=dumb exec {} top", binary().display()))?;
    assert_eq!(dumb.status.code(), Some(64), "{dumb:?}");
    let line = String::from_utf8(dumb.stdout)?;
    ensure!(line.contains("TERM=dumb") && line.contains("`tcpwatch check`"), "{line}");
    ensure!(!line.contains('\u{1b}'), "{line:?}");
    Ok(())
}

#[test]
fn a_user_without_permission_gets_one_line_and_an_untouched_terminal() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let program = folder.path.join("tcpwatch");
    fs::copy(binary(), &program)?;
    let line =
        format!("exec setpriv --reuid=65534 --clear-groups {} top --fresh", program.display());
    let refused = in_terminal(&line)?;
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    let said = String::from_utf8(refused.stdout)?;
    ensure!(said.starts_with("tcpwatch: ") && said.lines().count() == 1, "{said}");
    ensure!(!said.contains('\u{1b}'), "{said:?}");
    Ok(())
}
