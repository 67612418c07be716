//! `iter/task_file`: every open file of every process; copies up the selected sockets.
//!
//! Since 5.8. Cheaper than `/proc/*/fd` (no path is built for the other files) and
//! in need of no capability beyond that of loading it. Runs in the reader's context; `task` and
//! `file` are NULL once, at the end.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/task_iter.c#L339>

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_seq_write;
use tcpwatch_common::OwnerRecord;

use crate::{
    inventory::IterMeta,
    maps::WANTED,
    memory::{Object, field},
    sock::leader_comm,
};

/// `struct bpf_iter__task_file`, a stable context: each member is aligned to 8 bytes.
#[repr(C)]
struct IterContext {
    meta: *const IterMeta,
    task: *const c_void,
    fd: u32,
    file: *const c_void,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
fn owners(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes a `bpf_iter__task_file`.
    let (meta, task, fd, file) =
        unsafe { ((*ctx).meta, Object::typed((*ctx).task), (*ctx).fd, Object::typed((*ctx).file)) };
    if task.0.is_null() || file.0.is_null() {
        return 0;
    }
    let inode = Object::typed(field!(file, file_inode: *const c_void));
    if inode.0.is_null() || !is_socket(&inode) {
        return 0;
    }
    let number = field!(inode, i_ino: u64);
    // SAFETY: the agent fills the map before the walk and does not write it during the walk.
    if unsafe { WANTED.get(&number) }.is_none() {
        return 0;
    }
    let tgid = field!(task, tgid: u32);
    let leader = Object::typed(field!(task, group_leader: *const c_void));
    // Kernels before 5.11 show the files of a process once for each of its threads. A thread may
    // have files of its own, and a leader that has ended has none.
    if field!(task, pid: u32) != tgid
        && field!(task, files: *const c_void) == field!(leader, files: *const c_void)
    {
        return 0;
    }
    let record = OwnerRecord {
        inode: number,
        start_ns: field!(leader, start_time: u64),
        tgid,
        fd,
        comm: leader_comm(leader.0 as u64),
    };
    // SAFETY: `record` is readable for its size; `meta` is never NULL. When the buffer is full the
    // kernel shows the same file again.
    unsafe {
        bpf_seq_write(
            (*meta).seq.cast(),
            core::ptr::from_ref(&record).cast_mut().cast(),
            size_of::<OwnerRecord>() as u32,
        );
    }
    0
}

/// Inode numbers are unique only within a file system: on others the number means another file.
#[inline(always)]
fn is_socket(inode: &Object) -> bool {
    const S_IFMT: u16 = 0o170_000;
    const S_IFSOCK: u16 = 0o140_000;
    field!(inode, i_mode: u16) & S_IFMT == S_IFSOCK
}
