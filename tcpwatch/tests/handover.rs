//! The kernel side outlives its agent. This test is the service manager: it keeps the descriptors that
//! the agent gives it, as sd_notify(3) and sd_listen_fds(3) have it, and passes them to the next one.

mod support;

use std::{
    collections::BTreeSet,
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{
            net::{UnixDatagram, UnixStream},
            process::CommandExt,
        },
    },
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use scenes::{CloseWaitLeak, Namespace};
use serde_json::Value;
use support::{DEADLINE, Daemon, Folder, poll};

/// Only the namespace that the agent lives in, and no client of its address: every connection is the
/// test's own.
const CONFIG: &str = "[inventory]\ninterval = \"1s\"\nnamespaces = \"host\"\n\
                      [detect.close_wait_pileup]\nwarning = 10\nmin_age = \"1s\"\n";

/// Keeps descriptors by name.
struct Manager {
    folder: Folder,
    socket: UnixDatagram,
    store: Vec<(String, OwnedFd)>,
    starts: u32,
}

/// A running agent.
struct Served {
    daemon: Daemon,
    api: PathBuf,
}

impl Manager {
    fn new() -> Result<Self> {
        let folder = Folder::new()?;
        let socket = UnixDatagram::bind(folder.path.join("notify"))?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { folder, socket, store: Vec::new(), starts: 0 })
    }

    /// Starts an agent in the namespace with the descriptors that are stored, and waits until it is
    /// ready.
    fn start(&mut self, ns: &Namespace, more: &str) -> Result<Served> {
        self.starts += 1;
        let api = self.folder.path.join(format!("api-{}", self.starts));
        let web = format!(
            "[web]\nsocket = \"{}\"\nlisten_addresses = [\"127.0.0.1:10743\"]\n",
            api.display()
        );
        let config = self.folder.write("tcpwatch.toml", &format!("{CONFIG}{more}{web}"))?;
        let names: Vec<&str> = self.store.iter().map(|(name, _)| name.as_str()).collect();
        let from: Vec<RawFd> = self.store.iter().map(|(_, it)| it.as_raw_fd()).collect();
        // The pid is known only to the process itself.
        let script = "NOTIFY_SOCKET=$0 LISTEN_PID=$$ exec \"$@\"";
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", ns.name(), "sh", "-c", script])
            .arg(self.folder.path.join("notify"))
            .arg(env!("CARGO_BIN_EXE_tcpwatch"))
            .args(["run", "--config"])
            .arg(config);
        if !from.is_empty() {
            command
                .env("LISTEN_FDS", from.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
        }
        let mut moved = from.clone();
        // SAFETY: the closure runs between fork and exec and makes system calls that are
        // async-signal-safe; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                // First out of the way of those that come before.
                for descriptor in &mut moved {
                    *descriptor = checked(libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, 300))?;
                }
                for (place, descriptor) in (3..).zip(&moved) {
                    checked(libc::dup2(*descriptor, place))?;
                }
                Ok(())
            });
        }
        let log = self.folder.path.join(format!("log-{}", self.starts));
        let mut served = Served { daemon: Daemon::start(&mut command, &log)?, api };
        loop {
            let message = self.take()?;
            if message.contains("READY=1") {
                return Ok(served);
            }
            served.daemon.must_run()?;
        }
    }

    /// Does what the next message says, and returns it.
    fn take(&mut self) -> Result<String> {
        let mut bytes = [0; 4_096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let text = String::from_utf8_lossy(&bytes[..received.bytes]).into_owned();
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let name = value("FDNAME=").unwrap_or("stored").to_owned();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                ensure!(value("FDSTORE=").is_some(), "a descriptor without a request: {text}");
                // systemd polls it otherwise, gets EPOLLERR from a map, and closes it.
                ensure!(value("FDPOLL=") == Some("0"), "a map would be closed: {text}");
                self.store.extend(descriptors.map(|it| (name.clone(), it)));
            }
        }
        if value("FDSTOREREMOVE=").is_some() {
            self.store.retain(|(stored, _)| *stored != name);
        }
        Ok(text)
    }
}

