//! The sections `[detect.<kind>]`: from when on a condition is a finding, and how severe.
//!
//! Thresholds are `warning` and `critical`, ages `min_age`, windows `window`. A value at a
//! threshold has reached it. Whatever is compared with a threshold lives in the engine; here is
//! only the number, and in its comment the reason for it.

use std::time::Duration;

use super::{
    overridable::Overridable,
    section::section,
    severity::Severity,
    value::{Accepts as _, Ratio, Time, Whole, Word},
};

/// Milliseconds of the longest age and window. The engine remembers what happened in a window; a
/// day is longer than a person waits for a finding.
const DAY: u64 = 24 * 3_600_000;

/// Ages.
type Age = Time<0, DAY>;

/// Windows. Shorter ones would be over before the next inventory could use them.
type Window = Time<1_000, DAY>;

/// Thresholds in sockets or events: at most as many as `limits.close_wait_sockets` can be.
type Sockets = Whole<1, 1_000_000>;

section! {
    /// Findings: each kind has a section with its thresholds. A value that reaches a threshold
    /// counts as beyond it; `warning` is never above `critical`.
    pub struct Detect {
        pub close_wait_pileup: Overridable<CloseWaitPileup>;
        pub time_wait_exhaustion: TimeWaitExhaustion;
        pub ephemeral_port_exhaustion: Overridable<EphemeralPortExhaustion>;
        pub self_connection: Overridable<SelfConnection>;
        pub self_connect_risk: Overridable<SelfConnectRisk>;
        pub syn_flood: Overridable<SynFlood>;
        pub handshake_stall: Overridable<HandshakeStall>;
        pub accept_queue_overflow: Overridable<AcceptQueueOverflow>;
        pub reset_storm: Overridable<ResetStorm>;
        pub bind_conflict: Overridable<BindConflict>;
        pub stuck_state: Overridable<StuckState>;
        pub keepalive_race: Overridable<KeepaliveRace>;
        pub stalled_send: Overridable<StalledSend>;
        pub kernel_limit: KernelLimit;
    }
}

section! {
    /// close-wait-pileup: one process, unit or container keeps sockets in CLOSE_WAIT. The peer has
    /// closed, the process has not: it leaks a file descriptor with each.
    pub struct CloseWaitPileup {
        /// true or false. On, because CLOSE_WAIT lasts until the process closes: no timer of the
        /// kernel ends it, only TCP keepalive does where the process has set it.
        pub enabled: bool = true;

        /// How long a socket must have been in CLOSE_WAIT to count, from 0s to 24h. 60s is the
        /// kernel's default tcp_fin_timeout: a Linux peer that closed has by then forgotten the
        /// connection, and answers whatever is still sent with a reset. Nothing is left to wait
        /// for. A socket on which data was sent and acknowledged meanwhile is half-closed on
        /// purpose, and counts when it has been silent for twice as long. The nearest healthy
        /// program is a log stream to a client that has shut down its side.
        #[serde(with = "Age")]
        pub min_age: Duration = Duration::from_secs(60);

        /// Sockets of one owner (process, unit or container), from 1 to 1000000, that raise an
        /// info; from `warning` upwards it adds nothing. 20 is more than most pools leave behind
        /// when their server closes all of it (HikariCP 10, SQLAlchemy 15).
        #[serde(with = "Sockets")]
        pub info: u64 = 20;

        /// Sockets of one process, from 1 to 1000000, that raise a warning. 33 is one more than the
        /// largest pool of common default size holds (30 to 32 under PostgreSQL's
        /// idle_session_timeout): such connections are stale, but bounded, and no leak. A quarter
        /// of the process's limit of open files raises it too. Several processes of a unit or
        /// container together are info however many sockets they hold: 22 workers with a pool of
        /// 10 each hold 220.
        #[serde(with = "Sockets")]
        pub warning: u64 = 33;

        /// Sockets of one process, from 1 to 1000000, that are critical whatever its limit of open
        /// files is. With fewer it is critical when nine tenths of its descriptors are open, or
        /// when growth takes the last one within ten minutes. 10000 is far above 1024, the
        /// customary limit: a program that is allowed so many, an nginx or HAProxy, has the
        /// descriptors for it, but needs memory for each.
        #[serde(with = "Sockets")]
        pub critical: u64 = 10_000;

        /// Sockets of one process, from 1 to 1000000, that raise a warning already if their number
        /// has grown in every quarter of `window`; from `warning` upwards it adds nothing. 11 is
        /// one more than an LRU pool of 10 reaches that fills with stale connections (urllib3,
        /// requests). Several processes of a unit or container need as many for each of them. The
        /// warning stands until more than a tenth of them is closed.
        #[serde(with = "Sockets")]
        pub growing: u64 = 11;

        /// The time over which growth is judged, from 1s to 24h; its quarters should be longer
        /// than inventory.interval, or growth cannot be seen. 10m makes quarters of 150s: longer
        /// than min_age, so that a single burst does not appear to grow in each of them.
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(600);

        /// true or false: whether to record the user stacks that open connections, so that the
        /// finding can name the function. On, because only the processes whose sockets in
        /// CLOSE_WAIT grow right now are recorded, eight at most: a healthy host pays for one look
        /// into a table with each connect() and accept().
        pub stacks: bool = true;
    }
}

