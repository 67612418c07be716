//! Every map of the kernel side. Sizes are fixed, so that memory is too.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use tcpwatch_common::{
    Answering, CLOSE_WAIT_SETS, CONNECT_SETS, CloseWaitSet, Closer, CloserUse, ConnectSet,
    Counters, Destination, DestinationUse, Event, Focus, Found, Listing, NamespaceRecord,
    NamespaceWalk, OpeningStack, Pass, QueueOf, RequestUse, ResetKey, ResetOriginUse,
    STREAM_DRAFTS, STREAM_SETS, ServiceUse, StreamCounts, StreamDraft, StreamFilter, StreamRecord,
    StreamSecond, TallySet, Walk, maps as names, programs,
};

use crate::log;

/// Nothing maps these arrays. But the first entry of one that could be mapped begins at a page, and so
/// each at a cache line (`array_map_alloc`, kernel/bpf/arraymap.c, since 5.5); of others it lies where the
/// kernel's own fields end.
const ALIGNED: u32 = BPF_F_MMAPABLE;

#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(names::EVENTS_BYTES, 0);
#[map]
pub(crate) static RESETS: PerCpuHashMap<ResetKey, u64> =
    PerCpuHashMap::with_max_entries(names::RESETS_LIMIT, 0);
#[map]
pub(crate) static RESET_ORIGINS: Array<TallySet<ResetOriginUse>> =
    Array::with_max_entries(names::RESET_ORIGINS_SETS, ALIGNED);
#[map]
pub(crate) static STRAY_RESETS: Array<TallySet<ResetOriginUse>> =
    Array::with_max_entries(names::STRAY_RESETS_SETS, ALIGNED);
#[map]
pub(crate) static SERVICES: Array<TallySet<ServiceUse>> =
    Array::with_max_entries(names::SERVICES_SETS, ALIGNED);
#[map]
static FOCUS: Array<Focus> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static STACKS: LruHashMap<u64, OpeningStack> =
    LruHashMap::with_max_entries(names::STACKS_LIMIT, 0);
#[map]
pub(crate) static CLOSERS: HashMap<Closer, CloserUse> =
    HashMap::with_max_entries(names::CLOSERS_LIMIT, 0);
#[map]
pub(crate) static CLOSERS_ELSEWHERE: HashMap<Closer, CloserUse> =
    HashMap::with_max_entries(names::CLOSERS_ELSEWHERE_LIMIT, 0);
#[map]
pub(crate) static CLOSERS_IN: HashMap<u64, u8> =
    HashMap::with_max_entries(names::CLOSERS_IN_LIMIT, 0);
#[map]
pub(crate) static ANSWERS: HashMap<Answering, u64> =
    HashMap::with_max_entries(names::ANSWERS_LIMIT, 0);
#[map]
pub(crate) static CONNECT_NOTES: Array<ConnectSet> = Array::with_max_entries(CONNECT_SETS, ALIGNED);
#[map]
pub(crate) static CLOSE_WAIT_NOTES: Array<CloseWaitSet> =
    Array::with_max_entries(CLOSE_WAIT_SETS, ALIGNED);
/// Processes of sockets that the stream has seen.
#[map]
pub(crate) static STREAM_NOTES: Array<ConnectSet> = Array::with_max_entries(STREAM_SETS, 0);
#[map]
static STREAM: RingBuf = RingBuf::with_byte_size(names::STREAM_BYTES, 0);
#[map]
static STREAM_FILTER: Array<StreamFilter> = Array::with_max_entries(1, 0);
#[map]
static STREAM_SECOND: Array<StreamSecond> = Array::with_max_entries(1, 0);
#[map]
static STREAM_COUNTS: PerCpuArray<StreamCounts> = PerCpuArray::with_max_entries(1, 0);
#[map]
static STREAM_RECORDS: PerCpuArray<StreamDraft> = PerCpuArray::with_max_entries(STREAM_DRAFTS, 0);
#[map]
static WALK: Array<Walk> = Array::with_max_entries(1, 0);
#[map]
static PASS: Array<Pass> = Array::with_max_entries(1, 0);
#[map]
static NAMESPACES: Array<NamespaceWalk> = Array::with_max_entries(names::NAMESPACES_LIMIT, 0);
#[map]
static SLOTS: HashMap<u64, u32> = HashMap::with_max_entries(names::NAMESPACES_LIMIT, 0);
#[map]
static FOUND: RingBuf = RingBuf::with_byte_size(names::FOUND_BYTES, 0);
#[map]
static LISTING: Array<Listing> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static DESTINATIONS: LruHashMap<Destination, DestinationUse> =
    LruHashMap::with_max_entries(names::DESTINATIONS_LIMIT, 0);
