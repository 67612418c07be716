//! `raw_tp`, never attached: one pass over the TCP sockets of every network namespace.
//!
//! The agent runs it by BPF_PROG_RUN, again and again: each run is a slice of some 100 us, because
//! preemption is off meanwhile. Since 6.1: `bpf_loop` (5.17), and `struct net` holds the way to the
//! tables. Nothing is entered, locked or attached. Every pointer is read by `bpf_probe_read_kernel`,
//! which yields an error where it leads nowhere.
//!
//! Sockets come, go and move to other chains while the tables are read, and their memory is used
//! again in place (SLAB_TYPESAFE_BY_RCU). So a node counts only if its hash is that of the bucket, and
//! a chain that ends elsewhere is read again. Within a slice RCU keeps what a pointer leads to; from
//! one slice to the next a node is kept only if it is still in its chain.
//!
//! The order is listeners, ports, connections, so that a listener is known before what hangs on it.
//! [`judge`](crate::judge) does the same with each socket as for the iterator, and so does
//! [`listing_pass`](crate::listing_pass), which takes the same steps.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/net/inet_hashtables.h#L146>

mod ahead;
mod bound;
mod namespaces;
mod queues;

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated};
use tcpwatch_common::{
    Destination, Found, HEAD_WORDS, NamespaceWalk, Pass, Tuple, Walk, phase, progress,
};

use crate::{
    judge::{BufferFull, Target, begin, visit},
    maps,
    memory::{Copied, Memory, Probed, SOCKET_BYTES, field, offset},
    ports::{bit, has_bit, word},
    sock::{Sock, state},
};

/// After that a slice ends. A tenth of a millisecond without preemption is not noticed, and a run has
/// some microseconds of its own.
const SLICE_NS: u64 = 100_000;
/// Steps of a slice at most: some 10 ns each for empty buckets.
const SLICE_STEPS: u32 = 1 << 20;
/// Sockets of one chain at most: a chain that is torn might lead in a circle.
const CHAIN: u32 = 1 << 20;
/// How often a chain that moves is begun again.
const AGAIN: u32 = 4;
/// Behind the number of the bucket at the end of a chain of listeners (`LISTENING_NULLS_BASE`,
/// include/net/inet_hashtables.h).
const LISTENING: u64 = 1 << 29;

/// A step's answer to `bpf_loop`.
const GO_ON: i64 = 0;
const STOP: i64 = 1;

/// A function that `bpf_loop` calls.
pub(crate) type Step = unsafe extern "C" fn(u32, *mut c_void) -> i64;

#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/one_pass")]
fn one_pass(ctx: *mut c_void) -> u32 {
    let arguments = ctx.cast::<u64>();
    // SAFETY: the context is an array of 64-bit arguments.
    let (requested, of) = unsafe { (arguments.read(), arguments.add(1).read()) };
    let (Some(pass), Some(walk)) = (maps::pass(), maps::walk()) else { return progress::FAILED };
    match requested {
        phase::ROOTS => namespaces::find_roots(pass),
        phase::NAMESPACES => {
            namespaces::resume(pass);
            slice(namespaces::step)
        }
        phase::RESERVED_PORTS => namespaces::copy_reserved_ports(walk, of),
        phase::LISTENERS => {
            resume_listeners(pass);
            slice(step_listeners::<Judged>)
        }
        phase::BOUND => {
            bound::resume(pass);
            slice(bound::step)
        }
        phase::ESTABLISHED => {
            resume_established(pass);
            slice(step_established::<Judged>)
        }
        _ => progress::FAILED,
    }
}

/// The use that a walk makes of each socket.
pub(crate) trait Use {
    /// Uses the socket at this address, whose head is in [`Pass::head`]; 0 where there is no place for
    /// its record, and then it is met again. A global function of BPF, which the verifier goes through
    /// once; it looks the pass up itself, so no reference to that may be held meanwhile.
    fn visit(address: u64) -> u32;
}

/// The use that an inventory makes of it.
struct Judged;

