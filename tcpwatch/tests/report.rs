//! The report of `check` as a person, a terminal and a monitoring system get it, from recordings
//! that stop in the middle of their incident.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use support::{Folder, tcpwatch};

/// Both findings are critical and named after one process; the first leads the second.
const LEAK: &str = "ephemeral-port-exhaustion-leak";

fn incidents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents")
}

/// The first two thirds of a recording, in which its incident is on.
fn middle_of(incident: &str, folder: &Folder) -> Result<PathBuf> {
    let whole = fs::read_to_string(incidents().join(format!("{incident}.jsonl")))?;
    let lines: Vec<&str> = whole.lines().collect();
    let middle = lines[..lines.len() * 2 / 3].join("\n");
    folder.write("middle.jsonl", &middle)
}

fn arguments(recording: &Path) -> Vec<String> {
    let config = incidents().join("tcpwatch.toml");
    let words = ["check", "--replay", &recording.display().to_string(), "--config"];
    words.iter().map(ToString::to_string).chain([config.display().to_string()]).collect()
}

fn check(recording: &Path, more: &[&str]) -> Result<Output> {
    Ok(tcpwatch().args(arguments(recording)).args(more).output()?)
}

/// Standard output and the exit code.
fn said(recording: &Path, more: &[&str]) -> Result<(String, Option<i32>)> {
    let output = check(recording, more)?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    Ok((String::from_utf8(output.stdout)?, output.status.code()))
}

