//! The API on a UNIX socket, and `check` that shows what the running agent sees.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace};
use serde_json::Value;
use support::{Agent, Folder, poll, tcpwatch};

const QUICK: &str = "[inventory]\ninterval = \"1s\"\n[detect.close_wait_pileup]\nwarning = 10\n\
                     min_age = \"2s\"\n";

/// An agent with a socket at `path`.
fn agent_at(path: &Path) -> Result<Agent> {
    Agent::start_with_web(QUICK, &format!("socket = \"{}\"\n", path.display()))
}

/// A configuration under which `check` finds the socket.
fn configuration(folder: &Folder, path: &Path) -> Result<PathBuf> {
    folder.write("check.toml", &format!("{QUICK}[web]\nsocket = \"{}\"\n", path.display()))
}

fn check(configuration: &Path, more: &[&str]) -> Result<Output> {
    Ok(tcpwatch().arg("check").arg("--config").arg(configuration).args(more).output()?)
}

/// Standard output of a `check` that said nothing else.
fn said(configuration: &Path, more: &[&str]) -> Result<String> {
    let output = check(configuration, more)?;
    ensure!(output.stderr.is_empty(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn check_shows_what_the_running_agent_sees() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let path = folder.path.join("made").join("tcpwatch.sock");
    let agent = agent_at(&path)?;
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o660);
    let ns = Namespace::new("socket")?;
    let _leak = CloseWaitLeak::client(&ns, 20, 7_300, false)?;
    let finding = poll("the finding", || {
        Ok(agent.findings("close-wait-pileup", ns.name())?.into_iter().next())
    })?;

    // Its age is known, which one look cannot tell: the agent's finding is a warning.
    let configuration = configuration(&folder, &path)?;
    let filter = ["--netns", ns.name()];
    let output = check(&configuration, &filter)?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("\nas the running agent sees it, host "), "{text}");
    assert!(
        text.contains(
            finding["title"].as_str().context("no title")?.split(',').next().unwrap_or_default()
        ),
        "{text}"
    );
    let json: Value =
        serde_json::from_str(&said(&configuration, &["--json", "--netns", ns.name()])?)?;
    let [same] = json["findings"].as_array().map(Vec::as_slice).context("no list")? else {
        anyhow::bail!("{json:#}");
    };
    for key in ["id", "severity", "since", "subject", "remedies", "runbook"] {
        assert_eq!(same[key], finding[key], "{key}");
    }
    // All that is written is read again.
    let api: Value =
        serde_json::from_str(&support::http_get(agent.address, "/api/v1/findings")?.body)?;
    for key in ["host", "version", "kernel", "not_seen", "schema_version"] {
        assert_eq!(json[key], api[key], "{key}");
    }

    let fresh = said(&configuration, &["--fresh", "--netns", ns.name()])?;
    assert!(fresh.contains("\none look of its own, host "), "{fresh}");
    assert!(fresh.contains("for at least"), "{fresh}");
    Ok(())
}

/// The addresses of this configuration are not those of the agent.
#[test]
fn doctor_finds_the_agent_at_its_socket_and_measures_its_hooks() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let path = folder.path.join("made").join("tcpwatch.sock");
    let agent = agent_at(&path)?;
    let configuration = configuration(&folder, &path)?;
    let ended = AtomicBool::new(false);
    let output = thread::scope(|scope| -> Result<Output> {
        // Each connection is some transitions.
        let busy = scope.spawn(|| -> Result<()> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            while !ended.load(Ordering::Relaxed) {
                let client = TcpStream::connect(listener.local_addr()?)?;
                drop((client, listener.accept()?));
                thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        let output = tcpwatch()
            .args(["doctor", "--cost", "--json", "--config"])
            .arg(&configuration)
            .output();
        ended.store(true, Ordering::Relaxed);
        busy.join().map_err(|_| anyhow::anyhow!("the connections panicked"))??;
        Ok(output?)
    })?;
    ensure!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let found = &report["agents"][0];
    assert_eq!(found["socket"], path.to_str().context("no UTF-8")?, "{report:#}");
    assert_eq!((&found["state"], &found["pid"]), (&"running".into(), &agent.pid().into()));
    assert_eq!(report["cost"]["of_running_agent"], true, "{report:#}");
    let hooks = report["cost"]["hooks"].as_array().context("no hooks")?;
    let set_state = hooks.iter().find(|row| row["hook"] == "set_state").context("no set_state")?;
    let number = |key: &str| set_state[key].as_f64().unwrap_or_default();
    let (runs, each) = (number("runs_per_second"), number("nanoseconds_per_run"));
    assert!(runs > 10.0 && (1.0..1e6).contains(&each), "{set_state}");
    let share = number("cpu_share");
    assert!((share - runs * each / 1e9).abs() < 1e-6, "{set_state}");
    Ok(())
}

#[test]
fn check_looks_itself_where_no_agent_answers() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let path = folder.path.join("tcpwatch.sock");
    let configuration = configuration(&folder, &path)?;
    let looked = |text: &str| text.contains("\none look of its own, host ");
    assert!(looked(&said(&configuration, &[])?), "no socket");

    let agent = agent_at(&path)?;
    assert!(!looked(&said(&configuration, &[])?), "an agent");
    drop(agent);
    assert!(path.exists());
    assert!(looked(&said(&configuration, &[])?), "the socket of an agent that was killed");
    // The next agent takes its place.
    let agent = agent_at(&path)?;
    assert!(!looked(&said(&configuration, &[])?), "another agent");
    drop(agent);

    // Something else answers there, with words of its own.
    fs::remove_file(&path)?;
    let listener = UnixListener::bind(&path)?;
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client?;
            let _length = client.read(&mut [0; 1_024])?;
            client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\x1b[31m{}\r\n")?;
        }
        anyhow::Ok(())
    });
    let output = check(&configuration, &[])?;
    assert!(looked(&String::from_utf8(output.stdout)?));
    let line = String::from_utf8(output.stderr)?;
    assert!(line.starts_with("tcpwatch: the agent at "), "{line}");
    assert!(line.lines().count() == 1 && !line.contains('\u{1b}'), "{line}");
    Ok(())
}

