//! The stream of events: armed while it has a reader, and read from a ring of its own.
//!
//! Arming is possible after the privileges are given up: the filter and the word that arms are in
//! maps, and the program is loaded and open. No event wakes this process; the reader comes by
//! itself, often enough for the budget of a second.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use aya::maps::{Array, MapData, MapError, PerCpuArray, RingBuf};
use tcpwatch_common::{
    Address, STREAM_VALUES, StreamCounts, StreamFilter, StreamKind, StreamRecord,
};

use super::{bpf, counters::decode_reset, endpoint, events};
use crate::facts::{
    Endpoint, ResetReason, StreamChange, StreamEvent, StreamProcess, StreamSelection, TcpState,
    Timestamp,
};

/// Transitions get three quarters of the budget, and leave one to resets, failures and binds.
const TRANSITIONS: (u32, u32) = (3, 4);

/// Why a stream cannot be armed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A map.
    #[error("the stream of events cannot be armed: {0}")]
    Map(#[from] MapError),
    /// The program.
    #[error("the hook `stream` cannot be attached: {0}")]
    Attach(#[from] io::Error),
}

/// The maps of the stream.
pub(super) struct StreamMaps {
    pub(super) ring: RingBuf<MapData>,
    pub(super) filter: Array<MapData, StreamFilter>,
    pub(super) armed: Array<MapData, u32>,
    pub(super) counts: PerCpuArray<MapData, StreamCounts>,
}

/// The reader of the stream. Dropping it disarms the stream.
pub struct EventStream {
    maps: StreamMaps,
    program: OwnedFd,
    /// Attached while it lives.
    link: Option<OwnedFd>,
    reset_reasons: Vec<ResetReason>,
    /// Drops that were read.
    dropped: u64,
    /// Records of another version, or of a size that does not fit.
    malformed: u64,
}

impl EventStream {
    pub(super) fn new(maps: StreamMaps, program: OwnedFd, reset_reasons: Vec<ResetReason>) -> Self {
        Self { maps, program, link: None, reset_reasons, dropped: 0, malformed: 0 }
    }

    /// Whether events are handed over.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.link.is_some()
    }

    /// Hands over what `selection` selects from now on. An armed stream changes its selection.
    ///
    /// # Errors
    ///
    /// A map or the program that the kernel refuses; the stream is disarmed then.
    pub fn arm(&mut self, selection: &StreamSelection) -> Result<(), StreamError> {
        let armed = self.try_arm(selection);
        if armed.is_err() {
            self.disarm();
        }
        armed
    }

    fn try_arm(&mut self, selection: &StreamSelection) -> Result<(), StreamError> {
        self.maps.filter.set(0, to_wire(selection), 0)?;
        if self.link.is_none() {
            self.discard();
            self.dropped = self.count_dropped().unwrap_or(self.dropped);
            self.maps.armed.set(0, 1, 0)?;
            self.link = Some(bpf::attach(self.program.as_fd())?);
        }
        Ok(())
    }

    /// Ends the stream: no hook does more for it than look at one word. The ring is emptied.
    pub fn disarm(&mut self) {
        self.link = None;
        // It fails only for a map that is gone.
        let _ = self.maps.armed.set(0, 0, 0);
        self.discard();
    }

    /// Empties the ring, at most once over.
    fn discard(&mut self) {
        let most = tcpwatch_common::maps::STREAM_BYTES as usize / size_of::<StreamRecord>();
        for _ in 0..most {
            if self.maps.ring.next().is_none() {
                break;
            }
        }
    }

    /// Takes at most `limit` records, oldest first. A failed connect is two events: the transition
    /// and the failure.
    pub fn drain(&mut self, limit: usize) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        for _ in 0..limit {
            let Some(item) = self.maps.ring.next() else { break };
            match decode(&item) {
                Some(record) if describe(&record, &self.reset_reasons, &mut events) => {}
                _ => self.malformed += 1,
            }
        }
        events
    }

    /// Events that passed the selection and were dropped since the last call: beyond the budget, or
    /// because the ring was full.
    pub fn take_dropped(&mut self) -> u64 {
        let Some(now) = self.count_dropped() else { return 0 };
        let dropped = now.saturating_sub(self.dropped);
        self.dropped = now;
        dropped
    }

    /// Records that were not understood.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Events that were dropped since the load; `None` where that cannot be read.
    #[must_use]
    pub fn count_dropped(&self) -> Option<u64> {
        let counts = self.maps.counts.get(&0, 0).ok()?;
        Some(counts.iter().map(|cpu| cpu.dropped).sum())
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.disarm();
    }
}

