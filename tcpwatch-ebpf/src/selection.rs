//! The sockets that match a selection, whichever walk they are in.
//!
//! [`listing`](crate::listing) and [`listing_pass`](crate::listing_pass) find the sockets; both are a
//! [`Target`]. All that match are counted, and the first of them are copied up; listeners come first. A
//! listener that is not selected is copied up too where connections wait in its queue, because its
//! process is to accept them.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tcpwatch_common::{
    Address, Listing, Tuple, Walk, listener_flags, listing_only as only, socket_flags as flags,
};

use crate::{
    judge::{
        BufferFull, begin, describe, is_stalled, is_unaccepted, note_queue, wait_began,
        waits_for_peer,
    },
    sock::{SOCK_DEAD, Sock, Sockets, state},
};

/// Where a listing copies to.
pub(crate) trait Target {
    /// How its sockets are read.
    type Memory: Sockets;
    /// Whether the queue of a listener is noted here, as in [`judge`](crate::judge).
    const NOTES_QUEUES: bool;

    /// The listing under way.
    fn listing(&mut self) -> &mut Listing;
    /// The walk under way.
    fn walk(&mut self) -> &mut Walk;
    /// Takes note that the port has a listener.
    fn see_listener(&mut self, port: u16);
    /// Copies up [`Walk::found`].
    fn copy(&mut self) -> Result<(), BufferFull>;
}

/// Copies the socket up if it is selected.
#[inline(always)]
pub(crate) fn visit<T: Target>(sk: Sock<T::Memory>, to: &mut T) -> Result<(), BufferFull> {
    let sk_state = sk.state();
    if T::NOTES_QUEUES && sk_state == state::LISTEN {
        // Here, as in the inventory.
        note_queue(sk, to.walk());
    }
    match sk_state {
        state::TIME_WAIT => visit_minisocket(sk, to),
        state::NEW_SYN_RECV => visit_request(sk, to),
        sk_state => visit_socket(sk, sk_state, to),
    }
}

#[inline(always)]
fn visit_minisocket<T: Target>(sk: Sock<T::Memory>, to: &mut T) -> Result<(), BufferFull> {
    let Some(tw) = sk.time_wait() else { return Ok(()) };
    let tuple = sk.tuple(sk.local_port());
    let is_self = if tuple.is_self() { only::SELF_CONNECTED } else { 0 };
    let listing = to.listing();
    if !is_selected(listing, tw.substate(), tuple) || listing.only & !is_self != 0 {
        return Ok(());
    }
    let Walk { found, scratch, .. } = to.walk();
    let address = sk.address(scratch);
    let record = &mut found.socket;
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
    copy(to)
}

#[inline(always)]
fn visit_request<T: Target>(sk: Sock<T::Memory>, to: &mut T) -> Result<(), BufferFull> {
    let tuple = sk.tuple(sk.local_port());
    let Some(retransmits) = sk.request_retransmits() else { return Ok(()) };
    let unanswered = if retransmits == 0 { 0 } else { only::UNANSWERED };
    let listing = to.listing();
    if !is_selected(listing, state::SYN_RECV, tuple) || listing.only & !unanswered != 0 {
        return Ok(());
    }
    let Walk { found, scratch, .. } = to.walk();
    let address = sk.address(scratch);
    let record = &mut found.socket;
    begin(record, state::SYN_RECV, address, tuple);
    record.flags = flags::ACCEPTED;
    record.retransmits = retransmits;
    record.since_ns = sk.request_began_ns();
    if record.since_ns != 0 {
        record.flags |= flags::SINCE_EXACT;
    }
    copy(to)
}

#[inline(always)]
fn visit_socket<T: Target>(
    sk: Sock<T::Memory>,
    sk_state: u32,
    to: &mut T,
) -> Result<(), BufferFull> {
    let tuple = sk.tuple(sk.local_port());
    let is_listener = sk_state == state::LISTEN;
    if is_listener {
        to.see_listener(tuple.local_port);
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
    let listing = to.listing();
    let selects_pinned = listing.only & only::PINNED != 0;
    if selects_pinned && !is_listener && tcp.0.accept_limit() == 0 && tcp.is_port_pinned() {
        has |= only::PINNED;
    }
    let is_selected = is_selected(listing, sk_state, tuple) && listing.only & !has == 0;
    let port = listing.local_port;
    let has_selected_in_queue =
        is_listener && tcp.0.accept_queue() != 0 && (port == 0 || port == tuple.local_port);
    if !is_selected && !has_selected_in_queue {
        return Ok(());
    }
    let now_ns = to.walk().now_ns;
    let (mut since_ns, mut since_flags) = (0, 0);
    if waits_for_peer(sk_state) {
        let (began_ns, is_exact) = wait_began(tcp, sk_state, now_ns);
        since_ns = began_ns;
        if is_exact {
            since_flags = flags::SINCE_EXACT;
        }
    }
    // All that is shown of a stalled one is of use for any other.
    let seen = (since_ns, since_flags, !is_listener);
    describe(tcp, sk_state, tuple, seen, to.walk());
    let record = &mut to.walk().found.socket;
    record.stalled = u8::from(is_stalled);
    if is_selected {
        return copy(to);
    }
    record.listener |= listener_flags::NOT_SELECTED;
    if to.listing().left == 0 { Ok(()) } else { to.copy() }
}

/// Copies a socket up that matches, as long as any is to be, and counts it.
#[inline(always)]
fn copy<T: Target>(to: &mut T) -> Result<(), BufferFull> {
    if to.listing().left != 0 {
        to.copy()?;
        to.listing().left -= 1;
    }
    to.listing().matched += 1;
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
