//! The inventory against `ss` and `/proc/net`, socket by socket, when nothing moves.

mod support;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Established, Keeper, Namespace, PortRange, TimeWaits};
use support::{Agent, ended::Ended, poll};

/// `ss -tan`'s name of each state, and ours.
const STATES: [(&str, &str); 11] = [
    ("ESTAB", "established"),
    ("SYN-SENT", "syn_sent"),
    ("SYN-RECV", "syn_recv"),
    ("FIN-WAIT-1", "fin_wait1"),
    ("FIN-WAIT-2", "fin_wait2"),
    ("TIME-WAIT", "time_wait"),
    ("UNCONN", "close"),
    ("CLOSE-WAIT", "close_wait"),
    ("LAST-ACK", "last_ack"),
    ("LISTEN", "listen"),
    ("CLOSING", "closing"),
];

fn states_by_ss(ns: &Namespace) -> Result<BTreeMap<&'static str, u64>> {
    let mut counts: BTreeMap<_, u64> = STATES.iter().map(|(_, label)| (*label, 0)).collect();
    for line in ns.ss(&["-tanH"])?.lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        let (_, label) = STATES
            .iter()
            .find(|(name, _)| *name == word)
            .with_context(|| format!("a state that ss did not have: {line}"))?;
        *counts.entry(label).or_default() += 1;
    }
    Ok(counts)
}

fn states_by_agent(agent: &Agent, ns: &Namespace) -> Result<BTreeMap<&'static str, u64>> {
    let mut counts = BTreeMap::new();
    for (_, label) in STATES {
        let series = format!("tcpwatch_sockets{{netns=\"{}\",state=\"{label}\"}}", ns.name());
        let value = agent.value(&series)?.with_context(|| format!("no series {series}"))?;
        counts.insert(label, value as u64);
    }
    Ok(counts)
}

#[test]
fn sockets_by_state_equal_ss_in_every_namespace_when_nothing_moves() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let first = Namespace::new("state-a")?;
    let second = Namespace::new("state-b")?;
    let empty = Namespace::new("state-c")?;

    let _established = Established::make(&first, 25)?;
    let _close_wait = CloseWaitLeak::client(&first, 7, 0, false)?;
    let _close_wait6 = CloseWaitLeak::server(&first, 6, 0, true)?;
    let _time_waits = TimeWaits::make(&first, 40, 8_000)?;
    let _orphan = scenes::orphaned_fin_wait2(&first)?;
    let _syn_sent = support::syn_sent(&first)?;
    let _established2 = Established::make(&second, 11)?;
    let _time_waits2 = TimeWaits::make(&second, 5, 8_000)?;

    // An orphan in FIN_WAIT2 becomes a minisocket a moment after close(); SYNs are retransmitted
    // but change no state. So a difference is given time to vanish, and then must stay away.
    poll("ss and the agent to agree", || {
        agent.wait_for_inventory()?;
        let same = states_by_ss(&first)? == states_by_agent(&agent, &first)?;
        Ok(same.then_some(()))
    })?;
    agent.wait_for_inventory()?;
    for ns in [&first, &second, &empty] {
        assert_eq!(states_by_agent(&agent, ns)?, states_by_ss(ns)?, "{}", ns.name());
    }
    let counts = states_by_agent(&agent, &first)?;
    assert_eq!(counts["established"], 50);
    assert_eq!(counts["close_wait"], 13 + 1, "the orphan's peer is in CLOSE_WAIT");
    assert_eq!(counts["time_wait"], 40);
    assert_eq!(counts["syn_sent"], 3);
    assert!(counts["fin_wait2"] > 13, "{counts:?}");
    // sockstat counts an orphaned FIN_WAIT2 as tw, because it is a minisocket.
    assert!(first.sockstat("tw")? > counts["time_wait"], "{}", first.sockstat("tw")?);
    Ok(())
}

#[test]
fn half_open_requests_are_syn_recv_and_counted_for_their_listener() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("synrecv")?;
    let listener = ns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7_000)))??;
    scenes::half_open(&ns, 12, 1, 7_000)?;
    poll("ss and the agent to agree", || {
        agent.wait_for_inventory()?;
        Ok((states_by_ss(&ns)? == states_by_agent(&agent, &ns)?).then_some(()))
    })?;
    let counts = states_by_agent(&agent, &ns)?;
    assert_eq!(counts["syn_recv"], 12, "{counts:?}");
    let labels = [format!("netns=\"{}\"", ns.name()), "port=\"7000\"".to_owned()];
    let labels: Vec<_> = labels.iter().map(String::as_str).collect();
    assert_eq!(agent.sum("tcpwatch_half_open_sockets", &labels)?, 12.0);
    drop(listener);
    Ok(())
}

