//! A service that is restarted twice within ten minutes, and one that is killed for a deploy, with
//! their clients.
//!
//! For a second each client is refused, or aborted with a request unread. Then all are back.

use anyhow::Result;

use crate::{
    databases::REDIS,
    stage::{Scene, Stage, find},
};

const APPLICATION: u16 = 8_081;

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        group: "restarts",
        name: "restarts-700",
        needs: &["redis-server", "python3"],
        play: redis_with_700_clients,
    },
    Scene { group: "restarts", name: "deploy-1500", needs: &["python3"], play: deploy },
];

/// Seconds after the cold start: the second is within ten minutes, and a minute is left for what
/// stands because of it.
const STOPS: &str = "20,110";

fn redis_with_700_clients(stage: &Stage) -> Result<()> {
    let (port, folder) = (REDIS.to_string(), stage.folder.path.display().to_string());
    let server = ["redis-server", "--bind", "127.0.0.1", "--port", &port, "--save", ""];
    let supervised = [&["TERM", STOPS, "2"][..], &server, &["--dir", &folder]].concat();
    with_clients(stage, &supervised, REDIS, &["700", &port, "PING\\r\\n", "1"], 1_400)
}

fn deploy(stage: &Stage) -> Result<()> {
    let (port, python) = (APPLICATION.to_string(), find("python3").unwrap_or_default());
    let program = stage.program("slow_server.py").display().to_string();
    let python = python.display().to_string();
    let server = [python.as_str(), "-u", &program, &port];
    let supervised = [&["KILL", STOPS, "3"][..], &server].concat();
    with_clients(stage, &supervised, APPLICATION, &["1500", &port, "ask\\nask\\n", "4"], 3_000)
}

fn with_clients(
    stage: &Stage,
    supervised: &[&str],
    port: u16,
    clients: &[&str],
    resets: u64,
) -> Result<()> {
    // The supervisor counts from the cold start.
    let warm = stage.clock.warm.saturating_duration_since(std::time::Instant::now()).as_secs();
    let mut supervisor =
        stage.python("supervise.py", &[&[warm.to_string().as_str()], supervised].concat())?;
    stage.wait_for_listener(&mut supervisor, port)?;
    let mut clients = stage.python("clients.py", clients)?;
    stage.keep(&mut [&mut supervisor, &mut clients])?;
    stage.must_have_reset(resets)
}
