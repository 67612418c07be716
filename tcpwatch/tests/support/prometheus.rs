//! The real Prometheus of the distribution as a child process, the files of `deploy` for it, and its
//! HTTP API.

use std::{
    env,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Daemon, Folder, free_address, http_get, poll};

/// Where the files under test lie.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// Prometheus as a child process.
pub(crate) struct Server {
    pub(crate) api: Prometheus,
    /// Goes before the folder, where it has its log.
    daemon: Daemon,
    folder: Folder,
}

impl Server {
    /// With the rules and the example for scraping as they are shipped, but for the address.
    pub(crate) fn start(agent: SocketAddr) -> Result<Self> {
        let example = deployed("prometheus/prometheus.example.yml")?;
        let config = replace_once(&example, "[\"127.0.0.1:10743\"]", &format!("[\"{agent}\"]"))?;
        Self::start_with(&deployed("prometheus/tcpwatch.rules.yml")?, &config)
    }

    pub(crate) fn start_with(rules: &str, config: &str) -> Result<Self> {
        let folder = Folder::new()?;
        let address = free_address()?;
        folder.write("tcpwatch.rules.yml", rules)?;
        let config = folder.write("prometheus.yml", config)?;
        let binary = find_in_path("prometheus").context("no command prometheus")?;
        let mut daemon = Daemon::start(
            Command::new(binary)
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", folder.path.join("tsdb").display()))
                .arg(format!("--web.listen-address={address}"))
                .arg("--log.level=warn"),
            &folder.path.join("prometheus.log"),
        )?;
        poll("Prometheus to be ready", || {
            daemon.must_run()?;
            Ok(http_get(address, "/-/ready").ok().filter(|answer| answer.status == 200))
        })?;
        Ok(Self { api: Prometheus { address }, daemon, folder })
    }
}

/// Prometheus's HTTP API.
pub(crate) struct Prometheus {
    address: SocketAddr,
}

impl Prometheus {
    /// The series of an instant query.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.api(&format!("/api/v1/query?query={}", percent_encoded(expression)))?;
        data["result"].as_array().cloned().with_context(|| format!("no result: {data}"))
    }

    /// Firing alerts of one name.
    pub(crate) fn firing(&self, name: &str) -> Result<Vec<Value>> {
        let data = self.api("/api/v1/alerts")?;
        let alerts = data["alerts"].as_array().with_context(|| format!("no alerts: {data}"))?;
        let fires =
            |alert: &&Value| alert["labels"]["alertname"] == name && alert["state"] == "firing";
        Ok(alerts.iter().filter(fires).cloned().collect())
    }

    /// `data` of a successful answer.
    pub(crate) fn api(&self, path: &str) -> Result<Value> {
        let answer = http_get(self.address, path)?;
        let mut body: Value = serde_json::from_str(&answer.body)
            .with_context(|| format!("{path}: status {}, {}", answer.status, answer.body))?;
        ensure!(body["status"] == "success", "{path}: {} {}", body["errorType"], body["error"]);
        Ok(body["data"].take())
    }
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

pub(crate) fn deployed(file: &str) -> Result<String> {
    let path = Path::new(DEPLOY).join(file);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

pub(crate) fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// `text` with `found` replaced, which must be there once.
pub(crate) fn replace_once(text: &str, found: &str, by: &str) -> Result<String> {
    ensure!(text.matches(found).count() == 1, "{found:?} is not once in the example");
    Ok(text.replace(found, by))
}
