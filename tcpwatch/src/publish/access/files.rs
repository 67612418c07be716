//! Whether files have changed since they were read.

use std::path::PathBuf;

use rustix::fs::{Stat, stat};

/// Files, each with a stamp of its content. A file that is not there has none.
#[derive(Clone)]
pub(super) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

/// Another file, or other content: a rename or a link that was turned changes the inode, a write
/// the times and perhaps the size, chmod() and a restored mtime the time of the inode's change.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Stamps {
    pub(super) fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut stamps = Self(Vec::new());
        stamps.add(files);
        stamps
    }

    pub(super) fn add(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        self.0.extend(files.into_iter().map(|file| {
            let stamp = stamp(&file);
            (file, stamp)
        }));
    }

    pub(super) fn have_changed(&self) -> bool {
        self.0.iter().any(|(file, known)| stamp(file) != *known)
    }
}

fn stamp(file: &PathBuf) -> Option<Stamp> {
    #[allow(clippy::unnecessary_cast, reason = "the types differ between architectures")]
    let of = |stat: Stat| Stamp {
        file: (stat.st_dev as u64, stat.st_ino as u64),
        size: stat.st_size as i64,
        modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
        changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
    };
    stat(file).ok().map(of)
}
