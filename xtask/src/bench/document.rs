//! docs/BENCHMARKS.md: the sections that the subjects measured, and the machine.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::{Context, Result};

use crate::repository;

/// Where the document lies.
const FILE: &str = "docs/BENCHMARKS.md";

/// The figures of a subject.
pub(super) struct Section {
    title: &'static str,
    body: String,
}

impl Section {
    /// `how` says how it was measured.
    pub(super) fn new(title: &'static str, how: &str) -> Self {
        Self { title, body: format!("{how}\n") }
    }

    /// Adds a paragraph.
    pub(super) fn say(&mut self, text: &str) {
        let _ = write!(self.body, "\n{text}\n");
    }

    /// Adds a table.
    pub(super) fn table<const N: usize>(&mut self, heads: [&str; N], rows: &[[String; N]]) {
        let _ = write!(self.body, "\n| {} |\n|{}\n", heads.join(" | "), "---|".repeat(N));
        for row in rows {
            let _ = writeln!(self.body, "| {} |", row.join(" | "));
        }
    }

    /// As Markdown.
    pub(super) fn text(&self) -> String {
        format!("## {}\n\n{}", self.title, self.body)
    }
}

/// Writes the document.
pub(super) fn write(sections: &[Section]) -> Result<()> {
    let mut text = format!(
        "# Costs of tcpwatch\n\n\
         Measured by `cargo xtask bench`, which needs root, twenty minutes and a machine that does\n\
         nothing else, and writes this page; with a subject (`hooks`, `connect`, `inventory`, `namespaces`,\n\
         `scrape`, `events`) it measures only that. Things that are compared are measured in turn, because\n\
         a machine's speed drifts more than the difference is. The ratios travel better than the times.\n\n\
         {}\n",
        machine()?
    );
    for section in sections {
        let _ = write!(text, "\n{}", section.text());
    }
    let file = repository::root().join(FILE);
    fs::write(&file, text).with_context(|| format!("writing {FILE}"))?;
    println!("{FILE} is written");
    Ok(())
}

/// The machine, its kernel, the versions of all that is measured, and the date.
fn machine() -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let value = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value).to_owned()
    };
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("no MemTotal")?;
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    let rows = [
        ("machine", format!("{count} CPUs, {}, {} GiB", value("model name"), kib / 1024 / 1024)),
        ("kernel", kernel.trim().to_owned()),
        ("sources", said("git", &["describe", "--always", "--dirty"])),
        ("ss", said("ss", &["-V"])),
        ("node_exporter", package("prometheus-node-exporter")),
        ("libbpf-tools", package("libbpf-tools")),
        ("bpftrace", package("bpftrace")),
        ("date", said("date", &["--utc", "+%Y-%m-%d"])),
    ];
    let rows: String = rows.iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
    Ok(format!("| | |\n|---|---|\n{rows}"))
}

/// The version of a Debian package.
fn package(name: &str) -> String {
    said("dpkg-query", &["--show", "--showformat=${Version}", name])
}

/// The first line that a program prints.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(repository::root()).output();
    let said =
        output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
    match said.lines().next() {
        Some(line) if !line.is_empty() => line.to_owned(),
        _ => "not there".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::Section;

    #[test]
    fn a_section_is_markdown() {
        let mut section = Section::new("Costs", "In turn.");
        section.table(["", "ns"], &[["plain".to_owned(), "7".to_owned()]]);
        section.say("Enough.");
        let text = "## Costs\n\nIn turn.\n\n|  | ns |\n|---|---|\n| plain | 7 |\n\nEnough.\n";
        assert_eq!(section.text(), text);
    }
}
