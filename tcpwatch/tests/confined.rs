//! Everything that the agent does works with what is left of its privileges.
//!
//! strace sees the calls: one that the filter refuses is one that its list lacks.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use scenes::{Namespace, SelfConnection};
use support::{
    Agent, Daemon, Folder, http_get,
    leak::{ClosingServer, Leak, compile, has_compiler},
    poll, skip, symbol_server,
};

/// Growth is judged in seconds here, and the stacks are recorded while there is some.
const QUICK: &str = "\
[inventory]
interval = \"1s\"
[detect.close_wait_pileup]
min_age = \"1s\"
window = \"8s\"
";

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

    // Armed and disarmed with what is left.
    let mut events = TcpStream::connect(agent.address)?;
    write!(events, "GET /api/v1/events HTTP/1.0\r\nHost: {}\r\n\r\n", agent.address)?;
    let mut text = String::new();
    poll("an event", || {
        // Transitions, of which the stream has the later ones.
        http_get(agent.address, "/-/healthy")?;
        let mut part = [0; 4_096];
        let length = events.read(&mut part)?;
        text.push_str(&String::from_utf8_lossy(&part[..length]));
        Ok(text.contains("event: transition\ndata: {").then_some(()))
    })?;
    drop(events);
    for path in ["/", "/metrics", "/api/v1/findings", "/-/ready", "/-/healthy"] {
        assert_eq!(http_get(agent.address, path)?.status, 200, "{path}");
    }
    agent.signal(libc::SIGHUP)?;
    poll("a reload", || Ok(agent.log()?.contains("configuration reloaded").then_some(())))?;
    agent.wait_for_inventory()?;
    let log = agent.log()?;
    // Findings of namespaces that other tests made are errors too.
    let failed = log.lines().find(|it| it.contains(" ERROR ") && !it.contains("finding="));
    assert_eq!(failed, None, "{log}");
    for word in ["system calls not filtered", "unavailable", "unreadable"] {
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
    file: PathBuf,
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
        for call in
            ["setns(", "BPF_RAW_TRACEPOINT_OPEN", "process_vm_readv(", "SCM_RIGHTS", "recvmsg("]
        {
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
