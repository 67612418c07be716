//! Names as the metrics' labels spell them: what a process, a unit or a namespace can be called.
//!
//! A name that no label can have would silently match nothing, so it is refused. The labels are
//! made in `kernel/cgroup.rs` and `kernel/namespaces.rs`.

use toml::{Spanned, de::DeValue};

use super::{error::Fault, setting::Setting};
use crate::facts::{is_container_name, is_short_id, is_unit};

/// `TASK_COMM_LEN` less its NUL: the kernel cuts a longer name off.
const COMM_BYTES: usize = 15;

/// `NAME_MAX` of Linux.
const NAME_BYTES: usize = 255;

/// What a name is of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    /// The `process` label.
    Process,
    /// The `unit` label.
    Unit,
    /// The `netns` label. Empty is refused: it would stand for all that have no name.
    Namespace,
}

impl Name {
    fn is_possible(self, name: &str) -> bool {
        match self {
            Self::Process => (1..=COMM_BYTES).contains(&name.len()),
            Self::Unit => is_unit(name) || is_short_id(name) || is_container_name(name),
            Self::Namespace => (1..=NAME_BYTES).contains(&name.len()),
        }
    }

    fn expected(self) -> String {
        match self {
            Self::Process => {
                format!(
                    "the name of a process as the kernel keeps it, from 1 to {COMM_BYTES} bytes"
                )
            }
            Self::Unit => "a systemd service or scope such as \"nginx.service\", a container's or \
                           pod's id cut to 12 characters, or the name of a system container"
                .to_owned(),
            Self::Namespace => {
                format!("the name of a network namespace, from 1 to {NAME_BYTES} bytes")
            }
        }
    }
}

impl Setting for String {
    type Bounds = Name;

    fn read(value: &Spanned<DeValue<'_>>, key: &str, bounds: &Name) -> Result<Self, Fault> {
        let name = value.get_ref().as_str().filter(|name| bounds.is_possible(name));
        name.map(str::to_owned).ok_or_else(|| Fault::value(key, bounds.expected(), value))
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}
