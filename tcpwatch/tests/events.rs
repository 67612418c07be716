//! `tcpwatch events` and `/api/v1/events`: what real sockets do is seen as it happens, by curl, by jq
//! and by the command; within its budget, and only while something reads.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use scenes::Namespace;
use serde_json::Value;
use socket2::SockRef;
use support::{Agent, Daemon, Folder, http_get, poll, tcpwatch};

const QUICK: &str = "[inventory]\ninterval = \"1s\"\n";
const SCHEMA: &str = include_str!("../../docs/events.schema.json");

/// An agent with a UNIX socket, and a configuration under which the command finds it.
struct Stage {
    agent: Agent,
    socket: PathBuf,
    config: PathBuf,
    folder: Folder,
}

impl Stage {
    /// `None` without root. `limits` are lines of `[limits]`.
    fn new(limits: &str) -> Result<Option<Self>> {
        if !scenes::root_or_skip() {
            return Ok(None);
        }
        let folder = Folder::new()?;
        let socket = folder.path.join("tcpwatch.sock");
        let config = format!("{QUICK}[limits]\n{limits}\n");
        let web = format!("socket = \"{}\"\n", socket.display());
        let file = folder.write("cli.toml", &format!("{config}[web]\n{web}"))?;
        let agent = Agent::start_with_web(&config, &web)?;
        Ok(Some(Self { agent, socket, config: file, folder }))
    }

    /// Starts the command, and waits until the agent's stream is armed.
    fn reader(&self, name: &str, arguments: &[&str]) -> Result<Reader> {
        let reader = Reader::start(&self.folder, &self.config, name, arguments)?;
        armed(self.agent.pid(), true)?;
        Ok(reader)
    }

    /// Starts curl on a query, and waits until it has the first byte of the stream.
    fn curl(&self, name: &str, query: &str) -> Result<Reader> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--no-buffer", "--include", "--unix-socket"]);
        command.arg(&self.socket).arg(format!("http://localhost/api/v1/events?{query}"));
        let reader = Reader::spawn(&self.folder, name, &mut command)?;
        poll("the stream to begin", || Ok(reader.text()?.contains("\r\n\r\n:").then_some(())))?;
        Ok(reader)
    }
}

/// A program that prints events into a file.
struct Reader {
    daemon: Daemon,
    output: PathBuf,
}

impl Reader {
    fn start(folder: &Folder, config: &Path, name: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = tcpwatch();
        command.arg("events").arg("--config").arg(config).args(arguments);
        Self::spawn(folder, name, &mut command)
    }

    fn spawn(folder: &Folder, name: &str, command: &mut Command) -> Result<Self> {
        let output = folder.path.join(name);
        Ok(Self { daemon: Daemon::start(command, &output)?, output })
    }

    fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    /// The events so far, of `--json` or of a stream.
    fn events(&self) -> Result<Vec<Value>> {
        let text = self.text()?;
        // The last line may be under way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        lines
            .filter(|line| line.starts_with('{'))
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    }

    /// Waits for an event that `is_it`.
    fn wait_for(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = poll(what, || Ok(self.events()?.into_iter().find(|event| is_it(event))));
        found.with_context(|| format!("it shows:\n{}", self.text().unwrap_or_default()))
    }

    fn interrupt(&self) -> Result<()> {
        signal(self.daemon.pid(), libc::SIGINT)
    }
}

fn signal(pid: u32, signal: libc::c_int) -> Result<()> {
    let pid = libc::pid_t::try_from(pid)?;
    // SAFETY: takes no pointer; the child is ours and not reaped yet.
    ensure!(unsafe { libc::kill(pid, signal) } == 0, "cannot signal {pid}");
    Ok(())
}

/// Links by which the process has attached its program `stream`.
fn links_of_stream(pid: u32) -> Result<usize> {
    let mut streams = Vec::new();
    for program in loaded_programs() {
        let program = program?;
        if program.name_as_str() == Some("stream") {
            streams.push(format!("prog_id:\t{}\n", program.id()));
        }
    }
    let mut links = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        let is_link = info.contains("link_id:");
        links += usize::from(is_link && streams.iter().any(|id| info.contains(id)));
    }
    Ok(links)
}

