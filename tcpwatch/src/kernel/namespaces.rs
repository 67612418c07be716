//! The network namespaces of this host: finding, naming and entering them.
//!
//! The agent's own namespace is found, each one with a name under /run/netns, and that of each
//! process. One that lives only in an open descriptor or in a single thread is not found
//! here; the one pass sees its sockets, and it has no name.

use std::{
    collections::{HashMap, HashSet},
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

    /// The namespace of the calling thread, whose inode number is known.
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
    /// `host`, the bind mount's name, a container's or pod's, or empty. Of a bind mount that a
    /// runtime has made, the container or pod of the first process within comes first.
    pub(super) name: Arc<str>,
    /// A process in it, where one was found.
    pub(super) process: Option<u32>,
    place: Place,
}

/// Where a namespace is entered.
#[derive(Debug)]
enum Place {
    /// By the file of its bind mount or of a process.
    Path(PathBuf),
    /// By this open file.
    File(File),
}

impl FoundNamespace {
    /// The namespace of the calling thread, which must be the agent's own. It stays open: a path
    /// through /proc/self changes as soon as the main thread enters another one, as in `check`.
    pub(super) fn host() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        let inode = inode_of(&file.metadata()?);
        Ok(Self { inode, name: HOST.into(), process: None, place: Place::File(file) })
    }

    /// Its [`identity`], where a process was found in it.
    pub(super) fn identity(&self) -> Option<u64> {
        let Place::Path(path) = &self.place else { return None };
        identity(path.strip_prefix("/proc").ok()?.iter().next()?.to_str()?)
    }

    /// Moves the calling thread into it; `false` if it is gone, or another one is there now.
    pub(super) fn enter(&self) -> io::Result<bool> {
        let opened;
        let file = match &self.place {
            Place::File(file) => file,
            Place::Path(path) => {
                opened = match File::open(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                    file => file?,
                };
                if inode_of(&opened.metadata()?) != self.inode {
                    return Ok(false);
                }
                &opened
            }
        };
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(true)
    }
}

/// Processes that do not show which namespace they are in, one for each [`identity`].
pub(super) type Hidden = HashMap<u64, (u32, io::Error)>;

/// The namespaces of the host but the agent's own, and processes that hide in which one they are.
pub(super) fn list(host: &FoundNamespace, scope: Scope) -> (Vec<FoundNamespace>, Hidden) {
    let mut found = Vec::new();
    let mut hidden = Hidden::new();
    if scope == Scope::Host {
        return (found, hidden);
    }
    let mut known = HashMap::from([(host.inode, None)]);
    // Namespaces whose bind mounts have no name that a person would know.
    let mut by_process = HashMap::new();
    for entry in fs::read_dir(NAMED).into_iter().flatten().flatten() {
        let path = entry.path();
        // A crash leaves a plain file, without a namespace behind it.
        let is_namespace = rustix::fs::statfs(&path).is_ok_and(|it| it.f_type == NSFS_MAGIC);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let inode = inode_of(&metadata);
        if is_namespace && !known.contains_key(&inode) {
            known.insert(inode, Some(found.len()));
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_a_persons_choice(&name) {
                by_process.insert(inode, found.len());
            }
            let (name, place) = (by_mount(name), Place::Path(path));
            found.push(FoundNamespace { inode, name, process: None, place });
        }
    }
    let mounts: HashSet<Arc<str>> =
        found.iter().map(|it: &FoundNamespace| it.name.clone()).collect();
    let by_container = |pid| container_of(pid).and_then(|name| by_container(name, &mounts));
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let path = entry.path().join("ns/net");
        // The link names the namespace without opening it.
        match link_of_namespace(&path) {
            Ok(link) => {
                let Some(inode) = inode_of_link(&link, "net") else { continue };
                if let Some(at) = known.get(&inode) {
                    if let Some(at) = at {
                        let found: &mut FoundNamespace = &mut found[*at];
                        found.process.get_or_insert(pid);
                    }
                } else {
                    known.insert(inode, Some(found.len()));
                    let name = by_container(pid).unwrap_or_default();
                    let (process, place) = (Some(pid), Place::Path(path));
                    found.push(FoundNamespace { inode, name, process, place });
                }
                if let Some(at) = by_process.get(&inode)
                    && let Some(name) = by_container(pid)
                {
                    found[*at].name = name;
                    by_process.remove(&inode);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if let Some(identity) = identity(&pid.to_string()) {
                    hidden.entry(identity).or_insert((pid, error));
                }
            }
            // The process has gone, or is a kernel thread's.
            Err(_) => {}
        }
    }
    (found, hidden)
}

