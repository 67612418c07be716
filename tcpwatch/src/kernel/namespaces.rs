//! The network namespaces of this host: finding, naming and entering them.
//!
//! Found are the agent's own, those with a name under /run/netns, and those of any process. One
//! that lives only in an open descriptor or in a single thread of a process stays unseen.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::container_of;
use crate::facts::{NetnsId, Scope};

/// `NSFS_MAGIC` (include/uapi/linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Where `ip netns` keeps its bind mounts.
const NAMED: &str = "/run/netns";

/// Identifies the namespace of the calling thread: its cookie; `None` before 5.14.
fn cookie() -> Option<NetnsId> {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
            .ok()?;
    let mut cookie: u64 = 0;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live values of the sizes that are given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(cookie)
}

/// How namespaces are identified: by cookie where the kernel side and this one can both read it,
/// else by inode number.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetnsIds {
    by_cookie: bool,
}

impl NetnsIds {
    pub(super) fn new(kernel_side_reads_cookies: bool) -> Self {
        Self { by_cookie: kernel_side_reads_cookies && cookie().is_some() }
    }

    /// As the kernel side names one.
    pub(super) fn of_event(self, cookie: u64, inode: u32) -> NetnsId {
        if self.by_cookie { cookie } else { u64::from(inode) }
    }

    /// That of the calling thread, whose inode number is known.
    pub(super) fn of_thread(self, inode: u32) -> NetnsId {
        let cookie = self.by_cookie.then(cookie).flatten();
        cookie.unwrap_or(u64::from(inode))
    }
}

/// A namespace that was found. It is opened only to be entered: there may be more of them than
/// this process may have open files.
#[derive(Debug)]
pub(super) struct FoundNamespace {
    /// Inode number of its file.
    pub(super) inode: u32,
    /// `host`, the bind mount's name, a container's or pod's id, or empty.
    pub(super) name: Arc<str>,
    path: PathBuf,
}

impl FoundNamespace {
    /// The agent's own, wherever the calling thread is.
    pub(super) fn host() -> io::Result<Self> {
        let path = PathBuf::from("/proc/self/ns/net");
        let inode = inode_of_link(&fs::read_link(&path)?).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { inode, name: "host".into(), path })
    }

    /// Moves the calling thread into it; `false` if it is gone, or another one is there now.
    pub(super) fn enter(&self) -> io::Result<bool> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        if inode_of(&file.metadata()?) != self.inode {
            return Ok(false);
        }
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(true)
    }
}

/// The namespaces of the host but the agent's own, and how many more there are that cannot be
/// looked at.
pub(super) fn list(host: &FoundNamespace, scope: Scope) -> (Vec<FoundNamespace>, u64) {
    let mut found = Vec::new();
    let mut unseen = HashSet::new();
    if scope == Scope::Host {
        return (found, 0);
    }
    let mut known = HashSet::from([host.inode]);
    for entry in fs::read_dir(NAMED).into_iter().flatten().flatten() {
        let path = entry.path();
        // What is left of a namespace after a crash is a plain file.
        let is_namespace = rustix::fs::statfs(&path).is_ok_and(|it| it.f_type == NSFS_MAGIC);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let inode = inode_of(&metadata);
        if is_namespace && known.insert(inode) {
            let name = entry.file_name().to_string_lossy().into();
            found.push(FoundNamespace { inode, name, path });
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let path = entry.path().join("ns/net");
        // The link says which namespace it is without opening it.
        match fs::read_link(&path) {
            Ok(link) => {
                if let Some(inode) = inode_of_link(&link)
                    && known.insert(inode)
                {
                    let name = container_of(pid).unwrap_or_default().into();
                    found.push(FoundNamespace { inode, name, path });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                unseen.insert(pid);
            }
            // The process has gone, or is a kernel thread's.
            Err(_) => {}
        }
    }
    (found, unseen.len() as u64)
}

/// Numbers of namespaces are 32 bits wide (`struct ns_common`).
fn inode_of(metadata: &Metadata) -> u32 {
    metadata.ino() as u32
}

/// `net:[4026531840]`
fn inode_of_link(link: &Path) -> Option<u32> {
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}
