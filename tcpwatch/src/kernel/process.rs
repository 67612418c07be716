//! Details of a process from /proc: executable, systemd unit, container.

use std::{fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use super::cgroup::{Roots, parse_cgroup};
use crate::facts::{Process, Timestamp};

/// Clock ticks per second in /proc, on every architecture that Linux has had since 6.7
/// (include/asm-generic/param.h).
const USER_HZ: u64 = 100;

/// Reads processes.
#[derive(Clone, Debug)]
pub struct ProcessReader {
    roots: Roots,
}

impl Default for ProcessReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ProcessReader {
    /// Reads nothing yet but where this process is among the cgroups.
    #[must_use]
    pub fn new() -> Self {
        Self { roots: Roots::read() }
    }

    /// The details of `pid`, whose name and start the kernel side has reported. A process that has
    /// ended keeps only its name. So does one whose number a process of another name has taken
    /// since.
    #[must_use]
    pub fn read(&self, pid: u32, name: String, started: Option<Timestamp>) -> Process {
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
        if let Some(cgroups) = cgroups_of(pid) {
            (process.unit, process.container) = self.roots.parse(&cgroups);
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

/// The process that made `pid`, or has taken it over since that one ended.
pub(super) fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // `ppid` is field 4; the state after the name is field 3 (proc_pid_stat(5)).
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
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
    parse_cgroup(&cgroups_of(pid)?).1
}

/// The name of a cgroup may be any bytes but a newline.
fn cgroups_of(pid: u32) -> Option<String> {
    let cgroups = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    Some(String::from_utf8_lossy(&cgroups).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
