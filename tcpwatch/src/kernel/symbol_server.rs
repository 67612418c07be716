//! The process that reads other programs' files for the names of functions.
//!
//! A file that is truncated while it is mapped ends its reader by a signal. A large file takes its
//! memory, and a crafted one may take it over. `tcpwatch symbols`, which only the agent starts,
//! therefore gives up every capability first and forks for each request. A reader has the
//! descriptors that came with its request and can open no other, start no process and reach no
//! peer.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr, slice,
};

use rustix::{
    fs::fstat,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
    },
    process::{Resource, Rlimit, setrlimit},
};
use serde::{Deserialize, Serialize};

use super::{elf, privileges, seccomp};

/// Longest name that is kept, in characters; C++ knows longer ones.
const LONGEST_NAME: usize = 120;
/// A browser's symbols are read in a second.
const READER_SECONDS: u32 = 3;
/// Files of one request: a stack has fewer frames.
pub(super) const FILES: usize = 64;
/// Bytes of a request or an answer: each frame has at most [`LONGEST_NAME`] characters.
pub(super) const MESSAGE: usize = 64 * 1024;

/// A request of the agent; the files are attached.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Comes back with the answer.
    pub(super) id: u64,
    pub(super) places: Vec<Place>,
}

/// Where to look a name up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// An offset in an attached ELF file.
    Elf { file: usize, offset: u64 },
    /// An address in an attached perf map.
    PerfMap { file: usize, address: u64 },
    /// No file could be opened.
    Nowhere,
}

/// The names, one for each place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) id: u64,
    /// `None`: the reader has not come to its end.
    pub(super) names: Option<Vec<Option<elf::Named>>>,
}

/// Answers on the socket that is standard input until the agent closes its end.
pub fn serve_symbols() -> io::Result<()> {
    // The agent's end is the end: signals to the process group do not count.
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: a valid signal and disposition; no other thread runs.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: as above. It ends a reader that takes too long.
    unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
    close_inherited();
    limit_resources();
    privileges::confine_symbol_server()?;
    let input = io::stdin();
    while let Some((request, files)) = receive(input.as_fd())? {
        // SAFETY: this process has one thread, so the child may do what it may.
        match unsafe { libc::fork() } {
            0 => {
                let read = read_symbols(input.as_fd(), &request, &files);
                std::process::exit(i32::from(read.is_err()));
            }
            child => {
                drop(files);
                if child < 0 || !succeeds(child) {
                    answer(input.as_fd(), &Answer { id: request.id, names: None })?;
                }
            }
        }
    }
    Ok(())
}

/// Waits for a child that ends by itself or by its timer.
fn succeeds(child: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: the pointer is to a live value.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    waited == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

/// Closes descriptors that the parent of the agent has left open.
fn close_inherited() {
    // SAFETY: takes no pointer, and nothing in this process owns a descriptor beyond these three.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// A mapped file counts as address space, whatever of it is read: a browser's library has some
/// hundred megabytes. Memory of its own hardly grows with the file.
fn limit_resources() {
    const MIB: u64 = 1 << 20;
    let limits = [
        (Resource::As, 1024 * MIB),
        (Resource::Data, 32 * MIB),
        (Resource::Core, 0),
        (Resource::Nofile, FILES as u64 + 8),
        (Resource::Fsize, 0),
    ];
    for (resource, limit) in limits {
        limit_resource(resource, limit);
    }
}

/// Without a limit there is one guard less, and still the others.
fn limit_resource(resource: Resource, limit: u64) {
    let _ = setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) });
}

/// `None` when the agent has closed its end.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::other("a request too long"));
    }
    let request = serde_json::from_slice(&bytes[..message.bytes])?;
    Ok(Some((request, files)))
}

/// The reader: confines itself further, looks the names up and answers.
fn read_symbols(socket: BorrowedFd<'_>, request: &Request, files: &[OwnedFd]) -> io::Result<()> {
    limit_resource(Resource::Cpu, u64::from(READER_SECONDS));
    let mut timer = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: READER_SECONDS.into(), tv_usec: 0 },
    };
    // SAFETY: the pointer is to a live value, and NULL means that the old timer is not returned.
    if unsafe { libc::setitimer(libc::ITIMER_REAL, &raw mut timer, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    seccomp::confine_symbol_reader()?;
    let mapped: Vec<Option<&[u8]>> = files.iter().map(|file| map(file.as_fd())).collect();
    let bytes = |file: usize| mapped.get(file).copied().flatten();
    let names = request.places.iter().map(|place| match *place {
        Place::Elf { file, offset } => elf::name_in_elf(bytes(file)?, offset),
        Place::PerfMap { file, address } => elf::name_in_perf_map(bytes(file)?, address),
        Place::Nowhere => None,
    });
    let short = |(name, within): elf::Named| (name.chars().take(LONGEST_NAME).collect(), within);
    let names = names.map(|named| named.map(short)).collect();
    answer(socket, &Answer { id: request.id, names: Some(names) })
}

/// The file's bytes, until this process ends. If the file is truncated meanwhile, that is by SIGBUS.
fn map(file: BorrowedFd<'_>) -> Option<&'static [u8]> {
    let length = usize::try_from(fstat(file).ok()?.st_size).ok().filter(|length| *length > 0)?;
    // SAFETY: a new read-only mapping at a place of the kernel's choice.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
    };
    if start == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping has this length and is never undone. Its owner may change the bytes of
    // the file meanwhile; the parsers read plain integers and bytes, check each by itself, and
    // what they make of torn ones stays in this process.
    Some(unsafe { slice::from_raw_parts(start.cast_const().cast::<u8>(), length) })
}

fn answer(socket: BorrowedFd<'_>, answer: &Answer) -> io::Result<()> {
    send(socket, &serde_json::to_vec(answer)?, SendFlags::NOSIGNAL)?;
    Ok(())
}
