//! A network namespace's sysctls and counters.
//!
//! The one pass copies the sysctls from `struct net`. For the iterator a thread that is inside reads
//! `/proc/sys/net`, which follows its namespace; `/proc/net` and `/proc/self/net` are the thread-group
//! leader's and would show the agent's own, hence `/proc/thread-self/net`. Counters are files of any
//! process of the namespace.

use std::fs;

use tcpwatch_common::{NamespaceRecord, NamespaceWalk, PORT_WORDS};

use crate::facts::{NetstatCounters, TwReuse};

/// The sysctls that the verdicts need.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// `net.ipv4.ip_local_port_range`, both ends inclusive.
    pub(super) port_range: (u16, u16),
    /// `net.ipv4.ip_local_reserved_ports`, a bit each; `None` where there is none.
    pub(super) reserved_ports: Option<Box<[u64; PORT_WORDS]>>,
    /// The same as the kernel prints it.
    pub(super) reserved: String,
    /// `net.ipv4.tcp_syncookies`.
    pub(super) syncookies: Option<u64>,
    /// `net.ipv4.tcp_abort_on_overflow`.
    pub(super) abort_on_overflow: Option<bool>,
    /// `net.ipv4.tcp_retries2`.
    pub(super) retries2: Option<u64>,
    /// `net.ipv4.tcp_orphan_retries`.
    pub(super) orphan_retries: Option<u64>,
    /// `net.ipv4.tcp_tw_reuse`.
    pub(super) tw_reuse: TwReuse,
    /// `net.ipv4.tcp_tw_reuse_delay`, 6.14 and later; it was a second before.
    pub(super) tw_reuse_delay_ms: u32,
    /// `net.ipv4.tcp_timestamps`.
    pub(super) timestamps: bool,
    /// `net.ipv4.tcp_max_tw_buckets`.
    pub(super) time_wait_limit: Option<u64>,
    /// `net.core.somaxconn`.
    pub(super) somaxconn: Option<u64>,
}

impl Settings {
    /// Settings of the calling thread's namespace. An unreadable one has the kernel's default.
    pub(super) fn read() -> Self {
        let port_range = sysctl("ip_local_port_range").and_then(|text| parse_range(&text));
        let reserved = sysctl("ip_local_reserved_ports").unwrap_or_default();
        Self {
            port_range: port_range.unwrap_or((32_768, 60_999)),
            reserved_ports: parse_ports(&reserved),
            reserved: reserved.trim().to_owned(),
            syncookies: sysctl("tcp_syncookies").and_then(|text| text.trim().parse().ok()),
            abort_on_overflow: sysctl("tcp_abort_on_overflow").map(|text| text.trim() != "0"),
            retries2: sysctl("tcp_retries2").and_then(|text| text.trim().parse().ok()),
            orphan_retries: sysctl("tcp_orphan_retries").and_then(|text| text.trim().parse().ok()),
            tw_reuse: sysctl("tcp_tw_reuse")
                .and_then(|text| text.trim().parse().ok())
                .and_then(TwReuse::of_number)
                .unwrap_or_default(),
            tw_reuse_delay_ms: sysctl("tcp_tw_reuse_delay")
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(1_000),
            timestamps: sysctl("tcp_timestamps").is_none_or(|text| text.trim() != "0"),
            time_wait_limit: sysctl("tcp_max_tw_buckets").and_then(|text| text.trim().parse().ok()),
            somaxconn: fs::read_to_string("/proc/sys/net/core/somaxconn")
                .ok()
                .and_then(|text| text.trim().parse().ok()),
        }
    }

