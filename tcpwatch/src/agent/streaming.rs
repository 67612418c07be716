//! The stream of events, from the kernel side to its readers.
//!
//! It is armed while at least one reader listens, with what all of them select together. The loop
//! comes by ten times a second then. Names of network namespaces are read by the walker's thread,
//! when a reader comes and when an event is of a namespace without a name.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    time::{Interval, MissedTickBehavior, interval},
};

use super::walker::WalkerThread;
use crate::{
    kernel::{self, EventStream, Refusal},
    publish::{EventFeed, EventFilter, EventReaders, EventsRequest, NoEvents, WallClock, name_of},
};

/// How often the ring is read: a person sees an event at once, and the ring holds the budget of a
/// second.
pub(crate) const READ_EVERY: Duration = Duration::from_millis(100);
/// Records that are read at a time: more than the ring holds.
pub(crate) const AT_A_TIME: usize = 4_096;
/// The least time from one reading of names to the next for events without a name.
const NAME_EVERY: Duration = Duration::from_secs(1);

type Names = Vec<(u32, Arc<str>)>;
type Waiting = (EventFilter, oneshot::Sender<Result<EventFeed, NoEvents>>);

pub(super) struct Streaming {
    /// The reader of the ring, or why there is none.
    stream: Result<EventStream, String>,
    readers: EventReaders,
    /// Requests that wait for names.
    waiting: Vec<Waiting>,
    names: Names,
    naming: Option<oneshot::Receiver<Names>>,
    named: Instant,
    tick: Interval,
    /// Events in a second at most.
    budget: u32,
}

/// The input that the loop handles next.
pub(super) enum Wake {
    /// It is time to read the ring.
    Tick,
    /// Names have come; `None` if the walker has ended.
    Names(Option<Names>),
    /// A reader has left.
    Left,
}

impl Streaming {
    pub(super) fn new(stream: Result<EventStream, Refusal>, budget: u32) -> Self {
        let mut tick = interval(READ_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream: stream.map_err(|why| format!("the hook `stream` is missing: {why}")),
            readers: EventReaders::default(),
            waiting: Vec::new(),
            names: Names::new(),
            naming: None,
            named: Instant::now(),
            tick,
            budget,
        }
    }

    /// The next input. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Wake {
        let is_armed = self.is_armed();
        let Self { naming, tick, readers, .. } = self;
        let names = async {
            match naming {
                Some(names) => names.await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            names = names => Wake::Names(names),
            () = readers.one_left() => Wake::Left,
            _ = tick.tick(), if is_armed => Wake::Tick,
        }
    }

    pub(super) fn handle(&mut self, wake: Wake, walker: &WalkerThread) {
        match wake {
            Wake::Tick => self.read(walker),
            Wake::Names(names) => self.handle_names(names),
            Wake::Left => {
                self.readers.remove_gone();
                self.arm();
            }
        }
    }

    /// A new reader, once the names are known.
    pub(super) fn request(
        &mut self,
        request: &EventsRequest,
        to: oneshot::Sender<Result<EventFeed, NoEvents>>,
        walker: &WalkerThread,
    ) {
        let refused = match (&self.stream, request.filter()) {
            _ if self.budget == 0 => NoEvents::Off,
            (Err(why), _) => NoEvents::NotSeen(why.clone()),
            (_, Err(why)) => NoEvents::Query(why),
            (Ok(_), Ok(filter)) => {
                self.waiting.push((filter, to));
                self.order_names(walker);
                return;
            }
        };
        let _ = to.send(Err(refused));
    }

    /// A reload changes the budget; 0 ends all streams.
    pub(super) fn reconfigure(&mut self, budget: u32) {
        if budget == self.budget {
            return;
        }
        self.budget = budget;
        if budget == 0 {
            self.end();
        } else if !self.readers.is_empty() {
            self.arm();
        }
    }

    /// Ends all streams.
    pub(super) fn end(&mut self) {
        self.waiting.clear();
        self.readers.clear();
        self.arm();
    }

    /// Events that the kernel side has dropped, and records that were not understood.
    pub(super) fn lost(&self) -> (u64, u64) {
        self.stream
            .as_ref()
            .map_or((0, 0), |stream| (stream.count_dropped().unwrap_or(0), stream.malformed()))
    }

    fn is_armed(&self) -> bool {
        self.stream.as_ref().is_ok_and(EventStream::is_armed)
    }

    fn order_names(&mut self, walker: &WalkerThread) {
        if self.naming.is_none() {
            self.naming = Some(walker.name_namespaces());
        }
    }

    fn handle_names(&mut self, names: Option<Names>) {
        self.naming = None;
        self.named = Instant::now();
        self.names = names.unwrap_or_default();
        for (filter, to) in std::mem::take(&mut self.waiting) {
            let is_seen =
                |netns: &String| self.names.iter().any(|(_, name)| crate::plain::same(netns, name));
            if let Some(netns) = filter.netns.as_ref().filter(|netns| !is_seen(netns)) {
                let _ = to.send(Err(NoEvents::NoNamespace(netns.clone())));
                continue;
            }
            let feed = self.readers.add(filter);
            match self.arm() {
                // A client that has left meanwhile drops it.
                None => drop(to.send(Ok(feed))),
                Some(why) => drop(to.send(Err(NoEvents::NotSeen(why)))),
            }
        }
        // Names that others select may stand for other namespaces now.
        self.readers.remove_gone();
        self.arm();
    }

    /// Arms the stream for the readers that there are, disarms it where there is none. Returns why
    /// it could not; then no reader gets events.
    fn arm(&mut self) -> Option<String> {
        let Ok(stream) = &mut self.stream else { return None };
        if self.readers.is_empty() {
            stream.disarm();
            return None;
        }
        let was_armed = stream.is_armed();
        let selection = self.readers.selection(&self.names, self.budget);
        if let Err(error) = stream.arm(&selection) {
            tracing::warn!(%error, "stream of events not armed");
            self.readers.clear();
            return Some(error.to_string());
        }
        if !was_armed {
            self.tick.reset();
        }
        None
    }

    /// Hands over what the ring has.
    fn read(&mut self, walker: &WalkerThread) {
        let Ok(stream) = &mut self.stream else { return };
        let events = stream.drain(AT_A_TIME);
        let dropped = stream.take_dropped();
        self.readers.publish(&events, dropped, &self.names, WallClock::at(kernel::now()));
        let is_unnamed = events.iter().any(|event| name_of(&self.names, event.netns).is_none());
        if is_unnamed && self.named.elapsed() >= NAME_EVERY {
            self.order_names(walker);
        }
    }
}
