//! The sections that are not about one kind of finding: serving, logging, counting, bounding.
//!
//! The doc comment of a key is its comment in the default file: its meaning, its unit, its
//! bounds, and why that default. A test holds the bounds in the comment against those in force.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::ValueEnum;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::{
    host::{ExternalUrl, HostName, Url},
    name::{NamespaceName, ProcessName, UnitName},
    section::section,
    until::{Dated, Ended, Entries},
    value::{
        Accepts as _, Address, CpuShare, List, Port, PowerOfTwo, SocketPath, Time, Whole, Word,
    },
};
use crate::facts::Scope;

/// Most addresses to listen on, and most hosts allowed: more than hosts have interfaces, and few
/// enough to compare each with each.
const MOST_ADDRESSES: usize = 64;

/// Most entries of a list in `[ignore]`. Each finding is compared with each of them. A host with
/// more needs other thresholds.
const MOST_IGNORED: usize = 100;

section! {
    /// The HTTP server: page, metrics, API.
    pub struct Web {
        /// IP addresses with port to listen on, from 1 to 64, none twice. Loopback until you open
        /// it, because the page names processes and their peers. Port 10743 lies outside every
        /// default ephemeral range (Linux: 32768 to 60999), so that no outgoing connection takes
        /// it while tcpwatch restarts.
        #[serde(with = "List::<Address, 1, MOST_ADDRESSES>")]
        pub listen_addresses: Vec<SocketAddr> = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 10743))];

        /// A UNIX socket, by absolute path of at most 107 bytes, on which the same API is served; ""
        /// is none. `tcpwatch check` reads there what this agent sees. Its mode is 0660: root and
        /// the group of the process may read findings. The folder is made if it is not there. Under
        /// /run, whose files are gone after a restart of the host.
        #[serde(with = "SocketPath")]
        pub socket: PathBuf = PathBuf::from("/run/tcpwatch/tcpwatch.sock");

        /// Hosts, by name or address without port, from 0 to 64, under which page and API are
        /// served beyond those that are known: addresses and this machine's name, on loopback only
        /// those of loopback. Other requests are refused, because the name of a stranger's site can
        /// lead to this address (DNS rebinding). None: the page is mostly opened by address.
        #[serde(with = "List::<HostName, 0, MOST_ADDRESSES>")]
        pub allowed_hosts: Vec<HostName> = Vec::new();

        /// The URL under which people reach the page, through a proxy for example; its host is
        /// allowed as well. "" is none: tcpwatch does not know of a proxy.
        #[serde(with = "Url")]
        pub external_url: ExternalUrl = ExternalUrl::default();
    }
}

section! {
    /// The log about tcpwatch itself and its findings, on stderr or in the journal.
    pub struct Log {
        /// The least severe level that is logged: "error", "warn", "info", "debug" or "trace".
        /// "info" is the quietest at which each finding's rise and end can be read afterwards.
        #[serde(with = "Word")]
        pub level: LogLevel = LogLevel::Info;

        /// "text" or "json", which is an object in a line for each record. Under systemd the
        /// journal gets fields in either case. "text" because a log collector is set up on
        /// purpose, which can include this key.
        #[serde(with = "Word")]
        pub format: LogFormat = LogFormat::Text;
    }
}

/// The least severe level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures that stop tcpwatch or a part of it.
    Error,
    /// Failures that tcpwatch survives, and limits of its sight.
    Warn,
    /// Findings, start, reload and end.
    Info,
    /// For finding errors in tcpwatch.
    Debug,
    /// All there is.
    Trace,
}

/// How log records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object in a line.
    Json,
}

section! {
    /// The regular count of all sockets.
    pub struct Inventory {
        /// Time from one inventory to the next, from 100ms to 1h. 10s is shorter than the scrape
        /// interval of Prometheus' own example (15s), so that each scrape sees a new count. A
        /// finding is raised within two inventories, so within 20s.
        #[serde(with = "Time::<100, 3_600_000>")]
        pub interval: Duration = Duration::from_secs(10);

        /// Part of one CPU that inventories take at most, from 0.001 to 0.1. Where one takes longer
        /// than `interval` allows, the interval grows, for this key up to 30s; beyond that it grows
        /// only to keep inventories below 0.1 of one CPU. The metric
        /// tcpwatch_inventory_interval_seconds shows it. 0.01 because then
        /// no program notices them: at the default interval it is 0.1 s an inventory, which is
        /// enough for 200,000 sockets.
        #[serde(with = "CpuShare")]
        pub cpu_share: f64 = 0.01;

        /// Whether an inventory sees the sockets of all network namespaces in one pass, without
        /// entering a namespace and without a lock: true or false. It takes Linux 6.1; elsewhere,
        /// and where it is refused, `tcpwatch doctor` says why not, and tcpwatch enters one namespace
        /// after the other, which takes CAP_SYS_ADMIN. true because 1,000 namespaces cost it less than
        /// twice as much as one with the same sockets, and no process can hold it up.
        pub one_pass: bool = true;

        /// The network namespaces that are watched: "all" or "host", which is the one in which
        /// tcpwatch runs. "all" because a container's leak fills the host's memory like any other.
        /// "host" gives CAP_SYS_PTRACE and CAP_SYS_ADMIN up: going back to "all" takes a restart.
        #[serde(with = "Word")]
        pub namespaces: Scope = Scope::All;
    }
}

