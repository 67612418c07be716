//! What /proc says of a process: executable, systemd unit, container.

use std::{fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use crate::facts::{Process, Timestamp};

/// Characters of a container's or pod's id that are kept, as `docker ps` shows it.
const SHORT_ID: usize = 12;

/// Clock ticks per second in /proc, on every architecture that Linux has had since 6.7
/// (include/asm-generic/param.h).
const USER_HZ: u64 = 100;

/// Reads processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessReader;

impl ProcessReader {
    /// Reads nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// What is known of `pid`, whose name and start the kernel side has told. A process that has
    /// ended keeps its name alone; so does one whose number a process of another name has taken
    /// since.
    #[must_use]
    pub fn read(self, pid: u32, name: String, started: Option<Timestamp>) -> Process {
        let mut process =
            Process { pid, name, started: started.unwrap_or_default(), ..Process::default() };
        if leader_comm(pid).is_none_or(|comm| comm != process.name) {
            return process;
        }
        process.exe = fs::read_link(format!("/proc/{pid}/exe"))
            .ok()
            .map(|path| path.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
        if started.is_none() {
            process.started = start(pid).unwrap_or_default();
        }
        if let Ok(cgroups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) {
            (process.unit, process.container) = parse_cgroup(&cgroups);
        }
        process
    }
}

fn leader_comm(pid: u32) -> Option<String> {
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    // A name may be any bytes; the kernel side's is read the same way.
    Some(String::from_utf8_lossy(comm).into_owned())
}

/// When `pid` started, in clock ticks since boot: enough to see whether it is still the same.
/// `None` once it has ended, reaped or not.
pub(super) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name is in parentheses and may contain any of them.
    let after_name = &stat[stat.rfind(')')? + 1..];
    // `starttime` is field 22; the state after the name is field 3 (proc_pid_stat(5)).
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    // A zombie holds no file; its main thread may have ended before the others, though.
    let threads = fields.clone().nth(20 - 4)?.parse::<u32>().ok()?;
    if state == "X" || (state == "Z" && threads <= 1) {
        return None;
    }
    fields.nth(22 - 4)?.parse().ok()
}

/// When `pid` started. /proc counts the time that the host was suspended, CLOCK_MONOTONIC does not:
/// what began before that appears somewhat older than it is.
fn start(pid: u32) -> Option<Timestamp> {
    let since_boot =
        Duration::from_nanos(start_ticks(pid)?.saturating_mul(1_000_000_000 / USER_HZ));
    let boottime = clock_gettime(ClockId::Boottime);
    let now = Duration::new(boottime.tv_sec.unsigned_abs(), boottime.tv_nsec.unsigned_abs() as u32);
    Some(super::now() - now.saturating_sub(since_boot))
}

/// The container or pod that a process runs in.
pub(super) fn container_of(pid: u32) -> Option<String> {
    parse_cgroup(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?).1
}

/// The innermost systemd unit and the container (else pod) in `/proc/PID/cgroup`. On a host with
/// both hierarchies systemd's own names the unit where the unified one says nothing.
#[must_use]
pub fn parse_cgroup(text: &str) -> (Option<String>, Option<String>) {
    let path_of = |hierarchy: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (controllers == hierarchy && path != "/").then_some(path)
        })
    };
    let Some(path) = path_of("").or_else(|| path_of("name=systemd")) else { return (None, None) };
    let mut unit = None;
    let mut container = None;
    let mut pod = None;
    for part in path.split('/') {
        if let Some(id) = container_id(part) {
            container = Some(id);
        } else if let Some(id) = pod_id(part) {
            pod = Some(id);
        } else if part.ends_with(".service") || part.ends_with(".scope") {
            unit = Some(part.to_owned());
        }
    }
    // Inside a container the unit is that of the runtime's shim, or none of ours.
    let container = container.or(pod);
    (if container.is_some() { None } else { unit }, container)
}

/// `docker-<64 hex>.scope`, `cri-containerd-<64 hex>.scope`, `crio-…`, `libpod-…`, or the bare 64
/// digits of cgroup v1.
fn container_id(part: &str) -> Option<String> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let id = name.rsplit('-').next().unwrap_or(name);
    let id = id.rsplit(':').next().unwrap_or(id);
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id[..SHORT_ID].to_owned())
}

/// `kubepods-burstable-pod1a2b…​.slice` or `pod1a2b-…`.
fn pod_id(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let id = match name.rsplit_once("-pod") {
        Some((slices, id)) if slices.starts_with("kubepods") => id,
        _ => name.strip_prefix("pod")?,
    };
    let is_id = id.len() >= 32
        && id.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
    is_id.then(|| id[..SHORT_ID].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn assert_parsed(text: &str, unit: Option<&str>, container: Option<&str>) {
        let (found_unit, found_container) = parse_cgroup(text);
        assert_eq!(
            (found_unit.as_deref(), found_container.as_deref()),
            (unit, container),
            "{text}"
        );
    }

    #[test]
    fn the_start_of_a_process_is_on_the_clock_of_all_facts() -> std::io::Result<()> {
        let before = crate::kernel::now();
        let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
        let after = crate::kernel::now();
        // It reads two clocks; a pause of this thread between them makes the start look later.
        let started = (0..10).filter_map(|_| start(child.id())).min();
        child.kill()?;
        child.wait()?;
        let started = started.expect("it has not ended");
        // /proc knows it to a hundredth of a second, rounded down.
        let tick = Duration::from_millis(20);
        assert!(before - tick <= started && started <= after + tick, "{before:?} {started:?}");
        Ok(())
    }

    #[test]
    fn unit_and_container_are_read_from_the_cgroup_path() {
        assert_parsed("0::/system.slice/nginx.service\n", Some("nginx.service"), None);
        assert_parsed(
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/db.service\n",
            Some("db.service"),
            None,
        );
        assert_parsed(&format!("0::/system.slice/docker-{ID}.scope\n"), None, Some("0123456789ab"));
        assert_parsed(
            &format!("0::/kubepods.slice/kubepods-pod9f.slice/cri-containerd-{ID}.scope"),
            None,
            Some("0123456789ab"),
        );
        assert_parsed(
            "0::/kubepods.slice/kubepods-burstable-pod1a2b3c4d_5e6f_7a8b_9c0d_1e2f3a4b5c6d.slice",
            None,
            Some("1a2b3c4d_5e6"),
        );
        assert_parsed(
            &format!("12:cpu:/x\n1:name=systemd:/docker/{ID}\n0::/\n"),
            None,
            Some("0123456789ab"),
        );
        assert_parsed(
            "1:name=systemd:/system.slice/ssh.service\n0::/\n",
            Some("ssh.service"),
            None,
        );
        assert_parsed("0::/\n", None, None);
        assert_parsed("", None, None);
        assert_parsed("garbage", None, None);
    }
}
