//! An agent of a demo or a benchmark: started with a configuration of its own,
//! queried over HTTP, stopped by SIGTERM to its pid.
//!
//! It dies with the demo (PR_SET_PDEATHSIG), its folder goes with the value.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use scenes::Namespace;
use serde_json::Value;

use crate::interrupt::Interrupt;

/// Attaching takes tens of milliseconds and the first inventory follows; a
/// busy machine takes longer.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// SIGTERM ends it in under 2 s. A busy machine takes longer.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// A local answer of a few kilobytes.
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

/// The port that tcpwatch listens on by default.
const DEFAULT_PORT: u16 = 10_743;

/// Its configuration, in a folder of its own.
const CONFIG_FILE: &str = "tcpwatch.toml";

/// Lines of its log that are shown after a failure.
const LOG_LINES: usize = 40;

/// A running agent.
pub(crate) struct Agent {
    /// The namespace that it runs in; `None` is this process's.
    within: Option<Namespace>,
    child: Mutex<Child>,
    address: SocketAddr,
    folder: PathBuf,
}

impl Agent {
    /// Starts it and waits until it is ready. Call it from the main thread:
    /// the agent gets its signal when the thread that started it ends.
    pub(crate) fn start(binary: &Path, config: &str, interrupt: &Interrupt) -> Result<Self> {
        Self::start_within(None, binary, config, interrupt)
    }

