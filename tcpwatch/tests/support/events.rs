//! Readers of the stream of events, and what they read of.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use scenes::Namespace;
use serde_json::Value;
use socket2::SockRef;

use super::{Agent, Daemon, Folder, poll, tcpwatch};

const QUICK: &str = "[inventory]\ninterval = \"1s\"\n";

/// An agent with a UNIX socket, and a configuration under which the command finds it.
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) socket: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) folder: Folder,
}

impl Stage {
    /// `None` without root. `limits` are lines of `[limits]`.
    pub(crate) fn new(limits: &str) -> Result<Option<Self>> {
        if !scenes::root_or_skip() {
            return Ok(None);
        }
        let folder = Folder::new()?;
        super::give_to_the_unit(&folder.path)?;
        let socket = folder.path.join("tcpwatch.sock");
        let config = format!("{QUICK}[limits]\n{limits}\n");
        let web = format!("socket = \"{}\"\n", socket.display());
        let file = folder.write("cli.toml", &format!("{config}[web]\n{web}"))?;
        let agent = Agent::start_with_web(&config, &web)?;
        Ok(Some(Self { agent, socket, config: file, folder }))
    }

    /// Starts the command, and waits until the agent's stream is armed.
    pub(crate) fn reader(&self, name: &str, arguments: &[&str]) -> Result<Reader> {
        let reader = Reader::start(&self.folder, &self.config, name, arguments)?;
        armed(self.agent.pid(), true)?;
        Ok(reader)
    }

    /// Starts curl on a query, and waits until it has the first byte of the stream.
    pub(crate) fn curl(&self, name: &str, query: &str) -> Result<Reader> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--no-buffer", "--include", "--unix-socket"]);
        command.arg(&self.socket).arg(format!("http://localhost/api/v1/events?{query}"));
        let reader = Reader::spawn(&self.folder, name, &mut command)?;
        poll("the stream to begin", || Ok(reader.text()?.contains("\r\n\r\n:").then_some(())))?;
        Ok(reader)
    }
}

/// A program that prints events into a file.
pub(crate) struct Reader {
    pub(crate) daemon: Daemon,
    pub(crate) output: PathBuf,
}

impl Reader {
    pub(crate) fn start(
        folder: &Folder,
        config: &Path,
        name: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let mut command = tcpwatch();
        command.arg("events").arg("--config").arg(config).args(arguments);
        Self::spawn(folder, name, &mut command)
    }

    pub(crate) fn spawn(folder: &Folder, name: &str, command: &mut Command) -> Result<Self> {
        let output = folder.path.join(name);
        Ok(Self { daemon: Daemon::start(command, &output)?, output })
    }

    pub(crate) fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.output)?)
    }

    /// The events so far, of `--json` or of a stream.
    pub(crate) fn events(&self) -> Result<Vec<Value>> {
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
    pub(crate) fn wait_for(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = poll(what, || Ok(self.events()?.into_iter().find(|event| is_it(event))));
        found.with_context(|| format!("it shows:\n{}", self.text().unwrap_or_default()))
    }

    pub(crate) fn interrupt(&self) -> Result<()> {
        signal(self.daemon.pid(), libc::SIGINT)
    }
}

pub(crate) fn signal(pid: u32, signal: libc::c_int) -> Result<()> {
    let pid = libc::pid_t::try_from(pid)?;
    // SAFETY: takes no pointer; the child is ours and not reaped yet.
    ensure!(unsafe { libc::kill(pid, signal) } == 0, "cannot signal {pid}");
    Ok(())
}

/// Links by which the process has attached its program `stream`.
pub(crate) fn links_of_stream(pid: u32) -> Result<usize> {
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

pub(crate) fn armed(pid: u32, is_armed: bool) -> Result<()> {
    let what = if is_armed { "the stream to be armed" } else { "the stream to be disarmed" };
    poll(what, || Ok((links_of_stream(pid)? == usize::from(is_armed)).then_some(())))
}

pub(crate) fn own_name() -> Result<String> {
    Ok(fs::read_to_string("/proc/self/comm")?.trim_end().to_owned())
}

/// A connection over loopback with both its ends; the client's first.
pub(crate) fn pair(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

/// Closes a connection, its client first, and one by a reset; connects to a port without a listener.
/// Returns the ends of the three clients.
pub(crate) fn play(ns: &Namespace, port: u16) -> Result<[SocketAddr; 3]> {
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

/// Each event of [`play`] is there once, with its process.
pub(crate) fn assert_play(
    reader: &Reader,
    netns: &str,
    [closed, reset, refused]: [SocketAddr; 3],
) -> Result<()> {
    reader.wait_for("the failed connect", |it| it["event"] == "connect_failed")?;
    let events = reader.events()?;
    for event in &events {
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
