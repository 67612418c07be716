//! `systemctl reload` with a changed file, with a bad one, and a start with a bad one.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::super::step::{Output, Step};

const RELOADED: &str = "tcpwatch_config_last_reload_successful";

/// admin.toml has it.
const INTERVAL_SECONDS: f64 = 2.0;
const DEFAULT_SECONDS: f64 = 10.0;

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "a reload takes the administrator's file, in the same process",
        script: "
            echo \"pid=$(main_pid)\"
            cp admin.toml $config
            systemctl reload tcpwatch
            until_true sh -c 'journalctl -o cat -u tcpwatch | grep -q \"configuration reloaded\"'
            get /metrics | grep ^tcpwatch_config
            get /api/v1/status
            echo \"pid=$(main_pid)\"
        ",
        judge: |output| {
            output.succeeds()?;
            same_process(output)?;
            ensure!(output.metric(RELOADED)? > 0.0, "the metric says that it was refused");
            administrators_file_is_in_force(output)
        },
    },
    Step {
        name: "a reload of a bad file is refused with its line, and the old one stays in force",
        script: "
            echo \"pid=$(main_pid)\"
            printf '[inventory]\\ninterval = \"2 weeks\"\\n' >$config
            systemctl reload tcpwatch || true
            until_true metric_is tcpwatch_config_last_reload_successful 0
            journalctl -o cat -u tcpwatch | grep 'not reloaded'
            get /metrics | grep ^tcpwatch_config
            get /api/v1/status
            echo \"pid=$(main_pid)\"
            systemctl is-active tcpwatch
            cp admin.toml $config
            systemctl reload tcpwatch
            until_true metric_is tcpwatch_config_last_reload_successful 1
        ",
        judge: |output| {
            output.succeeds()?;
            same_process(output)?;
            administrators_file_is_in_force(output)?;
            output.contains("tcpwatch.toml:2:")
        },
    },
    Step {
        name: "a start with a bad file fails once, with 78 and the reason as the last line",
        script: "
            printf '[inventory]\\ninterval = \"2 weeks\"\\n' >$config
            systemctl restart tcpwatch && echo 'it started'
            # Longer than RestartSec=.
            sleep 12
            systemctl show -p ActiveState -p ExecMainStatus -p NRestarts -p Result tcpwatch
            echo \"last=$(journalctl -o cat _SYSTEMD_UNIT=tcpwatch.service | tail -n 1)\"
            cp admin.toml $config
            systemctl reset-failed tcpwatch
            systemctl start tcpwatch
        ",
        judge: |output| {
            output.succeeds()?;
            output.lacks("it started")?;
            output.is("ActiveState", "failed")?;
            output.is("ExecMainStatus", "78")?;
            output.is("NRestarts", "0")?;
            let last = output.value("last")?;
            ensure!(last.contains("tcpwatch.toml:2:"), "the last line is: {last}");
            Ok(())
        },
    },
];

fn administrators_file_is_in_force(output: &Output) -> Result<()> {
    let is_status = |status: &Value| status["inventory"].is_object();
    let status = output.objects().into_iter().find(is_status);
    let status = status.context("there is no status of the agent")?;
    let interval = &status["inventory"]["interval_seconds"];
    // It grows where an inventory takes long, as in emulation; the default is longer than that.
    let as_written = INTERVAL_SECONDS..DEFAULT_SECONDS;
    let is_in_force = interval.as_f64().is_some_and(|seconds| as_written.contains(&seconds));
    ensure!(is_in_force, "the interval is {interval} s");
    Ok(())
}

fn same_process(output: &Output) -> Result<()> {
    let pids: Vec<&str> = output.values("pid").collect();
    let [before, after] = pids[..] else { bail!("{} lines with a pid", pids.len()) };
    ensure!(before == after && before != "0", "the process was {before} and is {after}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Output, same_process};

    #[test]
    fn a_reload_that_restarts_the_process_is_a_failure() {
        let judge = |text: &str| same_process(&Output { text: text.to_owned(), status: 0 }).is_ok();
        assert!(judge("pid=7\npid=7\n"));
        assert!(!judge("pid=7\npid=8\n") && !judge("pid=7\n") && !judge("pid=0\npid=0\n"));
    }
}
