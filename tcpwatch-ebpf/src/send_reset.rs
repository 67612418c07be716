//! `tcp:tcp_send_reset(const struct sock *sk, const struct sk_buff *skb[, enum sk_rst_reason])`
//!
//! Since 4.15 with two arguments, and only for active resets and for segments that met a full
//! socket; since 6.10 for every reset, with a reason; `sk` is NULL where there is none, `skb`
//! where no segment provoked the reset. 6.12 and later name the reason of an active one. Runs in
//! softirq or in close(). Where the reason says TIME_WAIT, `sk` is a minisocket.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/tcp.h#L89>

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcpwatch_common::{
    Counters, RESET_PLACES, ResetKey, reset_flags as flags, reset_sizes as sizes,
};

use crate::{
    branchless::{is_above, is_not_zero},
    log,
    maps::{RESETS, count_run},
    memory::{address_of, offset},
    origins::{self, Culprit, Ends},
    scope,
    segment::Segment,
    sock::{SOCK_DEAD, SOCK_DONE, SOCK_LINGER, Sock, state},
    stream,
    tcp_sock::TcpSock,
    valve,
};

/// Arguments of the tracepoint on kernels that give a reason.
const WITH_REASON: u32 = 3;
/// [`ResetOrigin::received`](tcpwatch_common::ResetOrigin::received) of what is sent.
const SENT: u8 = 0;

#[btf_tracepoint(function = "tcp_send_reset")]
fn send_reset(ctx: BtfTracePointContext) -> i32 {
    let Some(counters) = count_run!(SEND_RESET) else { return 0 };
    let mut key = ResetKey::default();
    // Where the constant is 2 the verifier never looks at the third argument, which older kernels
    // would refuse.
    if offset!(send_reset_arguments) == WITH_REASON {
        key.reason = ctx.arg::<i32>(2) as u8;
        key.flags |= flags::HAS_REASON;
    }
    let (socket, segment): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    // Each case for itself, so that no pointer is touched that is not there. Kernels that know that
    // an argument may be NULL want it compared as well; here that comparison never fails.
    let mut is_given = |argument| address_of(argument, &mut counters.scratch) != 0;
    match (is_given(socket), is_given(segment)) {
        (true, true) => {
            if let (Some(sk), Some(segment)) = (Sock::new(socket), Segment::new(segment)) {
                observe(Some(sk), Some(segment), key, counters);
            }
        }
        (true, false) => {
            if let Some(sk) = Sock::new(socket) {
                observe(Some(sk), None, key, counters);
            }
        }
        (false, true) => {
            if let Some(segment) = Segment::new(segment) {
                observe(None, Some(segment), key, counters);
            }
        }
        (false, false) => {
            log::unknown_reset();
            observe(None, None, key, counters);
        }
    }
    0
}

/// Counts a reset by what is seen of it, and for whom it is. `key` has the reason, where the kernel
/// gives one.
#[inline(always)]
pub(crate) fn observe(
    sk: Option<Sock>,
    segment: Option<Segment>,
    mut key: ResetKey,
    counters: &mut Counters,
) {
    let is_covered = match (sk, &segment) {
        (Some(sk), _) => scope::covers(sk.namespace()),
        (None, Some(segment)) => match segment.namespace() {
            Some(namespace) => scope::covers(namespace),
            None => scope::covers_unknown(),
        },
        (None, None) => scope::covers_unknown(),
    };
    if !is_covered {
        return;
    }
    if let Some(sk) = sk {
        describe_socket(sk, &mut key, &mut counters.scratch);
    }
    let (mut local, mut remote, mut payload) = (0, 0, 0);
    if let Some(segment) = &segment {
        key.flags |= flags::SEGMENT;
        let header = segment.tcp_header();
        key.flags |= flags::SEGMENT_SYN * u8::from(header.is_syn());
        (local, remote) = (header.destination(), header.source());
        payload = segment.payload(&header);
    }
    count(key, counters);
    if !valve::admits(counters) {
        stream::drop_reset();
        return;
    }

    if let Some(sk) = sk {
        if let Some(tcp) = sk.tcp() {
            let mut ends = Ends::of(sk, tcp);
            match &segment {
                // The connection that it is for is not known.
                Some(segment) if sk.state() == state::LISTEN => {
                    ends.peer = segment.source();
                    ends.other_port = remote;
                }
                Some(_) => describe_sizes(sk, tcp, (payload, tcp.unsent()), &mut key),
                None => describe_sizes(sk, tcp, (tcp.receive_queue(), tcp.unsent()), &mut key),
            }
            let culprit = culprit(sk, &segment);
            origins::count(sk.namespace(), &ends, (key, SENT), &culprit);
            if stream::is_armed() {
                let tuple = match &segment {
                    Some(segment) if sk.state() == state::LISTEN => segment.tuple(local, remote),
                    _ => sk.tuple(tcp.source_port()),
                };
                stream::reset_of(sk, &tuple, &(key, SENT), &culprit);
            }
        } else if let Some(ends) = Ends::of_time_wait(sk) {
            key.flags |= flags::HAS_SIZES;
            key.sizes = class(payload.into()) << sizes::UNREAD;
            origins::count(sk.namespace(), &ends, (key, SENT), &Culprit::UNKNOWN);
            if stream::is_armed() {
                let tuple = sk.tuple(sk.local_port());
                stream::reset(sk.namespace(), &tuple, &(key, SENT));
            }
        }
    } else if let Some(segment) = segment
        && let Some(namespace) = segment.namespace()
    {
        // Data is what tells a former peer from a scan.
        key.flags |= flags::HAS_SIZES;
        key.sizes = class(payload.into()) << sizes::UNREAD;
        let is_syn = key.flags & flags::SEGMENT_SYN != 0;
        let ends = Ends::of_stray(local, remote, is_syn, segment.source());
        origins::count_stray(namespace, &ends, key);
        if stream::is_armed() {
            let tuple = segment.tuple(local, remote);
            stream::reset(namespace, &tuple, &(key, SENT));
        }
    }
}

