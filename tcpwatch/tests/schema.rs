//! The JSON Schema of the findings, `docs/findings.schema.json`, against what tcpwatch prints.
//!
//! Every recorded incident is valid under it, what `check --json` prints of it included. A document
//! that breaks it is refused, so that the first test can fail.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use jsonschema::Validator;
use serde_json::{Value, json};
use tcpwatch::{
    config::Config,
    engine::{Engine, FindingKind},
    incident::Recording,
};

const SCHEMA: &str = include_str!("../../docs/findings.schema.json");

fn schema() -> Result<Value> {
    Ok(serde_json::from_str(SCHEMA)?)
}

fn validator() -> Result<Validator> {
    Ok(jsonschema::validator_for(&schema()?)?)
}

/// Where and how `document` breaks the schema.
fn errors(validator: &Validator, document: &Value) -> Vec<String> {
    let describe =
        |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    validator.iter_errors(document).map(describe).collect()
}

/// Files of the recorded incidents that end like this.
fn incidents(ending: &str) -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents");
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        files.extend(path.to_string_lossy().ends_with(ending).then_some(path.clone()));
    }
    ensure!(files.len() >= FindingKind::ALL.len(), "{} files end in {ending}", files.len());
    files.sort();
    Ok(files)
}

/// The findings of all recorded incidents, as they were raised, changed and cleared.
fn recorded_findings() -> Result<Vec<Value>> {
    let mut findings = Vec::new();
    for path in incidents(".expected.json")? {
        let changes: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let changes = changes.as_array().context("a list of changes")?;
        findings.extend(changes.iter().map(|change| change["finding"].clone()));
    }
    Ok(findings)
}

fn document(findings: Vec<Value>) -> Value {
    json!({
        "schema_version": 1,
        "generated_at": "2026-11-20T08:00:00.000Z",
        "findings": findings,
    })
}

fn recorded_finding(kind: FindingKind) -> Result<Value> {
    let is_of_kind = |finding: &Value| finding["kind"] == kind.name();
    recorded_findings()?.into_iter().find(is_of_kind).context("no such finding is recorded")
}

#[test]
fn schema_is_one_of_draft_2020_12() -> Result<()> {
    let schema = schema()?;
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    ensure!(jsonschema::meta::is_valid(&schema), "{:?}", jsonschema::meta::validate(&schema).err());
    Ok(())
}

#[test]
fn every_recorded_finding_follows_the_schema() -> Result<()> {
    let validator = validator()?;
    let findings = recorded_findings()?;
    let kinds: BTreeSet<_> = findings.iter().filter_map(|it| it["kind"].as_str()).collect();
    assert_eq!(kinds, FindingKind::ALL.map(FindingKind::name).into());
    for finding in findings {
        let errors = errors(&validator, &document(vec![finding.clone()]));
        ensure!(errors.is_empty(), "{errors:#?} in {finding:#}");
    }
    Ok(())
}

/// A recording up to the fact with which its first finding is raised, beside the test binaries.
fn cut_where_raised(recording: &Path, config: &Config) -> Result<PathBuf> {
    let mut engine = Engine::new(&config.detect, &config.ignore, config.limits.owners);
    let facts = Recording::open(BufReader::new(File::open(recording)?), recording)?;
    // The header is a line too.
    let mut lines = 1;
    for fact in facts {
        fact?.give_to(&mut engine);
        lines += 1;
        if !engine.findings().is_empty() {
            break;
        }
    }
    let text = fs::read_to_string(recording)?;
    let cut: String = text.split_inclusive('\n').take(lines).collect();
    let name = recording.file_name().context("a file's name")?;
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&file, cut)?;
    Ok(file)
}