fn decode(bytes: &[u8]) -> Option<StreamRecord> {
    if bytes.len() != size_of::<StreamRecord>() {
        return None;
    }
    // SAFETY: the length fits, the read is unaligned, and every bit pattern is a StreamRecord.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// Adds the events of a record; `false` where it is not understood.
fn describe(record: &StreamRecord, reasons: &[ResetReason], into: &mut Vec<StreamEvent>) -> bool {
    let of = |kind: StreamKind| record.kind == kind as u8;
    let event = &record.event;
    let peer = endpoint(event.tuple.peer, event.tuple.peer_port);
    let process = (event.tgid != 0)
        .then(|| StreamProcess { pid: event.tgid, name: events::wire_text(&event.comm) });
    let with = |change| StreamEvent {
        at: Timestamp::from_ns(event.time_ns),
        netns: event.netns,
        local: endpoint(event.tuple.local, event.tuple.local_port),
        peer: (!is_nowhere(peer)).then_some(peer),
        process: process.clone(),
        change,
    };
    let (from, to) = (TcpState::from_kernel(record.from), TcpState::from_kernel(record.to));
    let transition = from.zip(to).map(|(from, to)| StreamChange::Transition { from, to });
    if of(StreamKind::Transition) {
        let Some(transition) = transition else { return false };
        into.push(with(transition));
    } else if of(StreamKind::ConnectFailed) {
        let (reason, no_connect) = events::connect_failure(event);
        let waited = no_connect.is_none().then(|| events::waited(event)).flatten();
        into.extend(transition.map(with));
        into.push(with(StreamChange::ConnectFailed { reason, no_connect, waited }));
    } else if of(StreamKind::ResetSent) || of(StreamKind::ResetReceived) {
        let received = of(StreamKind::ResetReceived);
        into.push(with(StreamChange::Reset(decode_reset(record.reset, received, reasons))));
    } else if of(StreamKind::Bind) {
        let by_listen = from == Some(TcpState::Listen);
        into.push(with(StreamChange::Bind { by_listen, is_taken: event.error != 0 }));
    } else {
        return false;
    }
    true
}

fn is_nowhere(endpoint: Endpoint) -> bool {
    endpoint.port == 0 && endpoint.address.is_unspecified()
}

/// The selection as the kernel side takes it. A list that has too many values allows all, and so does
/// a name that the kernel does not keep as it is written: the reader looks at each event again.
fn to_wire(selection: &StreamSelection) -> StreamFilter {
    let StreamSelection { states, ports, netns, processes, peer, budget } = selection;
    let (peer, peer_mask) = peer.map_or((ANY, ANY), network);
    StreamFilter {
        states: match &**states {
            [] => u32::MAX,
            states => states.iter().fold(0, |bits, state| bits | bits_of(*state)),
        },
        budget: *budget,
        transitions: (budget * TRANSITIONS.0 / TRANSITIONS.1).max((*budget).min(1)),
        ports: values(ports, |port| Some(*port)),
        netns: values(netns, |netns| Some(*netns)),
        comms: values(processes, |name| comm(name)),
        peer,
        peer_mask,
        ..StreamFilter::NOTHING
    }
}

const ANY: Address = Address { words: [0; 4] };

/// A reset of a half-open connection may be of a request, which has a state of its own.
fn bits_of(state: TcpState) -> u32 {
    /// `TCP_NEW_SYN_RECV`.
    const NEW_SYN_RECV: u32 = 12;
    let request = if state == TcpState::SynRecv { 1 << NEW_SYN_RECV } else { 0 };
    1 << state as u32 | request
}

fn values<T, W: Copy + Default>(list: &[T], value: impl Fn(&T) -> Option<W>) -> [W; STREAM_VALUES] {
    let mut values = [W::default(); STREAM_VALUES];
    let all: Option<Vec<W>> = list.iter().map(value).collect();
    if let Some(all) = all.filter(|all| all.len() <= STREAM_VALUES) {
        values[..all.len()].copy_from_slice(&all);
    }
    values
}

/// A name as the kernel keeps it; `None` for one that is none, or that may stand for another one: a
/// byte that is not plain is written as its number.
fn comm(name: &str) -> Option<[u32; 4]> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 15 || !name.is_ascii() || name.contains('\\') {
        return None;
    }
    let mut words = [0; 4];
    for (word, part) in words.iter_mut().zip(bytes.chunks(4)) {
        let mut four = [0; 4];
        four[..part.len()].copy_from_slice(part);
        *word = u32::from_ne_bytes(four);
    }
    Some(words)
}

