//! How many file descriptors a process has open, and how many it may.

use std::{collections::BTreeMap, fs};

use crate::facts::{DescriptorUse, Namespace, TcpState};

/// Sockets in CLOSE_WAIT, or in FIN_WAIT2, from which on their process's descriptors are counted: before 6.2 each of
/// them is one step through its folder.
const SOCKETS: u32 = 5;
/// Processes whose descriptors are counted in one inventory: the ones with most sockets.
const PROCESSES: usize = 32;

/// Descriptors of the processes that hold sockets in CLOSE_WAIT or FIN_WAIT2.
pub(super) fn of_holders(namespaces: &[Namespace]) -> BTreeMap<u32, DescriptorUse> {
    let mut sockets: BTreeMap<u32, u32> = BTreeMap::new();
    let close_wait = namespaces.iter().flat_map(|namespace| &namespace.close_wait);
    let waiting = namespaces.iter().flat_map(|namespace| &namespace.waiting);
    let fin_wait2 = waiting.filter(|socket| socket.state == TcpState::FinWait2);
    let owners = close_wait.filter_map(|socket| socket.owner.as_ref());
    for owner in owners.chain(fin_wait2.filter_map(|socket| socket.owner.as_ref())) {
        *sockets.entry(owner.process.pid).or_default() += 1;
    }
    let mut most: Vec<(u32, u32)> =
        sockets.into_iter().filter(|(_, sockets)| *sockets >= SOCKETS).collect();
    most.sort_by_key(|(_, sockets)| std::cmp::Reverse(*sockets));
    most.truncate(PROCESSES);
    most.into_iter().filter_map(|(pid, _)| Some((pid, of_process(pid)?))).collect()
}

/// `None` where the process has ended or may not be read, or has no limit.
fn of_process(pid: u32) -> Option<DescriptorUse> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let (limit, hard_limit) = parse_limits(&limits)?;
    Some(DescriptorUse { open: open(pid)?, limit, hard_limit })
}

/// Since 6.2 the size of the folder is the number of its entries ("proc: report open files as size in stat() for /proc/pid/fd"), which takes
/// no permission to know; before, they must be counted, which takes CAP_DAC_READ_SEARCH for processes
/// of others.
fn open(pid: u32) -> Option<u64> {
    let folder = format!("/proc/{pid}/fd");
    match fs::metadata(&folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count() as u64),
        entries => Some(entries),
    }
}

/// Soft and hard: `Max open files            1024                 524288               files`. `None`
/// where the soft one is none.
fn parse_limits(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut columns = line.split_whitespace();
    let soft = columns.next()?.parse().ok()?;
    let hard = match columns.next()? {
        "unlimited" => u64::MAX,
        hard => hard.parse().ok()?,
    };
    Some((soft, hard))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn both_limits_are_read() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files  1024  524288  files\n";
        assert_eq!(parse_limits(limits), Some((1_024, 524_288)));
        let unlimited = "Max open files  1024  unlimited  files";
        assert_eq!(parse_limits(unlimited), Some((1_024, u64::MAX)));
        assert_eq!(parse_limits("Max open files  unlimited  unlimited  files"), None);
        assert_eq!(parse_limits(""), None);
    }

    /// A child that does nothing is counted: other tests open and close files of this process.
    #[test]
    fn descriptors_of_a_process_are_counted() -> std::io::Result<()> {
        let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
        let pid = child.id();
        let listed = || fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
        // spawn() returns with exec(); the loader still opens and closes libraries then.
        let mut seen = (listed()?, of_process(pid));
        for _ in 0..1_000 {
            if seen.1.as_ref().is_some_and(|counted| counted.open == seen.0 as u64) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            seen = (listed()?, of_process(pid));
        }
        child.kill()?;
        child.wait()?;
        let (listed, counted) = (seen.0, seen.1.expect("a child can be read"));
        assert_eq!(counted.open, listed as u64);
        assert!(listed >= 3, "{listed}");
        assert!(counted.limit >= counted.open && counted.hard_limit >= counted.limit);
        Ok(())
    }
}