#[map]
pub(crate) static REQUESTS: LruHashMap<u32, RequestUse> =
    LruHashMap::with_max_entries(names::REQUESTS_LIMIT, 0);
#[map]
pub(crate) static QUEUES: LruHashMap<u64, QueueOf> =
    LruHashMap::with_max_entries(names::QUEUES_LIMIT, 0);
// Empty but while owners are looked up, and then mostly small: an entry takes memory while it is there.
#[map]
pub(crate) static WANTED: HashMap<u64, u8> =
    HashMap::with_max_entries(names::WANTED_LIMIT, BPF_F_NO_PREALLOC);

/// `BPF_RB_AVAIL_DATA`: bytes not consumed yet.
const AVAILABLE_DATA: u64 = 0;
/// `BPF_RB_RING_SIZE`.
const RING_SIZE: u64 = 1;

/// This CPU's counters.
#[inline(always)]
pub(crate) fn counters() -> Option<&'static mut Counters> {
    let counters = COUNTERS.get_ptr_mut(0)?;
    // SAFETY: the map lives as long as the program, and the entry belongs to this CPU only. Another
    // program that interrupts this one may add to a counter in between; the worst outcome is a
    // lost increment, never a torn one (each counter is one aligned word).
    Some(unsafe { &mut *counters })
}

/// Counts a run of the program, and gives this CPU's counters. Its place is found when the program is
/// compiled.
macro_rules! count_run {
    ($program:ident) => {
        match $crate::maps::counters() {
            Some(counters) => {
                const PLACE: usize = $crate::maps::place(tcpwatch_common::programs::$program);
                counters.runs[PLACE] += 1;
                Some(counters)
            }
            None => None,
        }
    };
}
pub(crate) use count_run;

/// The place of a program among those that are counted.
pub(crate) const fn place(program: &str) -> usize {
    let mut place = 0;
    while place < programs::COUNTED.len() {
        if is_same(programs::COUNTED[place].as_bytes(), program.as_bytes()) {
            return place;
        }
        place += 1;
    }
    panic!("the program is not counted")
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// The observations that the agent requests now.
#[inline(always)]
pub(crate) fn focus() -> Option<&'static Focus> {
    // SAFETY: the agent writes it as a whole at any time; half an update looks at one process more
    // or less.
    unsafe { FOCUS.get_ptr(0)?.as_ref() }
}

/// The walk under way. One walker runs at a time, so no other program writes it.
#[inline(always)]
pub(crate) fn walk() -> Option<&'static mut Walk> {
    let walk = WALK.get_ptr_mut(0)?;
    // SAFETY: the map lives as long as the program; the agent writes and reads it only between
    // walks, and has one walker.
    Some(unsafe { &mut *walk })
}

/// The pass under way.
#[inline(always)]
pub(crate) fn pass() -> Option<&'static mut Pass> {
    let pass = PASS.get_ptr_mut(0)?;
    // SAFETY: as of `walk`.
    Some(unsafe { &mut *pass })
}

/// The place of a network namespace in the pass, by the kernel address of its `struct net`.
#[inline(always)]
pub(crate) fn slot_of(net: u64) -> Option<u32> {
    // SAFETY: the agent writes the map only between slices.
    unsafe { SLOTS.get(&net) }.copied()
}

/// The namespace in this place.
#[inline(always)]
pub(crate) fn namespace(slot: u32) -> Option<&'static mut NamespaceWalk> {
    let namespace = NAMESPACES.get_ptr_mut(slot)?;
    // SAFETY: as of `walk`.
    Some(unsafe { &mut *namespace })
}

/// Sockets for which the ring must have space at a check.
pub(crate) const FOUND_STEPS: u64 = 8;