fn armed(pid: u32, is_armed: bool) -> Result<()> {
    let what = if is_armed { "the stream to be armed" } else { "the stream to be disarmed" };
    poll(what, || Ok((links_of_stream(pid)? == usize::from(is_armed)).then_some(())))
}

fn own_name() -> Result<String> {
    Ok(fs::read_to_string("/proc/self/comm")?.trim_end().to_owned())
}

/// A connection over loopback with both its ends; the client's first.
fn pair(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

/// Closes a connection, its client first, and one by a reset; connects to a port without a listener.
/// Returns the ends of the three clients.
fn play(ns: &Namespace, port: u16) -> Result<[SocketAddr; 3]> {
    ns.enter(|| -> Result<[SocketAddr; 3]> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let (client, mut server) = pair(&listener)?;
        let closed = client.local_addr()?;
        drop(client);
        ensure!(server.read(&mut [0])? == 0, "data from a client that sent none");
        drop(server);
        let (client, server) = pair(&listener)?;
        let reset = client.local_addr()?;
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        drop(client);
        drop(server);
        let refused = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        ensure!(TcpStream::connect(refused).is_err(), "a process listens on 9");
        Ok([closed, reset, refused])
    })?
}

/// What [`play`] has done is there, each event once, with its process.
fn assert_play(
    reader: &Reader,
    netns: &str,
    [closed, reset, refused]: [SocketAddr; 3],
) -> Result<()> {
    reader.wait_for("the failed connect", |it| it["event"] == "connect_failed")?;
    let events = reader.events()?;
    let schema = jsonschema::validator_for(&serde_json::from_str(SCHEMA)?)?;
    for event in &events {
        let errors: Vec<_> = schema.iter_errors(event).map(|it| it.to_string()).collect();
        ensure!(errors.is_empty(), "{errors:#?} in {event:#}");
        ensure!(event["netns"] == netns, "{event:#}");
    }
    let one = |is_it: &dyn Fn(&Value) -> bool| -> Result<Value> {
        let mut found = events.iter().filter(|event| is_it(event));
        let first = found.next().with_context(|| format!("no such event in {events:#?}"))?;
        ensure!(found.next().is_none(), "twice in {events:#?}");
        Ok(first.clone())
    };
    let own = |event: &Value| -> Result<()> {
        ensure!(event["pid"] == std::process::id(), "{event:#}");
        ensure!(event["process"] == own_name()?, "{event:#}");
        Ok(())
    };
    let went = |local: SocketAddr, from: &str, to: &str| {
        let (local, from, to) = (local.to_string(), from.to_owned(), to.to_owned());
        move |event: &Value| {
            event["event"] == "transition"
                && event["local"] == local
                && event["from"] == from
                && event["to"] == to
        }
    };
    // The client's part of an orderly close; the process is that of connect() where a segment
    // moves the socket.
    for (from, to) in
        [("syn_sent", "established"), ("established", "fin_wait1"), ("fin_wait1", "fin_wait2")]
    {
        own(&one(&went(closed, from, to))?)?;
    }
    // The server's.
    let server = |it: &Value| it["peer"] == closed.to_string();
    let of_server = |from: &'static str, to: &'static str| {
        move |it: &Value| server(it) && it["from"] == from && it["to"] == to
    };
    own(&one(&of_server("close_wait", "last_ack"))?)?;
    one(&of_server("established", "close_wait"))?;

    let sent = one(&|it| {
        it["event"] == "reset" && it["direction"] == "sent" && it["local"] == reset.to_string()
    })?;
    ensure!(sent["cause"] == "linger_zero" && sent["state"] == "close", "{sent:#}");
    own(&sent)?;
    let received = one(&|it| {
        it["event"] == "reset" && it["direction"] == "received" && it["peer"] == reset.to_string()
    })?;
    ensure!(received["state"] == "established" && received["cause"].is_null(), "{received:#}");

    let failed = one(&|it| it["event"] == "connect_failed")?;
    ensure!(failed["reason"] == "refused" && failed["peer"] == refused.to_string(), "{failed:#}");
    own(&failed)?;
    let local = failed["local"].as_str().context("no local end")?.parse()?;
    own(&one(&went(local, "syn_sent", "close"))?)?;
    Ok(())
}

