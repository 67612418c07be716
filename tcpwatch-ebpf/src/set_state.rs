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
};

use crate::{
    focus, log,
    maps::{Share, counters, emit},
    notes::{self, Put},
    scope, services,
    sock::{IPPROTO_TCP, Sock, TcpSock, current_leader_comm, state},
};

#[btf_tracepoint(function = "inet_sock_set_state")]
fn set_state(ctx: BtfTracePointContext) -> i32 {
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    if let (Some(sk), Some(counters)) = (Sock::new(ctx.arg::<*const c_void>(0)), counters()) {
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
            connect_begun(sk, address, counters);
            services::count_opened(sk);
            focus::record_stack(ctx.as_ptr(), address, true);
        }
        state::FIN_WAIT1 => {
            services::count_closed(sk);
            focus::count_closer(sk);
        }
        state::LAST_ACK => services::count_closed(sk),
        state::CLOSE_WAIT => close_wait_entered(sk, address, counters),
        _ => {}
    }
}

/// CLOSE -> SYN_SENT runs in connect() itself, its end mostly in softirq: the process must be
/// noted now.
#[inline(always)]
fn connect_begun(sk: Sock, address: u64, counters: &mut Counters) {
    let note = ConnectNote {
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        source_port: sk.tcp().map_or(0, TcpSock::source_port),
        bound: u8::from(sk.local_port() != 0),
        reserved: 0,
        comm: current_leader_comm(),
    };
    if notes::put_connect(address, &note) != Put::Placed {
        counters.connect_notes_evicted += 1;
        log::connect_note_evicted(note.tgid);
    }
}

#[inline(always)]
fn connect_ended(sk: Sock, address: u64, new: u32, counters: &mut Counters) {
    let note = notes::connect(address);
    match new {
        state::CLOSE => {
            let Some(tcp) = sk.tcp() else { return };
            // `skc_num` is 0 again; `inet_sport` is the port that was found, or what it was before
            // where none was.
            let mut local_port = tcp.source_port();
            if let Some(note) = note
                && note.bound == 0
                && note.source_port == local_port
            {
                local_port = 0;
            }
            let share = if local_port == 0 { Share::Uncommon } else { Share::Common };
            report(sk, note, EventKind::ConnectFailed, sk.tuple(local_port), share, counters);
        }
        // Simultaneous open, the only way from SYN_SENT to SYN_RECV (RFC 9293 section 3.5). With
        // one socket at both ends it is a self-connection.
        state::SYN_RECV => {
            let tuple = sk.tuple(sk.local_port());
            if tuple.is_self() {
                report(sk, note, EventKind::SelfConnection, tuple, Share::Rare, counters);
            }
        }
        _ => {}
    }
    notes::forget_connect(address);
}

#[inline(always)]
fn report(
    sk: Sock,
    note: Option<ConnectNote>,
    kind: EventKind,
    tuple: Tuple,
    share: Share,
    counters: &mut Counters,
) {
    let (tgid, comm) = note.map_or((0, [0; 16]), |note| (note.tgid, note.comm));
    let event = Event {
        time_ns: now_ns(),
        netns_cookie: sk.namespace().cookie(),
        netns: sk.namespace().inode(),
        kind: kind as u8,
        reserved: [0; 3],
        tuple,
        error: sk.error(),
        tgid,
        comm,
        reserved2: 0,
    };
    emit(event, share, counters);
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
    let note = notes::close_wait(sk);
    notes::forget_close_wait(sk);
    // A lower bound does not belong among measured times.
    let Some((since_ns, true)) = note else { return };
    let spent_ns = now_ns().saturating_sub(since_ns);
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
