//! Privileges of the running agent, as /proc shows them, and what a reload can do with them.

mod support;

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, ensure};
use support::{Agent, Folder, poll, symbol_server, tcpwatch};

/// CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF (include/uapi/linux/capability.h).
const ALL: u64 = 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39;
const HOST: u64 = 1 << 38 | 1 << 39;

#[test]
fn every_thread_keeps_only_what_all_namespaces_take() -> Result<()> {
    threads_keep("[inventory]\ninterval = \"1s\"\n", ALL)
}

#[test]
fn every_thread_keeps_only_what_the_hosts_namespace_takes() -> Result<()> {
    threads_keep("[inventory]\ninterval = \"1s\"\nnamespaces = \"host\"\n", HOST)
}

fn threads_keep(config: &str, kept: u64) -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start(config)?;
    agent.wait_for_inventory()?;
    let threads = threads(agent.pid())?;
    // The loop and the inventory.
    ensure!(threads.len() >= 2, "{threads:?}");
    for thread in threads {
        assert_holds(&thread, kept)?;
    }
    let server = symbol_server(agent.pid())?;
    for thread in self::threads(server)? {
        assert_holds(&thread, 0)?;
    }
    // Its socket, and /dev/null twice.
    let files = fs::read_dir(format!("/proc/{server}/fd"))?.count();
    assert_eq!(files, 3, "descriptors of the symbol server");
    Ok(())
}

/// The status of each thread.
fn threads(pid: u32) -> Result<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    tasks.map(|task| Ok(fs::read_to_string(task?.path().join("status"))?)).collect()
}

fn assert_holds(status: &str, kept: u64) -> Result<()> {
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.strip_prefix(':')).map(str::trim).context(key.to_owned())
    };
    let expected =
        [("CapPrm", kept), ("CapEff", kept), ("CapBnd", kept), ("CapInh", 0), ("CapAmb", 0)];
    for (set, kept) in expected {
        assert_eq!(u64::from_str_radix(value(set)?, 16)?, kept, "{set} of\n{status}");
    }
    assert_eq!(value("NoNewPrivs")?, "1", "{status}");
    assert_eq!(value("Seccomp")?, "2", "{status}");
    Ok(())
}

#[test]
fn namespaces_beyond_the_hosts_take_a_restart() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start("[inventory]\ninterval = \"1s\"\nnamespaces = \"host\"\n")?;
    let file = agent.folder.path.join("tcpwatch.toml");
    let config = fs::read_to_string(&file)?.replace("\"host\"", "\"all\"");
    fs::write(&file, config)?;
    agent.signal(libc::SIGHUP)?;
    poll("a reload", || Ok(agent.log()?.contains("configuration reloaded").then_some(())))?;
    agent.wait_for_inventory()?;
    let log = agent.log()?;
    assert!(log.contains("not reloaded") && log.contains("inventory.namespaces"), "{log}");
    assert!(!log.contains("cannot be entered"), "{log}");
    Ok(())
}

#[test]
fn a_check_with_a_recording_works_under_the_filter() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let record = folder.path.join("record");
    let output = tcpwatch().args(["check", "--for", "1s", "--record"]).arg(&record).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(matches!(output.status.code(), Some(0..=2)), "{:?}: {said}", output.status);
    ensure!(fs::metadata(&record)?.len() > 0);
    Ok(())
}

#[test]
fn a_configuration_that_only_privileges_could_read_is_named_at_the_start() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let config = "[inventory]\ninterval = \"1s\"\n";
    let agent = Agent::start_with(config, |file| {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
        // Another user's: uid 0 without capabilities may not read it.
        Ok(std::os::unix::fs::chown(file, Some(65_534), Some(65_534))?)
    })?;
    let log = agent.log()?;
    assert!(log.contains("configuration unreadable without privileges"), "{log}");
    agent.signal(libc::SIGHUP)?;
    poll("a refusal", || Ok(agent.log()?.contains("configuration not reloaded").then_some(())))?;
    agent.wait_for_inventory()?;
    // Its own is read again.
    std::os::unix::fs::chown(agent.folder.path.join("tcpwatch.toml"), Some(0), Some(0))?;
    agent.signal(libc::SIGHUP)?;
    poll("a reload", || Ok(agent.log()?.contains("configuration reloaded").then_some(())))
}