    /// Likewise, inside a namespace.
    pub(crate) fn start_within(
        within: Option<&Namespace>,
        binary: &Path,
        config: &str,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let folder = env::temp_dir().join(format!("tcpwatch-agent-{}-{number}", process::id()));
            match fs::create_dir(&folder) {
                Ok(()) => break folder,
                // Left by a process of the same number that was killed, or another user's.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context(format!("making {}", folder.display())),
            }
        };
        let agent = Self::spawn(within, binary, config, &folder);
        if agent.is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
        let agent = agent?;
        let ready = interrupt.poll(READY_DEADLINE, || {
            agent.ensure_alive()?;
            Ok(agent.get("/-/ready").is_ok().then_some(()))
        })?;
        ensure!(
            ready.is_some(),
            "tcpwatch was not ready within {READY_DEADLINE:?}\n{}",
            agent.log()
        );
        Ok(agent)
    }

    fn spawn(
        within: Option<&Namespace>,
        binary: &Path,
        config: &str,
        folder: &Path,
    ) -> Result<Self> {
        let address = match within {
            // Its own namespace has that port free. One inside the range for connect() would be a
            // risk, as tcpwatch says rightly once it has listened there for a minute.
            Some(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            None => {
                let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?;
                free.local_addr().context("a free port")?
            }
        };
        let file = folder.join(CONFIG_FILE);
        fs::write(
            &file,
            format!("{config}\n[web]\nsocket = \"\"\nlisten_addresses = [\"{address}\"]\n"),
        )
        .context("writing the agent's configuration")?;
        let log = File::create(folder.join("log")).context("the agent's log")?;
        let mut command = Command::new(binary);
        if let Some(ns) = within {
            // Not by a thread that enters it: the agent would get its signal when that one ends.
            command = Command::new("ip");
            command.args(["netns", "exec", ns.name()]).arg(binary);
        }
        command
            .arg("run")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("the agent's log")?)
            .stderr(log);
        let demo = rustix::process::getpid();
        // SAFETY: the closure runs in the child between fork and exec and
        // makes two system calls: it neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::TERM))?;
                // The demo may have died before the line above.
                if getppid() == Some(demo) { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
            });
        }
        let child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        let within = within.cloned();
        Ok(Self { within, child: Mutex::new(child), address, folder: folder.to_path_buf() })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Fails with its log if it has ended.
    pub(crate) fn ensure_alive(&self) -> Result<()> {
        match self.child().try_wait().context("looking at tcpwatch")? {
            Some(status) => bail!("tcpwatch ended by itself: {status}\n{}", self.log()),
            None => Ok(()),
        }
    }

    /// `/api/v1/findings`.
    pub(crate) fn findings(&self) -> Result<Value> {
        let body = self.get("/api/v1/findings")?;
        serde_json::from_str(&body).context("/api/v1/findings is not JSON")
    }

    /// The output of `tcpwatch check` under the same configuration.
    pub(crate) fn check(&self, binary: &Path, ns: &Namespace) -> Result<String> {
        let config = self.folder.join(CONFIG_FILE);
        let mut command = Command::new(binary);
        command.args(["check", "--for", "2s", "--netns", ns.name(), "--config"]).arg(config);
        let output = command.output().context("running tcpwatch check")?;
        // 0 to 2 are severities, 3 says that it could not look.
        let code = output.status.code();
        ensure!(
            matches!(code, Some(0..=2)),
            "tcpwatch check: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).context("tcpwatch check printed no text")
    }

    /// The value of a series without labels.
    pub(crate) fn value(&self, metric: &str) -> Result<f64> {
        let text = self.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.with_context(|| format!("no metric {metric}"))?.parse().context("not a number")
    }

    /// A line of /proc/PID/status in KiB: `VmRSS`, `VmHWM`.
    pub(crate) fn memory_kib(&self, line: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child().id()))?;
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        let value = value.and_then(|value| value.split_whitespace().next());
        value.with_context(|| format!("no {line}"))?.parse().context("not a number")
    }

    /// Kernel memory of its maps in KiB, as the kernel counts it (`memlock` of fdinfo).
    pub(crate) fn maps_kib(&self) -> Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.child().id()))? {
            // A descriptor may be closed meanwhile.
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
            if value("map_id:").is_some() {
                bytes +=
                    value("memlock:").and_then(|it| it.trim().parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Ok(bytes / 1024)
    }

    /// All that it has logged.
    pub(crate) fn said(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The end of its log.
    pub(crate) fn log(&self) -> String {
        let log = self.said();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("--- log of tcpwatch ---\n{}\n---", tail.join("\n"))
    }

    /// Stops it and says how that went.
    pub(crate) fn stop(self) -> Result<()> {
        let started = Instant::now();
        let status = self.terminate()?;
        println!("tcpwatch stopped on SIGTERM in {:.2} s.", started.elapsed().as_secs_f64());
        ensure!(status.success(), "tcpwatch ended with {status}\n{}", self.log());
        Ok(())
    }

    fn terminate(&self) -> Result<process::ExitStatus> {
        let mut child = self.child();
        if let Some(status) = child.try_wait().context("looking at tcpwatch")? {
            return Ok(status);
        }
        // It is our child and not waited for, so the pid is still its own.
        kill_process(Pid::from_child(&child), Signal::TERM).context("stopping tcpwatch")?;
        let end = Instant::now() + STOP_DEADLINE;
        while Instant::now() < end {
            if let Some(status) = child.try_wait().context("looking at tcpwatch")? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        child.kill().context("killing tcpwatch")?;
        child.wait().context("waiting for tcpwatch")?;
        bail!("tcpwatch did not end within {STOP_DEADLINE:?} of SIGTERM and was killed")
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of the answer.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        // 1.0: the answer comes in one piece and ends with the connection.
        let mut stream = self.request(path, "1.0")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("reading {path}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(status == "200", "{path}: status {status}: {}", body.trim());
        Ok(body.to_owned())
    }

    /// A connection with this request sent.
    fn request(&self, path: &str, version: &str) -> Result<TcpStream> {
        let connect = || TcpStream::connect_timeout(&self.address, HTTP_TIMEOUT);
        let mut stream = match &self.within {
            Some(ns) => ns.enter(connect)??,
            None => connect()?,
        };
        stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
        stream.set_write_timeout(Some(HTTP_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/{version}\r\nHost: {}\r\n\r\n", self.address)?;
        Ok(stream)
    }
}

/// A client of a stream of server-sent events, which reads on a thread of its own.
pub(crate) struct Reader {
    stream: TcpStream,
    text: Arc<Mutex<String>>,
}

impl Reader {
    pub(crate) fn open(agent: &Agent, path: &str) -> Result<Self> {
        let stream = agent.request(path, "1.1")?;
        // It has no end before its reader goes.
        stream.set_read_timeout(None)?;
        let text = Arc::new(Mutex::new(String::new()));
        let (mut from, into) = (stream.try_clone()?, Arc::clone(&text));
        thread::spawn(move || {
            let mut bytes = [0; 16 * 1024];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]);
                into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Self { stream, text })
    }

    /// How many lines so far begin so.
    pub(crate) fn count(&self, beginning: &str) -> usize {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.lines().filter(|line| line.starts_with(beginning)).count()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It fails only if the agent has closed it; the thread ends with it.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.terminate() {
            eprintln!("{error:#}");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
