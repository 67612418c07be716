//! The records that the kernel programs and the agent exchange, and nothing else.
//!
//! Everything here is `no_std`, `repr(C)` and without implicit padding, because a map value or a
//! ring-buffer record is read as bytes on the other side. Sizes are asserted at compile time.
//! Numbers are in host byte order unless a field says otherwise. Times are nanoseconds of
//! CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns`.
//!
//! Meaning belongs to the agent: the kernel side observes, counts and copies.
#![no_std]

mod address;
pub mod bench;
mod counters;
mod event;
mod focus;
mod inventory;
mod listing;
mod note;
mod offsets;
mod one_pass;
mod reset;
mod stream;
mod tally;

pub use address::{AF_INET, Address, Tuple};
pub use counters::{CLOSE_WAIT_BUCKETS_NS, Counters, RESET_PLACES, ResetsSent, STATES};
pub use event::{Event, EventKind, connect_flags};
pub use focus::{
    Answering, Closer, CloserUse, FRAMES, Focus, OpeningStack, STACK_PROCESSES, STACK_WORDS,
};
pub use inventory::{
    BUSY_DESTINATIONS, DESTINATION_USERS, Destination, DestinationUse, Found, NamespaceWalk,
    OwnerRecord, PORT_STATES, PORT_WORDS, QueueOf, RequestUse, SOURCE_WORDS, SocketRecord, Walk,
    listener_flags, port_state, request_key, socket_flags,
};
pub use listing::{Listing, listing_only};
pub use note::{
    CLOSE_WAIT_SETS, CLOSE_WAIT_WAYS, CONNECT_SETS, CONNECT_WAYS, CloseWaitHalf, CloseWaitSet,
    ConnectNote, ConnectSet,
};
pub use offsets::{ABSENT, FIELDS, Field, Offsets, of_placeholder, placeholder};
pub use one_pass::{AHEAD, HEAD_WORDS, LIST_AGAIN, NamespaceRecord, Pass, phase, progress};
pub use reset::{
    IDLE_BUCKETS_MS, IdleCloses, ResetKey, ResetOrigin, ResetOriginUse, Service, ServiceUse,
    reset_flags, reset_sizes,
};
pub use stream::{
    STREAM_DRAFTS, STREAM_SETS, STREAM_VALUES, StreamCounts, StreamDraft, StreamFilter, StreamKind,
    StreamRecord, StreamSecond,
};
pub use tally::{TALLY_WAYS, TallyKey, TallySet, Words, mark, set_of};

/// Names of the kernel programs: function, file and hook row of `doctor` share them.
pub mod programs {
    /// `tp_btf/inet_sock_set_state`: every transition of every TCP socket.
    pub const SET_STATE: &str = "set_state";
    /// `tp_btf/tcp_send_reset`: every reset sent, with what is known of its cause.
    pub const SEND_RESET: &str = "send_reset";
    /// `tp_btf/tcp_receive_reset`: every reset received by a socket.
    pub const RECEIVE_RESET: &str = "receive_reset";
    /// `fentry/tcp_v4_send_reset`: before 6.10, resets of IPv4 that no socket sends.
    pub const PASSIVE_RESET_V4: &str = "passive_reset_v4";
    /// `fentry/tcp_v6_send_reset`: likewise of IPv6.
    pub const PASSIVE_RESET_V6: &str = "passive_reset_v6";
    /// `fexit/inet_csk_get_port`: bind() and listen() that find their port taken.
    pub const BIND: &str = "bind";
    /// `fexit/inet_csk_accept`: the stack of a process that accepts, where requested.
    pub const ACCEPT: &str = "accept";
    /// `tp_btf/inet_sock_set_state`, attached while a stream of events is armed.
    pub const STREAM: &str = "stream";
    /// `iter/tcp`: one walk over the socket tables of a network namespace.
    pub const INVENTORY: &str = "inventory";
    /// `raw_tp`, run by the agent and never attached: the sockets of every network namespace.
    pub const ONE_PASS: &str = "one_pass";
    /// `iter/tcp`: the sockets of a network namespace that match a selection.
    pub const LISTING: &str = "listing";
    /// `raw_tp`, run by the agent and never attached: the sockets of the selected namespaces that match
    /// a selection.
    pub const LISTING_PASS: &str = "listing_pass";
    /// `iter/task_file`: the process that holds a selected socket, and its descriptor.
    pub const OWNERS: &str = "owners";

    /// Programs that something else in the kernel runs; each counts its runs at its place in
    /// [`Counters::runs`](crate::Counters::runs).
    pub const COUNTED: [&str; 8] = [
        SET_STATE,
        STREAM,
        SEND_RESET,
        PASSIVE_RESET_V4,
        PASSIVE_RESET_V6,
        RECEIVE_RESET,
        BIND,
        ACCEPT,
    ];
}

