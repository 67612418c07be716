//! Storms of names: network namespaces, processes, peers and listeners that come by the thousand and
//! go. The agent's memory, the number of its series and the time of a scrape stay in their class. And
//! the memory that its start takes.
//!
//! A fifth of the numbers by default. `TCPWATCH_STORMS=full` takes all of them, and waits until memory is
//! given back, for up to three minutes: 2,000 namespaces, 100,000 processes that have a peer each, 18,000
//! listeners (some hosts give a process no more than 20,000 descriptors).

mod support;

use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use support::{Agent, free_address, http_get, raise_descriptor_limit};

/// The agent's own memory may be so much larger than before while a storm lasts. With all of the numbers
/// it was 17 MiB larger on a 2-CPU machine.
const GROWTH_KIB: u64 = 24 * 1024;
/// And so much once the storm is forgotten, after some two minutes: the tables of the kernel side hold its
/// last 10,240 names still, and so does the agent.
const KEPT_KIB: u64 = 8 * 1024;
/// By then; a row of resets is forgotten 120 inventories after its last one.
const FORGOTTEN: Duration = Duration::from_secs(180);
/// Lines of /metrics at most; the most that was seen is 346.
const SERIES: usize = 4_000;
/// The median of a scrape at most; it is some 8 ms with the build of the tests.
const SCRAPE: Duration = Duration::from_secs(2);

fn is_full() -> bool {
    env::var("TCPWATCH_STORMS").is_ok_and(|it| it == "full")
}

fn part(whole: u32) -> u32 {
    if is_full() { whole } else { whole / 5 }
}

#[test]
fn storms_of_names_leave_the_agent_as_it_was() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    raise_descriptor_limit()?;
    let agent = Agent::start("[inventory]\ninterval = \"200ms\"\n")?;
    agent.watch_for(Duration::from_secs(3))?;
    start_does_not_hold_the_kernels_types_whole(&agent)?;
    let before = own_memory_kib(&agent)?;
    println!("before: {before} KiB, {} lines", series(&agent)?);

    let namespaces = part(2_000);
    for turn in 0..4 {
        let inside = (0..namespaces / 4).map(|_| listener_in_a_new_namespace());
        let inside = inside.collect::<Result<Vec<_>>>()?;
        agent.wait_for_inventory()?;
        let document = http_get(agent.address, "/api/v1/findings")?.body;
        let document: serde_json::Value = serde_json::from_str(&document)?;
        let seen = document["network_namespaces"].as_u64().context("no number of namespaces")?;
        ensure!(seen >= u64::from(namespaces / 4), "{seen} namespaces in turn {turn}");
        judge(&agent, before, "namespaces")?;
        drop(inside);
    }

    let started = Instant::now();
    processes_with_a_peer_each(part(100_000))?;
    println!("processes within {:.0?}", started.elapsed());
    agent.wait_for_inventory()?;
    judge(&agent, before, "processes and peers")?;

    let listeners = many_listeners(part(18_000))?;
    agent.wait_for_inventory()?;
    let listening = agent.sum("tcpwatch_sockets", &["state=\"listen\""])?;
    ensure!(listening >= listeners.len() as f64, "{listening} listeners");
    judge(&agent, before, "listeners")?;
    drop(listeners);

    if is_full() {
        let started = Instant::now();
        while own_memory_kib(&agent)? > before + KEPT_KIB && started.elapsed() < FORGOTTEN {
            thread::sleep(Duration::from_secs(1));
        }
        let kept = own_memory_kib(&agent)?;
        println!("after {:.0?}: {kept} KiB, {} lines", started.elapsed(), series(&agent)?);
        ensure!(kept <= before + KEPT_KIB, "{before} KiB before, {kept} KiB after {FORGOTTEN:?}");
    }
    Ok(())
}

/// With all of the kernel's types as objects the peak was 15 MiB above what stays.
fn start_does_not_hold_the_kernels_types_whole(agent: &Agent) -> Result<()> {
    const START_KIB: u64 = 10 * 1024;
    let now = memory_kib(agent, "RssFile")? + memory_kib(agent, "RssAnon")?;
    let peak = memory_kib(agent, "VmHWM")?;
    println!("{peak} KiB at the start, {now} now");
    ensure!(peak <= now + START_KIB, "{peak} KiB at the start, {now} KiB after it");
    Ok(())
}

