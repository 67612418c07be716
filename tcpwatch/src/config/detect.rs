//! The sections `[detect.<kind>]`: from when on a condition is a finding, and how severe.
//!
//! Thresholds are `warning` and `critical`, ages `min_age`, windows `window`. A value at a
//! threshold has reached it. Whatever is compared with a threshold lives in the engine; here is
//! only the number, and in its comment the reason for it.

use std::time::Duration;

use super::{
    error::Fault,
    section::{Given, section, sections},
    setting::{Setting, choice},
};

/// Longest age and window. The engine remembers what happened in a window; a day is as long as
/// anybody waits for a finding.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Shortest window. Shorter ones would be over before the next inventory could use them.
const SECOND: Duration = Duration::from_secs(1);

/// Most sockets that a threshold can ask for: as many as `limits.close_wait_sockets` can be.
const MOST_SOCKETS: u64 = 1_000_000;

sections! {
    /// Findings: each kind has a section with its thresholds. A value that reaches a threshold
    /// counts as beyond it; `warning` is never above `critical`.
    pub struct Detect {
        pub close_wait_pileup: CloseWaitPileup;
        pub time_wait_exhaustion: TimeWaitExhaustion;
        pub ephemeral_port_exhaustion: EphemeralPortExhaustion;
        pub self_connection: SelfConnection;
    }
}

section! {
    /// close-wait-pileup: one process keeps sockets in CLOSE_WAIT. The peer has closed, the process
    /// has not: it leaks a file descriptor with each.
    pub struct CloseWaitPileup {
        /// true or false. On, because CLOSE_WAIT lasts until the process closes: no timer of the
        /// kernel ends it, TCP keepalive apart where the process asked for it.
        pub enabled: bool = true;

        /// How long a socket must have been in CLOSE_WAIT to count, from 0s to 24h. 60s is the
        /// kernel's default tcp_fin_timeout: a Linux peer that closed has by then forgotten the
        /// connection, and answers whatever is still sent with a reset. Nothing is left to wait
        /// for.
        pub min_age: Duration = Duration::from_secs(60), in Duration::ZERO..=DAY;

        /// Sockets of one owner, from 1 to 1000000, that raise a warning. 20 is more than one
        /// connection pool of common default size leaves behind when its server closes all of it
        /// (HikariCP 10, SQLAlchemy 15): those are stale, but no leak.
        pub warning: u64 = 20, in 1..=MOST_SOCKETS;

        /// Sockets of one owner, from 1 to 1000000, that are critical. 200 is a fifth of the
        /// customary limit of 1024 open files, which leaves time to act before accept() and open()
        /// fail with EMFILE.
        pub critical: u64 = 200, in 1..=MOST_SOCKETS;

        /// Sockets of one owner, from 1 to 1000000, that raise a warning already if their number
        /// has grown in every quarter of `window`; from `warning` upwards it adds nothing. 5
        /// because growth in four quarters adds at least four sockets, so that 5 is where a leak
        /// that began with one socket can first be told from chance.
        pub growing: u64 = 5, in 1..=MOST_SOCKETS;

        /// The time over which growth is judged, from 1s to 24h; its quarters should be longer
        /// than inventory.interval, or growth cannot be seen. 10m makes quarters of 150s: longer
        /// than min_age, so that a single burst does not appear to grow in each of them.
        pub window: Duration = Duration::from_secs(600), in SECOND..=DAY;
    }
    check pileup_thresholds_are_in_order;
}

