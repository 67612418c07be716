//! The web configuration file: TLS, passwords and headers of the HTTP listeners, in YAML.
//!
//! The keys are those of Prometheus' exporter-toolkit, version 1 of its file
//! (<https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>), so one
//! file serves all exporters of a host. A key or a value that the toolkit knows and tcpwatch does
//! not support is refused with the reason: what protects a listener is never left out in silence.
//!
//! Parsing is pure. [`publish`](crate::publish) reads the certificates and builds TLS from them.

mod section;
#[cfg(test)]
mod tests;
mod tls;
mod users;
mod yaml;

use std::path::{Path, PathBuf};

pub use tls::{ClientCertificate, Curve, Pem, TlsServer};
pub use users::{PasswordHash, Users};

use self::section::Section;
use super::{BYTE_ORDER_MARK, ConfigError, error::Fault, file};
use crate::plain;

/// Line and column of something in the file. Both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    line: usize,
    column: usize,
}

/// Something with its place in the file, which later errors about it name.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The thing.
    pub value: T,
    place: Place,
}

/// Why a file is refused, and where; the file's name is not known here.
#[derive(Debug)]
struct Refusal {
    place: Place,
    why: String,
}

impl Place {
    fn refuse(self, why: String) -> Refusal {
        Refusal { place: self, why: plain::said(&why) }
    }
}

/// The HTTP headers that a file may set, with the values that it may give them; an empty list is
/// any value. The toolkit has the same.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// A web configuration file. Its secrets are not printed, so it is not `Debug`.
pub struct WebConfig {
    path: PathBuf,
    /// TLS, if the file has it.
    pub tls: Option<TlsServer>,
    /// Headers for every answer, with their values.
    pub headers: Vec<(&'static str, String)>,
    /// The users that may read. Without one, each client may.
    pub users: Users,
}

impl WebConfig {
    /// Reads and parses the file. One that does not answer within some seconds is refused.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = read_file(path, "a YAML file")?;
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(&bytes);
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Fault::not_utf8(bytes, &error).found_in(path, bytes))?;
        Self::parse(text, path)
    }

    /// Parses the text of the file. Paths in it are relative to the folder of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        read(text, path).map_err(|Refusal { place, why }| refused(path, place, why))
    }

    /// The error for something of this file that is only found out later.
    pub fn refuse<T>(&self, what: &Placed<T>, why: &str) -> ConfigError {
        refused(&self.path, what.place, plain::said(&why))
    }

    /// The files that it names: certificate, key, authority.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let Some(tls) = &self.tls else { return Vec::new() };
        let authority = match &tls.client {
            ClientCertificate::Ignored => None,
            ClientCertificate::VerifiedIfGiven(authority)
            | ClientCertificate::Required(authority, _) => Some(authority),
        };
        let files = [Some(&tls.certificate), Some(&tls.key), authority].into_iter().flatten();
        let files = files.filter_map(|pem| match &pem.value {
            Pem::Inline(_) => None,
            Pem::File(path) => Some(path.clone()),
        });
        files.collect()
    }

    /// The PEM text of `pem`, from its file if it is in one.
    pub fn read(&self, pem: &Placed<Pem>) -> Result<Vec<u8>, ConfigError> {
        match &pem.value {
            Pem::Inline(text) => Ok(text.clone().into_bytes()),
            Pem::File(path) => {
                read_file(path, "a PEM file").map_err(|error| self.refuse(pem, &error.to_string()))
            }
        }
    }
}

/// The advice for a missing tcpwatch.toml would mislead here.
fn read_file(path: &Path, expected: &'static str) -> Result<Vec<u8>, ConfigError> {
    file::read(path, expected).map_err(|error| match error {
        ConfigError::Missing(path) => {
            ConfigError::Unreadable(path, std::io::ErrorKind::NotFound.into())
        }
        error => error,
    })
}

fn refused(path: &Path, Place { line, column }: Place, why: String) -> ConfigError {
    ConfigError::Refused { file: plain::path(path), line, column, why }
}

fn read(text: &str, path: &Path) -> Result<WebConfig, Refusal> {
    let root = yaml::parse(text)?;
    let mut root = Section::of(
        "",
        root,
        &["tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"],
    )?;
    root.unsupported("rate_limit", |_| {
        Some("is not supported: connections are limited, and one answer serves all for 200 ms")
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let tls = root.take("tls_server_config").map(|node| tls::read(node, folder)).transpose()?;
    let headers = root.take("http_server_config").map(http_headers).transpose()?;
    let users = root.take("basic_auth_users").map(users::read).transpose()?;
    Ok(WebConfig {
        path: path.to_owned(),
        tls: tls.flatten(),
        headers: headers.unwrap_or_default(),
        users: users.unwrap_or_default(),
    })
}

fn http_headers(node: yaml::Node) -> Result<Vec<(&'static str, String)>, Refusal> {
    let mut http = Section::of("http_server_config", node, &["http2", "headers"])?;
    if let Some(http2) = http.boolean("http2")?
        && http2.value
    {
        let why = "http_server_config.http2: true is not supported: HTTP/1.1 is served";
        return Err(http2.place.refuse(why.to_owned()));
    }
    let Some(node) = http.take("headers") else { return Ok(Vec::new()) };
    let mut headers =
        Section::of("http_server_config.headers", node, &HEADERS.map(|(name, _)| name))?;
    let mut set = Vec::new();
    for (name, values) in HEADERS {
        let Some(value) = headers.text(name)? else { continue };
        let text = &value.value;
        if !values.is_empty() && !values.contains(&text.as_str()) {
            let expected = format!("expected {}, found {text:?}", values.join(" or "));
            return Err(headers.refuse(name, &value, &expected));
        }
        // RFC 9110 section 5.5, without the bytes above ASCII, which it calls obsolete.
        if !text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
            return Err(headers.refuse(name, &value, "expected printable ASCII in one line"));
        }
        set.push((name, value.value));
    }
    Ok(set)
}