/// Whether the records of so many steps fit into the ring: each copies up a socket and the destination
/// that becomes busy with it. The one pass ends its slice before a record could be lost.
#[inline(always)]
pub(crate) fn has_place_for_found() -> bool {
    /// `BPF_RINGBUF_HDR_SZ`.
    const HEADER: u64 = 8;
    const STEP: u64 = 2 * (size_of::<Found>() as u64 + HEADER);
    FOUND.query(AVAILABLE_DATA) + FOUND_STEPS * STEP < names::FOUND_BYTES as u64
}

/// Whether the records of every socket of one port fit.
#[inline(always)]
pub(crate) fn has_place_for_holders() -> bool {
    FOUND.query(AVAILABLE_DATA) < names::FOUND_BYTES as u64 / 4
}

/// Copies a record up, without waking anything: the agent looks after each slice.
#[inline(always)]
pub(crate) fn send_found(found: &Found) {
    // There is a place for it.
    let _ = FOUND.output::<Found>(found, u64::from(BPF_RB_NO_WAKEUP));
}

/// Likewise.
#[inline(always)]
pub(crate) fn send_namespace(namespace: &NamespaceRecord) {
    let _ = FOUND.output::<NamespaceRecord>(namespace, u64::from(BPF_RB_NO_WAKEUP));
}

/// The listing under way. The walker takes one at a time.
#[inline(always)]
pub(crate) fn listing() -> Option<&'static mut Listing> {
    let listing = LISTING.get_ptr_mut(0)?;
    // SAFETY: likewise.
    Some(unsafe { &mut *listing })
}

/// This CPU's counts of the stream.
#[inline(always)]
pub(crate) fn stream_counts() -> Option<&'static mut StreamCounts> {
    let counts = STREAM_COUNTS.get_ptr_mut(0)?;
    // SAFETY: as for the counters.
    Some(unsafe { &mut *counts })
}

/// This CPU's draft for an event of this kind, a [`StreamKind`](tcpwatch_common::StreamKind).
#[inline(always)]
pub(crate) fn stream_draft(kind: u32) -> Option<&'static mut StreamDraft> {
    let index = kind.min(STREAM_DRAFTS) - 1;
    let draft = STREAM_RECORDS.get_ptr_mut(index)?;
    // SAFETY: as for the counters. `busy` shows one that is being filled.
    Some(unsafe { &mut *draft })
}

/// The events that are requested.
#[inline(always)]
pub(crate) fn stream_filter() -> Option<&'static StreamFilter> {
    // SAFETY: the agent writes it as a whole at any time; it looks at each event again.
    unsafe { STREAM_FILTER.get_ptr(0)?.as_ref() }
}

/// The present second of the stream.
#[inline(always)]
pub(crate) fn stream_second() -> Option<*mut StreamSecond> {
    STREAM_SECOND.get_ptr_mut(0)
}

/// Hands a record of the stream over, and wakes no process; `false` where the ring is full.
#[inline(always)]
pub(crate) fn hand_over(record: &StreamRecord) -> bool {
    STREAM.output::<StreamRecord>(record, BPF_RB_NO_WAKEUP.into()).is_ok()
}

/// How far the ring may be filled by events of one kind, in eighths of it. Events
/// that any process can cause at will leave space for the rarer ones.
#[derive(Clone, Copy)]
pub(crate) enum Share {
    /// A connect() that failed at the other end or on the way: a program that tries again and
    /// again makes thousands.
    Common = 6,
    /// A connect() or bind() that found no port: rare, unless a program insists.
    Uncommon = 7,
    /// The others. The last eighth of the default size holds 370 of them.
    Rare = 8,
}

/// Sends an event up, or counts it as lost. The agent looks at its leisure; it is woken only when
/// the ring is half full, because a wake-up for each event is what makes tracers slow.
#[inline(always)]
pub(crate) fn emit(event: &Event, share: Share, counters: &mut Counters) {
    let used = EVENTS.query(AVAILABLE_DATA) * 8;
    let size = EVENTS.query(RING_SIZE);
    let is_half_full = used > size * 4;
    let flags = if is_half_full { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    if used > size * share as u64 || EVENTS.output::<Event>(event, u64::from(flags)).is_err() {
        counters.events_lost += 1;
        log::event_lost(event.kind);
    }
}
