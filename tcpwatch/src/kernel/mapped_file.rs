//! Opening the files whose code another process runs, for a reader that can open none itself.
//!
//! The files belong to strangers. A device or FIFO is never opened, only regular files; nor is a
//! file whose file system may keep its reader waiting for ever. Nothing is read here.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};

use super::code::Mapping;

/// File systems that a network or a program answers for (proc_pid_mountinfo(5), field 9); it may
/// never answer. A type like `fuse.sshfs` counts as its first part.
const MAY_HANG: [&str; 10] =
    ["9p", "afs", "autofs", "ceph", "cifs", "fuse", "fuseblk", "nfs", "nfs4", "smb3"];

/// The file of a mapping, to be read. `None` where it cannot or should not be opened.
pub(super) fn open_mapped(pid: u32, mapping: &Mapping) -> Option<OwnedFd> {
    if may_hang(pid, &mapping.device) {
        return None;
    }
    // The link goes to the very file: no path is walked, and a deleted file opens too. It takes
    // CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; without them there is the path.
    let (start, end) = (mapping.start, mapping.end);
    let link = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
    let is_it = |stat: &Stat| stat.st_ino == mapping.inode;
    open_regular(&link, OFlags::empty(), is_it)
        .or_else(|_| {
            // By the process's own root: it may see other files under the same path.
            let path = format!("/proc/{pid}/root{}", mapping.path);
            open_regular(&path, OFlags::NOFOLLOW, is_it)
        })
        .inspect_err(
            |error| tracing::debug!(pid, module = ?mapping.name(), %error, "module not opened"),
        )
        .ok()
}

/// The perf map of a process: names of code that was made at run time. Only its own or root's, as
/// everybody may write into /tmp.
pub(super) fn open_perf_map(pid: u32) -> Option<OwnedFd> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // The number by which the process knows itself.
    let own_pid: u32 = last_word(&status, "NSpid:")?.parse().ok()?;
    let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let path = format!("/proc/{pid}/root/tmp/perf-{own_pid}.map");
    let is_its_own = |stat: &Stat| stat.st_uid == uid || stat.st_uid == 0;
    open_regular(&path, OFlags::NOFOLLOW, is_its_own).ok()
}

fn last_word<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().last()
}

/// Looks at what is there before it opens it, and opens just what it has looked at.
fn open_regular(path: &str, flags: OFlags, is_it: impl Fn(&Stat) -> bool) -> io::Result<OwnedFd> {
    let place = open(path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty())?;
    let stat = fstat(&place)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_it(&stat) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file = File::open(format!("/proc/self/fd/{}", place.as_fd().as_raw_fd()))?;
    Ok(file.into())
}

/// Whether the device, as /proc/PID/maps writes it, has a file system of [`MAY_HANG`].
fn may_hang(pid: u32, device: &str) -> bool {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    type_of_device(&mounts, device).is_some_and(|kind| {
        let kind = kind.split('.').next().unwrap_or(kind);
        MAY_HANG.contains(&kind)
    })
}

fn type_of_device<'a>(mounts: &'a str, device: &str) -> Option<&'a str> {
    let (major, minor) = parse_device(device, 16)?;
    mounts.lines().find_map(|line| {
        // maps writes both in hexadecimal, mountinfo in decimal.
        let mounted = parse_device(line.split(' ').nth(2)?, 10)?;
        if mounted != (major, minor) {
            return None;
        }
        line.split_once(" - ")?.1.split(' ').next()
    })
}

fn parse_device(text: &str, radix: u32) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((u32::from_str_radix(major, radix).ok()?, u32::from_str_radix(minor, radix).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
        40 22 0:52 / /mnt/far rw - nfs4 server:/far rw\n\
        41 22 0:27 / /mnt/own rw shared:9 master:2 - fuse.sshfs a:/ rw\n";

    #[test]
    fn the_file_system_of_a_mapping_is_found_by_its_device() {
        assert_eq!(type_of_device(MOUNTS, "fe:01"), Some("ext4"));
        assert_eq!(type_of_device(MOUNTS, "00:34"), Some("nfs4"));
        assert_eq!(type_of_device(MOUNTS, "00:1b"), Some("fuse.sshfs"));
        assert_eq!(type_of_device(MOUNTS, "00:00"), None);
        assert_eq!(type_of_device("garbage\n\n", "garbage"), None);
    }

    #[test]
    fn the_innermost_pid_of_a_process_is_read() {
        assert_eq!(last_word("Name:\tx\nNSpid:\t812\t7\n", "NSpid:"), Some("7"));
        assert_eq!(last_word("Name:\tx\n", "NSpid:"), None);
    }

    #[test]
    fn only_regular_files_are_opened() -> io::Result<()> {
        let any = |_: &Stat| true;
        assert!(open_regular("/proc/self/exe", OFlags::empty(), any).is_ok());
        assert!(open_regular("/proc/self/exe", OFlags::empty(), |_| false).is_err());
        assert!(open_regular("/dev/null", OFlags::empty(), any).is_err());
        assert!(open_regular("/tmp", OFlags::empty(), any).is_err());
        assert!(open_regular("/proc/self/root", OFlags::NOFOLLOW, any).is_err());
        Ok(())
    }
}
