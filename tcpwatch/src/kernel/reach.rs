//! How far this process sees: whether its namespaces are the host's, and what that hides.
//!
//! In a container everything looks as on a small host of its own, so a namespace is judged by what
//! only the initial one has. No privilege is needed for that.

use std::{collections::BTreeMap, fs, io, path::Path};

use rustix::thread::CapabilitySet;

use super::{error::errno_name, holds, hooks::HookStatus, namespaces::inode_of_link};
use crate::facts::{NotSeen, Unseen};

/// Inode number of the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h; now in
/// include/uapi/linux/nsfs.h). Numbers of all later ones are above `PROC_DYNAMIC_FIRST`, 0xf0000000.
const INITIAL_PIDNS: u32 = 0xefff_fffc;
/// Inode number of the initial network namespace, fixed since 6.18 (`NET_NS_INIT_INO`).
const INITIAL_NETNS: u32 = 0xefff_fff9;
/// Only the initial network namespace shows it, on every kernel: its table is registered there and
/// in no other (`net_core_table`, net/core/sysctl_net_core.c).
const ONLY_INITIAL: &str = "/proc/sys/net/core/netdev_max_backlog";
/// Every network namespace shows it (`netns_core_table`).
const EVERY: &str = "/proc/sys/net/core/somaxconn";
/// kthreadd, where the pid namespace is the initial one. A kernel thread never leaves the initial
/// network namespace.
const OF_KERNEL_THREAD: &str = "/proc/2/ns/net";

/// Whose a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The initial one.
    Host,
    /// Another, for example that of a container.
    Own,
    /// Not known.
    Unknown,
}

impl Whose {
    /// `host`, `own`, or empty where it is unknown.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Own => "own",
            Self::Unknown => "",
        }
    }
}

/// Where this process stands.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// The pid namespace.
    pub pidns: Whose,
    /// The network namespace.
    pub netns: Whose,
    /// Inode number of the initial network namespace, where it is known.
    host_netns: Option<u32>,
    /// /proc does not show processes of other users.
    hides_others: bool,
}

impl Reach {
    /// Looks around. The calling thread must be in the agent's own network namespace.
    #[must_use]
    pub fn detect() -> Self {
        let own = |kind: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
            inode_of_link(&link, kind)
        };
        let pidns = match own("pid") {
            Some(INITIAL_PIDNS) => Whose::Host,
            Some(_) => Whose::Own,
            None => Whose::Unknown,
        };
        let of_kernel_thread = || {
            let link = fs::read_link(OF_KERNEL_THREAD).ok()?;
            inode_of_link(&link, "net")
        };
        let kernel_threads = (pidns == Whose::Host).then(of_kernel_thread).flatten();
        let netns = match own("net") {
            Some(INITIAL_NETNS) => Whose::Host,
            Some(own) if kernel_threads == Some(own) => Whose::Host,
            _ => by_sysctls(Path::new(ONLY_INITIAL).exists(), Path::new(EVERY).exists()),
        };
        let host_netns = match netns {
            Whose::Host => own("net"),
            // The fixed number is of no namespace before 6.18, so it does no harm there.
            _ => Some(kernel_threads.unwrap_or(INITIAL_NETNS)),
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let hides_others = hides_processes(&mounts) && !holds(CapabilitySet::SYS_PTRACE);
        Self { pidns, netns, host_netns, hides_others }
    }

    /// Takes the inode number of the initial network namespace from one who knows it.
    pub(super) fn host_netns_is(&mut self, inode: Option<u32>) {
        self.host_netns = inode.or(self.host_netns);
    }

