//! The agent as a child process, with the rights that the tests give it.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Daemon, Folder, binary, free_address,
    http::{http_get, sum_in, value_in},
    poll, tcpwatch,
};

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

    /// Fails if it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.daemon.must_run()
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

fn unix_seconds() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
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
