//! A named network namespace, as `ip netns` makes it, and the ways into it.
//!
//! Sockets belong for good to the namespace of the thread that made them. So
//! each closure runs on a fresh thread that enters and ends with it. Its result
//! can be used from anywhere.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::socket_table::{self, SocketLine, State};

/// Marks the namespaces that this crate made: nothing else is ever deleted.
const PREFIX: &str = "tw-";

/// Where `ip netns` keeps its bind mounts.
const NETNS_DIR: &str = "/run/netns";

/// A handle on a named network namespace. Clones share it; the last one that
/// goes deletes the namespace, if this process made it.
#[derive(Clone, Debug)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
    owned: bool,
}

impl Namespace {
    /// Makes a namespace `tw-TAG-PID-N` and brings its `lo` up.
    ///
    /// # Errors
    /// Without root or without the `ip` command.
    pub fn new(tag: &str) -> Result<Self> {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(delete_leftovers);

        ensure!(
            !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
            "namespace tag {tag:?}: letters, digits and dashes only"
        );
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{tag}-{}-{serial}", process::id());
        ip(&["netns", "add", &name])?;
        // From here on a failure must delete it again: the handle does.
        let file = match File::open(Path::new(NETNS_DIR).join(&name)) {
            Ok(file) => file,
            Err(error) => {
                let _ = ip(&["netns", "del", &name]);
                return Err(error).with_context(|| format!("opening namespace {name}"));
            }
        };
        let namespace = Self { inner: Arc::new(Inner { name, file, owned: true }) };
        ip(&["-n", namespace.name(), "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A handle on a namespace that another process made and will delete.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn existing(name: &str) -> Result<Self> {
        let path = Path::new(NETNS_DIR).join(name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { inner: Arc::new(Inner { name: name.to_owned(), file, owned: false }) })
    }

    /// Its name under /run/netns.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its bind mount.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(self.name())
    }

    /// The inode by which the kernel knows it.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn inode(&self) -> Result<u64> {
        Ok(self.inner.file.metadata().context("inode of a namespace")?.ino())
    }

    /// Runs `work` on a fresh thread inside the namespace and waits for it.
    /// Inside, `/proc/net` still shows the old namespace: read
    /// `/proc/thread-self/net`.
    ///
    /// # Errors
    /// When the namespace cannot be entered. A panic of `work` goes on here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                self.enter_for_good()?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, and with it the threads
    /// and processes that it starts later. For the main thread of a process
    /// that lives there.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn enter_for_good(&self) -> Result<()> {
        move_into_link_name_space(self.inner.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering namespace {}", self.name()))
    }

