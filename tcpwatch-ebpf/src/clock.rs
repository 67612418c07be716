//! The time, where a tick of the kernel's clock is exact enough.
//!
//! Programs of this type may not call `bpf_ktime_get_coarse_ns` (5.16, "bpf: Forbid
//! bpf_ktime_get_coarse_ns and bpf_timer_* in tracing progs"), and the exact time takes some 50 ns.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64};
use tcpwatch_common::Counters;

/// Nanoseconds of CLOCK_MONOTONIC: now, or when this CPU called this first in the present tick. A tick takes
/// 1 to 10 ms (`CONFIG_HZ` from 1000 to 100), and longer where the CPU that counts ticks stands still, as
/// in a busy virtual machine.
#[inline(always)]
pub(crate) fn about_now_ns(counters: &mut Counters) -> u64 {
    // SAFETY: no arguments, no effects.
    let tick = unsafe { bpf_jiffies64() };
    // SAFETY: valid references; volatile, because a softirq may write both between the two.
    unsafe {
        if read_volatile(&raw const counters.tick) == tick {
            return read_volatile(&raw const counters.tick_ns);
        }
    }
    read(tick, counters)
}

#[inline(never)]
fn read(tick: u64, counters: &mut Counters) -> u64 {
    // SAFETY: no arguments, no effects.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: valid references. In this order, because a softirq may run the program between the two
    // and must not take the time of an earlier tick for that of this one.
    unsafe {
        write_volatile(&raw mut counters.tick_ns, now_ns);
        write_volatile(&raw mut counters.tick, tick);
    }
    now_ns
}
