//! The terminal while `top` has it: raw, on its alternate screen, and as it was afterwards.
//!
//! It is restored on every way out: the end of [`Screen`], a panic of any thread, a suspension. Only
//! SIGKILL leaves it as it is, as with any program; `reset` repairs that.

use std::{
    io::{self, IsTerminal, Stdout, stdout},
    panic, thread,
    time::Duration,
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event::{self, Event},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

use tokio::sync::mpsc;

/// To open a terminal takes microseconds.
const OPENING: Duration = Duration::from_secs(1);

/// Why this is no place to draw on; `None` where it is one.
pub(super) fn is_unfit() -> Option<&'static str> {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    match (io::stdin().is_terminal() && stdout().is_terminal(), is_dumb) {
        (false, _) => Some("standard input and output are not a terminal"),
        (true, true) => Some("TERM=dumb cannot be drawn on"),
        (true, false) => None,
    }
}

/// Keys and sizes, read by a thread of its own, which ends with the process or the terminal. It has
/// opened all that it needs when this returns: afterwards the process may be confined.
pub(super) fn read_events() -> io::Result<mpsc::Receiver<Event>> {
    let (to, events) = mpsc::channel(64);
    let (opened, is_open) = std::sync::mpsc::channel();
    let read = move || {
        // It opens before it reads. While the terminal is not raw yet, it may block on an end of
        // input (Ctrl-D), hence not on the main thread.
        let _ = opened.send(event::poll(Duration::ZERO));
        while let Ok(event) = event::read() {
            if to.blocking_send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    match is_open.recv_timeout(OPENING) {
        Ok(Err(error)) => Err(error),
        // It has opened and reads.
        Ok(Ok(_)) | Err(_) => Ok(events),
    }
}

/// The terminal, drawn on.
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
        begin()?;
        Ok(Self { terminal: Terminal::new(CrosstermBackend::new(stdout()))? })
    }

    /// Gives the terminal back and stops this process until it is continued.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        restore();
        stop_this_process();
        begin()?;
        // A new one knows nothing of what was drawn, and draws all.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

/// Sends SIGSTOP, because SIGTSTP is handled, and this handles it. By tgkill(2): `raise` of musl is
/// tkill(2), which the filter of a look refuses.
fn stop_this_process() {
    // SAFETY: takes no pointer; the two numbers are those of the calling thread.
    unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), libc::SIGSTOP);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn begin() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, Hide).inspect_err(|_| restore())
}

/// A terminal that has gone cannot be restored, and needs not.
fn restore() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
}
