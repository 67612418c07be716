//! `iter/tcp`: a walk over the TCP sockets of the network namespace of the process that opened it.
//!
//! Since 5.9. Shows full sockets (with the socket lock held, 5.15 and later), minisockets in
//! TIME_WAIT or orphaned in FIN_WAIT2, and half-open requests; listeners first. Runs in the
//! reader's context; `sk_common` is NULL once, at the end.
//!
//! The walk counts states, ports and destinations in the kernel. It copies up only sockets in
//! CLOSE_WAIT, in LISTEN, connected to themselves, waiting for their peer or on requested ports,
//! and a sample of the sockets that take scarce ports. When the buffer is full the kernel shows the
//! same socket again on the next read. So the copy comes first, and nothing is counted unless it
//! succeeded.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_ipv4.c#L2990>

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_seq_write};
use tcpwatch_common::{
    Address, QueueOf, RequestUse, SOURCE_WORDS, STATES, SocketRecord, Tuple, Walk, listener_flags,
    socket_flags as flags,
};

use crate::{
    maps::{QUEUES, REQUESTS, walk},
    notes,
    ports::{in_range, is_pinned, is_requested, may_be_reused, port_user, use_port},
    sock::{SOCK_DEAD, Sock, TimeWaitSock, state, state_at},
    tcp_sock::TcpSock,
};

/// `struct bpf_iter__tcp`, a stable context: each member is 8 bytes.
#[repr(C)]
pub(crate) struct IterContext {
    pub(crate) meta: *const IterMeta,
    pub(crate) sk_common: *const c_void,
}

/// `struct bpf_iter_meta`.
#[repr(C)]
pub(crate) struct IterMeta {
    pub(crate) seq: *mut c_void,
}

/// The program must be retried for this socket: the buffer is full.
pub(crate) struct BufferFull;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn inventory(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes a `bpf_iter__tcp`.
    let (meta, sk) = unsafe { ((*ctx).meta, (*ctx).sk_common) };
    if let (Some(sk), Some(walk)) = (Sock::new(sk), walk()) {
        // SAFETY: `meta` is never NULL.
        let seq = unsafe { (*meta).seq };
        // A full buffer is the kernel's business: it calls again.
        let _ = visit(sk, walk, seq);
    }
    0
}

#[inline(always)]
fn visit(sk: Sock, walk: &mut Walk, seq: *mut c_void) -> Result<(), BufferFull> {
    let sk_state = sk.state();
    if sk_state == state::LISTEN {
        // Here, where the verifier has few states that the loop would multiply.
        note_queue(sk, walk);
    }
    match sk_state {
        state::TIME_WAIT => {
            if let Some(tw) = sk.time_wait() {
                visit_time_wait(sk, &tw, walk, seq)?;
            }
        }
        state::NEW_SYN_RECV => visit_request(sk, walk),
        sk_state => visit_socket(sk, sk_state, walk, seq)?,
    }
    Ok(())
}

/// A half-open request. Its port is its listener's, so it takes none. One whose SYN-ACK had to be
/// sent again is counted for that port: a handshake that goes well never gets there.
#[inline(always)]
fn visit_request(sk: Sock, walk: &mut Walk) {
    walk.states[state::SYN_RECV as usize] += 1;
    if sk.request_retransmits().is_none_or(|count| count == 0) {
        return;
    }
    let port = u32::from(sk.local_port());
    if REQUESTS.get_ptr_mut(&port).is_none() {
        // A full LRU map evicts an old entry.
        let _ = REQUESTS.insert(&port, RequestUse::ZERO, 0);
    }
    let Some(entry) = REQUESTS.get_ptr_mut(&port) else { return };
    // SAFETY: an entry of the map, which only this walker writes.
    let entry = unsafe { &mut *entry };
    if entry.generation != walk.generation {
        *entry = RequestUse { generation: walk.generation, ..RequestUse::ZERO };
    }
    entry.unanswered += 1;
    let hash = hash(&sk.addresses().1);
    entry.sources[(hash >> 6) as usize & (SOURCE_WORDS - 1)] |= 1 << (hash & 63);
}

/// Ten good bits of an address: splitmix64's finaliser, because neighbouring addresses must not be
/// spread more evenly than chance would, on which the estimate rests.
#[inline(always)]
fn hash(address: &Address) -> u64 {
    let [first, second, third, fourth] = address.words;
    let high = u64::from(first) << 32 | u64::from(second);
    let low = u64::from(third) << 32 | u64::from(fourth);
    let mut hash = high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low;
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)) >> 54
}

