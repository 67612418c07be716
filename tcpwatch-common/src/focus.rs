//! Observations that the agent requests for a while: stacks, and processes that close first.
//!
//! All of it is off on a healthy host, which pays for one look into [`Focus`] with each connect().

use crate::Address;

/// Processes whose stacks are recorded at a time.
pub const STACK_PROCESSES: usize = 8;
/// Return addresses of a stack that are kept.
pub const FRAMES: usize = 24;
/// Words at the user stack pointer that are kept, see [`OpeningStack::words`].
pub const STACK_WORDS: usize = 16;

/// The observations requested now. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Focus {
    /// Thread-group ids whose connect() and accept() leave their stack in
    /// [`STACKS`](crate::maps::STACKS); 0 where unused, and none after it.
    pub stacks_of: [u32; STACK_PROCESSES],
    /// Not 0: active closes are counted in [`CLOSERS`](crate::maps::CLOSERS), for the namespaces
    /// of [`CLOSERS_IN`](crate::maps::CLOSERS_IN).
    pub closers: u32,
    /// Not 0: connections to the destinations in [`ANSWERS`](crate::maps::ANSWERS) are counted.
    pub answers: u32,
}

/// A destination whose connections are counted when they are established. 32 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Answering {
    /// Cookie of the network namespace; its inode number where the kernel has none.
    pub netns: u64,
    /// The peer's address.
    pub peer: Address,
    /// The peer's port, in host byte order.
    pub port: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// The user stack that opened a socket. 336 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OpeningStack {
    /// Return addresses by frame pointers, innermost first; 0 from the end on. Code without frame
    /// pointers leaves only the first, or chance addresses.
    pub frames: [u64; FRAMES],
    /// The words at the user stack pointer. A C library's system call is a leaf: the return address
    /// of its caller is among them, frame pointers or not. Zeros where the kernel does not show the
    /// stack pointer (before 5.15, or another architecture than x86).
    pub words: [u64; STACK_WORDS],
    /// Thread-group id of the caller.
    pub tgid: u32,
    /// 1 where it called connect(), 0 where accept().
    pub is_client: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

impl OpeningStack {
    /// Nothing recorded.
    pub const ZERO: Self = Self {
        frames: [0; FRAMES],
        words: [0; STACK_WORDS],
        tgid: 0,
        is_client: 0,
        reserved: [0; 2],
    };
}

/// Which program closed connections of which service first. By its name, because one that makes a
/// process for each connection would fill the table. 48 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Closer {
    /// Cookie of the network namespace; 0 where the kernel has none.
    pub netns_cookie: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// A client's peer port, a server's local port, 0 for a client in
    /// [`CLOSERS_ELSEWHERE`](crate::maps::CLOSERS_ELSEWHERE). Host byte order.
    pub port: u16,
    /// 1 where this host is the client.
    pub is_client: u16,
    /// The peer's address for a client in [`CLOSERS`](crate::maps::CLOSERS), else zeros.
    pub peer: Address,
    /// `comm` of the leader of the caller of close() or shutdown(), NUL-padded.
    pub comm: [u8; 16],
}

/// How often. 32 bytes, aligned to 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CloserUse {
    /// Connections.
    pub count: u64,
    /// Of these, closed by other processes than `tgid`.
    pub others: u64,
    /// When the first was closed, nanoseconds of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// Thread-group id of the process that closed the first.
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Focus>() == 40 && size_of::<OpeningStack>() == 336);
const _: () = assert!(size_of::<Answering>() == 32);
const _: () = assert!(size_of::<Closer>() == 48 && size_of::<CloserUse>() == 32);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C) without padding, and every bit pattern is valid.
    unsafe impl aya::Pod for super::Focus {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::OpeningStack {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Answering {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Closer {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::CloserUse {}
}