impl Use for Judged {
    #[inline(always)]
    fn visit(address: u64) -> u32 {
        judge_copied(address)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_copied(address: u64) -> u32 {
    let Some(pass) = maps::pass() else { return 1 };
    let sk = copied(address, pass);
    let Some(mut everywhere) = Everywhere::at(field!(sk, skc_net: u64), pass) else { return 1 };
    // Each check is for so many sockets. The agent empties the ring between slices, so there is space
    // too where a slice begins between two checks.
    if pass.met % maps::FOUND_STEPS == 0 && !maps::has_place_for_found() {
        return 0;
    }
    pass.met += 1;
    // The record has its place.
    let _ = visit(sk, &mut everywhere);
    1
}

/// The socket at this address, whose head is in [`Pass::head`].
#[inline(always)]
pub(crate) fn copied(address: u64, pass: &mut Pass) -> Sock<Copied> {
    let head = pass.head.as_mut_ptr().cast_const().cast();
    Sock(address as *const c_void, Copied { head, word: &raw mut pass.word })
}

/// Takes steps until the slice is over. It looks the pass up itself, before and after: the steps change
/// it, so no reference to it may be an argument here.
#[inline(always)]
pub(crate) fn slice(step: Step) -> u32 {
    // SAFETY: no arguments, no effects.
    let began_ns = unsafe { bpf_ktime_get_ns() };
    let Some(pass) = maps::pass() else { return progress::FAILED };
    pass.began_ns = began_ns;
    pass.steps = 0;
    pass.at_end = 0;
    pass.heads_to = 0;
    // The sockets to which these lead may have gone since the last slice.
    pass.ahead_turns = 0;
    // SAFETY: `step` is a function of this program that takes no context.
    unsafe { generated::bpf_loop(SLICE_STEPS, step as *mut c_void, core::ptr::null_mut(), 0) };
    // SAFETY: as above.
    let took_ns = unsafe { bpf_ktime_get_ns() } - began_ns;
    let Some(pass) = maps::pass() else { return progress::FAILED };
    if took_ns > pass.longest_ns {
        pass.longest_ns = took_ns;
    }
    if pass.at_end != 0 { progress::DONE } else { progress::MORE }
}

/// [`STOP`] when the slice has taken its time. The clock is read in every so many steps.
#[inline(always)]
fn if_time(pass: &mut Pass, every: u32) -> i64 {
    pass.steps = pass.steps.wrapping_add(1);
    if pass.steps % every != 0 {
        return GO_ON;
    }
    // SAFETY: no arguments, no effects.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns - pass.began_ns > SLICE_NS { STOP } else { GO_ON }
}

/// The bucket is begun again, behind the nodes that were judged.
#[inline(always)]
fn forget_place(pass: &mut Pass) {
    if pass.index > pass.judged {
        pass.judged = pass.index;
    }
    pass.index = 0;
    pass.node = 0;
}

/// Keeps the place in a chain of sockets, which may be long: many listeners share a port, and a
/// namespace may have a small table of its own. The node is the same if the list still leads to it and
/// `belongs` says that its socket is of this bucket.
#[inline(always)]
fn resume_in_chain(pass: &mut Pass, belongs: impl FnOnce(Sock<Probed>, &Pass) -> bool) {
    if pass.node == 0 {
        return;
    }
    let read = Probed { word: &raw mut pass.word };
    let sk = pass.node - u64::from(offset!(skc_nulls_node));
    let led_from = word_at(read, pass.node + 8);
    let is_listed = word_at(read, led_from) == pass.node;
    if !is_listed || !belongs(Sock(sk as *const c_void, read), pass) {
        forget_place(pass);
    }
}

/// Goes on behind the last connection that was visited.
#[inline(always)]
pub(crate) fn resume_established(pass: &mut Pass) {
    resume_in_chain(pass, is_of_bucket);
}

/// Goes on behind the last listener that was visited.
#[inline(always)]
pub(crate) fn resume_listeners(pass: &mut Pass) {
    resume_in_chain(pass, |sk, _| sk.state() == state::LISTEN);
}

#[inline(always)]
fn is_of_bucket<M: Memory>(sk: Sock<M>, pass: &Pass) -> bool {
    field!(sk, skc_hash: u32) & pass.mask == pass.bucket
}

/// Visits the next connection.
pub(crate) unsafe extern "C" fn step_established<U: Use>(_: u32, _: *mut c_void) -> i64 {
    let Some(pass) = maps::pass() else { return STOP };
    if pass.ahead_turns != 0 {
        return ahead::load(pass);
    }
    if pass.node == 0 {
        let answer = enter_bucket::<1>(pass, 0);
        if pass.node != 0 && pass.bucket >= pass.ahead_to {
            ahead::begin(pass);
        }
        return answer;
    }
    let Some(sk) = read_sock(pass) else { return begin_again(pass) };
    if !is_of_bucket(sk, pass) {
        return begin_again(pass);
    }
    let is_new = pass.index >= pass.judged;
    let address = sk.0 as u64;
    if is_new && U::visit(address) == 0 {
        return STOP;
    }
    let Some(pass) = maps::pass() else { return STOP };
    let sk = copied(address, pass);
    pass.index += 1;
    let end = u64::from(pass.bucket);
    go_on(pass, field!(sk, skc_nulls_node: u64), end);
    if is_new { if_time(pass, 8) } else { GO_ON }
}

/// Visits the next listener, or the next connection in its queue.
pub(crate) unsafe extern "C" fn step_listeners<U: Use>(_: u32, _: *mut c_void) -> i64 {
    let Some(pass) = maps::pass() else { return STOP };
    if pass.owner != 0 {
        return queues::step(pass);
    }
    if pass.node == 0 {
        return enter_bucket::<2>(pass, 1);
    }
    let Some(sk) = read_sock(pass) else { return begin_again(pass) };
    if sk.state() != state::LISTEN {
        return begin_again(pass);
    }
    let is_new = pass.index >= pass.judged;
    let address = sk.0 as u64;
    if is_new && U::visit(address) == 0 {
        return STOP;
    }
    let Some(pass) = maps::pass() else { return STOP };
    let sk = copied(address, pass);
    pass.index += 1;
    if is_new {
        queues::begin(sk, pass);
    }
    // Judging it has left the copy as it was.
    let end = u64::from(pass.bucket) + LISTENING;
    go_on(pass, field!(sk, skc_nulls_node: u64), end);
    if is_new { if_time(pass, 1) } else { GO_ON }
}

/// Reads the head of the socket whose node is next.
#[inline(always)]
fn read_sock(pass: &mut Pass) -> Option<Sock<Copied>> {
    let sk = pass.node - u64::from(offset!(skc_nulls_node));
    copy_head::<SOCKET_BYTES>(pass, sk).map(|memory| Sock(sk as *const c_void, memory))
}

/// Copies the beginning of the structure at this address.
#[inline(always)]
fn copy_head<const BYTES: usize>(pass: &mut Pass, address: u64) -> Option<Copied<BYTES>> {
    const { assert!(BYTES <= size_of_val(&Pass::ZERO.head)) };
    let head = pass.head.as_mut_ptr();
    // SAFETY: `head` is writable for its size; the helper checks the address.
    let failed = unsafe {
        generated::bpf_probe_read_kernel(head.cast(), BYTES as u32, address as *const c_void)
    };
    if failed != 0 {
        return None;
    }
    Some(Copied { head: head.cast_const().cast(), word: &raw mut pass.word })
}

/// The word at this address, 0 where it cannot be read.
#[inline(always)]
fn word_at(read: Probed, address: u64) -> u64 {
    // SAFETY: the memory that reads it takes any address.
    unsafe { read.load(address as *const c_void, 0) }
}

/// Finds the next bucket that is not empty. Of each bucket the table has `WORDS` words, the head of its
/// chain at `head`.
#[inline(always)]
fn enter_bucket<const WORDS: usize>(pass: &mut Pass, head: usize) -> i64 {
    if pass.bucket > pass.mask {
        pass.at_end = 1;
        return STOP;
    }
    if pass.bucket >= pass.heads_to || pass.bucket < pass.heads_from {
        read_heads::<WORDS>(pass);
    }
    let mut looked_at = 0;
    while looked_at < HEAD_WORDS / WORDS {
        if pass.bucket >= pass.heads_to {
            break;
        }
        let at = pass.bucket.wrapping_sub(pass.heads_from) as usize * WORDS + head;
        let first = pass.heads[at & (HEAD_WORDS - 1)];
        if first != 0 && first & 1 == 0 {
            pass.node = first;
            break;
        }
        next_bucket(pass);
        looked_at += 1;
    }
    if_time(pass, 4)
}

#[inline(always)]
fn read_heads<const WORDS: usize>(pass: &mut Pass) {
    let mut buckets = pass.mask - pass.bucket + 1;
    if buckets > (HEAD_WORDS / WORDS) as u32 {
        buckets = (HEAD_WORDS / WORDS) as u32;
    }
    pass.heads_from = pass.bucket;
    pass.heads_to = pass.bucket + buckets;
    let from = pass.table + u64::from(pass.bucket) * (WORDS * 8) as u64;
    let heads = pass.heads.as_mut_ptr().cast();
    // SAFETY: `heads` is writable for so many buckets; the helper checks the address.
    let failed = unsafe {
        generated::bpf_probe_read_kernel(heads, buckets * (WORDS * 8) as u32, from as *const c_void)
    };
    if failed != 0 {
        // The helper has cleared them, so they look empty.
        pass.given_up += 1;
    }
}

#[inline(always)]
fn next_bucket(pass: &mut Pass) {
    pass.bucket += 1;
    pass.node = 0;
    pass.index = 0;
    pass.judged = 0;
    pass.again = 0;
}

/// The chain has led elsewhere: its bucket is begun again, and what was judged of it is passed over.
#[inline(always)]
fn begin_again(pass: &mut Pass) -> i64 {
    pass.moved += 1;
    forget_place(pass);
    pass.heads_to = 0;
    pass.again += 1;
    if pass.again > AGAIN {
        pass.given_up += 1;
        next_bucket(pass);
    }
    if_time(pass, 4)
}

/// Goes to the next node, or to the next bucket where the chain ends with the mark of this one.
#[inline(always)]
fn go_on(pass: &mut Pass, next: u64, end: u64) {
    if pass.index > CHAIN {
        pass.given_up += 1;
        next_bucket(pass);
    } else if next & 1 == 0 && next != 0 {
        pass.node = next;
    } else if next >> 1 == end {
        next_bucket(pass);
    } else {
        begin_again(pass);
    }
}

/// The namespace of the socket that is judged, among all.
struct Everywhere {
    walk: &'static mut Walk,
    namespace: &'static mut NamespaceWalk,
    read: Probed,
}

/// The namespace of the socket, if it is looked at.
#[inline(always)]
pub(crate) fn namespace_of(
    sk: Sock<Copied>,
    pass: &mut Pass,
) -> Option<&'static mut NamespaceWalk> {
    namespace_at(field!(sk, skc_net: u64), pass)
}

/// The namespace with this `struct net`, if it is looked at.
#[inline(always)]
fn namespace_at(net: u64, pass: &mut Pass) -> Option<&'static mut NamespaceWalk> {
    // Most sockets have the namespace of the one before.
    if net != pass.last_net {
        pass.last_slot = maps::slot_of(net).map_or(u32::MAX, |slot| slot);
        pass.last_net = net;
    }
    maps::namespace(pass.last_slot)
}