section! {
    /// time-wait-exhaustion: sockets in TIME_WAIT near net.ipv4.tcp_max_tw_buckets of their
    /// namespace. At the limit the kernel drops new ones at once, and late segments of an old
    /// connection can reach its successor.
    pub struct TimeWaitExhaustion {
        /// true or false. On, because no call fails: the kernel counts and writes to its own log.
        pub enabled: bool = true;

        /// Part of the limit, above 0 and at most 1, that raises a finding: info while nothing fails,
        /// as a warning where TIME_WAIT takes the ports of a destination that nears its last.
        /// TIME_WAIT lasts 60s, so the number follows the rate of closes: at 0.8 a quarter more
        /// closes per second reach the limit, which an ordinary peak brings. The healthy program
        /// nearest to it is any server on a virtual machine of 1 GiB, whose limit is 4096: with 81
        /// closes per second it is at the limit all day.
        #[serde(with = "Ratio")]
        pub warning: f64 = 0.8;

        /// Part of the limit, above 0 and at most 1, that is critical while connect() fails for want
        /// of a port that TIME_WAIT has; so is an overflow. At 0.95 one close in twenty more reaches
        /// the limit: no more than its rate varies anyway.
        #[serde(with = "Ratio")]
        pub critical: f64 = 0.95;

        /// How long an overflow counts after the last one, from 1s to 24h. 60s is how long Linux
        /// would have kept the socket that it dropped (TCP_TIMEWAIT_LEN).
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(60);
    }
}

section! {
    /// ephemeral-port-exhaustion: local ports towards one destination (source address, destination
    /// address and port) run out. At the end connect() fails with EADDRNOTAVAIL, which is always
    /// critical.
    pub struct EphemeralPortExhaustion {
        /// true or false. On, because programs report it as if the destination were at fault.
        pub enabled: bool = true;

        /// Part of the usable ports, above 0 and at most 1, that raises a warning. 0.8 leaves 5646
        /// of the 28232 in the default range; as a port closed first from here stays taken for 60s,
        /// 94 more connections per second fit. The ports are the destination's: only `port`
        /// overrides their thresholds. The nearest healthy program is a load generator that makes a
        /// connection for each request (wrk, ab against nginx): half of the range in TIME_WAIT.
        #[serde(with = "Ratio")]
        pub warning: f64 = 0.8;

        /// Part of the usable ports, above 0 and at most 1, that is critical. 0.95 leaves 1411
        /// of the 28232 in the default range: enough for 23 more connections per second, and each
        /// connect() searches long for a free one.
        #[serde(with = "Ratio")]
        pub critical: f64 = 0.95;

        /// How long a failed connect() counts after the last one, from 1s to 24h. 60s is how long
        /// TIME_WAIT holds a port (TCP_TIMEWAIT_LEN): ports that were taken then are free again.
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(60);
    }
}

section! {
    /// self-connection: a socket is connected to itself. A client that retries a local port while
    /// no process listens on it gets that same port as its own in the end (simultaneous open, RFC
    /// 9293 section 3.5), reads what it writes, and keeps the real server from binding.
    pub struct SelfConnection {
        /// true or false. On, because hardly any program does this on purpose.
        pub enabled: bool = true;

        /// The severity of the finding: "info", "warning" or "critical". "warning" because one
        /// such socket is a defect, but an outage only once the server wants its port back.
        #[serde(with = "Word")]
        pub severity: Severity = Severity::Warning;
    }
}

