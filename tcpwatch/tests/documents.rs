//! The documents that are made from the code agree with it, and all texts are in plain language.
//!
//! README.md holds the table of kinds, docs/ the tables of metrics, configuration keys, paths and
//! options; deploy/tcpwatch.toml is the default configuration. They are rewritten by
//! `UPDATE_README=1 cargo test --package tcpwatch --test documents`.

mod plain_language;

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use tcpwatch::{
    config::Config,
    engine::FindingKind,
    publish::{PATHS, catalog_markdown},
};

/// A longer one is not read from end to end before the first change.
const ARCHITECTURE_LINES: usize = 150;

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(in_repository(path)).with_context(|| format!("reading {path}"))
}

/// Fails at the first line that differs; with UPDATE_README=1 writes the file instead.
fn assert_document(path: &str, found: &str, expected: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    if env::var_os("UPDATE_README").is_some_and(|value| value == "1") {
        return fs::write(in_repository(path), expected).with_context(|| format!("writing {path}"));
    }
    let same = found.lines().zip(expected.lines()).take_while(|(found, line)| found == line);
    let number = same.count();
    bail!(
        "{path}:{} differs from the code; if the code is right, run \
         `UPDATE_README=1 cargo test --package tcpwatch --test documents`\n   found: {}\nexpected: {}",
        number + 1,
        found.lines().nth(number).unwrap_or("the end of the file"),
        expected.lines().nth(number).unwrap_or("the end of the file"),
    )
}

#[test]
fn every_metric_is_in_the_table_of_metrics() -> Result<()> {
    assert_has("docs/METRICS.md", "metrics", &catalog_markdown())
}

/// Each key with the first sentence of its comment.
#[test]
fn every_key_is_in_the_table_of_keys() -> Result<()> {
    let mut table = String::new();
    let mut comment: Vec<String> = Vec::new();
    let mut keys = 0;
    let default = Config::default_toml();
    // The comment of the file itself comes first.
    for line in default.lines().skip_while(|line| !line.is_empty()) {
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim().to_owned());
            continue;
        }
        let text = comment.join(" ");
        let sentence = text.split_once(". ").map_or(&*text, |(sentence, _)| sentence);
        let sentence = sentence.trim_end_matches('.').replace('|', "\\|");
        if let Some(section) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            write!(
                table,
                "\n### `[{section}]`\n\n{sentence}.\n\n| key | default | meaning |\n|---|---|---|\n"
            )?;
        } else if let Some((key, value)) = line.split_once(" = ") {
            writeln!(table, "| `{key}` | `{value}` | {sentence} |")?;
            keys += 1;
        }
        comment.clear();
    }
    ensure!(keys > 60, "only {keys} keys were found");
    assert_has("docs/CONFIGURATION.md", "keys", table.trim_start())
}

#[test]
fn every_path_is_in_the_table_of_paths() -> Result<()> {
    let mut table = "| path | serves |\n|---|---|\n".to_owned();
    for (path, serves) in PATHS {
        writeln!(table, "| `{path}` | {serves} |")?;
    }
    assert_has("docs/API.md", "paths", &table)
}

