//! The unit of a process: below the host's service manager, in a system container, and seen from
//! within a container. Also the owner of a namespace that a runtime has mounted.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, id},
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace};
use serde_json::Value;
use support::{Agent, Folder, ended::Ended, poll, skip};

/// The unified hierarchy, mounted for the test, and the cgroups that it makes there.
struct Cgroups {
    folder: Folder,
    made: Vec<PathBuf>,
    /// Where this process was.
    home: String,
}

impl Cgroups {
    /// `None` where this kernel or machine refuses to mount it.
    fn mount() -> Result<Option<Self>> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let home = own.lines().find_map(|line| line.strip_prefix("0::/")).map(str::to_owned);
        let folder = Folder::new()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "cgroup2", "none"]).arg(&folder.path);
        match home {
            Some(home) if mount.status()?.success() => {
                Ok(Some(Self { folder, made: Vec::new(), home }))
            }
            _ => Ok(None),
        }
    }

    /// Makes it with its parents.
    fn make(&mut self, path: &str) -> Result<PathBuf> {
        let mut whole = self.folder.path.clone();
        for part in path.split('/') {
            whole.push(part);
            if !whole.exists() {
                fs::create_dir(&whole).with_context(|| format!("making {}", whole.display()))?;
                self.made.push(whole.clone());
            }
        }
        Ok(whole)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // Each fails only where it is done already.
        let _ = put(id(), &self.folder.path.join(&self.home));
        for path in self.made.iter().rev() {
            let _ = fs::remove_dir(path);
        }
        let _ = Command::new("umount").arg(&self.folder.path).status();
    }
}

fn put(pid: u32, cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("putting {pid} into {}", cgroup.display()))
}

/// A namespace under a name that is not ours to choose.
struct Mounted(String);

impl Mounted {
    fn new(name: String) -> Result<Self> {
        let status = Command::new("ip").args(["netns", "add", &name]).status()?;
        ensure!(status.success(), "ip netns add {name}: {status}");
        Ok(Self(name))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// The subject and the remedies of the leak in that namespace, as one look sees it; from within
/// the cgroup namespace of a container where one is given.
fn look(ns: &Namespace, container: Option<&Path>) -> Result<(Value, String)> {
    let binary = support::binary();
    let mut command = match container {
        None => Command::new(binary),
        Some(container) => {
            let mut command = Command::new("sh");
            let script =
                "echo $$ > \"$1/cgroup.procs\" && exec unshare --cgroup \"$2\" \"$3\" \"$4\"";
            command.args(["-c", script, "sh"]).arg(container).arg(binary);
            command
        }
    };
    let output = command.args(["check", "--json"]).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let findings = report["findings"].as_array().context("no findings")?;
    let ours = findings.iter().find(|finding| finding["subject"]["netns"] == ns.name());
    let ours = ours.with_context(|| format!("the leak is not found: {report:#}"))?;
    Ok((ours["subject"].clone(), ours["remedies"].to_string()))
}

/// One test, since it moves the whole process.
#[test]
fn a_unit_is_the_hosts_only_where_the_hosts_manager_made_it() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let Some(mut cgroups) = Cgroups::mount()? else {
        return skip("needs the unified cgroup hierarchy");
    };
    let number = id();
    let slice = format!("twtest{number}.slice");
    let container = format!("{number:012x}").repeat(6)[..64].to_owned();
    let short = &container[..12];
    let boxed = cgroups.make(&format!("{slice}/docker-{container}.scope"))?;
    let service = cgroups.make(&format!("{slice}/twtest.service"))?;
    let below = cgroups.make(&format!("{slice}/twtest.service/worker.slice/inner.service"))?;
    let system = cgroups.make(&format!("lxc.payload.tw{number}/system.slice/twtest.service"))?;
    let users = format!("user.slice/user-{number}.slice/user@{number}.service/app.slice/x.service");
    let users = cgroups.make(&users)?;

    let ns = Namespace::new("cgroups")?;
    let _leak = CloseWaitLeak::client(&ns, 37, 0, false)?;
    for (cgroup, unit) in [(&service, "twtest.service"), (&below, "twtest.service")] {
        put(id(), cgroup)?;
        for from in [None, Some(&*boxed)] {
            let (subject, remedies) = look(&ns, from)?;
            assert_eq!(subject["unit"], unit, "{subject:#} from {from:?}");
            assert_eq!(subject["container"], Value::Null, "{subject:#}");
            ensure!(remedies.contains("systemctl restart -- twtest.service"), "{remedies}");
        }
    }
    for (cgroup, unit, container) in [
        (&boxed, None, Some(short.to_owned())),
        (&system, None, Some(format!("tw{number}"))),
        (&users, Some(format!("user@{number}.service")), None),
    ] {
        put(id(), cgroup)?;
        for from in [None, Some(&*boxed)] {
            let (subject, remedies) = look(&ns, from)?;
            assert_eq!(subject["unit"].as_str(), unit.as_deref(), "{subject:#} from {from:?}");
            assert_eq!(subject["container"].as_str(), container.as_deref(), "{subject:#}");
            ensure!(!remedies.contains("systemctl restart"), "{remedies}");
        }
    }

    let mounted = Mounted::new(format!("cni-{number:08x}-5e6f-4a8b-9c0d-1e2f3a4b5c6d"))?;
    let pods = Namespace::existing(&mounted.0)?;
    let inside = Ended::asleep_in(&pods)?;
    put(inside.0.id(), &boxed)?;
    let agent = Agent::start_quick()?;
    let label = format!("netns=\"{short}\"");
    let metrics = poll("the namespace to be named by its container", || {
        Ok(Some(agent.metrics_of_now()?).filter(|metrics| metrics.contains(&label)))
    })?;
    ensure!(!metrics.contains(&mounted.0), "{metrics}");
    Ok(())
}