section! {
    /// self-connect-risk: a port from which a socket may come to be connected to itself: one that
    /// a process listens on inside ip_local_port_range and that is not reserved, or one in there
    /// that a local client keeps retrying while no process listens.
    pub struct SelfConnectRisk {
        /// true or false. On, because the cure is one sysctl and the harm comes at a restart, when
        /// no person has time. Listeners are info, one finding for each owner, and only those whose
        /// port bind() named: what the kernel picked (Jupyter kernels, JMX, Spark, Erlang) is
        /// another at the next start.
        pub enabled: bool = true;

        /// How long a process must have listened there, from 0s to 24h. 60s, so that the ports that
        /// tests and passive FTP listen on for moments are not spoken of.
        #[serde(with = "Age")]
        pub min_age: Duration = Duration::from_secs(60);

        /// Refused connections to such a port within `window`, from 1 to 1000000, that raise a
        /// finding: info, and a warning once they have had a chance of one in twenty to meet their
        /// own port (706 in the default range). 10 a minute is a client that retries in a loop, not
        /// a person who tries. A service that starts 30 s after ten clients that retry each second
        /// refuses 300: info.
        #[serde(with = "Sockets")]
        pub warning: u64 = 10;

        /// The time over which they are counted, from 1s to 24h; so long does the finding stand
        /// after the last one. 60s is longer than the pause of nearly every client that retries.
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(60);
    }
}

section! {
    /// syn-flood: half-open connections from many sources crowd a listener. Counted are those whose
    /// SYN-ACK had to be sent again: a handshake that goes well never gets there, however many
    /// there are. SYN cookies being sent is no finding by itself: that is what they are for.
    pub struct SynFlood {
        /// true or false. On, because to the application a flood looks like no traffic at all.
        pub enabled: bool = true;

        /// Unanswered half-open connections of a port, from 1 to 1000000, that raise a warning, if
        /// there is a source for every second one at least, or 1000 sources. Fewer do where they
        /// fill half of the listener's queue (its backlog), but never fewer than 20. 200 is far
        /// more than the clients that vanish in the middle of a handshake on a busy host. The
        /// healthy program nearest to it is a server whose backlog of 50 meets 150 clients at once:
        /// 16.
        #[serde(with = "Sockets")]
        pub warning: u64 = 200;

        /// Unanswered half-open connections of a port, from 1 to 1000000, that are critical. 1000
        /// fills the queue of most servers.
        #[serde(with = "Sockets")]
        pub critical: u64 = 1_000;
    }
}

section! {
    /// handshake-stall: half-open connections from few sources stay, so their answers do not
    /// arrive: a route or a firewall lets packets through in one direction only.
    pub struct HandshakeStall {
        /// true or false. On, because neither side logs anything.
        pub enabled: bool = true;

        /// Unanswered half-open connections of a port, from 1 to 1000000, that raise a warning, if
        /// there are fewer sources than half of them. Fewer do where they fill half of the
        /// listener's queue (its backlog), but never fewer than 20. 100 from one client is a client
        /// that tries again and again and does not get through; a port scan makes one. The healthy
        /// program nearest to it has 16, see `syn_flood`.
        #[serde(with = "Sockets")]
        pub warning: u64 = 100;

        /// Unanswered half-open connections of a port, from 1 to 1000000, that are critical. 1000
        /// fills the queue of most servers, for everybody.
        #[serde(with = "Sockets")]
        pub critical: u64 = 1_000;
    }
}

