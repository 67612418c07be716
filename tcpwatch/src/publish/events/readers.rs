//! The readers of the stream, each with its filter and a bounded queue.
//!
//! An event becomes text once, and goes to each reader that its filter selects. A reader that does
//! not keep up loses events, which its stream says; it holds nothing up.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::body::Bytes;
use tokio::sync::{Notify, mpsc};

use super::{DroppedBy, EventDocument, EventFilter};
use crate::{
    facts::{StreamEvent, StreamSelection},
    publish::WallClock,
};

/// Text that waits for one reader, at most: two seconds of the default budget.
const QUEUE_BYTES: usize = 1024 * 1024;
/// Batches that wait for one reader, at most; there are ten a second.
const QUEUE: usize = 64;

/// The name of a network namespace by its inode number.
pub type NetnsNames = [(u32, Arc<str>)];

/// All readers.
#[derive(Debug, Default)]
pub struct EventReaders {
    readers: Vec<Reader>,
    left: Arc<Notify>,
}

#[derive(Debug)]
struct Reader {
    filter: EventFilter,
    to: mpsc::Sender<Bytes>,
    queued: Arc<AtomicUsize>,
    /// Events that it has lost, and that its stream has not said yet.
    lost: u64,
    /// The text of this round, and how many events it has.
    batch: String,
    events: u64,
}

/// One reader's end of the stream. Dropping it ends the stream.
#[derive(Debug)]
pub struct EventFeed {
    from: mpsc::Receiver<Bytes>,
    queued: Arc<AtomicUsize>,
    left: Arc<Notify>,
}

impl EventReaders {
    /// One more reader.
    pub fn add(&mut self, filter: EventFilter) -> EventFeed {
        let (to, from) = mpsc::channel(QUEUE);
        let queued = Arc::new(AtomicUsize::new(0));
        let feed = EventFeed { from, queued: Arc::clone(&queued), left: Arc::clone(&self.left) };
        let reader = Reader { filter, to, queued, lost: 0, batch: String::new(), events: 0 };
        self.readers.push(reader);
        feed
    }

    /// Removes the readers that have left.
    pub fn remove_gone(&mut self) {
        self.readers.retain(|reader| !reader.to.is_closed());
    }

    /// Ends every stream.
    pub fn clear(&mut self) {
        self.readers.clear();
    }

    /// Whether nothing reads.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// Returns when a reader has left.
    pub async fn one_left(&self) {
        self.left.notified().await;
    }

    /// The events that these readers need from the kernel side.
    #[must_use]
    pub fn selection(&self, names: &NetnsNames, budget: u32) -> StreamSelection {
        let filters: Vec<_> = self.readers.iter().map(|reader| &reader.filter).collect();
        let names: Vec<_> = names.iter().map(|(inode, name)| (*inode, &**name)).collect();
        EventFilter::union(&filters, &names, budget)
    }

    /// Gives the events to the readers, and then the number of those that the kernel side has
    /// dropped, which is the same for all.
    pub fn publish(
        &mut self,
        events: &[StreamEvent],
        dropped: u64,
        names: &NetnsNames,
        wall: WallClock,
    ) {
        for event in events {
            let netns = name_of(names, event.netns);
            let mut text = None;
            for reader in &mut self.readers {
                if reader.filter.selects(event, netns) {
                    let text =
                        text.get_or_insert_with(|| sse(&EventDocument::of(event, netns, wall)));
                    reader.batch.push_str(text);
                    reader.events += 1;
                }
            }
        }
        let dropped =
            (dropped > 0).then(|| sse(&EventDocument::dropped(dropped, DroppedBy::Budget, wall)));
        for reader in &mut self.readers {
            reader.batch.push_str(dropped.as_deref().unwrap_or_default());
            reader.flush(wall);
        }
    }
}

impl Reader {
    /// Queues the batch, after what was lost before it; a batch that finds the queue full is lost.
    fn flush(&mut self, wall: WallClock) {
        let (mut batch, events) = (std::mem::take(&mut self.batch), self.events);
        self.events = 0;
        if batch.is_empty() && self.lost == 0 {
            return;
        }
        if self.lost > 0 {
            batch.insert_str(0, &sse(&EventDocument::dropped(self.lost, DroppedBy::Reader, wall)));
        }
        let length = batch.len();
        let is_full = self.queued.load(Ordering::Relaxed) + length > QUEUE_BYTES;
        // Added first: the feed takes it off when it has the batch.
        self.queued.fetch_add(length, Ordering::Relaxed);
        if is_full || self.to.try_send(batch.into()).is_err() {
            self.queued.fetch_sub(length, Ordering::Relaxed);
            self.lost += events;
        } else {
            self.lost = 0;
        }
    }
}

