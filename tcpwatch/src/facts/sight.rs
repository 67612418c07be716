//! Things that cannot be seen: a reader of findings must know where none can come from.
//!
//! [`kernel`](crate::kernel) makes the list, each inventory carries it, and `check`, its JSON, the
//! page and the log show it in these words. The words are made plain here, because a namespace is
//! named by a stranger.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plain;

/// Something that is not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotSeen {
    /// The cause that hides it.
    pub what: Unseen,
    /// Names of the hooks or namespaces, the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// How many namespaces, sockets or processes, where they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The kernel's error by name, where there was one: `EPERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// The loss.
    pub lost: String,
    /// The reason, and the remedy where known.
    pub why: String,
    /// The host's own namespace, or its processes, are not seen: the state of the host is unknown.
    pub hides_host: bool,
}

/// Causes that hide something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unseen {
    /// A hook that the kernel refused.
    Hook,
    /// The pid namespace of this process.
    PidNamespace,
    /// The network namespace of this process.
    NetworkNamespace,
    /// Network namespaces that could not be entered.
    Namespaces,
    /// Owners that were not looked up, or not found.
    Owners,
    /// Processes of which /proc may not be read.
    Processes,
}

/// Names that one entry lists: enough to know which kind of namespace it is.
const NAMES: usize = 8;

impl NotSeen {
    /// Something without names, number and error.
    #[must_use]
    pub fn new(what: Unseen, lost: impl AsRef<str>, why: impl AsRef<str>) -> Self {
        Self {
            what,
            names: Vec::new(),
            count: None,
            errno: None,
            lost: plain::text(lost.as_ref()).into_owned(),
            why: plain::text(why.as_ref()).into_owned(),
            hides_host: false,
        }
    }

    /// With the kernel's error.
    #[must_use]
    pub fn errno(mut self, errno: Option<String>) -> Self {
        self.errno = errno;
        self
    }

    /// With a number.
    #[must_use]
    pub fn counted(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// With names, of which the first few are kept.
    #[must_use]
    pub fn named<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let named = names.into_iter().filter(|name| !name.is_empty());
        self.names = named.take(NAMES).map(|name| plain::text(name).into_owned()).collect();
        self
    }

    /// The host itself is what is not seen.
    #[must_use]
    pub const fn hiding_host(mut self) -> Self {
        self.hides_host = true;
        self
    }
}

/// `the host's processes: the pid namespace is not the host's`
impl fmt::Display for NotSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.lost, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_few() {
        let names: Vec<String> = (0..20).map(|number| format!("\u{1b}[31m{number}")).collect();
        let it = NotSeen::new(Unseen::Namespaces, "two", "why\nnot")
            .named(names.iter().map(String::as_str));
        assert_eq!(it.names.len(), NAMES);
        assert_eq!(it.names[0], r"\u{1b}[31m0");
        assert_eq!(it.to_string(), r"two: why\nnot");
    }
}
