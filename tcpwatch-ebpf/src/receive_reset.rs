//! `tcp:tcp_receive_reset(struct sock *sk)`
//!
//! Since 4.16. A reset has reached a full socket, whose state is still the one it met. Runs in
//! softirq; `sk` is never NULL. It also fires where none was received: data for a socket in FIN_WAIT1
//! or FIN_WAIT2 that no process will read from ends it by the same function
//! (`tcp_rcv_state_process`, TCPABORTONDATA).
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/tcp.h#L161>

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcpwatch_common::{Counters, ResetKey, STATES};

use crate::{
    maps::count_run,
    notes,
    origins::{self, Culprit, Ends},
    scope, send_reset,
    sock::{Sock, state},
    stream, valve,
};

/// [`ResetOrigin::received`](tcpwatch_common::ResetOrigin::received).
const RECEIVED: u8 = 1;

#[btf_tracepoint(function = "tcp_receive_reset")]
fn receive_reset(ctx: BtfTracePointContext) -> i32 {
    let counted = count_run!(RECEIVE_RESET);
    if let (Some(sk), Some(counters)) = (Sock::new(ctx.arg::<*const c_void>(0)), counted) {
        let sk_state = sk.state();
        /// Set for an orphan, and after shutdown() for both directions.
        const RCV_SHUTDOWN: u8 = 1;
        // Such a socket was ended by data; a real reset there does no harm.
        let may_be_data = sk_state == state::FIN_WAIT1 || sk_state == state::FIN_WAIT2;
        if (!may_be_data || sk.shutdown() & RCV_SHUTDOWN == 0) && scope::covers(sk.namespace()) {
            counters.resets_received[sk_state as usize & (STATES - 1)] += 1;
            if valve::admits(counters) {
                attribute(sk, sk_state, counters);
            } else {
                stream::drop_reset();
            }
        }
    }
    0
}

/// A refused connect() has its caller noted; of all others the service is known.
#[inline(always)]
fn attribute(sk: Sock, sk_state: u32, counters: &mut Counters) {
    let Some(tcp) = sk.tcp() else { return };
    let mut culprit = Culprit::UNKNOWN;
    if sk_state == state::SYN_SENT
        && let Some(note) = notes::CONNECTS.find(sk.address(&mut counters.scratch))
    {
        culprit = Culprit::noted(note);
    }
    let mut seen = ResetKey { state: sk_state as u8, ..ResetKey::default() };
    let left = (tcp.receive_queue(), tcp.unacknowledged());
    send_reset::describe_sizes(sk, tcp, left, &mut seen);
    origins::count(sk.namespace(), &Ends::of(sk, tcp), (seen, RECEIVED), &culprit);
    if stream::is_armed() {
        stream::reset_of(sk, &sk.tuple(tcp.source_port()), &(seen, RECEIVED), &culprit);
    }
}
