//! The sections that are not about one kind of finding: serving, logging, counting, bounding.
//!
//! The doc comment of a key is its comment in the default file: what it means, its unit, its
//! bounds, and why that default. A test holds the bounds in the comment against those in force.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{
    error::Fault,
    host::{ExternalUrl, HostName},
    name::Name,
    section::{Given, section},
    setting::{List, PORTS, choice},
};

/// Most addresses to listen on, and most hosts allowed: more than hosts have interfaces, and few
/// enough to compare each with each.
const MOST_ADDRESSES: usize = 64;

/// Most entries of a list of what to ignore. Each finding is compared with each of them; who has
/// more to ignore wants other thresholds.
const MOST_IGNORED: usize = 100;

section! {
    /// The HTTP server: page, metrics, API.
    pub struct Web {
        /// IP addresses with port to listen on, from 1 to 64, none twice. Loopback until you open
        /// it, because the page names processes and their peers. Port 10743 lies outside every
        /// default ephemeral range (Linux: 32768 to 60999), so that no outgoing connection takes
        /// it while tcpwatch restarts.
        pub listen_addresses: Vec<SocketAddr> =
            vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 10743))], in List {
                of: "addresses with port",
                example: "[\"127.0.0.1:10743\"]",
                // With none, nothing could be asked for what was found.
                length: 1..=MOST_ADDRESSES,
                each: (),
            };

        /// Hosts, by name or address without port, from 0 to 64, under which page and API are
        /// served beyond those that are known: addresses and this machine's name, on loopback only
        /// those of loopback. Other requests are refused, because the name of a stranger's site can
        /// lead to this address (DNS rebinding). None: the page is mostly opened by address.
        pub allowed_hosts: Vec<HostName> = Vec::new(), in List {
            of: "hosts",
            example: "[\"tcpwatch.example.org\"]",
            length: 0..=MOST_ADDRESSES,
            each: (),
        };

        /// The URL under which people reach the page, through a proxy for example; its host is
        /// allowed as well. "" is none: tcpwatch does not know what stands before it.
        pub external_url: ExternalUrl = ExternalUrl::default();
    }
}

section! {
    /// What tcpwatch says about itself and its findings, on stderr or in the journal.
    pub struct Log {
        /// The least severe level that is logged: "error", "warn", "info", "debug" or "trace".
        /// "info" is the quietest at which each finding's rise and end can be read afterwards.
        pub level: LogLevel = LogLevel::Info;

        /// "text" or "json", which is an object in a line for each record. Under systemd the
        /// journal gets fields in either case. "text" because who collects logs by machine sets
        /// this anyway, and who starts tcpwatch by hand does not.
        pub format: LogFormat = LogFormat::Text;
    }
}

choice! {
    /// The least severe level that is logged.
    pub enum LogLevel {
        /// What stops tcpwatch or a part of it.
        Error = "error",
        /// What it could not see or do.
        Warn = "warn",
        /// Findings, start, reload and end.
        Info = "info",
        /// For finding errors in tcpwatch.
        Debug = "debug",
        /// All there is.
        Trace = "trace",
    }
}

choice! {
    /// How log records are written.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object in a line.
        Json = "json",
    }
}

section! {
    /// The regular count of all sockets.
    pub struct Inventory {
        /// Time from one inventory to the next, from 100ms to 1h. 10s is shorter than the scrape
        /// interval of Prometheus' own example (15s), so that each scrape sees a new count; and a
        /// finding, which stands within two inventories, stands within 20s.
        pub interval: Duration = Duration::from_secs(10),
            in Duration::from_millis(100)..=Duration::from_secs(3600);

        /// The network namespaces that are watched: "all" or "host", which is the one in which
        /// tcpwatch runs. "all" because a container's leak fills the host's memory like any other.
        /// "host" gives CAP_SYS_ADMIN and CAP_SYS_PTRACE up: going back to "all" takes a restart.
        pub namespaces: Namespaces = Namespaces::All;
    }
}

choice! {
    /// The network namespaces that are watched.
    pub enum Namespaces {
        /// Every one on this host.
        All = "all",
        /// That in which tcpwatch runs.
        Host = "host",
    }
}

