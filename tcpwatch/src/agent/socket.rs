//! The UNIX socket of the API.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener as Bound,
    },
    path::Path,
};

use rustix::{
    fs::{Mode, fchmod},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
        sockopt,
    },
};
use tokio::net::UnixListener;

/// Mode of the socket: its owner and its group.
const MODE: u32 = 0o660;
/// Mode of a folder that is made for it.
const FOLDER_MODE: u32 = 0o755;
/// In the mode of a folder: the group or all others may write into it.
const OTHERS_WRITE: u32 = 0o022;
/// In the mode of a folder: only its owner removes a file.
const STICKY: u32 = 0o1000;
/// Connections that wait to be accepted, as the standard library has it.
const BACKLOG: i32 = 128;

/// Why there is no socket.
pub(super) enum NoSocket {
    /// A process answers there, with this pid where the kernel knows it.
    Answered(Option<i32>),
    /// Another reason.
    Other(io::Error),
}

impl<E: Into<io::Error>> From<E> for NoSocket {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Listens at `path`. The socket of an agent that has ended is replaced, that of one that runs is
/// not, and no other file is.
pub(super) fn open(path: &Path) -> Result<UnixListener, NoSocket> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        if !folder.exists() {
            DirBuilder::new().mode(FOLDER_MODE).create(folder)?;
        }
        let mode = fs::metadata(folder)?.mode();
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "other users may write into its folder, and could put a socket of theirs there",
            )
            .into());
        }
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let address = SocketAddrUnix::new(path)?;
    let client = socket()?;
    match connect(&client, &address) {
        Ok(()) => {
            // Of the process that listens (unix_listen, net/unix/af_unix.c).
            let peer = sockopt::socket_peercred(&client).ok();
            return Err(NoSocket::Answered(peer.map(|peer| peer.pid.as_raw_pid())));
        }
        // A full backlog is that of a process that runs.
        Err(Errno::AGAIN) => return Err(NoSocket::Answered(None)),
        Err(Errno::CONNREFUSED) if fs::symlink_metadata(path)?.file_type().is_socket() => {
            fs::remove_file(path)?;
        }
        Err(Errno::CONNREFUSED) => {
            let error = io::Error::new(io::ErrorKind::AlreadyExists, "the file is no socket");
            return Err(error.into());
        }
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let bound = socket()?;
    // Before it has a name, so that at no time others may connect (unix_bind in net/unix/af_unix.c
    // takes the mode of the socket, less the umask).
    fchmod(&bound, Mode::from_raw_mode(MODE))?;
    bind(&bound, &address)?;
    // The group too, whatever the umask is.
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    listen(&bound, BACKLOG)?;
    Ok(UnixListener::from_std(Bound::from(bound))?)
}
