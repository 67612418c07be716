//! The source of the snapshots: the running agent, or an agent within this process.
//!
//! Both answer with the same two texts, so nothing behind this file distinguishes them. A running
//! agent is polled over its UNIX socket; its answers are shared with all other readers. The agent
//! within judges as `tcpwatch run` does and serves no other process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    super::{
        Exit,
        agent_api::{self, AgentError, PATIENCE},
        config_source,
    },
    snapshot::{Snapshot, SnapshotError},
    state::Origin,
};
use crate::{
    agent::{self, RunError},
    config::Config,
    plain,
    publish::Query,
};

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("no agent answers at {}", plain::path(.0))]
    Absent(PathBuf),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Of the agent within this process.
    #[error("the inventory thread of this process has ended")]
    Ended,
}

/// Where snapshots come from.
pub(super) enum Source {
    /// The agent that listens at this path.
    Agent(PathBuf),
    /// An agent within this process.
    Own(OwnAgent),
}

/// An agent within this process, on a thread of its own.
pub(super) struct OwnAgent {
    queries: mpsc::Sender<Query>,
    thread: JoinHandle<Result<(), RunError>>,
}

/// Finds a source; says why there is none, and returns the exit code.
pub(super) async fn find(
    file: Option<PathBuf>,
    config: &Config,
    is_fresh: bool,
    interval: Duration,
) -> Result<(Source, Origin), Exit> {
    let socket = config.web.socket.clone();
    let mut why_not = None;
    if !is_fresh && !socket.as_os_str().is_empty() {
        let agent = Source::Agent(socket.clone());
        match agent.snapshot().await {
            Ok(_) => return Ok((agent, Origin::Agent)),
            Err(SourceError::Absent(_)) => {}
            Err(error) => why_not = Some(plain::said(&error)),
        }
    }
    let own = Source::Own(OwnAgent::start(file, interval).await?);
    Ok((own, Origin::Own(why_not)))
}

impl Source {
    /// The present state of the host.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, SourceError> {
        match self {
            Self::Agent(socket) => {
                let answers = timeout(PATIENCE, async {
                    let metrics = ask_agent(socket, "/metrics").await?;
                    Ok::<_, SourceError>((metrics, ask_agent(socket, "/api/v1/findings").await?))
                });
                let (metrics, findings) =
                    answers.await.map_err(|_| AgentError::Late(PATIENCE))??;
                let metrics = String::from_utf8_lossy(&metrics);
                Ok(Snapshot::read(&metrics, &findings)?)
            }
            Self::Own(agent) => {
                let metrics = agent.answer(Query::Metrics).await?;
                let findings = agent.answer(Query::Findings).await?;
                Ok(Snapshot::read(&metrics, findings.as_bytes())?)
            }
        }
    }

    /// The exit code after the agent within this process has ended, whose reason is said.
    pub(super) fn end(self) -> Exit {
        match self {
            Self::Own(agent) => agent.end(),
            Self::Agent(_) => Exit::Ok,
        }
    }
}

async fn ask_agent(socket: &Path, path: &'static str) -> Result<Vec<u8>, SourceError> {
    let body = agent_api::body(socket, path).await?;
    Ok(body.ok_or_else(|| SourceError::Absent(socket.to_owned()))?.into())
}

impl OwnAgent {
    /// Starts it and waits until it has attached.
    async fn start(file: Option<PathBuf>, interval: Duration) -> Result<Self, Exit> {
        let mut source = config_source(file);
        source.overrides = Arc::new(move |config: &mut Config| {
            config.web.listen_addresses.clear();
            config.web.socket.clear();
            // A live view looks as often as it shows; inventories stay throttled.
            config.inventory.interval = config.inventory.interval.min(interval);
        });
        let config = source.load().map_err(|error| Exit::config(&error))?;
        let (queries, received) = mpsc::channel(4);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(agent::StartError::from)?;
            runtime.block_on(agent::run_within(source, config, received))
        };
        let thread = std::thread::Builder::new().name("agent".to_owned()).spawn(work);
        let agent = Self { queries, thread: thread.map_err(|error| Exit::failed(&error))? };
        match agent.answer(Query::Status).await {
            Ok(_) => Ok(agent),
            Err(_) => Err(agent.end()),
        }
    }

    async fn answer(
        &self,
        query: impl FnOnce(oneshot::Sender<String>) -> Query,
    ) -> Result<String, SourceError> {
        let (to, answer) = oneshot::channel();
        self.queries.send(query(to)).await.map_err(|_| SourceError::Ended)?;
        answer.await.map_err(|_| SourceError::Ended)
    }

    fn end(self) -> Exit {
        match self.thread.join() {
            Ok(Ok(())) => Exit::Ok,
            Ok(Err(error)) => Exit::run(&error),
            Err(panic) => Exit::run(&RunError::of_panic("the agent of this process", &*panic)),
        }
    }
}
