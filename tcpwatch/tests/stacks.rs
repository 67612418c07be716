//! The user stack that opened the leaked sockets, of a program as distributions build them: C, -O2,
//! no frame pointers, glibc.
//!
//! The program is `leak.c`; its connect() is called by `connect_backend`. Only the name of that
//! function is asked for: beyond it a walk without frame pointers may lose its way.

mod support;

use std::{
    net::{Ipv4Addr, Shutdown, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use serde_json::Value;
use socket2::SockRef;
use support::{Agent, Folder, poll, skip};

/// Growth is judged in seconds here, and the stacks are wanted while there is some.
const QUICK: &str = "\
[inventory]
interval = \"1s\"
[detect.close_wait_pileup]
min_age = \"1s\"
window = \"8s\"
";

#[test]
fn the_stack_of_a_leak_names_the_function_that_called_connect() -> Result<()> {
    leak_is_named(&[])
}

#[test]
fn the_stack_of_a_leak_in_a_thread_names_the_function_that_called_connect() -> Result<()> {
    leak_is_named(&["thread"])
}

fn leak_is_named(arguments: &[&str]) -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    if Command::new("cc").arg("--version").output().is_err() {
        return skip("needs a C compiler, cc");
    }
    let folder = Folder::new()?;
    let program = compile(&folder.path)?;
    let ns = Namespace::new("stacks")?;
    let server = ClosingServer::start(&ns)?;
    let agent = Agent::start(QUICK)?;
    let mut leak = Leak::start(&ns, &program, server.port, arguments)?;

    let finding = poll("a pileup with the stack that opened it", || {
        leak.must_run()?;
        let found = agent.findings("close-wait-pileup", ns.name())?;
        Ok(found.into_iter().find(|finding| finding["subject"]["stack"].is_array()))
    })?;
    assert_eq!(finding["subject"]["pid"], leak.child.id(), "{finding:#}");
    assert_names_connect_backend(&finding)
}

fn assert_names_connect_backend(finding: &Value) -> Result<()> {
    let frames = finding["subject"]["stack"].as_array().context("a finding without stack")?;
    let names = |frame: &Value| frame.as_str().is_some_and(|it| it.starts_with("connect_backend"));
    assert!(frames.iter().any(names), "{finding:#}");
    let stacks = finding["evidence"]["stacks"].as_array().context("evidence without stacks")?;
    let frames = stacks[0]["frames"].as_array().context("a stack without frames")?;
    assert!(frames.iter().any(names), "{finding:#}");
    let explanation = finding["explanation"].as_str().context("no explanation")?;
    assert!(explanation.contains("opened by connect_backend()"), "{explanation}");
    Ok(())
}

/// With the flags that Debian's compiler has by default.
fn compile(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("leak");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/leak.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .context("running cc")?;
    ensure!(compiled.success(), "cc failed on {source}");
    Ok(program)
}

/// Accepts and closes at once, so that who connected is left in CLOSE_WAIT.
struct ClosingServer {
    listener: TcpListener,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl ClosingServer {
    fn start(ns: &Namespace) -> Result<Self> {
        let listener = ns.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
        let port = listener.local_addr()?.port();
        let accepting = listener.try_clone()?;
        // Each is dropped, and so closed, until the listener is shut down.
        let thread = thread::spawn(move || while accepting.accept().is_ok() {});
        Ok(Self { listener, port, thread: Some(thread) })
    }
}

impl Drop for ClosingServer {
    fn drop(&mut self) {
        // Of a listener it ends accept() with EINVAL.
        let ended = SockRef::from(&self.listener).shutdown(Shutdown::Both).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| ended) {
            let _ = thread.join();
        }
    }
}

/// The leaking program; it does not outlive the test.
struct Leak {
    child: Child,
}

impl Leak {
    fn start(ns: &Namespace, program: &Path, port: u16, arguments: &[&str]) -> Result<Self> {
        let child = ns.spawn_in(Command::new(program).arg(port.to_string()).args(arguments))?;
        Ok(Self { child })
    }

    fn must_run(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "the leaking program has ended: {ended:?}");
        Ok(())
    }
}

impl Drop for Leak {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