    /// Things that are hidden, after the namespaces with these inode numbers were walked.
    pub(super) fn not_seen(&self, walked: &[u32]) -> Vec<NotSeen> {
        let mut list = Vec::new();
        match self.pidns {
            Whose::Host => {}
            Whose::Own => list.push(
                NotSeen::new(
                    Unseen::PidNamespace,
                    "the host's processes",
                    "this pid namespace is not the host's; give the container the host's \
                     (docker --pid=host, hostPID: true)",
                )
                .hiding_host(),
            ),
            Whose::Unknown => list.push(
                NotSeen::new(
                    Unseen::PidNamespace,
                    "the host's processes",
                    "/proc does not show this process; mount /proc of its pid namespace",
                )
                .hiding_host(),
            ),
        }
        let host_was_walked = self.host_netns.is_some_and(|host| walked.contains(&host));
        match self.netns {
            Whose::Own if !host_was_walked => list.push(
                NotSeen::new(
                    Unseen::NetworkNamespace,
                    "the host's own network namespace",
                    "this network namespace is not the host's; give the container the host's \
                     (docker --network=host, hostNetwork: true)",
                )
                .hiding_host(),
            ),
            Whose::Unknown => list.push(NotSeen::new(
                Unseen::NetworkNamespace,
                "whether this network namespace is the host's",
                "/proc/sys/net is not shown here",
            )),
            Whose::Host | Whose::Own => {}
        }
        if self.hides_others {
            list.push(NotSeen::new(
                Unseen::Processes,
                "namespaces, executables and units of other users' processes",
                "/proc is mounted with hidepid; CAP_SYS_PTRACE shows them",
            ));
        }
        list
    }
}

/// Decided by two files: the initial namespace shows both, any other only the second.
const fn by_sysctls(only_initial: bool, every: bool) -> Whose {
    match (only_initial, every) {
        (true, _) => Whose::Host,
        (false, true) => Whose::Own,
        (false, false) => Whose::Unknown,
    }
}

/// Whether the /proc that is mounted last hides processes (proc(5), `hidepid`).
fn hides_processes(mountinfo: &str) -> bool {
    let mut proc = mountinfo.lines().filter(|line| line.split(' ').nth(4) == Some("/proc"));
    let options = proc.next_back().and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
    options.split(',').filter_map(|option| option.strip_prefix("hidepid=")).any(|level| {
        // By number or, since 5.8, by name.
        !matches!(level, "0" | "off")
    })
}

/// The hooks that are missing.
pub(super) fn missing_hooks(statuses: &[HookStatus]) -> Vec<NotSeen> {
    let missing = statuses.iter().filter_map(|status| {
        let refusal = status.outcome.as_ref().err()?;
        let why = format!("hook {} is not attached: {}", status.hook.name, refusal.reason());
        let hook = NotSeen::new(Unseen::Hook, status.hook.lost_without, why);
        Some(hook.named([status.hook.name]).errno(refusal.errno.map(errno_name)))
    });
    missing.collect()
}

/// Network namespaces that could not be looked at, by error.
#[derive(Debug, Default)]
pub(super) struct LeftOut(BTreeMap<(Step, Option<i32>), Vec<String>>);

/// The step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Its processes do not show which namespace they are in.
    Find,
    /// It cannot be entered.
    Enter,
    /// Its sockets cannot be walked.
    Walk,
    /// As [`Find`](Self::Find), for the one pass, which sees its sockets.
    Name,
    /// It cannot be entered for its counters, and no process in it shows them.
    Counters,
}

impl LeftOut {
    pub(super) fn add(&mut self, step: Step, error: Option<&io::Error>, name: &str) {
        let errno = error.and_then(io::Error::raw_os_error);
        self.0.entry((step, errno)).or_default().push(name.to_owned());
    }

