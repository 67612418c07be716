//! The UNIX socket of the API.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
};

use tokio::net::UnixListener;

/// Mode of the socket: its owner and its group.
const MODE: u32 = 0o660;
/// Mode of a folder that is made for it.
const FOLDER_MODE: u32 = 0o755;

/// Listens at `path`. The socket of an agent that has ended is replaced, that of one that runs is
/// not.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        DirBuilder::new().mode(FOLDER_MODE).create(folder)?;
    }
    match UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "an agent answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Nothing is served before the mode is set: no client is accepted until the loop runs.
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(listener)
}
