//! Observations that are made only while the agent requests them; see [`tcpwatch_common::Focus`].

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_USER_STACK, BPF_NOEXIST},
    helpers::{
        bpf_get_current_pid_tgid, bpf_ktime_get_ns,
        generated::{
            bpf_get_current_task_btf, bpf_get_stack, bpf_probe_read_user, bpf_task_pt_regs,
        },
    },
    maps::HashMap,
};
use tcpwatch_common::{
    Address, Answering, Closer, CloserUse, FRAMES, Focus, OpeningStack, STACK_PROCESSES,
    STACK_WORDS,
};

use crate::{
    log,
    maps::{ANSWERS, CLOSERS, CLOSERS_ELSEWHERE, CLOSERS_IN, STACKS, focus},
    memory::{Object, field, has, offset},
    origins::{self, Culprit},
    sock::Sock,
};

/// First content of a new entry, which is too large for the program's own stack. The symbol is not
/// mangled, because a mangled name depends on the folder of the build.
#[unsafe(no_mangle)]
static NO_STACK: OpeningStack = OpeningStack::ZERO;

/// Keeps the user stack of the running system call, which has opened the socket at `sk`, if the
/// calling process is one of those requested. `ctx` is the program's context.
#[inline(always)]
pub(crate) fn record_stack(ctx: *mut c_void, sk: u64, is_client: bool) {
    if let Some(focus) = focus()
        && focus.stacks_of[0] != 0
    {
        record_requested_stack(ctx, sk, is_client, focus);
    }
}

#[inline(never)]
fn record_requested_stack(ctx: *mut c_void, sk: u64, is_client: bool, focus: &Focus) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut in_focus = false;
    let mut index = 0;
    while index < STACK_PROCESSES {
        in_focus |= focus.stacks_of[index] == tgid;
        index += 1;
    }
    if !in_focus {
        // The address may have been that of a socket whose stack is kept.
        let _ = STACKS.remove(&sk);
        return;
    }
    if STACKS.insert(&sk, &NO_STACK, 0).is_err() {
        log::focus_full();
        return;
    }
    let Some(stack) = STACKS.get_ptr_mut(&sk) else { return };
    // SAFETY: an entry of the map, which belongs to the socket that the caller is opening.
    let stack = unsafe { &mut *stack };
    stack.tgid = tgid;
    stack.is_client = u32::from(is_client);
    let frames = (&raw mut stack.frames).cast();
    // SAFETY: `frames` is writable for that size, and `ctx` the program's own. A frame that cannot
    // be read stays 0.
    unsafe {
        bpf_get_stack(ctx, frames, (FRAMES * 8) as u32, u64::from(BPF_F_USER_STACK));
    }
    read_words(stack);
}

/// The words at the user stack pointer.
#[inline(always)]
fn read_words(stack: &mut OpeningStack) {
    if offset!(has_task_pt_regs) == 0 || !has!(pt_regs_sp) {
        return;
    }
    // SAFETY: no arguments; returns a typed pointer to the current task.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: takes a typed pointer to a task; returns one to its registers.
    let registers = Object::typed(unsafe { bpf_task_pt_regs(task) } as *const c_void);
    let stack_pointer = field!(registers, pt_regs_sp: u64);
    let words = (&raw mut stack.words).cast();
    // SAFETY: `words` is writable for that size; the helper checks the user's address.
    unsafe {
        bpf_probe_read_user(words, (STACK_WORDS * 8) as u32, stack_pointer as *const c_void);
    }
}

/// Counts active closes, which leave the connection in TIME_WAIT here. A socket goes to FIN_WAIT1
/// only in close() or shutdown(), in the caller's context (`tcp_close_state`, net/ipv4/tcp.c).
#[inline(always)]
pub(crate) fn count_closer(sk: Sock) {
    if focus().is_some_and(|focus| focus.closers != 0) {
        count_requested_closer(sk);
    }
}

#[inline(never)]
fn count_requested_closer(sk: Sock) {
    let namespace = sk.namespace();
    let (cookie, inode) = (namespace.cookie(), namespace.inode());
    let id = if cookie == 0 { u64::from(inode) } else { cookie };
    if CLOSERS_IN.get_ptr(&id).is_none() {
        return;
    }
    let (port, is_client) = origins::service_of(sk);
    let caller = Culprit::caller();
    let (tgid, comm) = (caller.tgid, caller.comm());
    let nowhere = Address { words: [0; 4] };
    let mut closer = Closer {
        netns_cookie: cookie,
        netns: inode,
        port,
        is_client: u16::from(is_client),
        peer: if is_client == 1 { sk.addresses().1 } else { nowhere },
        comm,
    };
    if count_in(&CLOSERS, &closer, tgid) {
        return;
    }
    if is_client == 1 {
        closer.port = 0;
        closer.peer = nowhere;
    }
    if !count_in(&CLOSERS_ELSEWHERE, &closer, tgid) {
        log::focus_full();
    }
}

/// Counts a connection to a requested destination.
#[inline(always)]
pub(crate) fn count_answer(sk: Sock) {
    if focus().is_some_and(|focus| focus.answers != 0) {
        count_requested_answer(sk);
    }
}

#[inline(never)]
fn count_requested_answer(sk: Sock) {
    let namespace = sk.namespace();
    let cookie = namespace.cookie();
    let destination = Answering {
        netns: if cookie == 0 { u64::from(namespace.inode()) } else { cookie },
        peer: sk.addresses().1,
        port: sk.peer_port(),
        reserved: [0; 3],
    };
    if let Some(count) = ANSWERS.get_ptr_mut(&destination) {
        // SAFETY: an entry of the map. Of two CPUs that add at once one is lost: whether there are
        // hardly any or many is seen all the same.
        unsafe { *count += 1 };
    }
}

/// Whether it has found a place.
#[inline(always)]
fn count_in(table: &HashMap<Closer, CloserUse>, closer: &Closer, tgid: u32) -> bool {
    if table.get_ptr_mut(closer).is_none() {
        // SAFETY: no arguments, no effects.
        let since_ns = unsafe { bpf_ktime_get_ns() };
        let new = CloserUse { count: 0, others: 0, since_ns, tgid, reserved: 0 };
        // Of two CPUs that come here at once one finds the other's entry.
        let _ = table.insert(closer, new, BPF_NOEXIST.into());
    }
    let Some(entry) = table.get_ptr_mut(closer) else { return false };
    // SAFETY: an entry of the map. Of two CPUs that add at once one is lost, which a rate bears.
    unsafe {
        (*entry).count += 1;
        (*entry).others += u64::from((*entry).tgid != tgid);
    }
    true
}
