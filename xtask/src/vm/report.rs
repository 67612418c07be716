//! The report of a guest, from its second serial line: sections between
//! `@@ begin NAME` and `@@ end NAME STATUS SECONDS`, by init.sh.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The whole report of a guest.
pub(super) struct Report {
    /// `uname -r`.
    pub(super) release: String,
    pub(super) doctor: Doctor,
    pub(super) tests: Vec<Outcome>,
    /// Incidents that it recorded, with what is expected: names of files, and what is in them.
    pub(super) recordings: Vec<(String, String)>,
}

/// `tcpwatch doctor --json`, as far as we read it.
#[derive(Deserialize)]
pub(super) struct Doctor {
    pub(super) hooks: Vec<Hook>,
    pub(super) walk: Walk,
}

/// Its row of the walk.
#[derive(Deserialize)]
pub(super) struct Walk {
    /// `one_pass` or `iterator`.
    pub(super) walk: String,
}

/// A row of it.
#[derive(Deserialize)]
pub(super) struct Hook {
    pub(super) hook: String,
    pub(super) target: String,
    pub(super) attached: bool,
    pub(super) why_not: Option<String>,
    pub(super) lost_without: String,
}

/// How a test binary fared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) passed: u32,
    pub(super) failed: Vec<String>,
    /// Output of the failed ones.
    pub(super) said: String,
    /// Its measurements: lines that begin with `figure: `.
    pub(super) figures: Vec<String>,
    pub(super) seconds: u64,
}

/// A section.
struct Section<'a> {
    name: &'a str,
    text: &'a str,
    status: i32,
    seconds: u64,
}

impl Report {
    /// Fails if the guest did not come to its end.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut sections = sections(text)?.into_iter();
        let mut next = |name: &str| {
            let section = sections.next().filter(|section| section.name == name);
            section.with_context(|| format!("the guest reports nothing of {name}"))
        };
        let release = next("uname")?.text.trim().to_owned();
        let modules = next("modules")?;
        ensure!(modules.status == 0, "loading modules: {}", modules.text.trim());
        let doctor = next("doctor")?;
        let doctor = serde_json::from_str(doctor.text).with_context(|| {
            format!("tcpwatch doctor ended with {} and this: {}", doctor.status, doctor.text)
        })?;
        let (recordings, tests): (Vec<_>, Vec<_>) = sections
            .filter(|section| section.name != "done")
            .partition(|section| section.name.contains(".json"));
        let recordings = recordings
            .into_iter()
            .map(|section| (section.name.to_owned(), section.text.to_owned()))
            .collect();
        Ok(Self { release, doctor, tests: tests.iter().map(outcome).collect(), recordings })
    }

    pub(super) fn passed(&self) -> u32 {
        self.tests.iter().map(|outcome| outcome.passed).sum()
    }

    pub(super) fn failed(&self) -> usize {
        self.tests.iter().map(|outcome| outcome.failed.len()).sum()
    }
}

fn sections(text: &str) -> Result<Vec<Section<'_>>> {
    let mut sections = Vec::new();
    let mut remainder = text;
    while let Some((_, begun)) = remainder.split_once("@@ begin ") {
        let (name, begun) = begun.split_once('\n').context("half a line")?;
        let end = format!("@@ end {name} ");
        let (text, ended) = begun.split_once(&end).with_context(|| {
            let last: Vec<&str> = begun.lines().rev().take(3).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            format!("the guest ended within {name}: … {}", last.join(" / "))
        })?;
        let (numbers, ended) = ended.split_once('\n').context("half a line")?;
        let (status, seconds) = numbers.split_once(' ').context("no seconds")?;
        sections.push(Section {
            name,
            text,
            status: status.parse().context("an exit status")?,
            seconds: seconds.trim().parse().context("seconds")?,
        });
        remainder = ended;
    }
    ensure!(
        sections.last().is_some_and(|section| section.name == "done"),
        "the guest did not come to its end; its last section is that of {}",
        sections.last().map_or("nothing", |section| section.name)
    );
    Ok(sections)
}

/// Reads the output of libtest: the output of failed tests, the list of their
/// names, the summary.
fn outcome(section: &Section<'_>) -> Outcome {
    let (before, summary) = section.text.rsplit_once("test result: ").unwrap_or((section.text, ""));
    let passed = summary.split(". ").nth(1).and_then(|counts| counts.split(' ').next());
    let (before, listed) = before.rsplit_once("\nfailures:\n").unwrap_or((before, ""));
    let (_, said) = before.split_once("\nfailures:\n").unwrap_or_default();
    let mut failed: Vec<String> =
        listed.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if failed.is_empty() && section.status != 0 {
        let last = before.lines().rfind(|line| line.starts_with("test ")).unwrap_or_default();
        failed.push(format!("ended with {} at: {}", section.status, last.trim()));
    }
    let passed = passed.and_then(|count| count.parse().ok()).unwrap_or(0);
    if passed == 0 && failed.is_empty() {
        failed.push("no test ran".to_owned());
    }
    let figures = section.text.lines().filter_map(|line| line.strip_prefix("figure: "));
    Outcome {
        name: section.name.to_owned(),
        passed,
        failed,
        said: said.trim().to_owned(),
        figures: figures.map(str::to_owned).collect(),
        seconds: section.seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    const HEAD: &str = "@@ begin uname\n6.1.0\n@@ end uname 0 0\n@@ begin modules\n\
        @@ end modules 0 1\n@@ begin doctor\n{\"walk\": {\"walk\": \"iterator\"}, \
        \"hooks\": [{\"hook\": \"a\", \"target\": \"b\", \
        \"attached\": false, \"why_not\": \"c\", \"lost_without\": \"d\"}]}\n@@ end doctor 0 1\n";

    #[test]
    fn tests_are_counted_and_failures_named() {
        let text = format!(
            "{HEAD}@@ begin cli\ntest x ... ok\ntest y ... FAILED\n\nfailures:\n\n---- y stdout \
             ----\nno\n\nfailures:\n    y\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n\n\
             figure: 7 instructions\n@@ end cli 101 7\n@@ begin agent\ntest z ... @@ end agent 137 900\n\
             @@ begin none\ntest result: ok. 0 passed; 0 failed\n@@ end none 0 1\n\
             @@ begin a.jsonl\n{{}}\n{{}}\n@@ end a.jsonl 0 0\n@@ begin done\n@@ end done 0 0\n"
        );
        let report = Report::parse(&text).expect("a whole report");
        assert_eq!(report.release, "6.1.0");
        assert_eq!(report.passed(), 1);
        assert_eq!(report.failed(), 3);
        assert_eq!(report.tests[0].failed, ["y"]);
        assert_eq!(report.tests[0].said, "---- y stdout ----\nno");
        assert_eq!(report.tests[0].seconds, 7);
        assert_eq!(report.tests[0].figures, ["7 instructions"]);
        assert_eq!(report.tests[1].failed, ["ended with 137 at: test z ..."]);
        assert_eq!(report.tests[2].failed, ["no test ran"]);
        assert!(!report.doctor.hooks[0].attached);
        assert_eq!(report.recordings, [("a.jsonl".to_owned(), "{}\n{}\n".to_owned())]);
    }

    #[test]
    fn a_guest_that_stopped_is_an_error_that_says_where() {
        let error = |tail: &str| {
            Report::parse(&format!("{HEAD}{tail}")).err().map(|error| error.to_string())
        };
        assert!(error("").is_some_and(|error| error.ends_with("of doctor")));
        let within = error("@@ begin cli\ntest x ... ok\n");
        assert!(within.is_some_and(|error| error.contains("within cli: … test x ... ok")));
    }
}