#[test]
fn every_kind_of_event_is_seen_by_the_command_and_by_curl_of_a_running_agent() -> Result<()> {
    let Some(stage) = Stage::new("")? else { return Ok(()) };
    let ns = Namespace::new("events")?;
    let netns = ["--netns", ns.name()];
    let command = stage.reader("json", &[&["--json"], &netns[..]].concat())?;
    let people = stage.reader("text", &netns)?;
    let curl = stage.curl("curl", &format!("netns={}", ns.name()))?;
    poll("the readers", || {
        Ok(people.text()?.starts_with("events of the running agent; Ctrl-C ends\n").then_some(()))
    })?;
    assert_eq!(links_of_stream(stage.agent.pid())?, 1, "one program for all readers");
    let ends = play(&ns, 7_400)?;
    assert_play(&command, ns.name(), ends)?;
    assert_play(&curl, ns.name(), ends)?;
    let text = curl.text()?;
    ensure!(text.contains("content-type: text/event-stream\r\n"), "{text}");
    ensure!(text.contains("event: connect_failed\ndata: {"), "{text}");

    // The same for a person, in columns.
    let own = format!("{} ({})", own_name()?, std::process::id());
    let line = poll("the failed connect", || {
        let text = people.text()?;
        Ok(text.lines().find(|line| line.contains("connect_failed")).map(str::to_owned))
    })?;
    ensure!(
        line.contains(&own) && line.contains("127.0.0.1:9 ") && line.contains("refused"),
        "{line}"
    );
    let text = people.text()?;
    ensure!(text.contains("SYN_SENT → ESTABLISHED"), "{text}");
    ensure!(text.contains("sent in CLOSE: linger zero"), "{text}");
    ensure!(!text.contains('\u{1b}'), "{text}");

    // jq reads the lines of the command.
    let jq = Command::new("jq")
        .args(["-r", "select(.event == \"connect_failed\") | .reason"])
        .arg(&command.output)
        .output()?;
    assert_eq!((jq.status.code(), &*jq.stdout), (Some(0), &b"refused\n"[..]), "{jq:?}");

    // Ctrl-C ends a reader, the last one the stream.
    for reader in [command, people, curl] {
        assert_eq!(links_of_stream(stage.agent.pid())?, 1);
        reader.interrupt()?;
        let output = reader.output.clone();
        if output.ends_with("curl") {
            drop(reader);
        } else {
            reader.daemon.finish()?;
        }
    }
    armed(stage.agent.pid(), false)
}

#[test]
fn without_an_agent_the_command_sees_the_same_itself() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let none = folder.path.join("none.sock");
    let config = folder.write("none.toml", &format!("[web]\nsocket = \"{}\"\n", none.display()))?;
    let ns = Namespace::new("fresh")?;
    let reader = Reader::start(&folder, &config, "own", &["--json", "--netns", ns.name()])?;
    armed(reader.daemon.pid(), true)?;
    let status = fs::read_to_string(format!("/proc/{}/status", reader.daemon.pid()))?;
    ensure!(status.contains("\nSeccomp:\t2\n"), "armed without its privileges: {status}");
    assert_play(&reader, ns.name(), play(&ns, 7_401)?)?;
    reader.interrupt()?;
    reader.daemon.finish()?;
    let text = Reader::start(&folder, &config, "people", &["--fresh", "--netns", ns.name()])?;
    poll("its first line", || {
        Ok(text.text()?.starts_with("events as this process sees them itself;").then_some(()))
    })?;
    text.interrupt()?;
    text.daemon.finish()?;
    Ok(())
}