section! {
    /// accept-queue-overflow: connections that have been made wait for accept() and the queue is
    /// full, or nothing is accepted. At a full queue further attempts are dropped, and the client
    /// finds out by a time-out.
    pub struct AcceptQueueOverflow {
        /// true or false. On, because only the kernel's counters show it.
        pub enabled: bool = true;

        /// Attempts to connect that a listener dropped within `window`, from 1 to 1000000, that
        /// raise a finding: info, and a warning once they have gone on for `min_age`. 10, because a
        /// few come with a start or a burst and are made up for by the client's next SYN. The
        /// healthy program nearest to it is a server whose backlog of 50 meets 150 clients at once:
        /// 484 drops within 3 s, which are info.
        #[serde(with = "Sockets")]
        pub warning: u64 = 10;

        /// Attempts to connect that a listener dropped within `window`, from 1 to 1000000, that are
        /// critical once they have gone on for `min_age`. 1000 a minute is 16 a second, each of a
        /// client that waits for a second or more.
        #[serde(with = "Sockets")]
        pub critical: u64 = 1_000;

        /// Connections in the accept queue, from 1 to 1000000, that raise a warning if none of them
        /// is accepted for `min_age`, or half of the queue where that is less. 100, because a
        /// process that does one thing at a time has some waiting while it does it: Redis during a
        /// slow command, a synchronous worker of gunicorn.
        #[serde(with = "Sockets")]
        pub waiting: u64 = 100;

        /// How long drops must go on, a queue stay full, or nothing be accepted, to be more than a
        /// burst, from 0s to 24h; two inventories at least. 5s is longer than a burst of clients at
        /// a backlog of 50 takes: their SYNs come again after 1 s and 3 s, and are served then.
        #[serde(with = "Age")]
        pub min_age: Duration = Duration::from_secs(5);

        /// The time over which drops are counted, from 1s to 24h; so long does the finding stand
        /// after the last one. 60s is longer than most clients' time-out for connect().
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(60);
    }
}

section! {
    /// reset-storm: one process and port send or receive resets far more often than they had lately,
    /// and for a good part of their connections. How they came about, by cause, is in the finding.
    /// Ends that do no harm do not count: a close_notify that comes late or stays unread, resets of
    /// connections that were closed already, health checks with SO_LINGER 0.
    pub struct ResetStorm {
        /// true or false. On, because a reset is an error at one end and often nothing but a closed
        /// connection at the other: only the change of the rate tells.
        pub enabled: bool = true;

        /// Resets of one process and port within `window`, from 1 to 1000000, that raise a warning,
        /// if they are `factor` times the number before and last for half a window; a burst is
        /// info, as is what one side decides without loss. 600 a minute is 10 a second: more than
        /// one client that retries in a loop with pauses. Nearest is a restart under 1500 clients,
        /// which is over in seconds.
        #[serde(with = "Sockets")]
        pub warning: u64 = 600;

        /// Resets of one process and port within `window`, from 1 to 1000000, that are critical, if
        /// they are `factor` times the number before and half of all connections that ended. 6000 a
        /// minute is 100 a second: no health check comes near.
        #[serde(with = "Sockets")]
        pub critical: u64 = 6_000;

        /// The part of the connections that ended within `window` which must have been reset, above
        /// 0 and at most 1. 0.1: a web server whose visitors leave before the page is there has one
        /// in twenty, and an error of one in ten is what a person would look into.
        #[serde(with = "Ratio")]
        pub share: f64 = 0.1;

        /// How many times the number before they must be, from 2 to 1000. 10, because traffic
        /// between night and peak, and a deployment that doubles it, differ by less. Nothing is
        /// raised until so many windows have been watched, of a container or scope since it started:
        /// 10m with the defaults.
        #[serde(with = "Whole::<2, 1_000>")]
        pub factor: u32 = 10;

        /// The time over which resets are counted, from 1s to 24h; so long does the finding stand
        /// after the rate was last high. 60s is what one restart of a service may take, and holds
        /// six inventories.
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(60);

        /// The time before `window` whose mean is the number before, from 1s to 24h and no shorter
        /// than `window`. A rate that stays high for as long is no change any more, and the finding
        /// ends. 1h: a person has read it by then, and jobs that run several times an hour are part
        /// of the mean.
        #[serde(with = "Window")]
        pub history: Duration = Duration::from_secs(3_600);
    }
}

