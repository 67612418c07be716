//! Which sockets are behind each kind of finding, by the findings of the recorded incidents.

use std::{
    collections::BTreeSet,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tcpwatch::{
    config::Config,
    engine::{Engine, Finding, FindingChange, FindingKind, selection_of},
    incident::Recording,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents")
}

/// The first finding of the kind in a recording.
fn finding(incident: &str, kind: &str) -> Result<Finding> {
    let config = Config::load(&folder().join("tcpwatch.toml"))?;
    let mut engine = Engine::new(&config.detect, &config.ignore, config.limits.owners);
    let path = folder().join(format!("{incident}.jsonl"));
    for fact in Recording::open(BufReader::new(File::open(&path)?), &path)? {
        fact?.give_to(&mut engine);
        while let Some(change) = engine.poll_change() {
            if let FindingChange::Raised(finding) = change
                && finding.kind.name() == kind
            {
                return Ok(finding);
            }
        }
    }
    anyhow::bail!("{incident} raises no {kind}")
}

/// The selection without its namespace, whose name each recording has made.
fn selected(finding: &Finding) -> Result<Value> {
    let selection = selection_of(finding).map_err(anyhow::Error::msg)?;
    let mut selection = serde_json::to_value(selection)?;
    let netns = selection.as_object_mut().context("an object")?.remove("netns");
    let is_its = netns.is_none_or(|netns| netns == *finding.subject.netns);
    ensure!(is_its, "the namespace is that of the finding");
    Ok(selection)
}

#[test]
fn print_them() -> Result<()> {
    for entry in std::fs::read_dir(folder())? {
        let name = entry?.file_name().into_string().unwrap();
        let Some(name) = name.strip_suffix(".jsonl") else { continue };
        for kind in FindingKind::ALL {
            if let Ok(finding) = finding(name, kind.name()) {
                println!(
                    "{name} {} {:?} {}",
                    kind.name(),
                    selected(&finding).map(|x| x.to_string()),
                    serde_json::to_string(&finding.subject)?
                );
            }
        }
    }
    let _ = (json!({}), BTreeSet::<u8>::new());
    Ok(())
}
