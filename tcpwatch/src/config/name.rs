//! Names of processes, units and namespaces, as the metrics' labels spell them.
//!
//! A name that no label can have would silently match nothing, so it is refused. The labels are
//! made in `kernel/cgroup.rs` and `kernel/namespaces.rs`.

use toml::Value;

use super::value::Accepts;
use crate::facts::{is_container_name, is_short_id, is_unit};

/// `TASK_COMM_LEN` less its NUL: the kernel cuts a longer name off.
const COMM_BYTES: usize = 15;

/// `NAME_MAX` of Linux.
const NAME_BYTES: usize = 255;

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
        "a systemd service or scope such as \"nginx.service\", a container's or pod's id cut to 12 \
         characters, or the name of a system container"
            .to_owned()
    }

    fn read(value: &Value) -> Option<String> {
        let name = value.as_str()?;
        (is_unit(name) || is_short_id(name) || is_container_name(name)).then(|| name.to_owned())
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