fn checked(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

impl Served {
    fn get(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.api)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
        ensure!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(body.to_owned())
    }

    fn value(&self, series: &str) -> Result<Option<f64>> {
        Ok(support::value_in(&self.get("/metrics")?, series))
    }

    /// Connections that clients of the namespace have made, as the hook counts them.
    fn connected(&self) -> Result<u64> {
        let series = "tcpwatch_state_transitions_total{from=\"syn_sent\",to=\"established\"}";
        Ok(self.value(series)?.context("no transitions")? as u64)
    }

    /// Ages of the sockets in CLOSE_WAIT in seconds, oldest first, and whether all are exact.
    fn ages(&self) -> Result<(Vec<f64>, bool)> {
        let body = self.get("/api/v1/sockets?state=CLOSE_WAIT&limit=1000")?;
        let document: Value = serde_json::from_str(&body)?;
        let sockets = document["sockets"].as_array().context("no sockets")?;
        let ages = sockets.iter().filter_map(|it| it["age_seconds"].as_f64()).collect();
        Ok((ages, sockets.iter().all(|it| it["age_is_exact"] == true)))
    }

    /// Runs of the hook of transitions, as it counts them.
    fn runs(&self) -> Result<u64> {
        let series = "tcpwatch_hook_runs_total{hook=\"set_state\"}";
        Ok(self.value(series)?.context("no runs")? as u64)
    }

    fn handover(&self, outcome: &str) -> Result<Option<f64>> {
        self.value(&format!("tcpwatch_handover_total{{outcome=\"{outcome}\"}}"))
    }
}

/// Ids of all programs of this name.
fn programs_named(name: &str) -> BTreeSet<u32> {
    let loaded = aya::programs::loaded_programs().flatten();
    loaded.filter(|it| it.name_as_str() == Some(name)).map(|it| it.id()).collect()
}

#[test]
fn a_killed_agent_misses_no_transition_and_no_age() -> Result<()> {
    const LEAKED: usize = 500;
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("handover")?;
    let mut manager = Manager::new()?;
    let first = manager.start(&ns, "")?;
    assert_eq!(first.handover("fresh")?, Some(1.0));
    assert_eq!(first.value("tcpwatch_blind_seconds_total")?, None, "nothing is known of before");
    ensure!(manager.store.iter().any(|(name, _)| name == "link set_state"), "{:?}", manager.store);
    let _leak = CloseWaitLeak::client(&ns, LEAKED, 7_500, false)?;
    poll("the leak", || Ok((first.ages()?.0.len() == LEAKED).then_some(())))?;
    let (ages, exact) = first.ages()?;
    let looked = Instant::now();
    assert!(exact);
    let (before, runs) = (first.connected()?, first.runs()?);

    let (made, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let second = thread::scope(|scope| {
        let storm = scope.spawn(|| ns.enter(|| connect_until(&is_over, &made)));
        let work = || -> Result<Served> {
            poll("the storm", || Ok((made.load(Ordering::Relaxed) > 1_000).then_some(())))?;
            // SIGKILL: no code of its own runs.
            drop(first);
            let killed_at = made.load(Ordering::Relaxed);
            let is_later = || made.load(Ordering::Relaxed) > killed_at + 1_000;
            poll("the storm", || Ok(is_later().then_some(())))?;
            let second = manager.start(&ns, "")?;
            thread::sleep(Duration::from_millis(200));
            Ok(second)
        };
        let second = work();
        is_over.store(true, Ordering::Relaxed);
        storm.join().expect("it does not panic")?.context("the storm")?;
        second
    })?;
    let made = made.load(Ordering::Relaxed);
    assert_eq!(second.handover("adopted")?, Some(1.0));
    assert_eq!(second.value("tcpwatch_blind_seconds_total")?, Some(0.0));
    let counted = second.connected()? - before;
    println!("{made} connections made, {counted} counted");
    assert_eq!(counted, made);
    // Each connection has eight transitions and more, those of the listener's side with them.
    let runs = second.runs()? - runs;
    assert!(runs >= 8 * made, "{runs} runs for {made} connections");

    poll("an inventory", || Ok((second.ages()?.0.len() == LEAKED).then_some(())))?;
    let (ages_now, exact) = second.ages()?;
    let passed = looked.elapsed().as_secs_f64();
    assert!(exact, "ages were noted before the kill");
    for (then, now) in ages.iter().zip(&ages_now) {
        assert!((now - then - passed).abs() < 1.0, "{then} s, and {now} s after {passed} s");
    }
    Ok(())
}

/// Connects and closes, until it is over.
fn connect_until(is_over: &AtomicBool, made: &AtomicU64) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7_501))?;
    let mut hosts = (1..=200_u8).cycle();
    while !is_over.load(Ordering::Relaxed) {
        // Other destinations, so that no port is waited for.
        let host = hosts.next().unwrap_or(1);
        let client = TcpStream::connect((Ipv4Addr::new(127, 0, 1, host), 7_501))?;
        made.fetch_add(1, Ordering::Relaxed);
        drop(listener.accept()?);
        drop(client);
    }
    Ok(())
}

