//! From return addresses to the names of functions.
//!
//! The agent opens the files and sends the descriptors to [`super::symbol_server`], a process that
//! it starts before it is confined. If that process is gone, or its reader failed, places in files
//! replace the names.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
    sockopt::{Timeout, set_socket_timeout},
};

use super::{
    code::{Code, Mapping},
    mapped_file,
    symbol_server::{Answer, FILES, MESSAGE, Place, Request},
};
use crate::plain;

/// The command by which the agent starts its symbol server.
pub const SYMBOLS_COMMAND: &str = "symbols";
/// Itself, also where its file has been replaced since (proc(5)).
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// The server ends a reader after three seconds; it has one more to report it.
const PATIENCE: Duration = Duration::from_secs(4);

/// The agent's end.
pub(super) struct Symbols {
    socket: OwnedFd,
    server: Child,
    /// Of the last request.
    id: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// The last request has no answer yet.
    Busy,
    /// The server has ended.
    Gone,
}

impl Symbols {
    /// Starts the server: `program` is a tcpwatch. It ends when this is dropped.
    pub(super) fn start(program: &str) -> io::Result<Self> {
        let (socket, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        let mut command = Command::new(program);
        command.arg0("tcpwatch").arg(SYMBOLS_COMMAND).env_clear().current_dir("/");
        command.stdin(Stdio::from(other)).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { socket, server: command.spawn()?, id: 0, state: State::Ready })
    }

    /// The names of a stack, innermost first: `connect+0x14 (libc.so.6)`. `None` while an earlier
    /// request is not answered.
    pub(super) fn describe(
        &mut self,
        pid: u32,
        code: &Code,
        addresses: &[u64],
    ) -> Option<Vec<String>> {
        if self.state == State::Busy {
            self.receive(RecvFlags::DONTWAIT);
        }
        if self.state == State::Busy {
            return None;
        }
        let frames: Vec<Frame<'_>> = Frame::all(code, addresses).collect();
        let names = self.names(pid, &frames);
        let mut names = names.unwrap_or_default().into_iter();
        Some(frames.iter().map(|frame| frame.describe(names.next().flatten())).collect())
    }

    fn names(&mut self, pid: u32, frames: &[Frame<'_>]) -> Option<Vec<Option<(String, u64)>>> {
        if self.state == State::Gone {
            return None;
        }
        let mut files = Files::default();
        let places = frames.iter().map(|frame| files.place_of(pid, frame)).collect();
        self.id += 1;
        let sent = send(self.socket.as_fd(), &Request { id: self.id, places }, &files.open);
        if let Err(error) = sent {
            self.give_up(&error);
            return None;
        }
        self.state = State::Busy;
        let names = self.receive(RecvFlags::empty())?;
        (names.len() == frames.len()).then_some(names)
    }

    /// The answer to the last request; `None` too where its reader failed.
    fn receive(&mut self, flags: RecvFlags) -> Option<Vec<Option<(String, u64)>>> {
        let mut bytes = vec![0; MESSAGE];
        loop {
            let received = match recv(&self.socket, &mut bytes[..], flags) {
                Ok((received, _)) => received,
                Err(rustix::io::Errno::INTR) => continue,
                // It stays busy.
                Err(rustix::io::Errno::AGAIN) => return None,
                Err(error) => {
                    self.give_up(&error.into());
                    return None;
                }
            };
            if received == 0 {
                self.give_up(&io::ErrorKind::UnexpectedEof.into());
                return None;
            }
            // A reader that was taken over may send anything.
            let answer: Option<Answer> = serde_json::from_slice(&bytes[..received]).ok();
            match answer {
                Some(answer) if answer.id == self.id => {
                    self.state = State::Ready;
                    return answer.names;
                }
                _ => {}
            }
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        self.state = State::Gone;
        // Reaps it.
        let status = self.server.try_wait().ok().flatten().map(|status| status.to_string());
        tracing::warn!(%error, status, "names of functions unavailable until a restart");
    }
}

fn send(socket: BorrowedFd<'_>, request: &Request, files: &[OwnedFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(request)?;
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&files));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A return address and the mapping that its call lies in.
struct Frame<'a> {
    address: u64,
    /// 1 where the address lies behind a call, and so maybe behind the function that called.
    behind_call: u64,
    mapping: Option<&'a Mapping>,
}

impl<'a> Frame<'a> {
    fn all(code: &'a Code, addresses: &'a [u64]) -> impl Iterator<Item = Self> {
        addresses.iter().enumerate().map(|(depth, &address)| {
            let behind_call = u64::from(depth > 0);
            let mapping = code.mapping_of(address.saturating_sub(behind_call));
            Self { address, behind_call, mapping }
        })
    }

    fn call(&self) -> u64 {
        self.address.saturating_sub(self.behind_call)
    }

    fn describe(&self, name: Option<(String, u64)>) -> String {
        let module = plain::text(self.mapping.map_or("?", Mapping::name));
        match name {
            Some((name, within)) => {
                let name = plain::text(&name);
                let within = within.saturating_add(self.behind_call);
                format!("{name}+{within:#x} ({module})")
            }
            // Its place in the file, for addr2line.
            None => {
                let offset = |it: &Mapping| it.file_offset(self.call()) + self.behind_call;
                let place = self.mapping.map_or(self.address, offset);
                format!("{place:#x} ({module})")
            }
        }
    }
}

/// The files of a stack, each opened once.
#[derive(Default)]
struct Files {
    open: Vec<OwnedFd>,
    /// By inode number, 0 for the perf map.
    known: BTreeMap<u64, Option<usize>>,
}

impl Files {
    fn place_of(&mut self, pid: u32, frame: &Frame<'_>) -> Place {
        let Some(mapping) = frame.mapping else { return Place::Nowhere };
        if mapping.path.starts_with('/') {
            let file = self.open_once(mapping.inode, || mapped_file::open_mapped(pid, mapping));
            let offset = mapping.file_offset(frame.call());
            file.map_or(Place::Nowhere, |file| Place::Elf { file, offset })
        } else if mapping.path.starts_with('[') {
            // The vDSO opens no socket.
            Place::Nowhere
        } else {
            let file = self.open_once(0, || mapped_file::open_perf_map(pid));
            file.map_or(Place::Nowhere, |file| Place::PerfMap { file, address: frame.call() })
        }
    }

    fn open_once(&mut self, inode: u64, open: impl FnOnce() -> Option<OwnedFd>) -> Option<usize> {
        if let Some(known) = self.known.get(&inode) {
            return *known;
        }
        let file = if self.open.len() < FILES { open() } else { None };
        let place = file.map(|file| {
            self.open.push(file);
            self.open.len() - 1
        });
        self.known.insert(inode, place);
        place
    }
}
