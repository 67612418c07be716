//! PostgreSQL whose clients connect anew each time, and Redis under its benchmark and with a pool
//! that stays idle.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use scenes::State;

use crate::{
    stage::{Scene, Stage, find},
    support::{Daemon, poll},
};

/// Where they listen, outside of every ephemeral range.
pub(crate) const POSTGRESQL: u16 = 5_432;
pub(crate) const REDIS: u16 = 6_379;

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        group: "databases",
        name: "pgbench",
        needs: &["initdb", "postgres", "pgbench"],
        play: pgbench_that_connects_anew,
    },
    Scene {
        group: "databases",
        name: "redis",
        needs: &["redis-server", "redis-benchmark"],
        play: redis_under_its_benchmark,
    },
    Scene {
        group: "databases",
        name: "idle-pool",
        needs: &["redis-server", "redis-benchmark"],
        play: redis_with_an_idle_pool,
    },
];

/// A fresh PostgreSQL.
pub(crate) fn postgresql(stage: &Stage, options: &[&str]) -> Result<Daemon> {
    let data = stage.folder.path.join("data");
    // PostgreSQL refuses to be root. A change of user forgets whose death is to be one's own.
    let as_postgres = |program: &str| -> Result<Command> {
        let file = find(program).with_context(|| format!("no program {program}"))?;
        let mut command = stage.command(Path::new("setpriv"));
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.args(["--pdeathsig=KILL", "--"]).arg(file).current_dir("/");
        Ok(command)
    };
    let mut install = Command::new("install");
    install.args(["-d", "-o", "postgres", "-g", "postgres"]).arg(&data);
    stage.start("install.log", &mut install)?.finish()?;
    let mut initialise = as_postgres("initdb")?;
    initialise.args(["--auth=trust", "--username=postgres", "--locale=C", "--no-sync", "-D"]);
    stage.start("initdb.log", initialise.arg(&data))?.finish()?;
    let mut command = as_postgres("postgres")?;
    command.args(["-h", "127.0.0.1", "-p", &POSTGRESQL.to_string(), "-k", "", "-F"]).args(options);
    let mut server = stage.start("postgres.log", command.arg("-D").arg(&data))?;
    stage.wait_for_listener(&mut server, POSTGRESQL)?;
    Ok(server)
}

fn redis(stage: &Stage) -> Result<Daemon> {
    let folder = stage.folder.path.display().to_string();
    let port = REDIS.to_string();
    let place = ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--dir", &folder];
    let mut server = stage.run("redis-server", &place)?;
    stage.wait_for_listener(&mut server, REDIS)?;
    Ok(server)
}

fn pgbench_that_connects_anew(stage: &Stage) -> Result<()> {
    let mut server = postgresql(stage, &[])?;
    let port = POSTGRESQL.to_string();
    let place = ["-h", "127.0.0.1", "-p", port.as_str(), "-U", "postgres"];
    let bench = |args: &[&str]| stage.run("pgbench", &[&place[..], args, &["postgres"]].concat());
    bench(&["--initialize"])?.finish()?;
    // As fast as it goes for a while, again and again: the others are to get their turn.
    while stage.wait_until_warm() {
        stage.finish(bench(&["--connect", "--client=10", "--time=6"])?)?;
    }
    stage.keep(&mut [&mut server])?;
    stage.must_have_accepted(200)
}

fn redis_under_its_benchmark(stage: &Stage) -> Result<()> {
    let mut server = redis(stage)?;
    while stage.wait_until_warm() {
        stage.finish(stage.run("redis-benchmark", &["-q", "-n", "5000"])?)?;
    }
    stage.keep(&mut [&mut server])?;
    // Fifty for each of its tests.
    stage.must_have_accepted(1_000)
}

fn redis_with_an_idle_pool(stage: &Stage) -> Result<()> {
    const IDLE: usize = 200;
    let mut server = redis(stage)?;
    let mut clients = stage.run("redis-benchmark", &["-I", "-c", &IDLE.to_string()])?;
    let idle = || stage.ns.count(|s| s.state == State::Established && s.local.port() == REDIS);
    poll("the pool", || Ok((idle()? == IDLE).then_some(())))?;
    stage.keep(&mut [&mut server, &mut clients])?;
    anyhow::ensure!(idle()? == IDLE, "{} of the pool are left", idle()?);
    Ok(())
}
