//! Pools of connections that a server has closed: each is stale and stays in CLOSE_WAIT until its
//! owner takes it for the next request. Their number is bounded by the pool, so nothing leaks.

use anyhow::Result;

use crate::{
    databases,
    stage::{Scene, Stage, is_full},
    support::Daemon,
};

const PORT: u16 = 8_080;

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        group: "pools",
        name: "prefork-24x1",
        needs: &["nginx", "python3"],
        play: |stage| keepers(stage, "24", "1", "1"),
    },
    Scene {
        group: "pools",
        name: "prefork-22x10",
        needs: &["nginx", "python3"],
        play: |stage| keepers(stage, "22", "10", "1"),
    },
    Scene {
        group: "pools",
        name: "hosts-25",
        needs: &["nginx", "python3"],
        play: |stage| keepers(stage, "1", "25", "25"),
    },
    Scene {
        group: "pools",
        name: "pool-30",
        needs: &["initdb", "postgres", "python3"],
        play: postgresql_ends_idle_sessions,
    },
    Scene {
        group: "pools",
        name: "lru-10",
        needs: &["nginx", "python3"],
        play: pool_that_fills_slowly,
    },
];

/// nginx that closes what is idle for 5 s.
fn nginx(stage: &Stage) -> Result<Daemon> {
    let server = format!(
        "keepalive_timeout 5s;\n\
         server {{ listen {PORT}; location / {{ return 200 \"well\\n\"; }} }}"
    );
    stage.nginx(&server, PORT)
}

/// Workers, as of gunicorn or uWSGI, whose HTTP client keeps so many connections each, one to each
/// of so many hosts in turn.
fn keepers(stage: &Stage, workers: &str, connections: &str, hosts: &str) -> Result<()> {
    let mut server = nginx(stage)?;
    let port = PORT.to_string();
    let mut client = stage.python("keepers.py", &[workers, connections, hosts, &port])?;
    stage.keep(&mut [&mut server, &mut client])?;
    let stale = workers.parse::<usize>()? * connections.parse::<usize>()?;
    stage.must_have_in_close_wait(stale)
}

/// The server says why before it closes, so each stale connection also holds unread data.
fn postgresql_ends_idle_sessions(stage: &Stage) -> Result<()> {
    let mut server = databases::postgresql(stage, &["-c", "idle_session_timeout=5s"])?;
    let mut client =
        stage.python("postgresql_pool.py", &["30", &databases::POSTGRESQL.to_string()])?;
    stage.keep(&mut [&mut server, &mut client])?;
    stage.must_have_in_close_wait(30)
}

/// A pool of 10 that opens a connection to a host it has not talked to, and closes the one that was
/// used longest ago.
fn pool_that_fills_slowly(stage: &Stage) -> Result<()> {
    // Full for the last minutes of either run.
    let pause = if is_full() { "60" } else { "25" };
    let mut server = nginx(stage)?;
    let mut client = stage.python("lru_pool.py", &["10", pause, &PORT.to_string()])?;
    stage.keep(&mut [&mut server, &mut client])?;
    stage.must_have_accepted(10)
}
