//! `tcpwatch top`: a live view of findings, owners, listeners, ports and rates in a terminal.
//!
//! [`source`] fetches [snapshots](snapshot), [`state`] takes them and keys, [`view`] draws the
//! state. This file is the loop that joins them. Nothing is judged here: findings are an agent's,
//! rates are differences of its counters.

mod detail;
mod exposition;
mod history;
mod rows;
mod screen;
mod snapshot;
mod source;
mod state;
mod style;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use ratatui::crossterm::event::{Event, KeyEventKind};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use self::{
    screen::Screen,
    snapshot::Snapshot,
    source::{Source, SourceError},
    state::{Command, State},
};
use super::{Exit, config_source};
use crate::{agent::coloured, plain};

/// How often ages on the screen move on.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct TopOptions {
    /// Configuration file [default: /etc/tcpwatch/tcpwatch.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look at this host, also where an agent runs, whose state is shown else
    #[arg(long)]
    fresh: bool,
    /// Time between two looks: 1s, 1m
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = super::parse_watch)]
    interval: Duration,
}

pub(super) fn top(options: TopOptions) -> Exit {
    if let Some(why) = screen::is_unfit() {
        return Exit::usage(&format!("top: {why}; `tcpwatch check` prints the findings anywhere"));
    }
    let config = match config_source(options.config.clone()).load() {
        Ok(config) => config,
        Err(error) => return Exit::config(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failed(&error),
    };
    runtime.block_on(async {
        let inputs = match Inputs::open() {
            Ok(inputs) => inputs,
            Err(error) => return Exit::failed(&error),
        };
        let TopOptions { config: file, fresh, interval } = options;
        let (source, origin) = match source::find(file, &config, fresh, interval).await {
            Ok(found) => found,
            Err(exit) => return exit,
        };
        match show(source, State::new(origin, interval), inputs).await {
            Ok(exit) => exit,
            Err(error) => Exit::failed(&error),
        }
    })
}

/// Keys, sizes, and the signals that end or stop a program at a terminal.
struct Inputs {
    events: mpsc::Receiver<Event>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    stop: Signal,
}

impl Inputs {
    fn open() -> io::Result<Self> {
        Ok(Self {
            events: screen::read_events()?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            stop: signal(SignalKind::from_raw(libc::SIGTSTP))?,
        })
    }

    /// The command that the next of them is, or makes of the state.
    async fn next(&mut self, state: &mut State) -> Option<Command> {
        tokio::select! {
            _ = self.terminate.recv() => Some(Command::Quit),
            _ = self.interrupt.recv() => Some(Command::Quit),
            _ = self.hangup.recv() => Some(Command::Quit),
            _ = self.stop.recv() => Some(Command::Suspend),
            event = self.events.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    state.handle_key(key)
                }
                // The next drawing has the new size.
                Some(_) => None,
                // The terminal has gone.
                None => Some(Command::Quit),
            },
        }
    }
}

/// Draws until a key or a signal ends it, or the end of the source.
async fn show(source: Source, mut state: State, mut inputs: Inputs) -> io::Result<Exit> {
    let began = Instant::now();
    let is_coloured = coloured(&io::stdout());
    let mut screen = Screen::enter()?;
    let (to, mut snapshots) = mpsc::channel(1);
    let polling = tokio::spawn(poll(source, state.interval, to));
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut outcome = Ok(());
    loop {
        screen.terminal.draw(|frame| view::draw(frame, &mut state, is_coloured))?;
        let command = tokio::select! {
            command = inputs.next(&mut state) => command,
            snapshot = snapshots.recv() => match snapshot {
                Some(snapshot) => {
                    take(&mut state, began.elapsed(), snapshot);
                    None
                }
                None => break,
            },
            _ = tick.tick() => None,
        };
        state.handle_time(began.elapsed());
        match command {
            Some(Command::Quit) => break,
            Some(Command::Suspend) => outcome = screen.suspend(),
            None => {}
        }
        if outcome.is_err() {
            break;
        }
    }
    // The reason of an end is for the terminal as it was.
    drop(screen);
    drop(snapshots);
    outcome?;
    if !polling.is_finished() {
        return Ok(Exit::Ok);
    }
    Ok(polling.await.map_or(Exit::Failed, Source::end))
}

fn take(state: &mut State, now: Duration, snapshot: Result<Snapshot, SourceError>) {
    match snapshot {
        Ok(snapshot) => state.handle_snapshot(now, snapshot),
        Err(error) => state.handle_loss(now, plain::said(&error)),
    }
}

/// Fetches snapshots until nothing takes them, or the agent within this process has ended.
async fn poll(
    source: Source,
    pause: Duration,
    to: mpsc::Sender<Result<Snapshot, SourceError>>,
) -> Source {
    let mut due = interval(pause);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let snapshot = source.snapshot().await;
        let has_ended = matches!(snapshot, Err(SourceError::Ended));
        if has_ended || to.send(snapshot).await.is_err() {
            return source;
        }
    }
}