section! {
    /// Bounds on what tcpwatch itself uses. What goes beyond is counted, not dropped in silence.
    pub struct Limits {
        /// Owners (process and unit) that have a series of their own in each metric, from 1 to
        /// 10000; the largest are shown, the others summed as process="other". 50 because few
        /// hosts run more services than that, and each owner costs a series in every such metric.
        pub owners: usize = 50, in 1..=10_000;

        /// Sockets in CLOSE_WAIT that are described one by one in an inventory, from 100 to 1000000;
        /// those beyond are only counted. One service (role and port) gets at most a quarter of
        /// them, so that the largest leak hides no other. 16384 is 16 times the customary limit of
        /// 1024 open files; they take some 4 MiB.
        pub close_wait_sockets: usize = 16_384, in 100..=1_000_000;

        /// Bytes of the ring through which the kernel hands over events: a power of two from 4096
        /// to 67108864, and no smaller than a page of this host's memory, as the kernel demands.
        /// 262144 (256 KiB) holds some 2700 events: a burst of failures while tcpwatch is not
        /// scheduled. Events that find it full are counted as lost.
        pub ring_buffer_bytes: u32 = 262_144, in 4096..=67_108_864;

        /// HTTP connections at a time, from 1 to 1024. 64 is ample for some scrapers and browsers
        /// (which open up to 6 each), and far from the customary limit of 1024 open files, which
        /// tcpwatch also needs for its own work.
        pub http_connections: usize = 64, in 1..=1024;
    }
    check ring_is_a_power_of_two;
}

section! {
    /// Findings that nobody wants to hear of. A finding about one of these is not raised, whatever
    /// its kind; the metrics of its sockets stay. To say it of one kind alone, override `enabled`.
    /// Processes and units do not count for time-wait-exhaustion and ephemeral-port-exhaustion, which
    /// are a namespace's and a destination's, whoever uses them up; for the former no port does.
    pub struct Ignore {
        /// Names of processes, from 1 to 15 bytes each as the kernel keeps them; from 0 to 100 of
        /// them. None, because what is ignored here is ignored on the day when it matters too.
        pub processes: Vec<String> = Vec::new(), in List {
            of: "names of processes",
            example: "[\"backupd\"]",
            length: 0..=MOST_IGNORED,
            each: Name::Process,
        };

        /// Systemd services and scopes ("nginx.service"), containers and pods by their id cut to
        /// 12 characters, and system containers (LXC, nspawn) by their name, as the label `unit`
        /// has them; from 0 to 100. None, likewise.
        pub units: Vec<String> = Vec::new(), in List {
            of: "units",
            example: "[\"nginx.service\"]",
            length: 0..=MOST_IGNORED,
            each: Name::Unit,
        };

        /// Ports of services, from 1 to 65535 each, as the label `port` has them: the peer's port
        /// for a client, the listening port for a server; from 0 to 100. None, likewise.
        pub ports: Vec<u16> = Vec::new(), in List {
            of: "ports",
            example: "[8080]",
            length: 0..=MOST_IGNORED,
            each: PORTS,
        };

        /// Network namespaces, by names from 1 to 255 bytes, as the label `netns` has them ("host"
        /// is the one in which tcpwatch runs); from 0 to 100. None, likewise.
        pub namespaces: Vec<String> = Vec::new(), in List {
            of: "names of namespaces",
            example: "[\"build\"]",
            length: 0..=MOST_IGNORED,
            each: Name::Namespace,
        };
    }
}

/// `BPF_MAP_TYPE_RINGBUF` takes nothing else (kernel/bpf/ringbuf.c, `ringbuf_map_alloc`). Together
/// with the lower bound this makes the size a multiple of a 4096-byte page.
fn ring_is_a_power_of_two(limits: &Limits, given: &Given<'_>) -> Result<(), Fault> {
    if limits.ring_buffer_bytes.is_power_of_two() {
        return Ok(());
    }
    let above = limits.ring_buffer_bytes.next_power_of_two();
    let expected = format!("a power of two such as {} or {above}", above / 2);
    given.refuse("ring_buffer_bytes", expected).map_or(Ok(()), Err)
}
