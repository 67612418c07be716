//! The list of network namespaces, and what `struct net` holds of each.
//!
//! Also those that only an open descriptor keeps: the list has every one that is alive.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/net/net_namespace.h#L61>

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_task, generated};
use tcpwatch_common::{LIST_AGAIN, NamespaceRecord, PORT_WORDS, Pass, Walk, progress};

use super::{STOP, if_time, word_at};
use crate::{
    maps,
    memory::{Object, Probed, field, has, offset},
};

/// Parents that are followed from the agent up to the first task.
const ANCESTORS: u32 = 64;

/// Finds the head of the list, and the tables of the first namespace. The first task of the kernel is
/// its own parent and stays in the first namespace, which is the first of the list.
#[inline(always)]
pub(super) fn find_roots(pass: &mut Pass) -> u32 {
    let read = Probed { word: &raw mut pass.word };
    // SAFETY: no arguments; returns the address of the current task.
    let mut task = Object(unsafe { bpf_get_current_task() } as *const c_void, read);
    let mut looked_at = 0;
    while looked_at < ANCESTORS {
        let parent = field!(task, real_parent: *const c_void);
        if parent == task.0 {
            break;
        }
        task.0 = parent;
        looked_at += 1;
    }
    let proxy = Object(field!(task, nsproxy: *const c_void), read);
    let net = Object(field!(proxy, nsproxy_net: *const c_void), read);
    let listed = net.0 as u64 + u64::from(offset!(net_list));
    let head = word_at(read, listed + 8);
    if head == 0 || word_at(read, head) != listed {
        return progress::FAILED;
    }
    let tables = Object(field!(net, net_hashinfo: *const c_void), read);
    pass.table = head;
    pass.bound_table = field!(tables, bhash: u64);
    pass.bound_mask = field!(tables, bhash_size: u32).wrapping_sub(1);
    pass.listener_table = field!(tables, lhash2: u64);
    pass.listener_mask = field!(tables, lhash2_mask: u32);
    progress::DONE
}

/// Begins the list again where the namespace that was next has gone.
#[inline(always)]
pub(super) fn resume(pass: &mut Pass) {
    let read = Probed { word: &raw mut pass.word };
    // A namespace that has gone still leads to the next one, but that does not lead back.
    if pass.node != 0 && word_at(read, word_at(read, pass.node) + 8) != pass.node {
        pass.node = 0;
        pass.again += 1;
    }
}

pub(super) unsafe extern "C" fn step(_: u32, _: *mut c_void) -> i64 {
    let (Some(pass), Some(walk)) = (maps::pass(), maps::walk()) else { return STOP };
    let read = Probed { word: &raw mut pass.word };
    if pass.node == 0 {
        pass.node = word_at(read, pass.table);
    }
    if pass.node == pass.table || pass.node == 0 || pass.again > LIST_AGAIN {
        pass.at_end = 1;
        return STOP;
    }
    if !maps::has_place_for_found() {
        return STOP;
    }
    pass.met += 1;
    describe(pass, walk, pass.node - u64::from(offset!(net_list)));
    maps::send_namespace(&pass.namespace);
    pass.node = word_at(read, pass.node);
    if_time(pass, 1)
}

/// Makes its record in [`Pass::namespace`].
#[inline(always)]
fn describe(pass: &mut Pass, walk: &mut Walk, address: u64) {
    let read = Probed { word: &raw mut pass.word };
    let net = Object(address as *const c_void, read);
    let tables = Object(field!(net, net_hashinfo: *const c_void), read);
    let reserved_at = field!(net, net_reserved_ports: u64);
    let record = &mut pass.namespace;
    *record = NamespaceRecord::ZERO;
    record.net = address;
    record.cookie = field!(net, net_cookie: u64);
    record.inode = field!(net, net_inum: u32);
    record.hash_mix = field!(net, net_hash_mix: u32);
    record.table = field!(tables, ehash: u64);
    record.mask = field!(tables, ehash_mask: u32);
    record.somaxconn = field!(net, net_somaxconn: u32);
    record.time_wait_limit = field!(net, net_max_tw_buckets: u32);
    if has!(net_tw_reuse_delay) {
        record.tw_reuse_delay_ms = field!(net, net_tw_reuse_delay: u32);
    }
    if has!(net_local_ports_lock) {
        let [low, high] = field!(net, net_local_ports: [u32; 2]);
        (record.port_low, record.port_high) = (low as u16, high as u16);
    } else {
        let range = field!(net, net_local_ports: u32);
        (record.port_low, record.port_high) = (range as u16, (range >> 16) as u16);
    }
    record.tw_reuse = field!(net, net_tw_reuse: u8);
    record.timestamps = field!(net, net_timestamps: u8);
    record.syncookies = field!(net, net_syncookies: u8);
    record.abort_on_overflow = field!(net, net_abort_on_overflow: u8);
    record.retries2 = field!(net, net_retries2: u8);
    record.orphan_retries = field!(net, net_orphan_retries: u8);
    copy_reserved_ports(walk, reserved_at);
    let mut any = 0;
    let mut at = 0;
    while at < PORT_WORDS {
        any |= walk.reserved_ports[at];
        at += 1;
    }
    if any != 0 {
        record.reserved_at = reserved_at;
    }
}

/// Copies the set of ports at this address; an empty one where it cannot be read.
#[inline(always)]
pub(super) fn copy_reserved_ports(walk: &mut Walk, reserved_at: u64) -> u32 {
    let ports = walk.reserved_ports.as_mut_ptr().cast();
    // SAFETY: `ports` is writable for that size, and the helper checks the address.
    unsafe {
        generated::bpf_probe_read_kernel(
            ports,
            (PORT_WORDS * 8) as u32,
            reserved_at as *const c_void,
        );
    }
    progress::DONE
}
