//! Parts that the tests share: the agent as a child process, plain HTTP, polling with a deadline.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod ended;
pub(crate) mod events;
pub(crate) mod leak;
pub(crate) mod prometheus;

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use scenes::Namespace;
use serde_json::Value;
use socket2::Socket;

/// A machine that builds at the same time needs a multiple of what an idle one needs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A bound on how soon something shows. `TCPWATCH_SLOW=4` multiplies it by four: in an emulated
/// machine (`cargo xtask vm`) the same work takes ten times as long.
pub(crate) fn within(bound: Duration) -> Duration {
    let factor = env::var("TCPWATCH_SLOW").ok().and_then(|factor| factor.parse().ok());
    bound * factor.unwrap_or(1)
}

/// A running agent with its folder, configuration and address.
pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
    /// Goes before the folder, where it has its log.
    daemon: Daemon,
    pub(crate) folder: Folder,
}

/// By default inventories take a hundredth of a CPU. In an emulated machine they would be rarer than the
/// tests wait for.
fn with_more_inventories(config: &str) -> String {
    const SECTION: &str = "[inventory]\n";
    const MORE: &str = "[inventory]\ncpu_share = 0.1\n";
    if config.contains("cpu_share") {
        config.to_owned()
    } else if config.contains(SECTION) {
        config.replacen(SECTION, MORE, 1)
    } else {
        format!("{MORE}{config}")
    }
}

impl Agent {
    /// Starts `tcpwatch run` with this configuration, and `[web]` added, and waits until it is
    /// ready.
    pub(crate) fn start(config: &str) -> Result<Self> {
        Self::start_with_web(config, "")
    }

    /// The same, after `prepare` has had the configuration file.
    pub(crate) fn start_with(
        config: &str,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let address = free_address()?;
        Self::start_at(address, address, &format!("{config}\n[web]\n"), prepare)
    }

    /// With more keys of `[web]`.
    pub(crate) fn start_with_web(config: &str, web: &str) -> Result<Self> {
        let address = free_address()?;
        Self::start_at(address, address, &format!("{config}\n[web]\n{web}"), |_| Ok(()))
    }

    /// Listens at every address; `address` is that of loopback.
    pub(crate) fn start_open(config: &str) -> Result<Self> {
        let address = free_address()?;
        let open = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        Self::start_at(address, open, &format!("{config}\n[web]\n"), |_| Ok(()))
    }

    /// `config` ends within `[web]`.
    fn start_at(
        address: SocketAddr,
        listen: SocketAddr,
        config: &str,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let folder = Folder::new()?;
        give_to_the_unit(&folder.path)?;
        // Agents of several tests run at once, and only one can have the default socket.
        let socket = if config.contains("socket = ") { "" } else { "socket = \"\"\n" };
        let config = with_more_inventories(config);
        let text = format!("{config}{socket}listen_addresses = [\"{listen}\"]\n");
        let file = folder.write("tcpwatch.toml", &text)?;
        prepare(&file)?;
        let daemon = Daemon::start(
            as_the_unit().arg("run").arg("--config").arg(file),
            &folder.path.join("tcpwatch.log"),
        )?;
        let mut agent = Self { address, daemon, folder };
        poll("the agent to be ready", || {
            agent.daemon.must_run()?;
            Ok(http_get(address, "/-/ready").ok().filter(|answer| answer.status == 200))
        })?;
        Ok(agent)
    }