#[test]
fn what_check_prints_of_every_recording_follows_the_schema() -> Result<()> {
    let validator = validator()?;
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents/tcpwatch.toml");
    let config = Config::load(&settings)?;
    let mut kinds = BTreeSet::new();
    for path in incidents(".jsonl")? {
        let output = Command::new(env!("CARGO_BIN_EXE_tcpwatch"))
            .args(["check", "--json", "--config"])
            .arg(&settings)
            .arg("--replay")
            .arg(cut_where_raised(&path, &config)?)
            .output()
            .context("running tcpwatch")?;
        let path = path.display();
        let printed: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{path}: {}", String::from_utf8_lossy(&output.stderr)))?;
        let errors = errors(&validator, &printed);
        ensure!(errors.is_empty(), "{path}: {errors:#?} in {printed:#}");
        let findings = printed["findings"].as_array().context("findings")?;
        kinds.extend(findings.iter().filter_map(|it| it["kind"].as_str()).map(str::to_owned));
    }
    assert_eq!(kinds, FindingKind::ALL.map(|kind| kind.name().to_owned()).into());
    Ok(())
}

#[test]
fn evidence_of_every_kind_is_described() -> Result<()> {
    let schema = schema()?;
    let finding = &schema["$defs"]["finding"];
    let names = FindingKind::ALL.map(FindingKind::name);
    let listed = finding["properties"]["kind"]["enum"].as_array().context("a list of kinds")?;
    let listed: BTreeSet<_> = listed.iter().filter_map(Value::as_str).collect();
    assert_eq!(listed, names.into());
    let rules = finding["allOf"].as_array().context("a rule for each kind")?;
    for name in names {
        let evidence = format!("evidence-{name}");
        let rule = json!({
            "if": {"properties": {"kind": {"const": name}}},
            "then": {"properties": {"evidence": {"$ref": format!("#/$defs/{evidence}")}}},
        });
        ensure!(rules.contains(&rule), "no rule leads from {name} to its evidence");
        let described = &schema["$defs"][&evidence];
        assert_eq!(described["additionalProperties"], false, "{evidence}");
        let keys = described["properties"].as_object().context("keys")?;
        for (key, value) in keys {
            let target = value["$ref"].as_str().and_then(|it| it.strip_prefix("#/$defs/"));
            let target = target.map_or(value, |name| &schema["$defs"][name]);
            let says = value.get("description").or_else(|| target.get("description"));
            let is_described = says.and_then(Value::as_str).is_some_and(|text| !text.is_empty());
            let is_typed = target.get("type").is_some() || target.get("enum").is_some();
            ensure!(is_described && is_typed, "{evidence}.{key} lacks its meaning or its type");
        }
    }
    Ok(())
}

#[test]
fn a_document_that_breaks_the_schema_is_refused() -> Result<()> {
    let validator = validator()?;
    let valid = document(vec![recorded_finding(FindingKind::CloseWaitPileup)?]);
    assert_eq!(errors(&validator, &valid), [""; 0]);
    let finding = "/findings/0";
    let table = [
        ("/schema_version", json!(2)),
        ("/generated_at", json!("yesterday")),
        ("/surprise", json!(1)),
        (&format!("{finding}/surprise"), json!(1)),
        (&format!("{finding}/severity"), json!("fatal")),
        (&format!("{finding}/kind"), json!("close-wait")),
        // Evidence of another kind.
        (&format!("{finding}/kind"), json!("stuck-state")),
        (&format!("{finding}/related"), json!([])),
        (&format!("{finding}/subject/surprise"), json!("x")),
        (&format!("{finding}/evidence/surprise"), json!(1)),
        (&format!("{finding}/evidence/sockets"), json!("20 sockets")),
        (&format!("{finding}/evidence/oldest_age_is_lower_bound"), json!("at least")),
        (&format!("{finding}/evidence/verdict"), json!("a leak, it seems")),
        (&format!("{finding}/evidence/sample_sockets"), json!(["127.0.0.1:1 -> 127.0.0.1:2"])),
        (&format!("{finding}/evidence/sample_sockets/0/fd"), json!(-1)),
    ];
    for (path, value) in table {
        let mut broken = valid.clone();
        let (parent, key) = path.rsplit_once('/').context("a path")?;
        broken.pointer_mut(parent).with_context(|| path.to_owned())?[key] = value;
        ensure!(!validator.is_valid(&broken), "{path} is not checked");
    }
    for key in ["id", "since", "evidence", "runbook"] {
        let mut broken = valid.clone();
        let finding = broken.pointer_mut(finding).and_then(Value::as_object_mut);
        finding.context("a finding")?.remove(key).context("a key that is there")?;
        ensure!(!validator.is_valid(&broken), "a finding without {key} is valid");
    }
    Ok(())
}
