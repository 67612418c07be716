//! `sock:inet_sock_set_state(struct sock *sk, int oldstate, int newstate)`, while it is armed
//!
//! Since 4.16, as for [`set_state`](crate::set_state), which counts and stays as quick as it is. This
//! program is attached only while a stream of events has a reader; the other hooks look at one word.
//! Each event passes a filter and a budget and goes to a ring of its own, which wakes no process.
//!
//! A process is known where the event happens in its own system call, and later by a note about the
//! socket. A socket that is older than the stream has none until its process acts.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sock.h#L141>

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_xadd},
    ptr::{read_volatile, write_volatile},
};

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};
use tcpwatch_common::{
    ConnectNote, Event, ResetKey, STREAM_VALUES, StreamFilter, StreamKind, StreamRecord, Tuple,
};

use crate::{
    branchless::is_not_zero,
    maps::{count_run, hand_over, stream_counts, stream_draft, stream_filter, stream_second},
    notes::STREAMED,
    origins::Culprit,
    scope,
    set_state::{NO_NOTE, connect_failed, connect_note, found_no_port},
    sock::{IPPROTO_TCP, Namespace, Sock, state},
    tcp_sock::TcpSock,
};

/// Not 0 while the stream is armed. The agent writes it through the map of its section,
/// [`tcpwatch_common::maps::STREAMING`].
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.stream")]
static mut STREAMING: u32 = 0;

/// Whether any event is requested. All that an unarmed hook pays.
#[inline(always)]
pub(crate) fn is_armed() -> bool {
    // SAFETY: an aligned word of this program; the agent writes it as a whole. Volatile, so that
    // the compiler does not fold the initial value into the code.
    unsafe { read_volatile(&raw const STREAMING) != 0 }
}

#[btf_tracepoint(function = "inet_sock_set_state")]
fn stream(ctx: BtfTracePointContext) -> i32 {
    let _ = count_run!(STREAM);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if let Some(sk) = Sock::new(ctx.arg::<*const c_void>(0))
        && sk.protocol() == IPPROTO_TCP
        && scope::covers(sk.namespace())
    {
        transition(sk, old as u32, new as u32);
    }
    0
}

#[inline(always)]
fn transition(sk: Sock, old: u32, new: u32) {
    let Some(counts) = stream_counts() else { return };
    let address = sk.address(&mut counts.scratch);
    let mut is_noted = true;
    let note = if new == state::SYN_SENT {
        connect_note(sk)
    } else if is_in_system_call(sk, old, new) {
        note_of(&Culprit::caller())
    } else {
        let found = STREAMED.find(address);
        is_noted = found.is_some();
        found.unwrap_or(NO_NOTE)
    };
    if let Some(tcp) = sk.tcp() {
        hand_over_when_filled(StreamKind::Transition, (old, new), |record| {
            if old == state::SYN_SENT && new == state::CLOSE {
                record.kind = StreamKind::ConnectFailed as u8;
                let mut local_port = tcp.source_port();
                if found_no_port(tcp, is_noted, note, local_port) {
                    local_port = 0;
                }
                record.event = connect_failed(sk, tcp, is_noted, note, local_port);
                record.event.kind = 0;
            } else {
                let port = local_port(sk, tcp, new);
                let process = Culprit::noted(note);
                record.event = event(sk.namespace(), sk.tuple(port), &process);
            }
        });
    }
    if new == state::CLOSE {
        STREAMED.forget(address);
    } else if is_noted {
        STREAMED.put(address, &note);
    }
}

/// Whether the transition happens in a system call of the socket's process: connect(), listen(),
/// close() or shutdown(). close() shuts both directions down before it leaves the state
/// (`__tcp_close`, net/ipv4/tcp.c); a reset or a timer leaves it first (`tcp_done`).
#[inline(always)]
fn is_in_system_call(sk: Sock, old: u32, new: u32) -> bool {
    /// `SHUTDOWN_MASK`, include/net/sock.h.
    const BOTH_DIRECTIONS: u8 = 3;
    match new {
        state::FIN_WAIT1 | state::LAST_ACK | state::LISTEN => true,
        state::CLOSE => {
            old == state::LISTEN
                || (old == state::ESTABLISHED || old == state::CLOSE_WAIT)
                    && sk.shutdown() & BOTH_DIRECTIONS == BOTH_DIRECTIONS
        }
        _ => false,
    }
}

/// `skc_num` is 0 again in CLOSE. Before that it is the port, and 0 in SYN_SENT, where `inet_sport` may
/// be that of an earlier connect().
#[inline(always)]
fn local_port(sk: Sock, tcp: TcpSock, new: u32) -> u16 {
    if new == state::CLOSE { tcp.source_port() } else { sk.local_port() }
}

