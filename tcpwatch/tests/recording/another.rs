//! Another process for a scene: this very binary under another name, which listens.

use std::{
    env, fs, io,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use scenes::{Namespace, STEP_DEADLINE, State, wait_until};

/// Variables of its environment: its name, and the address to listen on.
const NAME: &str = "TCPWATCH_TEST_NAME";
const ADDRESS: &str = "TCPWATCH_TEST_LISTEN";

/// Not a test of its own: the process that [`Another`] starts listens here until its input ends.
#[test]
fn as_another_process() -> Result<()> {
    let (Some(name), Some(address)) = (env::var(NAME).ok(), env::var(ADDRESS).ok()) else {
        return Ok(());
    };
    fs::write("/proc/self/comm", name)?;
    let address: SocketAddr = address.parse()?;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&address.into())?;
    socket.listen(16)?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// A process that listens; dropping it ends it.
pub(super) struct Another {
    child: Child,
}

impl Another {
    /// Starts it and waits until it listens.
    pub(super) fn listening(ns: &Namespace, name: &str, address: SocketAddr) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["--exact", "recording::another::as_another_process"])
            .env(NAME, name)
            .env(ADDRESS, address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let another = Self { child: ns.spawn_in(&mut command)? };
        wait_until(STEP_DEADLINE, &format!("{name} to listen on {address}"), || {
            ns.count(|it| it.local == address && it.state == State::Listen).is_ok_and(|n| n == 1)
        })?;
        Ok(another)
    }

    /// Ends it and waits for that.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().context("waiting for another process")?;
        Ok(())
    }
}

impl Drop for Another {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