#[inline(always)]
fn visit_time_wait(
    sk: Sock,
    tw: &TimeWaitSock,
    walk: &mut Walk,
    seq: *mut c_void,
) -> Result<(), BufferFull> {
    if is_requested(walk, sk.local_port()) {
        let address = sk.address(&mut walk.scratch);
        let tuple = sk.tuple(sk.local_port());
        let mut record = record_of(tw.substate(), address, tuple);
        record.flags = flags::MINISOCKET;
        write(seq, &record)?;
        walk.requested_left -= 1;
    }
    walk.time_wait_buckets += 1;
    walk.states[tw.substate() as usize & (STATES - 1)] += 1;
    let port = sk.local_port();
    if !in_range(walk, port) {
        return Ok(());
    }
    let pinned_before = walk.pinned_ports;
    if is_pinned(walk, port, || tw.is_port_pinned()) {
        // Listeners come first, and then full sockets or minisockets in no order: a port that both
        // hold may count here.
        walk.pinned_minisockets += walk.pinned_ports - pinned_before;
        return Ok(());
    }
    let (local, peer) = sk.addresses();
    if !may_be_reused(tw, walk, &local, &peer) {
        use_port(walk, tw.substate(), local, peer, sk.peer_port());
    }
    Ok(())
}

#[inline(always)]
fn visit_socket(
    sk: Sock,
    sk_state: u32,
    walk: &mut Walk,
    seq: *mut c_void,
) -> Result<(), BufferFull> {
    let tuple = sk.tuple(sk.local_port());
    // A connection in an accept queue does not show the process that holds the port, and there
    // may be many.
    let is_requested = is_requested(walk, tuple.local_port) && !is_unaccepted(sk, sk_state);
    let waits_since_ns = if waits_for_peer(sk_state) { waits_since(sk, sk_state, walk) } else { 0 };
    let is_stalled = is_stalled(sk, sk_state);
    let user_flags = port_user(sk, sk_state, tuple, walk);
    if is_stalled
        || sk_state == state::CLOSE_WAIT
        || sk_state == state::LISTEN
        || waits_since_ns != 0
        || is_requested
        || user_flags != 0
        || tuple.is_self()
    {
        copy_socket(sk, sk_state, tuple, (waits_since_ns, user_flags, is_stalled), walk, seq)?;
        walk.requested_left -= u64::from(is_requested);
    }
    walk.states[sk_state as usize & (STATES - 1)] += 1;
    if in_range(walk, tuple.local_port) {
        let pinned_before = walk.pinned_ports;
        let bucket_is_pinned =
            || sk_state == state::LISTEN || sk.tcp().is_some_and(TcpSock::is_port_pinned);
        if !is_pinned(walk, tuple.local_port, bucket_is_pinned) {
            use_port(walk, sk_state, tuple.local, tuple.peer, tuple.peer_port);
        } else if walk.pinned_ports != pinned_before
            && sk_state != state::LISTEN
            && sk.tcp().is_some_and(|tcp| tcp.0.accept_limit() == 0)
        {
            // Listeners come first, so the port has no listener and the socket was not accepted.
            walk.bound_ports += 1;
        }
    }
    Ok(())
}

/// Copies a socket up with what the agent needs to judge it.
#[inline(always)]
fn copy_socket(
    sk: Sock,
    sk_state: u32,
    tuple: Tuple,
    seen: (u64, u8, bool),
    walk: &mut Walk,
    seq: *mut c_void,
) -> Result<(), BufferFull> {
    let Some(tcp) = sk.tcp() else { return Ok(()) };
    write(seq, &describe(tcp, sk_state, tuple, seen, walk))
}