/// A reset of a socket; its process is the caller's, or that of the note.
#[inline(always)]
pub(crate) fn reset_of(sk: Sock, tuple: &Tuple, seen: &(ResetKey, u8), culprit: &Culprit) {
    let _ = hand_over_draft(fill_reset_of(sk, tuple, seen, culprit));
}

#[inline(never)]
fn fill_reset_of(sk: Sock, tuple: &Tuple, seen: &(ResetKey, u8), culprit: &Culprit) -> u32 {
    let mut process = *culprit;
    if process.tgid == 0
        && let Some(counts) = stream_counts()
        && let Some(note) = STREAMED.find(sk.address(&mut counts.scratch))
    {
        process = Culprit::noted(note);
    }
    fill_reset(sk.namespace(), tuple, *seen, &process)
}

/// A reset of which no socket is known any more.
#[inline(always)]
pub(crate) fn reset(namespace: Namespace, tuple: &Tuple, seen: &(ResetKey, u8)) {
    let _ = hand_over_draft(fill_reset_without_socket(namespace, tuple, seen));
}

#[inline(never)]
fn fill_reset_without_socket(namespace: Namespace, tuple: &Tuple, seen: &(ResetKey, u8)) -> u32 {
    fill_reset(namespace, tuple, *seen, &Culprit::UNKNOWN)
}

/// A reset of which the hook keeps the plain count only.
#[inline(always)]
pub(crate) fn drop_reset() {
    if is_armed()
        && let Some(counts) = stream_counts()
    {
        counts.dropped += 1;
    }
}

/// A reset, sent or received.
#[inline(always)]
fn fill_reset(
    namespace: Namespace,
    tuple: &Tuple,
    (seen, received): (ResetKey, u8),
    process: &Culprit,
) -> u32 {
    let kind = if received == 1 { StreamKind::ResetReceived } else { StreamKind::ResetSent };
    fill_draft(kind, (seen.state.into(), 0), |record| {
        record.reset = seen;
        record.event = event(namespace, *tuple, process);
    })
}

/// bind() or listen() that requested `port`, 0 for any, with the result of the kernel's function.
#[inline(always)]
pub(crate) fn bind(sk: Sock, port: u16, returned: i32) {
    let namespace = sk.namespace();
    if sk.protocol() != IPPROTO_TCP || !scope::covers(namespace) {
        return;
    }
    let port = if returned == 0 { sk.local_port() } else { port };
    hand_over_when_filled(StreamKind::Bind, (sk.state(), 0), |record| {
        record.event = event(namespace, sk.tuple(port), &Culprit::caller());
        record.event.error = returned;
    });
}

/// Notes that the socket at this address belongs to the running process.
#[inline(always)]
pub(crate) fn note_process(address: u64) {
    STREAMED.put(address, &note_of(&Culprit::caller()));
}

#[inline(always)]
fn note_of(process: &Culprit) -> ConnectNote {
    ConnectNote { tgid: process.tgid, comm: process.comm(), ..NO_NOTE }
}

/// Has the record of an event filled, and hands it over.
#[inline(always)]
fn hand_over_when_filled(
    kind: StreamKind,
    states: (u32, u32),
    fill: impl FnOnce(&mut StreamRecord),
) {
    let _ = hand_over_draft(fill_draft(kind, states, fill));
}

/// Has the draft of this kind filled, and answers with the kind; 0 where it is in use, because this
/// event interrupts another one.
#[inline(always)]
fn fill_draft(
    kind: StreamKind,
    (from, to): (u32, u32),
    fill: impl FnOnce(&mut StreamRecord),
) -> u32 {
    let (Some(draft), Some(counts)) = (stream_draft(kind as u32), stream_counts()) else {
        return 0;
    };
    let busy = &raw mut draft.busy;
    // SAFETY: a word of this CPU's draft. Volatile, because an interrupt may read it meanwhile.
    if unsafe { read_volatile(busy) } != 0 {
        counts.dropped += 1;
        return 0;
    }
    // SAFETY: as above.
    unsafe { write_volatile(busy, 1) };
    let record = &mut draft.record;
    (record.kind, record.from, record.to) = (kind as u8, from as u8, to as u8);
    record.reset = ResetKey { reason: 0, state: 0, sizes: 0, flags: 0 };
    fill(record);
    kind as u32
}