fn judge(agent: &Agent, before: u64, storm: &str) -> Result<()> {
    let mut scrapes = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        agent.metrics_of_now()?;
        scrapes.push(started.elapsed().saturating_sub(Duration::from_millis(250)));
    }
    scrapes.sort_unstable();
    let (memory, series, scrape) = (own_memory_kib(agent)?, series(agent)?, scrapes[2]);
    println!("{storm}: {memory} KiB, {series} lines, {scrape:.0?} a scrape");
    ensure!(memory <= before + GROWTH_KIB, "{storm}: {before} KiB before, {memory} KiB now");
    ensure!(series <= SERIES, "{storm}: {series} lines");
    ensure!(scrape <= SCRAPE, "{storm}: {scrape:?} a scrape");
    Ok(())
}

fn own_memory_kib(agent: &Agent) -> Result<u64> {
    memory_kib(agent, "RssAnon")
}

/// A line of /proc/PID/status.
fn memory_kib(agent: &Agent, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.and_then(|value| value.split_whitespace().next());
    Ok(value.with_context(|| format!("no {name}"))?.parse()?)
}

fn series(agent: &Agent) -> Result<usize> {
    Ok(agent.metrics_of_now()?.lines().filter(|line| !line.starts_with('#')).count())
}

/// The namespace lives as long as its socket.
fn listener_in_a_new_namespace() -> Result<TcpListener> {
    let inside = || -> io::Result<TcpListener> {
        // SAFETY: this thread has just begun and shares no descriptors or memory by what it leaves:
        // only its network namespace changes.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80))
    };
    let outcome = thread::spawn(inside).join();
    outcome.map_err(|_| anyhow::anyhow!("a thread has panicked"))?.context("a new namespace")
}

/// Each process connects from an address of its own under a name of its own, and ends with a reset.
fn processes_with_a_peer_each(count: u32) -> Result<()> {
    let address = free_address()?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, address.port());
    for number in 0..count {
        let from = Ipv4Addr::from(0x7f10_0000 + number);
        let name = format!("client-{number:06}\0");
        // SAFETY: the child makes system calls only, allocates nothing and ends by _exit.
        let child = match unsafe { libc::fork() } {
            0 => connect_and_end(name.as_bytes(), from, to),
            child => child,
        };
        ensure!(child > 0, "fork: {}", io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: the pointer is to a live value, and the child is ours.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        ensure!(waited == child && status == 0, "process {number} failed: {status:#x}");
        while let Ok((stream, _)) = listener.accept() {
            drop(stream);
        }
    }
    Ok(())
}

fn connect_and_end(name: &[u8], from: Ipv4Addr, to: SocketAddrV4) -> ! {
    let address = |address: Ipv4Addr, port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    let size = size_of::<libc::sockaddr_in>() as u32;
    let abort = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: pointers are to live values of the sizes that are given; `name` ends with a zero byte.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let (from, to) = (address(from, 0), address(*to.ip(), to.port()));
        let bound = libc::bind(socket, (&raw const from).cast(), size);
        let connected = libc::connect(socket, (&raw const to).cast(), size);
        let abort_size = size_of::<libc::linger>() as u32;
        let abort = (&raw const abort).cast();
        libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_LINGER, abort, abort_size);
        libc::close(socket);
        libc::_exit(i32::from(bound != 0 || connected != 0))
    }
}

/// Each at an address or a port of its own.
fn many_listeners(count: u32) -> Result<Vec<TcpListener>> {
    const PORTS: u32 = 1_000;
    let listen = |number: u32| {
        let address = Ipv4Addr::from(0x7f20_0001 + number / PORTS);
        let port = u16::try_from(10_000 + number % PORTS)?;
        let listener = TcpListener::bind(SocketAddr::from((address, port)));
        listener.with_context(|| format!("listening on {address}:{port}"))
    };
    (0..count).map(listen).collect()
}