/// A full socket: since when it waits, its flags as a user of ports, and whether it is stalled are
/// known already.
#[inline(always)]
pub(crate) fn describe(
    tcp: TcpSock,
    sk_state: u32,
    tuple: Tuple,
    (since_ns, user_flags, is_stalled): (u64, u8, bool),
    walk: &mut Walk,
) -> SocketRecord {
    let address = tcp.0.address(&mut walk.scratch);
    let mut record = record_of(sk_state, address, tuple);
    record.flags = user_flags;
    record.inode = tcp.0.inode();
    record.since_ns = since_ns;
    if sk_state == state::LISTEN {
        record.accept_queue = tcp.0.accept_queue();
        record.accept_limit = tcp.0.accept_limit();
        record.half_open = tcp.half_open();
        record.drops = tcp.0.drops();
        record.listener = listener_flags_of(tcp, &mut walk.scratch);
        if record.accept_queue != 0 {
            record.queue = tcp.first_in_queue(&mut walk.scratch).socket(address);
        }
    } else {
        if tcp.0.accept_limit() != 0 {
            record.flags |= flags::ACCEPTED;
        }
        if tcp.0.flags() & SOCK_DEAD != 0 {
            record.flags |= flags::ORPHAN;
        } else if !tcp.0.has_socket() {
            record.flags |= flags::UNACCEPTED;
            record.queue = queue_of(address, walk);
        }
        record.recv_queue = tcp.receive_queue();
        if TcpSock::has_progress() {
            record.flags |= flags::PROGRESS;
            (record.bytes_acked, record.bytes_sent, record.bytes_received) = tcp.carried();
            record.delivered_ns = tcp.delivered_ns();
            record.unacked = tcp.unacknowledged();
        }
    }
    if is_stalled {
        record.stalled = 1;
        (record.retransmits, record.backoff, record.probes) = tcp.timer_counts();
        record.last_segment_ns = tcp.last_segment_ns();
        record.peer_window = tcp.peer_window();
        record.user_timeout_ms = tcp.user_timeout_ms();
        record.segments_out = tcp.segments_out();
        record.unacked = tcp.unacknowledged();
    }
    if sk_state == state::CLOSE_WAIT {
        let (since_ns, exact) = close_wait_since(address, tcp.last_segment_ns());
        record.since_ns = since_ns;
        if exact {
            record.flags |= flags::SINCE_EXACT;
        }
    }
    record
}

/// How a listener came by its port, and whether any thread waits for connections.
#[inline(always)]
fn listener_flags_of(tcp: TcpSock, scratch: &mut u64) -> u8 {
    let port = match tcp.0.is_port_named() {
        Some(true) => listener_flags::PORT_NAMED,
        Some(false) => listener_flags::PORT_PICKED,
        None => 0,
    };
    let awaited = match tcp.0.is_awaited(scratch) {
        Some(true) => listener_flags::AWAITED,
        Some(false) => listener_flags::NOT_AWAITED,
        None => 0,
    };
    port | awaited
}

/// Connections that are looked at in one accept queue: each takes four reads, and the verifier runs
/// through every one: 256 make it some 50,000 instructions, a twentieth of what it takes. Of a longer
/// queue the agent knows the length.
const QUEUE_LOOK: u32 = 256;

/// Notes the queue of each connection that its peer has closed. With SO_REUSEPORT several listeners
/// share a port, and nothing in such a socket shows which one it waits for. Listeners come first,
/// so a queue is known before the walk meets what is in it.
#[inline(always)]
pub(crate) fn note_queue(sk: Sock, walk: &mut Walk) {
    let Some(tcp) = sk.tcp() else { return };
    if tcp.0.accept_queue() == 0 {
        return;
    }
    let listener = sk.address(&mut walk.scratch);
    let mut request = tcp.first_in_queue(&mut walk.scratch);
    let queue = QueueOf { listener, generation: walk.generation, reserved: 0 };
    let mut looked_at = 0;
    while looked_at < QUEUE_LOOK {
        let sk = request.socket(listener);
        if sk == 0 {
            return;
        }
        if state_at(sk) == state::CLOSE_WAIT {
            // A full LRU map evicts an old entry.
            let _ = QUEUES.insert(&sk, &queue, 0);
        }
        request = request.next();
        looked_at += 1;
    }
}

/// The listener in whose queue this connection waits, 0 where none was noted.
#[inline(always)]
fn queue_of(sk: u64, walk: &Walk) -> u64 {
    // SAFETY: only this walker writes the map.
    match unsafe { QUEUES.get(&sk) } {
        Some(queue) if queue.generation == walk.generation => queue.listener,
        _ => 0,
    }
}

/// A record of which nothing else is known yet.
#[inline(always)]
pub(crate) fn record_of(sk_state: u32, sk: u64, tuple: Tuple) -> SocketRecord {
    SocketRecord {
        state: sk_state as u8,
        flags: 0,
        listener: 0,
        reserved: 0,
        recv_queue: 0,
        sk,
        inode: 0,
        queue: 0,
        since_ns: 0,
        tuple,
        accept_queue: 0,
        accept_limit: 0,
        half_open: 0,
        drops: 0,
        unacked: 0,
        bytes_acked: 0,
        bytes_sent: 0,
        bytes_received: 0,
        delivered_ns: 0,
        last_segment_ns: 0,
        peer_window: 0,
        user_timeout_ms: 0,
        segments_out: 0,
        stalled: 0,
        retransmits: 0,
        backoff: 0,
        probes: 0,
    }
}

