//! Recorded incidents, judged again: the same facts lead to the same findings.
//!
//! `incidents/NAME.jsonl` was recorded from a real kernel, `NAME.expected.json` is what the engine
//! says of it under `incidents/tcpwatch.toml`: each change of a finding, in order. Replaying needs
//! neither root nor a kernel.
//!
//!     UPDATE_INCIDENTS=1 cargo test --package tcpwatch --test incidents
//!     cargo test --package tcpwatch --test incidents -- --ignored
//!
//! The first writes what is expected anew. The second, as root, records anew; with
//! `INCIDENTS=syn-flood,self-connection` only those. `recording` has the scene of each.

mod findings_document;
mod recording;
mod support;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use findings_document::Incident;
use serde_json::{Value, json};
use tcpwatch::{
    config::Config,
    engine::{Engine, Finding, FindingChange, FindingKind, Severity},
    incident::{Fact, Recording},
    publish::{Origin, WallClock, findings_json},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents")
}

/// The configuration under which all are recorded and judged.
fn config() -> Result<Config> {
    Ok(Config::load(&folder().join("tcpwatch.toml"))?)
}

fn recording_of(name: &str) -> PathBuf {
    folder().join(format!("{name}.jsonl"))
}

fn expected_of(name: &str) -> PathBuf {
    folder().join(format!("{name}.expected.json"))
}

/// Names of all recordings.
fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder())? {
        let file = entry?.file_name().into_string().ok().context("a name in UTF-8")?;
        names.extend(file.strip_suffix(".jsonl").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The engine's output for a recording: every change of a finding, in order.
fn changes(name: &str) -> Result<Vec<FindingChange>> {
    let config = config()?;
    let mut engine = Engine::new(&config.detect, &config.ignore, config.limits.owners);
    let mut changes = Vec::new();
    for fact in open(name)? {
        fact?.give_to(&mut engine);
        let mut at_once: Vec<_> = std::iter::from_fn(|| engine.poll_change()).collect();
        // Changes at the same moment come in no order.
        at_once.sort_by(|a, b| id_of(a).cmp(id_of(b)));
        changes.extend(at_once);
    }
    Ok(changes)
}

fn id_of(change: &FindingChange) -> &str {
    match change {
        FindingChange::Raised(finding)
        | FindingChange::SeverityChanged { finding, .. }
        | FindingChange::Cleared(finding) => &finding.id,
    }
}

fn open(name: &str) -> Result<Recording<BufReader<File>>> {
    let path = recording_of(name);
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Recording::open(BufReader::new(file), &path)?)
}

/// The changes as a document, each finding as the API shows it.
fn replayed(name: &str) -> Result<String> {
    let wall = WallClock::of_recording(open(name)?.header()).context("a header without time")?;
    let origin = Origin::default();
    let show = |finding: &Finding| -> Result<Value> {
        let mut document: Value =
            serde_json::from_str(&findings_json(std::slice::from_ref(finding), &origin, wall))?;
        Ok(document["findings"][0].take())
    };
    let mut seen = Vec::new();
    for change in changes(name)? {
        seen.push(match &change {
            FindingChange::Raised(it) => json!({"change": "raised", "finding": show(it)?}),
            FindingChange::SeverityChanged { finding, from } => {
                json!({"change": format!("from {from}"), "finding": show(finding)?})
            }
            FindingChange::Cleared(it) => json!({"change": "cleared", "finding": show(it)?}),
        });
    }
    Ok(format!("{:#}\n", in_order(seen.into())))
}

/// With the fields by name: whether they keep the order of their making depends on the features
/// that the build enables.
fn in_order(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> =
                fields.into_iter().map(|(name, value)| (name, in_order(value))).collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(values) => values.into_iter().map(in_order).collect(),
        value => value,
    }
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/FINDINGS.md")
}

/// Fails at the first line of the file that is not in `found`; with UPDATE_INCIDENTS=1 writes it.
fn assert_is(path: &Path, found: &str) -> Result<()> {
    if env::var_os("UPDATE_INCIDENTS").is_some_and(|value| value == "1") {
        fs::write(path, found).with_context(|| format!("writing {}", path.display()))?;
    }
    let expected =
        fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    if found == expected {
        return Ok(());
    }
    let same = found.lines().zip(expected.lines()).take_while(|(found, line)| found == line);
    let number = same.count();
    bail!(
        "{}:{} is not what the engine says; if the engine is right, run \
         `UPDATE_INCIDENTS=1 cargo test --package tcpwatch --test incidents`\n   \
         found: {}\nexpected: {}",
        path.display(),
        number + 1,
        found.lines().nth(number).unwrap_or("the end of the file"),
        expected.lines().nth(number).unwrap_or("the end of the file"),
    )
}

#[test]
fn every_recording_leads_to_the_findings_beside_it() -> Result<()> {
    for name in names()? {
        assert_is(&expected_of(&name), &replayed(&name)?)?;
    }
    Ok(())
}

#[test]
fn the_page_of_findings_is_what_the_recordings_lead_to() -> Result<()> {
    let mut incidents = Vec::new();
    for scene in &recording::SCENES {
        incidents.push(Incident {
            name: scene.name,
            kind: scene.kind,
            happened: scene.happened,
            changes: changes(scene.name)?,
        });
    }
    ensure!(incidents.len() == names()?.len(), "a recording has no scene, or a scene none");
    assert_is(&page(), &findings_document::document(&incidents)?)
}

