//! `tcp:tcp_send_reset(const struct sock *sk, const struct sk_buff *skb[, enum sk_rst_reason])`
//!
//! Since 4.15 with two arguments, and only for active resets and for segments that met a full
//! socket; since 6.10 for every reset, with a reason; `sk` is NULL where there is none, `skb`
//! where no segment provoked the reset. 6.12 and later name the reason of an active one. Runs in
//! softirq or in close(). Where the reason says TIME_WAIT, `sk` is a minisocket.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/tcp.h#L89>

use core::{ffi::c_void, ptr::with_exposed_provenance};

use aya_ebpf::{
    helpers::bpf_probe_read_kernel, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use tcpwatch_common::{ResetKey, reset_flags as flags};

use crate::{
    maps::{RESETS, counters},
    sock::{Object, SOCK_DEAD, SOCK_LINGER, Sock, field, offset, state},
};

/// Arguments of the tracepoint on kernels that give a reason.
const WITH_REASON: u32 = 3;

#[btf_tracepoint(function = "tcp_send_reset")]
fn send_reset(ctx: BtfTracePointContext) -> i32 {
    let mut key = ResetKey::default();
    if let Some(sk) = Sock::new(ctx.arg::<*const c_void>(0)) {
        describe_socket(sk, &mut key);
    }
    let skb: *const c_void = ctx.arg(1);
    if !skb.is_null() {
        key.flags |= flags::SEGMENT;
        if segment_has_syn(skb) {
            key.flags |= flags::SEGMENT_SYN;
        }
    }
    // Where the constant is 2 the verifier never looks at the third argument, which older kernels
    // would refuse.
    if offset!(send_reset_arguments) == WITH_REASON {
        let reason: u32 = ctx.arg::<i32>(2) as u32;
        key.reason = reason as u8;
        key.flags |= flags::HAS_REASON;
    }
    count(&key);
    0
}

#[inline(always)]
fn describe_socket(sk: Sock, key: &mut ResetKey) {
    let sk_state = sk.state();
    key.state = sk_state as u8;
    // Only `sock_common` is there.
    if sk_state == state::TIME_WAIT || sk_state == state::NEW_SYN_RECV {
        return;
    }
    let sk_flags = sk.flags();
    if sk_flags & SOCK_LINGER != 0 && sk.linger_time() == 0 {
        key.flags |= flags::LINGER_ZERO;
    }
    if sk_flags & SOCK_DEAD != 0 {
        key.flags |= flags::DEAD;
    }
    if sk.has_socket() {
        key.flags |= flags::HAS_SOCKET;
    }
    /// `RCV_SHUTDOWN | SEND_SHUTDOWN`.
    const SHUTDOWN_MASK: u8 = 3;
    if sk.shutdown() & SHUTDOWN_MASK == SHUTDOWN_MASK {
        key.flags |= flags::SHUT_DOWN;
    }
}

/// Whether the segment answered carries SYN: byte 13 of the TCP header, bit 1 (RFC 9293 3.1).
#[inline(always)]
fn segment_has_syn(skb: *const c_void) -> bool {
    let skb = Object(skb);
    let head = field!(skb, skb_head: u64);
    let transport = field!(skb, skb_transport_header: u16);
    let tcp_flags = with_exposed_provenance::<u8>((head + u64::from(transport) + 13) as usize);
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(tcp_flags) }.is_ok_and(|byte| byte & 0x02 != 0)
}

#[inline(always)]
fn count(key: &ResetKey) {
    if let Some(count) = RESETS.get_ptr_mut(key) {
        // SAFETY: this CPU's value of an entry that is never deleted.
        unsafe { *count += 1 };
    } else if RESETS.insert(key, 1, 0).is_err()
        && let Some(counters) = counters()
    {
        counters.resets_lost += 1;
    }
}
