//! The real Prometheus of the distribution scrapes the agent while a leak goes on.
//!
//! What `deploy/` ships is taken as it is: the example scrape configuration, the rules and the
//! dashboard; only their waiting times and the agent's address are replaced. Every expression is
//! evaluated through Prometheus's HTTP API and must succeed, those of the dashboard must also have
//! data, and the CLOSE_WAIT alert must fire with process, port and count in its text.
//!
//! Needs root and the `prometheus` command (Debian package prometheus); without them it says so and
//! is skipped, which `TCPWATCH_REQUIRE_ALL=1` turns into a failure.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Where the files under test lie.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// The `instance` label that the example scrape configuration sets.
const INSTANCE: &str = "this-host";

/// Enough for `close-wait-pileup` (warning 20), and a number that nothing else makes.
const LEAKED: usize = 37;

/// Prometheus needs some seconds to start and two scrapes for a rate; a machine that builds at the
/// same time needs a multiple of that.
const DEADLINE: Duration = Duration::from_secs(60);

/// What may have no data in this test, by title, and why.
const ALLOWED_EMPTY: [(&str, &str); 1] =
    [("Agent started", "the agent starts once, before the first scrape")];

/// Alerts on the agent's own health; none may fire here.
const HEALTH_ALERTS: [&str; 4] =
    ["TcpwatchDown", "TcpwatchRestarting", "TcpwatchInventoryStale", "TcpwatchConfigReloadFailed"];

#[test]
fn prometheus_evaluates_all_that_is_shipped_and_the_leak_alert_names_its_owner() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let Some(prometheus_binary) = find_in_path("prometheus") else {
        return skip("needs the command prometheus: apt-get install prometheus");
    };

    let folder = Folder::new()?;
    let agent_address = free_address()?;
    let prometheus_address = free_address()?;

    let ns = scenes::Namespace::new("prometheus")?;
    let leak = scenes::CloseWaitLeak::client(&ns, LEAKED, 0, false)?;
    let port = leak.server_address().port().to_string();
    // The leak is held by this process; /proc/self is the thread-group leader's.
    let comm = fs::read_to_string("/proc/self/comm")?.trim_end().to_owned();

    let config = folder.write("tcpwatch.toml", &agent_config(agent_address))?;
    let mut agent = Daemon::start(
        Command::new(env!("CARGO_BIN_EXE_tcpwatch")).arg("run").arg("--config").arg(&config),
        &folder.path.join("tcpwatch.log"),
    )?;
    poll("the agent to be ready", || {
        agent.must_run()?;
        Ok(http_get(agent_address, "/-/ready").ok().filter(|answer| answer.status == 200))
    })?;

    folder.write(
        "tcpwatch.rules.yml",
        &impatient_rules(&deployed("prometheus/tcpwatch.rules.yml")?)?,
    )?;
    let example = deployed("prometheus/prometheus.example.yml")?;
    let config = folder.write("prometheus.yml", &scrape_config(&example, agent_address)?)?;
    let mut server = Daemon::start(
        Command::new(prometheus_binary)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path.join("tsdb").display()))
            .arg(format!("--web.listen-address={prometheus_address}"))
            .arg("--log.level=warn"),
        &folder.path.join("prometheus.log"),
    )?;
    poll("Prometheus to be ready", || {
        server.must_run()?;
        Ok(http_get(prometheus_address, "/-/ready").ok().filter(|answer| answer.status == 200))
    })?;
    let prometheus = Prometheus { address: prometheus_address };

    let rules = every_rule_is_healthy(&prometheus)?;
    ensure!(rules >= 13, "only {rules} rules were loaded");

    let dashboard: Value = serde_json::from_str(&deployed("grafana/tcpwatch-host.json")?)?;
    every_expression_has_data(&prometheus, &dashboard, &ns)?;
    every_variable_has_values(&prometheus, &dashboard)?;

    let alert = poll("the CLOSE_WAIT alert to fire", || {
        agent.must_run()?;
        let alerts = prometheus.firing("TcpwatchCloseWaitPileup")?;
        Ok(alerts.into_iter().find(|alert| alert["labels"]["netns"] == ns.name()))
    })?;
    let labels = &alert["labels"];
    assert_eq!(labels["process"], comm.as_str(), "{alert}");
    assert_eq!(labels["port"], port.as_str(), "{alert}");
    assert_eq!(labels["severity"], "warning", "{alert}");
    assert_eq!(labels["instance"], INSTANCE, "{alert}");
    let summary = alert["annotations"]["summary"].as_str().context("an alert without summary")?;
    for part in [&comm, INSTANCE, "37 sockets in CLOSE_WAIT", &format!("port {port}"), ns.name()] {
        assert!(summary.contains(part), "{part:?} is missing in {summary:?}");
    }
    let runbook =
        alert["annotations"]["runbook_url"].as_str().context("an alert without runbook")?;
    assert!(runbook.ends_with("/docs/runbooks/close-wait-pileup.md"), "{runbook}");

    for name in HEALTH_ALERTS {
        let alerts = prometheus.firing(name)?;
        assert!(alerts.is_empty(), "{name} fires: {alerts:?}");
    }

    drop(leak);
    poll("the CLOSE_WAIT alert to resolve", || {
        let alerts = prometheus.firing("TcpwatchCloseWaitPileup")?;
        let gone = !alerts.iter().any(|alert| alert["labels"]["netns"] == ns.name());
        Ok(gone.then_some(()))
    })
}

