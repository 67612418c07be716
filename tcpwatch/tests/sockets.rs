//! `/api/v1/sockets` and `tcpwatch sockets`, against what the kernel itself shows of the sockets.

mod support;

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::Output,
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Established, Namespace, SelfConnection, Stuck, TimeWaits};
use serde_json::Value;
use support::{Agent, Folder, give_to_the_unit, http_get, poll, tcpwatch};

/// The document of a query, which must be answered.
fn listed(agent: &Agent, query: &str) -> Result<Value> {
    let answer = http_get(agent.address, &format!("/api/v1/sockets?{query}"))?;
    ensure!(answer.status == 200, "{query}: {} {}", answer.status, answer.body);
    Ok(serde_json::from_str(&answer.body)?)
}

fn rows(document: &Value) -> Result<&[Value]> {
    document["sockets"].as_array().map(Vec::as_slice).context("no list of sockets")
}

/// The status and the line of a query that is refused.
fn refused(agent: &Agent, query: &str) -> Result<(u16, String)> {
    let answer = http_get(agent.address, &format!("/api/v1/sockets?{query}"))?;
    ensure!(answer.body.lines().count() == 1, "not one line: {}", answer.body);
    Ok((answer.status, answer.body))
}

/// Inode number of the socket behind a descriptor of this process.
fn inode_of(fd: u64) -> Result<String> {
    let link = fs::read_link(format!("/proc/self/fd/{fd}"))?;
    Ok(link.to_string_lossy().into_owned())
}

#[test]
fn a_leak_is_listed_with_its_owner_its_descriptors_and_its_exact_age() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("listed")?;
    let mut leak = CloseWaitLeak::client(&ns, 12, 0, false)?;
    let document = listed(&agent, &format!("state=close_wait&netns={}", ns.name()))?;
    assert_eq!(document["total"], 12, "{document:#}");
    assert_eq!(document["truncated"], false);
    assert_eq!(document["network_namespaces"], 1, "no other one is entered");
    let mut inodes = BTreeSet::new();
    for socket in rows(&document)? {
        assert_eq!(socket["netns"], ns.name(), "{socket:#}");
        assert_eq!(socket["state"], "close_wait", "{socket:#}");
        assert_eq!(socket["role"], "client", "{socket:#}");
        assert_eq!(socket["peer"], leak.server_address().to_string(), "{socket:#}");
        assert_eq!(socket["pid"], std::process::id(), "{socket:#}");
        assert_eq!(socket["recv_queue_bytes"], 1, "the FIN was not read: {socket:#}");
        assert_eq!(socket["age_is_exact"], true, "the hook saw it: {socket:#}");
        let age = socket["age_seconds"].as_f64().context("no age")?;
        assert!((0.0..60.0).contains(&age), "{socket:#}");
        for flag in ["orphan", "unaccepted", "stalled"] {
            assert_eq!(socket[flag], false, "{socket:#}");
        }
        let [fd] = socket["fds"].as_array().context("no descriptors")?.as_slice() else {
            anyhow::bail!("not one descriptor: {socket:#}");
        };
        let fd = fd.as_u64().context("no number")?;
        let of_scene = leak.streams().iter().find(|it| u64::try_from(it.as_raw_fd()) == Ok(fd));
        let local = of_scene.context("a descriptor that the scene does not have")?.local_addr()?;
        assert_eq!(socket["local"], local.to_string(), "{socket:#}");
        inodes.insert(inode_of(fd)?);
    }
    assert_eq!(inodes.len(), 12);

    leak.read_to_end()?;
    leak.close(4)?;
    let document = listed(&agent, &format!("state=CLOSE-WAIT&netns={}", ns.name()))?;
    assert_eq!(document["total"], 8, "{document:#}");
    assert!(rows(&document)?.iter().all(|it| it["recv_queue_bytes"] == 0), "{document:#}");
    Ok(())
}

