//! The ring buffer: rare events, decoded.

use std::{
    collections::HashMap,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use tcpwatch_common::{self as wire, connect_flags as flags};

use super::{ProcessReader, endpoint, namespaces::NetnsIds};
use crate::facts::{ConnectFailure, Event, NoConnect, Process, Timestamp};

/// Processes remembered between two drains, so that a burst of one process reads /proc once.
const PROCESSES: usize = 256;

/// Reads [`wire::Event`]s.
pub struct EventRing {
    ring: RingBuf<MapData>,
    processes: ProcessReader,
    callers: HashMap<u32, Arc<Process>>,
    ids: NetnsIds,
    /// Records that could not be decoded: of another version, or of a size that does not fit.
    malformed: u64,
}

impl EventRing {
    pub(super) fn new(ring: RingBuf<MapData>, ids: NetnsIds) -> Self {
        Self { ring, processes: ProcessReader::new(), callers: HashMap::new(), ids, malformed: 0 }
    }

    /// Takes at most `limit` events, oldest first. `true` if there may be more.
    pub fn drain(&mut self, limit: usize) -> (Vec<Event>, bool) {
        let mut records = Vec::new();
        let mut taken = 0;
        while taken < limit {
            let Some(item) = self.ring.next() else { break };
            taken += 1;
            match decode(&item) {
                Some(record) => records.push(record),
                None => self.malformed += 1,
            }
        }
        self.callers.clear();
        let events = records.iter().filter_map(|record| self.event(record)).collect();
        (events, taken == limit)
    }

    /// Records that were not understood.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn event(&mut self, record: &wire::Event) -> Option<Event> {
        let at = Timestamp::from_ns(record.time_ns);
        let tuple = &record.tuple;
        let local = endpoint(tuple.local, tuple.local_port);
        let peer = endpoint(tuple.peer, tuple.peer_port);
        let process = self.caller(record);
        let netns = self.ids.of_event(record.netns_cookie, record.netns);
        if record.kind == wire::EventKind::SelfConnection as u8 {
            Some(Event::SelfConnection { at, netns, endpoint: local, process })
        } else if record.kind == wire::EventKind::ConnectFailed as u8 {
            let (reason, no_connect) = connect_failure(record);
            let waited = no_connect.is_none().then(|| waited(record)).flatten();
            Some(Event::ConnectFailed {
                at,
                netns,
                local,
                peer,
                reason,
                waited,
                no_connect,
                process,
            })
        } else if record.kind == wire::EventKind::BindFailed as u8 {
            Some(Event::BindFailed { at, netns, local, process })
        } else {
            self.malformed += 1;
            None
        }
    }

    /// The process that called connect() or bind(): its name as noted then, and its details from
    /// /proc, while it lives.
    fn caller(&mut self, record: &wire::Event) -> Option<Arc<Process>> {
        if record.tgid == 0 {
            return None;
        }
        let name = wire_text(&record.comm);
        if let Some(known) = self.callers.get(&record.tgid)
            && known.name == name
        {
            return Some(Arc::clone(known));
        }
        let process = Arc::new(self.processes.read(record.tgid, name, None));
        if self.callers.len() < PROCESSES {
            self.callers.insert(record.tgid, Arc::clone(&process));
        }
        Some(process)
    }
}

impl AsFd for EventRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for EventRing {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn decode(bytes: &[u8]) -> Option<wire::Event> {
    if bytes.len() != size_of::<wire::Event>() {
        return None;
    }
    // SAFETY: the length fits, the read is unaligned, and every bit pattern is an Event.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// The reason of a failed connect, and why connect() sent no SYN.
pub(super) fn connect_failure(record: &wire::Event) -> (ConnectFailure, Option<NoConnect>) {
    let reason = match record.error {
        0 => return without_error(record),
        libc::ECONNREFUSED => ConnectFailure::Refused,
        libc::ETIMEDOUT => ConnectFailure::TimedOut,
        libc::EHOSTUNREACH | libc::ENETUNREACH => ConnectFailure::Unreachable,
        libc::ECONNRESET => ConnectFailure::Reset,
        _ => ConnectFailure::Other,
    };
    (reason, None)
}

/// The kernel sets no `sk_err` when connect() itself fails, and neither when the program gives up
/// (seen on 6.18). A source port of 0 means that none was free. A queued SYN, or a close() that has
/// begun, means that the program gave up.
fn without_error(record: &wire::Event) -> (ConnectFailure, Option<NoConnect>) {
    let has = |flag| record.flags & flag != 0;
    if record.tuple.local_port == 0 {
        let [first, last] = [record.own_port_range as u16, (record.own_port_range >> 16) as u16];
        let lack = match (first, last) {
            (0, 0) => NoConnect::Range,
            (first, last) => NoConnect::OwnRange { first, last },
        };
        return (ConnectFailure::NoLocalPort, Some(lack));
    }
    if has(flags::CLOSED) || has(flags::SYN_QUEUED) {
        return (ConnectFailure::GivenUp, None);
    }
    if !has(flags::SYN_KNOWN) || !has(flags::NOTED) || !has(flags::UNUSED_BEFORE) {
        return (ConnectFailure::Other, None);
    }
    // A bound port is taken as it is: `__inet_hash_connect` checks only both ends.
    let why = match (has(flags::NEW_SEQUENCE), has(flags::BOUND)) {
        (true, _) => Some(NoConnect::NoMemory),
        (false, true) => Some(NoConnect::EndsTaken),
        (false, false) => None,
    };
    (ConnectFailure::Other, why)
}

/// How long ago the first SYN was sent. `tcp_usec_ts` (6.7 and later) makes the stamp microseconds,
/// so the difference is beyond all that a connect can last.
pub(super) fn waited(record: &wire::Event) -> Option<Duration> {
    const IMPLAUSIBLE_MS: u32 = 3_600_000;
    (record.since_syn_ms < IMPLAUSIBLE_MS)
        .then(|| Duration::from_millis(u64::from(record.since_syn_ms)))
}

/// A NUL-padded name of the kernel; bytes that are no UTF-8 are replaced.
pub(super) fn wire_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