    /// As `struct net` has them, with the reserved ports where there is any.
    pub(super) fn of(record: &NamespaceRecord, reserved: Option<Box<[u64; PORT_WORDS]>>) -> Self {
        /// Before 6.14 the delay was not configurable.
        const DELAY_MS: u32 = 1_000;
        let has_delay = record.tw_reuse_delay_ms != 0;
        Self {
            port_range: (record.port_low, record.port_high),
            reserved: reserved.as_deref().map(ports_as_text).unwrap_or_default(),
            reserved_ports: reserved,
            syncookies: Some(record.syncookies.into()),
            abort_on_overflow: Some(record.abort_on_overflow != 0),
            retries2: Some(record.retries2.into()),
            orphan_retries: Some(record.orphan_retries.into()),
            tw_reuse: TwReuse::of_number(record.tw_reuse.into()).unwrap_or_default(),
            tw_reuse_delay_ms: if has_delay { record.tw_reuse_delay_ms } else { DELAY_MS },
            timestamps: record.timestamps != 0,
            time_wait_limit: Some(record.time_wait_limit.into()),
            somaxconn: Some(record.somaxconn.into()),
        }
    }

    /// Those that the kernel side needs.
    pub(super) fn to_wire(&self) -> NamespaceWalk {
        NamespaceWalk {
            port_low: self.port_range.0,
            port_high: self.port_range.1,
            tw_reuse: self.tw_reuse.number() as u16,
            tw_reuse_delay_ms: self.tw_reuse_delay_ms,
            // Half: far below any threshold that means something, and few enough to copy.
            busy_at: self.available_ports().div_ceil(2).max(1),
            ..NamespaceWalk::ZERO
        }
    }

    /// Ports of the range that are not reserved: what one destination can have.
    pub(super) fn available_ports(&self) -> u32 {
        let (low, high) = self.port_range;
        (low..=high).fold(0, |sum, port| sum + u32::from(!self.is_reserved(port)))
    }

    /// Whether connect() may pick the port.
    pub(super) fn is_ephemeral(&self, port: u16) -> bool {
        let (low, high) = self.port_range;
        (low..=high).contains(&port) && !self.is_reserved(port)
    }

    fn is_reserved(&self, port: u16) -> bool {
        let is_in =
            |ports: &[u64; PORT_WORDS]| ports[usize::from(port) / 64] & (1 << (port % 64)) != 0;
        self.reserved_ports.as_deref().is_some_and(is_in)
    }
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(low), Ok(high)) => Some((low, high)),
        _ => None,
    }
}

/// `8080,9000-9100` as the kernel prints it.
fn parse_ports(text: &str) -> Option<Box<[u64; PORT_WORDS]>> {
    if text.trim().is_empty() {
        return None;
    }
    let mut words = Box::new([0; PORT_WORDS]);
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (Ok(low), Ok(high)) = (low.parse::<u16>(), high.parse::<u16>()) else { continue };
        for port in low..=high {
            words[usize::from(port) / 64] |= 1 << (port % 64);
        }
    }
    Some(words)
}

/// The same the other way round (`proc_do_large_bitmap`, kernel/sysctl.c).
fn ports_as_text(words: &[u64; PORT_WORDS]) -> String {
    let is_set = |port: u32| words[port as usize / 64] & (1 << (port % 64)) != 0;
    let mut parts = Vec::new();
    let mut next = 0;
    while let Some(first) = (next..=u32::from(u16::MAX)).find(|port| is_set(*port)) {
        let last = (first..=u32::from(u16::MAX)).take_while(|port| is_set(*port)).last();
        let last = last.unwrap_or(first);
        let is_one = first == last;
        parts.push(if is_one { first.to_string() } else { format!("{first}-{last}") });
        next = last + 1;
    }
    parts.join(",")
}

