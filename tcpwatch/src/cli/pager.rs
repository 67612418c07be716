//! Long texts on a terminal, a screen at a time.

use std::{
    env,
    io::{self, IsTerminal, Write as _},
    process::{Child, Command, Stdio},
};

/// The pager where `PAGER` names none.
const PAGER: &str = "less";

/// A pager that waits for its text.
pub(super) struct Pager {
    running: Child,
}

impl Pager {
    /// Starts one; `None` where standard output is no terminal, or none can be started.
    pub(super) fn start() -> Option<Self> {
        let is_dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if is_dumb || !io::stdout().is_terminal() {
            return None;
        }
        let pager = env::var("PAGER").ok().filter(|pager| !pager.trim().is_empty());
        let pager = pager.unwrap_or_else(|| PAGER.to_owned());
        let mut words = pager.split_whitespace();
        let mut pager = Command::new(words.next().unwrap_or(PAGER));
        pager.args(words);
        // A short text is printed, and a long one leaves the terminal as it was. The reader is root
        // as a rule: less starts no shell and no editor then.
        if env::var_os("LESS").is_none() {
            pager.env("LESS", "FRX");
        }
        pager.env("LESSSECURE", "1").stdin(Stdio::piped());
        pager.spawn().ok().map(|running| Self { running })
    }

    /// Shows the text, and returns whether the pager succeeded.
    pub(super) fn show(mut self, text: &str) -> bool {
        leave_signals_to_the_pager();
        if let Some(mut pipe) = self.running.stdin.take() {
            // A reader may leave before the end.
            let _ = pipe.write_all(text.as_bytes());
        }
        self.running.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Pager {
    /// A pager without a text ends, and leaves the terminal as it was.
    fn drop(&mut self) {
        drop(self.running.stdin.take());
        let _ = self.running.wait();
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

/// Whether the terminal has fewer lines than the text.
pub(super) fn is_long(text: &str) -> bool {
    let rows = terminal_size::terminal_size().map(|(_, rows)| usize::from(rows.0));
    rows.is_some_and(|rows| rows > 0 && text.lines().count() >= rows)
}