section! {
    /// bind-conflict: a bind() or listen() failed with EADDRINUSE. The finding says what holds the
    /// port: a listener, a connection, TIME_WAIT.
    pub struct BindConflict {
        /// true or false. On, because the program that fails cannot say who has its port. A single
        /// failure is info; that no port at all is free, which only bind() with port 0 can meet, is
        /// a warning at once.
        pub enabled: bool = true;

        /// Failures of one process name at one port within `window`, from 1 to 1000000, that raise a
        /// warning. 3, because a program that tries the next port fails once at each, and a person
        /// perhaps twice; nginx tries five times within 3s, systemd restarts a service five times
        /// within 10s, and both give up then. However many, it is info while a listener of the same
        /// program has the port.
        #[serde(with = "Sockets")]
        pub warning: u64 = 3;

        /// The time over which they are counted, from 1s to 24h; so long does the finding stand
        /// after the last one, if the process does not get its port before. 60s is how long
        /// TIME_WAIT holds a port (TCP_TIMEWAIT_LEN).
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(60);
    }
}

section! {
    /// stuck-state: sockets of one owner wait for a peer that does not answer, in FIN_WAIT2,
    /// LAST_ACK, CLOSING or SYN_SENT, or its connects are given up before an answer comes. FIN_WAIT2
    /// that no process holds any more ends by tcp_fin_timeout and does not count; nor does one whose
    /// peer still sends.
    pub struct StuckState {
        /// true or false. On, because it is the peer's fault, and the program here shows it as its
        /// own slowness at best.
        pub enabled: bool = true;

        /// How long a socket must have been in FIN_WAIT2, LAST_ACK or CLOSING to count, from 0s to
        /// 24h. 60s is the kernel's default tcp_fin_timeout: from then on it would itself have
        /// given up a FIN_WAIT2 that no process holds. LAST_ACK of a process that has gone ends
        /// after some 100s. FIN_WAIT2 is info until ten times as long, unless it takes a quarter of
        /// the descriptors of its process: the nearest healthy program is a client that has shut
        /// down its side and waits 100s for its answer.
        #[serde(with = "Age")]
        pub min_age: Duration = Duration::from_secs(60);

        /// How long a connect() must have gone unanswered to count, from 0s to 24h. 3s: by
        /// then the SYN has been sent twice more (RFC 6298: after 1s, and 2s after that), and most
        /// programs have not given up yet, which they do after 5s to 30s.
        #[serde(with = "Age")]
        pub unanswered: Duration = Duration::from_secs(3);

        /// How long a connect() must have waited that the program gave up, to count, from 0s to
        /// 24h. 1s: by then the first SYN has been sent again (RFC 6298), so that a single lost
        /// packet explains nothing. The nearest healthy programs are those that race two addresses
        /// and close the loser after 250ms (RFC 8305), health checks and port scans, which wait
        /// less than a second.
        #[serde(with = "Age")]
        pub given_up_after: Duration = Duration::from_secs(1);

        /// Sockets of one owner in one of these states, and towards one host, from 1 to 1000000,
        /// that raise a warning; so many towards several hosts are info. Connects that were given up
        /// are a warning where so many waited at the same moment, else info. 10 is a connection pool
        /// of common default size (HikariCP) that does not get through with any connection; the
        /// nearest healthy program is a load balancer, which checks a dead server with one connect
        /// at a time. Of one host, because a program that connects to many always has some that do
        /// not answer: mail servers, crawlers, scrapers, proxies.
        #[serde(with = "Sockets")]
        pub warning: u64 = 10;

        /// Sockets of one owner in SYN_SENT or FIN_WAIT2 towards one host, from 1 to 1000000, that
        /// are critical. Each holds a descriptor: 200 are a fifth of the customary limit of 1024
        /// open files.
        #[serde(with = "Sockets")]
        pub critical: u64 = 200;

        /// How long a finding about SYN_SENT stands after so many were there last, or after the last
        /// connect was given up, from 1s to 24h; over so long those are counted.
        /// 2m: a job that connects each minute, and one of whose rounds no inventory meets because it
        /// gives up soon, raises one finding and not one each minute.
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(120);
    }
}

