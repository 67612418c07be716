//! `cargo xtask test`: everything that must hold before a change goes in,
//! in the order in which a failure is cheapest; stops at the first.
//!
//! It installs what it misses where it may. A step that cannot run is
//! skipped and listed at the end; `TCPWATCH_REQUIRE_ALL=1` (set by `.ci/run`)
//! turns each skip into a failure.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{as_root, cargo, command, find, output, run},
    ebpf, healthy, orphans, package, repository,
    tools::{self, Missing},
};

/// cargo-deny's configuration changes shape between versions; this is the
/// one that deny.toml was written for.
const CARGO_DENY: &str = "0.20.2";

/// In tcpwatch/tests: peers of its HTTP, its files and streams, names, what it may not see or do.
const ATTACKS: [&str; 7] =
    ["outside", "hostile_names", "cgroups", "sight", "privileges", "confined", "cli"];

pub(crate) fn test() -> Result<()> {
    let require_all = env::var_os("TCPWATCH_REQUIRE_ALL").is_some_and(|value| value == "1");
    let mut steps = Steps { require_all, skipped: Vec::new() };

    steps.step("formatting", formatting)?;
    steps.step("lints", lints)?;
    steps.step("documentation", documentation)?;
    steps.step("licences and sources of dependencies", dependencies)?;
    steps.step("the BPF object is the one that the sources make", ebpf::check)?;
    steps.step("tools for the kernel tests", || {
        tools::ensure_programs(&[
            ("curl", "curl"),
            ("ip", "iproute2"),
            ("jq", "jq"),
            ("ss", "iproute2"),
            ("nft", "nftables"),
            ("promtool", "prometheus"),
            ("prometheus", "prometheus"),
            ("strace", "strace"),
            ("openssl", "openssl"),
            ("tmux", "tmux"),
            ("less", "less"),
            ("journalctl", "systemd"),
            ("chromium", "chromium"),
        ])
    })?;
    steps.step("programs that are healthy", healthy_programs)?;
    steps.tests()?;
    steps.step("attacks on the release binary", attacks)?;
    if scenes::is_root() {
        steps.step("a healthy host raises nothing", healthy::host_raises_nothing)?;
    } else {
        let why = format!("not root; run: {}", as_root("test"));
        steps.skip("a healthy host raises nothing", &why)?;
    }
    steps.step("alert rules", alert_rules)?;
    steps.step("systemd unit", systemd_unit)?;
    steps.step("journal catalog", journal_catalog)?;
    steps.step("man pages and completions", manual)?;
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

    /// All tests, in this machine's own time. Those that were skipped within are counted: to libtest
    /// they have passed.
    fn tests(&mut self) -> Result<()> {
        let notes = repository::target()?.join("skipped-tests");
        self.step("tests", || {
            let cargo_test = |args: &[&str]| {
                let mut test = cargo();
                test.args(["test", "--workspace"]).args(args).current_dir(root());
                // The errors that tests return say where they come from; panics keep their trace.
                test.env("RUST_LIB_BACKTRACE", "0");
                test
            };
            // A process that a build starts, for example a compiler's cache, may stay.
            run(&mut cargo_test(&["--no-run"]))?;
            fs::write(&notes, "").context("a file for the names of skipped tests")?;
            // Most tests wait for an interval or a window to pass. The steps that follow need the
            // release build.
            let mut release = repository::begin_to_build_tcpwatch()?;
            let outcome = orphans::none_of(|| run(cargo_test(&[]).env(scenes::SKIPPED, &notes)));
            if outcome.is_err() {
                repository::end_group(&release);
            }
            release.wait().context("waiting for the release build")?;
            outcome
        })?;
        let notes = fs::read_to_string(&notes).context("the names of skipped tests")?;
        self.skipped.extend(summary_of_skipped(&notes));
        Ok(())
    }

    fn close(&self) {
        println!("\n=== done ===");
        if self.skipped.is_empty() {
            println!("Everything ran, everything holds.");
        } else {
            println!("All tests that ran hold. Skipped:");
            for line in &self.skipped {
                println!("  - {line}");
            }
        }
    }
}

