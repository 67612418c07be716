//! `tcp:tcp_receive_reset(struct sock *sk)`
//!
//! Since 4.16. A reset has reached a full socket, whose state is still the one it met. Runs in
//! softirq; `sk` is never NULL. It also fires where none was received: data for an orphan in
//! FIN_WAIT1 or FIN_WAIT2 ends the socket by the same function (`tcp_rcv_state_process`,
//! TCPABORTONDATA).
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/tcp.h#L161>

use core::ffi::c_void;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcpwatch_common::STATES;

use crate::{
    maps::counters,
    sock::{SOCK_DEAD, Sock, state},
};

#[btf_tracepoint(function = "tcp_receive_reset")]
fn receive_reset(ctx: BtfTracePointContext) -> i32 {
    if let (Some(sk), Some(counters)) = (Sock::new(ctx.arg::<*const c_void>(0)), counters()) {
        let sk_state = sk.state();
        // Such an orphan was ended by data; a real reset there harms nobody.
        let may_be_data = sk_state == state::FIN_WAIT1 || sk_state == state::FIN_WAIT2;
        if !may_be_data || sk.flags() & SOCK_DEAD == 0 {
            counters.resets_received[sk_state as usize & (STATES - 1)] += 1;
        }
    }
    0
}