/// As `--help` prints them in 100 columns.
#[test]
fn every_option_of_every_command_is_listed() -> Result<()> {
    let help = |arguments: &[&str]| -> Result<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_tcpwatch"))
            .args(arguments)
            .arg("--help")
            .env("COLUMNS", "100")
            .env("NO_COLOR", "1")
            .output()?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let overview = help(&[])?;
    let (_, commands) = overview.split_once("Commands:\n").context("no commands")?;
    let names: Vec<_> = commands
        .lines()
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("    "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    ensure!(names.len() >= 5, "{names:?}");
    let mut text = String::new();
    for name in names {
        let indented: String = help(&[name])?.lines().map(|line| format!("{line}\n")).collect();
        write!(text, "\n### tcpwatch {name}\n\n```text\n{}```\n", indented.replace(" \n", "\n"))?;
    }
    assert_has("docs/COMMANDS.md", "help", text.trim_start())
}

/// The document has this text between the comments of that name.
fn assert_has(path: &str, name: &str, text: &str) -> Result<()> {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let found = read(path)?;
    let markers = || format!("{path} has no {begin} followed by {end}");
    let (before, now) = found.split_once(&begin).with_context(markers)?;
    let (_, after) = now.split_once(&end).with_context(markers)?;
    let expected = format!("{before}{begin}\n\n{text}\n{end}{after}");
    assert_document(path, &found, &expected)
}

#[test]
fn packaged_configuration_is_the_default_one() -> Result<()> {
    const PATH: &str = "deploy/tcpwatch.toml";
    let found = match fs::read_to_string(in_repository(PATH)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context(PATH),
    };
    assert_document(PATH, &found, &Config::default_toml())?;
    Config::load(&in_repository(PATH))?;
    Ok(())
}

/// Each with the first sentence of its runbook.
#[test]
fn readme_has_the_table_of_all_kinds_of_findings() -> Result<()> {
    let mut table = "| kind | what is found |\n|---|---|\n".to_owned();
    for kind in FindingKind::ALL {
        let runbook = kind.runbook();
        let text = read(&runbook)?;
        let first = text.split("\n\n").nth(1).with_context(|| format!("{runbook} is empty"))?;
        let first = first.replace('\n', " ");
        let sentence = first.split_once(". ").map_or(&*first, |(sentence, _)| sentence);
        let sentence = sentence.strip_suffix('.').unwrap_or(sentence);
        writeln!(table, "| [`{}`]({runbook}) | {sentence} |", kind.name())?;
    }
    assert_has("README.md", "kinds", &table)
}

/// A finding's alert leads to the runbook of its kind, an alert about the agent to its own section.
#[test]
fn every_alert_leads_to_a_runbook_that_says_what_to_do() -> Result<()> {
    const AGENT: &str = "docs/runbooks/agent.md";
    let rules = read("deploy/prometheus/tcpwatch.rules.yml")?;
    let agent = read(AGENT)?;
    let mut alerts = 0;
    for rule in rules.split("- alert: ").skip(1) {
        alerts += 1;
        let name = rule.lines().next().context("an alert without name")?;
        // A kind's second alert has the annotations of the first.
        if rule.contains("annotations: *") {
            continue;
        }
        let url = rule.split_once("runbook_url: '").and_then(|(_, it)| it.split('\n').next());
        let runbook = match url.and_then(|url| url.split_once("/runbooks/")) {
            Some((_, runbook)) => runbook.trim_end_matches('\'').to_owned(),
            // No agent serves it: it does not answer, or there are many.
            None => {
                ensure!(rule.contains("`tcpwatch explain agent`"), "{name} has no runbook");
                format!("agent#{}", name.to_lowercase())
            }
        };
        let (kind, anchor) = runbook.split_once('#').unwrap_or((&runbook, ""));
        let file = format!("docs/runbooks/{kind}.md");
        ensure!(in_repository(&file).is_file(), "{name}: {file} does not exist");
        if file != AGENT {
            continue;
        }
        ensure!(anchor == name.to_lowercase(), "{name}: {runbook}");
        let section = agent.split_once(&format!("\n## {name}\n"));
        let (_, section) = section.with_context(|| format!("{AGENT} has no section {name}"))?;
        let section = section.split("\n## ").next().unwrap_or_default();
        for part in ["**Meaning.**", "**Confirm.**", "**Do.**"] {
            ensure!(section.contains(part), "{AGENT}: {name} has no {part}");
        }
    }
    ensure!(alerts > 20, "only {alerts} alerts were found");
    let about_the_agent = rules.split_once("- name: tcpwatch-agent").context("no such group")?.1;
    let of_agent = about_the_agent.matches("- alert: ").count();
    assert_eq!(agent.matches("\n## Tcpwatch").count(), of_agent, "a section without an alert");
    Ok(())
}

/// A kind without an alert pages no person.
#[test]
fn every_kind_has_an_alert_with_a_test_and_a_line_in_the_changelog() -> Result<()> {
    let [rules, tests, changes] = [
        "deploy/prometheus/tcpwatch.rules.yml",
        "deploy/prometheus/tests/tcpwatch_test.yml",
        "CHANGELOG.md",
    ]
    .map(read);
    let (rules, tests, changes) = (rules?, tests?, changes?);
    for kind in tcpwatch::engine::FindingKind::ALL.map(|kind| kind.name()) {
        for text in [&rules, &tests] {
            ensure!(text.contains(&format!("kind=\"{kind}\"")), "no alert or test of {kind}");
        }
        ensure!(changes.contains(&format!("`{kind}`")), "{kind} is not in CHANGELOG.md");
    }
    Ok(())
}

/// Every stage that the agent counts losses at has its meaning beside the metric.
#[test]
fn every_stage_of_a_loss_is_described() -> Result<()> {
    let metrics = read("docs/METRICS.md")?;
    let (_, stages) =
        metrics.split_once("- `stage` of `tcpwatch_events_lost_total`").context("stages")?;
    let stages = stages.split("\n\n").next().unwrap_or_default();
    let sources =
        read("tcpwatch/src/kernel/counters.rs")? + &read("tcpwatch/src/agent/answers.rs")?;
    let mut seen = 0;
    let (_, first) = sources.split_once("lost: vec![").context("the stages of the kernel side")?;
    let first = first.split(']').next().unwrap_or_default();
    let pushed = sources.split("lost.push((").skip(1);
    let named = first.split("(\"").skip(1).chain(pushed.filter_map(|text| text.strip_prefix('"')));
    for stage in named.filter_map(|text| text.split('"').next()) {
        seen += 1;
        ensure!(
            stages.contains(&format!("`{stage}`")),
            "docs/METRICS.md does not have the stage {stage}"
        );
    }
    ensure!(seen >= 8, "only {seen} stages were found");
    Ok(())
}

#[test]
fn architecture_can_be_read_at_once() -> Result<()> {
    let lines = read("ARCHITECTURE.md")?.lines().count();
    ensure!(lines < ARCHITECTURE_LINES, "ARCHITECTURE.md has {lines} lines");
    Ok(())
}

/// Every relative link of every document leads to a file.
#[test]
fn links_between_documents_lead_somewhere() -> Result<()> {
    let mut documents = Vec::new();
    for folder in ["", "docs", "docs/runbooks"] {
        for entry in fs::read_dir(in_repository(folder))? {
            documents.push(entry?.path());
        }
    }
    documents.retain(|file| file.extension().is_some_and(|it| it == "md"));
    ensure!(documents.len() > 8, "{documents:?}");
    for document in documents {
        let text = fs::read_to_string(&document)?;
        for link in text.split("](").skip(1).filter_map(|target| target.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file = document.parent().context("a document lies in a folder")?.join(target);
            ensure!(file.exists(), "{}: {link} leads nowhere", document.display());
        }
    }
    Ok(())
}
