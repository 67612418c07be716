//! The judgement of a socket, whichever walk it is in: it counts its state, its port and its
//! destination in the kernel, and copies up what the agent judges.
//!
//! [`inventory`](crate::inventory) and [`one_pass`](crate::one_pass) find the sockets; both are a
//! [`Target`]. Copied up are only sockets in CLOSE_WAIT, in LISTEN, connected to themselves, waiting
//! for their peer or on requested ports, and a sample of the sockets that take scarce ports. A copy may
//! fail, and then the socket is shown again. So the copy comes first, and nothing is counted unless it
//! succeeded.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tcpwatch_common::{
    Address, Destination, NamespaceWalk, QueueOf, RequestUse, SOURCE_WORDS, STATES, SocketRecord,
    Tuple, Walk, listener_flags, request_key, socket_flags as flags,
};

use crate::{
    accept_queue::{Request, RequestFields, state_at},
    branchless::is_not_zero,
    maps::{self, QUEUES, REQUESTS},
    notes,
    ports::{in_range, is_requested, may_be_reused, port_user, use_port},
    sock::{SOCK_DEAD, Sock, Sockets, TimeWaitSock, state},
    tcp_sock::TcpSock,
};

/// First content of a new entry of `REQUESTS`: it would take a third of the program's own stack.
#[unsafe(no_mangle)]
static NO_REQUEST: RequestUse = RequestUse::ZERO;

/// The record was not copied up: the walk must show this socket again.
pub(crate) struct BufferFull;

/// Where a walk counts and copies to.
pub(crate) trait Target {
    /// How its sockets are read.
    type Memory: Sockets;
    /// Whether the judge notes the queue of a listener. The one pass does so in steps of its own, for
    /// the verifier runs through every turn of a loop.
    const NOTES_QUEUES: bool;

    /// The walk under way.
    fn walk(&mut self) -> &mut Walk;
    /// The namespace of the socket that is judged.
    fn namespace(&mut self) -> &mut NamespaceWalk;
    /// Whether the namespace reserves the port.
    fn is_reserved(&mut self, port: u16) -> bool;
    /// Takes note that the port has a listener.
    fn see_listener(&mut self, port: u16);
    /// Whether connect() skips this port for every destination, which the bucket of the port says, and
    /// whether that was not known before.
    fn is_pinned(&mut self, port: u16, bucket_is_pinned: impl FnOnce() -> bool) -> (bool, bool);
    /// Lists a destination that has become busy.
    fn list_busy(&mut self, destination: &Destination);
    /// Copies up [`Walk::found`].
    fn copy(&mut self) -> Result<(), BufferFull>;
}

/// Judges a socket.
#[inline(always)]
pub(crate) fn visit<T: Target>(sk: Sock<T::Memory>, to: &mut T) -> Result<(), BufferFull> {
    let sk_state = sk.state();
    if T::NOTES_QUEUES && sk_state == state::LISTEN {
        // Here, where the verifier has few states that the loop would multiply.
        note_queue(sk, to.walk());
    }
    match sk_state {
        state::TIME_WAIT => {
            if let Some(tw) = sk.time_wait() {
                visit_time_wait(sk, &tw, to)?;
            }
        }
        state::NEW_SYN_RECV => visit_request(sk, to),
        sk_state => visit_socket(sk, sk_state, to)?,
    }
    Ok(())
}