/// Each rule has been evaluated without an error, and its expression can be asked for by itself.
/// Returns how many there are.
fn every_rule_is_healthy(prometheus: &Prometheus) -> Result<usize> {
    let rules = poll("all rules to be evaluated", || {
        let data = prometheus.api("/api/v1/rules")?;
        let groups = data["groups"].as_array().context("rules without groups")?;
        let rules: Vec<_> = groups
            .iter()
            .filter_map(|group| group["rules"].as_array())
            .flatten()
            .cloned()
            .collect();
        let evaluated = !rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown");
        Ok(evaluated.then_some(rules))
    })?;
    for rule in &rules {
        ensure!(rule["health"] == "ok", "rule {} fails: {}", rule["name"], rule["lastError"]);
        let query = rule["query"].as_str().with_context(|| format!("no query in {rule}"))?;
        prometheus.query(query).with_context(|| format!("expression of {}", rule["name"]))?;
    }
    Ok(rules.len())
}

/// Every expression of the dashboard succeeds, and has data unless [`ALLOWED_EMPTY`] names it.
fn every_expression_has_data(
    prometheus: &Prometheus,
    dashboard: &Value,
    ns: &scenes::Namespace,
) -> Result<()> {
    let mut open = expressions(dashboard)?;
    ensure!(open.len() >= 30, "only {} expressions in the dashboard", open.len());
    for (title, why) in ALLOWED_EMPTY {
        ensure!(
            open.iter().any(|(name, _)| name == title),
            "{title:?} ({why}) is not there any more"
        );
    }
    let outcome = poll("data in every panel", || {
        refused_connect(ns)?;
        let mut still_open = Vec::new();
        for (title, expression) in open.drain(..) {
            let series = prometheus
                .query(&expression)
                .with_context(|| format!("panel {title:?}: {expression}"))?;
            let may_be_empty = ALLOWED_EMPTY.iter().any(|(name, _)| *name == title);
            if series.is_empty() && !may_be_empty {
                still_open.push((title, expression));
            }
        }
        open = still_open;
        Ok(open.is_empty().then_some(()))
    });
    outcome.with_context(|| format!("without data: {open:#?}"))
}

/// `label_values(SELECTOR, LABEL)` of every variable finds something.
fn every_variable_has_values(prometheus: &Prometheus, dashboard: &Value) -> Result<()> {
    let variables =
        dashboard["templating"]["list"].as_array().context("a dashboard without variables")?;
    let mut seen = 0;
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let query = variable["query"]["query"].as_str().context("a variable without query")?;
        let (selector, label) = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|inner| inner.rsplit_once(", "))
            .with_context(|| format!("not a label_values(selector, label): {query}"))?;
        let series = prometheus.query(&without_variables(selector)?)?;
        ensure!(
            series.iter().any(|series| series["metric"][label].is_string()),
            "{query} has no values"
        );
        seen += 1;
    }
    ensure!(seen == 2, "{seen} variables instead of instance and netns");
    Ok(())
}

/// Title and expression of every target and annotation, variables replaced.
fn expressions(dashboard: &Value) -> Result<Vec<(String, String)>> {
    fn of_panels(panels: &Value, found: &mut Vec<(String, String)>) -> Result<()> {
        for panel in panels.as_array().into_iter().flatten() {
            let title = panel["title"].as_str().context("a panel without title")?;
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression =
                    target["expr"].as_str().with_context(|| format!("{title:?} without expr"))?;
                found.push((title.to_owned(), without_variables(expression)?));
            }
            // A collapsed row keeps its panels inside.
            of_panels(&panel["panels"], found)?;
        }
        Ok(())
    }

    let mut found = Vec::new();
    of_panels(&dashboard["panels"], &mut found)?;
    for annotation in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
        let name = annotation["name"].as_str().context("an annotation without name")?;
        let expression =
            annotation["expr"].as_str().with_context(|| format!("{name:?} without expr"))?;
        found.push((name.to_owned(), without_variables(expression)?));
    }
    Ok(found)
}

/// As Grafana replaces them, `netns` being All.
fn without_variables(expression: &str) -> Result<String> {
    let replaced = expression
        // Five scrapes: a rate wants two, and one may be late.
        .replace("$__rate_interval", "5s")
        .replace("$instance", INSTANCE)
        .replace("$netns", ".*");
    ensure!(!replaced.contains('$'), "a variable that this test does not know: {expression}");
    Ok(replaced)
}

