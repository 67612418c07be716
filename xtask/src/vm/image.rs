//! The guest's root: a cpio archive that the kernel unpacks into memory.
//!
//! Programs come from this host with their libraries, so the guest has the
//! `ip` and the `ss` that the tests were written for; busybox has the others.
//! Owners are root and times are zero, so every build makes the same bytes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{
    packages::Kernel,
    suite::{INCIDENTS, Suite},
};
use crate::{
    command::{command, find, output},
    repository,
    tools::Missing,
};

/// PID 1.
const INIT: &str = include_str!("init.sh");

/// Programs that tests and scenes call; busybox has all others.
const PROGRAMS: [&str; 7] = ["busybox", "ip", "mount", "setpriv", "sh", "ss", "unshare"];

/// The programs of the test that counts instructions.
const BENCH: &str = "xtask/bpf/bench.bpf.o";

/// Folders with /usr as their home, in Debian since 12; linked in the guest.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// The archive that all guests have in common.
pub(super) fn base(suite: &Suite, scratch: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in MERGED {
        archive.folder(&Path::new("/usr").join(folder));
        archive.link(&Path::new("/").join(folder), &format!("usr/{folder}"));
    }
    for folder in ["/dev", "/proc", "/sys", "/tmp", "/run", "/root", "/modules", "/bb"] {
        archive.folder(Path::new(folder));
    }
    archive.file(Path::new("/init"), INIT.as_bytes());
    for program in PROGRAMS {
        let file = find(program)
            .with_context(|| Missing(format!("the command {program} is not there")))?;
        archive.program(&file, &Path::new("/usr/bin").join(program))?;
    }
    archive.stripped(&suite.agent, &suite.tcpwatch, scratch)?;
    archive.link(Path::new("/tcpwatch"), &suite.tcpwatch.to_string_lossy());
    let mut list = String::new();
    for test in &suite.tests {
        let to = Path::new("/tests").join(&test.name);
        archive.stripped(&test.file, &to, scratch)?;
        list += &format!("{} {}\n", test.name, test.filter);
    }
    archive.file(Path::new("/tests/list"), list.as_bytes());
    // For the test that counts instructions, which does not know the path, with its programs.
    let mut environment = format!("export TCPWATCH_BINARY={}\n", suite.tcpwatch.display());
    let bench = repository::root().join(BENCH);
    archive.file(&bench, &read(&bench)?);
    if let Some(incidents) = &suite.incidents {
        environment += &format!("export INCIDENTS={incidents}\n");
        // The path that was built into the recorder, as above.
        let folder = repository::root().join(INCIDENTS);
        let config = folder.join("tcpwatch.toml");
        archive.file(&config, &read(&config)?);
        archive.link(Path::new("/incidents"), &folder.to_string_lossy());
    }
    archive.file(Path::new("/tests/environment"), environment.as_bytes());
    Ok(archive.close())
}

/// The archive of this kernel's guest only, to put behind the base.
pub(super) fn modules(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for file in &kernel.modules {
        let name = file.file_name().context("a module's name")?;
        archive.file(&Path::new("/modules").join(name), &read(file)?);
    }
    Ok(archive.close())
}

/// A cpio in the making, of the kind "newc"
/// (<https://www.kernel.org/doc/html/latest/driver-api/early-userspace/buffer-format.html>).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: BTreeSet<PathBuf>,
}

/// Permissions and kind, as in `st_mode`.
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

impl Archive {
    /// A program or library with the libraries that it is linked with.
    fn program(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.libraries(from)?;
        self.file(to, &read(from)?);
        Ok(())
    }

    /// A build of ours without its debug information, which is most of it.
    fn stripped(&mut self, from: &Path, to: &Path, scratch: &Path) -> Result<()> {
        let stripped = scratch.join("stripped");
        output(command("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(from))?;
        self.program(&stripped, to)?;
        fs::remove_file(&stripped).context("removing a copy")
    }

    fn libraries(&mut self, program: &Path) -> Result<()> {
        // ldd fails on what is static.
        let Ok(text) = output(command("ldd").arg(program)) else { return Ok(()) };
        for line in text.lines() {
            ensure!(!line.contains("not found"), "{}: {}", program.display(), line.trim());
            let library = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(library) = library.map(Path::new) {
                self.file(library, &read(library)?);
            }
        }
        Ok(())
    }

    /// Everything may be executed: nothing in a guest minds.
    fn file(&mut self, path: &Path, content: &[u8]) {
        self.entry(path, FILE, content);
    }

    fn link(&mut self, path: &Path, target: &str) {
        self.entry(path, LINK, target.as_bytes());
    }

    fn folder(&mut self, path: &Path) {
        self.entry(path, FOLDER, &[]);
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let mut path = path.strip_prefix("/").unwrap_or(path).to_path_buf();
        // The kernel does not go through links that it has unpacked itself.
        if path.parent() != Some(Path::new("")) && MERGED.iter().any(|dir| path.starts_with(dir)) {
            path = Path::new("usr").join(path);
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.folder(parent);
        }
        if self.entries.insert(path.clone()) {
            self.record(&path.to_string_lossy(), mode, content);
        }
    }

    fn record(&mut self, name: &str, mode: u32, content: &[u8]) {
        let length = |bytes: usize| u32::try_from(bytes).expect("no file of a guest has 4 GiB");
        let inode = length(self.entries.len());
        let (size, name_size) = (length(content.len()), length(name.len()) + 1);
        // Magic, inode, mode, uid, gid, links, mtime, size, 4 device numbers,
        // size of the name, checksum (not used).
        let header = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in header {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Header with name, and content, each begin at a multiple of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn close(mut self) -> Vec<u8> {
        self.record("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("reading {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Archive;

    #[test]
    fn an_archive_has_each_entry_once_with_its_folders_first() {
        let mut archive = Archive::default();
        archive.file(Path::new("/lib/x/a"), b"12345");
        archive.file(Path::new("/lib/x/a"), b"12345");
        let bytes = archive.close();
        let text = String::from_utf8(bytes).expect("headers and this content are text");
        let at = |name: &str| text.find(&format!("{name}\0")).expect("an entry");
        assert!(at("0usr") < at("0usr/lib") && at("0usr/lib") < at("0usr/lib/x"), "{text}");
        assert_eq!(text.matches("0usr/lib/x/a\0").count(), 1, "{text}");
        assert!(text.len().is_multiple_of(4));
        let (_, content) = text.split_at(text.find("12345").expect("the content"));
        assert!(content.starts_with("12345\0\0\x00070701"), "{content}");
    }
}