#[test]
fn sockets_behind_a_finding_are_as_many_as_its_evidence_says() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    give_to_the_unit(&folder.path)?;
    let socket = folder.path.join("tcpwatch.sock");
    let config = "[inventory]\ninterval = \"1s\"\n[detect.close_wait_pileup]\nwarning = 10\n\
                  min_age = \"1s\"\n[detect.self_connection]\n";
    let web = format!("socket = \"{}\"\n", socket.display());
    let agent = Agent::start_with_web(config, &web)?;
    let ns = Namespace::new("behind")?;
    let leak = CloseWaitLeak::client(&ns, 20, 7_300, false)?;
    // Of no finding about that leak.
    let _open = Established::make(&ns, 5)?;
    let itself = SelfConnection::make(&ns, Ipv4Addr::LOCALHOST.into())?;
    let finding = poll("the pileup", || {
        let finding = agent.findings("close-wait-pileup", ns.name())?.pop();
        Ok(finding.filter(|it| it["evidence"]["sockets"] == 20))
    })?;
    let id = finding["id"].as_str().context("no id")?;
    let pileup = id.to_owned();
    let document = listed(&agent, &format!("finding={id}"))?;
    assert_eq!(document["total"], finding["evidence"]["sockets"], "{document:#}");
    assert_eq!(document["finding"], id);
    let oldest = finding["evidence"]["oldest_age_seconds"].as_f64().context("no age")?;
    let first = rows(&document)?[0]["age_seconds"].as_f64().context("no age")?;
    assert!(first >= oldest, "the oldest comes first: {first} {oldest}");
    assert_eq!(listed(&agent, &format!("finding={id}&port=7300"))?["total"], 20);
    assert_eq!(listed(&agent, &format!("finding={id}&port=7301"))?["total"], 0);
    let (status, line) = refused(&agent, &format!("finding={id}&state=time_wait"))?;
    assert_eq!(status, 400);
    assert!(line.contains("about none of the sockets that the other parameters select"), "{line}");

    // The same by the command, from the agent's socket.
    let file = folder.write("cli.toml", &format!("{config}[web]\n{web}"))?;
    let sockets =
        |more: &[&str]| tcpwatch().arg("sockets").arg("--config").arg(&file).args(more).output();
    let output = sockets(&["--finding", id, "--json"])?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let same: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&same["total"], &same["selection"]), (&document["total"], &document["selection"]));
    let output = sockets(&["--finding", id])?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.starts_with(&format!("20 sockets behind {id}\nas the running agent")), "{text}");
    let process = fs::read_to_string("/proc/self/comm")?;
    let owner = format!("{} (pid {})", process.trim(), std::process::id());
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("CLOSE_WAIT")).collect();
    assert_eq!(lines.len(), 20, "{text}");
    assert!(lines.iter().all(|line| line.contains(&owner) && line.contains(ns.name())), "{text}");
    assert!(!text.contains('≥') && !text.contains('\u{1b}'), "{text}");
    // One look finds the same condition, and so the same id; it cannot know the ages.
    let fresh = sockets(&["--finding", id, "--fresh"])?;
    let text = String::from_utf8(fresh.stdout)?;
    assert!(text.starts_with(&format!("20 sockets behind {id}\none look of its own")), "{text}");
    assert!(text.contains('≥'), "{text}");

    let finding =
        poll("the self-connection", || Ok(agent.findings("self-connection", ns.name())?.pop()))?;
    let id = finding["id"].as_str().context("no id")?;
    let document = listed(&agent, &format!("finding={id}"))?;
    let [only] = rows(&document)? else { anyhow::bail!("not one: {document:#}") };
    assert_eq!(only["local"], only["peer"]);
    assert_eq!(document["total"], finding["evidence"]["sockets"]);
    drop(itself);

    // An id that ends is not found any more.
    drop(leak);
    poll("the finding to end", || {
        let gone = agent.findings("close-wait-pileup", ns.name())?.is_empty();
        Ok(gone.then_some(()))
    })?;
    let output = sockets(&["--finding", &pileup])?;
    assert_one_line(&output, 1, &format!("no finding has the id {pileup} now"))
}

fn assert_one_line(output: &Output, code: i32, says: &str) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{output:?}");
    ensure!(output.stdout.is_empty() && stderr.lines().count() == 1, "{output:?}");
    ensure!(stderr.starts_with("tcpwatch: ") && stderr.contains(says), "{stderr}");
    Ok(())
}