/// A network and its mask; IPv4 is mapped into IPv6.
fn network((address, bits): (IpAddr, u8)) -> (Address, Address) {
    let (address, bits) = match address {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), u32::from(bits.min(32)) + 96),
        IpAddr::V6(address) => (address, u32::from(bits.min(128))),
    };
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    (words(address.to_bits() & mask), words(mask))
}

fn words(bits: u128) -> Address {
    let octets = bits.to_be_bytes();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().expect("a chunk of four bytes"));
    }
    Address { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection() -> StreamSelection {
        StreamSelection { budget: 2_000, ..StreamSelection::default() }
    }

    #[test]
    fn an_empty_selection_allows_everything_within_the_budget() {
        let filter = to_wire(&selection());
        let any = StreamFilter {
            states: u32::MAX,
            budget: 2_000,
            transitions: 1_500,
            ..StreamFilter::NOTHING
        };
        assert_eq!(filter, any);
        assert_eq!(to_wire(&StreamSelection::default()).transitions, 0);
        assert_eq!(to_wire(&StreamSelection { budget: 1, ..selection() }).transitions, 1);
    }

    #[test]
    fn values_are_in_the_form_of_the_kernel_and_too_many_allow_all() {
        let filter = to_wire(&StreamSelection {
            states: vec![TcpState::CloseWait, TcpState::SynRecv],
            ports: vec![80, 443],
            processes: vec!["nginx".to_owned()],
            peer: Some(("10.1.2.3".parse().expect("an address"), 8)),
            ..selection()
        });
        assert_eq!(filter.states, 1 << 8 | 1 << 3 | 1 << 12);
        assert_eq!(filter.ports, [80, 443, 0, 0]);
        assert_eq!(filter.comms[0].map(u32::to_ne_bytes).concat(), b"nginx\0\0\0\0\0\0\0\0\0\0\0");
        let ten = Address::from_v4(u32::from_ne_bytes([10, 0, 0, 0]));
        assert_eq!(filter.peer, ten);
        assert_eq!(filter.peer_mask.words[2..], [u32::MAX, u32::from_ne_bytes([255, 0, 0, 0])]);
        assert_eq!(network(("::".parse().expect("an address"), 0)), (ANY, ANY));

        let many = StreamSelection { ports: (1..=5).collect(), ..selection() };
        assert_eq!(to_wire(&many).ports, [0; 4]);
        for unclear in ["a\\u{1b}", "sixteen bytes it", "", "näme"] {
            let processes = vec![unclear.to_owned(), "nginx".to_owned()];
            assert_eq!(to_wire(&StreamSelection { processes, ..selection() }).comms, [[0; 4]; 4]);
        }
    }
}
