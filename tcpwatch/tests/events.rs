//! `tcpwatch events`: what real sockets do is seen as it happens, of a running agent and by the command
//! itself; within its budget, and only while something reads.

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use support::{
    Folder,
    events::{Reader, Stage, armed, assert_play, links_of_stream, own_name, pair, play},
    http_get, poll, tcpwatch,
};

#[test]
fn every_kind_of_event_is_seen_by_two_readers_of_a_running_agent() -> Result<()> {
    let Some(stage) = Stage::new("")? else { return Ok(()) };
    let ns = Namespace::new("events")?;
    let netns = ["--netns", ns.name()];
    let command = stage.reader("json", &[&["--json"], &netns[..]].concat())?;
    let people = stage.reader("text", &netns)?;
    poll("the readers", || {
        Ok(people.text()?.starts_with("events of the running agent; Ctrl-C ends\n").then_some(()))
    })?;
    assert_eq!(links_of_stream(stage.agent.pid())?, 1, "one program for all readers");
    let ends = play(&ns, 7_400)?;
    assert_play(&command, ns.name(), ends)?;

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

    // Ctrl-C ends a reader, the last one the stream.
    for reader in [command, people] {
        assert_eq!(links_of_stream(stage.agent.pid())?, 1);
        reader.interrupt()?;
        reader.daemon.finish()?;
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
fn an_agent_that_ends_ends_the_command_with_one_line() -> Result<()> {
    let Some(mut stage) = Stage::new("")? else { return Ok(()) };
    let command = stage.reader("ends", &["--json"])?;
    // Longer than a stream that is not opened again.
    std::thread::sleep(Duration::from_millis(1_200));
    stage.agent.signal(libc::SIGTERM)?;
    assert_eq!(stage.agent.wait()?, Some(0));
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