/// Whether the calling thread's namespace has any TCP socket or minisocket at all: `inuse` and
/// `tw` of sockstat. A walk passes over the whole table, which the namespaces share, so an empty
/// one is not worth it. `true` where that cannot be read.
pub(super) fn has_tcp_sockets() -> bool {
    let Ok(text) = fs::read_to_string("/proc/thread-self/net/sockstat") else { return true };
    let text6 = fs::read_to_string("/proc/thread-self/net/sockstat6").unwrap_or_default();
    let number = |text: &str, line: &str, key: &str| -> Option<u64> {
        let counters = text.lines().find_map(|candidate| candidate.strip_prefix(line))?;
        let mut words = counters.split_whitespace();
        words.find(|word| *word == key)?;
        words.next()?.parse().ok()
    };
    let Some(inuse) = number(&text, "TCP:", "inuse") else { return true };
    inuse > 0
        || number(&text, "TCP:", "tw").is_none_or(|count| count > 0)
        || number(&text6, "TCP6:", "inuse").is_some_and(|count| count > 0)
}

/// The counters of the namespace of a process, `thread-self` for the calling thread's.
pub(super) fn read_netstat(process: &str) -> Option<NetstatCounters> {
    parse_netstat(&fs::read_to_string(format!("/proc/{process}/net/netstat")).ok()?)
}

/// Lines come in pairs: `TcpExt: Name Name …` and `TcpExt: 1 2 …`.
fn parse_netstat(text: &str) -> Option<NetstatCounters> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut counters = NetstatCounters::default();
    for (name, value) in names.split(' ').zip(values.split(' ')) {
        match name {
            "TCPMemoryPressures" => counters.memory_pressures = Some(value.parse().ok()?),
            "TCPAbortOnMemory" => counters.memory_aborts = Some(value.parse().ok()?),
            _ => {}
        }
        let field = match name {
            "TCPTimeWaitOverflow" => &mut counters.time_wait_overflows,
            "ListenOverflows" => &mut counters.listen_overflows,
            "ListenDrops" => &mut counters.listen_drops,
            "SyncookiesSent" => &mut counters.syncookies_sent,
            _ => continue,
        };
        *field = value.parse().ok()?;
    }
    Some(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_lists_and_ranges() {
        let words = parse_ports("8080,9000-9002\n").expect("there are some");
        let set: Vec<u16> = (0..=u16::MAX)
            .filter(|port| words[usize::from(*port) / 64] & (1 << (port % 64)) != 0)
            .collect();
        assert_eq!(set, [8080, 9000, 9001, 9002]);
        assert_eq!(ports_as_text(&words), "8080,9000-9002");
        let ends = parse_ports("0,65534-65535").expect("there are some");
        assert_eq!(ports_as_text(&ends), "0,65534-65535");
        assert!(parse_ports("\n").is_none());
    }

    #[test]
    fn available_ports_are_the_range_less_the_reserved() {
        let settings = Settings {
            port_range: (40_000, 40_059),
            reserved_ports: parse_ports("39999-40001,40059,50000"),
            reserved: String::new(),
            syncookies: None,
            abort_on_overflow: None,
            tw_reuse_delay_ms: 1_000,
            retries2: Some(15),
            orphan_retries: Some(0),
            tw_reuse: TwReuse::Never,
            timestamps: true,
            time_wait_limit: None,
            somaxconn: None,
        };
        assert_eq!(settings.available_ports(), 57);
        let ephemeral = [39_999, 40_001, 40_002, 40_058, 40_059, 40_060];
        assert_eq!(
            ephemeral.map(|port| settings.is_ephemeral(port)),
            [false, false, true, true, false, false]
        );
    }

    #[test]
    fn netstat_counters_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows X TCPTimeWaitOverflow ListenDrops \
                    TCPAbortOnMemory\nTcpExt: 1 2 99 3 4 5\nIpExt: InOctets\nIpExt: 5\n";
        let expected = NetstatCounters {
            syncookies_sent: 1,
            listen_overflows: 2,
            time_wait_overflows: 3,
            listen_drops: 4,
            memory_aborts: Some(5),
            memory_pressures: None,
        };
        assert_eq!(parse_netstat(text), Some(expected));
        assert_eq!(parse_netstat(""), None);
    }
}
