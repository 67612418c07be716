//! Ports of outgoing connections, as the walk counts them: taken for a destination, pinned for all, and
//! the sample of the sockets that take scarce ones.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tcpwatch_common::{
    Address, BUSY_DESTINATIONS, DESTINATION_USERS, Destination, DestinationUse, Tuple, Walk,
    port_state, socket_flags as flags,
};

use crate::{
    maps::DESTINATIONS,
    sock::{Sock, TimeWaitSock, state},
};

/// Whether automatic assignment would use the port.
#[inline(always)]
pub(crate) fn in_range(walk: &Walk, port: u16) -> bool {
    port >= walk.port_low
        && port <= walk.port_high
        && walk.reserved_ports[word(port)] & bit(port) == 0
}

/// Whether connect() skips this port for every destination. All sockets of a port share its bind
/// bucket, so that is looked at once: each look is a cache miss, and there may be 100,000 sockets.
#[inline(always)]
pub(crate) fn is_pinned(
    walk: &mut Walk,
    port: u16,
    bucket_is_pinned: impl FnOnce() -> bool,
) -> bool {
    if walk.looked_at[word(port)] & bit(port) == 0 {
        walk.looked_at[word(port)] |= bit(port);
        if bucket_is_pinned() {
            walk.pinned[word(port)] |= bit(port);
            walk.pinned_ports += 1;
        }
    }
    walk.pinned[word(port)] & bit(port) != 0
}

/// Flags of a socket that is copied up because it takes a port where few are left, else 0. It must
/// come late enough in the walk: ports are counted by the way. A healthy host has none.
#[inline(always)]
pub(crate) fn port_user(sk: Sock, sk_state: u32, tuple: Tuple, walk: &mut Walk) -> u8 {
    let many_are_pinned = walk.pinned_ports >= u64::from(walk.busy_at);
    if sk_state == state::LISTEN || !many_are_pinned && walk.busy_count == 0 {
        return 0;
    }
    let Some(tcp) = sk.tcp() else { return 0 };
    // An accepted socket has its listener's port.
    if tcp.0.accept_limit() != 0 || !in_range(walk, tuple.local_port) {
        return 0;
    }
    if tcp.is_port_pinned() {
        if !many_are_pinned || walk.pinned_left == 0 {
            return 0;
        }
        walk.pinned_left -= 1;
        return flags::PORT_USER | flags::PINNED;
    }
    if walk.users_left == 0 {
        return 0;
    }
    let destination = Destination {
        local: tuple.local,
        peer: tuple.peer,
        peer_port: tuple.peer_port,
        reserved: 0,
    };
    let Some(entry) = DESTINATIONS.get_ptr_mut(&destination) else { return 0 };
    // SAFETY: an entry of the map, which only this walker writes.
    let entry = unsafe { &mut *entry };
    if entry.generation != walk.generation || entry.listed == 0 || entry.listed > DESTINATION_USERS
    {
        return 0;
    }
    entry.listed += 1;
    walk.users_left -= 1;
    flags::PORT_USER
}

/// Counts a port as taken for its destination.
#[inline(always)]
pub(crate) fn use_port(
    walk: &mut Walk,
    sk_state: u32,
    local: Address,
    peer: Address,
    peer_port: u16,
) {
    let destination = Destination { local, peer, peer_port, reserved: 0 };
    if DESTINATIONS.get_ptr_mut(&destination).is_none() {
        // An LRU map makes place; what it drops was rare in this walk.
        let _ = DESTINATIONS.insert(&destination, DestinationUse::ZERO, 0);
    }
    let Some(entry) = DESTINATIONS.get_ptr_mut(&destination) else { return };
    // SAFETY: an entry of the map, which only this walker writes.
    let entry = unsafe { &mut *entry };
    if entry.generation != walk.generation {
        *entry = DestinationUse { generation: walk.generation, ..DestinationUse::ZERO };
    }
    entry.used = entry.used.saturating_add(1);
    entry.states[port_state(sk_state)] += 1;
    walk.destinations += u64::from(entry.used == 1);
    if u32::from(entry.used) > walk.worst_used {
        walk.worst_used = entry.used.into();
        walk.worst = destination;
    }
    // Most of what is pinned is known by now, because listeners come first.
    if entry.listed == 0 && u64::from(entry.used) + walk.pinned_ports >= u64::from(walk.busy_at) {
        entry.listed = 1;
        if let Some(place) = walk.busy.get_mut(walk.busy_count as usize & (BUSY_DESTINATIONS - 1))
            && walk.busy_count < BUSY_DESTINATIONS as u32
        {
            *place = destination;
        }
        walk.busy_count += 1;
    }
}

/// Whether connect() may take the port of this minisocket over (`tcp_twsk_unique`,
/// net/ipv4/tcp_ipv4.c): with `tcp_tw_reuse` 1, or with 2 and a loopback address at either end,
/// if both sides use timestamps and the delay has passed.
#[inline(always)]
pub(crate) fn may_be_reused(
    tw: &TimeWaitSock,
    walk: &Walk,
    local: &Address,
    peer: &Address,
) -> bool {
    let allowed =
        walk.tw_reuse == 1 || (walk.tw_reuse == 2 && (is_loopback(local) || is_loopback(peer)));
    let seen_s = tw.timestamp_seen();
    if !allowed || seen_s == 0 || tw.substate() != state::TIME_WAIT {
        return false;
    }
    // SAFETY: no arguments, no effects.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    match tw.entered_ms() {
        Some(entered_ms) => {
            let until_ms = entered_ms.wrapping_add(walk.tw_reuse_delay_ms);
            ((now_ns / 1_000_000) as u32).wrapping_sub(until_ms) as i32 > 0
        }
        // Before 6.14 the delay was that of a clock of seconds.
        None => ((now_ns / 1_000_000_000) as u32).wrapping_sub(seen_s) as i32 > 0,
    }
}

/// Whether the sockets of this port are requested, and one more may be copied up.
#[inline(always)]
pub(crate) fn is_requested(walk: &Walk, port: u16) -> bool {
    walk.requested_left != 0 && walk.requested_ports[word(port)] & bit(port) != 0
}

#[inline(always)]
fn is_loopback(address: &Address) -> bool {
    const LAST_WORD_ONE: u32 = 1_u32.to_be();
    const MAPPED: u32 = 0xffff_u32.to_be();
    let [first, second, third, last] = address.words;
    first == 0
        && second == 0
        && ((third == 0 && last == LAST_WORD_ONE)
            || (third == MAPPED && u32::from_be(last) >> 24 == 127))
}

#[inline(always)]
fn word(port: u16) -> usize {
    port as usize / 64
}

#[inline(always)]
fn bit(port: u16) -> u64 {
    1 << (port % 64)
}