/// Pieces of rare work that the hooks do on each CPU in a second: a note, a count by process and
/// service. Beyond that only plain counts are kept, and [`Counters::work_shed`] counts what was
/// left out. Each takes some 100 ns, so that a storm takes 2 % of a CPU for it and no more; one CPU
/// that opens and closes 30,000 connections a second over loopback does 150,000.
pub const WORK_PER_SECOND: u64 = 200_000;

/// Values of the global in [`maps::SCOPE`]: which network namespaces the hooks count. Any other
/// value is the inode number of the only one; the kernel numbers them from 0xf0000000 on.
pub mod scope {
    /// All of them.
    pub const ALL: u32 = 0;
    /// None: what a fresh load counts, until the agent has set the scope.
    pub const NONE: u32 = 1;
}

/// Names of the maps.
pub mod maps {
    /// Per-CPU array of one [`Counters`](crate::Counters).
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`Event`](crate::Event).
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU hash of [`ResetKey`](crate::ResetKey) to a count, of the kinds of resets that found
    /// no place in [`Counters::resets_sent`](crate::Counters::resets_sent).
    pub const RESETS: &str = "RESETS";
    /// Array of [`TallySet`](crate::TallySet): [`ResetOriginUse`](crate::ResetOriginUse) by
    /// [`ResetOrigin`](crate::ResetOrigin).
    pub const RESET_ORIGINS: &str = "RESET_ORIGINS";
    /// Likewise, of resets that no socket sends.
    pub const STRAY_RESETS: &str = "STRAY_RESETS";
    /// Likewise, [`ServiceUse`](crate::ServiceUse) by [`Service`](crate::Service).
    pub const SERVICES: &str = "SERVICES";
    /// Array of one [`Focus`](crate::Focus).
    pub const FOCUS: &str = "FOCUS";
    /// LRU hash of a socket's kernel address to its [`OpeningStack`](crate::OpeningStack).
    pub const STACKS: &str = "STACKS";
    /// Hash of [`Closer`](crate::Closer) to [`CloserUse`](crate::CloserUse). No LRU: what it dropped
    /// would be missing in a rate.
    pub const CLOSERS: &str = "CLOSERS";
    /// Hash of [`Answering`](crate::Answering) to a count: connections to the destinations that the
    /// agent has put there.
    pub const ANSWERS: &str = "ANSWERS";
    /// The same by program only, for closes that find no place in [`CLOSERS`].
    pub const CLOSERS_ELSEWHERE: &str = "CLOSERS_ELSEWHERE";
    /// Hash of a network namespace, by its cookie or else its inode number, to nothing: whose
    /// closers are counted.
    pub const CLOSERS_IN: &str = "CLOSERS_IN";
    /// Constant of one `u64`, frozen before the load: see [`WORK_PER_SECOND`](crate::WORK_PER_SECOND).
    pub const WORK: &str = "WORK";
    /// Section of one `u32`: which namespaces the hooks count, see [`scope`](crate::scope).
    pub const SCOPE: &str = ".data.scope";
    /// Section of one `u32`: not 0 while the stream of events is armed.
    pub const STREAMING: &str = ".data.stream";
    /// Ring buffer of [`StreamRecord`](crate::StreamRecord).
    pub const STREAM: &str = "STREAM";
    /// Array of one [`StreamFilter`](crate::StreamFilter).
    pub const STREAM_FILTER: &str = "STREAM_FILTER";
    /// Per-CPU array of one [`StreamCounts`](crate::StreamCounts).
    pub const STREAM_COUNTS: &str = "STREAM_COUNTS";
    /// Array of [`ConnectSet`](crate::ConnectSet).
    pub const CONNECT_NOTES: &str = "CONNECT_NOTES";
    /// Array of [`CloseWaitSet`](crate::CloseWaitSet).
    pub const CLOSE_WAIT_NOTES: &str = "CLOSE_WAIT_NOTES";
    /// Array of one [`Walk`](crate::Walk): a walk's parameters and its results.
    pub const WALK: &str = "WALK";
    /// Array of one [`Pass`](crate::Pass): where the one pass is.
    pub const PASS: &str = "PASS";
    /// Array of [`NamespaceWalk`](crate::NamespaceWalk): the namespaces of the one pass.
    pub const NAMESPACES: &str = "NAMESPACES";
    /// Hash of the kernel address of a `struct net` to its place in [`NAMESPACES`].
    pub const SLOTS: &str = "SLOTS";
    /// Ring buffer of [`Found`](crate::Found), or of [`NamespaceRecord`](crate::NamespaceRecord): what
    /// one slice of the one pass copies up.
    pub const FOUND: &str = "FOUND";
    /// Array of one [`Listing`](crate::Listing): a selection, and the counts of the walk.
    pub const LISTING: &str = "LISTING";
    /// LRU hash of [`Destination`](crate::Destination) to [`DestinationUse`](crate::DestinationUse).
    pub const DESTINATIONS: &str = "DESTINATIONS";
    /// LRU hash of a [`request_key`](crate::request_key) to [`RequestUse`](crate::RequestUse).
    pub const REQUESTS: &str = "REQUESTS";
    /// LRU hash of a socket's address to [`QueueOf`](crate::QueueOf): connections that their peer has
    /// closed while they wait in an accept queue. Only the kernel side uses it.
    pub const QUEUES: &str = "QUEUES";
    /// Hash of a socket's inode number to nothing: whose owner
    /// [`programs::OWNERS`](crate::programs::OWNERS) shall find.
    pub const WANTED: &str = "WANTED";
    /// Global in `.rodata`: the running kernel's [`Offsets`](crate::Offsets).
    pub const OFFSETS: &str = "OFFSETS";

    /// Entries of [`DESTINATIONS`]. A tuple that holds more than one in so many of a namespace's
    /// outgoing sockets survives the eviction, so none that nears a limit is ever missed.
    pub const DESTINATIONS_LIMIT: u32 = 16_384;
    /// Entries of [`NAMESPACES`] and [`SLOTS`] at least: network namespaces of a host. A host with more
    /// CPUs has more of them, as of the entries of the LRU tables.
    pub const NAMESPACES_LIMIT: u32 = 1_024;
    /// Entries of these at most.
    pub const NAMESPACES_MOST: u32 = 4_096;
    /// Size of [`FOUND`] in bytes: some 380 records. A slice that copies up more ends early.
    pub const FOUND_BYTES: u32 = 64 * 1024;
    /// Entries of [`REQUESTS`]: ports of listeners with unanswered requests. A remote peer cannot
    /// make more of them than there are listeners.
    pub const REQUESTS_LIMIT: u32 = 512;
    /// Entries of [`QUEUES`]: of eight hung listeners as many as are looked at in each queue. For a
    /// connection without an entry the longest queue of its port is taken.
    pub const QUEUES_LIMIT: u32 = 2_048;
    /// Entries of [`WANTED`]: sockets whose owner is looked for in one pass.
    pub const WANTED_LIMIT: u32 = 8_192;
    /// Entries of [`RESETS`]. The observations of a reset combine in some thirty ways on a real
    /// kernel. Each entry has a word for every possible CPU, so a few more than 200 are what a machine of 512
    /// has memory for.
    pub const RESETS_LIMIT: u32 = 224;
    /// Entries that each LRU table has for each CPU that is online. Before 6.16 a CPU keeps 128
    /// free ones to itself, so that a small table has none left for the others ("bpf: Adjust free
    /// target to avoid global starvation of LRU map").
    pub const LRU_ENTRIES_PER_CPU: u32 = 256;
    /// Entries of each such table at most. A host of 512 CPUs stays below 16 MiB with it.
    pub const LRU_ENTRIES_MOST: u32 = 8_192;
    /// Sets of [`RESET_ORIGINS`]: 4,096 processes and services that send or receive resets.
    pub const RESET_ORIGINS_SETS: u32 = 1_024;
    /// Sets of [`STRAY_RESETS`]: 2,048 requested ports without a listener.
    pub const STRAY_RESETS_SETS: u32 = 512;
    /// Sets of [`SERVICES`]: 4,096 processes and services that open or close connections.
    pub const SERVICES_SETS: u32 = 1_024;
    /// Entries of [`STACKS`] at least, 350 KiB: sockets of the processes that are looked at. The sample is as
    /// good with fewer than leak.
    pub const STACKS_LIMIT: u32 = 1_024;
    /// Entries of [`CLOSERS`]: programs by what they close, in the requested namespaces.
    /// One that closes connections to more peers than that is counted without them.
    pub const CLOSERS_LIMIT: u32 = 1_024;
    /// Entries of [`ANSWERS`]: destinations whose connects are given up. Each is put there by the
    /// agent, which takes the largest.
    pub const ANSWERS_LIMIT: u32 = 256;
    /// Entries of [`CLOSERS_ELSEWHERE`]: names of programs, and ports of servers.
    pub const CLOSERS_ELSEWHERE_LIMIT: u32 = 128;
    /// Entries of [`CLOSERS_IN`]: namespaces near a limit at a time.
    pub const CLOSERS_IN_LIMIT: u32 = 128;
    /// Default size of [`EVENTS`] in bytes; a power of two and a multiple of the page size.
    pub const EVENTS_BYTES: u32 = 256 * 1024;
    /// Size of [`STREAM`] in bytes; likewise. It holds 1,170 records, more than the default budget of
    /// a second. The agent empties it ten times a second.
    pub const STREAM_BYTES: u32 = 128 * 1024;
}