/// Bytes that may be lost with a full socket.
#[inline(always)]
pub(crate) fn describe_sizes(
    sk: Sock,
    tcp: TcpSock,
    (unread, unsent): (u32, u32),
    key: &mut ResetKey,
) {
    let received = tcp.bytes_received();
    let carried = received + tcp.bytes_acknowledged();
    key.flags |= flags::HAS_SIZES;
    key.sizes = class(unread.into()) << sizes::UNREAD
        | class(unsent.into()) << sizes::UNSENT
        | class(carried) << sizes::CARRIED;
    if sk.flags() & SOCK_DONE != 0 {
        key.sizes |= sizes::PEER_CLOSED;
    }
    key.sizes |= sizes::ANSWERED * (is_not_zero(received) & tcp.has_heard_last()) as u8;
}

/// Which of the four classes an amount is in.
#[inline(always)]
fn class(bytes: u64) -> u8 {
    let [none, few, some] = sizes::BOUNDS;
    let above = |bound: u32| is_above(bytes, bound.into());
    (above(none) + above(few) + above(some)) as u8
}

/// close() and disconnect leave the socket in CLOSE before they reset, in the caller's context
/// (`__tcp_close`, `tcp_disconnect`, net/ipv4/tcp.c); timers and `ss -K` do not (seen on 6.18).
#[inline(always)]
fn culprit(sk: Sock, segment: &Option<Segment>) -> Culprit {
    if segment.is_none() && sk.state() == state::CLOSE {
        Culprit::caller()
    } else {
        Culprit::UNKNOWN
    }
}

/// Without a branch for each flag: the verifier would follow all of their combinations.
#[inline(always)]
fn describe_socket(sk: Sock, key: &mut ResetKey, scratch: &mut u64) {
    let sk_state = sk.state();
    key.state = sk_state as u8;
    // Only `sock_common` is there.
    if sk_state == state::TIME_WAIT || sk_state == state::NEW_SYN_RECV {
        return;
    }
    /// `RCV_SHUTDOWN | SEND_SHUTDOWN`.
    const SHUTDOWN_MASK: u8 = 3;
    let sk_flags = sk.flags();
    let is_set = |flag: u64| sk_flags >> flag.trailing_zeros() & 1;
    let lingers_not = 1 - is_not_zero(sk.linger_time().into());
    let is_shut_down = 1 - is_not_zero(u64::from(!sk.shutdown() & SHUTDOWN_MASK));
    let seen = u64::from(flags::LINGER_ZERO) * (is_set(SOCK_LINGER) & lingers_not)
        | u64::from(flags::DEAD) * is_set(SOCK_DEAD)
        | u64::from(flags::HAS_SOCKET) * is_not_zero(sk.socket(scratch))
        | u64::from(flags::SHUT_DOWN) * is_shut_down;
    key.flags |= seen as u8;
}

/// Each CPU has places for as many kinds as a host knows; those that find none are counted in a map.
#[inline(always)]
fn count(key: ResetKey, counters: &mut Counters) {
    let word = key.word();
    // Knuth's multiplicative hash.
    let place = (word.wrapping_mul(0x9e37_79b9) >> 26) as usize & (RESET_PLACES - 1);
    let there = &mut counters.resets_sent[place];
    if there.count == 0 {
        there.key = key;
    }
    if there.key.word() == word {
        there.count += 1;
    } else {
        count_in_map(&key, counters);
    }
}

#[inline(never)]
fn count_in_map(key: &ResetKey, counters: &mut Counters) {
    if let Some(count) = RESETS.get_ptr_mut(key) {
        // SAFETY: this CPU's value of an entry that is never deleted.
        unsafe { *count += 1 };
    } else if RESETS.insert(key, 1, 0).is_err() {
        counters.resets_lost += 1;
        log::resets_full();
    }
}
