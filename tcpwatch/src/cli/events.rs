//! `tcpwatch events`: transitions, resets, failed connects and binds, a line each as they happen.
//!
//! The running agent streams them where there is one. Else, or with `--fresh`, this process attaches
//! and reads the ring itself; it has given up its privileges then, as the agent has.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    Exit,
    agent_api::{self, AgentError, EventLineReader},
    config_source,
    report::EventLines,
};
use crate::{
    agent::{AT_A_TIME, READ_EVERY},
    config::Config,
    kernel::{self, EventStream, LoadError, LoadOptions, OnRequest, Programs, StreamError, Walker},
    plain,
    publish::{
        DroppedBy, EventDocument, EventFilter, EventsRequest, NoEvents, WallClock, name_of,
        parse_network, parse_states,
    },
};

/// How often a reader of standard output that has gone is noticed while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A stream that ends sooner after its beginning is not continued.
const SHORTEST: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct EventsOptions {
    /// Configuration file [default: /etc/tcpwatch/tcpwatch.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only events of sockets with this port at either end
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Only events with this peer, or a peer in this network: 10.0.0.7, 10.0.0.0/8
    #[arg(long, value_name = "ADDRESS", value_parser = network)]
    peer: Option<String>,
    /// Only events of a process of this name (comm)
    ///
    /// The process is known where the event happens in its own system call, and later for the same
    /// socket. Sockets that are older than the stream have none until their process acts.
    #[arg(long, value_name = "NAME")]
    process: Option<String>,
    /// Only events that enter or leave this state, or happen in it, as Linux or ss spells it; several
    /// separated by commas
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<String>,
    /// Only events in this network namespace, `host` for the host's own
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Attach to this host even if an agent runs
    #[arg(long)]
    fresh: bool,
    /// Print JSON, an object in a line for each event
    #[arg(long)]
    json: bool,
}

fn network(text: &str) -> Result<String, String> {
    parse_network(text).map(|_| text.to_owned())
}

fn state(text: &str) -> Result<String, String> {
    parse_states(text).map(|_| text.to_owned())
}

/// Why the events end, or there are none.
#[derive(Debug, thiserror::Error)]
enum EventsError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the hook `stream` is missing: {0}; see `tcpwatch doctor`")]
    NoHook(kernel::Refusal),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("cannot give up privileges: {0}")]
    Confine(io::Error),
    #[error(transparent)]
    None(#[from] NoEvents),
    #[error("the agent at {} has ended, and the events with it", plain::path(.0))]
    AgentEnded(PathBuf),
    /// Not said: the reader of standard output has seen enough.
    #[error("the reader of the output has gone")]
    ReaderGone,
}

pub(super) fn events(options: &EventsOptions) -> Exit {
    let config = match config_source(options.config.clone()).load() {
        Ok(config) => config,
        Err(error) => return Exit::config(&error),
    };
    let request = options.request();
    let filter = match request.filter() {
        Ok(filter) => filter,
        Err(fault) => return Exit::usage(&fault),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::failed(&error),
    };
    runtime.block_on(async {
        let mut screen = match Screen::new(options.json) {
            Ok(screen) => screen,
            Err(error) => return Exit::failed(&error),
        };
        let path = request.path_and_query();
        let socket = &config.web.socket;
        let opened = if options.fresh { Ok(None) } else { agent_api::events(socket, &path).await };
        let mut why_not = None;
        let ended = match opened {
            Ok(Some(lines)) => follow(lines, socket, &path, &mut screen).await,
            Err(error @ AgentError::Refused(_)) => return Exit::failed(&error),
            Ok(None) => watch(&config, &filter, &mut screen, None).await,
            Err(error) => {
                let why = why_not.insert(error.of(socket));
                watch(&config, &filter, &mut screen, Some(why)).await
            }
        };
        match (ended, why_not) {
            (Ok(()) | Err(EventsError::ReaderGone), _) => Exit::Ok,
            (Err(EventsError::Io(error)), _) if error.kind() == io::ErrorKind::BrokenPipe => {
                Exit::Ok
            }
            (Err(EventsError::Load(error)), Some(why)) => Exit::load_beside(&error, &why),
            (Err(EventsError::Load(error)), None) => Exit::load(&error),
            (Err(error), _) => Exit::failed(&error),
        }
    })
}

impl EventsOptions {
    fn request(&self) -> EventsRequest {
        EventsRequest {
            port: self.port,
            peer: self.peer.clone(),
            process: self.process.clone(),
            state: self.state.clone(),
            netns: self.netns.clone(),
        }
    }
}

/// Standard output, and the signals that end a command at a terminal.
struct Screen {
    /// `None` where JSON is printed.
    lines: Option<EventLines>,
    interrupt: Signal,
    terminate: Signal,
}

