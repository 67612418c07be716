//! Everything that can be set: the schema, its defaults, its bounds and the file that explains it.
//!
//! Nothing outside this folder reads TOML or YAML, or knows a default. A key is a field in a `section!`
//! (`section.rs`): its doc comment is its comment in the file that `tcpwatch config default`
//! prints, so comments cannot differ from the compiled defaults. Serde reads and writes the
//! fields, within the bounds of `value.rs`. All parsing is pure; only [`Config::load`] and
//! [`WebConfig`] read files, through `file.rs`. A file is refused as a whole, with one line that names the place (`error.rs`).
//! Command-line flags are merged elsewhere.

mod detect;
mod duration;
mod error;
mod file;
mod general;
mod host;
mod name;
mod order;
mod overridable;
mod read;
mod section;
mod severity;
#[cfg(test)]
mod tests;
mod until;
mod value;
mod web_config;

use std::{fmt::Write, path::Path, time::Duration};

pub use detect::*;
pub use error::ConfigError;
pub use general::{Ignore, Inventory, Limits, Log, LogFormat, LogLevel, Web};
pub use host::{ExternalUrl, HostName, host_of_authority};
use jiff::civil::Date;
pub use overridable::Overridable;
use overridable::{OVERRIDE, SECTION};
use section::{Docs, Section};
pub use severity::Severity;
use toml::{Table, Value};
pub use until::{Ended, Entries};
pub use web_config::{
    ClientCertificate, Curve, PasswordHash, Pem, Place, Placed, TlsServer, Users, WebConfig,
};

/// Some editors put it in front of UTF-8 text; they do not count it as a column.
const BYTE_ORDER_MARK: &str = "\u{feff}";

section::section! {
    /// Configuration of tcpwatch, in TOML. Every key is shown with its default; a key that is left
    /// out keeps it. An unknown key or an impossible value refuses the whole file:
    /// `tcpwatch config check FILE` says where. SIGHUP reloads; a file that is refused then leaves
    /// the configuration before it in force.
    ///
    /// A duration is a string of numbers with units ms, s, m or h, the largest first: "100ms",
    /// "60s", "1h30m".
    pub struct Config {
        pub web: Web;
        pub log: Log;
        pub inventory: Inventory;
        pub limits: Limits;
        pub detect: Detect;
        pub ignore: Ignore;
    }
}

impl Config {
    /// Parses the text of a configuration file. `path` is only named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        read::parse(text).map_err(|fault| fault.found_in(path, text.as_bytes()))
    }

    /// Reads and parses a configuration file. An empty file is the default configuration. One that
    /// does not answer within some seconds is refused.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = file::read(path, "a TOML file")?;
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(&bytes);
        let text = std::str::from_utf8(bytes)
            .map_err(|error| error::Fault::not_utf8(bytes, &error).found_in(path, bytes))?;
        Self::parse(text, path)
    }

    /// Takes out the overrides and entries whose last day was before `today`, and returns those
    /// that it has not returned before.
    pub fn end_entries(&mut self, today: Date) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.detect.end("detect", today, &mut ended);
        self.ignore.end(today, &mut ended);
        ended
    }

    /// `new` with the start-only keys of this configuration, and the names of those that differ
    /// there: the agent opened or allocated these at its start.
    pub fn keep_start_only(&self, mut new: Self) -> (Self, Vec<&'static str>) {
        let mut kept = Vec::new();
        macro_rules! start_only {
            ($($section:ident $(. $key:ident)?),+) => {$(
                if new.$section$(.$key)? != self.$section$(.$key)? {
                    new.$section$(.$key)? = self.$section$(.$key)?.clone();
                    kept.push(concat!(stringify!($section) $(, ".", stringify!($key))?));
                }
            )+};
        }
        start_only!(
            web,
            log,
            inventory.one_pass,
            limits.ring_buffer_bytes,
            limits.http_connections
        );
        (new, kept)
    }

    /// The file that sets every key to its default, each under its comment. The first section that
    /// takes overrides shows how one is written.
    pub fn default_toml() -> String {
        let mut file = String::new();
        print(&mut file, "", &Self::docs(), &read::table(&Self::default()));
        file
    }
}

/// Prints a section, and those within it.
fn print(file: &mut String, path: &str, docs: &Docs, values: &Table) {
    let section = values.get(SECTION).and_then(Value::as_table);
    let values = section.unwrap_or(values);
    if !file.is_empty() {
        file.push('\n');
    }
    comment(file, docs.lines);
    let mut before = if path.is_empty() { String::new() } else { format!("[{path}]\n") };
    for (name, docs) in &docs.inner {
        match values.get(*name) {
            Some(Value::Table(values)) => print(file, &error::join(path, name), docs, values),
            Some(value) => {
                file.push_str(&std::mem::replace(&mut before, "\n".to_owned()));
                comment(file, docs.lines);
                let _infallible = writeln!(file, "{name} = {value}");
            }
            None => {}
        }
    }
    let header = format!("# [[{path}.{OVERRIDE}]]\n");
    if section.is_some() && !file.contains("# [[") {
        file.push('\n');
        comment(file, &overridable::EXPLANATION);
        file.push_str("#\n");
        file.push_str(&header);
        comment(file, &overridable::EXAMPLE);
    }
}

/// Parses a duration as the configuration writes it, for flags that take one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| r#"expected a duration such as "10s""#.to_owned())
}

fn comment(file: &mut String, docs: &[&str]) {
    for line in docs {
        // A doc comment's text starts with the space that followed its slashes.
        let _infallible = writeln!(file, "#{line}");
    }
}
