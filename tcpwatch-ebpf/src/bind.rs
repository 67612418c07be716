//! `inet_csk_get_port(struct sock *sk, unsigned short snum)`
//!
//! fexit, 5.5 and later; no tracepoint shows a failed bind(). It gives a socket its local port: at
//! bind(), and again at listen(). Returns 0, or where the port is taken -EADDRINUSE (1 before "net:
//! Return errno in sk->sk_prot->get_port()", 6.2). Runs in the caller's context with the socket
//! locked; `sk` is never NULL. `snum` is 0 where any port will do. connect() finds its port by
//! another way.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/inet_connection_sock.c>

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::fexit, programs::FExitContext};
use tcpwatch_common::{Counters, Event, EventKind};

use crate::{
    maps::{Share, count_run, emit},
    origins::Culprit,
    scope,
    sock::{IPPROTO_TCP, Sock},
    stream,
};

/// The return value follows the two arguments.
const RETURNED: usize = 2;

#[fexit(function = "inet_csk_get_port")]
fn bind(ctx: FExitContext) -> i32 {
    let Some(counters) = count_run!(BIND) else { return 0 };
    let returned: i32 = ctx.arg(RETURNED);
    if returned != 0
        && let Some(sk) = Sock::new(ctx.arg::<*const c_void>(0))
    {
        report(sk, ctx.arg::<u16>(1), counters);
    }
    if stream::is_armed()
        && let Some(sk) = Sock::new(ctx.arg::<*const c_void>(0))
    {
        stream::bind(sk, ctx.arg::<u16>(1), returned);
    }
    0
}

#[inline(always)]
fn report(sk: Sock, port: u16, counters: &mut Counters) {
    let namespace = sk.namespace();
    if sk.protocol() != IPPROTO_TCP || !scope::covers(namespace) {
        return;
    }
    let caller = Culprit::caller();
    let event = Event {
        // SAFETY: no arguments, no effects.
        time_ns: unsafe { bpf_ktime_get_ns() },
        netns_cookie: namespace.cookie(),
        netns: namespace.inode(),
        kind: EventKind::BindFailed as u8,
        flags: 0,
        reserved: [0; 2],
        tuple: sk.tuple(port),
        error: 0,
        tgid: caller.tgid,
        comm: caller.comm(),
        since_syn_ms: 0,
        own_port_range: 0,
        reserved2: 0,
    };
    emit(&event, Share::Uncommon, counters);
}
