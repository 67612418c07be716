//! An agent that is killed or that hangs is started again and goes on with its hooks, and a stop leaves no
//! program behind.

use anyhow::{Result, ensure};

use super::super::step::{Output, Step};

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "kill -9: systemd starts it again, ready, with the hooks that have counted on",
        script: "
            before=$(main_pid)
            echo \"programs=$(programs)\"
            echo \"restarts=$(systemctl show -p NRestarts --value tcpwatch)\"
            kill -9 \"$before\"
            until_true restarted_from \"$before\"
            get /-/ready
            get /metrics | grep -E '^tcpwatch_(handover|blind)'
            echo \"programs=$(programs)\"
            echo \"restarts=$(systemctl show -p NRestarts --value tcpwatch)\"
        ",
        judge: |output| {
            output.contains("tcpwatch_handover_total{outcome=\"adopted\"} 1")?;
            output.contains("tcpwatch_blind_seconds_total 0")?;
            restarted_once(output)
        },
    },
    Step {
        name: "a process with another kernel side attaches its own before the old one is let go",
        script: "
            printf '[limits]\\nring_buffer_bytes = 131072\\n' >>$config
            systemctl restart tcpwatch
            get /metrics | grep -E '^tcpwatch_(handover|blind)'
            echo \"programs=$(programs)\"
            cp admin.toml $config
            systemctl restart tcpwatch
            echo \"programs=$(programs)\"
        ",
        judge: |output| {
            output.succeeds()?;
            output.contains("tcpwatch_handover_total{outcome=\"handed_over\"} 1")?;
            output.contains("tcpwatch_blind_seconds_total 0")?;
            let programs: Vec<&str> = output.values("programs").collect();
            ensure!(programs.len() == 2 && programs[0] == programs[1], "programs: {programs:?}");
            Ok(())
        },
    },
    Step {
        name: "a stop leaves nothing attached",
        script: "
            systemctl stop tcpwatch
            echo \"programs=$(programs)\"
            systemctl start tcpwatch
            get /metrics | grep '^tcpwatch_handover'
        ",
        judge: |output| {
            output.succeeds()?;
            output.is("programs", "0")?;
            output.contains("tcpwatch_handover_total{outcome=\"fresh\"} 1")
        },
    },
    Step {
        name: "an agent that hangs is ended by the watchdog and started again",
        script: "
            folder=/run/systemd/system/tcpwatch.service.d
            mkdir -p $folder
            printf '[Service]\\nWatchdogSec=10s\\n' >$folder/watchdog.conf
            systemctl daemon-reload
            systemctl restart tcpwatch
            before=$(main_pid)
            echo \"programs=$(programs)\"
            echo \"restarts=$(systemctl show -p NRestarts --value tcpwatch)\"
            kill -STOP \"$before\"
            until_true restarted_from \"$before\"
            get /-/ready
            echo \"programs=$(programs)\"
            echo \"restarts=$(systemctl show -p NRestarts --value tcpwatch)\"
            journalctl -o cat _PID=1 | grep 'tcpwatch.service: Watchdog timeout'
            rm -r $folder
            systemctl daemon-reload
            systemctl restart tcpwatch
        ",
        judge: restarted_once,
    },
];

fn restarted_once(output: &Output) -> Result<()> {
    output.succeeds()?;
    output.contains(" 200 OK")?;
    let numbers = |key| output.values(key).flat_map(str::parse).collect::<Vec<u64>>();
    let restarts = numbers("restarts");
    let once = restarts.len() == 2 && restarts[1] == restarts[0] + 1;
    ensure!(once, "restarts before and after: {restarts:?}");
    let programs = numbers("programs");
    let equal = programs.len() == 2 && programs[0] == programs[1] && programs[0] > 0;
    ensure!(equal, "programs before and after: {programs:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Output, restarted_once};

    #[test]
    fn a_program_that_stays_behind_is_a_failure() {
        let judge = |restarts: u32, programs: u32| {
            let text = format!(
                "programs=8\nrestarts=2\nHTTP/1.0 200 OK\nprograms={programs}\nrestarts={restarts}"
            );
            restarted_once(&Output { text, status: 0 }).is_ok()
        };
        assert!(judge(3, 8));
        assert!(!judge(4, 8) && !judge(2, 8) && !judge(3, 16));
    }
}
