//! `inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg)`
//!
//! fexit, 5.5 and later; `(sk, flags, err, kern)` before 6.10. Returns the accepted socket, or NULL.
//! Runs in the context of the process that called accept(). It does nothing unless stacks are
//! requested or the stream of events is armed, and stays attached: before 5.13 it cannot be attached anew ("bpf: Allow trampoline
//! re-attach for tracing and lsm programs"; seen to fail on 5.10).
//!
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/inet_connection_sock.c>

use core::ffi::c_void;

use aya_ebpf::{EbpfContext, macros::fexit, programs::FExitContext};
use tcpwatch_common::Counters;

use crate::{focus, log, maps::count_run, memory::offset, sock::Sock, stream};

/// Parameters since 6.10, and before; the return value follows them.
const PARAMETERS: u32 = 2;
const PARAMETERS_BEFORE: u32 = 4;

#[fexit(function = "inet_csk_accept")]
fn accept(ctx: FExitContext) -> i32 {
    let Some(counters) = count_run!(ACCEPT) else { return 0 };
    // One after the other: a choice between them would be one load at an offset that is no constant,
    // which the verifier refuses.
    if offset!(accept_parameters) == PARAMETERS {
        record(&ctx, ctx.arg(PARAMETERS as usize), counters);
    }
    if offset!(accept_parameters) == PARAMETERS_BEFORE {
        record(&ctx, ctx.arg(PARAMETERS_BEFORE as usize), counters);
    }
    let parameters = offset!(accept_parameters);
    if parameters != PARAMETERS && parameters != PARAMETERS_BEFORE {
        log::unknown_accept(parameters);
    }
    0
}

#[inline(always)]
fn record(ctx: &FExitContext, accepted: *const c_void, counters: &mut Counters) {
    if let Some(sk) = Sock::new(accepted) {
        let address = sk.address(&mut counters.scratch);
        focus::record_stack(ctx.as_ptr(), address, false);
        if stream::is_armed() {
            stream::note_process(address);
        }
    }
}
