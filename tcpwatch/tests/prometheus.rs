//! The real Prometheus of the distribution scrapes the agent while a leak goes on.
//!
//! The files of `deploy/` are taken as they are: the example scrape configuration, the rules and
//! the dashboard; only their waiting times and the agent's address are replaced. Every expression
//! is evaluated through Prometheus's HTTP API and must succeed. Those of the dashboard must also
//! have data. The CLOSE_WAIT alert must fire with process, port and count in its text.
//!
//! Needs root and the `prometheus` command (Debian package prometheus); without them it says so and
//! is skipped, which `TCPWATCH_REQUIRE_ALL=1` turns into a failure.

mod support;

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use support::{
    Agent, poll,
    prometheus::{Prometheus, Server, deployed, find_in_path, replace_once},
    skip,
};

/// The `instance` label that the example scrape configuration sets.
const INSTANCE: &str = "this-host";

/// Enough for `close-wait-pileup` (warning 33), and a number that nothing else makes.
const LEAKED: usize = 37;

/// Panels that may have no data in this test, by title, and why.
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
    if find_in_path("prometheus").is_none() {
        return skip("needs the command prometheus: apt-get install prometheus");
    }

    let ns = scenes::Namespace::new("prometheus")?;
    let leak = scenes::CloseWaitLeak::client(&ns, LEAKED, 0, false)?;
    let port = leak.server_address().port().to_string();
    // The leak is held by this process; /proc/self is the thread-group leader's.
    let comm = fs::read_to_string("/proc/self/comm")?.trim_end().to_owned();

    let agent = Agent::start_quick()?;

    let rules = impatient_rules(&deployed("prometheus/tcpwatch.rules.yml")?)?;
    let example = deployed("prometheus/prometheus.example.yml")?;
    let server = Server::start_with(&rules, &scrape_config(&example, agent.address)?)?;
    let prometheus = &server.api;

    let rules = every_rule_is_healthy(prometheus)?;
    ensure!(rules >= 20, "only {rules} rules were loaded");

    let dashboard: Value = serde_json::from_str(&deployed("grafana/tcpwatch-host.json")?)?;
    every_expression_has_data(prometheus, &dashboard, &ns)?;
    every_variable_has_values(prometheus, &dashboard)?;

    let alert = poll("the CLOSE_WAIT alert to fire", || {
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
    let runbook = alert["annotations"]["runbook_url"].as_str().context("no runbook")?;
    assert_eq!(runbook, format!("http://{INSTANCE}:10743/runbooks/close-wait-pileup"));

    // A name without `_total` comes from OpenMetrics only.
    let metadata = prometheus.api("/api/v1/metadata?metric=tcpwatch_resets_sent")?;
    assert_eq!(metadata["tcpwatch_resets_sent"][0]["type"], "counter", "{metadata}");

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

/// Each rule has been evaluated without an error, and its expression can be queried by itself.
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
            .and_then(|inner| inner.strip_suffix(')'))
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
        // Five scrapes: a rate needs two, and one may be late.
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
    ensure!(outcome.is_err(), "port 9 of a fresh namespace has a listener");
    Ok(())
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
        config = replace_once(&config, shipped, here)?;
    }
    ensure!(config.contains(&format!("instance: {INSTANCE}")), "another instance in the example");
    Ok(config)
}
