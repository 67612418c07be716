//! Looks for an agent on this host, at the addresses of the configuration.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use procfs::{
    net::{TcpNetEntry, TcpState},
    process::{FDTarget, all_processes},
};
use serde::Serialize;

/// How long an answer is waited for: the agent answers from its loop, in milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// An agent's answer fits in less; a longer one is another program's.
const ANSWER_BYTES: u64 = 4 * 1024;
/// Parts of the answers of an agent at `/-/healthy`: without a web configuration, where that demands
/// a password, and where it demands TLS.
const OF_AN_AGENT: [&str; 3] =
    ["tcpwatch is healthy", "Basic realm=\"tcpwatch\"", "tcpwatch serves HTTPS here"];

/// An address where an agent would listen, and what answers there.
#[derive(Debug, Serialize)]
pub(super) struct RunningAgent {
    address: SocketAddr,
    state: AgentState,
    /// The process that listens there, where /proc shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum AgentState {
    /// An agent answers.
    Running,
    /// Something else listens there, or an agent that does not answer.
    SomethingElse,
    /// Nothing listens there.
    Absent,
}

impl fmt::Display for RunningAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state {
            AgentState::Running => write!(f, "running at {}", self.address)?,
            AgentState::SomethingElse => {
                write!(f, "not running: something else listens at {}", self.address)?;
            }
            AgentState::Absent => write!(f, "not running: nothing listens at {}", self.address)?,
        }
        self.pid.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
    }
}

/// Looks for an agent at each of these addresses.
pub(super) fn find_agents(addresses: &[SocketAddr]) -> Vec<RunningAgent> {
    let at = |&address: &SocketAddr| {
        let state = match is_agent(reachable(address)) {
            Ok(true) => AgentState::Running,
            Ok(false) => AgentState::SomethingElse,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => AgentState::Absent,
            Err(_) => AgentState::SomethingElse,
        };
        let pid = (state != AgentState::Absent).then(|| listener(address)).flatten();
        RunningAgent { address, state, pid }
    };
    addresses.iter().map(at).collect()
}

/// An agent that listens at every address listens at the loopback's.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn is_agent(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /-/healthy HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    // Whatever came before an error is the answer.
    let _ = stream.take(ANSWER_BYTES).read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    Ok(OF_AN_AGENT.iter().any(|part| answer.contains(part)))
}

/// The process that holds the listener.
fn listener(address: SocketAddr) -> Option<i32> {
    let entries = if address.is_ipv4() { procfs::net::tcp() } else { procfs::net::tcp6() };
    let is_it =
        |entry: &TcpNetEntry| entry.state == TcpState::Listen && entry.local_address == address;
    let inode = entries.ok()?.into_iter().find(is_it)?.inode;
    let holds = |process: &procfs::process::Process| {
        let mut fds = process.fd().into_iter().flatten().flatten();
        fds.any(|fd| matches!(fd.target, FDTarget::Socket(held) if held == inode))
    };
    all_processes().ok()?.flatten().find(holds).map(|process| process.pid())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn nothing_and_something_else_are_distinguished() -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let stranger = std::thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n")
        });
        let found = find_agents(&[address]);
        stranger.join().expect("the thread does not panic")?;
        assert_eq!(found[0].state, AgentState::SomethingElse);
        let found = find_agents(&[address]);
        assert_eq!((found[0].state, found[0].pid), (AgentState::Absent, None));
        Ok(())
    }

    #[test]
    fn the_process_behind_a_listener_is_found() -> io::Result<()> {
        let here = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let pid = i32::try_from(std::process::id()).ok();
        assert_eq!(listener(here.local_addr()?), pid);
        Ok(())
    }
}
