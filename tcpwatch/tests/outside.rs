//! Nothing from outside ends or stalls the real binary: clients that leave early, readers of the
//! log that stop reading, files that never answer.

mod support;

use std::{
    ffi::CString,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use support::{Agent, Folder, free_address, http_get, poll, tcpwatch, value_in, within};

const FAILED: &str = "tcpwatch_config_last_reload_successful";
const ACCEPTED_AT: &str = "tcpwatch_config_last_reload_success_timestamp_seconds";

#[test]
fn clients_that_close_before_their_answers_leave_it_serving() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let mut agent = Agent::start_quick()?;
    let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20);
    for _ in 0..50 {
        let mut stream = TcpStream::connect(agent.address)?;
        stream.write_all(requests.as_bytes())?;
        drop(stream);
        ensure!(http_get(agent.address, "/-/ready")?.status == 200, "not ready");
    }
    agent.signal(libc::SIGTERM)?;
    assert_eq!(agent.wait()?, Some(0), "{}", agent.log()?);
    Ok(())
}

#[test]
fn one_shot_commands_end_in_silence_when_their_reader_has_gone() -> Result<()> {
    for arguments in [&["config", "default"][..], &["doctor"], &["doctor", "--json"], &["--help"]] {
        let (reader, writer) = rustix::pipe::pipe()?;
        drop(reader);
        let output = tcpwatch().args(arguments).stdout(writer).stderr(Stdio::piped()).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, "", "{arguments:?}");
        let is_quiet =
            matches!(output.status.code(), Some(0)) || output.status.signal() == Some(13);
        assert!(is_quiet, "{arguments:?}: {}", output.status);
    }
    Ok(())
}

/// An agent whose stderr is a full pipe, with the end that is not read.
struct Unread {
    child: Child,
    address: SocketAddr,
    reader: File,
    _folder: Folder,
    config: std::path::PathBuf,
}

impl Unread {
    fn start(level: &str) -> Result<Self> {
        let folder = Folder::new()?;
        let address = free_address()?;
        let text = format!(
            "[web]\nsocket = \"\"\nlisten_addresses = [\"{address}\"]\n[log]\nlevel = \"{level}\"\n\
             [inventory]\ninterval = \"500ms\"\nnamespaces = \"host\"\n"
        );
        let config = folder.write("tcpwatch.toml", &text)?;
        let (reader, writer) = rustix::pipe::pipe()?;
        // The smallest pipe there is, and it is full before the agent starts.
        let size = rustix::pipe::fcntl_setpipe_size(&writer, 4_096)?;
        let mut filler = File::from(writer);
        filler.write_all(&vec![b'\n'; size])?;
        let child = tcpwatch()
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::from(OwnedFd::from(filler)))
            .spawn()?;
        let unread = Self { child, address, reader: File::from(reader), _folder: folder, config };
        poll("the agent to be ready", || {
            Ok(http_get(address, "/-/ready").ok().filter(|answer| answer.status == 200))
        })?;
        Ok(unread)
    }

    fn signal(&self, signal: libc::c_int) -> Result<()> {
        // SAFETY: takes no pointer; the child is ours and not reaped yet.
        let sent = unsafe { libc::kill(libc::pid_t::try_from(self.child.id())?, signal) };
        ensure!(sent == 0, "no signal sent");
        Ok(())
    }

    fn lost(&self) -> Result<f64> {
        let metrics = http_get(self.address, "/metrics")?.body;
        let lost = value_in(&metrics, "tcpwatch_events_lost_total{stage=\"log\"}");
        lost.context("lost log lines are not counted")
    }

    /// Makes it log more than its queue holds.
    fn fill(&self) -> Result<()> {
        poll("log lines to be lost", || {
            for _ in 0..200 {
                // Each refusal is a line.
                self.signal(libc::SIGHUP)?;
                thread::sleep(Duration::from_millis(1));
            }
            Ok((self.lost()? > 10.0).then_some(()))
        })
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn log_without_a_reader_stalls_neither_loop_nor_http_nor_end() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let mut agent = Unread::start("info")?;
    fs::write(&agent.config, "nonsense = 1\n")?;
    agent.fill()?;
    let inventory = || -> Result<Option<f64>> {
        let metrics = http_get(agent.address, "/metrics")?.body;
        Ok(value_in(&metrics, "tcpwatch_inventory_timestamp_seconds"))
    };
    let before = inventory()?;
    poll("another inventory", || Ok((inventory()? > before).then_some(())))?;

    let signalled = Instant::now();
    agent.signal(libc::SIGTERM)?;
    let status = poll("the agent to end", || Ok(agent.child.try_wait()?))?;
    assert_eq!(status.code(), Some(0));
    assert!(signalled.elapsed() < within(Duration::from_secs(3)), "{:?}", signalled.elapsed());
    Ok(())
}

