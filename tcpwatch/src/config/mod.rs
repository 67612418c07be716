//! Everything that can be set: the schema, its defaults, its bounds and the file that explains it.
//!
//! Nothing outside this folder reads TOML or knows a default. A key is one line in a `section!`
//! (`section.rs`): its doc comment is its comment in the file that `tcpwatch config default`
//! prints, so what users read cannot differ from what is compiled. All parsing is pure;
//! only [`Config::load`] touches the disk (`file.rs`). What is refused is refused as a whole, with one line
//! that names the place (`error.rs`); command-line flags are merged elsewhere.

mod detect;
mod duration;
mod error;
mod file;
mod general;
mod host;
mod name;
mod overridable;
mod section;
mod setting;
#[cfg(test)]
mod tests;

use std::{fmt::Write, path::Path, time::Duration};

pub use detect::{
    AcceptQueueOverflow, BindConflict, CloseWaitPileup, ConfigSeverity, Detect,
    EphemeralPortExhaustion, HandshakeStall, ResetStorm, SelfConnectRisk, SelfConnection,
    StuckState, SynFlood, TimeWaitExhaustion,
};
pub use error::{Cause, ConfigError, Place};
pub use general::{Ignore, Inventory, Limits, Log, LogFormat, LogLevel, Namespaces, Web};
pub use host::{ExternalUrl, HostName, host_of_authority};
pub use overridable::Overridable;
use section::Section;

/// What some editors put in front of UTF-8 text; they do not count it as a column.
const BYTE_ORDER_MARK: &str = "\u{feff}";

section::sections! {
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
        section::parse(text).map_err(|fault| fault.found_in(path, text.as_bytes()))
    }

    /// Reads and parses a configuration file. An empty file is the default configuration. One that
    /// does not answer within some seconds is refused.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes = file::read(path)?;
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(&bytes);
        let text = std::str::from_utf8(bytes)
            .map_err(|error| error::Fault::not_utf8(bytes, &error).found_in(path, bytes))?;
        Self::parse(text, path)
    }

    /// The file that sets every key to its default, each under its comment. The first section that
    /// takes overrides shows how one is written.
    pub fn default_toml() -> String {
        let mut file = String::new();
        let sections = Self::describe("");
        let first_overridable = sections.iter().position(|section| section.overridable);
        for (number, section) in sections.iter().enumerate() {
            if number > 0 {
                file.push('\n');
            }
            comment(&mut file, section.docs);
            // A section that only holds others needs no header in TOML.
            if !section.keys.is_empty() {
                let _infallible = writeln!(file, "[{}]", section.path);
            }
            for (number, key) in section.keys.iter().enumerate() {
                if number > 0 {
                    file.push('\n');
                }
                comment(&mut file, key.docs);
                let _infallible = writeln!(file, "{} = {}", key.name, key.value);
            }
            if first_overridable == Some(number) {
                file.push('\n');
                comment(&mut file, &overridable::EXPLANATION);
                let _infallible = writeln!(file, "#\n# [[{}.override]]", section.path);
                comment(&mut file, &overridable::EXAMPLE);
            }
        }
        file
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