#[test]
fn half_open_unaccepted_waiting_and_time_wait_sockets_are_listed_too() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("states")?;
    let netns = ns.name();

    let listener = ns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7_000)))??;
    scenes::half_open(&ns, 12, 1, 7_000)?;
    let document = listed(&agent, &format!("state=syn_recv&netns={netns}"))?;
    assert_eq!(document["total"], 12, "{document:#}");
    for socket in rows(&document)? {
        assert_eq!(socket["role"], "server", "{socket:#}");
        assert_eq!(socket["age_is_exact"], true, "{socket:#}");
        assert!(socket["age_seconds"].as_f64().context("no age")? < 60.0, "{socket:#}");
        assert!(socket["pid"].is_null() && socket["recv_queue_bytes"].is_null(), "{socket:#}");
    }
    poll("a SYN-ACK to be sent again", || {
        let document = listed(&agent, &format!("state=syn_recv&netns={netns}"))?;
        Ok(rows(&document)?.iter().any(|it| it["retransmits"].as_u64() > Some(0)).then_some(()))
    })?;

    let (server, clients) = ns.enter(|| -> io::Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7_001))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7_001));
        let clients =
            (0..6).map(|_| TcpStream::connect(address)).collect::<io::Result<Vec<_>>>()?;
        Ok((listener, clients))
    })??;
    let document = listed(&agent, &format!("netns={netns}&port=7001&state=established"))?;
    let waiting: Vec<_> =
        rows(&document)?.iter().filter(|socket| socket["unaccepted"] == true).collect();
    assert_eq!(waiting.len(), 6, "{document:#}");
    for socket in waiting {
        assert_eq!(socket["local"], "127.0.0.1:7001");
        assert_eq!(socket["pid"], std::process::id(), "that is to accept it: {socket:#}");
        assert!(socket["fds"].is_null(), "and has no descriptor of it yet: {socket:#}");
    }
    let document = listed(&agent, &format!("netns={netns}&port=7001&state=listen"))?;
    let [socket] = rows(&document)? else { anyhow::bail!("{document:#}") };
    assert_eq!(socket["accept_queue_connections"], 6, "{socket:#}");
    assert_eq!(socket["fds"][0], u64::try_from(server.as_raw_fd())?, "{socket:#}");
    assert!(socket["peer"].is_null(), "{socket:#}");
    drop(clients);

    let _time_waits = TimeWaits::make(&ns, 40, 8_000)?;
    let document = listed(&agent, &format!("state=time_wait&netns={netns}&limit=30"))?;
    assert_eq!(document["total"], 40, "{document:#}");
    assert_eq!(document["truncated"], true);
    assert_eq!(rows(&document)?.len(), 30);
    assert!(rows(&document)?.iter().all(|it| it["pid"].is_null()), "{document:#}");

    let _stuck = Stuck::in_syn_sent(&ns, 5, 5_432)?;
    let document = listed(&agent, &format!("state=syn_sent&netns={netns}"))?;
    assert_eq!(document["total"], 5, "{document:#}");
    for socket in rows(&document)? {
        assert_eq!(socket["pid"], std::process::id(), "{socket:#}");
        assert_eq!(socket["send_queue_bytes"], 1, "the SYN: {socket:#}");
    }
    drop(listener);
    Ok(())
}

/// More than are copied up: all are counted, and the oldest of those that are seen are listed.
#[test]
fn many_sockets_are_counted_and_only_so_many_listed() -> Result<()> {
    const MANY: usize = 9_000;
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("many")?;
    // A small guest's limit is below.
    ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", "20000")?;
    let _many = TimeWaits::make(&ns, MANY, 8_000)?;
    for (query, rows_listed) in [("", 100), ("&limit=1", 1), ("&limit=1000", 1_000)] {
        let document = listed(&agent, &format!("netns={}&state=time_wait{query}", ns.name()))?;
        assert_eq!(document["total"], MANY, "{query}");
        assert_eq!(document["total_is_exact"], true, "{query}");
        assert_eq!(document["examined"], 8_192, "{query}");
        assert_eq!(document["truncated"], true, "{query}");
        assert_eq!(rows(&document)?.len(), rows_listed, "{query}");
    }
    // A process holds none of them; the search for one sees the bounded part only.
    let query = format!("netns={}&process=nosuch", ns.name());
    let document = listed(&agent, &query)?;
    assert_eq!((&document["total"], &document["total_is_exact"]), (&0.into(), &false.into()));
    assert_eq!(document["truncated"], true, "{document:#}");
    Ok(())
}

#[test]
fn a_query_that_selects_nothing_known_is_refused_in_one_line() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    for (query, status, says) in [
        ("finding=syn-flood/1/80", 404, "no finding has the id syn-flood/1/80 now"),
        ("netns=no-such-namespace", 404, "no network namespace with the name no-such-namespace"),
        ("state=open", 400, "`state` is one of established, syn_sent"),
        ("limit=1001", 400, "`limit` is from 1 to 1000"),
        ("stat=listen", 400, "unknown field `stat`"),
    ] {
        let (came, line) = refused(&agent, query)?;
        assert_eq!(came, status, "{query}: {line}");
        assert!(line.contains(says), "{query}: {line}");
    }
    Ok(())
}

#[test]
fn the_command_fails_with_one_line_and_the_code_of_the_fault() -> Result<()> {
    for (arguments, says) in [
        (&["--state", "open"][..], "`state` is one of established"),
        (&["--limit", "0"], "--limit"),
        (&["--limit", "1001"], "1..=1000"),
        (&["--port", "0"], "--port"),
        (&["--kind", "syn-flood"], "--kind"),
    ] {
        let output = tcpwatch().arg("sockets").args(arguments).output()?;
        assert_one_line(&output, 64, says)?;
    }
    let output = tcpwatch().args(["sockets", "--config", "/nonexistent.toml"]).output()?;
    assert_one_line(&output, 78, "/nonexistent.toml")?;
    Ok(())
}