#[test]
fn lost_log_lines_are_logged_once_the_reader_reads_again() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Unread::start("info")?;
    fs::write(&agent.config, "nonsense = 1\n")?;
    agent.fill()?;
    let lost = agent.lost()?;
    let reader = agent.reader.try_clone()?;
    let (sender, lines) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            if line.contains("log lines lost") && sender.send(line).is_err() {
                break;
            }
        }
    });
    let line = lines.recv_timeout(within(Duration::from_secs(20)))?;
    let number = line.rsplit_once("lines=").context("no number")?.1.trim();
    assert!(number.parse::<f64>()? >= lost, "{line}, and {lost} before");
    Ok(())
}

fn fifo(folder: &Folder, name: &str) -> Result<std::path::PathBuf> {
    let path = folder.path.join(name);
    ensure!(Command::new("mkfifo").arg(&path).status()?.success(), "no FIFO");
    Ok(path)
}

/// Runs to its end within five seconds, or is killed: a stall must fail the test.
fn run_in_time(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut child = tcpwatch()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let end = Instant::now() + within(Duration::from_secs(5));
    let status = loop {
        match child.try_wait()? {
            None if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            status => break status,
        }
    };
    if status.is_none() {
        child.kill()?;
    }
    child.wait()?;
    let mut said = String::new();
    child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
    ensure!(status.is_some(), "{arguments:?} does not end");
    Ok((status.and_then(|status| status.code()), said))
}

#[test]
fn only_regular_files_are_read_as_configuration_or_recording() -> Result<()> {
    let folder = Folder::new()?;
    let pipe = fifo(&folder, "pipe\u{1b}[41m\n")?;
    let pipe = pipe.to_str().context("a path in UTF-8")?;
    for path in [pipe, "/dev/zero", "/dev/tty", "/"] {
        for arguments in [
            &["config", "check", path][..],
            &["run", "--config", path],
            &["check", "--config", path],
            &["check", "--replay", path],
        ] {
            let (code, said) = run_in_time(arguments)?;
            let expected = if arguments[0] == "check" { 3 } else { 78 };
            assert_eq!(code, Some(expected), "{said}");
            assert!(said.contains("found a "), "{said}");
            assert!(said.trim_end().chars().all(|c| !c.is_control()), "{said:?}");
        }
    }
    let large = folder.path.join("large.toml");
    File::create(&large)?.set_len(1 << 40)?;
    let large = large.to_str().context("a path in UTF-8")?;
    let (code, said) = run_in_time(&["config", "check", large])?;
    assert!(code == Some(78) && said.contains("at most 1048576 bytes"), "{said}");
    let (code, said) = run_in_time(&["check", "--replay", large])?;
    assert!(code == Some(3) && said.contains(":1: not a recording"), "{said}");
    Ok(())
}

#[test]
fn line_of_a_recording_is_bounded() -> Result<()> {
    let folder = Folder::new()?;
    let recording = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/incidents/self-connection.jsonl"),
    )?;
    let header = recording.lines().next().context("an empty recording")?;
    let path = folder.write("long.jsonl", &format!("{header}\n"))?;
    // A terabyte of zeros without a line feed, of which the disk has none.
    fs::OpenOptions::new().write(true).open(&path)?.set_len(1 << 40)?;
    let path = path.to_str().context("a path in UTF-8")?;
    let (code, said) = run_in_time(&["check", "--replay", path])?;
    assert!(code == Some(3) && said.contains(":2: longer than "), "{said}");
    Ok(())
}

#[test]
fn reload_of_what_is_no_file_is_refused_and_the_agent_serves_on() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let began = agent.value(ACCEPTED_AT)?.context("no time of the first configuration")?;
    let config = agent.folder.path.join("tcpwatch.toml");
    let good = fs::read(&config)?;
    fs::remove_file(&config)?;
    fifo(&agent.folder, "tcpwatch.toml")?;
    agent.signal(libc::SIGHUP)?;
    poll("the refusal", || Ok((agent.value(FAILED)? == Some(0.0)).then_some(())))?;
    assert!(agent.log()?.contains("expected a TOML file, found a FIFO"), "{}", agent.log()?);
    assert_eq!(agent.value(ACCEPTED_AT)?, Some(began));
    agent.wait_for_inventory()?;

    // With a byte order mark, as editors of another system write it.
    fs::remove_file(&config)?;
    fs::write(&config, [b"\xef\xbb\xbf", &good[..]].concat())?;
    agent.signal(libc::SIGHUP)?;
    poll("the reload", || Ok((agent.value(FAILED)? == Some(1.0)).then_some(())))?;
    assert!(agent.value(ACCEPTED_AT)? > Some(began));
    Ok(())
}

