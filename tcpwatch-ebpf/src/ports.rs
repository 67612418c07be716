//! Ports of outgoing connections, as the walk counts them: taken for a destination, pinned for all, and
//! the sample of the sockets that take scarce ones.

use tcpwatch_common::{
    Address, DESTINATION_USERS, Destination, DestinationUse, NamespaceWalk, PORT_WORDS, Tuple,
    port_state, socket_flags as flags,
};

use crate::{
    judge::Target,
    maps::DESTINATIONS,
    memory::Memory,
    sock::{Sock, TimeWaitSock, state},
};

/// Whether automatic assignment would use the port.
#[inline(always)]
pub(crate) fn in_range<T: Target>(to: &mut T, port: u16) -> bool {
    let namespace = to.namespace();
    port >= namespace.port_low && port <= namespace.port_high && !to.is_reserved(port)
}

/// Flags of a socket that is copied up because it takes a port where few are left, else 0. It must
/// come late enough in the walk: ports are counted by the way. A healthy host has none.
#[inline(always)]
pub(crate) fn port_user<T: Target>(
    sk: Sock<T::Memory>,
    sk_state: u32,
    tuple: &Tuple,
    to: &mut T,
) -> u8 {
    let namespace = to.namespace();
    let many_are_pinned = namespace.pinned_ports >= namespace.busy_at;
    if sk_state == state::LISTEN || !many_are_pinned && namespace.busy_count == 0 {
        return 0;
    }
    let Some(tcp) = sk.tcp() else { return 0 };
    // An accepted socket has its listener's port.
    if tcp.0.accept_limit() != 0 || !in_range(to, tuple.local_port) {
        return 0;
    }
    let namespace = to.namespace();
    if tcp.is_port_pinned() {
        if !many_are_pinned || namespace.pinned_left == 0 {
            return 0;
        }
        namespace.pinned_left -= 1;
        return flags::PORT_USER | flags::PINNED;
    }
    if namespace.users_left == 0 {
        return 0;
    }
    let destination = Destination {
        local: tuple.local,
        peer: tuple.peer,
        peer_port: tuple.peer_port,
        slot: namespace.slot,
    };
    let Some(entry) = DESTINATIONS.get_ptr_mut(&destination) else { return 0 };
    // SAFETY: an entry of the map, which only this walker writes.
    let entry = unsafe { &mut *entry };
    if entry.generation != to.walk().generation
        || entry.listed == 0
        || entry.listed > DESTINATION_USERS
    {
        return 0;
    }
    entry.listed += 1;
    to.namespace().users_left -= 1;
    flags::PORT_USER
}

/// Counts a port as taken for its destination.
#[inline(always)]
pub(crate) fn use_port<T: Target>(
    to: &mut T,
    sk_state: u32,
    local: Address,
    peer: Address,
    peer_port: u16,
) {
    let destination = Destination { local, peer, peer_port, slot: to.namespace().slot };
    if DESTINATIONS.get_ptr_mut(&destination).is_none() {
        // An LRU map makes place; what it drops was rare in this walk.
        let _ = DESTINATIONS.insert(&destination, DestinationUse::ZERO, 0);
    }
    let Some(entry) = DESTINATIONS.get_ptr_mut(&destination) else { return };
    // SAFETY: an entry of the map, which only this walker writes.
    let entry = unsafe { &mut *entry };
    let generation = to.walk().generation;
    if entry.generation != generation {
        *entry = DestinationUse { generation, ..DestinationUse::ZERO };
    }
    entry.used = entry.used.saturating_add(1);
    entry.states[port_state(sk_state)] += 1;
    let used = u32::from(entry.used);
    let namespace = to.namespace();
    namespace.destinations += u32::from(used == 1);
    if used > namespace.worst_used {
        namespace.worst_used = used;
        namespace.worst = destination;
    }
    // Most of what is pinned is known by now, because listeners come first.
    if entry.listed == 0 && used + namespace.pinned_ports >= namespace.busy_at {
        entry.listed = 1;
        to.list_busy(&destination);
        to.namespace().busy_count += 1;
    }
}

/// Whether connect() may take the port of this minisocket over (`tcp_twsk_unique`,
/// net/ipv4/tcp_ipv4.c): with `tcp_tw_reuse` 1, or with 2 and a loopback address at either end,
/// if both sides use timestamps and the delay had passed when the walk began.
#[inline(always)]
pub(crate) fn may_be_reused<M: Memory>(
    tw: &TimeWaitSock<M>,
    substate: u32,
    (namespace, now_ns): (&NamespaceWalk, u64),
    local: &Address,
    peer: &Address,
) -> bool {
    let allowed = namespace.tw_reuse == 1
        || (namespace.tw_reuse == 2 && (is_loopback(local) || is_loopback(peer)));
    if !allowed || substate != state::TIME_WAIT {
        return false;
    }
    let seen_s = tw.timestamp_seen();
    if seen_s == 0 {
        return false;
    }
    match tw.entered_ms() {
        Some(entered_ms) => {
            let until_ms = entered_ms.wrapping_add(namespace.tw_reuse_delay_ms);
            ((now_ns / 1_000_000) as u32).wrapping_sub(until_ms) as i32 > 0
        }
        // Before 6.14 the delay was that of a clock of seconds.
        None => ((now_ns / 1_000_000_000) as u32).wrapping_sub(seen_s) as i32 > 0,
    }
}

/// Whether the sockets of this port are requested, and one more may be copied up.
#[inline(always)]
pub(crate) fn is_requested<T: Target>(to: &mut T, port: u16) -> bool {
    to.namespace().requested_left != 0 && has_bit(&to.walk().requested_ports, port)
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

/// Whether the port is in a set of ports.
#[inline(always)]
pub(crate) fn has_bit(ports: &[u64; PORT_WORDS], port: u16) -> bool {
    ports[word(port)] & bit(port) != 0
}

/// The word of a port in a set of ports.
#[inline(always)]
pub(crate) fn word(port: u16) -> usize {
    port as usize / 64
}

/// The bit of a port in its word.
#[inline(always)]
pub(crate) fn bit(port: u16) -> u64 {
    1 << (port % 64)
}
