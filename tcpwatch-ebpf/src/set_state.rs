//! `sock:inet_sock_set_state(struct sock *sk, int oldstate, int newstate)`
//!
//! Since 4.16. Every transition of a full socket; TIME_WAIT is never a new state, because the
//! socket is then replaced by a minisocket and itself goes to CLOSE. Runs in the context of the
//! caller or in softirq, with the socket locked; `sk` is never NULL. A request in SYN_RECV is no
//! socket yet and causes no transition.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sock.h#L141>

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tcpwatch_common::{
    CLOSE_WAIT_BUCKETS_NS, ConnectNote, Counters, Event, EventKind, STATES, Tuple,
    connect_flags as bits,
};

use crate::{
    clock, focus, log,
    maps::{Share, count_run, emit},
    notes::{self, Put},
    scope, services,
    sock::{IPPROTO_TCP, Sock, current_leader_comm, state},
    tcp_sock::TcpSock,
    valve,
};

#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state(ctx: BtfTracePointContext) -> i32 {
    let counted = count_run!(SET_STATE);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if let (Some(sk), Some(counters)) = (Sock::new(ctx.arg::<*const c_void>(0)), counted) {
        observe(&ctx, sk, old as u32, new as u32, counters);
    }
    0
}

#[inline(always)]
fn observe(ctx: &BtfTracePointContext, sk: Sock, old: u32, new: u32, counters: &mut Counters) {
    if sk.protocol() != IPPROTO_TCP || !scope::covers(sk.namespace()) {
        return;
    }
    counters.transitions[old as usize & (STATES - 1)][new as usize & (STATES - 1)] += 1;
    let address = sk.address(&mut counters.scratch);
    match old {
        state::SYN_SENT => connect_ended(sk, address, new, counters),
        state::CLOSE_WAIT => close_wait_left(address, counters),
        _ => {}
    }
    match new {
        state::SYN_SENT => {
            if valve::admits(counters) {
                connect_begun(sk, address, counters);
            }
            focus::record_stack(ctx.as_ptr(), address, true);
        }
        // One call for both, because each is a copy of the code.
        state::FIN_WAIT1 | state::LAST_ACK => {
            if valve::admits(counters) {
                services::count_closed(sk, old == state::ESTABLISHED, counters);
            }
            if new == state::FIN_WAIT1 {
                focus::count_closer(sk);
            }
        }
        state::CLOSE_WAIT if valve::admits(counters) => close_wait_entered(sk, address, counters),
        _ => {}
    }
}

/// CLOSE -> SYN_SENT runs in connect() itself, its end mostly in softirq: the process must be
/// noted now.
#[inline(always)]
fn connect_begun(sk: Sock, address: u64, counters: &mut Counters) {
    let note = connect_note(sk);
    if notes::CONNECTS.put(address, &note) != Put::Placed {
        counters.connect_notes_evicted += 1;
        log::connect_note_evicted(note.tgid);
    }
    services::count_opened(sk, note.tgid);
}

/// The note of a connect() of the running process, which has just begun.
#[inline(always)]
pub(crate) fn connect_note(sk: Sock) -> ConnectNote {
    let tcp = sk.tcp();
    let is_sequenced = tcp.is_some_and(TcpSock::is_sequenced);
    ConnectNote {
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        source_port: tcp.map_or(0, TcpSock::source_port),
        bound: u8::from(sk.local_port() != 0),
        sequenced: u8::from(is_sequenced),
        comm: current_leader_comm(),
    }
}

/// No note.
pub(crate) const NO_NOTE: ConnectNote =
    ConnectNote { tgid: 0, source_port: 0, bound: 0, sequenced: 0, comm: [0; 16] };

#[inline(always)]
fn connect_ended(sk: Sock, address: u64, new: u32, counters: &mut Counters) {
    match new {
        state::ESTABLISHED => focus::count_answer(sk),
        state::CLOSE => report_failed(sk, address, counters),
        // Simultaneous open, the only way from SYN_SENT to SYN_RECV (RFC 9293 section 3.5). With
        // one socket at both ends it is a self-connection.
        state::SYN_RECV => report_if_self(sk, address, counters),
        _ => {}
    }
    notes::CONNECTS.forget(address);
}

/// The note of the socket, or all zero. Fields of an absent note are 0 and not undefined: the compiler
/// spills what is undefined, and the verifier refuses it.
#[inline(always)]
fn note_of(address: u64) -> (ConnectNote, bool) {
    let found = notes::CONNECTS.find(address);
    (found.unwrap_or(NO_NOTE), found.is_some())
}