impl EventFeed {
    /// The next batch, in the form of server-sent events; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Bytes> {
        let batch = self.from.recv().await?;
        self.queued.fetch_sub(batch.len(), Ordering::Relaxed);
        Some(batch)
    }
}

impl Drop for EventFeed {
    fn drop(&mut self) {
        self.from.close();
        self.left.notify_one();
    }
}

/// The name of a network namespace, where it is known.
#[must_use]
pub fn name_of(names: &NetnsNames, inode: u32) -> Option<&str> {
    names.iter().find(|(known, _)| *known == inode).map(|(_, name)| &**name)
}

/// A line as a server-sent event. JSON has no end of a line within.
fn sse(document: &EventDocument) -> String {
    format!("event: {}\ndata: {}\n\n", document.event.label(), document.to_json())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Endpoint, StreamChange, Timestamp};

    fn wall() -> WallClock {
        WallClock::new(Timestamp::from_ns(0), 0)
    }

    fn bind(port: u16) -> StreamEvent {
        StreamEvent {
            at: Timestamp::from_ns(0),
            netns: 7,
            local: Endpoint { address: std::net::Ipv4Addr::LOCALHOST.into(), port },
            peer: None,
            process: None,
            change: StreamChange::Bind { by_listen: false, is_taken: false },
        }
    }

    fn text(feed: &mut EventFeed) -> Option<String> {
        let batch = feed.from.try_recv().ok()?;
        feed.queued.fetch_sub(batch.len(), Ordering::Relaxed);
        Some(String::from_utf8_lossy(&batch).into_owned())
    }

    #[test]
    fn each_reader_gets_what_its_filter_selects_and_every_number_of_drops() {
        let mut readers = EventReaders::default();
        let mut all = readers.add(EventFilter::default());
        let mut some = readers.add(EventFilter { port: Some(81), ..EventFilter::default() });
        let names = [(7, "blue".into())];
        readers.publish(&[bind(80), bind(81)], 3, &names, wall());
        let all = text(&mut all).expect("a batch");
        assert_eq!(all.matches("event: bind\ndata: {").count(), 2, "{all}");
        assert!(all.contains(r#""netns":"blue""#) && all.ends_with("}\n\n"), "{all}");
        assert!(all.contains("event: dropped\n") && all.contains(r#""dropped":3"#), "{all}");
        let some_text = text(&mut some).expect("a batch");
        assert_eq!(some_text.matches("event: bind").count(), 1, "{some_text}");
        assert!(some_text.contains(r#""dropped":3"#), "{some_text}");
        readers.publish(&[bind(80)], 0, &names, wall());
        assert_eq!(text(&mut some), None, "no empty batch");
    }

    #[test]
    fn a_slow_reader_loses_events_and_its_stream_says_how_many() {
        let mut readers = EventReaders::default();
        let mut slow = readers.add(EventFilter::default());
        let events: Vec<_> = (0..2_000).map(|_| bind(80)).collect();
        for _ in 0..20 {
            readers.publish(&events, 0, &[], wall());
        }
        let mut kept = 0;
        while let Some(text) = text(&mut slow) {
            assert!(text.len() <= QUEUE_BYTES);
            kept += text.matches("event: bind").count();
        }
        assert!((2_000..40_000).contains(&kept), "{kept}");
        readers.publish(&[], 0, &[], wall());
        let said = text(&mut slow).expect("a batch");
        assert!(said.contains(&format!(r#""dropped":{}"#, 40_000 - kept)), "{said}");
        assert!(said.contains(r#""dropped_by":"reader""#), "{said}");
        readers.publish(&[], 0, &[], wall());
        assert_eq!(text(&mut slow), None, "said once");
    }

    #[test]
    fn a_reader_that_leaves_is_removed_and_the_selection_narrows() {
        let mut readers = EventReaders::default();
        let of_port = |port| EventFilter { port: Some(port), ..EventFilter::default() };
        let first = readers.add(of_port(80));
        let second = readers.add(of_port(81));
        assert_eq!(readers.selection(&[], 9).ports, [80, 81]);
        drop(first);
        readers.remove_gone();
        assert_eq!(readers.selection(&[], 9).ports, [81]);
        drop(second);
        readers.remove_gone();
        assert!(readers.is_empty());
    }
}
