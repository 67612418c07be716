//! Reads a file of the configuration: a regular one, of bounded size, within bounded time.
//!
//! A file on a network filesystem or behind FUSE can hang in open() or read(). So a thread reads
//! it, and is left behind when it does not answer. Few are left behind: as long as they hang, the
//! next reading is refused at once.

use std::{
    io::Read as _,
    path::Path,
    sync::{Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::error::ConfigError;
use crate::regular_file::{self, OpenError};

/// The largest file that is read. The default file has some hundred lines. A file a thousand times
/// larger is a wrong path, and must not be taken into memory.
pub(super) const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Time for a file to be read. A local one takes a millisecond, a network filesystem that has to
/// wake a disk takes seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Readers that may hang at a time: each holds a stack, and the next would hang too.
const MOST_LATE: usize = 2;

/// Readers that did not answer in time and have not returned yet.
static LATE: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Reads the whole file. This takes [`PATIENCE`] at most. `expected` names its kind in errors: "a TOML
/// file".
pub(super) fn read(path: &Path, expected: &'static str) -> Result<Vec<u8>, ConfigError> {
    let late_now = || {
        let mut late = LATE.lock().unwrap_or_else(PoisonError::into_inner);
        late.retain(|reader| !reader.is_finished());
        late
    };
    if late_now().len() >= MOST_LATE {
        return Err(ConfigError::late(path, PATIENCE));
    }
    let (answer, answered) = mpsc::channel();
    let owned = path.to_owned();
    let work = move || drop(answer.send(read_regular(&owned, expected)));
    let reader = thread::Builder::new().name("config".to_owned()).spawn(work);
    let reader = reader.map_err(|error| ConfigError::unreadable(path, error))?;
    answered.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        late_now().push(reader);
        Err(ConfigError::late(path, PATIENCE))
    })
}

fn read_regular(path: &Path, expected: &str) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |error| ConfigError::unreadable(path, error);
    let file = regular_file::open(path).map_err(|error| match error {
        OpenError::Refused(error) => unreadable(error),
        OpenError::NotRegular(what) => ConfigError::not_regular(path, expected, what),
    })?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits. The
    // length in the inode is no bound: files of /proc have none, and a file can grow.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::too_large(path, expected, MAX_FILE_BYTES));
    }
    Ok(bytes)
}
