//! The test binaries that run in the guests: everything of `scenes`, and of
//! tcpwatch those that need a kernel.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    command::{cargo, output, run},
    repository,
};

/// Tests of tcpwatch that a kernel has no part in, or that need more than a
/// guest has: the sources, servers, a browser, a Prometheus, curl, openssl, a C compiler, git,
/// strace, a terminal, time. All others run.
const NOT_FOR_GUESTS: [&str; 24] = [
    "bad_facts",
    "confined",
    "documents",
    "events_clients",
    "first_screen",
    "healthy",
    "hostile_names",
    "journal",
    "outside",
    "page",
    "prometheus",
    "purity",
    "report",
    "revision",
    "schema",
    "selections",
    "socket",
    "sockets_document",
    "stacks",
    "storms",
    "symbol_server",
    "terminal",
    "web_config",
    "top",
];

/// Tests of a whole agent. A kernel has its part in them through facts, which the others test; they run
/// with `--all`, because an emulated machine starts an agent in 10 s of processor time, and they start
/// a hundred. Not `bind_conflict`: some kernels of hosts refuse its hook. `one_pass` loads both walks in
/// each test.
const OF_AGENTS: [&str; 17] = [
    "agent",
    "cgroups",
    "cli",
    "events",
    "half_closed",
    "handover",
    "listeners",
    "log",
    "lost_requests",
    "one_pass",
    "overrides",
    "ports",
    "reset_storm",
    "scope",
    "sight",
    "sockets",
    "stuck_state",
];

/// The unit tests of `kernel`, but those in which no kernel has a part and that take minutes in emulation.
const KERNEL_TESTS: &str = "kernel:: --skip kernel::elf:: --skip kernel::reset_totals::";

/// The test that counts instructions: see xtask/src/bench/instructions.rs.
const COUNTER: &str = "bench::instructions --ignored --nocapture";

/// Where the recordings are, and the configuration under which they are made.
pub(super) const INCIDENTS: &str = "tcpwatch/tests/incidents";

/// The files of a guest.
#[derive(Default)]
pub(super) struct Suite {
    /// Where the tests start tcpwatch from: the path that was built into them.
    pub(super) tcpwatch: PathBuf,
    /// The release build that is there: an emulated machine starts it in a third of the time, and it is
    /// what is shipped.
    pub(super) agent: PathBuf,
    pub(super) tests: Vec<TestBinary>,
    /// Records the incidents, if there are any.
    recorder: Option<TestBinary>,
    /// Their names, with commas between.
    pub(super) incidents: Option<String>,
    /// Counts the instructions of the hooks.
    counter: Option<TestBinary>,
}

impl Suite {
    /// Leaves only the tests of these names.
    pub(super) fn only(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            let exists = self.tests.iter().any(|test| test.name == *name);
            ensure!(exists, "no test of the guests has the name `{name}`");
        }
        self.tests.retain(|test| names.contains(&test.name));
        Ok(())
    }

    /// Leaves out the tests that run only by their name, and without `all` those of agents.
    pub(super) fn unnamed(&mut self, all: bool) {
        let is_left_out = |name: &str| !all && OF_AGENTS.contains(&name);
        self.tests.retain(|test| !is_left_out(&test.name));
    }

    /// One that counts the instructions of the hooks, and nothing else.
    pub(super) fn counting(&mut self) -> Result<Self> {
        let counter = self.counter.take().context("cargo built no tests of xtask")?;
        let (tcpwatch, agent) = (self.tcpwatch.clone(), self.agent.clone());
        Ok(Self { tcpwatch, agent, tests: vec![counter], ..Self::default() })
    }

    /// Makes it record `incidents`, and nothing else.
    pub(super) fn record(&mut self, incidents: &str) -> Result<()> {
        let recorder = self.recorder.take().context("cargo built no recorder of incidents")?;
        self.tests = vec![recorder];
        self.incidents = Some(incidents.to_owned());
        Ok(())
    }
}

/// One of cargo's test binaries.
pub(super) struct TestBinary {
    pub(super) name: String,
    pub(super) file: PathBuf,
    /// libtest's filter, or other arguments for it; empty for all.
    pub(super) filter: &'static str,
}

/// A line of cargo's messages, as far as we read it.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds what `cargo test --workspace` builds, so after that there is nothing
/// to do, and finds it.
pub(super) fn build() -> Result<Suite> {
    let build = || {
        let mut build = cargo();
        build.args(["test", "--no-run", "--workspace"]).current_dir(repository::root());
        build
    };
    // Once to be seen, once to be read.
    run(&mut build())?;
    let suite = parse(&output(build().args(["--message-format", "json"]))?)?;
    Ok(Suite { agent: repository::build_tcpwatch()?, ..suite })
}

fn parse(messages: &str) -> Result<Suite> {
    let mut suite = Suite::default();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).context("a message of cargo")?;
        let Message { target: Some(target), profile: Some(profile), executable: Some(file) } =
            message
        else {
            continue;
        };
        let kind = target.kind.first().map_or("", String::as_str);
        let (name, filter) = match (kind, target.name.as_str(), profile.test) {
            ("bin", "tcpwatch", false) => {
                suite.tcpwatch = file;
                continue;
            }
            ("test", name @ "incidents", true) => {
                let name = name.to_owned();
                suite.recorder = Some(TestBinary { name, file, filter: "--ignored" });
                continue;
            }
            ("bin", "xtask", true) => {
                let name = "instructions".to_owned();
                suite.counter = Some(TestBinary { name, file, filter: COUNTER });
                continue;
            }
            ("lib", "tcpwatch", true) => ("kernel", KERNEL_TESTS),
            ("lib", "scenes", true) => ("scenes", ""),
            ("test", name, true) if !NOT_FOR_GUESTS.contains(&name) => (name, ""),
            _ => continue,
        };
        suite.tests.push(TestBinary { name: name.to_owned(), file, filter });
    }
    suite.tests.sort_by(|a, b| a.name.cmp(&b.name));
    ensure!(suite.tcpwatch != Path::new(""), "cargo built no tcpwatch");
    ensure!(!suite.tests.is_empty(), "cargo built no tests");
    Ok(suite)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_suite_is_what_asks_a_kernel() {
        let artifact = |kind: &str, name: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"#
            ) + &format!(r#""profile":{{"test":{test}}},"executable":"/t/{name}-{kind}"}}"#)
        };
        let messages = [
            r#"{"reason":"build-script-executed"}"#.to_owned(),
            artifact("bin", "tcpwatch", false),
            artifact("bin", "tcpwatch", true),
            artifact("lib", "tcpwatch", true),
            artifact("lib", "tcpwatch_common", true),
            artifact("test", "agent", true),
            artifact("test", "prometheus", true),
            artifact("test", "incidents", true),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let mut suite = parse(&messages.join("\n")).expect("messages of cargo");
        assert_eq!(suite.tcpwatch.to_str(), Some("/t/tcpwatch-bin"));
        let names = |suite: &super::Suite| -> Vec<(String, &str)> {
            suite.tests.iter().map(|test| (test.name.clone(), test.filter)).collect()
        };
        let (agent, kernel) =
            (("agent".to_owned(), ""), ("kernel".to_owned(), super::KERNEL_TESTS));
        suite.unnamed(true);
        assert_eq!(names(&suite), [agent, kernel.clone()]);
        suite.unnamed(false);
        assert_eq!(names(&suite), [kernel]);
        suite.record("syn-flood").expect("a recorder");
        let files: Vec<_> = suite.tests.iter().map(|test| test.file.to_str()).collect();
        assert_eq!(files, [Some("/t/incidents-test")]);
    }
}