section! {
    /// Bounds on what tcpwatch itself uses. Anything beyond is counted, not dropped in silence.
    pub struct Limits {
        /// Owners (process and unit) that have a series of their own in each metric, from 1 to
        /// 10000. The largest are shown, the others summed as process="other". 50 because few
        /// hosts run more services than that, and each owner costs a series in every such metric.
        #[serde(with = "Whole::<1, 10_000>")]
        pub owners: usize = 50;

        /// Sockets in CLOSE_WAIT that are described one by one in an inventory, from 100 to
        /// 1000000; those beyond are only counted. One service (role and port) gets at most a
        /// quarter of them, so that the largest leak hides no other. 16384 is 16 times the
        /// customary limit of 1024 open files; they take some 4 MiB.
        #[serde(with = "Whole::<100, 1_000_000>")]
        pub close_wait_sockets: usize = 16_384;

        /// Bytes of the ring through which the kernel hands over events: a power of two from 4096
        /// to 67108864, and no smaller than a page of this host's memory.
        /// 262144 (256 KiB) holds some 2700 events: a burst of failures while tcpwatch is not
        /// scheduled. Events that find it full are counted as lost.
        #[serde(with = "PowerOfTwo::<4096, 67_108_864>")]
        pub ring_buffer_bytes: u32 = 262_144;

        /// HTTP connections at a time, from 1 to 1024. 64 is ample for some scrapers and browsers
        /// (which open up to 6 each), and far from the customary limit of 1024 open files, which
        /// tcpwatch also needs for its own work.
        #[serde(with = "Whole::<1, 1024>")]
        pub http_connections: usize = 64;

        /// Events in a second that /api/v1/events and `tcpwatch events` hand over at most, from 0 to
        /// 10000, all readers and processors together; the others are counted as dropped, and the
        /// stream says how many. 1000 is more than a person reads, and a second of it fits in the
        /// ring. 0 switches both off: they show which process connects to which peer.
        #[serde(with = "Whole::<0, 10_000>")]
        pub events_per_second: u32 = 1_000;
    }
}

section! {
    /// Findings to suppress. A finding about one of these is not raised, whatever its kind; the
    /// metrics of its sockets stay. To suppress only one kind, override `enabled`.
    /// time-wait-exhaustion is matched only by namespace, ephemeral-port-exhaustion only by
    /// namespace and port. An entry may end by itself: { name = "nginx", until = "2027-01-31" }
    /// (for a port { port = 8080, until = "2027-01-31" }) applies up to that day (UTC) and is
    /// reported once when it no longer does.
    pub struct Ignore {
        /// Names of processes, from 1 to 15 bytes each as the kernel keeps them; from 0 to 100 of
        /// them. None, because an ignored process is also ignored on the day when it matters.
        #[serde(with = "Dated::<ProcessName, MOST_IGNORED>")]
        pub processes: Entries<String> = Entries::default();

        /// Systemd services and scopes ("nginx.service"), containers and pods by their id cut to
        /// 12 characters, and system containers (LXC, nspawn) by their name, as the label `unit`
        /// has them; from 0 to 100. None, likewise.
        #[serde(with = "Dated::<UnitName, MOST_IGNORED>")]
        pub units: Entries<String> = Entries::default();

        /// Ports of services, from 1 to 65535 each, as the label `port` has them: the peer's port
        /// for a client, the listening port for a server; from 0 to 100. None, likewise.
        #[serde(with = "Dated::<Port, MOST_IGNORED>")]
        pub ports: Entries<u16> = Entries::default();

        /// Network namespaces, by names from 1 to 255 bytes, as the label `netns` has them ("host"
        /// is the one in which tcpwatch runs); from 0 to 100. None, likewise.
        #[serde(with = "Dated::<NamespaceName, MOST_IGNORED>")]
        pub namespaces: Entries<String> = Entries::default();
    }
}

impl Ignore {
    /// Takes out what has ended before `today`.
    pub(super) fn end(&mut self, today: Date, ended: &mut Vec<Ended>) {
        self.processes.end("ignore.processes", today, ended);
        self.units.end("ignore.units", today, ended);
        self.ports.end("ignore.ports", today, ended);
        self.namespaces.end("ignore.namespaces", today, ended);
    }
}
