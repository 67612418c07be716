//! A leak of another service arrives in the journal, with fields, and in `tcpwatch check`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::step::{Output, Step};

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "a service that leaks sockets is a finding in the journal, with its fields",
        script: "
            systemd-run --quiet --unit=leaky perl /run/e2e/leak.pl
            until_true has_change raised
            echo \"leaky=$(systemctl show -p MainPID --value leaky)\"
            changes raised
        ",
        judge: |output| {
            output.succeeds()?;
            let entry = entry(output)?;
            for (field, value) in [
                ("MESSAGE_ID", "0f706575eeea4f8382e2b4448bff6141"),
                ("TCPWATCH_CHANGE", "raised"),
                ("TCPWATCH_SEVERITY", "warning"),
                ("TCPWATCH_PROCESS", "leaky"),
                ("TCPWATCH_UNIT", "leaky.service"),
                ("TCPWATCH_PORT", "7320"),
                ("TCPWATCH_PID", output.value("leaky")?),
                ("SYSLOG_IDENTIFIER", "tcpwatch"),
                ("_SYSTEMD_UNIT", "tcpwatch.service"),
                ("PRIORITY", "4"),
            ] {
                ensure!(entry[field] == value, "{field} is {}, not {value}", entry[field]);
            }
            ensure!(entry["TCPWATCH_FINDING_ID"].is_string(), "there is no id");
            Ok(())
        },
    },
    Step {
        name: "journalctl -x explains it",
        script: "journalctl -x -u tcpwatch TCPWATCH_CHANGE=raised",
        judge: |output| {
            output.contains("A finding was raised: close-wait-pileup (warning)")?;
            output.contains("tcpwatch explain close-wait-pileup")
        },
    },
    Step {
        name: "check shows the same finding, as the running agent sees it, and ends with 1",
        script: "
            tcpwatch check --color never && status=0 || status=$?
            echo \"status=$status\"
            tcpwatch check --json >check.json || true
            tr -d ' \\n' <check.json | grep -o '\"id\":\"[^\"]*\"'
            changes raised
        ",
        judge: |output| {
            output.is("status", "1")?;
            output.contains("as the running agent sees it")?;
            output.contains("leaky")?;
            let entry = entry(output)?;
            let id = entry["TCPWATCH_FINDING_ID"].as_str().context("there is no id")?;
            output.contains(&format!("\"id\":\"{id}\""))
        },
    },
    Step {
        name: "the cure is in the journal too, and check ends with 0",
        script: "
            systemctl stop leaky
            until_true has_change cleared
            changes cleared
            tcpwatch check --quiet
        ",
        judge: |output| {
            output.succeeds()?;
            let entry = entry(output)?;
            let id = "b743c9b41e294a358575a51bac18e494";
            ensure!(entry["MESSAGE_ID"] == id, "MESSAGE_ID is {}", entry["MESSAGE_ID"]);
            Ok(())
        },
    },
];

/// The entry about the pileup; other findings may come of the same leak.
fn entry(output: &Output) -> Result<Value> {
    let kind = |entry: &Value| entry["TCPWATCH_FINDING"] == "close-wait-pileup";
    output.objects().into_iter().find(kind).context("the journal has no close-wait-pileup")
}