/// Identity of the network namespace of a process, read without any privilege. Each namespace has
/// its own `/proc/net`, and the inode number of a file there is that of its entry
/// (fs/proc/generic.c).
/// `process` is a pid, or `thread-self`.
pub(super) fn identity(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/net/dev")).ok().map(|metadata| metadata.ino())
}

/// The label of the agent's own. No other may have it: its sockets would be counted as the host's,
/// and remedies would be run in the wrong namespace.
const HOST: &str = "host";

/// The label that a bind mount gives.
fn by_mount(name: String) -> Arc<str> {
    if name == HOST { "".into() } else { name.into() }
}

/// The label that the container or pod of a process within gives. Users name cgroups below their
/// own manager, so the name of a bind mount is never given: `ip netns exec` would lead there.
fn by_container(name: String, mounts: &HashSet<Arc<str>>) -> Option<Arc<str>> {
    (name != HOST && !mounts.contains(&*name)).then(|| name.into())
}

/// Whether a person may have chosen that name. containerd mounts `cni-UUID`, podman `netns-UUID`,
/// CRI-O either or a bare UUID: new with each start, and found nowhere else.
fn is_a_persons_choice(mount: &str) -> bool {
    let id = mount.strip_prefix("cni-").or_else(|| mount.strip_prefix("netns-")).unwrap_or(mount);
    let parts = id
        .split('-')
        .map(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(part.len()));
    mount != HOST && !parts.eq([8, 4, 4, 4, 12].map(Some))
}

/// Numbers of namespaces are 32 bits wide (`struct ns_common`).
fn inode_of(metadata: &Metadata) -> u32 {
    metadata.ino() as u32
}

/// Reads a link below `/proc/PID/ns`. The last kernels of 5.10 (seen: Debian's 5.10.0-46) answer
/// with an empty link where others refuse with EACCES.
fn link_of_namespace(path: &Path) -> io::Result<PathBuf> {
    let link = fs::read_link(path)?;
    if link.as_os_str().is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(link)
}

/// `net:[4026531840]`
pub(super) fn inode_of_link(link: &Path, kind: &str) -> Option<u32> {
    let number = link.to_str()?.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_bind_mount_is_no_name_for_a_person() {
        let uuid = "1a2b3c4d-5e6f-4a8b-9c0d-1e2f3a4b5c6d";
        for mount in [uuid, &format!("cni-{uuid}"), &format!("netns-{uuid}"), "host"] {
            assert!(!is_a_persons_choice(mount), "{mount}");
        }
        for mount in ["blue", "cni-1", "db-cafe-0000-0000-0000-000000000000", "qdhcp-1a2b3c4d", ""]
        {
            assert!(is_a_persons_choice(mount), "{mount}");
        }
    }

    #[test]
    fn no_namespace_takes_the_label_of_the_host_or_of_a_bind_mount() {
        assert_eq!(&*by_mount("host".to_owned()), "");
        assert_eq!(&*by_mount("blue".to_owned()), "blue");
        let mounts = HashSet::from(["blue".into()]);
        let label = |name: &str| by_container(name.to_owned(), &mounts);
        assert_eq!(label("host"), None);
        assert_eq!(label("blue"), None);
        assert_eq!(label("web01").as_deref(), Some("web01"));
    }
}
