//! The log of an agent for machines: JSON on stderr.

mod support;

use anyhow::{Context, Result};
use scenes::{CloseWaitLeak, Namespace};
use serde_json::Value;
use support::{Agent, poll};

const CONFIG: &str = "[log]\nformat = \"json\"\n[inventory]\ninterval = \"1s\"\n\
                      [detect.close_wait_pileup]\nwarning = 10\nmin_age = \"2s\"\n";

#[test]
fn a_line_of_json_has_flat_keys_and_a_finding_its_change() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(CONFIG)?;
    let ns = Namespace::new("log")?;
    let _leak = CloseWaitLeak::client(&ns, 20, 7_310, false)?;
    let of_finding =
        |line: &Value| line["finding"] == "close-wait-pileup" && line["netns"] == ns.name();
    let line = poll("the line of the finding", || {
        let log = agent.log()?;
        let lines = log.lines().map(serde_json::from_str::<Value>);
        let lines = lines.collect::<Result<Vec<_>, _>>().with_context(|| log.clone())?;
        Ok(lines.into_iter().find(of_finding))
    })?;
    assert_eq!((&line["change"], &line["severity"]), (&"raised".into(), &"warning".into()));
    assert_eq!((&line["level"], &line["pid"]), (&"WARN".into(), &std::process::id().into()));
    let id = line["finding_id"].as_str().context("no id")?;
    assert!(id.starts_with("close-wait-pileup/"), "{line}");
    let message = line["message"].as_str().context("no message")?;
    assert!(message.starts_with("raised: ") && message.contains("20 connections"), "{line}");
    Ok(())
}