/// A filesystem whose server never answers, mounted at a folder: every look at a file in it hangs.
struct Hung {
    folder: Folder,
    /// Closing it ends what hangs.
    _server: File,
}

impl Hung {
    /// `None` where there is no FUSE.
    fn mount() -> Result<Option<Self>> {
        let Ok(server) = File::options().read(true).write(true).open("/dev/fuse") else {
            return Ok(None);
        };
        let folder = Folder::new()?;
        let target = CString::new(folder.path.as_os_str().as_bytes())?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&server);
        let options =
            CString::new(format!("fd={number},rootmode=40000,user_id=0,group_id=0,allow_other"))?;
        // SAFETY: all strings end in NUL and live until the call returns.
        let mounted = unsafe {
            libc::mount(
                c"hung".as_ptr(),
                target.as_ptr(),
                c"fuse".as_ptr(),
                libc::MS_NOSUID | libc::MS_NODEV,
                options.as_ptr().cast(),
            )
        };
        ensure!(mounted == 0, "cannot mount: {}", std::io::Error::last_os_error());
        Ok(Some(Self { folder, _server: server }))
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        if let Ok(target) = CString::new(self.folder.path.as_os_str().as_bytes()) {
            // SAFETY: the string ends in NUL and lives until the call returns.
            unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

#[test]
fn configuration_on_a_filesystem_that_hangs_is_refused_in_time() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let Some(hung) = Hung::mount()? else {
        return support::skip("needs FUSE: modprobe fuse");
    };
    let file = hung.folder.path.join("tcpwatch.toml");
    let began = Instant::now();
    let output = tcpwatch().args(["config", "check"]).arg(&file).output()?;
    assert!(began.elapsed() < within(Duration::from_secs(8)), "{:?}", began.elapsed());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(78) && said.contains("no answer within 5 s"), "{said}");

    // The configuration becomes a link to the file that hangs.
    let agent = Agent::start_quick()?;
    let config = agent.folder.path.join("tcpwatch.toml");
    fs::remove_file(&config)?;
    std::os::unix::fs::symlink(&file, &config)?;
    // More than may hang at a time.
    for _ in 0..4 {
        agent.signal(libc::SIGHUP)?;
        agent.wait_for_inventory()?;
    }
    poll("the refusal", || Ok((agent.value(FAILED)? == Some(0.0)).then_some(())))?;
    let log = agent.log()?;
    assert!(log.contains("configuration not reloaded"), "{log}");
    Ok(())
}

/// A scrape as Prometheus makes it: a connection of its own, and all of the answer.
fn scrape(address: SocketAddr) -> Result<Duration> {
    let began = Instant::now();
    let answer = http_get(address, "/metrics")?;
    ensure!(answer.status == 200 && answer.body.contains("tcpwatch_build_info"), "no metrics");
    Ok(began.elapsed())
}

/// Scrapes for some seconds while `hold` keeps its connections.
fn assert_scrapes_succeed(agent: &Agent, what: &str) -> Result<()> {
    for _ in 0..20 {
        let took = scrape(agent.address).with_context(|| format!("scraping beside {what}"))?;
        assert!(took < within(Duration::from_secs(2)), "{what}: {took:?}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A client whose receive buffer is the smallest, so that an answer does not fit in.
fn small_client(address: SocketAddr) -> Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_recv_buffer_size(1)?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

#[test]
fn scrapes_succeed_beside_silent_slow_deaf_and_half_closed_clients() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let address = agent.address;
    let connect = || Ok(TcpStream::connect(address)?);
    let clients = |send: &str, connect: &dyn Fn() -> Result<TcpStream>| -> Result<Vec<TcpStream>> {
        (0..100)
            .map(|_| {
                let mut stream = connect()?;
                // The agent may have closed it already: each new one needs a place.
                let _ = stream.write_all(send.as_bytes());
                Ok(stream)
            })
            .collect()
    };

    let silent = clients("", &connect)?;
    assert_scrapes_succeed(&agent, "silent clients")?;
    drop(silent);

    let slow = clients("GET /metrics HTTP/1.1\r\nX: ", &connect)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                slow.iter().for_each(|mut stream| drop(stream.write(b"x")));
                thread::sleep(Duration::from_secs(1));
            }
        });
        let outcome = assert_scrapes_succeed(&agent, "clients that send a byte a second");
        stop.store(true, Ordering::Relaxed);
        outcome
    })?;

    let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(40);
    let deaf = clients(&requests, &|| small_client(address))?;
    assert_scrapes_succeed(&agent, "clients that do not read")?;
    drop(deaf);

    let half = clients("GET /metrics HTTP/1.1\r\n", &connect)?;
    half.iter().for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Write)));
    assert_scrapes_succeed(&agent, "half-closed clients")?;

    // A client that connects again and again takes the places of its like.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = clients("GET /metrics HTTP/1.1\r\n", &connect);
            }
        });
        let outcome = assert_scrapes_succeed(&agent, "clients that connect again and again");
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Sends a whole head and gives the status.
fn status_of(address: SocketAddr, head: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(within(Duration::from_secs(10))))?;
    stream.write_all(head.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("{head:?} leads to {text:?}"))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// The status of a path, with the `Host` of a browser.
