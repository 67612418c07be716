//! Options of a load, and its errors.

use std::io;

use tcpwatch_common::{WORK_PER_SECOND, maps};

use super::super::{Refusal, btf::BtfError};

/// Why nothing could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Capabilities are missing.
    #[error(
        "not permitted to load eBPF programs: run as root, or give the process {missing} \
         (the packaged systemd unit does)"
    )]
    NotPermitted {
        /// Their names.
        missing: String,
    },
    /// No type information.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// aya refused the object or could not make its maps.
    #[error("cannot load the eBPF object: {0}")]
    Object(String),
    /// The agent's own namespace cannot be opened.
    #[error("cannot open /proc/thread-self/ns/net: {0}; mount /proc")]
    Namespace(io::Error),
    /// An indispensable hook.
    #[error("cannot attach the {hook} hook: {why}")]
    Hook {
        /// Its name.
        hook: &'static str,
        /// The kernel's reason.
        why: String,
    },
}

/// Options that are set before the load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Size of the ring buffer; a power of two, a multiple of the page size.
    pub ring_buffer_bytes: u32,
    /// Whether the kernel side's error paths write to the log.
    pub kernel_log: bool,
    /// The tcpwatch that is started for the names of functions; without it, places in files stand
    /// for them.
    pub symbols_by: Option<&'static str>,
    /// Whether the one pass walks where it loads; else the iterator does.
    pub one_pass: bool,
    /// Programs that answer requests.
    pub on_request: OnRequest,
    /// See [`WORK_PER_SECOND`].
    pub work_per_second: u64,
}

/// Programs that run only when someone requests what they show. Without them a start takes the
/// verifier less.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnRequest {
    /// [`Walker::list_sockets`](crate::kernel::Walker::list_sockets).
    pub listing: bool,
    /// [`Programs::event_stream`](super::Programs::event_stream).
    pub stream: bool,
}

impl OnRequest {
    /// All of them: what an agent serves.
    pub const ALL: Self = Self { listing: true, stream: true };
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            ring_buffer_bytes: maps::EVENTS_BYTES,
            kernel_log: false,
            symbols_by: None,
            one_pass: true,
            on_request: OnRequest::default(),
            work_per_second: WORK_PER_SECOND,
        }
    }
}

/// The walk that inventories use.
#[derive(Clone, Debug)]
pub enum WalkStatus {
    /// One pass over the sockets of all namespaces.
    OnePass,
    /// The iterator, in one namespace after the other; with the reason why not the one pass.
    Iterator(Refusal),
}

impl WalkStatus {
    /// A label of `tcpwatch_scope_info`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::OnePass => "one_pass",
            Self::Iterator(_) => "iterator",
        }
    }
}

impl LoadError {
    /// Whether the cause is a lack of privilege, as far as known.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        match self {
            Self::NotPermitted { .. } => true,
            Self::Object(text) | Self::Hook { why: text, .. } => {
                text.contains(&io::Error::from_raw_os_error(libc::EPERM).to_string())
            }
            Self::Btf(_) | Self::Namespace(_) => false,
        }
    }
}
