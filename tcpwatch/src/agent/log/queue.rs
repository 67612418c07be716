//! The way of log records to stderr or the journal: a bounded queue, and a thread that writes.
//!
//! A write to a pipe blocks while its reader does not read, and so does the journal's socket. So
//! only this thread writes. A record that finds the queue full is dropped and counted. The number
//! of dropped ones is logged as soon as the queue has been written.

use std::{
    fs::File,
    io::{self, ErrorKind, Write as _},
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};

/// Records that wait at most: a storm of findings with some hundred bytes each is below 1 MiB.
const RECORDS: usize = 1_024;

/// Pause between two looks at the progress of the thread, while the process is about to end.
const PAUSE: Duration = Duration::from_millis(5);

/// Where journald takes records (systemd's native protocol).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// One record, encoded, with its destination.
#[derive(Debug)]
pub(super) enum Record {
    /// A line for stderr, with its line feed.
    Line(Vec<u8>),
    /// A datagram for the journal.
    Journal(Vec<u8>),
}

/// The end of the queue that takes records. It never blocks.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    records: SyncSender<Record>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    queued: AtomicU64,
    /// Taken from the queue, and written or lost.
    done: AtomicU64,
    lost: AtomicU64,
}

impl Queue {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Self::start_with(Sink { stderr, journal: UnixDatagram::unbound()? })
    }

    fn start_with(sink: Sink) -> io::Result<Self> {
        let (records, received) = mpsc::sync_channel(RECORDS);
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        let work = move || write_all(&received, sink, &shared);
        thread::Builder::new().name("log".to_owned()).spawn(work)?;
        Ok(Self { records, counts })
    }

    /// Queues a record, or counts it as lost.
    pub(super) fn put(&self, record: Record) {
        if self.try_put(record).is_err() {
            self.counts.lost.fetch_add(1, Relaxed);
        }
    }

    fn try_put(&self, record: Record) -> Result<(), TrySendError<Record>> {
        self.records.try_send(record)?;
        self.counts.queued.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Records lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.counts.lost.load(Relaxed)
    }

    /// Queues the record if there is a place before the deadline, then waits until the queue is
    /// written, up to the same deadline.
    pub(super) fn finish(&self, mut last: Option<Record>, deadline: Instant) {
        loop {
            if let Some(record) = last.take()
                && let Err(TrySendError::Full(record)) = self.try_put(record)
            {
                last = Some(record);
            }
            let queued = self.counts.queued.load(Relaxed);
            let is_written = last.is_none() && self.counts.done.load(Relaxed) >= queued;
            if is_written || Instant::now() >= deadline {
                return;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Runs until every [`Queue`] is gone.
fn write_all(records: &Receiver<Record>, mut sink: Sink, counts: &Counts) {
    let mut logged = 0;
    for record in records {
        let is_written = sink.write(&record).is_ok();
        if !is_written {
            counts.lost.fetch_add(1, Relaxed);
        }
        let done = counts.done.fetch_add(1, Relaxed) + 1;
        let lost = counts.lost.load(Relaxed);
        // Only behind a successful write: the record about the lost ones could be lost too.
        if is_written && lost > logged && done >= counts.queued.load(Relaxed) {
            tracing::warn!(lines = lost - logged, "log lines lost: the log was not read");
            logged = lost;
        }
    }
}

struct Sink {
    stderr: File,
    journal: UnixDatagram,
}

impl Sink {
    /// May block for as long as the reader does not read.
    fn write(&mut self, record: &Record) -> io::Result<()> {
        match record {
            Record::Line(line) => self.write_line(line),
            Record::Journal(datagram) => self.journal.send_to(datagram, JOURNAL).map(drop),
        }
    }

    fn write_line(&mut self, mut line: &[u8]) -> io::Result<()> {
        while !line.is_empty() {
            match self.stderr.write(line) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => line = line.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process that shares the pipe can make it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.stderr, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// A queue whose sink is a pipe, with the end of the pipe that is read.
    fn queue_to_a_pipe() -> (Queue, File) {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let journal = UnixDatagram::unbound().expect("a socket");
        let queue = Queue::start_with(Sink { stderr: File::from(writer), journal });
        (queue.expect("a thread"), File::from(reader))
    }

    #[test]
    fn full_pipe_blocks_no_thread_and_each_record_is_written_or_counted() {
        let (queue, mut reader) = queue_to_a_pipe();
        let began = Instant::now();
        let records = 3 * RECORDS as u64;
        for number in 0..records {
            queue.put(Record::Line(format!("{number:0>999}\n").into_bytes()));
        }
        queue.finish(None, Instant::now() + Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let lost = queue.lost();
        assert!(lost >= RECORDS as u64, "{lost} lost");

        let written = thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).map(|_| text)
        });
        queue.finish(Some(Record::Line(b"last\n".to_vec())), began + Duration::from_secs(30));
        drop(queue);
        let text = written.join().expect("no panic").expect("a pipe that can be read");
        assert_eq!((text.len() as u64 - 5) / 1_000, records - lost);
        assert!(text.ends_with(b"last\n"));
    }

    #[test]
    fn last_line_waits_for_its_deadline_and_no_longer() {
        let (queue, _unread) = queue_to_a_pipe();
        for _ in 0..2 * RECORDS {
            queue.put(Record::Line(vec![b'x'; 1_000]));
        }
        let began = Instant::now();
        let deadline = began + Duration::from_millis(200);
        queue.finish(Some(Record::Line(b"last\n".to_vec())), deadline);
        assert!(Instant::now() >= deadline && began.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn pipe_without_a_reader_is_counted_and_does_not_spin() {
        let (queue, reader) = queue_to_a_pipe();
        drop(reader);
        queue.put(Record::Line(b"one\n".to_vec()));
        queue.finish(None, Instant::now() + Duration::from_secs(5));
        assert_eq!(queue.lost(), 1);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(queue.lost(), 1);
    }
}