#[test]
fn a_connect_that_finds_no_port_says_so() -> Result<()> {
    let Some(stage) = Stage::new("")? else { return Ok(()) };
    let ns = Namespace::new("noport")?;
    ns.sysctl_set("net.ipv4.ip_local_port_range", "40000 40003")?;
    let reader = stage.reader("noport", &["--json", "--netns", ns.name(), "--port", "7402"])?;
    ns.enter(|| -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7_402))?;
        let mut open = Vec::new();
        let failed = loop {
            match TcpStream::connect(listener.local_addr()?) {
                Ok(stream) => open.push(stream),
                Err(error) => break error,
            }
            ensure!(open.len() <= 4, "more connections than ports");
        };
        assert_eq!(failed.raw_os_error(), Some(libc::EADDRNOTAVAIL));
        Ok(())
    })??;
    let failed = reader.wait_for("the failure", |it| it["event"] == "connect_failed")?;
    assert_eq!(failed["reason"], "no_local_port", "{failed:#}");
    assert_eq!(
        (&failed["local"], &failed["peer"]),
        (&"127.0.0.1:0".into(), &"127.0.0.1:7402".into())
    );
    assert_eq!(failed["pid"], std::process::id(), "{failed:#}");
    Ok(())
}

#[test]
fn a_bind_is_seen_with_its_result_and_an_accepted_socket_has_its_process() -> Result<()> {
    let Some(stage) = Stage::new("")? else { return Ok(()) };
    let attached = |hook: &str| {
        let series = format!("tcpwatch_hook_attached{{hook=\"{hook}\"}}");
        Ok::<_, anyhow::Error>(stage.agent.value(&series)? == Some(1.0))
    };
    if !attached("bind")? {
        return support::skip_without_hook("bind", &[("accept", attached("accept")?)]);
    }
    let ns = Namespace::new("bind")?;
    let reader = stage.reader("bind", &["--json", "--netns", ns.name()])?;
    ns.enter(|| -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7_403))?;
        ensure!(TcpListener::bind((Ipv4Addr::LOCALHOST, 7_403)).is_err(), "bound twice");
        let (client, mut server) = pair(&listener)?;
        drop(client);
        ensure!(server.read(&mut [0])? == 0);
        Ok(())
    })??;
    reader.wait_for("the close", |it| it["to"] == "last_ack")?;
    let events = reader.events()?;
    let binds: Vec<_> = events.iter().filter(|it| it["event"] == "bind").collect();
    let said: Vec<_> =
        binds.iter().map(|it| (it["call"].as_str(), it["result"].as_str())).collect();
    assert_eq!(
        said,
        [
            (Some("bind"), Some("bound")),
            (Some("listen"), Some("bound")),
            (Some("bind"), Some("taken"))
        ]
    );
    for event in &binds {
        assert_eq!(event["local"], "127.0.0.1:7403", "{event:#}");
        assert_eq!(event["pid"], std::process::id(), "{event:#}");
        assert!(event["peer"].is_null(), "{event:#}");
    }
    let closed = events.iter().find(|it| it["to"] == "close_wait").context("no close_wait")?;
    assert_eq!(closed["pid"], std::process::id(), "noted by accept(): {closed:#}");
    Ok(())
}

#[test]
fn a_filter_shows_what_it_selects_and_nothing_else() -> Result<()> {
    let Some(stage) = Stage::new("")? else { return Ok(()) };
    let ns = Namespace::new("filter")?;
    let name = own_name()?;
    let netns = ns.name();
    let curl = |of: &str, query: &str| stage.curl(of, &format!("netns={netns}&{query}"));
    let port = curl("port", "port=7404")?;
    let state = curl("state", "state=close-wait")?;
    let process = curl("process", &format!("process={name}"))?;
    let peer = curl("peer", "peer=127.0.0.0/8")?;
    let nowhere = curl("nowhere", "peer=192.0.2.0/24")?;
    play(&ns, 7_404)?;
    play(&ns, 7_405)?;
    // The last connection of all: what comes before it has come.
    let last = |it: &Value| it["event"] == "connect_failed";
    for reader in [&process, &peer] {
        poll("both failures", || {
            Ok((reader.events()?.iter().filter(|it| last(it)).count() == 2).then_some(()))
        })?;
    }
    let of_port = port.events()?;
    let is_of_port =
        |it: &Value| [&it["local"], &it["peer"]].iter().any(|end| **end == "127.0.0.1:7404");
    ensure!(of_port.len() > 10 && of_port.iter().all(is_of_port), "{of_port:#?}");
    let of_state = state.events()?;
    let touches =
        |it: &Value| [&it["from"], &it["to"], &it["state"]].iter().any(|s| **s == "close_wait");
    ensure!(of_state.len() >= 4 && of_state.iter().all(touches), "{of_state:#?}");
    let of_process = process.events()?;
    ensure!(of_process.iter().all(|it| it["process"] == name.as_str()), "{of_process:#?}");
    ensure!(of_process.iter().any(|it| it["to"] == "fin_wait1"), "{of_process:#?}");
    ensure!(
        peer.events()?
            .iter()
            .all(|it| { it["peer"].as_str().is_some_and(|peer| peer.starts_with("127.")) })
    );
    assert_eq!(nowhere.events()?, Vec::<Value>::new());
    Ok(())
}

