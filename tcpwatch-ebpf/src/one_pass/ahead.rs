//! Sockets that are loaded into the cache ahead of their turn.
//!
//! A socket of a large table is in no cache, and it is reached through the one before it in its chain: a
//! walk spends most of its time waiting for memory. The chains of several buckets are independent, so the
//! processor fetches their sockets at the same time.

use core::ffi::c_void;

use aya_ebpf::helpers::generated;
use tcpwatch_common::{AHEAD, Pass};

use super::if_time;

/// Sockets of a bucket that are loaded at most.
const TURNS: u32 = 8;

/// Begins with the group of this bucket. Where a slice ends meanwhile, the others of the group are not
/// loaded ahead.
#[inline(always)]
pub(super) fn begin(pass: &mut Pass) {
    // The size of a table is a power of two, so a group lies within it. A table smaller than a group is
    // not loaded ahead.
    let first = pass.bucket & !(AHEAD as u32 - 1);
    pass.ahead_to = first + AHEAD as u32;
    if pass.ahead_to > pass.mask + 1 {
        return;
    }
    pass.ahead_turns = TURNS;
    let from = pass.table + u64::from(first) * 8;
    let ahead = &raw mut pass.ahead;
    // SAFETY: it is writable for its size; the helper checks the address, and clears it where it cannot
    // read.
    unsafe {
        let size = size_of::<[u64; AHEAD]>() as u32;
        generated::bpf_probe_read_kernel(ahead.cast(), size, from as *const c_void);
    }
}

/// Loads the next socket of each bucket: the way to the one behind it is read.
#[inline(always)]
pub(super) fn load(pass: &mut Pass) -> i64 {
    pass.ahead_left = 0;
    let mut at = 0;
    while at < AHEAD {
        let node = pass.ahead[at];
        if node != 0 && node & 1 == 0 {
            let next = &raw mut pass.ahead[at];
            // SAFETY: it is writable for its size; the helper checks the address.
            unsafe { generated::bpf_probe_read_kernel(next.cast(), 8, node as *const c_void) };
            pass.ahead_left = 1;
        }
        at += 1;
    }
    pass.ahead_turns -= 1;
    if pass.ahead_left == 0 {
        pass.ahead_turns = 0;
    }
    if_time(pass, 1)
}