/// A function of its own, as is all that the plain path does not take: code that is seldom run is
/// seldom in the cache, and what is often run lies together.
#[inline(never)]
fn report_failed(sk: Sock, address: u64, counters: &mut Counters) {
    let Some(tcp) = sk.tcp() else { return };
    let (note, noted) = note_of(address);
    // `skc_num` is 0 again; `inet_sport` is the port that was found, or what it was before where
    // none was. One that was found twice in a row has sent a SYN.
    let mut local_port = tcp.source_port();
    if found_no_port(tcp, noted, note, local_port) {
        local_port = 0;
    }
    let share = if local_port == 0 { Share::Uncommon } else { Share::Common };
    emit(&connect_failed(sk, tcp, noted, note, local_port), share, counters);
}

/// Reports a socket that is connected to itself.
#[inline(never)]
fn report_if_self(sk: Sock, address: u64, counters: &mut Counters) {
    let tuple = sk.tuple(sk.local_port());
    if tuple.is_self() {
        let (note, _) = note_of(address);
        emit(&event(sk, note, EventKind::SelfConnection, tuple), Share::Rare, counters);
    }
}

/// Whether a connect() that has failed found no local port: the socket's is that of an earlier
/// connect(), or 0.
#[inline(always)]
pub(crate) fn found_no_port(tcp: TcpSock, noted: bool, note: ConnectNote, local_port: u16) -> bool {
    noted && note.bound == 0 && note.source_port == local_port && tcp.has_sent() != Some(true)
}

/// The end of a connect() without a connection, with its note if there is one.
#[inline(always)]
pub(crate) fn connect_failed(
    sk: Sock,
    tcp: TcpSock,
    noted: bool,
    note: ConnectNote,
    local_port: u16,
) -> Event {
    let mut event = event(sk, note, EventKind::ConnectFailed, sk.tuple(local_port));
    event.flags = connect_flags(sk, tcp, noted, note);
    event.since_syn_ms = ((event.time_ns / 1_000_000) as u32).wrapping_sub(tcp.first_syn_ms());
    event.own_port_range = tcp.own_port_range();
    event
}

/// How far the connect has come, and how it ends. A process that closes a pending connect has its
/// SYN still queued: the queue is purged after the transition (`tcp_close`, `tcp_disconnect`). Where
/// connect() itself fails no SYN is queued yet.
#[inline(always)]
fn connect_flags(sk: Sock, tcp: TcpSock, noted: bool, note: ConnectNote) -> u8 {
    /// `SHUTDOWN_MASK`, include/net/sock.h.
    const BOTH_DIRECTIONS: u8 = 3;
    let mut flags = 0;
    if let Some(has_sent) = tcp.has_sent() {
        flags |= bits::SYN_KNOWN;
        if has_sent {
            flags |= bits::SYN_QUEUED;
        }
        if noted && note.sequenced == 0 {
            flags |= bits::UNUSED_BEFORE;
            if tcp.is_sequenced() {
                flags |= bits::NEW_SEQUENCE;
            }
        }
    }
    if noted {
        flags |= bits::NOTED;
        if note.bound != 0 {
            flags |= bits::BOUND;
        }
    }
    if sk.shutdown() == BOTH_DIRECTIONS {
        flags |= bits::CLOSED;
    }
    flags
}

#[inline(always)]
fn event(sk: Sock, note: ConnectNote, kind: EventKind, tuple: Tuple) -> Event {
    let ConnectNote { tgid, comm, .. } = note;
    Event {
        time_ns: now_ns(),
        netns_cookie: sk.namespace().cookie(),
        netns: sk.namespace().inode(),
        kind: kind as u8,
        flags: 0,
        reserved: [0; 2],
        tuple,
        error: sk.error(),
        tgid,
        comm,
        since_syn_ms: 0,
        own_port_range: 0,
        reserved2: 0,
    }
}

/// The FIN is being processed, so the time of the last segment is now.
#[inline(always)]
fn close_wait_entered(sk: Sock, address: u64, counters: &mut Counters) {
    let since_ns = sk.tcp().map_or(0, TcpSock::last_segment_ns);
    if notes::put_close_wait(address, since_ns, true) != Put::Placed {
        counters.close_wait_notes_refused += 1;
        log::close_wait_note_refused();
    }
}

#[inline(always)]
fn close_wait_left(sk: u64, counters: &mut Counters) {
    let Some(since_ns) = notes::take_close_wait(sk) else { return };
    // A lower bound does not belong among measured times.
    if since_ns & notes::EXACT == 0 {
        return;
    }
    let spent_ns = clock::about_now_ns(counters).saturating_sub(since_ns & !notes::EXACT);
    let mut bucket = 0;
    while bucket < CLOSE_WAIT_BUCKETS_NS.len() && spent_ns > CLOSE_WAIT_BUCKETS_NS[bucket] {
        bucket += 1;
    }
    counters.close_wait_buckets[bucket] += 1;
    counters.close_wait_sum_ns += spent_ns;
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments, no effects.
    unsafe { bpf_ktime_get_ns() }
}
