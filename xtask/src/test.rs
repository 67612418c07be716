//! `cargo xtask test`: everything that must hold before a change goes in,
//! in the order in which a failure is cheapest; stops at the first.
//!
//! It installs what it misses where it may. A step that cannot run is
//! skipped and listed at the end; `TCPWATCH_REQUIRE_ALL=1` (set by `.ci/run`)
//! turns each skip into a failure.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    agent::Agent,
    command::{as_root, cargo, command, find, run},
    ebpf,
    interrupt::Interrupt,
    repository,
    tools::{self, Missing},
};

/// cargo-deny's configuration changes shape between versions; this is the
/// one that deny.toml was written for.
const CARGO_DENY: &str = "0.20.2";

pub(crate) fn test() -> Result<()> {
    let require_all = env::var_os("TCPWATCH_REQUIRE_ALL").is_some_and(|value| value == "1");
    let mut steps = Steps { require_all, skipped: Vec::new() };

    steps.step("formatting", formatting)?;
    steps.step("lints", lints)?;
    steps.step("licences and sources of dependencies", dependencies)?;
    let mut watching = None;
    if scenes::is_root() {
        steps.step("a watch over this host, from here to the end of the tests", || {
            watching = Some(watch_this_host()?);
            Ok(())
        })?;
    }
    steps.step("the BPF object is the one that the sources make", ebpf::check)?;
    steps.step("tools for the kernel tests", || {
        tools::ensure_programs(&[
            ("ip", "iproute2"),
            ("ss", "iproute2"),
            ("promtool", "prometheus"),
            ("prometheus", "prometheus"),
            ("strace", "strace"),
        ])
    })?;
    steps.step("programs that are healthy", healthy_programs)?;
    steps.step("tests", || run(cargo().args(["test", "--workspace"]).current_dir(root())))?;
    if let Some(agent) = watching {
        steps.step("the host stayed quiet", || stayed_quiet(agent))?;
    } else {
        let why = format!("not root; run: {}", as_root("test"));
        steps.skip("the kernel tests within", &why)?;
    }
    steps.step("documentation", documentation)?;
    steps.step("alert rules", alert_rules)?;
    steps.step("systemd unit", systemd_unit)?;
    steps.close();
    Ok(())
}

/// The steps so far.
struct Steps {
    require_all: bool,
    skipped: Vec<String>,
}

impl Steps {
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("\n=== {name} ===");
        match work() {
            Err(error) if error.is::<Missing>() => self.skip(name, &format!("{error:#}")),
            outcome => outcome.with_context(|| format!("step `{name}`")),
        }
    }

    fn skip(&mut self, name: &str, reason: &str) -> Result<()> {
        ensure!(
            !self.require_all,
            "step `{name}` cannot run, and TCPWATCH_REQUIRE_ALL=1 forbids to skip it: {reason}"
        );
        println!("skipped: {reason}");
        self.skipped.push(format!("{name}: {reason}"));
        Ok(())
    }

    fn close(&self) {
        println!("\n=== done ===");
        if self.skipped.is_empty() {
            println!("Everything ran, everything holds.");
        } else {
            println!("What ran holds. Skipped:");
            for line in &self.skipped {
                println!("  - {line}");
            }
        }
    }
}

/// What tcpwatch/tests/healthy.rs runs. Debian's postgresql keeps its own out of PATH; what it has
/// there stands for them.
fn healthy_programs() -> Result<()> {
    tools::ensure_programs(&[
        ("nginx", "nginx-light"),
        ("pg_createcluster", "postgresql"),
        ("redis-benchmark", "redis-tools"),
        ("redis-server", "redis-server"),
        ("wrk", "wrk"),
    ])
}

fn root() -> PathBuf {
    repository::root()
}

fn formatting() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]).current_dir(root()))?;
    run(cargo().args(["fmt", "--check"]).current_dir(root().join("tcpwatch-ebpf")))
}

fn lints() -> Result<()> {
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run(cargo().args(clippy).current_dir(root()))
}

/// The advisory database is not asked: this must run without it.
fn dependencies() -> Result<()> {
    let own = tools::folder()?.join("bin/cargo-deny");
    let deny = match find("cargo-deny") {
        Some(deny) => deny,
        None if own.is_file() => own,
        None => tools::cargo_install("cargo-deny", CARGO_DENY, &[], &[])?,
    };
    let check = ["check", "bans", "licenses", "sources"];
    for workspace in [root(), root().join("tcpwatch-ebpf")] {
        run(command(&deny).arg("--manifest-path").arg(workspace.join("Cargo.toml")).args(check))?;
    }
    Ok(())
}

