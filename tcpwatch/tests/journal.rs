//! The log of an agent in a journal: a journald of its own, read by journalctl.
//!
//! journald and the agent run in a mount namespace in which `/run/systemd`, `/run/log` and the
//! catalogs are empty, so the machine's own journal has no part in it. Mounts of the machine come in,
//! as those of named network namespaces.

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace};
use serde_json::Value;
use support::{Daemon, Folder, free_address, http_get, poll, tcpwatch};

const CONFIG: &str = "[inventory]\ninterval = \"1s\"\n\
                      [detect.close_wait_pileup]\nwarning = 10\nmin_age = \"2s\"\n[web]\nsocket = \"\"\n";

/// With the agent's command as its arguments. systemd-cat connects stderr to the journal as systemd
/// does for a service, but does not set the variable.
const STAGE: &str = r#"
set -e
mkdir -p /run/systemd /run/log
mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs tmpfs /run/log
mount -t tmpfs tmpfs /usr/lib/systemd/catalog
mount -t tmpfs tmpfs /var/lib/systemd/catalog
cp "$CATALOG" /usr/lib/systemd/catalog/
journalctl --update-catalog
mkdir -p /run/systemd/journald.conf.d /run/log/journal
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\n' > /run/systemd/journald.conf.d/test.conf
setpriv --pdeathsig KILL /lib/systemd/systemd-journald &
until [ -S /run/systemd/journal/stdout ]; do sleep 0.1; done
echo $$ > "$PID_FILE"
exec systemd-cat -t tcpwatch sh -c \
    'JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec "$@"' sh "$@"
"#;

/// journalctl beside the agent.
fn journalctl(pid: &str, arguments: &[&str]) -> Result<Output> {
    let output = Command::new("nsenter")
        .args([&format!("--mount=/proc/{pid}/ns/mnt"), "journalctl", "--no-pager"])
        .args(arguments)
        .output()?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    Ok(output)
}

/// The entries that match, as JSON.
fn entries(pid: &str, matches: &[&str]) -> Result<Vec<Value>> {
    let arguments = [&["--output=json", "--all"], matches].concat();
    let text = String::from_utf8(journalctl(pid, &arguments)?.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
}

#[test]
fn a_finding_is_in_the_journal_with_fields_a_message_id_and_an_explanation() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    if !Path::new("/lib/systemd/systemd-journald").exists() {
        scenes::note_skip("needs systemd-journald (Debian: systemd)");
        return Ok(());
    }
    let folder = Folder::new()?;
    let address = free_address()?;
    let config =
        folder.write("tcpwatch.toml", &format!("{CONFIG}listen_addresses = [\"{address}\"]\n"))?;
    let pid_file = folder.path.join("pid");
    let catalog = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/tcpwatch.catalog");
    let mut daemon = Daemon::start(
        Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c", STAGE, "sh"])
            .arg(tcpwatch().get_program())
            .args(["run", "--config"])
            .arg(config)
            .env("CATALOG", catalog)
            .env("PID_FILE", &pid_file),
        &folder.path.join("stage.log"),
    )?;
    poll("the agent to be ready", || {
        daemon.must_run()?;
        Ok(http_get(address, "/-/ready").ok().filter(|answer| answer.status == 200))
    })?;
    let pid = fs::read_to_string(pid_file)?.trim().to_owned();

    let ns = Namespace::new("journal")?;
    let netns = format!("TCPWATCH_NETNS={}", ns.name());
    let change = |change: &str| format!("TCPWATCH_CHANGE={change}");
    let leak = CloseWaitLeak::client(&ns, 20, 7_320, false)?;
    let raised = poll("the finding in the journal", || {
        Ok(entries(&pid, &[&netns, &change("raised")])?.into_iter().next())
    })?;
    drop(leak);
    let cleared = poll("its end in the journal", || {
        Ok(entries(&pid, &[&netns, &change("cleared")])?.into_iter().next())
    })?;
    for (entry, severity, priority) in [(&raised, "warning", "4"), (&cleared, "warning", "5")] {
        assert_eq!(entry["TCPWATCH_FINDING"], "close-wait-pileup", "{entry:#}");
        assert_eq!(entry["TCPWATCH_SEVERITY"], severity, "{entry:#}");
        assert_eq!(entry["PRIORITY"], priority, "{entry:#}");
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "tcpwatch", "{entry:#}");
        assert_eq!(entry["TCPWATCH_PID"], std::process::id().to_string(), "{entry:#}");
        let message = entry["MESSAGE"].as_str().context("no message")?;
        ensure!(message.contains("20 connections"), "{message}");
    }
    assert_eq!(raised["TCPWATCH_FINDING_ID"], cleared["TCPWATCH_FINDING_ID"]);
    // Each change has an id of its own, by which its explanation is found.
    let id = raised["MESSAGE_ID"].as_str().context("no MESSAGE_ID")?;
    assert_ne!(cleared["MESSAGE_ID"], id);
    let explained = journalctl(&pid, &["--catalog", &format!("MESSAGE_ID={id}"), &netns])?;
    let explained = String::from_utf8(explained.stdout)?;
    for part in ["A finding was raised: close-wait-pileup", "tcpwatch explain close-wait-pileup"] {
        ensure!(explained.contains(part), "{part}: {explained}");
    }
    Ok(())
}
