//! What is left of root while the agent runs, as /proc shows it, and that everything works with it.

mod support;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use scenes::{Namespace, SelfConnection};
use support::{
    Agent, Daemon, Folder, http_get,
    leak::{ClosingServer, Leak, compile, has_compiler},
    poll, skip, tcpwatch,
};

/// CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF (include/uapi/linux/capability.h).
const ALL: u64 = 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39;
const HOST: u64 = 1 << 38 | 1 << 39;

/// Growth is judged in seconds here, and the stacks are recorded while there is some.
const QUICK: &str = "\
[inventory]
interval = \"1s\"
[detect.close_wait_pileup]
min_age = \"1s\"
window = \"8s\"
";

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

/// The only child of the agent.
fn symbol_server(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut children = children.split_whitespace();
    let server = children.next().context("the agent has no child")?.parse()?;
    ensure!(children.next().is_none(), "the agent has several children");
    Ok(server)
}

#[test]
fn every_feature_works_under_the_filter_and_no_call_is_refused() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    if !has_compiler() {
        return skip("needs a C compiler, cc");
    }
    let folder = Folder::new()?;
    let program = compile(&folder.path)?;
    let (first, second) = (Namespace::new("leaking")?, Namespace::new("itself")?);
    let server = ClosingServer::start(&first)?;
    let mut agent = Agent::start(QUICK)?;
    let trace = Trace::start(&folder.path, agent.pid())?;

    let mut leak = Leak::start(&first, &program, server.port, &[])?;
    let connection = SelfConnection::make(&second, IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    let finding = poll("a pileup with the stack that opened it", || {
        leak.must_run()?;
        let found = agent.findings("close-wait-pileup", first.name())?;
        Ok(found.into_iter().find(|finding| finding["subject"]["stack"].is_array()))
    })?;
    assert_eq!(finding["subject"]["pid"], leak.child.id(), "{finding:#}");
    assert!(finding["subject"]["stack"].to_string().contains("connect_backend"), "{finding:#}");
    assert!(finding["evidence"].to_string().contains("descriptor"), "{finding:#}");
    let finding = poll("a self-connection", || {
        Ok(agent.findings("self-connection", second.name())?.into_iter().next())
    })?;
    assert_eq!(finding["subject"]["pid"], std::process::id(), "{finding:#}");
    assert!(finding["subject"]["exe"].as_str().is_none_or(|exe| exe.starts_with('/')));
    drop(connection);

    for path in ["/", "/metrics", "/api/v1/findings", "/-/ready", "/-/healthy"] {
        assert_eq!(http_get(agent.address, path)?.status, 200, "{path}");
    }
    agent.signal(libc::SIGHUP)?;
    poll("a reload", || Ok(agent.log()?.contains("configuration reloaded").then_some(())))?;
    agent.wait_for_inventory()?;
    let log = agent.log()?;
    for word in ["ERROR", "system calls not filtered", "unavailable", "unreadable"] {
        assert!(!log.contains(word), "{log}");
    }
    agent.signal(libc::SIGTERM)?;
    assert_eq!(agent.wait()?, Some(0));
    match trace {
        Some(trace) => trace.assert_no_call_was_refused(),
        None => skip("needs strace, to see whether a call was refused"),
    }
}

/// strace on the agent and its symbol server.
struct Trace {
    strace: Daemon,
    file: std::path::PathBuf,
}

impl Trace {
    /// `None` without strace.
    fn start(folder: &Path, agent: u32) -> Result<Option<Self>> {
        if Command::new("strace").arg("--version").output().is_err() {
            return Ok(None);
        }
        let file = folder.join("trace");
        let mut command = Command::new("strace");
        command.arg("-f").arg("-o").arg(&file);
        for pid in [agent, symbol_server(agent)?] {
            command.args(["-p", &pid.to_string()]);
        }
        let mut strace = Daemon::start(&mut command, &folder.join("strace.log"))?;
        poll("strace to see the agent's calls", || {
            strace.must_run()?;
            Ok(fs::read_to_string(&file).is_ok_and(|text| text.contains("bpf(")).then_some(()))
        })?;
        Ok(Some(Self { strace, file }))
    }

    fn assert_no_call_was_refused(self) -> Result<()> {
        // It ends with what it watches.
        self.strace.finish()?;
        let trace = fs::read_to_string(&self.file)?;
        // glibc starts a thread by clone() then.
        let refused = |line: &&str| line.contains("ENOSYS") && !line.contains(" clone3(");
        let refused: Vec<_> = trace.lines().filter(refused).collect();
        assert!(refused.is_empty(), "{refused:#?}");
        for call in ["setns(", "process_vm_readv(", "SCM_RIGHTS", "recvmsg("] {
            assert!(trace.contains(call), "{call} was not traced");
        }
        Ok(())
    }
}

#[test]
fn a_symbol_server_that_is_gone_leaves_places_for_names_and_says_so_once() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    if !has_compiler() {
        return skip("needs a C compiler, cc");
    }
    let folder = Folder::new()?;
    let program = compile(&folder.path)?;
    let ns = Namespace::new("gone")?;
    let server = ClosingServer::start(&ns)?;
    let agent = Agent::start(QUICK)?;
    let symbols = libc::pid_t::try_from(symbol_server(agent.pid())?)?;
    // SAFETY: takes no pointer; the process is the child of a child that is not reaped yet.
    ensure!(unsafe { libc::kill(symbols, libc::SIGKILL) } == 0, "cannot kill {symbols}");
    let mut leak = Leak::start(&ns, &program, server.port, &[])?;
    let finding = poll("a pileup with a stack", || {
        leak.must_run()?;
        let found = agent.findings("close-wait-pileup", ns.name())?;
        Ok(found.into_iter().find(|finding| finding["subject"]["stack"].is_array()))
    })?;
    let stack = finding["subject"]["stack"].to_string();
    assert!(stack.contains("0x") && stack.contains("(leak)"), "{stack}");
    assert!(!stack.contains("connect_backend"), "{stack}");
    agent.wait_for_inventory()?;
    let log = agent.log()?;
    assert_eq!(log.matches("names of functions unavailable").count(), 1, "{log}");
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
    assert!(
        log.contains("\"host\\\" to \\\"all\\\"") || log.contains("\"host\" to \"all\""),
        "{log}"
    );
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