#[test]
fn full_accept_queue_is_shown_against_its_limit() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("queue")?;
    let (listener, clients) = ns.enter(|| -> io::Result<_> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        let address = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 7_001));
        socket.bind(&address.into())?;
        socket.listen(5)?;
        let clients =
            (0..6).map(|_| TcpStream::connect(address)).collect::<io::Result<Vec<_>>>()?;
        Ok((socket, clients))
    })??;
    agent.wait_for_inventory()?;
    let labels = [format!("netns=\"{}\"", ns.name()), "port=\"7001\"".to_owned()];
    let labels: Vec<_> = labels.iter().map(String::as_str).collect();
    assert_eq!(agent.sum("tcpwatch_accept_queue_sockets", &labels)?, 6.0);
    assert_eq!(agent.sum("tcpwatch_accept_queue_limit", &labels)?, 5.0);
    drop((listener, clients));
    Ok(())
}

#[test]
fn receive_queue_tells_what_the_application_has_read() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let read = Namespace::new("rq-read")?;
    let untouched = Namespace::new("rq-untouched")?;
    let data = Namespace::new("rq-data")?;
    let mut seen = CloseWaitLeak::client(&read, 25, 0, false)?;
    seen.read_to_end()?;
    let _never = CloseWaitLeak::client(&untouched, 25, 0, false)?;
    let _unread = CloseWaitLeak::make(&data, Keeper::Client, 25, 0, false, 100)?;
    for (ns, key) in [
        (&read, "sockets_eof_read"),
        (&untouched, "sockets_eof_unread"),
        (&data, "data_unread_sockets"),
    ] {
        let finding =
            poll("the pileup", || Ok(agent.findings("close-wait-pileup", ns.name())?.pop()))?;
        assert_eq!(finding["evidence"][key], 25, "{finding:#}");
    }
    Ok(())
}

#[test]
fn ports_that_connect_may_reuse_do_not_count_and_explicitly_bound_ones_do() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("reuse")?;
    let mut range = PortRange::new(&ns, 41_000..=41_059, 8_081)?;
    range.use_up(10, 30)?;
    let used = |agent: &Agent| -> Result<Option<f64>> {
        agent.wait_for_inventory()?;
        agent.value(&format!("tcpwatch_ephemeral_ports_used{{netns=\"{}\"}}", ns.name()))
    };
    assert_eq!(used(&agent)?, Some(40.0));

    // A listener and its port are skipped by connect() whatever its address.
    let taken: Vec<u16> = ns.sockets()?.iter().map(|socket| socket.local.port()).collect();
    let free = (41_000..=41_059).find(|port| !taken.contains(port)).context("no free port")?;
    let listener = ns.enter(|| TcpListener::bind((Ipv4Addr::new(127, 0, 0, 5), free)))??;
    assert_eq!(used(&agent)?, Some(41.0));

    // 2 is "only loopback", as here; a second must have passed since the last segment.
    ns.sysctl_set("net.ipv4.tcp_tw_reuse", "2")?;
    poll("TIME_WAIT to count as free", || Ok((used(&agent)? == Some(11.0)).then_some(())))?;
    ns.sysctl_set("net.ipv4.ip_local_reserved_ports", "41000-41009")?;
    agent.wait_for_inventory()?;
    let available = format!("tcpwatch_ephemeral_ports_available{{netns=\"{}\"}}", ns.name());
    assert_eq!(agent.value(&available)?, Some(50.0));
    drop(listener);
    Ok(())
}

/// A bind() before connect() pins the port for every destination, also while it is in TIME_WAIT.
#[test]
fn explicitly_bound_ports_in_time_wait_stay_taken_whatever_tcp_tw_reuse_says() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("bound")?;
    ns.sysctl_set("net.ipv4.ip_local_port_range", "42000 42009")?;
    ns.sysctl_set("net.ipv4.tcp_tw_reuse", "2")?;
    let listener = ns.enter(|| -> io::Result<TcpListener> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8_082))?;
        for port in 42_000..42_010 {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
            socket.connect(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 8_082)).into())?;
            let (server, _) = listener.accept()?;
            drop(socket);
            drop(server);
        }
        Ok(listener)
    })??;
    // Long enough for every delay after which a port might be free again.
    for _ in 0..3 {
        agent.wait_for_inventory()?;
    }
    let connected = ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 8_082)))?;
    let used = format!("tcpwatch_ephemeral_ports_used{{netns=\"{}\"}}", ns.name());
    let used = agent.value(&used)?;
    // The kernel's behaviour is the measure: newer ones free a bucket whose bound sockets have gone.
    match connected {
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
            assert_eq!(used, Some(10.0));
        }
        Ok(_) => assert!(used < Some(10.0), "{used:?}"),
    }
    drop(listener);
    Ok(())
}

