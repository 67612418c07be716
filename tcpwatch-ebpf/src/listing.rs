//! `iter/tcp`: the sockets of a network namespace that match a selection.
//!
//! As [`inventory`](crate::inventory), with which it shares how a socket is described. It runs only
//! when a person or a script requests the sockets behind a finding or in a state. It counts all
//! that match and copies up the first of them; the kernel shows listeners first. A listener that
//! is not selected is copied up too where connections wait in its queue, because its process is to
//! accept them.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_ipv4.c#L2990>

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tcpwatch_common::{
    Address, Listing, PORT_WORDS, SocketRecord, Tuple, Walk, listener_flags, listing_only as only,
    socket_flags as flags,
};

use crate::{
    inventory::{IterContext, write},
    judge::{
        BufferFull, begin, describe, is_stalled, is_unaccepted, note_queue, wait_began,
        waits_for_peer,
    },
    maps,
    sock::{SOCK_DEAD, Sock, state},
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn listing(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes a `bpf_iter__tcp`.
    let (meta, sk) = unsafe { ((*ctx).meta, (*ctx).sk_common) };
    if let (Some(sk), Some(listing), Some(walk)) = (Sock::new(sk), maps::listing(), maps::walk()) {
        // SAFETY: `meta` is never NULL.
        let seq = unsafe { (*meta).seq };
        // A full buffer is the kernel's business: it calls again.
        let _ = visit(sk, listing, walk, seq);
    }
    0
}

#[inline(always)]
fn visit(
    sk: Sock,
    listing: &mut Listing,
    walk: &mut Walk,
    seq: *mut c_void,
) -> Result<(), BufferFull> {
    let sk_state = sk.state();
    if sk_state == state::LISTEN {
        // Here, as in the inventory.
        note_queue(sk, walk);
    }
    match sk_state {
        state::TIME_WAIT => visit_minisocket(sk, listing, walk, seq),
        state::NEW_SYN_RECV => visit_request(sk, listing, walk, seq),
        sk_state => visit_socket(sk, sk_state, listing, walk, seq),
    }
}

#[inline(always)]
fn visit_minisocket(
    sk: Sock,
    listing: &mut Listing,
    walk: &mut Walk,
    seq: *mut c_void,
) -> Result<(), BufferFull> {
    let Some(tw) = sk.time_wait() else { return Ok(()) };
    let tuple = sk.tuple(sk.local_port());
    let is_self = if tuple.is_self() { only::SELF_CONNECTED } else { 0 };
    if !is_selected(listing, tw.substate(), tuple) || listing.only & !is_self != 0 {
        return Ok(());
    }
    let address = sk.address(&mut walk.scratch);
    let record = &mut walk.found.socket;
    begin(record, tw.substate(), address, tuple);
    record.flags = flags::MINISOCKET;
    if tw.substate() == state::TIME_WAIT
        && let Some(entered_ms) = tw.entered_ms()
    {
        // SAFETY: no arguments, no effects.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        let age_ms = ((now_ns / 1_000_000) as u32).wrapping_sub(entered_ms);
        record.since_ns = now_ns.wrapping_sub(u64::from(age_ms) * 1_000_000);
        record.flags |= flags::SINCE_EXACT;
    }
    copy(record, listing, seq)
}

#[inline(always)]
fn visit_request(
    sk: Sock,
    listing: &mut Listing,
    walk: &mut Walk,
    seq: *mut c_void,
) -> Result<(), BufferFull> {
    let tuple = sk.tuple(sk.local_port());
    let Some(retransmits) = sk.request_retransmits() else { return Ok(()) };
    let unanswered = if retransmits == 0 { 0 } else { only::UNANSWERED };
    if !is_selected(listing, state::SYN_RECV, tuple) || listing.only & !unanswered != 0 {
        return Ok(());
    }
    let address = sk.address(&mut walk.scratch);
    let record = &mut walk.found.socket;
    begin(record, state::SYN_RECV, address, tuple);
    record.flags = flags::ACCEPTED;
    record.retransmits = retransmits;
    record.since_ns = sk.request_began_ns();
    if record.since_ns != 0 {
        record.flags |= flags::SINCE_EXACT;
    }
    copy(record, listing, seq)
}

#[inline(always)]
fn visit_socket(
    sk: Sock,
    sk_state: u32,
    listing: &mut Listing,
    walk: &mut Walk,
    seq: *mut c_void,
) -> Result<(), BufferFull> {
    let tuple = sk.tuple(sk.local_port());
    let is_listener = sk_state == state::LISTEN;
    if is_listener {
        let port = tuple.local_port;
        listing.listening[usize::from(port / 64) & (PORT_WORDS - 1)] |= 1 << (port % 64);
    }
    let Some(tcp) = sk.tcp() else { return Ok(()) };
    let is_stalled = is_stalled(sk, sk_state);
    let mut has = 0;
    if is_stalled {
        has |= only::STALLED;
    }
    if tuple.is_self() {
        has |= only::SELF_CONNECTED;
    }
    if is_unaccepted(sk, sk_state) {
        has |= only::UNACCEPTED;
    }
    if !is_listener && tcp.0.flags() & SOCK_DEAD != 0 {
        has |= only::ORPHAN;
    }
    let asks_for_pinned = listing.only & only::PINNED != 0;
    if asks_for_pinned && !is_listener && tcp.0.accept_limit() == 0 && tcp.is_port_pinned() {
        has |= only::PINNED;
    }
    let is_selected = is_selected(listing, sk_state, tuple) && listing.only & !has == 0;
    let port = listing.local_port;
    let has_selected_in_queue =
        is_listener && tcp.0.accept_queue() != 0 && (port == 0 || port == tuple.local_port);
    if !is_selected && !has_selected_in_queue {
        return Ok(());
    }
    let (mut since_ns, mut since_flags) = (0, 0);
    if waits_for_peer(sk_state) {
        let (began_ns, is_exact) = wait_began(tcp, sk_state, walk.now_ns);
        since_ns = began_ns;
        if is_exact {
            since_flags = flags::SINCE_EXACT;
        }
    }
    // All that is shown of a stalled one is of use for any other.
    let seen = (since_ns, since_flags, !is_listener);
    describe(tcp, sk_state, tuple, seen, walk);
    let record = &mut walk.found.socket;
    record.stalled = u8::from(is_stalled);
    if is_selected {
        return copy(record, listing, seq);
    }
    record.listener |= listener_flags::NOT_SELECTED;
    if listing.left == 0 { Ok(()) } else { write(seq, record) }
}

/// Copies a socket up that matches, as long as any is to be, and counts it.
#[inline(always)]
fn copy(record: &SocketRecord, listing: &mut Listing, seq: *mut c_void) -> Result<(), BufferFull> {
    if listing.left != 0 {
        write(seq, record)?;
        listing.left -= 1;
    }
    listing.matched += 1;
    Ok(())
}

#[inline(always)]
fn is_selected(listing: &Listing, sk_state: u32, tuple: Tuple) -> bool {
    let is = |selected: u16, port: u16| selected == 0 || selected == port;
    listing.states & (1 << (sk_state & 31)) != 0
        && is(listing.local_port, tuple.local_port)
        && is(listing.peer_port, tuple.peer_port)
        && (is(listing.port, tuple.local_port) || listing.port == tuple.peer_port)
        && is_any_or(&listing.local, &tuple.local)
        && is_any_or(&listing.peer, &tuple.peer)
}

#[inline(always)]
fn is_any_or(selected: &Address, address: &Address) -> bool {
    let [first, second, third, fourth] = selected.words;
    first | second | third | fourth == 0 || selected.words == address.words
}
