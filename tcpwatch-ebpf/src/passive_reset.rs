//! `tcp_v4_send_reset(const struct sock *sk, struct sk_buff *skb)`, and `tcp_v6_send_reset`
//!
//! Attached before 6.10 only, where the tracepoint `tcp_send_reset` is silent about resets without
//! a full socket: no listener, a connection that this host does not know, a socket in TIME_WAIT.
//! fentry, 5.5 and later. Runs in softirq; `sk` is NULL, a minisocket or a full socket; `skb` is
//! never NULL.
//!
//! A segment that is itself a reset is never answered, as the function says first. It also sends
//! none for a broadcast or for a wrong MD5 signature, which is not seen from here.
//!
//! <https://github.com/torvalds/linux/blob/v6.1/net/ipv4/tcp_ipv4.c>

use core::ffi::c_void;

use aya_ebpf::{macros::fentry, programs::FEntryContext};
use tcpwatch_common::{Counters, ResetKey};

use crate::{
    maps::count_run,
    segment::Segment,
    send_reset,
    sock::{Sock, state},
};

#[fentry(function = "tcp_v4_send_reset")]
fn passive_reset_v4(ctx: FEntryContext) -> i32 {
    if let Some(counters) = count_run!(PASSIVE_RESET_V4) {
        observe(ctx.arg(0), ctx.arg(1), counters);
    }
    0
}

#[fentry(function = "tcp_v6_send_reset")]
fn passive_reset_v6(ctx: FEntryContext) -> i32 {
    if let Some(counters) = count_run!(PASSIVE_RESET_V6) {
        observe(ctx.arg(0), ctx.arg(1), counters);
    }
    0
}

#[inline(always)]
fn observe(sk: *const c_void, skb: *const c_void, counters: &mut Counters) {
    let sk = Sock::new(sk);
    // The tracepoint shows a full socket.
    if sk.is_some_and(|sk| sk.state() != state::TIME_WAIT && sk.state() != state::NEW_SYN_RECV) {
        return;
    }
    let Some(segment) = Segment::new(skb) else { return };
    if segment.tcp_header().is_rst() {
        return;
    }
    send_reset::observe(sk, Some(segment), ResetKey::default(), counters);
}
