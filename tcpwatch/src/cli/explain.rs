//! `tcpwatch explain KIND`: the runbook of a kind, in a pager on a terminal.

use std::{
    env,
    io::{self, IsTerminal, Write as _},
    process::{Command, Stdio},
};

use super::Exit;
use crate::runbooks::runbook;

/// The pager where `PAGER` names none.
const PAGER: &str = "less";

pub(super) fn explain(name: &str) -> Exit {
    let Some(text) = runbook(name) else {
        return Exit::usage(&format!("no runbook has the name `{name}`"));
    };
    if io::stdout().is_terminal() && is_paged(text) {
        return Exit::Ok;
    }
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(error) => Exit::failed(&error),
    }
}

/// Interrupts of the terminal go to both processes: the pager decides, and this one waits for it. A
/// pager that ends early closes the pipe, which is no end of this process either.
fn leave_signals_to_the_pager() {
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: SIG_IGN is a valid disposition, and no other thread runs.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Whether a pager has shown it; one that cannot be started has not.
fn is_paged(text: &str) -> bool {
    let pager = env::var("PAGER").ok().filter(|pager| !pager.trim().is_empty());
    let pager = pager.unwrap_or_else(|| PAGER.to_owned());
    let mut words = pager.split_whitespace();
    let mut pager = Command::new(words.next().unwrap_or(PAGER));
    pager.args(words);
    // A short text is printed, and a long one leaves the terminal as it was. The reader is root as a
    // rule: less starts no shell and no editor then.
    pager.env("LESS", "FRX").env("LESSSECURE", "1").stdin(Stdio::piped());
    let Ok(mut running) = pager.spawn() else { return false };
    leave_signals_to_the_pager();
    if let Some(mut pipe) = running.stdin.take() {
        // A reader may leave before the end.
        let _ = pipe.write_all(text.as_bytes());
    }
    running.wait().is_ok_and(|status| status.success())
}