#[test]
fn another_kernel_side_takes_over_before_the_old_one_ends() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("other")?;
    let mut manager = Manager::new()?;
    let first = manager.start(&ns, "")?;
    let _leak = CloseWaitLeak::client(&ns, 20, 7_502, false)?;
    poll("the leak", || Ok((first.ages()?.0.len() == 20).then_some(())))?;
    assert!(first.ages()?.1);
    let old = programs_of(&manager)?;
    drop(first);
    ensure!(programs_named("set_state").is_superset(&old), "{old:?} ended with the agent");

    // A ring of another size: nothing of the old one fits.
    let second = manager.start(&ns, "[limits]\nring_buffer_bytes = 131072\n")?;
    assert_eq!(second.handover("handed_over")?, Some(1.0));
    assert_eq!(second.value("tcpwatch_blind_seconds_total")?, Some(0.0));
    let new = programs_of(&manager)?;
    assert!(new.is_disjoint(&old), "{new:?} {old:?}");
    poll("the end of the old one", || {
        Ok(programs_named("set_state").is_disjoint(&old).then_some(()))
    })?;
    poll("an inventory", || Ok((second.ages()?.0.len() == 20).then_some(())))?;
    assert!(!second.ages()?.1, "ages from before are lower bounds");

    // As systemctl stop: the store is emptied, and nothing stays attached.
    drop(second);
    manager.store.clear();
    poll("the end of the hooks", || Ok(programs_named("set_state").is_disjoint(&new).then_some(())))
}

/// Ids of the stored `set_state`.
fn programs_of(manager: &Manager) -> Result<BTreeSet<u32>> {
    let stored = manager.store.iter().filter(|(name, _)| name == "program set_state");
    let id_of = |(_, program): &(String, OwnedFd)| -> Result<u32> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
        Ok(id.context("no program")?.trim().parse()?)
    };
    let ids: BTreeSet<u32> = stored.map(id_of).collect::<Result<_>>()?;
    ensure!(ids.len() == 1, "{ids:?}");
    Ok(ids)
}

#[test]
fn descriptors_that_are_not_ours_are_closed_and_an_agent_starts_all_the_same() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("foreign")?;
    let mut manager = Manager::new()?;
    for name in ["card", "map WALK", "program set_state", "link set_state", "stored"] {
        let foreign = std::fs::File::open("/dev/null")?;
        manager.store.push((name.to_owned(), foreign.into()));
    }
    let agent = manager.start(&ns, "")?;
    assert_eq!(agent.handover("fresh")?, Some(1.0), "none of them was a hook");
    assert_eq!(agent.value("tcpwatch_blind_seconds_total")?, None);
    assert!(programs_of(&manager)?.len() == 1, "its own is stored instead");
    Ok(())
}

#[test]
fn a_kernel_side_whose_hook_is_not_attached_is_not_adopted() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("detached")?;
    let mut manager = Manager::new()?;
    drop(manager.start(&ns, "")?);
    let find = |name: &str| manager.store.iter().position(|(stored, _)| stored == name);
    let link = find("link set_state").context("no link")?;
    let program = find("program set_state").context("no program")?;
    // All fits but this one, which is no link.
    manager.store[link].1 = manager.store[program].1.try_clone()?;
    let agent = manager.start(&ns, "")?;
    assert_eq!(agent.handover("fresh")?, Some(1.0), "nothing was attached");
    let refused = ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 7_503)))?;
    assert!(refused.is_err(), "no process listens there");
    poll("its own hook", || Ok((agent.runs()? > 0).then_some(())))
}
