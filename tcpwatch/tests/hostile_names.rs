//! Names made to drive a terminal, to hide text or to slip into a command. They come from a real
//! process and from recordings; the binary prints none of it.

mod support;

use std::{fs, path::Path, process::Output};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace};
use serde_json::{Value, json};
use support::{Agent, Folder, http_get, poll, tcpwatch};

/// Fifteen bytes, as many as the kernel keeps: red, and what follows it from right to left.
const COMM: &str = "\u{1b}[41mown\u{1b}[0m\u{202e}";
/// The same, as a person reads it.
const PLAIN_COMM: &str = r"\u{1b}[41mown\u{1b}[0m\u{202e}";

/// Whatever drives a terminal, turns or hides text; lines end.
#[track_caller]
fn assert_plain(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).expect("it is UTF-8");
    let hostile = |it: char| {
        (it.is_control() && it != '\n')
            || matches!(it, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(it, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
    };
    if let Some(line) = text.lines().find(|line| line.contains(hostile)) {
        panic!("not plain: {line:?}");
    }
}

fn run(arguments: &[&str]) -> Result<Output> {
    Ok(tcpwatch().args(arguments).output()?)
}

#[test]
fn a_process_with_a_hostile_name_drives_nobodys_terminal() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    // The name of the main thread, which is that of the process; any thread may set it.
    fs::write("/proc/self/comm", COMM)?;
    let ns = Namespace::new("hostile")?;
    let _leak = CloseWaitLeak::client(&ns, 37, 0, false)?;
    let agent = Agent::start_quick()?;
    let finding = poll("the leak to be found", || {
        Ok(agent.findings("close-wait-pileup", ns.name())?.into_iter().next())
    })?;
    assert_eq!(finding["subject"]["process"], PLAIN_COMM, "{finding:#}");
    ensure!(finding["title"].as_str().is_some_and(|title| title.starts_with(PLAIN_COMM)));
    for path in ["/", "/metrics", "/api/v1/findings"] {
        let answer = http_get(agent.address, path)?;
        assert_eq!(answer.status, 200);
        ensure!(answer.body.contains("[41mown"), "{path} does not show it");
        assert_plain(answer.body.as_bytes());
    }
    let log = poll("the finding to be logged", || {
        Ok(Some(agent.log()?).filter(|log| log.contains("[41mown")))
    })?;
    assert_plain(log.as_bytes());

    let folder = Folder::new()?;
    let quick = folder.write("quick.toml", "[detect.close_wait_pileup]\nmin_age = \"1s\"\n")?;
    let quick = quick.to_str().context("a path in UTF-8")?;
    for json in [&[][..], &["--json"]] {
        let arguments = [&["check", "--for", "2s", "--config", quick], json].concat();
        let output = run(&arguments)?;
        ensure!(String::from_utf8_lossy(&output.stdout).contains("[41mown"), "{output:?}");
        assert_plain(&output.stdout);
        assert_plain(&output.stderr);
    }
    Ok(())
}

/// Makes every name in a fact hostile, each in its own way.
fn make_hostile(fact: &mut Value, number: &mut usize) {
    const NAMES: [&str; 6] = [
        "\u{1b}]0;own\u{7}\u{1b}[41m",
        "a\r\n\u{9b}2J\u{85}b",
        "\u{202e}\u{2066}x\u{2028}\u{feff}",
        "-H\u{200b}*.service",
        "$(x);`y`'\"\u{e0041}.service",
        "*\u{0}?[a].service",
    ];
    let name = |number: &mut usize| {
        *number += 1;
        json!(NAMES[*number % NAMES.len()])
    };
    match fact {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), &mut *value) {
                    ("name" | "exe" | "unit" | "container" | "reserved", Value::String(_)) => {
                        *value = name(number);
                    }
                    ("stack", Value::Array(frames)) => {
                        frames.iter_mut().for_each(|frame| *frame = name(number));
                    }
                    _ => make_hostile(value, number),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| make_hostile(value, number)),
        _ => {}
    }
}

