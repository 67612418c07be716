//! Looks for an agent on this host, at the socket and the addresses of the configuration.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use procfs::{
    net::{TcpNetEntry, TcpState},
    process::{FDTarget, all_processes},
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{agent_api, agent_stream::AgentStream};
use crate::plain;

/// How long an answer is waited for: the agent answers from its loop, in milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// An agent's answer fits in less; a longer one is another program's.
const ANSWER_BYTES: u64 = 4 * 1024;
/// Parts of the answers of an agent at `/-/healthy`: without a web configuration, where that demands
/// a password, and where it demands TLS.
const OF_AN_AGENT: [&str; 3] =
    ["tcpwatch is healthy", "Basic realm=\"tcpwatch\"", "tcpwatch serves HTTPS here"];

/// A place where an agent would listen, and what answers there.
#[derive(Debug, Serialize)]
pub(super) struct RunningAgent {
    #[serde(flatten)]
    place: Place,
    state: AgentState,
    /// The process that listens there, where the kernel shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    /// Events that its hooks have only counted, because a storm had used the budget of the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    work_left_out: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    Address(SocketAddr),
    Socket(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(path) => f.write_str(&plain::path(path)),
        }
    }
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
    /// This process may not connect.
    NotPermitted,
}

impl fmt::Display for RunningAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, state, pid, work_left_out } = self;
        match state {
            AgentState::Running => write!(f, "running at {place}")?,
            AgentState::SomethingElse => {
                write!(f, "not running: something else listens at {place}")?;
            }
            AgentState::Absent => write!(f, "not running: nothing listens at {place}")?,
            AgentState::NotPermitted => {
                write!(f, "not known: {place} is open to root and its group only")?;
            }
        }
        pid.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))?;
        match work_left_out {
            None | Some(0) => Ok(()),
            Some(1) => f.write_str("; 1 event of a storm was counted without process and service"),
            Some(events) => {
                write!(f, "; {events} events of a storm were counted without process and service")
            }
        }
    }
}

/// Looks for an agent at its socket, unless `socket` is empty, and at each of these addresses.
pub(super) fn find_agents(socket: &Path, addresses: &[SocketAddr]) -> Vec<RunningAgent> {
    let at_socket = (!socket.as_os_str().is_empty()).then(|| at_socket(socket));
    at_socket.into_iter().chain(addresses.iter().copied().map(at_address)).collect()
}

fn at_address(address: SocketAddr) -> RunningAgent {
    let state = match is_agent(reachable(address)) {
        Ok(true) => AgentState::Running,
        Ok(false) => AgentState::SomethingElse,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => AgentState::Absent,
        Err(_) => AgentState::SomethingElse,
    };
    let pid = (state != AgentState::Absent).then(|| listener(address)).flatten();
    RunningAgent { place: Place::Address(address), state, pid, work_left_out: None }
}

fn at_socket(path: &Path) -> RunningAgent {
    let (state, pid, work_left_out) = match state_of_socket(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            (AgentState::NotPermitted, None, None)
        }
        Err(_) => (AgentState::SomethingElse, None, None),
    };
    RunningAgent { place: Place::Socket(path.to_owned()), state, pid, work_left_out }
}

/// Whether an agent answers at a socket, the process that listens there, and what its hooks have left
/// out.
fn state_of_socket(path: &Path) -> io::Result<(AgentState, Option<i32>, Option<u64>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = match AgentStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if agent_api::is_absent(&error) => {
                return Ok((AgentState::Absent, None, None));
            }
            Err(error) => return Err(error),
        };
        let pid = stream.pid()?;
        let answer = timeout(PATIENCE, agent_api::body(path, "/-/healthy")).await;
        let healthy =
            matches!(answer, Ok(Ok(Some(body))) if body.starts_with(OF_AN_AGENT[0].as_bytes()));
        if !healthy {
            return Ok((AgentState::SomethingElse, pid, None));
        }
        let status = timeout(PATIENCE, agent_api::body(path, "/api/v1/status")).await;
        let left_out = match status {
            Ok(Ok(Some(body))) => work_left_out(&body),
            _ => None,
        };
        Ok((AgentState::Running, pid, left_out))
    })
}

/// By the agent's status; `None` where it does not say.
fn work_left_out(status: &[u8]) -> Option<u64> {
    let status: Value = serde_json::from_slice(status).ok()?;
    status.pointer("/events_lost/work")?.as_u64()
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
        let found = find_agents(Path::new(""), &[address]);
        stranger.join().expect("the thread does not panic")?;
        assert_eq!(found[0].state, AgentState::SomethingElse);
        let found = find_agents(Path::new(""), &[address]);
        assert_eq!((found[0].state, found[0].pid), (AgentState::Absent, None));
        Ok(())
    }

    #[test]
    fn an_agent_is_found_at_its_socket() -> io::Result<()> {
        let name = format!("tcpwatch-running-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let find = || find_agents(&path, &[]).pop().expect("a row");
        let state = |it: &RunningAgent| (it.state, it.pid);
        assert_eq!(state(&find()), (AgentState::Absent, None));
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        let pid = i32::try_from(std::process::id()).ok();
        // Each look begins with a connection without a request.
        let status = r#"{"events_lost": {"log": 1, "work": 3}}"#;
        let answers = ["", "tcpwatch is healthy.\n", status, "", "something else\n"];
        let served = std::thread::spawn(move || -> io::Result<()> {
            for answer in answers {
                let (mut stream, _) = listener.accept()?;
                if answer.is_empty() {
                    continue;
                }
                // A request that is not read would make the end a reset.
                let _ = stream.read(&mut [0; 1_024])?;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}", answer.len());
                write!(stream, "{head}\r\n\r\n{answer}")?;
            }
            Ok(())
        });
        let found = find();
        assert_eq!(state(&found), (AgentState::Running, pid));
        let text = found.to_string();
        assert!(
            text.ends_with("3 events of a storm were counted without process and service"),
            "{text}"
        );
        assert_eq!(state(&find()), (AgentState::SomethingElse, pid));
        served.join().expect("the thread does not panic")?;
        // A socket at which nothing listens any more is no agent.
        let found = find();
        assert_eq!(
            found.to_string(),
            format!("not running: nothing listens at {}", path.display())
        );
        let json = serde_json::json!({ "socket": path, "state": "absent" });
        assert_eq!(serde_json::to_value(&found)?, json);
        std::fs::remove_file(&path)?;
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