/// Makes what the panels of failed connects and resets show. Port 9 (discard) has no listener in a
/// namespace of one's own.
fn refused_connect(ns: &scenes::Namespace) -> Result<()> {
    let outcome = ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 9)))?;
    ensure!(outcome.is_err(), "somebody listens on port 9 of a fresh namespace");
    Ok(())
}

fn agent_config(address: SocketAddr) -> String {
    format!(
        "[web]\nlisten_addresses = [\"{address}\"]\n\n\
         [inventory]\ninterval = \"1s\"\n\n\
         [detect.close_wait_pileup]\nmin_age = \"2s\"\n"
    )
}

/// The rules with every `for:` at one second.
fn impatient_rules(rules: &str) -> Result<String> {
    const WAIT: &str = "        for: ";
    let mut replaced = 0;
    let mut impatient = String::new();
    for line in rules.lines() {
        if line.starts_with(WAIT) {
            replaced += 1;
            writeln!(impatient, "{WAIT}1s")?;
        } else {
            writeln!(impatient, "{line}")?;
        }
    }
    let waits = rules.lines().filter(|line| line.trim_start().starts_with("for:")).count();
    ensure!(replaced == waits && replaced > 5, "{replaced} of {waits} `for:` replaced");
    Ok(impatient)
}

/// The example for this agent, scraped and evaluated every second.
fn scrape_config(example: &str, agent: SocketAddr) -> Result<String> {
    let mut config = example.to_owned();
    for (shipped, here) in [
        ("scrape_interval: 15s", "scrape_interval: 1s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ("[\"127.0.0.1:10743\"]", &format!("[\"{agent}\"]")),
    ] {
        ensure!(config.matches(shipped).count() == 1, "{shipped:?} is not once in the example");
        config = config.replace(shipped, here);
    }
    ensure!(config.contains(&format!("instance: {INSTANCE}")), "another instance in the example");
    Ok(config)
}

/// Prometheus's HTTP API.
struct Prometheus {
    address: SocketAddr,
}

impl Prometheus {
    /// The series of an instant query.
    fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.api(&format!("/api/v1/query?query={}", percent_encoded(expression)))?;
        data["result"].as_array().cloned().with_context(|| format!("no result: {data}"))
    }

    /// Firing alerts of one name.
    fn firing(&self, name: &str) -> Result<Vec<Value>> {
        let data = self.api("/api/v1/alerts")?;
        let alerts = data["alerts"].as_array().with_context(|| format!("no alerts: {data}"))?;
        let fires =
            |alert: &&Value| alert["labels"]["alertname"] == name && alert["state"] == "firing";
        Ok(alerts.iter().filter(fires).cloned().collect())
    }

    /// `data` of a successful answer.
    fn api(&self, path: &str) -> Result<Value> {
        let answer = http_get(self.address, path)?;
        let mut body: Value = serde_json::from_str(&answer.body)
            .with_context(|| format!("{path}: status {}, {}", answer.status, answer.body))?;
        ensure!(body["status"] == "success", "{path}: {} {}", body["errorType"], body["error"]);
        Ok(body["data"].take())
    }
}

struct Answer {
    status: u16,
    body: String,
}

/// HTTP/1.0, so that the answer comes in one piece and ends with the connection.
fn http_get(address: SocketAddr, path: &str) -> Result<Answer> {
    let timeout = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without a body")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("not an HTTP status: {head}"))?;
    Ok(Answer { status, body: body.to_owned() })
}

/// RFC 3986 section 2.1, everything but the unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Asks again until there is an answer; an error ends it at once.
fn poll<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    // Often enough for states that change once a second.
    const PAUSE: Duration = Duration::from_millis(200);
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < end, "waited {DEADLINE:?} in vain for {what}");
        thread::sleep(PAUSE);
    }
}

/// A child process that does not outlive the test.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let program = command.get_program().to_owned();
        let output = File::create(log)?;
        command
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        // SAFETY: the closure runs between fork and exec and makes one system call, prctl, which
        // is async-signal-safe; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Fails with what it has said if it has ended.
    fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(&self.log)?;
            bail!("{} ended with {status}:\n{said}", self.log.display());
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Shown only when the test fails.
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        println!("{}:\n{said}", self.log.display());
    }
}

/// A folder that goes with the test.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("tcpwatch-prometheus-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn deployed(file: &str) -> Result<String> {
    let path = Path::new(DEPLOY).join(file);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// An address that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn skip(why: &str) -> Result<()> {
    if env::var_os("TCPWATCH_REQUIRE_ALL").is_some_and(|value| value == "1") {
        bail!("this test {why}, and TCPWATCH_REQUIRE_ALL=1 turns a skip into a failure");
    }
    println!("skipped: {why}");
    Ok(())
}