#[test]
fn a_pipe_has_the_first_line_with_its_numbers_then_each_finding() -> Result<()> {
    let folder = Folder::new()?;
    let recording = middle_of(LEAK, &folder)?;
    let (text, code) = said(&recording, &[])?;
    assert_eq!(code, Some(2), "{text}");
    let first = text.lines().next().context("no line")?;
    assert!(first.starts_with("CRITICAL: 2 critical, 0 warning, 0 info; indexer "), "{first}");
    assert!(!first.contains('|'), "{first}");
    assert!(text.contains("\nSEVERITY  SINCE"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    // A pipe's lines are whole, and a command is one of them.
    assert!(text.lines().any(|line| line.starts_with("  why     The peers have closed; ")));
    let is_command = |line: &str| line.trim().starts_with("ip netns exec") && line.ends_with(" )'");
    assert!(text.lines().any(is_command), "{text}");
    assert!(!text.contains("  data  "), "{text}");

    // Further down commands have bars, so only this is for a monitoring system.
    let (quiet, _) = said(&recording, &["-q"])?;
    assert_eq!(quiet, format!("{first} | critical=2 warning=0 info=0\n"));
    let (verbose, _) = said(&recording, &["-v"])?;
    assert!(verbose.contains("  data    sockets: 30\n"), "{verbose}");
    let (coloured, _) = said(&recording, &["--color", "always"])?;
    assert!(coloured.starts_with("\u{1b}[1m\u{1b}[31mCRITICAL:\u{1b}[0m 2 critical"), "{coloured}");
    Ok(())
}

#[test]
fn a_filter_decides_what_is_shown_and_the_exit_code() -> Result<()> {
    let folder = Folder::new()?;
    let recording = middle_of(LEAK, &folder)?;
    let all: [&[&str]; 4] = [
        &["--process", "indexer"],
        &["--port", "9200"],
        // It leads the other.
        &["--kind", "close-wait-pileup"],
        &["--min-severity", "critical", "--process", "another", "--process", "indexer"],
    ];
    for filter in all {
        let (text, code) = said(&recording, filter)?;
        assert_eq!(code, Some(2), "{filter:?}: {text}");
        assert!(text.starts_with("CRITICAL: 2 critical"), "{filter:?}: {text}");
    }
    // The one that is led, without its leader.
    let (text, code) = said(&recording, &["--kind", "ephemeral-port-exhaustion"])?;
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.starts_with("CRITICAL: 1 critical, 0 warning, 0 info, 1 left out by the filters; ")
    );
    let none: [&[&str]; 6] = [
        &["--process", "index"],
        &["--port", "80"],
        &["--kind", "syn-flood"],
        &["--unit", "indexer.service"],
        &["--container", "0123456789ab"],
        &["--netns", "host"],
    ];
    for filter in none {
        let (text, code) = said(&recording, filter)?;
        assert_eq!(code, Some(0), "{filter:?}: {text}");
        assert!(text.starts_with("OK: 0 critical, 0 warning, 0 info, 2 left out by the filters\n"));
    }
    Ok(())
}

#[test]
fn a_failure_to_look_is_unknown_on_standard_output_too() -> Result<()> {
    for (arguments, says) in
        [(vec!["--replay", "/nonexistent"], "/nonexistent"), (vec!["--nonsense"], "--nonsense")]
    {
        let output = tcpwatch().arg("check").args(&arguments).output()?;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let line = String::from_utf8(output.stdout)?;
        assert!(line.starts_with("UNKNOWN: ") && line.contains(says), "{line}");
        assert!(line.lines().count() == 1 && !line.contains('|'), "{line}");
        // A program that reads JSON gets nothing that is none.
        let output = tcpwatch().args(["check", "--json"]).args(&arguments).output()?;
        assert_eq!((output.status.code(), &*output.stdout), (Some(3), &b""[..]));
    }
    Ok(())
}

#[test]
fn explain_prints_the_runbook_with_and_without_a_pager() -> Result<()> {
    let runbook = fs::read_to_string(incidents().join("../../../docs/runbooks/stuck-state.md"))?;
    let piped = tcpwatch().args(["explain", "stuck-state"]).output()?;
    assert_eq!((piped.status.code(), String::from_utf8(piped.stdout)?), (Some(0), runbook.clone()));
    let program = tcpwatch().get_program().to_str().context("a path in UTF-8")?.to_owned();
    let folder = Folder::new()?;
    let paged = folder.path.join("paged");
    // The pager has the text and less's variables; one that is not there is not missed.
    let tee = folder
        .write("tee", &format!("#!/bin/sh\nenv >&2; exec tee \"$@\" {}\n", paged.display()))?;
    ensure!(Command::new("chmod").arg("+x").arg(&tee).status()?.success());
    let tee = format!("{} --append", tee.display());
    for (pager, is_there) in [(tee, true), ("/nonexistent".into(), false)] {
        let line = format!("TERM=xterm PAGER='{pager}' exec {program} explain stuck-state");
        let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output()?;
        let text = String::from_utf8(output.stdout)?.replace('\r', "");
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains(&runbook), "{text}");
        assert_eq!(text.contains("LESSSECURE=1"), is_there, "{text}");
    }
    assert_eq!(fs::read_to_string(paged)?, runbook);
    let unknown = tcpwatch().args(["explain", "nonsense"]).output()?;
    assert_eq!(unknown.status.code(), Some(64), "{unknown:?}");
    Ok(())
}

#[test]
fn a_terminal_s_lines_fit_but_for_commands() -> Result<()> {
    let folder = Folder::new()?;
    let recording = middle_of(LEAK, &folder)?;
    let program = tcpwatch().get_program().to_str().context("a path in UTF-8")?.to_owned();
    for columns in [60, 100, 160] {
        let line = arguments(&recording).join(" ");
        let line =
            format!("stty cols {columns} rows 40; NO_COLOR=1 exec {program} {line} --no-pager");
        let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(!text.contains(" | critical="), "numbers for a machine: {text}");
        let too_long: Vec<&str> = text
            .lines()
            .filter(|line| line.chars().count() > columns && !line.trim().starts_with("ip netns"))
            .collect();
        assert_eq!(too_long, [""; 0], "{columns} columns: {text}");
        let rows = text.lines().filter(|line| line.starts_with("CRITICAL  now "));
        let rows: Vec<&str> = rows.filter(|row| row.contains("indexer (pid ")).collect();
        assert_eq!(rows.len(), 2, "{text}");
    }
    Ok(())
}
