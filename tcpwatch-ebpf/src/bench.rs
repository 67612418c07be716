//! The cost of a hook, for `cargo xtask bench hooks`. No part of tcpwatch.
//!
//! Programs of a tracepoint run in the order in which they were attached. These take the time between
//! them: [`first`](first_transition), the hook of tcpwatch, `second`, an empty program, `third`. The
//! hook and the empty program see the same events, one right after the other, so that neither the
//! machine's speed nor the clock tells them apart.
#![no_std]
#![no_main]

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, map},
    maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use tcpwatch_common::bench::{PATHS, Path, RESET_RECEIVED, RESET_SENT, Spent, transition};

#[map]
static SPENT: PerCpuArray<Path> = PerCpuArray::with_max_entries(PATHS, 0);
/// When the program before has ended.
#[map]
static BEGUN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The three tracepoints have the same five programs.
macro_rules! programs {
    ($tracepoint:literal, $path:expr, $first:ident, $second:ident, $empty:ident, $third:ident) => {
        #[doc = concat!("Before the hook of `", $tracepoint, "`.")]
        #[btf_tracepoint(function = $tracepoint)]
        fn $first(_: BtfTracePointContext) -> i32 {
            begin();
            0
        }

        /// After it.
        #[btf_tracepoint(function = $tracepoint)]
        fn $second(ctx: BtfTracePointContext) -> i32 {
            end(path_of(&ctx, $path), |path| &mut path.hook);
            begin();
            0
        }

        /// For the cost of a program that does nothing.
        #[btf_tracepoint(function = $tracepoint)]
        fn $empty(_: BtfTracePointContext) -> i32 {
            0
        }

        /// After the empty one.
        #[btf_tracepoint(function = $tracepoint)]
        fn $third(ctx: BtfTracePointContext) -> i32 {
            end(path_of(&ctx, $path), |path| &mut path.empty);
            0
        }
    };
}

programs!(
    "inet_sock_set_state",
    None,
    first_transition,
    second_transition,
    empty_transition,
    third_transition
);
programs!(
    "tcp_send_reset",
    Some(RESET_SENT),
    first_reset_sent,
    second_reset_sent,
    empty_reset_sent,
    third_reset_sent
);
programs!(
    "tcp_receive_reset",
    Some(RESET_RECEIVED),
    first_reset_received,
    second_reset_received,
    empty_reset_received,
    third_reset_received
);

/// The place of the running event: that of a reset, or by the transition's two states.
#[inline(always)]
fn path_of(ctx: &BtfTracePointContext, reset: Option<u32>) -> u32 {
    match reset {
        Some(place) => place,
        None => transition(ctx.arg::<i32>(1) as u32, ctx.arg::<i32>(2) as u32),
    }
}

#[inline(always)]
fn begin() {
    if let Some(begun) = BEGUN.get_ptr_mut(0) {
        // SAFETY: this CPU's word; a softirq that begins meanwhile makes one time too short.
        unsafe { *begun = bpf_ktime_get_ns() };
    }
}

#[inline(always)]
fn end(path: u32, of: impl FnOnce(&mut Path) -> &mut Spent) {
    // SAFETY: no arguments, no effects.
    let now = unsafe { bpf_ktime_get_ns() };
    let (Some(begun), Some(path)) = (BEGUN.get_ptr(0), SPENT.get_ptr_mut(path)) else { return };
    // SAFETY: this CPU's entries, as above.
    let (ns, spent) = unsafe { (now - *begun, of(&mut *path)) };
    // An interrupt of the machine came in between.
    if ns > Spent::LONGEST_NS {
        spent.interrupted += 1;
        return;
    }
    spent.runs += 1;
    spent.ns += ns;
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