#[test]
fn a_second_agent_names_the_first_and_ends_unless_its_socket_is_another_one() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let path = folder.path.join("tcpwatch.sock");
    let first = agent_at(&path)?;
    let configuration = configuration(&folder, &path)?;
    let mut command = tcpwatch();
    command.args(["run", "--web.listen-address", "127.0.0.1:0", "--config"]).arg(configuration);
    let output = command.output()?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    let line = format!(
        "tcpwatch: another tcpwatch (pid {}) answers at {}: one agent watches a host; end that one, or \
         set another web.socket for this one (\"\" for none)\n",
        first.pid(),
        path.display()
    );
    assert_eq!(said, line);
    let second = agent_at(&folder.path.join("other.sock"))?;
    drop(second);
    assert!(UnixStream::connect(&path).is_ok());
    drop(first);
    Ok(())
}

#[test]
fn the_socket_answers_for_every_host() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let path = folder.path.join("tcpwatch.sock");
    let _agent = agent_at(&path)?;
    for request in ["/api/v1/findings", "/", "/metrics", "/runbooks/syn-flood"] {
        let mut stream = UnixStream::connect(&path)?;
        write!(stream, "GET {request} HTTP/1.0\r\nHost: example.net\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{request}: {answer}");
    }
    Ok(())
}

/// With curl, as a script does.
#[test]
fn status_and_history_of_a_running_agent_follow_their_schemas() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let path = folder.path.join("tcpwatch.sock");
    let web =
        format!("socket = \"{}\"\nexternal_url = \"https://watch.example/a/\"\n", path.display());
    let agent = Agent::start_with_web(QUICK, &web)?;
    let get = |url: &str| -> Result<Value> {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--unix-socket"])
            .arg(&path)
            .arg(format!("http://localhost{url}"))
            .output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let valid = |document: &Value, schema: &str| -> Result<()> {
        let validator = jsonschema::validator_for(&serde_json::from_str(schema)?)?;
        let errors: Vec<_> = validator.iter_errors(document).map(|it| it.to_string()).collect();
        ensure!(errors.is_empty(), "{errors:#?} in {document:#}");
        Ok(())
    };
    let status = get("/api/v1/status")?;
    valid(&status, include_str!("../../docs/status.schema.json"))?;
    assert_eq!(
        (&status["ready"], &status["url"]),
        (&true.into(), &"https://watch.example/a".into())
    );
    assert_eq!(status["inventory"]["interval_seconds"], 1.0);
    let hooks = status["hooks"].as_array().context("hooks")?;
    ensure!(
        hooks.iter().any(|it| it["hook"] == "set_state" && it["attached"] == true),
        "{hooks:?}"
    );

    // A finding that has ended is in the history.
    let ns = Namespace::new("history")?;
    let leak = CloseWaitLeak::client(&ns, 20, 7_301, false)?;
    let finding = poll("the finding", || {
        Ok(agent.findings("close-wait-pileup", ns.name())?.into_iter().next())
    })?;
    assert_eq!(finding["runbook"], "https://watch.example/a/runbooks/close-wait-pileup");
    drop(leak);
    poll("the end of the finding", || {
        Ok(agent.findings("close-wait-pileup", ns.name())?.is_empty().then_some(()))
    })?;
    let history = get("/api/v1/history?kind=close-wait-pileup")?;
    valid(&history, include_str!("../../docs/findings.schema.json"))?;
    let findings = history["findings"].as_array().context("findings")?;
    let ended =
        findings.iter().find(|it| it["id"] == finding["id"]).context("not in the history")?;
    ensure!(ended["cleared_at"].as_str() > ended["since"].as_str(), "{ended:#}");
    Ok(())
}