section! {
    /// time-wait-exhaustion: sockets in TIME_WAIT near net.ipv4.tcp_max_tw_buckets of their
    /// namespace. At the limit the kernel drops new ones at once, and late segments of an old
    /// connection can reach its successor.
    pub struct TimeWaitExhaustion {
        /// true or false. On, because no call fails: the kernel counts and writes to its own log.
        pub enabled: bool = true;

        /// Part of the limit, above 0 and at most 1, that raises a warning. TIME_WAIT lasts
        /// 60s, so the number follows the rate of closes: at 0.8 a quarter more closes per second
        /// reach the limit, which an ordinary peak brings.
        pub warning: f64 = 0.8;

        /// Part of the limit, above 0 and at most 1, that is critical. At 0.95 one close in
        /// twenty more reaches the limit: no more than its rate varies anyway.
        pub critical: f64 = 0.95;

        /// How long an overflow counts after the last one, from 1s to 24h. 60s is how long Linux
        /// would have kept the socket that it dropped (TCP_TIMEWAIT_LEN).
        pub window: Duration = Duration::from_secs(60), in SECOND..=DAY;
    }
    check time_wait_thresholds_are_in_order;
}

section! {
    /// ephemeral-port-exhaustion: local ports towards one destination (source address, destination
    /// address and port) run out. At the end connect() fails with EADDRNOTAVAIL, which is always
    /// critical.
    pub struct EphemeralPortExhaustion {
        /// true or false. On, because programs report it as if the destination were at fault.
        pub enabled: bool = true;

        /// Part of the usable ports, above 0 and at most 1, that raises a warning. 0.8 leaves
        /// 5646 of the 28232 in the default range; as a port closed first from here stays taken
        /// for 60s, that is room for 94 more connections per second.
        pub warning: f64 = 0.8;

        /// Part of the usable ports, above 0 and at most 1, that is critical. 0.95 leaves 1411
        /// of the 28232 in the default range: room for 23 more connections per second, and each
        /// connect() searches long for a free one.
        pub critical: f64 = 0.95;

        /// How long a failed connect() counts after the last one, from 1s to 24h. 60s is how long
        /// TIME_WAIT holds a port (TCP_TIMEWAIT_LEN): ports that were taken then are free again.
        pub window: Duration = Duration::from_secs(60), in SECOND..=DAY;
    }
    check port_thresholds_are_in_order;
}

section! {
    /// self-connection: a socket is connected to itself. A client that retries a local port while
    /// nobody listens on it is given that same port as its own in the end (simultaneous open, RFC
    /// 9293 section 3.5), reads what it writes, and keeps the real server from binding.
    pub struct SelfConnection {
        /// true or false. On, because hardly any program does this on purpose.
        pub enabled: bool = true;

        /// The severity of the finding: "info", "warning" or "critical". "warning" because one
        /// such socket is a defect, but an outage only once the server wants its port back.
        pub severity: ConfigSeverity = ConfigSeverity::Warning;
    }
}

choice! {
    /// A severity as the file spells it.
    pub enum ConfigSeverity {
        /// Worth knowing.
        Info = "info",
        /// Somebody should look at it.
        Warning = "warning",
        /// Something is failing, or about to.
        Critical = "critical",
    }
}

fn pileup_thresholds_are_in_order(it: &CloseWaitPileup, given: &Given<'_>) -> Result<(), Fault> {
    in_order(it.warning, it.critical, given)
}

fn time_wait_thresholds_are_in_order(
    it: &TimeWaitExhaustion,
    given: &Given<'_>,
) -> Result<(), Fault> {
    in_order(it.warning, it.critical, given)
}

fn port_thresholds_are_in_order(
    it: &EphemeralPortExhaustion,
    given: &Given<'_>,
) -> Result<(), Fault> {
    in_order(it.warning, it.critical, given)
}

/// Equal thresholds are allowed: then nothing is ever only a warning.
fn in_order<T: Setting + PartialOrd>(
    warning: T,
    critical: T,
    given: &Given<'_>,
) -> Result<(), Fault> {
    if warning <= critical {
        return Ok(());
    }
    let by_default = |key| if given.table.contains_key(key) { "" } else { " by default" };
    let at_least =
        format!("no less than `warning`, which is {}{}", warning.show(), by_default("warning"));
    let at_most =
        format!("no more than `critical`, which is {}{}", critical.show(), by_default("critical"));
    let fault = given.refuse("critical", at_least);
    fault.or_else(|| given.refuse("warning", at_most)).map_or(Ok(()), Err)
}