section! {
    /// keepalive-race: a server closes kept-alive connections that have been idle, while its clients
    /// still send requests on them. Each such request is answered with a reset. A server whose
    /// clients notice the close and open a new connection is no finding.
    pub struct KeepaliveRace {
        /// true or false. On, because the client sees an error now and then, and the server logs
        /// nothing.
        pub enabled: bool = true;

        /// Requests at one port within `window`, from 1 to 1000000, that came after an idle
        /// connection was closed and raise a warning. 10: the nearest healthy program is a busy
        /// server whose close and a client's request cross by chance, about once in a minute. Where
        /// none has more than 64 bytes it is info: a close_notify of TLS is as small.
        #[serde(with = "Sockets")]
        pub warning: u64 = 10;

        /// Such requests within `window`, from 1 to 1000000, that are critical. 600 a minute are 10
        /// errors a second.
        #[serde(with = "Sockets")]
        pub critical: u64 = 600;

        /// The part of the idle connections closed within `window` which such requests must have
        /// met, above 0 and at most 1. 0.01: a client that reads the close at once meets it only
        /// within a round trip, less than one in a thousand.
        #[serde(with = "Ratio")]
        pub share: f64 = 0.01;

        /// The time over which they are counted, from 1s to 24h; so long does the finding stand
        /// after the last one. 60s is the idle time-out of most balancers, and holds six
        /// inventories.
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(60);
    }
}

section! {
    /// stalled-send: one owner's sockets have sent data, or their FIN, and get no acknowledgement: the
    /// peer or the path is gone, or the peer does not read. LAST_ACK and CLOSING are of stuck-state.
    pub struct StalledSend {
        /// true or false. On, because the program learns nothing for some 15 minutes, and keeps the
        /// connection in its pool.
        pub enabled: bool = true;

        /// How long there must have been no acknowledgement, from 0s to 24h; three times as long for
        /// a warning. 10s: by then a segment has been sent again five times (RFC 6298). The nearest
        /// healthy programs are clients that change their network, for some seconds, and a router
        /// that fails over, for less than 30s.
        #[serde(with = "Age")]
        pub min_age: Duration = Duration::from_secs(10);

        /// Sockets of one owner at one port, from 1 to 1000000, that raise an info; a warning where
        /// so many towards one host are silent. Of a server's connections they must be a hundredth,
        /// for a warning three times as many and two fifths of all. 10 is a connection pool of
        /// common default size (HikariCP). The nearest healthy programs are a web server for
        /// phones, of whose clients some in a thousand are out of reach, and an office tool: a
        /// laptop that goes to sleep takes ten to twenty connections.
        #[serde(with = "Sockets")]
        pub warning: u64 = 10;

        /// Silent sockets of one owner towards one host, from 1 to 1000000, that are critical. Each
        /// holds a descriptor: 200 are a fifth of the customary limit of 1024 open files.
        #[serde(with = "Sockets")]
        pub critical: u64 = 200;
    }
}

section! {
    /// kernel-limit: a resource of the kernel is near its limit: TCP memory (net.ipv4.tcp_mem),
    /// orphans (net.ipv4.tcp_max_orphans), entries of connection tracking
    /// (net.netfilter.nf_conntrack_max) or open files (fs.file-max). Calls and packets of every
    /// program fail at it.
    pub struct KernelLimit {
        /// true or false. On, because each program reports a limit of the kernel as a fault of its
        /// own.
        pub enabled: bool = true;

        /// Part of the limit, above 0 and at most 1, that raises a finding; of TCP memory the part
        /// of its pressure mark. It is info while nothing is lost and growth does not reach the
        /// limit within `horizon`. The nearest healthy host is a gateway whose table is as large as
        /// its load: it stands at 0.85 all day, and loses nothing.
        #[serde(with = "Ratio")]
        pub warning: f64 = 0.8;

        /// Packets or connections lost within `window`, from 1 to 1000000, that are critical near
        /// the limit; fewer are a warning. 10 is more than one burst brings that just meets the
        /// limit. A host at its limit of TCP memory or open files is critical by that.
        #[serde(with = "Sockets")]
        pub critical: u64 = 10;

        /// How soon growth must reach the limit to be a warning, from 1s to 24h. 2h is the time in
        /// which a person can act during working hours. Growth counts only where it went on through
        /// each quarter of ten minutes, and from 0.9 of the limit on: the morning of a gateway ends
        /// below.
        #[serde(with = "Window")]
        pub horizon: Duration = Duration::from_secs(7_200);

        /// How long a loss counts, from 1s to 24h; so long must TCP memory stay above its pressure
        /// mark for a warning. 60s is six inventories: a burst that fills the buffers once is over
        /// by then.
        #[serde(with = "Window")]
        pub window: Duration = Duration::from_secs(60);
    }
}
