//! How a process is named in a sentence.

use std::borrow::Cow;

use crate::facts::Process;

/// A name without backticks, between which a remedy has its commands.
pub(crate) fn shown(name: &str) -> Cow<'_, str> {
    if name.contains('`') { name.replace('`', "'").into() } else { name.into() }
}

/// `nginx (pid 12)`, or "an unknown process".
pub(crate) fn named(process: Option<&Process>) -> String {
    match process {
        Some(process) => named_as(&process.name, process.pid),
        None => "an unknown process".to_owned(),
    }
}

/// `nginx (pid 12)`; a process may have taken its name off.
pub(crate) fn named_as(name: &str, pid: u32) -> String {
    let name = if name.is_empty() { "a process without a name".into() } else { shown(name) };
    format!("{name} (pid {pid})")
}

/// `curl (several processes)`.
pub(crate) fn named_as_several(name: &str) -> String {
    let name = if name.is_empty() { "processes without a name".into() } else { shown(name) };
    format!("{name} (several processes)")
}
