//! Programs in good health, under an agent with the default configuration: whatever they do to TCP,
//! none raises a finding above info, not for a moment.
//!
//! Each has a network namespace of its own. The thresholds are the defaults, ages and windows
//! included; only the inventory is taken ten times as often, which gives a detector more chances to
//! be wrong.

mod support;

use std::{
    collections::VecDeque,
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use scenes::{Namespace, State};
use support::{Agent, Daemon, poll, skip};

const DEFAULTS: &str = "[inventory]\ninterval = \"1s\"\n";

/// How long a benchmark puts its load on: several inventories see it at its height.
const LOAD_SECONDS: &str = "6";

/// How long the sockets are kept of which it matters for how long: what is judged by its age, as
/// CLOSE_WAIT is, counts after 60 s, and some inventories are to find it then.
const STAY: Duration = Duration::from_secs(66);

/// Where the servers listen, outside of every ephemeral range.
const NGINX: u16 = 8_080;
const POSTGRESQL: u16 = 5_432;
const REDIS: u16 = 6_379;
const LATE: u16 = 7_000;

/// `program` inside `ns`, for [`Daemon`]: with all that it forks it is in a PID namespace, which
/// ends with `unshare`, so that killing one process ends nginx with its workers.
fn program_in(ns: &Namespace, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", ns.path().display()));
    command.args(["unshare", "--fork", "--pid", "--kill-child", "--"]).arg(program);
    command
}

/// Where a program is, PostgreSQL's own ones included.
fn find(program: &str) -> Option<PathBuf> {
    // Debian has those out of PATH, by version.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let postgresql = versions.map(|version| version.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    postgresql
        .chain(env::split_paths(&path))
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Where these programs are; `None` without root or without one of them, which is told.
fn programs<const N: usize>(names: [&str; N]) -> Result<Option<[PathBuf; N]>> {
    if !scenes::root_or_skip() {
        return Ok(None);
    }
    let found: Vec<PathBuf> = names.iter().filter_map(|name| find(name)).collect();
    let found = <[PathBuf; N]>::try_from(found).ok();
    if found.is_none() {
        skip(&format!("needs {}", names.join(", ")))?;
    }
    Ok(found)
}

fn wait_for_listener(ns: &Namespace, server: &mut Daemon, port: u16) -> Result<()> {
    poll("a server to listen", || {
        server.must_run()?;
        let listens = ns.count(|s| s.state == State::Listen && s.local.port() == port)?;
        Ok((listens > 0).then_some(()))
    })
}

/// At least so many connections were accepted in `ns`, so the load was one.
fn assert_accepted(ns: &Namespace, at_least: u64) -> Result<()> {
    let accepted = ns.snmp_counter("PassiveOpens")?;
    println!("{accepted} connections accepted");
    ensure!(accepted >= at_least, "only {accepted} connections were accepted");
    Ok(())
}

/// Two inventories after the load has ended, the log tells of nothing but info in `ns`.
fn assert_nothing_told(agent: &Agent, ns: &Namespace) -> Result<()> {
    agent.wait_for_inventory()?;
    agent.wait_for_inventory()?;
    let seen = format!("tcpwatch_sockets{{netns=\"{}\",state=\"listen\"}}", ns.name());
    ensure!(agent.value(&seen)? == Some(1.0), "the agent did not watch {}", ns.name());
    let log = agent.log()?;
    let is_loud = |line: &&str| {
        line.contains(ns.name()) && (line.contains(" WARN ") || line.contains(" ERROR "))
    };
    let loud: Vec<_> = log.lines().filter(is_loud).collect();
    let standing = agent.all_findings()?;
    ensure!(loud.is_empty(), "{}\nwhat stands: {standing:#?}", loud.join("\n"));
    Ok(())
}

fn start_redis(agent: &Agent, ns: &Namespace, server: &Path) -> Result<Daemon> {
    let mut redis = Daemon::start(
        program_in(ns, server)
            .args(["--bind", "127.0.0.1", "--port", &REDIS.to_string(), "--save", ""])
            .arg("--dir")
            .arg(&agent.folder.path),
        &agent.folder.path.join("redis-server.log"),
    )?;
    wait_for_listener(ns, &mut redis, REDIS)?;
    Ok(redis)
}

/// For as long as [`STAY`], 50 connections a second whose server closes each 5 s after its client:
/// at every moment some 250 in CLOSE_WAIT, more than the default `critical`.
fn close_late() -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    const LATER: Duration = Duration::from_secs(5);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, LATE))?;
    let begun = Instant::now();
    let mut closed_by_client: VecDeque<(Instant, TcpStream)> = VecDeque::new();
    while begun.elapsed() < STAY || !closed_by_client.is_empty() {
        if begun.elapsed() < STAY {
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (server, _) = listener.accept()?;
            drop(client);
            closed_by_client.push_back((Instant::now(), server));
        }
        while closed_by_client.front().is_some_and(|(closed, _)| closed.elapsed() >= LATER) {
            closed_by_client.pop_front();
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Both of them mostly wait, so they wait together.
#[test]
fn a_pool_that_stays_idle_and_a_server_that_closes_late_are_nothing() -> Result<()> {
    let Some([server, benchmark]) = programs(["redis-server", "redis-benchmark"])? else {
        return Ok(());
    };
    const IDLE: usize = 200;
    let agent = Agent::start(DEFAULTS)?;
    let (pool, late) = (Namespace::new("pool")?, Namespace::new("late")?);
    let redis = start_redis(&agent, &pool, &server)?;
    let clients = Daemon::start(
        program_in(&pool, &benchmark).args(["-I", "-c", &IDLE.to_string()]),
        &agent.folder.path.join("redis-benchmark.log"),
    )?;
    let is_of_the_pool = |s: &scenes::SocketLine| {
        s.state == State::Established && s.local == SocketAddr::from((Ipv4Addr::LOCALHOST, REDIS))
    };
    poll("the pool", || Ok((pool.count(is_of_the_pool)? == IDLE).then_some(())))?;

    let in_close_wait = thread::scope(|scope| -> Result<f64> {
        let closing = scope.spawn(|| late.enter(close_late));
        let series = format!("tcpwatch_sockets{{netns=\"{}\",state=\"close_wait\"}}", late.name());
        let mut most = 0.0_f64;
        while !closing.is_finished() {
            most = most.max(agent.value(&series)?.unwrap_or_default());
            thread::sleep(Duration::from_secs(1));
        }
        closing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
        Ok(most)
    })?;
    ensure!(in_close_wait >= 200.0, "never more than {in_close_wait} in CLOSE_WAIT");
    assert_eq!(pool.count(is_of_the_pool)?, IDLE);
    assert_nothing_told(&agent, &pool)?;
    drop((clients, redis));
    // Its listener is gone, and with it what the agent shows of the namespace.
    let log = agent.log()?;
    let told: Vec<_> = log.lines().filter(|line| line.contains(late.name())).collect();
    ensure!(told.is_empty(), "{}", told.join("\n"));
    Ok(())
}

/// nginx with two workers, asked over 100 connections at a time.
fn nginx_under_wrk(tag: &str, header: &[&str], connections: u64) -> Result<()> {
    let Some([nginx, wrk]) = programs(["nginx", "wrk"])? else { return Ok(()) };
    let agent = Agent::start(DEFAULTS)?;
    let ns = Namespace::new(tag)?;
    // Without keep-alive each of the client's 28,232 ports is in TIME_WAIT on the server's side in
    // the end. The limit is half the size of a hash table, so it depends on the host's memory: one
    // of 8 GB would be right to warn.
    ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", "131072")?;
    let folder = &agent.folder.path;
    let text = format!(
        "daemon off; worker_processes 2; pid {}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; server {{ listen 127.0.0.1:{NGINX};\n\
         location / {{ return 200 \"well\\n\"; }} }} }}\n",
        folder.display()
    );
    let configuration = agent.folder.write("nginx.conf", &text)?;
    let mut server = Daemon::start(
        program_in(&ns, &nginx).args(["-e", "stderr", "-c"]).arg(configuration),
        &folder.join("nginx.log"),
    )?;
    wait_for_listener(&ns, &mut server, NGINX)?;
    let said = Daemon::start(
        program_in(&ns, &wrk)
            .args(["--threads", "2", "--connections", "100", "--duration", LOAD_SECONDS])
            .args(header)
            .arg(format!("http://127.0.0.1:{NGINX}/")),
        &folder.join("wrk.log"),
    )?
    .finish()?;
    ensure!(said.contains("Requests/sec"), "wrk did nothing: {said}");
    assert_accepted(&ns, connections)?;
    assert_nothing_told(&agent, &ns)
}

#[test]
fn nginx_under_wrk_is_nothing() -> Result<()> {
    nginx_under_wrk("keep-alive", &[], 100)
}

#[test]
fn nginx_under_wrk_without_keep_alive_is_nothing() -> Result<()> {
    nginx_under_wrk("no-keep-alive", &["--header", "Connection: close"], 2_000)
}

#[test]
fn postgresql_under_pgbench_that_connects_anew_each_time_is_nothing() -> Result<()> {
    let Some([initdb, postgres, pgbench]) = programs(["initdb", "postgres", "pgbench"])? else {
        return Ok(());
    };
    let agent = Agent::start(DEFAULTS)?;
    let ns = Namespace::new("postgresql")?;
    let folder = &agent.folder.path;
    let (data, port) = (folder.join("data"), POSTGRESQL.to_string());
    // PostgreSQL refuses to be root. A change of user forgets whose death is to be one's own.
    let as_postgres = |program: &Path| {
        let mut command = program_in(&ns, Path::new("setpriv"));
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.args(["--pdeathsig=KILL", "--"]).arg(program).current_dir("/");
        command
    };
    let run = |command: &mut Command, log: &str| {
        Daemon::start(command, &folder.join(log))?.finish().with_context(|| log.to_owned())
    };
    let mut folder_of_postgres = Command::new("install");
    folder_of_postgres.args(["-d", "-o", "postgres", "-g", "postgres"]).arg(&data);
    run(&mut folder_of_postgres, "install.log")?;
    let mut initialise = as_postgres(&initdb);
    initialise.args(["--auth=trust", "--username=postgres", "--locale=C", "--no-sync", "-D"]);
    run(initialise.arg(&data), "initdb.log")?;
    let mut server = Daemon::start(
        as_postgres(&postgres)
            .args(["-h", "127.0.0.1", "-p", &port, "-k", "", "-F", "-D"])
            .arg(&data),
        &folder.join("postgres.log"),
    )?;
    wait_for_listener(&ns, &mut server, POSTGRESQL)?;
    let bench = |args: &[&str], log: &str| {
        let mut command = program_in(&ns, &pgbench);
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]).args(args);
        run(command.arg("postgres"), log)
    };
    bench(&["--initialize"], "pgbench-initialize.log")?;
    bench(&["--connect", "--client=10", "--time", LOAD_SECONDS], "pgbench.log")?;
    assert_accepted(&ns, 200)?;
    assert_nothing_told(&agent, &ns)
}

#[test]
fn redis_under_its_benchmark_is_nothing() -> Result<()> {
    let Some([server, benchmark]) = programs(["redis-server", "redis-benchmark"])? else {
        return Ok(());
    };
    let agent = Agent::start(DEFAULTS)?;
    let ns = Namespace::new("redis")?;
    let redis = start_redis(&agent, &ns, &server)?;
    Daemon::start(
        program_in(&ns, &benchmark).args(["-q", "-n", "20000"]),
        &agent.folder.path.join("redis-benchmark.log"),
    )?
    .finish()?;
    // Fifty for each of its tests.
    assert_accepted(&ns, 500)?;
    assert_nothing_told(&agent, &ns)?;
    drop(redis);
    Ok(())
}
