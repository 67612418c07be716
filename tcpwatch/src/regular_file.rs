//! Opens a file that a person has named, and only a file.
//!
//! A FIFO, a terminal or a device would keep a read waiting, and opening some devices acts on them.
//! They are refused before they are opened. A file of a network filesystem can still hang: a caller
//! that must not wait for it reads on a thread of its own.

use std::{fs::File, io, path::Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, stat};

/// Why a file cannot be read.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The system refused it.
    Refused(io::Error),
    /// It is something else: "a directory", "a FIFO".
    NotRegular(&'static str),
}

/// Opens the file for reading if it is a regular one.
///
/// # Errors
///
/// The reason of the system, or what it is instead.
pub(crate) fn open(path: &Path) -> Result<File, OpenError> {
    let refused = |error: rustix::io::Errno| OpenError::Refused(error.into());
    require_regular(stat(path).map_err(refused)?.st_mode)?;
    // Another file can have taken its place since, so opening does not wait, and the look is
    // taken again at what was opened.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = openat(CWD, path, flags, Mode::empty()).map_err(refused)?;
    require_regular(fstat(&file).map_err(refused)?.st_mode)?;
    Ok(File::from(file))
}

fn require_regular(mode: u32) -> Result<(), OpenError> {
    Err(OpenError::NotRegular(match FileType::from_raw_mode(mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }))
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(error) => error,
            OpenError::NotRegular(what) => {
                Self::other(format!("expected a regular file, found {what}"))
            }
        }
    }
}
