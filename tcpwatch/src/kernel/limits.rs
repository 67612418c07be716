//! Resources of the kernel that run out, read from /proc.
//!
//! `orphan` and `mem` of sockstat count all namespaces, in each of them (net/ipv4/proc.c). The
//! sysctls `tcp_mem` and `tcp_max_orphans` are files of the first network namespace only.
//! `/proc/PID/net/stat/nf_conntrack` is of the namespace of that process.

use std::fs;

use crate::facts::{Conntrack, SharedLimits};

/// Resources that all namespaces share; the calling thread is in the agent's own.
pub(super) fn read_shared() -> SharedLimits {
    let sockstat = fs::read_to_string("/proc/thread-self/net/sockstat").unwrap_or_default();
    let memory = numbers("/proc/sys/net/ipv4/tcp_mem");
    let files = numbers("/proc/sys/fs/file-nr");
    SharedLimits {
        orphans: of_tcp(&sockstat, "orphan"),
        orphans_limit: numbers("/proc/sys/net/ipv4/tcp_max_orphans").first().copied(),
        tcp_memory_pages: of_tcp(&sockstat, "mem"),
        tcp_memory_pressure_pages: memory.get(1).copied(),
        tcp_memory_limit_pages: memory.get(2).copied(),
        page_bytes: u64::try_from(rustix::param::page_size()).ok(),
        files: files.first().copied(),
        files_limit: files.get(2).copied(),
    }
}

/// Connection tracking of the namespace of a process (`thread-self`: of the calling thread), and the
/// packets that it found invalid; `None` where there is none.
pub(super) fn read_conntrack(process: &str) -> Option<(Conntrack, Option<u64>)> {
    let text = fs::read_to_string(format!("/proc/{process}/net/stat/nf_conntrack")).ok()?;
    let (mut conntrack, invalid) = parse_conntrack(&text)?;
    conntrack.limit = numbers("/proc/sys/net/netfilter/nf_conntrack_max").first().copied();
    Some((conntrack, invalid))
}

/// The numbers of a sysctl; none where it cannot be read.
fn numbers(path: &str) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map_while(|number| number.parse().ok()).collect()
}

/// `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 30`
fn of_tcp(sockstat: &str, name: &str) -> Option<u64> {
    let counters = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = counters.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

/// A line of names, then one of hexadecimal numbers for each CPU. Each line has all entries of the
/// namespace; the counters are of the CPU.
fn parse_conntrack(text: &str) -> Option<(Conntrack, Option<u64>)> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_whitespace().collect();
    let of_cpus: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    let number = |line: &Vec<&str>, name: &str| {
        let column = names.iter().position(|it| *it == name)?;
        u64::from_str_radix(line.get(column)?, 16).ok()
    };
    let sum = |name| of_cpus.iter().map(|line| number(line, name)).sum::<Option<u64>>();
    let conntrack = Conntrack {
        entries: number(of_cpus.first()?, "entries")?,
        limit: None,
        dropped: sum("drop"),
        early_dropped: sum("early_drop"),
        insert_failed: sum("insert_failed"),
    };
    Some((conntrack, sum("invalid")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conntrack_counters_of_all_cpus_are_added_up_and_entries_are_not() {
        let text = "entries  found invalid insert_failed drop early_drop\n\
                    00000012  0 0000000a 1 2 3\n00000012 0 6 10 20 30\n";
        let expected = Conntrack {
            entries: 0x12,
            limit: None,
            dropped: Some(0x22),
            early_dropped: Some(0x33),
            insert_failed: Some(0x11),
        };
        assert_eq!(parse_conntrack(text), Some((expected, Some(16))));
        // A kernel that lacks a counter does not have a zero of it.
        let (conntrack, invalid) = parse_conntrack("entries found\n1 2\n").expect("entries");
        assert_eq!((conntrack.entries, conntrack.dropped, invalid), (1, None, None));
        assert_eq!(parse_conntrack(""), None);
        assert_eq!(parse_conntrack("entries found\n"), None);
    }

    #[test]
    fn sockstat_is_read_by_the_line_of_tcp() {
        let text = "sockets: used 28\nTCP: inuse 1 orphan 7 tw 0 alloc 1 mem 30\nUDP: mem 9\n";
        assert_eq!((of_tcp(text, "orphan"), of_tcp(text, "mem")), (Some(7), Some(30)));
        assert_eq!(of_tcp(text, "missing"), None);
        assert_eq!(of_tcp("UDP: mem 9\n", "mem"), None);
    }

    #[test]
    fn shared_limits_are_those_of_proc() {
        let read = read_shared();
        let file_nr = numbers("/proc/sys/fs/file-nr");
        assert_eq!(read.files_limit, file_nr.get(2).copied());
        let (read, now) = (read.files.expect("open files"), file_nr[0]);
        assert!(read.abs_diff(now) <= now / 2, "{read} and {now}");
    }
}