    /// An inventory a second; sockets in CLOSE_WAIT count after two.
    pub(crate) fn start_quick() -> Result<Self> {
        Self::start(
            "[inventory]\ninterval = \"1s\"\n[detect.close_wait_pileup]\nmin_age = \"2s\"\n",
        )
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.child.id()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.daemon.log)?)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: libc::c_int) -> Result<()> {
        let pid = libc::pid_t::try_from(self.pid())?;
        // SAFETY: takes no pointer; the child is ours and not reaped yet.
        ensure!(unsafe { libc::kill(pid, signal) } == 0, "cannot signal {pid}");
        Ok(())
    }

    /// Waits for its end; returns the exit code.
    pub(crate) fn wait(&mut self) -> Result<Option<i32>> {
        let status = poll("the agent to end", || Ok(self.daemon.child.try_wait()?))?;
        Ok(status.code())
    }

    /// The findings of one kind in one namespace.
    pub(crate) fn findings(&self, kind: &str, netns: &str) -> Result<Vec<Value>> {
        let all = self.all_findings()?;
        let matches =
            |finding: &Value| finding["kind"] == kind && finding["subject"]["netns"] == netns;
        Ok(all.into_iter().filter(matches).collect())
    }

    /// Every finding.
    pub(crate) fn all_findings(&self) -> Result<Vec<Value>> {
        let answer = http_get(self.address, "/api/v1/findings")?;
        let body: Value = serde_json::from_str(&answer.body)?;
        body["findings"].as_array().cloned().context("an answer without findings")
    }

    /// The metrics, as text.
    pub(crate) fn metrics(&self) -> Result<String> {
        Ok(http_get(self.address, "/metrics")?.body)
    }

    /// The metrics, made after now: an answer serves everybody for a fifth of a second.
    pub(crate) fn metrics_of_now(&self) -> Result<String> {
        thread::sleep(Duration::from_millis(250));
        self.metrics()
    }

    /// The value of one series, `tcpwatch_sockets{netns="host",state="listen"}` say.
    pub(crate) fn value(&self, series: &str) -> Result<Option<f64>> {
        Ok(value_in(&self.metrics()?, series))
    }

    /// The sum of all series that begin with `name` and whose labels contain each of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> Result<f64> {
        Ok(sum_in(&self.metrics()?, name, labels))
    }

    /// Polls `look` for at most `count` inventories that began so long after now, and one more: an
    /// answer may be a fifth of a second old. It counts what the agent did and not the time that
    /// passed, so a slow machine has the same verdict.
    pub(crate) fn within_inventories<T>(
        &self,
        what: &str,
        count: u32,
        after: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let from = unix_seconds()? + after.as_secs_f64();
        let (mut seen, mut last) = (0, 0.0);
        poll(what, || {
            let metrics = self.metrics()?;
            let finished = value_in(&metrics, "tcpwatch_inventory_timestamp_seconds");
            let took = value_in(&metrics, "tcpwatch_inventory_duration_seconds");
            if let (Some(finished), Some(took)) = (finished, took)
                && finished > last
                && finished - took > from
            {
                (seen, last) = (seen + 1, finished);
            }
            let found = look()?;
            ensure!(found.is_some() || seen <= count + 1, "{what}: not after {seen} inventories");
            Ok(found)
        })
    }

    /// Waits until an inventory has ended so long after the last one that there is now, by the
    /// agent's own clock.
    pub(crate) fn watch_for(&self, time: Duration) -> Result<()> {
        let finished = || self.value("tcpwatch_inventory_timestamp_seconds");
        let first = finished()?.context("no inventory yet")?;
        poll("inventories", || {
            Ok(finished()?.filter(|finished| *finished >= first + time.as_secs_f64()))
        })?;
        Ok(())
    }

    /// Waits until a whole inventory has been taken that began after now.
    pub(crate) fn wait_for_inventory(&self) -> Result<()> {
        let called = unix_seconds()?;
        poll("an inventory", || {
            let metrics = self.metrics()?;
            let finished = value_in(&metrics, "tcpwatch_inventory_timestamp_seconds");
            let took = value_in(&metrics, "tcpwatch_inventory_duration_seconds");
            let (Some(finished), Some(took)) = (finished, took) else { return Ok(None) };
            // The answer may be a fifth of a second old.
            Ok((finished - took > called).then_some(()))
        })
    }
}

/// The only child of an agent.
pub(crate) fn symbol_server(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut children = children.split_whitespace();
    let server = children.next().context("the agent has no child")?.parse()?;
    ensure!(children.next().is_none(), "the agent has several children");
    Ok(server)
}

/// For a test of a hook that this machine refuses. A kernel that takes one hook by trampoline takes
/// all of them, so `others` must be refused too. The guests of `cargo xtask vm` have them all: there
/// `TCPWATCH_REQUIRE_HOOKS=1` makes a missing one a failure.
pub(crate) fn skip_without_hook(hook: &str, others: &[(&str, bool)]) -> Result<()> {
    let required = env::var_os("TCPWATCH_REQUIRE_HOOKS").is_some_and(|value| value == "1");
    ensure!(!required, "the hook `{hook}` is not attached, and this kernel must have it");
    for (other, attached) in others {
        ensure!(!attached, "the hook `{hook}` is not attached, and `{other}` is");
    }
    scenes::note_skip("needs fentry or fexit, which this kernel refuses; cargo xtask vm tests it");
    Ok(())
}

fn unix_seconds() -> Result<f64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64())
}