/// Links in the documentation lead somewhere.
fn documentation() -> Result<()> {
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps"]);
    run(doc.env("RUSTDOCFLAGS", "-D warnings").current_dir(root()))
}

/// An agent with the default configuration that watches this host while everything else builds,
/// downloads and tests; the tests' own namespaces are left to their own agents.
fn watch_this_host() -> Result<Agent> {
    let binary = repository::build_tcpwatch()?;
    let interrupt = Interrupt::install().context("handling signals")?;
    Agent::start(&binary, "[inventory]\nnamespaces = \"host\"\n", &interrupt)
}

/// It has found nothing above info.
fn stayed_quiet(agent: Agent) -> Result<()> {
    let said = agent.said();
    let loud = |line: &&str| {
        line.contains(" raised: ") && (line.contains(" WARN ") || line.contains(" ERROR "))
    };
    let found: Vec<_> = said.lines().filter(loud).collect();
    ensure!(found.is_empty(), "a quiet host has findings:\n{}", found.join("\n"));
    agent.stop()
}

fn alert_rules() -> Result<()> {
    let folder = root().join("deploy/prometheus");
    let rules = files_ending(&folder, ".rules.yml")?;
    let tests = files_ending(&folder.join("tests"), ".yml")?;
    ensure!(!rules.is_empty() && !tests.is_empty(), "no rules or no tests in deploy/prometheus");
    tools::ensure_programs(&[("promtool", "prometheus")])?;
    run(command("promtool").args(["check", "rules"]).args(rules))?;
    run(command("promtool").args(["test", "rules"]).args(tests))
}

fn files_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut files = repository::files_below(folder)?;
    files.retain(|f| f.parent() == Some(folder) && f.to_string_lossy().ends_with(ending));
    Ok(files)
}

/// `systemd-analyze verify` wants every binary of the unit to exist: it is
/// given a copy that starts /bin/true instead. Unknown keys are warnings to
/// it and failures here.
fn systemd_unit() -> Result<()> {
    tools::ensure_programs(&[("systemd-analyze", "systemd")])?;
    let unit = root().join("deploy/systemd/tcpwatch.service");
    let text = fs::read_to_string(&unit).with_context(|| format!("reading {}", unit.display()))?;
    let folder = repository::target()?.join("systemd");
    fs::create_dir_all(&folder).context("a folder for the unit")?;
    let copy = folder.join("tcpwatch.service");
    fs::write(&copy, with_commands_that_exist(&text)).context("writing the unit's copy")?;
    println!("$ systemd-analyze verify {}", copy.display());
    let verdict = command("systemd-analyze")
        .arg("verify")
        .arg(&copy)
        .output()
        .context("cannot run systemd-analyze")?;
    let said = String::from_utf8_lossy(&verdict.stderr);
    let about_us: Vec<&str> = said.lines().filter(|l| l.contains("tcpwatch")).collect();
    ensure!(
        verdict.status.success() && about_us.is_empty(),
        "systemd-analyze verify: {}\n{}",
        verdict.status,
        if about_us.is_empty() { said.trim().to_owned() } else { about_us.join("\n") }
    );
    Ok(())
}

/// The same unit with /bin/true in place of each program.
fn with_commands_that_exist(unit: &str) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some((key, command)) if key.starts_with("Exec") => {
            let args = command.split_once(' ').map_or("", |(_, args)| args);
            format!("{key}=/bin/true {args}\n")
        }
        _ => format!("{line}\n"),
    };
    unit.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Missing, Steps, with_commands_that_exist};

    #[test]
    fn only_programs_are_replaced_in_the_unit() {
        let unit = "[Service]\n# ExecStart is run\nExecStart=/usr/bin/tcpwatch run\nUser=x\n";
        let copy = "[Service]\n# ExecStart is run\nExecStart=/bin/true run\nUser=x\n";
        assert_eq!(with_commands_that_exist(unit), copy);
    }

    #[test]
    fn what_is_missing_is_skipped_unless_all_is_required() {
        let missing = || Err(anyhow::Error::new(Missing("no ss".to_owned())).context("tools"));
        let mut steps = Steps { require_all: false, skipped: Vec::new() };
        assert!(steps.step("tests", missing).is_ok());
        assert_eq!(steps.skipped, ["tests: tools: no ss"]);
        assert!(steps.step("tests", || anyhow::bail!("one failed")).is_err());
        steps.require_all = true;
        assert!(steps.step("tests", missing).is_err());
    }
}