    /// Starts `command` inside the namespace. Its parent *thread* ends at
    /// once, so it must not request a signal on its parent's death.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_in(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_owned();
        self.enter(|| command.spawn())?
            .with_context(|| format!("starting {} in {}", program.display(), self.name()))
    }

    /// Sets `net.…` of this namespace.
    ///
    /// # Errors
    /// When the kernel does not know the key or refuses the value.
    pub fn sysctl_set(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("setting {key} = {value} in {}", self.name()))
    }

    /// Reads `net.…` of this namespace, without the line end.
    ///
    /// # Errors
    /// When the kernel does not know the key.
    pub fn sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let value = self
            .enter(|| fs::read_to_string(&path))?
            .with_context(|| format!("reading {key} in {}", self.name()))?;
        Ok(value.trim_end().to_owned())
    }

    /// The output of `ss ARGS…` inside the namespace.
    ///
    /// # Errors
    /// When `ss` is missing or fails.
    pub fn ss(&self, args: &[&str]) -> Result<String> {
        let output = self
            .spawn_in(
                Command::new("ss")
                    .args(args)
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped()),
            )?
            .wait_with_output()
            .context("running ss")?;
        if !output.status.success() {
            bail!("ss {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("ss printed something that is not text")
    }

    /// How many sockets `ss -tan` shows in `state`.
    ///
    /// # Errors
    /// As [`Self::ss`].
    pub fn ss_count(&self, state: State) -> Result<usize> {
        let listing = self.ss(&["-tanH"])?;
        Ok(listing.lines().filter(|l| l.split(' ').next() == Some(state.ss_name())).count())
    }

    /// A counter of `/proc/net/netstat` by its name, such as
    /// `TCPTimeWaitOverflow`.
    ///
    /// # Errors
    /// When this kernel has none of that name.
    pub fn netstat_counter(&self, name: &str) -> Result<u64> {
        let text = self.proc_net("netstat")?;
        paired_counter(&text, "TcpExt:", name)
            .with_context(|| format!("no counter TcpExt {name} in /proc/net/netstat"))
    }

    /// A `Tcp:` counter of `/proc/net/snmp` by its name, such as `OutRsts`.
    ///
    /// # Errors
    /// When this kernel has none of that name.
    pub fn snmp_counter(&self, name: &str) -> Result<u64> {
        let text = self.proc_net("snmp")?;
        paired_counter(&text, "Tcp:", name)
            .with_context(|| format!("no counter Tcp {name} in /proc/net/snmp"))
    }

    /// A number of the `TCP:` line of `/proc/net/sockstat`: `inuse`,
    /// `orphan`, `tw`, `alloc` or `mem`.
    ///
    /// # Errors
    /// When it has none of that name.
    pub fn sockstat(&self, name: &str) -> Result<u64> {
        let text = self.proc_net("sockstat")?;
        text.lines()
            .find_map(|line| line.strip_prefix("TCP:"))
            .and_then(|line| {
                let mut words = line.split_whitespace();
                words.find(|word| *word == name)?;
                words.next()?.parse().ok()
            })
            .with_context(|| format!("no TCP {name} in /proc/net/sockstat"))
    }

    /// Every TCP socket of the namespace, IPv4 before IPv6.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn sockets(&self) -> Result<Vec<SocketLine>> {
        let mut sockets = socket_table::parse(&self.proc_net("tcp")?)?;
        // Absent where IPv6 is compiled out or switched off.
        if let Ok(text) = self.proc_net("tcp6") {
            sockets.extend(socket_table::parse(&text)?);
        }
        Ok(sockets)
    }

    /// How many of [`Self::sockets`] are `selected`.
    ///
    /// # Errors
    /// As [`Self::sockets`].
    pub fn count(&self, selected: impl Fn(&SocketLine) -> bool) -> Result<usize> {
        Ok(self.sockets()?.iter().filter(|s| selected(s)).count())
    }

    fn proc_net(&self, file: &str) -> Result<String> {
        let path = format!("/proc/thread-self/net/{file}");
        self.enter(|| fs::read_to_string(&path))?
            .with_context(|| format!("reading {path} in {}", self.name()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = ip(&["netns", "del", &self.name])
        {
            eprintln!("namespace {} stays behind: {error:#}", self.name);
        }
    }
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// For the first line of a test: true with root. Without, it prints
/// `skipped: needs root` and returns false.
///
/// # Panics
/// Without root, where `TCPWATCH_REQUIRE_ALL=1` forbids skips.
#[must_use]
pub fn root_or_skip() -> bool {
    if is_root() {
        return true;
    }
    assert!(
        std::env::var_os("TCPWATCH_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "this test needs root, and TCPWATCH_REQUIRE_ALL=1 turns a skip into a failure"
    );
    note_skip("needs root");
    false
}

/// The variable that names the file for [`note_skip`].
pub const SKIPPED: &str = "TCPWATCH_SKIPPED_TESTS";

/// Says that a test is skipped, and why. libtest hides what a passing test prints, so the reason is
/// also a line of the file that `TCPWATCH_SKIPPED_TESTS` names: `cargo xtask test` counts them.
pub fn note_skip(why: &str) {
    println!("skipped: {why}");
    let Some(file) = std::env::var_os(SKIPPED) else { return };
    // One write of less than a page, appended: tests of other processes do not mix with it.
    let line = format!("{}\n", why.replace('\n', " "));
    if let Ok(mut file) = File::options().append(true).open(file) {
        let _ = file.write_all(line.as_bytes());
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output =
        Command::new("ip").args(args).stdin(Stdio::null()).output().map_err(|error| match error
            .kind()
        {
            io::ErrorKind::NotFound => {
                anyhow::anyhow!("the `ip` command is missing: apt-get install iproute2")
            }
            _ => anyhow::Error::new(error).context("running ip"),
        })?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// `net.ipv4.ip_local_port_range` names /proc/sys/net/ipv4/ip_local_port_range.
fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

/// /proc/net/netstat and snmp: a line of names, then a line of values, both
/// with the same prefix.
fn paired_counter(text: &str, prefix: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = names.split_whitespace().position(|word| word == name)?;
    values.split_whitespace().nth(column)?.parse().ok()
}

/// Deletes what a crashed run left: our prefix, and a pid that is gone.
fn delete_leftovers() {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if maker(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// The pid in `tw-TAG-PID-N`.
fn maker(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(PREFIX)?.rsplitn(3, '-');
    let _serial: u32 = parts.next()?.parse().ok()?;
    let pid = parts.next()?.parse().ok()?;
    parts.next()?;
    Some(pid)
}

#[cfg(test)]
mod tests {
    use super::{maker, paired_counter};

    #[test]
    fn only_our_own_names_carry_a_maker() {
        assert_eq!(maker("tw-close-wait-4711-0"), Some(4711));
        assert_eq!(maker("tw-4711-0"), None);
        assert_eq!(maker("tw-customer"), None);
        assert_eq!(maker("blue"), None);
    }

    #[test]
    fn a_counter_is_found_by_its_column() {
        let text = "TcpExt: A B C\nTcpExt: 1 2 3\nIpExt: B\nIpExt: 9\n";
        assert_eq!(paired_counter(text, "TcpExt:", "B"), Some(2));
        assert_eq!(paired_counter(text, "TcpExt:", "D"), None);
    }
}