/// Programs that tcpwatch/tests/healthy runs. Debian's postgresql keeps its own out of PATH; those
/// that it has there stand for them.
fn healthy_programs() -> Result<()> {
    tools::ensure_programs(&[
        ("ab", "apache2-utils"),
        ("curl", "curl"),
        ("haproxy", "haproxy"),
        ("nginx", "nginx-light"),
        ("nmap", "nmap"),
        ("node", "nodejs"),
        ("openssl", "openssl"),
        ("pg_createcluster", "postgresql"),
        ("python3", "python3"),
        ("rabbitmq-server", "rabbitmq-server"),
        ("redis-benchmark", "redis-tools"),
        ("redis-server", "redis-server"),
        ("wrk", "wrk"),
    ])
}

/// The tests that attack tcpwatch from outside, once more: what is shipped differs from what the
/// tests run in optimisation, in checks of overflow, and in what it says when it fails.
fn attacks() -> Result<()> {
    attack(&repository::build_tcpwatch()?)
}

/// These tests with another binary than theirs.
pub(crate) fn attack(binary: &Path) -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--workspace"]).current_dir(root()).env("TCPWATCH_BINARY", binary);
    for name in ATTACKS {
        test.args(["--test", name]);
    }
    run(&mut test)
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

/// Advisories are not checked: this must run without their database.
fn dependencies() -> Result<()> {
    let own = tools::folder()?.join("bin/cargo-deny");
    let deny = match find("cargo-deny") {
        Some(deny) => deny,
        None if own.is_file() => own,
        None => tools::cargo_install("cargo-deny", CARGO_DENY, &["--debug"], &[])?,
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

/// A line for each reason: how many tests, by the notes that they left.
fn summary_of_skipped(notes: &str) -> Vec<String> {
    let mut by_reason: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in notes.lines() {
        *by_reason.entry(reason).or_default() += 1;
    }
    let line = |(reason, tests): (&str, usize)| {
        let noun = if tests == 1 { "test" } else { "tests" };
        format!("{tests} {noun} within: {reason}")
    };
    by_reason.into_iter().map(line).collect()
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

/// `systemd-analyze verify` requires every binary of the unit to exist: it is
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
    println!("$ systemd-analyze verify --man=no {}", copy.display());
    // The man page that the unit names comes with the packages.
    let verdict = command("systemd-analyze")
        .args(["verify", "--man=no"])
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

/// The packages have the same ones, made by the binary that they contain.
fn manual() -> Result<()> {
    let binary = repository::build_tcpwatch_for_tests()?;
    let folder = repository::target()?.join("manual");
    run(command(binary).arg("manual").arg(&folder))?;
    package::check_manual(&folder)
}

/// The journal takes the catalog, and each of its messages is there.
fn journal_catalog() -> Result<()> {
    tools::ensure_programs(&[("journalctl", "systemd")])?;
    let file = root().join("deploy/systemd/tcpwatch.catalog");
    let fresh = repository::target()?.join("systemd/catalog-root");
    let catalogs = fresh.join("usr/lib/systemd/catalog");
    fs::create_dir_all(&catalogs).context("a folder for the catalog")?;
    fs::create_dir_all(fresh.join("var/lib/systemd/catalog"))
        .context("a folder for its database")?;
    fs::copy(&file, catalogs.join("tcpwatch.catalog")).context("copying the catalog")?;
    let root = format!("--root={}", fresh.display());
    run(command("journalctl").args([&*root, "--update-catalog"]))?;
    let listed = output(command("journalctl").args([&*root, "--list-catalog"]))?;
    let ours = listed.lines().filter(|line| line.contains(" tcpwatch: ")).count();
    ensure!(
        ours == 3,
        "journalctl --list-catalog: {ours} messages of tcpwatch, expected 3:\n{listed}"
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
    use super::{Missing, Steps, summary_of_skipped, with_commands_that_exist};

    #[test]
    fn skipped_tests_are_counted_by_reason() {
        let notes = "needs root\nneeds wrk\nneeds root\n";
        let expected = ["2 tests within: needs root", "1 test within: needs wrk"];
        assert_eq!(summary_of_skipped(notes), expected);
        assert!(summary_of_skipped("").is_empty());
    }

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