#[test]
fn every_kind_of_finding_has_a_recording_in_which_it_is_raised_and_cleared() -> Result<()> {
    for kind in FindingKind::ALL {
        let mut seen = Vec::new();
        for change in changes(kind.name())? {
            match change {
                FindingChange::Raised(finding) if finding.kind == kind => seen.push("raised"),
                FindingChange::Cleared(finding) if finding.kind == kind => seen.push("cleared"),
                _ => {}
            }
        }
        let ended = seen.first() == Some(&"raised") && seen.last() == Some(&"cleared");
        ensure!(ended, "{} has this of its kind: {seen:?}", kind.name());
    }
    Ok(())
}

/// Two engines are given the same facts until the kind is raised. One then switches it off, and
/// both judge the same inventory again.
#[test]
fn a_reload_reaches_the_detector_of_every_kind() -> Result<()> {
    let on = config()?;
    for kind in FindingKind::ALL {
        let section = kind.name().replace('-', "_");
        let key = format!("[detect.{section}]\nenabled = false\n");
        let off = Config::parse(&key, Path::new("off.toml"))?;
        let engine = || Engine::new(&on.detect, &on.ignore, on.limits.owners);
        let (mut kept, mut reloaded) = (engine(), engine());
        let holds = |engine: &Engine| engine.findings().iter().any(|it| it.kind == kind);
        let mut raised = None;
        for fact in open(kind.name())? {
            let fact = fact?;
            fact.give_to(&mut kept);
            fact.give_to(&mut reloaded);
            if holds(&reloaded) {
                raised = Some(fact);
                break;
            }
        }
        let raised = raised.with_context(|| format!("{kind:?} is never raised"))?;
        ensure!(matches!(raised, Fact::Inventory { .. }), "{kind:?} is raised by an event");
        reloaded.reconfigure(&off.detect, &on.ignore, on.limits.owners);
        raised.give_to(&mut kept);
        raised.give_to(&mut reloaded);
        ensure!(holds(&kept), "{kind:?} does not hold without a reload");
        ensure!(!holds(&reloaded), "{kind:?} is switched off and holds");
    }
    Ok(())
}

#[test]
fn one_cause_is_one_finding_that_leads_with_one_alert() -> Result<()> {
    let config = config()?;
    let mut joined = Vec::new();
    for name in names()? {
        let mut engine = Engine::new(&config.detect, &config.ignore, config.limits.owners);
        for fact in open(&name)? {
            fact?.give_to(&mut engine);
            let findings = engine.findings();
            if !findings.iter().any(|it| it.led_by.is_some() && it.severity > Severity::Info) {
                continue;
            }
            // Each alert is of one series of this metric.
            let samples = engine.samples();
            let alerts = samples.findings.iter().filter(|row| !row.is_led);
            let alerts: Vec<_> = alerts.filter(|row| row.severity > Severity::Info).collect();
            // None as long as the leader is info by its own measure: a burst.
            assert!(alerts.len() <= 1, "{name}: {alerts:#?}");
            if !alerts.is_empty() {
                joined.push(name.clone());
            }
        }
    }
    joined.dedup();
    assert!(joined.len() >= 5, "{joined:?}");
    Ok(())
}

#[test]
fn no_finding_flaps() -> Result<()> {
    for name in names()? {
        let mut raised = BTreeMap::<_, u32>::new();
        let mut cleared = BTreeMap::<_, u32>::new();
        for change in changes(&name)? {
            match change {
                FindingChange::Raised(finding) => *raised.entry(finding.id).or_default() += 1,
                FindingChange::Cleared(finding) => *cleared.entry(finding.id).or_default() += 1,
                FindingChange::SeverityChanged { .. } => {}
            }
        }
        let twice = |times: &BTreeMap<String, u32>| times.values().any(|&count| count > 1);
        ensure!(!twice(&raised), "{name}: raised more than once: {raised:?}");
        ensure!(!twice(&cleared), "{name}: cleared more than once: {cleared:?}");
    }
    Ok(())
}

/// Larger ones belong to an issue, not into the tree.
const MOST_BYTES: u64 = 100 * 1024;

/// Where the addresses of the kernel begin, rounded down for every architecture.
const KERNEL_ADDRESSES: u64 = 0xffff_0000_0000_0000;

#[test]
fn recordings_are_small_and_tell_nothing_of_the_machine_they_were_made_on() -> Result<()> {
    for name in names()? {
        let bytes = fs::metadata(recording_of(&name))?.len();
        ensure!(bytes <= MOST_BYTES, "{name}.jsonl has {bytes} bytes");
        for path in [recording_of(&name), expected_of(&name)] {
            let text = fs::read_to_string(&path)?;
            let path = path.display();
            let mut numbers = text.split(|c: char| !c.is_ascii_digit());
            let address = numbers
                .find(|number| number.parse().is_ok_and(|number: u64| number >= KERNEL_ADDRESSES));
            ensure!(address.is_none(), "{path} has what looks like a kernel address: {address:?}");
            let place = ["0xffff", "/home/", "/root/", "/tmp/", "target/debug"];
            let place = place.into_iter().find(|place| text.contains(place));
            ensure!(place.is_none(), "{path} has {place:?}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "records anew, which takes root and a minute or two"]
fn record_incidents() -> Result<()> {
    ensure!(scenes::is_root(), "recording takes root");
    let selected = env::var("INCIDENTS").unwrap_or_default();
    let selected: Vec<_> = selected.split(',').filter(|name| !name.is_empty()).collect();
    for name in &selected {
        let is_known = recording::SCENES.iter().any(|scene| scene.name == *name);
        ensure!(is_known, "INCIDENTS: there is no scene {name:?}");
    }
    for scene in &recording::SCENES {
        if selected.is_empty() || selected.contains(&scene.name) {
            println!("{}", scene.name);
            let text = recording::record(scene, &config()?).context(scene.name)?;
            fs::write(recording_of(scene.name), text)?;
            let expected = replayed(scene.name)?;
            fs::write(expected_of(scene.name), expected)?;
        }
    }
    Ok(())
}
