//! A bound of the rare work of the hooks, so that no storm costs more than a share of a CPU.
//!
//! Counts are always kept. Names of processes and services are left out beyond the budget of a second; of
//! resets as of the connections that they are measured by, so that their share stays as it is.

use core::ptr::read_volatile;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tcpwatch_common::{Counters, WORK_PER_SECOND};

/// Set by the agent before the load, frozen since.
#[unsafe(no_mangle)]
static WORK: u64 = WORK_PER_SECOND;

/// Whether this CPU may do one more piece of work, which is taken from its budget.
#[inline(always)]
pub(crate) fn admits(counters: &mut Counters) -> bool {
    if counters.work_left > 0 {
        counters.work_left -= 1;
        return true;
    }
    refill(counters) != 0
}

/// Grants the budget of the next second, if the last one is over.
#[inline(never)]
fn refill(counters: &mut Counters) -> u32 {
    const SECOND_NS: u64 = 1_000_000_000;
    // SAFETY: no arguments, no effects.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns - counters.work_since_ns < SECOND_NS {
        counters.work_shed += 1;
        return 0;
    }
    counters.work_since_ns = now_ns;
    // SAFETY: a static of this program; volatile, so that the compiler does not fold it into the code.
    counters.work_left = unsafe { read_volatile(&raw const WORK) };
    1
}