    pub(super) fn not_seen(&self) -> impl Iterator<Item = NotSeen> {
        self.0.iter().map(|(&(step, errno), names)| {
            let count = names.len() as u64;
            let noun = if count == 1 { "network namespace" } else { "network namespaces" };
            let error = errno.map_or_else(String::new, |errno| format!(" ({})", errno_name(errno)));
            let (failed, allows, name) = match step {
                Step::Find => {
                    let failed = "ns/net of the processes inside cannot be read";
                    (failed, CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE")
                }
                Step::Enter => ("cannot be entered", CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
                Step::Walk => ("the walk over the sockets failed", CapabilitySet::empty(), ""),
                Step::Name => {
                    let failed = "ns/net of the processes inside cannot be read";
                    (failed, CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE")
                }
                Step::Counters => {
                    let failed = "no process is inside, and they cannot be entered";
                    (failed, CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")
                }
            };
            let lost = match step {
                Step::Find | Step::Enter | Step::Walk => "",
                Step::Name => "names and counters of ",
                Step::Counters => "counters of ",
            };
            let is_refused = matches!(errno, Some(libc::EPERM | libc::EACCES));
            let remedy = if is_refused && !holds(allows) {
                format!("; {name} allows it")
            } else {
                String::new()
            };
            NotSeen::new(
                Unseen::Namespaces,
                format!("{lost}{count} {noun}{}", listed(names)),
                format!("{failed}{error}{remedy}"),
            )
            .counted(count)
            .named(names.iter().map(String::as_str))
            .errno(errno.map(errno_name))
        })
    }
}

/// ` (a, b and 3 more)`, of those that have a name.
fn listed(names: &[String]) -> String {
    /// As many as fit on a line.
    const SHOWN: usize = 3;
    let named: Vec<&str> = names.iter().map(String::as_str).filter(|it| !it.is_empty()).collect();
    match named.len() {
        0 => String::new(),
        1..=SHOWN => format!(" ({})", named.join(", ")),
        more => format!(" ({} and {} more)", named[..SHOWN].join(", "), more - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(pidns: Whose, netns: Whose) -> Reach {
        Reach { pidns, netns, host_netns: Some(7), hides_others: false }
    }

    fn hides_host(list: &[NotSeen]) -> bool {
        list.iter().any(|it| it.hides_host)
    }

    #[test]
    fn on_the_host_nothing_is_hidden() {
        assert_eq!(reach(Whose::Host, Whose::Host).not_seen(&[7]), []);
    }

    #[test]
    fn a_container_does_not_see_the_host() {
        let list = reach(Whose::Own, Whose::Host).not_seen(&[7]);
        assert!(list.len() == 1 && list[0].what == Unseen::PidNamespace && hides_host(&list));
        let list = reach(Whose::Host, Whose::Own).not_seen(&[8]);
        assert!(list.len() == 1 && list[0].what == Unseen::NetworkNamespace && hides_host(&list));
    }

    #[test]
    fn a_host_namespace_that_was_walked_is_seen_from_another() {
        assert_eq!(reach(Whose::Host, Whose::Own).not_seen(&[8, 7]), []);
    }

    #[test]
    fn an_unknown_namespace_is_reported_and_hides_nothing() {
        let list = reach(Whose::Host, Whose::Unknown).not_seen(&[7]);
        assert!(list.len() == 1 && !hides_host(&list), "{list:?}");
    }

    #[test]
    fn the_initial_namespace_is_recognised_by_its_sysctls() {
        assert_eq!(by_sysctls(true, true), Whose::Host);
        assert_eq!(by_sysctls(false, true), Whose::Own);
        assert_eq!(by_sysctls(false, false), Whose::Unknown);
    }

    #[test]
    fn hidepid_is_read_from_the_last_mount_of_proc() {
        let plain = "22 27 0:21 / /proc rw,relatime - proc proc rw\n";
        let hidden = "23 27 0:22 / /proc rw - proc proc rw,gid=4,hidepid=invisible\n";
        assert!(!hides_processes(plain) && hides_processes(hidden));
        assert!(hides_processes(&format!("{plain}{hidden}")));
        assert!(!hides_processes(&format!("{hidden}{plain}")));
        assert!(
            !hides_processes("1 2 0:3 / /proc rw - proc proc rw,hidepid=0") && !hides_processes("")
        );
    }

    #[test]
    fn namespaces_left_out_are_counted_by_error() {
        let mut left_out = LeftOut::default();
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        for name in ["a", "b", "c", "d"] {
            left_out.add(Step::Enter, Some(&refused), name);
        }
        left_out.add(Step::Walk, None, "");
        let list: Vec<NotSeen> = left_out.not_seen().collect();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].count, Some(4));
        assert_eq!(list[0].errno.as_deref(), Some("EPERM"));
        assert!(list[0].to_string().contains("a, b, c and 1 more"), "{}", list[0]);
        assert_eq!(list[1].lost, "1 network namespace");
    }
}
