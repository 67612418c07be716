//! The .deb on a host without it: the service is enabled, started, ready, and keeps its watchdog.

use anyhow::{Result, ensure};

use super::super::step::{Output, Step};

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "the guest runs its Debian's kernel and systemd, as process 1",
        script: "
            echo \"kernel=$(uname -r)\"
            echo \"expected_kernel=$(cat suite.kernel)\"
            echo \"systemd=$(systemctl --version | head -n 1)\"
            echo \"expected_systemd=$(cat suite.systemd)\"
            echo \"first=$(cat /proc/1/comm)\"
            systemctl is-system-running || systemctl --failed
        ",
        judge: |output| {
            output.succeeds()?;
            output.is("first", "systemd")?;
            for key in ["kernel", "systemd"] {
                let expected = output.value(&format!("expected_{key}"))?;
                let value = output.value(key)?;
                ensure!(value.starts_with(expected), "{key} is {value}, not {expected}");
            }
            Ok(())
        },
    },
    Step {
        name: "apt installs the .deb",
        script: "
            groupadd --system watchers
            inventory_of_disk >before
            apt-get install --quiet --quiet --yes ./this.deb
        ",
        judge: Output::succeeds,
    },
    Step {
        name: "the service is enabled and active, without a restart",
        script: "
            systemctl is-enabled tcpwatch
            systemctl show -p ActiveState -p SubState -p UnitFileState -p NRestarts -p Type tcpwatch
        ",
        judge: |output| {
            output.succeeds()?;
            output.is("ActiveState", "active")?;
            output.is("SubState", "running")?;
            output.is("UnitFileState", "enabled")?;
            output.is("NRestarts", "0")?;
            output.is("Type", "notify")
        },
    },
    Step {
        name: "active means ready: hooks attached, one inventory done",
        script: "
            systemctl restart tcpwatch
            get /-/ready
            get /metrics | grep -E '^tcpwatch_(hook_attached|inventory_sockets)'
            echo \"programs=$(programs)\"
        ",
        judge: |output| {
            output.contains(" 200 OK")?;
            for hook in ["set_state", "send_reset", "receive_reset", "bind", "accept", "owners"] {
                let metric = format!("tcpwatch_hook_attached{{hook=\"{hook}\"}}");
                ensure!(output.metric(&metric)? > 0.0, "the hook {hook} is not attached");
            }
            ensure!(output.number("programs")? >= 6, "bpftool lists too few programs");
            output.contains("tcpwatch_inventory_sockets")
        },
    },
    Step {
        name: "doctor says that tcpwatch sees all of this host, and finds the agent",
        script: "tcpwatch doctor",
        judge: |output| {
            output.succeeds()?;
            output.contains("tcpwatch runs here and sees all of this host")?;
            output.contains("running at 127.0.0.1:10743")
        },
    },
    Step {
        name: "the watchdog is set to 60 s, and the agent notifies it in time",
        script: "
            systemctl show -p WatchdogUSec -p WatchdogTimestampMonotonic tcpwatch
            sleep 35
            systemctl show -p WatchdogTimestampMonotonic tcpwatch
        ",
        judge: |output| {
            output.is("WatchdogUSec", "1min")?;
            let times: Vec<u64> =
                output.values("WatchdogTimestampMonotonic").flat_map(str::parse).collect();
            ensure!(times.len() == 2 && times[0] > 0 && times[1] > times[0], "{times:?}");
            Ok(())
        },
    },
    Step {
        name: "the journal's catalog has the explanations",
        script: "journalctl --list-catalog | grep -i tcpwatch || journalctl --list-catalog",
        judge: |output| {
            for id in [
                "0f706575eeea4f8382e2b4448bff6141",
                "503b4f80ffd94a92973b948df2dcb95a",
                "b743c9b41e294a358575a51bac18e494",
            ] {
                output.contains(id)?;
            }
            Ok(())
        },
    },
    Step {
        name: "systemd knows every line of the unit that its version has",
        script: "journalctl -o cat _PID=1 | grep tcpwatch.service | grep -iE 'unknown|ignor|fail' || true",
        judge: only_newer_keys,
    },
];

/// `PrivateIPC=` came with 248: Debian 11 says so and goes on.
fn only_newer_keys(output: &Output) -> Result<()> {
    let other = output.text.lines().find(|line| !line.is_empty() && !line.contains("PrivateIPC"));
    ensure!(other.is_none(), "{}", other.unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Output, only_newer_keys};

    #[test]
    fn an_unknown_key_that_is_not_newer_than_the_system_is_a_failure() {
        let judge = |text: &str| only_newer_keys(&Output { text: text.to_owned(), status: 0 });
        assert!(judge("").is_ok());
        assert!(judge("x:1: Unknown key name 'PrivateIPC' in section 'Service'\n").is_ok());
        assert!(judge("x:1: Unknown key name 'ProtectProcs' in section 'Service'\n").is_err());
    }
}