#[test]
fn time_wait_near_its_limit_and_beyond_is_info_and_clears_after_the_window() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(
        "[inventory]\ninterval = \"500ms\"\n[detect.time_wait_exhaustion]\nwindow = \"3s\"\n",
    )?;
    let ns = Namespace::new("tw")?;
    ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", "100")?;
    let _inside = Ended::asleep_in(&ns)?;
    agent.wait_for_inventory()?;
    let before = ns.netstat_counter("TCPTimeWaitOverflow")?;
    let _ = TimeWaits::make(&ns, 90, 8_000)?;
    let finding =
        poll("the ratio", || Ok(agent.findings("time-wait-exhaustion", ns.name())?.pop()))?;
    assert_eq!(finding["severity"], "info", "{finding:#}");
    assert_eq!(finding["evidence"]["limit_sockets"], 100, "{finding:#}");

    // The scene would wait for TIME_WAITs that the limit forbids.
    ns.enter(|| -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8_001))?;
        for _ in 0..30 {
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, 8_001))?;
            let (server, _) = listener.accept()?;
            drop(client);
            drop(server);
        }
        Ok(())
    })??;
    let overflows = ns.netstat_counter("TCPTimeWaitOverflow")? - before;
    ensure!(overflows > 0, "nothing overflowed");
    let finding = poll("the overflow", || {
        let finding = agent.findings("time-wait-exhaustion", ns.name())?.pop();
        Ok(finding.filter(|finding| finding["evidence"]["overflows"] == overflows))
    })?;
    assert_eq!(finding["severity"], "info", "nothing fails: {finding:#}");
    let total = format!("tcpwatch_time_wait_overflows_total{{netns=\"{}\"}}", ns.name());
    agent.wait_for_inventory()?;
    assert_eq!(agent.value(&total)?, Some(overflows as f64));

    ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", "10000")?;
    poll("the finding to clear", || {
        Ok(agent.findings("time-wait-exhaustion", ns.name())?.is_empty().then_some(()))
    })?;
    Ok(())
}

#[test]
fn counters_agree_with_what_the_kernel_counts_itself() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("snmp")?;
    let snmp = |name: &str| ns.snmp_counter(name);
    let before = (snmp("OutRsts")?, snmp("ActiveOpens")?, snmp("PassiveOpens")?);
    let begun = |agent: &Agent| -> Result<(f64, f64, f64)> {
        Ok((
            agent.sum("tcpwatch_resets_sent_total", &[])?,
            agent
                .sum("tcpwatch_state_transitions_total", &["from=\"close\"", "to=\"syn_sent\""])?,
            agent
                .sum("tcpwatch_state_transitions_total", &["from=\"listen\"", "to=\"syn_recv\""])?,
        ))
    };
    let start = begun(&agent)?;
    for _ in 0..11 {
        let refused = ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 9)))?;
        ensure!(refused.is_err(), "port 9 has a listener");
    }
    let established = Established::make(&ns, 20)?;
    let after = (snmp("OutRsts")?, snmp("ActiveOpens")?, snmp("PassiveOpens")?);
    assert_eq!((after.0 - before.0, after.1 - before.1, after.2 - before.2), (11, 31, 20));
    // Hooks see the whole host, so others may add to these; never take away.
    poll("the hooks to have counted at least as much", || {
        let now = begun(&agent)?;
        let grown = (now.0 - start.0, now.1 - start.1, now.2 - start.2);
        Ok((grown.0 >= 11.0 && grown.1 >= 31.0 && grown.2 >= 20.0).then_some(()))
    })?;
    drop(established);
    Ok(())
}

#[test]
fn pileup_in_an_accept_queue_belongs_to_the_listener() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("unaccepted")?;
    let listener = ns.enter(|| -> io::Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7_002))?;
        for _ in 0..30 {
            drop(TcpStream::connect((Ipv4Addr::LOCALHOST, 7_002))?);
        }
        Ok(listener)
    })??;
    let finding = poll("the pileup", || Ok(agent.findings("close-wait-pileup", ns.name())?.pop()))?;
    assert_eq!(finding["evidence"]["unaccepted_sockets"], 30, "{finding:#}");
    assert_eq!(finding["subject"]["pid"], std::process::id(), "{finding:#}");
    assert_eq!(finding["subject"]["role"], "server", "{finding:#}");
    drop(listener);
    Ok(())
}