fn with_host(address: SocketAddr, path: &str, host: &str) -> Result<u16> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    Ok(status_of(address, &head)?.0)
}

#[test]
fn loopback_listener_answers_for_loopback_and_what_is_allowed() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let config = "[inventory]\ninterval = \"1s\"\n";
    let web = "allowed_hosts = [\"Allowed.Example.\"]\n\
               external_url = \"https://proxy.example/tcpwatch/\"\n";
    let agent = Agent::start_with_web(config, web)?;
    let address = agent.address;
    let port = address.port();
    for path in ["/", "/metrics", "/-/ready", "/-/healthy", "/api/v1/findings", "/nothing"] {
        let found = if path == "/nothing" { 404 } else { 200 };
        for host in [
            "localhost",
            "LocalHost.",
            &format!("localhost:{port}"),
            "127.0.0.1",
            &format!("127.0.0.1:{port}"),
            "127.9.9.9:80",
            "[::1]",
            &format!("[::1]:{port}"),
            "[::ffff:127.0.0.1]",
            "tcpwatch.localhost",
            "allowed.example:8443",
            "ALLOWED.EXAMPLE.",
            "proxy.example",
        ] {
            assert_eq!(with_host(address, path, host)?, found, "{path} of {host}");
        }
        for host in [
            "evil.example",
            &format!("evil.example:{port}"),
            "192.0.2.1",
            "[2001:db8::1]:80",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "0.0.0.0",
        ] {
            assert_eq!(with_host(address, path, host)?, 421, "{path} of {host}");
        }
        for host in ["", "a b", "a/b", "::1", "a:b", "[::1", "evil.example@localhost", "\u{fc}"] {
            assert_eq!(with_host(address, path, host)?, 400, "{path} of {host:?}");
        }
    }
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n", 421),
        ("GET / HTTP/1.0\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        ("GET http://evil.example/ HTTP/1.0\r\nHost: localhost\r\n\r\n", 421),
        ("GET http://localhost/ HTTP/1.0\r\nHost: evil.example\r\n\r\n", 421),
        ("GET http://localhost/ HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
    ] {
        let (status, body) = status_of(address, head)?;
        assert_eq!(status, expected, "{head}");
        if expected != 200 {
            assert_eq!(body.lines().count(), 1, "{body}");
            assert!(!body.contains("evil"), "{body}");
        }
    }
    Ok(())
}

#[test]
fn open_listener_answers_scrapers_under_every_name_and_people_under_known_ones() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_open("[inventory]\ninterval = \"1s\"\n")?;
    let address = agent.address;
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for path in ["/metrics", "/-/ready", "/-/healthy"] {
        for host in ["evil.example", "node-7", "192.0.2.1", "localhost", &machine] {
            assert_eq!(with_host(address, path, host)?, 200, "{path} of {host}");
        }
    }
    for path in ["/", "/api/v1/findings"] {
        for host in ["192.0.2.1:10743", "[2001:db8::1]:10743", "127.0.0.1", "localhost", &machine] {
            assert_eq!(with_host(address, path, host)?, 200, "{path} of {host}");
        }
        for host in ["evil.example", "node-7", &format!("{machine}.evil.example")] {
            assert_eq!(with_host(address, path, host)?, 421, "{path} of {host}");
        }
    }
    for path in ["/-/../", "/metrics/", "//metrics", "/-"] {
        assert_eq!(with_host(address, path, "evil.example")? / 100, 4, "{path}");
    }
    Ok(())
}

#[test]
fn failure_to_start_is_said_with_a_deadline() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let (reader, writer) = rustix::pipe::pipe()?;
    let size = rustix::pipe::fcntl_setpipe_size(&writer, 4_096)?;
    let mut filler = File::from(writer);
    filler.write_all(&vec![b'\n'; size])?;
    let mut child = tcpwatch()
        .args(["run", "--web.listen-address", &taken.local_addr()?.to_string()])
        .stderr(Stdio::from(OwnedFd::from(filler)))
        .spawn()?;
    let began = Instant::now();
    let status = poll("the end", || Ok(child.try_wait()?))?;
    assert_eq!(status.code(), Some(1));
    assert!(began.elapsed() < within(Duration::from_secs(3)), "{:?}", began.elapsed());
    drop(reader);
    Ok(())
}