/// A half-open request. Its port is its listener's, so it takes none. One whose SYN-ACK had to be
/// sent again is counted for that port: a handshake that goes well never gets there.
#[inline(always)]
fn visit_request<T: Target>(sk: Sock<T::Memory>, to: &mut T) {
    to.namespace().states[state::SYN_RECV as usize] += 1;
    if sk.request_retransmits().is_none_or(|count| count == 0) {
        return;
    }
    let port = request_key(to.namespace().slot, sk.local_port());
    if REQUESTS.get_ptr_mut(&port).is_none() {
        // A full LRU map evicts an old entry.
        let _ = REQUESTS.insert(&port, &NO_REQUEST, 0);
    }
    let Some(entry) = REQUESTS.get_ptr_mut(&port) else { return };
    // SAFETY: an entry of the map, which only this walker writes.
    let entry = unsafe { &mut *entry };
    let generation = to.walk().generation;
    if entry.generation != generation {
        *entry = RequestUse { generation, ..RequestUse::ZERO };
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
fn visit_time_wait<T: Target>(
    sk: Sock<T::Memory>,
    tw: &TimeWaitSock<T::Memory>,
    to: &mut T,
) -> Result<(), BufferFull> {
    let port = sk.local_port();
    let substate = tw.substate();
    if is_requested(to, port) {
        let walk = to.walk();
        let address = sk.address(&mut walk.scratch);
        begin(&mut walk.found.socket, substate, address, sk.tuple(port));
        walk.found.socket.flags = flags::MINISOCKET;
        to.copy()?;
        to.namespace().requested_left -= 1;
    }
    let namespace = to.namespace();
    namespace.time_wait_buckets += 1;
    namespace.states[substate as usize & (STATES - 1)] += 1;
    if !in_range(to, port) {
        return Ok(());
    }
    let (is_pinned, is_new) = to.is_pinned(port, || tw.is_port_pinned());
    if is_pinned {
        // Listeners come first, and then full sockets or minisockets in no order: a port that both
        // hold may count here.
        to.namespace().pinned_minisockets += u32::from(is_new);
        return Ok(());
    }
    let (local, peer) = sk.addresses();
    let now_ns = to.walk().now_ns;
    if !may_be_reused(tw, substate, (to.namespace(), now_ns), &local, &peer) {
        use_port(to, substate, local, peer, sk.peer_port());
    }
    Ok(())
}

#[inline(always)]
fn visit_socket<T: Target>(
    sk: Sock<T::Memory>,
    sk_state: u32,
    to: &mut T,
) -> Result<(), BufferFull> {
    let tuple = sk.tuple(sk.local_port());
    // A connection in an accept queue does not show the process that holds the port, and there
    // may be many.
    let is_requested = is_requested(to, tuple.local_port) && !is_unaccepted(sk, sk_state);
    let now_ns = to.walk().now_ns;
    let waits_since_ns =
        if waits_for_peer(sk_state) { waits_since(sk, sk_state, now_ns) } else { 0 };
    let is_stalled = is_stalled(sk, sk_state);
    let user_flags = port_user(sk, sk_state, &tuple, to);
    if is_stalled
        || sk_state == state::CLOSE_WAIT
        || sk_state == state::LISTEN
        || waits_since_ns != 0
        || is_requested
        || user_flags != 0
        || tuple.is_self()
    {
        if let Some(tcp) = sk.tcp() {
            describe(tcp, sk_state, tuple, (waits_since_ns, user_flags, is_stalled), to.walk());
            to.copy()?;
        }
        to.namespace().requested_left -= u32::from(is_requested);
    }
    to.namespace().states[sk_state as usize & (STATES - 1)] += 1;
    if sk_state == state::LISTEN {
        to.see_listener(tuple.local_port);
    } else if in_range(to, tuple.local_port) {
        let bucket_is_pinned = || sk.tcp().is_some_and(TcpSock::is_port_pinned);
        match to.is_pinned(tuple.local_port, bucket_is_pinned) {
            (false, _) => use_port(to, sk_state, tuple.local, tuple.peer, tuple.peer_port),
            // Listeners come first, so the port has no listener and the socket was not accepted.
            (true, true) if sk.tcp().is_some_and(|tcp| tcp.0.accept_limit() == 0) => {
                to.namespace().bound_ports += 1;
            }
            (true, _) => {}
        }
    }
    Ok(())
}

/// A socket that is bound and neither listens nor is connected. It counts for no state, as `ss -ta`
/// does not show it; its port is pinned.
#[inline(always)]
pub(crate) fn visit_bound<T: Target>(sk: Sock<T::Memory>, to: &mut T) -> Result<(), BufferFull> {
    let tuple = sk.tuple(sk.local_port());
    let is_requested = is_requested(to, tuple.local_port);
    let user_flags = port_user(sk, state::CLOSE, &tuple, to);
    if (is_requested || user_flags != 0)
        && let Some(tcp) = sk.tcp()
    {
        describe(tcp, state::CLOSE, tuple, (0, user_flags, false), to.walk());
        to.copy()?;
        to.namespace().requested_left -= u32::from(is_requested);
    }
    Ok(())
}

/// Makes the record of a full socket in [`Walk::found`]: since when it waits, its flags as a user of
/// ports, and whether it is stalled are known already.
#[inline(always)]
pub(crate) fn describe<M: Sockets>(
    tcp: TcpSock<M>,
    sk_state: u32,
    tuple: Tuple,
    (since_ns, user_flags, is_stalled): (u64, u8, bool),
    walk: &mut Walk,
) {
    let address = tcp.0.address(&mut walk.scratch);
    let generation = walk.generation;
    let Walk { found, scratch, .. } = walk;
    let record = &mut found.socket;
    begin(record, sk_state, address, tuple);
    record.flags = user_flags;
    record.inode = tcp.0.inode();
    record.since_ns = since_ns;
    if sk_state == state::LISTEN {
        record.accept_queue = tcp.0.accept_queue();
        record.accept_limit = tcp.0.accept_limit();
        record.half_open = tcp.half_open();
        record.drops = tcp.0.drops();
        record.listener = listener_flags_of(tcp, scratch);
        if record.accept_queue != 0
            && let Some(fields) = RequestFields::read()
        {
            record.queue = tcp.first_in_queue(scratch).socket(fields, address);
        }
    } else {
        if tcp.0.accept_limit() != 0 {
            record.flags |= flags::ACCEPTED;
        }
        if tcp.0.flags() & SOCK_DEAD != 0 {
            record.flags |= flags::ORPHAN;
        } else if !tcp.0.has_socket() {
            record.flags |= flags::UNACCEPTED;
            record.queue = queue_of(address, generation);
        }
        record.recv_queue = tcp.receive_queue();
        if tcp.has_progress() {
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
        let noted = close_wait_since(address, tcp.last_segment_ns());
        record.since_ns = noted & !notes::EXACT;
        record.flags |= flags::SINCE_EXACT * (noted & notes::EXACT) as u8;
    }
}

/// How a listener came by its port, and whether any thread waits for connections.
#[inline(always)]
fn listener_flags_of<M: Sockets>(tcp: TcpSock<M>, scratch: &mut u64) -> u8 {
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
pub(crate) const QUEUE_LOOK: u32 = 256;

/// Notes the queue of each connection that its peer has closed. With SO_REUSEPORT several listeners
/// share a port, and nothing in such a socket shows which one it waits for. Listeners come first,
/// so a queue is known before the walk meets what is in it.
#[inline(always)]
pub(crate) fn note_queue<M: Sockets>(sk: Sock<M>, walk: &mut Walk) {
    let Some(tcp) = sk.tcp() else { return };
    if tcp.0.accept_queue() != 0 {
        let listener = sk.address(&mut walk.scratch);
        note_queue_from(listener, tcp.first_in_queue(&mut walk.scratch).0);
    }
}

/// Notes the connections of the listener's queue from this one on. A global function of BPF: the
/// verifier goes through the loop once, by itself, and not with all that comes before and after it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_queue_from(listener: u64, first: u64) -> u32 {
    let (Some(fields), Some(walk)) = (RequestFields::read(), maps::walk()) else { return 0 };
    let queue = QueueOf { listener, generation: walk.generation, reserved: 0 };
    let mut request = Request(first);
    let mut looked_at = 0;
    while looked_at < QUEUE_LOOK {
        let sk = request.socket(fields, listener);
        if sk == 0 {
            break;
        }
        // Noted is 0 for any other state: a branch here doubles what the verifier goes through.
        let is_other = is_not_zero((state_at(sk) ^ state::CLOSE_WAIT).into());
        let noted = sk & is_other.wrapping_sub(1);
        // A full LRU map evicts an old entry.
        let _ = QUEUES.insert(&noted, &queue, 0);
        request = request.next(fields);
        looked_at += 1;
    }
    looked_at
}

/// The listener in whose queue this connection waits, 0 where none was noted.
#[inline(always)]
fn queue_of(sk: u64, generation: u32) -> u64 {
    // SAFETY: only this walker writes the map.
    match unsafe { QUEUES.get(&sk) } {
        Some(queue) if queue.generation == generation => queue.listener,
        _ => 0,
    }
}

/// Begins a record of which nothing else is known yet.
#[inline(always)]
pub(crate) fn begin(record: &mut SocketRecord, sk_state: u32, sk: u64, tuple: Tuple) {
    *record = SocketRecord { state: sk_state as u8, sk, tuple, ..SocketRecord::ZERO };
}

/// Whether no process has accepted it yet.
#[inline(always)]
pub(crate) fn is_unaccepted<M: Sockets>(sk: Sock<M>, sk_state: u32) -> bool {
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
pub(crate) fn is_stalled<M: Sockets>(sk: Sock<M>, sk_state: u32) -> bool {
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
fn waits_since<M: Sockets>(sk: Sock<M>, sk_state: u32, now_ns: u64) -> u64 {
    const SECOND_NS: u64 = 1_000_000_000;
    let Some(tcp) = sk.tcp() else { return 0 };
    let (since_ns, _) = wait_began(tcp, sk_state, now_ns);
    if since_ns + SECOND_NS <= now_ns { since_ns } else { 0 }
}

/// When the wait for the peer began, and whether that is exact. In SYN_SENT it is the time of the
/// first SYN. In the other states the last segment, sent or received, is the latest possible time.
#[inline(always)]
pub(crate) fn wait_began<M: Sockets>(tcp: TcpSock<M>, sk_state: u32, now_ns: u64) -> (u64, bool) {
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

/// When the socket entered CLOSE_WAIT, with [`notes::EXACT`] where that is exact. A socket older than the
/// programs, or without a note, has been there at least since its last segment: the FIN, or a later
/// one such as a keep-alive. The first walk that meets it notes that time, so that a keep-alive never
/// makes it younger.
///
/// A global function, as [`note_queue_from`]: it looks at each place of a slot, twice.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn close_wait_since(sk: u64, last_segment_ns: u64) -> u64 {
    if let Some(noted) = notes::close_wait(sk) {
        return noted;
    }
    // SAFETY: no arguments, no effects.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let since_ns = if last_segment_ns < now_ns { last_segment_ns } else { now_ns };
    // Where the table is full the agent remembers it, for the sockets that it describes.
    let _ = notes::put_close_wait(sk, since_ns, false);
    since_ns & !notes::EXACT
}