/// Connections are made as fast as this machine can, and the stream stays within its budget.
#[test]
fn a_storm_stays_within_the_budget_and_the_stream_says_what_was_dropped() -> Result<()> {
    const CONNECTIONS: u64 = 3_000;
    const BUDGET: u64 = 50;
    let Some(stage) = Stage::new(&format!("events_per_second = {BUDGET}"))? else { return Ok(()) };
    let ns = Namespace::new("storm")?;
    let reader = stage.reader("storm", &["--json", "--netns", ns.name()])?;
    let began = Instant::now();
    ns.enter(|| -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7_406))?;
        for _ in 0..CONNECTIONS {
            drop(pair(&listener)?);
        }
        Ok(())
    })??;
    // Each connection makes seven transitions at least.
    let least = CONNECTIONS * 7;
    let events = poll("every event to be shown or counted", || {
        let events = reader.events()?;
        let dropped: u64 = events.iter().filter_map(|it| it["dropped"].as_u64()).sum();
        let shown = events.iter().filter(|it| it["event"] != "dropped").count() as u64;
        Ok((shown + dropped >= least).then_some(events))
    })?;
    let seconds = began.elapsed().as_secs() + 2;
    let shown = events.iter().filter(|it| it["event"] != "dropped").count() as u64;
    println!("{shown} events shown of {least} in {seconds} s");
    ensure!(shown <= BUDGET * seconds, "{shown} events in {seconds} s");
    // The agent had no more to do than that, whatever the kernel saw.
    let drops = events.iter().filter(|it| it["event"] == "dropped").count() as u64;
    ensure!(drops <= 11 * seconds, "{drops} lines of drops in {seconds} s");
    ensure!(events.iter().all(|it| it["dropped"].is_null() || it["dropped_by"] == "budget"));
    let lost = stage.agent.metrics_of_now()?;
    let lost = support::value_in(&lost, "tcpwatch_events_lost_total{stage=\"stream\"}");
    ensure!(lost >= Some((least - shown) as f64), "{lost:?}");

    reader.interrupt()?;
    reader.daemon.finish()?;
    armed(stage.agent.pid(), false)?;
    // Nothing is counted without a reader: no hook did more than look at a word.
    let before = stage.agent.metrics_of_now()?;
    ns.enter(|| -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 7_407))?;
        for _ in 0..200 {
            drop(pair(&listener)?);
        }
        Ok(())
    })??;
    let after = stage.agent.metrics_of_now()?;
    let lost =
        |metrics: &str| support::value_in(metrics, "tcpwatch_events_lost_total{stage=\"stream\"}");
    assert_eq!(lost(&before), lost(&after));
    Ok(())
}

#[test]
fn an_agent_that_ends_ends_the_streams_with_one_line() -> Result<()> {
    let Some(mut stage) = Stage::new("")? else { return Ok(()) };
    let command = stage.reader("ends", &["--json"])?;
    let mut curl = Command::new("curl")
        .args(["--silent", "--no-buffer", "--unix-socket"])
        .arg(&stage.socket)
        .arg("http://localhost/api/v1/events")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut first = [0];
    curl.stdout.as_mut().context("a pipe")?.read_exact(&mut first)?;
    // Longer than a stream that is not opened again.
    std::thread::sleep(Duration::from_millis(1_200));
    stage.agent.signal(libc::SIGTERM)?;
    assert_eq!(stage.agent.wait()?, Some(0));
    assert_eq!(curl.wait()?.code(), Some(0), "the stream has an end");
    let error = command.daemon.finish().expect_err("it ends with a failure").to_string();
    let line = format!("tcpwatch: the agent at {} has ended", stage.socket.display());
    ensure!(error.contains("exit status: 1") && error.contains(&line), "{error}");
    Ok(())
}

