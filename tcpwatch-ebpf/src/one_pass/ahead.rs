//! Sockets that are loaded into the cache ahead of their turn.
//!
//! A socket of a large table is in no cache, and it is reached through the one before it in its chain: most
//! of the time of a walk passes in waiting for memory. The chains of several buckets do not hang on each
//! other, so the processor fetches them side by side.

use core::ffi::c_void;

use aya_ebpf::helpers::generated;
use tcpwatch_common::{AHEAD, Pass};

use super::if_time;

/// Sockets of a bucket that are loaded at most.
const TURNS: u32 = 8;

/// Begins with this bucket and its neighbours.
#[inline(always)]
pub(super) fn begin(pass: &mut Pass) {
    // They are a part of the table: its size is a power of two, and a smaller one needs no such thing.
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