/// In how many places each recording is cut.
const CUTS: usize = 6;

#[test]
fn a_recording_with_hostile_names_is_judged_in_plain_text() -> Result<()> {
    let folder = Folder::new()?;
    let incidents = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents");
    let config = incidents.join("tcpwatch.toml");
    let config = config.to_str().context("a path in UTF-8")?;
    let mut findings = 0;
    for entry in fs::read_dir(&incidents)? {
        let file = entry?.path();
        if file.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let mut number = 0;
        let mut hostile = Vec::new();
        for (at, line) in fs::read_to_string(&file)?.lines().enumerate() {
            let mut fact: Value = serde_json::from_str(line)?;
            if at > 0 {
                make_hostile(&mut fact, &mut number);
            }
            hostile.push(format!("{fact}\n"));
        }
        ensure!(number > 0, "{} has no name", file.display());
        // At the end all is over, so it is cut while the situation lasts.
        for share in CUTS / 2..=CUTS {
            let recording = hostile[..hostile.len() * share / CUTS].concat();
            let recording = folder.write("hostile.jsonl", &recording)?;
            findings += assert_judged_in_plain_text(config, &recording)?;
        }
    }
    ensure!(findings >= 10, "{findings} findings: the recordings no longer lead to any");
    Ok(())
}

/// Judges a recording whose names are all hostile; how many findings there were.
fn assert_judged_in_plain_text(config: &str, recording: &Path) -> Result<usize> {
    let recording = recording.to_str().context("a path in UTF-8")?;
    let arguments = ["check", "--config", config, "--replay", recording];
    let text = run(&arguments)?;
    assert_plain(&text.stdout);
    assert_eq!(String::from_utf8_lossy(&text.stderr), "");
    let text = String::from_utf8(text.stdout)?;
    ensure!(!text.contains("systemctl restart"), "a hostile name in a command: {text}");
    ensure!(!text.contains("ip netns exec"), "a hostile name in a command: {text}");

    let json = run(&[&arguments[..], &["--json"]].concat())?;
    assert_plain(&json.stdout);
    // An escape of JSON is a control again once it is read.
    let report: Value = serde_json::from_slice(&json.stdout)?;
    let mut left = vec![&report];
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => {
                assert_plain(text.as_bytes());
                ensure!(!text.contains('\n'), "a line is broken: {text:?}");
            }
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => left.extend(fields.values()),
            _ => {}
        }
    }
    Ok(report["findings"].as_array().map_or(0, Vec::len))
}

#[test]
fn a_hostile_name_of_a_file_or_argument_is_plain_in_the_one_line_that_refuses_it() -> Result<()> {
    let folder = Folder::new()?;
    let name = "a\u{1b}[41m\nb\u{202e}\u{2028}.x";
    let file = folder.write(name, "{\"\u{1b}[2J\n")?;
    let file = file.to_str().context("a path in UTF-8")?;
    let missing = format!("{file}/missing");
    for arguments in [
        &["check", "--replay", file][..],
        &["check", "--replay", &missing],
        &["check", "--config", file],
        &["check", "--config", &missing],
        &["config", "check", file],
        &["config", "check", &missing],
        &["run", "--config", file],
        &["run", "--web.listen-address", name],
        &["run", name],
        &["check", "--for", name],
        &[name],
    ] {
        let output = run(arguments)?;
        ensure!(!output.status.success(), "{arguments:?} is accepted");
        assert_plain(&output.stderr);
        assert_plain(&output.stdout);
        let lines = output.stderr.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines, 1, "{}", String::from_utf8_lossy(&output.stderr));
    }

    let good = folder.write(&format!("good{name}"), "")?;
    let output = run(&["config", "check", good.to_str().context("a path in UTF-8")?])?;
    ensure!(output.status.success() && output.stdout.ends_with(b": OK\n"), "{output:?}");
    assert_plain(&output.stdout);
    Ok(())
}