fn spawned(command: &mut Command) -> Result<Child> {
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

#[test]
fn a_reader_of_the_output_that_has_gone_ends_the_command_quietly() -> Result<()> {
    let Some(stage) = Stage::new("")? else { return Ok(()) };
    for arguments in [&[][..], &["--fresh"]] {
        let mut command = tcpwatch();
        command.arg("events").arg("--config").arg(&stage.config).args(arguments);
        let mut child = spawned(&mut command)?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
        ensure!(line.starts_with("events "), "{line}");
        // The pipe has no reader any more.
        let status = poll("the command to end", || Ok(child.try_wait()?))?;
        let mut said = String::new();
        child.stderr.take().context("a pipe")?.read_to_string(&mut said)?;
        ensure!(said.is_empty(), "{status}: {said}");
    }
    armed(stage.agent.pid(), false)
}

#[test]
fn what_is_no_stream_is_refused_in_one_line() -> Result<()> {
    let Some(stage) = Stage::new("events_per_second = 0")? else { return Ok(()) };
    let off = "the stream of events is switched off: limits.events_per_second is 0";
    for (query, status, says) in [
        ("", 403, off),
        ("?state=open", 400, "`state` is one of established, syn_sent"),
        ("?peer=a", 400, "`peer` is an address"),
        ("?unit=a", 400, "unknown field `unit`"),
    ] {
        let answer = http_get(stage.agent.address, &format!("/api/v1/events{query}"))?;
        ensure!(answer.status == status && answer.body.contains(says), "{query}: {}", answer.body);
        ensure!(answer.body.lines().count() == 1, "{}", answer.body);
    }
    let events = |arguments: &[&str]| -> Result<Output> {
        Ok(tcpwatch().arg("events").arg("--config").arg(&stage.config).args(arguments).output()?)
    };
    for arguments in [&[][..], &["--fresh"]] {
        assert_one_line(&events(arguments)?, 1, off)?;
    }
    for (arguments, says) in [
        (["--port", "0"], "--port"),
        (["--peer", "10.0.0.0/33"], "--peer"),
        (["--state", "open"], "`state` is one of established"),
        (["--unit", "a"], "--unit"),
    ] {
        assert_one_line(&events(&arguments)?, 64, says)?;
    }
    let Some(stage) = Stage::new("")? else { return Ok(()) };
    let output = tcpwatch()
        .args(["events", "--netns", "no-such-namespace", "--config"])
        .arg(&stage.config)
        .output()?;
    assert_one_line(&output, 1, "no network namespace with the name no-such-namespace is seen")?;
    assert_eq!(links_of_stream(stage.agent.pid())?, 0);
    Ok(())
}

fn assert_one_line(output: &Output, code: i32, says: &str) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{output:?}");
    ensure!(output.stdout.is_empty() && stderr.lines().count() == 1, "{output:?}");
    ensure!(stderr.starts_with("tcpwatch: ") && stderr.contains(says), "{stderr}");
    Ok(())
}

/// A quarter of the connections can be streams, and a page with the metrics is answered beside them.
#[test]
fn only_so_many_streams_are_open_and_one_that_ends_makes_place() -> Result<()> {
    let Some(stage) = Stage::new("http_connections = 16")? else { return Ok(()) };
    let streams: Result<Vec<Reader>> =
        (0..4).map(|number| stage.curl(&format!("curl{number}"), "port=7408")).collect();
    let mut streams = streams?;
    let answer = http_get(stage.agent.address, "/api/v1/events")?;
    ensure!(answer.status == 503 && answer.body.contains("too many streams"), "{}", answer.body);
    assert_eq!(http_get(stage.agent.address, "/metrics")?.status, 200);
    streams.pop();
    poll("a place", || Ok(stage.curl("again", "port=7408").ok().map(drop)))?;
    drop(streams);
    armed(stage.agent.pid(), false)
}