/// The sum of all series that begin with `name` and whose labels contain each of `labels`.
pub(crate) fn sum_in(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let matches = |line: &&str| {
        line.strip_prefix(name).is_some_and(|line| line.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    let values = metrics.lines().filter(matches);
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

pub(crate) fn value_in(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.parse().ok()
}

/// The binary under test: cargo's own build of it, or what `TCPWATCH_BINARY` names.
pub(crate) fn binary() -> PathBuf {
    let other = env::var_os("TCPWATCH_BINARY").map(PathBuf::from);
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_tcpwatch").into())
}

/// Its command.
pub(crate) fn tcpwatch() -> Command {
    Command::new(binary())
}

/// The user of agents where `TCPWATCH_CAPABILITIES` lists capabilities. No account has it; the user of
/// the unit is dynamic too.
const USER: u32 = 61_184;

/// The capabilities that agents have, where they are not root's.
fn capabilities() -> Option<String> {
    env::var("TCPWATCH_CAPABILITIES").ok().filter(|listed| !listed.is_empty())
}

/// Lets agents make files in this folder, as the unit lets them in its own.
pub(crate) fn give_to_the_unit(folder: &Path) -> Result<()> {
    if capabilities().is_some() {
        std::os::unix::fs::chown(folder, Some(USER), Some(USER))?;
    }
    Ok(())
}

/// The command of an agent. Where `TCPWATCH_CAPABILITIES` lists some (`bpf,perfmon`), as a user of its own
/// that has these, as the unit starts it; otherwise as the user of the test.
fn as_the_unit() -> Command {
    let Some(listed) = capabilities() else { return tcpwatch() };
    let these = listed.split(',').map(|name| format!(",+{name}")).collect::<String>();
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={USER}")).arg(format!("--regid={USER}"));
    for set in ["bounding-set", "inh-caps", "ambient-caps"] {
        command.arg(format!("--{set}=-all{these}"));
    }
    // A change of the user clears the signal that Daemon has set.
    command.args(["--clear-groups", "--no-new-privs", "--pdeathsig=KILL"]).arg(binary());
    command
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Connections that [`http_get`] made so far in this process.
pub(crate) fn http_connections() -> u32 {
    HTTP_CONNECTIONS.load(Ordering::Relaxed)
}

static HTTP_CONNECTIONS: AtomicU32 = AtomicU32::new(0);

/// HTTP/1.0, so that the answer comes in one piece and ends with the connection.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Result<Answer> {
    HTTP_CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let timeout = within(Duration::from_secs(10));
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without a body")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("not an HTTP status: {head}"))?;
    Ok(Answer { status, body: body.to_owned() })
}

/// Asks again until there is an answer; an error ends it at once.
pub(crate) fn poll<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    // Often enough for states that change once a second.
    const PAUSE: Duration = Duration::from_millis(200);
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < end, "timed out after {DEADLINE:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// A child process that does not outlive the test.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let program = command.get_program().to_owned();
        let output = File::create(log)?;
        command
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        // SAFETY: the closure runs between fork and exec and makes one system call, prctl, which
        // is async-signal-safe; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; returns what it has said, and fails with that if the end was not a good
    /// one.
    pub(crate) fn finish(mut self) -> Result<String> {
        let status = poll("a program to end", || Ok(self.child.try_wait()?))?;
        let said = fs::read_to_string(&self.log)?;
        ensure!(status.success(), "{} ended with {status}:\n{said}", self.log.display());
        Ok(said)
    }

    /// Fails with what it has said if it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(&self.log)?;
            bail!("{} ended with {status}:\n{said}", self.log.display());
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Shown only when the test fails.
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        println!("{}:\n{said}", self.log.display());
    }
}

/// A folder that goes with the test.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("tcpwatch-{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// An address that was free a moment ago, below the default `ip_local_port_range`: an agent that
/// watches this host would rightly speak of a listener inside, once it has been there for a minute.
pub(crate) fn free_address() -> Result<SocketAddr> {
    const FIRST: u32 = 20_000;
    const PORTS: u32 = 10_000;
    static TRIES: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let number = std::process::id() * 16 + TRIES.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + number % PORTS)?;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no port is free")
}

/// Listens in `ns` at every address, with an accept queue of that length.
pub(crate) fn listen(ns: &Namespace, port: u16, backlog: i32) -> Result<TcpListener> {
    ns.enter(|| -> io::Result<TcpListener> {
        let socket = tcp_socket()?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        socket.listen(backlog)?;
        Ok(socket.into())
    })?
    .with_context(|| format!("listening on port {port}"))
}

/// Begins `count` connections over loopback and waits for none of them.
pub(crate) fn begin_connects(ns: &Namespace, count: usize, port: u16) -> Result<Vec<Socket>> {
    let begin = || {
        let socket = tcp_socket()?;
        socket.set_nonblocking(true)?;
        match socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    };
    ns.enter(|| (0..count).map(|_| begin()).collect::<io::Result<Vec<_>>>())?
        .with_context(|| format!("connecting to port {port}"))
}

fn tcp_socket() -> io::Result<Socket> {
    Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
}

pub(crate) fn skip(why: &str) -> Result<()> {
    if env::var_os("TCPWATCH_REQUIRE_ALL").is_some_and(|value| value == "1") {
        bail!("this test {why}, and TCPWATCH_REQUIRE_ALL=1 turns a skip into a failure");
    }
    scenes::note_skip(why);
    Ok(())
}

/// Opens three connections that stay unanswered: the peer's address is a black hole.
pub(crate) fn syn_sent(ns: &scenes::Namespace) -> Result<Vec<socket2::Socket>> {
    ns.enter(|| -> Result<Vec<socket2::Socket>> {
        let run = |args: &[&str]| -> Result<()> {
            let status = Command::new("ip").args(args).status()?;
            ensure!(status.success(), "ip {args:?}");
            Ok(())
        };
        run(&["link", "add", "hole", "type", "veth", "peer", "name", "bottom"])?;
        run(&["address", "add", "192.0.2.1/24", "dev", "hole"])?;
        run(&["link", "set", "hole", "up"])?;
        run(&["link", "set", "bottom", "up"])?;
        run(&["neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "hole"])?;
        let mut sockets = Vec::new();
        for _ in 0..3 {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            let target = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 9), 80));
            let begun = socket.connect(&target.into());
            ensure!(begun.is_err_and(|error| error.raw_os_error() == Some(libc::EINPROGRESS)));
            sockets.push(socket);
        }
        Ok(sockets)
    })?
}
