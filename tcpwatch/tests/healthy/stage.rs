//! Where one healthy program plays: a network namespace of its own, the times of the run, and the
//! ways to start programs there. The files of the groups say which programs do what.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, ensure};
use scenes::{Namespace, State};

use crate::support::{Daemon, Folder, poll};

/// Whether the run takes every default as it is, and its time.
pub(crate) fn is_full() -> bool {
    env::var_os("CI_FULL").is_some_and(|value| value == "1")
}

/// Where the small programs of the scenes lie.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/healthy/programs");

/// Between two looks whether all still run.
const PAUSE: Duration = Duration::from_millis(200);

/// Between two loads as fast as they go, of 6 s each.
const TURN: Duration = Duration::from_secs(40);

/// A scene by its name: what plays, and which programs it takes.
pub(crate) struct Scene {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [&'static str],
    pub(crate) play: fn(&Stage) -> Result<()>,
}

/// The times of the run, for all scenes.
pub(crate) struct Clock {
    /// From here on a detector may raise whatever its thresholds allow.
    pub(crate) warm: Instant,
    /// The verdict.
    pub(crate) end: Instant,
    ended: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl Clock {
    pub(crate) fn new(cold_start: Duration, watched: Duration) -> Self {
        let warm = Instant::now() + cold_start;
        Self { warm, end: warm + watched, ended: AtomicBool::new(false), failure: Mutex::new(None) }
    }

    /// Lets the scenes end.
    pub(crate) fn stop(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Keeps a failure and lets the scenes end. The first failure counts: it may be why the others have
    /// failed.
    pub(crate) fn fail(&self, error: Error) {
        self.failure().get_or_insert(error);
        self.stop();
    }

    /// The first failure.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure().take()
    }

    fn failure(&self) -> MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

pub(crate) struct Stage {
    pub(crate) ns: Namespace,
    pub(crate) folder: Folder,
    pub(crate) clock: Arc<Clock>,
}

impl Stage {
    pub(crate) fn new(scene: &Scene, clock: &Arc<Clock>) -> Result<Self> {
        let (ns, folder) = (Namespace::new(scene.name)?, Folder::new()?);
        Ok(Self { ns, folder, clock: Arc::clone(clock) })
    }

    /// A command for `program` in the namespace. With all that it forks it is in a PID namespace
    /// that ends with `unshare`, so that killing one process ends nginx with its workers.
    pub(crate) fn command(&self, program: &Path) -> Command {
        command_in(&self.ns, program)
    }

    pub(crate) fn start(&self, log: &str, command: &mut Command) -> Result<Daemon> {
        Daemon::start(command, &self.folder.path.join(log))
    }

    /// Starts a Debian program.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Result<Daemon> {
        let file = find(program).with_context(|| format!("no program {program}"))?;
        self.start(&format!("{program}.log"), self.command(&file).args(args))
    }

    /// Starts one of the small programs of this folder.
    pub(crate) fn python(&self, program: &str, args: &[&str]) -> Result<Daemon> {
        let python = find("python3").context("no python3")?;
        let mut command = self.command(&python);
        command.arg("-u").arg(self.program(program)).args(args);
        self.start(&format!("{program}.log"), &mut command)
    }

    /// Where such a program is.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        Path::new(PROGRAMS).join(name)
    }

    /// Runs `line` in a shell again and again.
    pub(crate) fn repeat(&self, line: &str) -> Result<Daemon> {
        self.run("sh", &["-c", &format!("while :; do {line}; done")])
    }

    /// nginx with these directives in its block `http`; it listens at `port` then.
    pub(crate) fn nginx(&self, http: &str, port: u16) -> Result<Daemon> {
        let folder = self.folder.path.display();
        let text = format!(
            "daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log stderr;\n\
             events {{ worker_connections 4096; }}\nhttp {{ access_log off;\n{http}\n}}\n"
        );
        let file = self.folder.write("nginx.conf", &text)?.display().to_string();
        let mut server = self.run("nginx", &["-e", "stderr", "-c", &file])?;
        self.wait_for_listener(&mut server, port)?;
        Ok(server)
    }

    pub(crate) fn wait_for_listener(&self, server: &mut Daemon, port: u16) -> Result<()> {
        poll("a server to listen", || {
            server.must_run()?;
            let listens = self.ns.count(|s| s.state == State::Listen && s.local.port() == port)?;
            Ok((listens > 0).then_some(()))
        })
    }

    /// Waits for the end of the cold start; false where the run has ended before.
    pub(crate) fn wait_until_warm(&self) -> bool {
        self.sleep_until(self.clock.warm)
    }

    /// False where the run has ended before.
    pub(crate) fn sleep_until(&self, when: Instant) -> bool {
        while Instant::now() < when && !self.clock.has_ended() {
            thread::sleep(PAUSE.min(when.saturating_duration_since(Instant::now())));
        }
        !self.clock.has_ended()
    }

    /// Lets `load` run to its end and gives the other scenes their turn after it, since it takes all
    /// the processor that it can get. Returns what it has said; None where the run has ended before:
    /// how long a load takes depends on the machine, and the counters say whether it did enough.
    pub(crate) fn finish(&self, mut load: Daemon) -> Result<Option<String>> {
        while !self.clock.has_ended() {
            if let Some(said) = load.try_finish()? {
                self.sleep_until(Instant::now() + TURN);
                return Ok(Some(said));
            }
            thread::sleep(PAUSE);
        }
        Ok(None)
    }

    /// Until the end of the run; a program that ends before is a failure.
    pub(crate) fn keep(&self, daemons: &mut [&mut Daemon]) -> Result<()> {
        while !self.clock.has_ended() {
            for daemon in daemons.iter_mut() {
                daemon.must_run()?;
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// At least so many connections were accepted: the scene was played.
    pub(crate) fn must_have_accepted(&self, at_least: u64) -> Result<()> {
        let accepted = self.ns.snmp_counter("PassiveOpens")?;
        ensure!(accepted >= at_least, "{}: only {accepted} connections", self.ns.name());
        Ok(())
    }

    /// At least so many resets were sent: the scene did what used to be a storm.
    pub(crate) fn must_have_reset(&self, at_least: u64) -> Result<()> {
        let sent = self.ns.snmp_counter("OutRsts")?;
        ensure!(sent >= at_least, "{}: only {sent} resets", self.ns.name());
        Ok(())
    }

    /// Exactly so many sockets wait in CLOSE_WAIT.
    pub(crate) fn must_have_in_close_wait(&self, exactly: usize) -> Result<()> {
        let found = self.ns.count(|s| s.state == State::CloseWait)?;
        ensure!(found == exactly, "{}: {found} sockets in CLOSE_WAIT", self.ns.name());
        Ok(())
    }
}

pub(crate) fn command_in(ns: &Namespace, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", ns.path().display()));
    command.args(["unshare", "--fork", "--pid", "--kill-child", "--"]).arg(program);
    command
}

/// Where a program is, PostgreSQL's own ones included.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    // Debian has those out of PATH, by version.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let postgresql = versions.map(|version| version.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    postgresql
        .chain(["/usr/bin".into()])
        .chain(env::split_paths(&path))
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