impl Screen {
    fn new(json: bool) -> io::Result<Self> {
        Ok(Self {
            lines: (!json).then(EventLines::new),
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Says where the events come from. For JSON there is no such line.
    fn begin(&mut self, source: &str) -> io::Result<()> {
        let Some(lines) = &self.lines else { return Ok(()) };
        let text = format!("{source}; Ctrl-C ends\n{}\n", lines.header());
        print(text.as_bytes())
    }

    fn show(&mut self, events: impl Iterator<Item = EventDocument>) -> io::Result<()> {
        let mut text = String::new();
        for event in events {
            match &mut self.lines {
                Some(lines) => text.push_str(&lines.line(&event)),
                None => text.push_str(&event.to_json()),
            }
            text.push('\n');
        }
        if text.is_empty() { Ok(()) } else { print(text.as_bytes()) }
    }

    /// A line of the agent's, as it came.
    fn show_json(&mut self, json: &str) -> io::Result<()> {
        match &mut self.lines {
            None => print(format!("{}\n", plain::text(json)).as_bytes()),
            Some(_) => match EventDocument::read(json) {
                Ok(event) => self.show([event].into_iter()),
                // Of another version: better as it is than not at all.
                Err(_) => print(format!("{}\n", plain::text(json)).as_bytes()),
            },
        }
    }

    /// Returns when a signal ends the command.
    async fn ended(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

/// Whether standard output is a pipe whose reader has gone.
fn is_reader_gone() -> bool {
    let stdout = io::stdout();
    let mut output = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut output, Some(&at_once)), Ok(1..))
        && output[0].revents().contains(PollFlags::ERR)
}

/// Prints the events of the running agent until a signal, or until the agent has ended. A stream that
/// has come to the end of its life is opened again.
async fn follow(
    mut lines: EventLineReader,
    socket: &Path,
    path: &str,
    screen: &mut Screen,
) -> Result<(), EventsError> {
    screen.begin("events of the running agent")?;
    let mut began = Instant::now();
    let mut look = interval(LOOK_EVERY);
    loop {
        tokio::select! {
            line = lines.next() => match line {
                Ok(Some(json)) => screen.show_json(&json)?,
                Ok(None) | Err(_) => {
                    let again = if began.elapsed() < SHORTEST {
                        None
                    } else {
                        agent_api::events(socket, path).await.ok().flatten()
                    };
                    let ended = || EventsError::AgentEnded(socket.to_owned());
                    lines = again.ok_or_else(ended)?;
                    began = Instant::now();
                }
            },
            () = screen.ended() => return Ok(()),
            _ = look.tick() => if is_reader_gone() { return Err(EventsError::ReaderGone) },
        }
    }
}

/// Prints the events that this process sees itself, until a signal.
async fn watch(
    config: &Config,
    filter: &EventFilter,
    screen: &mut Screen,
    why_not: Option<&String>,
) -> Result<(), EventsError> {
    let budget = config.limits.events_per_second;
    if budget == 0 {
        return Err(NoEvents::Off.into());
    }
    let load = LoadOptions {
        ring_buffer_bytes: config.limits.ring_buffer_bytes,
        on_request: OnRequest { stream: true, ..OnRequest::default() },
        // Nothing is walked, and the iterator is verified sooner.
        one_pass: false,
        ..LoadOptions::default()
    };
    let programs = Programs::load(&load)?;
    let stream = programs.event_stream().map_err(EventsError::NoHook)?;
    let scope = config.inventory.namespaces;
    let (_, _, walker, _links) = programs.split(scope, config.limits.close_wait_sockets)?;
    kernel::confine(scope).map_err(EventsError::Confine)?;
    let mut own = OwnStream { stream, walker, names: Vec::new(), named: Instant::now(), budget };
    own.arm(filter)?;
    if let Some(why) = why_not {
        // A lost line costs no event.
        let _ = writeln!(
            io::stderr(),
            "tcpwatch: {}; these events are seen by this process itself",
            plain::text(why)
        );
    }
    screen.begin("events as this process sees them itself")?;
    let mut tick = interval(READ_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = screen.ended() => return Ok(()),
            _ = tick.tick() => {
                if is_reader_gone() {
                    return Err(EventsError::ReaderGone);
                }
                own.show(filter, screen)?;
            }
        }
    }
}

/// The stream of this process.
struct OwnStream {
    stream: EventStream,
    walker: Walker,
    names: Vec<(u32, Arc<str>)>,
    named: Instant,
    budget: u32,
}

impl OwnStream {
    fn arm(&mut self, filter: &EventFilter) -> Result<(), EventsError> {
        self.names = self.walker.namespace_names();
        self.named = Instant::now();
        let names: Vec<_> = self.names.iter().map(|(inode, name)| (*inode, &**name)).collect();
        if let Some(netns) = &filter.netns
            && !names.iter().any(|(_, name)| plain::same(netns, name))
        {
            return Err(NoEvents::NoNamespace(netns.clone()).into());
        }
        self.stream.arm(&EventFilter::union(&[filter], &names, self.budget))?;
        Ok(())
    }

    fn show(&mut self, filter: &EventFilter, screen: &mut Screen) -> Result<(), EventsError> {
        let events = self.stream.drain(AT_A_TIME);
        let is_unnamed = events.iter().any(|event| name_of(&self.names, event.netns).is_none());
        if is_unnamed && self.named.elapsed() >= SHORTEST {
            self.names = self.walker.namespace_names();
            self.named = Instant::now();
        }
        let wall = WallClock::at(kernel::now());
        let documents = events.iter().filter_map(|event| {
            let netns = name_of(&self.names, event.netns);
            filter.selects(event, netns).then(|| EventDocument::of(event, netns, wall))
        });
        screen.show(documents)?;
        let dropped = self.stream.take_dropped();
        if dropped > 0 {
            let line = EventDocument::dropped(dropped, DroppedBy::Budget, wall);
            screen.show([line].into_iter())?;
        }
        Ok(())
    }
}