impl Everywhere {
    /// In the namespace with this `struct net`, if it is looked at.
    #[inline(always)]
    fn at(net: u64, pass: &mut Pass) -> Option<Self> {
        let namespace = namespace_at(net, pass)?;
        Some(Self { walk: maps::walk()?, namespace, read: Probed { word: &raw mut pass.word } })
    }
}

impl Target for Everywhere {
    type Memory = Copied;
    const NOTES_QUEUES: bool = false;

    #[inline(always)]
    fn walk(&mut self) -> &mut Walk {
        self.walk
    }

    #[inline(always)]
    fn namespace(&mut self) -> &mut NamespaceWalk {
        self.namespace
    }

    #[inline(always)]
    fn is_reserved(&mut self, port: u16) -> bool {
        if self.namespace.reserved_at == 0 {
            return false;
        }
        let ports = word_at(self.read, self.namespace.reserved_at + word(port) as u64 * 8);
        ports & bit(port) != 0
    }

    #[inline(always)]
    fn see_listener(&mut self, port: u16) {
        self.walk.looked_at[word(port)] |= bit(port);
    }

    /// The buckets of ports were walked before, so a socket is looked at only where one is pinned.
    #[inline(always)]
    fn is_pinned(&mut self, port: u16, bucket_is_pinned: impl FnOnce() -> bool) -> (bool, bool) {
        (has_bit(&self.walk.pinned, port) && bucket_is_pinned(), false)
    }

    #[inline(always)]
    fn list_busy(&mut self, destination: &Destination) {
        let Destination { local, peer, peer_port, slot } = *destination;
        let found = &mut self.walk.found;
        begin(&mut found.socket, 0, 0, Tuple { local, peer, local_port: 0, peer_port });
        (found.slot, found.kind) = (slot.into(), Found::BUSY);
        maps::send_found(found);
    }

    #[inline(always)]
    fn copy(&mut self) -> Result<(), BufferFull> {
        let found = &mut self.walk.found;
        (found.slot, found.kind) = (self.namespace.slot.into(), Found::SOCKET);
        maps::send_found(found);
        Ok(())
    }
}