/// Whether no process has accepted it yet.
#[inline(always)]
pub(crate) fn is_unaccepted(sk: Sock, sk_state: u32) -> bool {
    sk_state != state::LISTEN
        && sk.tcp().is_some_and(|tcp| !tcp.0.has_socket() && tcp.0.flags() & SOCK_DEAD == 0)
}

/// Whether only the peer, or a timer, can bring a socket in this state further.
#[inline(always)]
pub(crate) fn waits_for_peer(sk_state: u32) -> bool {
    matches!(sk_state, state::SYN_SENT | state::FIN_WAIT2 | state::LAST_ACK | state::CLOSING)
}

/// Whether the timer has sent something again, or probed a closed window, and nothing of it is
/// acknowledged. The counts go back to 0 with the first acknowledgement of data, but while the window
/// is zero `icsk_backoff` stays, whatever the peer answers. Two, because one retransmission is an
/// ordinary loss.
#[inline(always)]
pub(crate) fn is_stalled(sk: Sock, sk_state: u32) -> bool {
    const REPEATED: u8 = 2;
    let may_send = matches!(
        sk_state,
        state::ESTABLISHED | state::CLOSE_WAIT | state::FIN_WAIT1 | state::LAST_ACK
    );
    if !may_send {
        return false;
    }
    let Some(tcp) = sk.tcp() else { return false };
    let (retransmits, backoff, probes) = tcp.timer_counts();
    (retransmits >= REPEATED || backoff >= REPEATED || probes >= REPEATED)
        && tcp.unacknowledged() != 0
}

/// Since when such a socket has been waiting, 0 where it is less than a second: on a healthy host
/// hardly any waits longer.
#[inline(always)]
fn waits_since(sk: Sock, sk_state: u32, walk: &Walk) -> u64 {
    const SECOND_NS: u64 = 1_000_000_000;
    let Some(tcp) = sk.tcp() else { return 0 };
    let (since_ns, _) = wait_began(tcp, sk_state, walk.now_ns);
    if since_ns + SECOND_NS <= walk.now_ns { since_ns } else { 0 }
}

/// When the wait for the peer began, and whether that is exact. In SYN_SENT it is the time of the
/// first SYN. In the other states the last segment, sent or received, is the latest possible time.
#[inline(always)]
pub(crate) fn wait_began(tcp: TcpSock, sk_state: u32, now_ns: u64) -> (u64, bool) {
    /// No SYN_SENT lasts that long: `tcp_usec_ts` (6.7 and later) makes the stamp microseconds.
    const IMPLAUSIBLE_MS: u32 = 3_600_000;
    if sk_state == state::SYN_SENT {
        let age_ms = ((now_ns / 1_000_000) as u32).wrapping_sub(tcp.first_syn_ms());
        if age_ms < IMPLAUSIBLE_MS {
            return (now_ns - u64::from(age_ms) * 1_000_000, true);
        }
    }
    (tcp.last_segment_ns(), false)
}

/// When the socket entered CLOSE_WAIT. A socket older than the programs, or without a note, has
/// been there at least since its last segment: the FIN, or a later one such as a keep-alive.
/// The first walk that meets it notes that time, so that a keep-alive never makes it younger.
#[inline(always)]
fn close_wait_since(sk: u64, last_segment_ns: u64) -> (u64, bool) {
    if let Some(noted) = notes::close_wait(sk) {
        return noted;
    }
    // SAFETY: no arguments, no effects.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let since_ns = if last_segment_ns < now_ns { last_segment_ns } else { now_ns };
    // Where the table is full the agent remembers it, for the sockets that it describes.
    let _ = notes::put_close_wait(sk, since_ns, false);
    (since_ns, false)
}

/// Appends a record to what the reader of the walk gets.
#[inline(always)]
pub(crate) fn write(seq: *mut c_void, record: &SocketRecord) -> Result<(), BufferFull> {
    let bytes = core::ptr::from_ref(record).cast_mut().cast();
    // SAFETY: `record` is readable for its size.
    let written = unsafe { bpf_seq_write(seq.cast(), bytes, size_of::<SocketRecord>() as u32) };
    if written == 0 { Ok(()) } else { Err(BufferFull) }
}
