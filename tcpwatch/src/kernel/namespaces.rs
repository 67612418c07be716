//! The network namespaces of this host: finding, naming and entering them.
//!
//! Found are the agent's own, those with a name under /run/netns, and those of any process. One
//! that lives only in an open descriptor or in a single thread of a process stays unseen.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    sync::Arc,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::container_of;
use crate::facts::NetnsId;

/// Where `ip netns` keeps its bind mounts.
const NAMED: &str = "/run/netns";

/// Which namespaces are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every one that is found.
    All,
    /// The agent's own.
    Host,
}

/// Identifies the namespace of the calling thread: its cookie; `None` before 5.14.
pub(super) fn cookie() -> Option<NetnsId> {
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

/// A namespace, held open so that it can be entered.
#[derive(Debug)]
pub(super) struct NamespaceHandle {
    /// Inode number of its file.
    pub(super) inode: u32,
    /// `host`, the bind mount's name, a container's or pod's id, or empty.
    pub(super) name: Arc<str>,
    file: File,
}

impl NamespaceHandle {
    fn open(path: &Path, name: impl FnOnce() -> Arc<str>) -> io::Result<Self> {
        let file = File::open(path)?;
        // Numbers of namespaces are 32 bits wide (`struct ns_common`).
        let inode = file.metadata()?.ino() as u32;
        Ok(Self { inode, name: name(), file })
    }

    /// The agent's own, wherever the calling thread is.
    pub(super) fn host() -> io::Result<Self> {
        Self::open(Path::new("/proc/self/ns/net"), || "host".into())
    }

    /// Moves the calling thread into it.
    pub(super) fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(io::Error::from)
    }
}

/// The namespaces of the host, the agent's own first, and how many more there are that could not
/// be opened.
pub(super) fn list(host: &NamespaceHandle, scope: Scope) -> (Vec<NamespaceHandle>, u64) {
    let mut found = Vec::new();
    let mut unseen = HashSet::new();
    if scope == Scope::Host {
        return (found, 0);
    }
    let mut known = HashSet::from([host.inode]);
    for entry in fs::read_dir(NAMED).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let open = NamespaceHandle::open(&entry.path(), || name.to_string_lossy().into());
        if let Ok(namespace) = open
            && known.insert(namespace.inode)
        {
            found.push(namespace);
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let path = entry.path().join("ns/net");
        // The link says which namespace it is without opening it.
        let Some(inode) = fs::read_link(&path).ok().and_then(|link| inode_of_link(&link)) else {
            continue;
        };
        if known.contains(&inode) {
            continue;
        }
        let name = || container_of(pid).unwrap_or_default().into();
        match NamespaceHandle::open(&path, name) {
            Ok(namespace) if namespace.inode == inode => {
                known.insert(inode);
                found.push(namespace);
            }
            // The process has gone, or changed its namespace, since the link was read.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => {
                unseen.insert(inode);
            }
        }
    }
    let unseen = unseen.difference(&known).count() as u64;
    (found, unseen)
}

/// `net:[4026531840]`
fn inode_of_link(link: &Path) -> Option<u32> {
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}
