//! The program `leak.c`, which leaves its connections in CLOSE_WAIT, and the server that it needs.

use std::{
    net::{Ipv4Addr, Shutdown, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use socket2::SockRef;

pub(crate) fn has_compiler() -> bool {
    Command::new("cc").arg("--version").output().is_ok()
}

/// With the flags that Debian's compiler has by default.
pub(crate) fn compile(folder: &Path) -> Result<PathBuf> {
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

/// Accepts and closes at once, so that the client is left in CLOSE_WAIT.
pub(crate) struct ClosingServer {
    listener: TcpListener,
    pub(crate) port: u16,
    thread: Option<JoinHandle<()>>,
}

impl ClosingServer {
    pub(crate) fn start(ns: &Namespace) -> Result<Self> {
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
pub(crate) struct Leak {
    pub(crate) child: Child,
}

impl Leak {
    pub(crate) fn start(
        ns: &Namespace,
        program: &Path,
        port: u16,
        arguments: &[&str],
    ) -> Result<Self> {
        let child = ns.spawn_in(Command::new(program).arg(port.to_string()).args(arguments))?;
        Ok(Self { child })
    }

    pub(crate) fn must_run(&mut self) -> Result<()> {
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