/// Hands the draft of this kind over if it passes the filter and is in the budget, and frees it. A
/// global function, which the verifier goes through once for each hook and not once for each way that
/// leads to it; called when that which fills the draft has returned, because the verifier adds the
/// stacks of functions that call each other.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hand_over_draft(kind: u32) -> u32 {
    if kind == 0 {
        return 0;
    }
    let Some(draft) = stream_draft(kind) else { return 0 };
    send(&draft.record);
    // SAFETY: a word of this CPU's draft. Volatile, because an interrupt may read it meanwhile.
    unsafe { write_volatile(&raw mut draft.busy, 0) };
    kind
}

const NO_EVENT: Event = Event {
    time_ns: 0,
    netns_cookie: 0,
    netns: 0,
    kind: 0,
    flags: 0,
    reserved: [0; 2],
    tuple: Tuple {
        local: tcpwatch_common::Address { words: [0; 4] },
        peer: tcpwatch_common::Address { words: [0; 4] },
        local_port: 0,
        peer_port: 0,
    },
    error: 0,
    tgid: 0,
    comm: [0; 16],
    since_syn_ms: 0,
    own_port_range: 0,
    reserved2: 0,
};

#[inline(always)]
fn event(namespace: Namespace, tuple: Tuple, process: &Culprit) -> Event {
    Event {
        // SAFETY: no arguments, no effects.
        time_ns: unsafe { bpf_ktime_get_ns() },
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        tuple,
        tgid: process.tgid,
        comm: process.comm(),
        ..NO_EVENT
    }
}

#[inline(always)]
fn send(record: &StreamRecord) {
    let (Some(filter), Some(counts)) = (stream_filter(), stream_counts()) else { return };
    if !passes(filter, record) {
        return;
    }
    if is_in_budget(filter, record) && hand_over(record) {
        counts.sent += 1;
    } else {
        counts.dropped += 1;
    }
}

/// Without loops that end early, because each way out of one is a way that the verifier follows, in each
/// of the programs that send.
#[inline(always)]
fn passes(filter: &StreamFilter, record: &StreamRecord) -> bool {
    let states = 1 << (record.from & 31) | 1 << (record.to & 31);
    let Tuple { peer, local_port, peer_port, .. } = record.event.tuple;
    let mut differs = 0;
    let mut word = 0;
    while word < peer.words.len() {
        differs |= (peer.words[word] ^ filter.peer.words[word]) & filter.peer_mask.words[word];
        word += 1;
    }
    let comm = words(record.event.comm);
    let (mut no_port, mut no_netns, mut no_comm) = (1, 1, 1);
    let mut index = 0;
    while index < STREAM_VALUES {
        let port = filter.ports[index];
        no_port &= is_not(port.into(), u32::from(port ^ local_port));
        no_port &= is_not(port.into(), u32::from(port ^ peer_port));
        let netns = filter.netns[index];
        no_netns &= is_not(netns, netns ^ record.event.netns);
        let [first, second, third, fourth] = filter.comms[index];
        let differs = first ^ comm[0] | second ^ comm[1] | third ^ comm[2] | fourth ^ comm[3];
        no_comm &= is_not(first, differs);
        index += 1;
    }
    let refused = no_port & is_not_zero(filter.ports[0].into())
        | no_netns & is_not_zero(filter.netns[0].into())
        | no_comm & is_not_zero(filter.comms[0][0].into())
        | is_not_zero(differs.into());
    filter.states & states != 0 && refused == 0
}

/// 1, or 0 where nothing differs from the listed value. A list ends with zeros, which are no value.
#[inline(always)]
fn is_not(listed: u32, differs: u32) -> u64 {
    is_not_zero(differs.into()) | (1 - is_not_zero(listed.into()))
}

#[inline(always)]
fn words(comm: [u8; 16]) -> [u32; 4] {
    // SAFETY: both are 16 bytes without padding.
    unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(comm) }
}

/// Whether the present second has an event left, which is taken.
#[inline(always)]
fn is_in_budget(filter: &StreamFilter, record: &StreamRecord) -> bool {
    const NS: u64 = 1_000_000_000;
    let Some(present) = stream_second() else { return false };
    let is_transition = record.kind == StreamKind::Transition as u8;
    let most = if is_transition { filter.transitions } else { filter.budget };
    let second = record.event.time_ns / NS;
    // SAFETY: the entry of the map; its words are aligned, and each is read and written as a whole.
    // Events of two CPUs at the turn of a second may begin it twice.
    unsafe {
        if (*present).second != second {
            (*present).second = second;
            (*present).events = 0;
        }
        if (*present).events >= u64::from(most) {
            return false;
        }
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(&raw mut (*present).events, 1);
    }
    true
}
