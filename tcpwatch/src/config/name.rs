//! Names as the metrics' labels spell them: what a process, a unit or a namespace can be called.
//!
//! A name that no label can have would silently match nothing, so it is refused. The labels are
//! made in `kernel/process.rs` and `kernel/namespaces.rs`.

use toml::Value;

use super::value::Accepts;

/// `TASK_COMM_LEN` less its NUL: the kernel cuts a longer name off.
const COMM_BYTES: usize = 15;

/// `UNIT_NAME_MAX` of systemd less its NUL, and `NAME_MAX` of Linux.
const NAME_BYTES: usize = 255;

/// Characters of a container's or pod's id that a label has, as `docker ps` shows it.
const SHORT_ID_BYTES: usize = 12;

/// Names that the `process` label can have.
pub(super) struct ProcessName;

impl Accepts<String> for ProcessName {
    fn expected() -> String {
        format!("the name of a process as the kernel keeps it, from 1 to {COMM_BYTES} bytes")
    }

    fn read(value: &Value) -> Option<String> {
        of_bytes(value, COMM_BYTES)
    }
}

/// Names that the `unit` label can have.
pub(super) struct UnitName;

impl Accepts<String> for UnitName {
    fn expected() -> String {
        format!(
            "a systemd service or scope such as \"nginx.service\", or a container's or pod's id \
             cut to {SHORT_ID_BYTES} characters"
        )
    }

    fn read(value: &Value) -> Option<String> {
        let name = value.as_str()?;
        (is_systemd_unit(name) || is_short_id(name)).then(|| name.to_owned())
    }
}

/// Names that the `netns` label can have. Empty is refused: it would stand for every namespace
/// without a name.
pub(super) struct NamespaceName;

impl Accepts<String> for NamespaceName {
    fn expected() -> String {
        format!("the name of a network namespace, from 1 to {NAME_BYTES} bytes")
    }

    fn read(value: &Value) -> Option<String> {
        of_bytes(value, NAME_BYTES)
    }
}

fn of_bytes(value: &Value, most: usize) -> Option<String> {
    value.as_str().filter(|name| (1..=most).contains(&name.len())).map(str::to_owned)
}

/// Processes run in services and scopes; the other types of unit hold none.
fn is_systemd_unit(name: &str) -> bool {
    let stem = name.strip_suffix(".service").or_else(|| name.strip_suffix(".scope"));
    stem.is_some_and(|stem| !stem.is_empty()) && name.len() <= NAME_BYTES
}

fn is_short_id(name: &str) -> bool {
    let is_of_id = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_');
    name.len() == SHORT_ID_BYTES && name.bytes().all(is_of_id)
}
