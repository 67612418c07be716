//! Resources of the kernel that run out, with their limits.
//!
//! Each number is `None` where it could not be read, and is then not judged.

use serde::{Deserialize, Serialize};

/// Resources that all namespaces share. Their limits are visible only in the first network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SharedLimits {
    /// Sockets that their process has closed and that the kernel still holds; `orphan` of
    /// `/proc/net/sockstat`, which counts those of all namespaces.
    pub orphans: Option<u64>,
    /// `net.ipv4.tcp_max_orphans`.
    pub orphans_limit: Option<u64>,
    /// Memory of all TCP queues in pages; `mem` of `/proc/net/sockstat`.
    pub tcp_memory_pages: Option<u64>,
    /// The second number of `net.ipv4.tcp_mem`: from here on the kernel cuts buffers.
    pub tcp_memory_pressure_pages: Option<u64>,
    /// The third number of `net.ipv4.tcp_mem`: from here on it drops data.
    pub tcp_memory_limit_pages: Option<u64>,
    /// Bytes of a page.
    pub page_bytes: Option<u64>,
    /// Open files of all processes; the first number of `/proc/sys/fs/file-nr`.
    pub files: Option<u64>,
    /// `fs.file-max`.
    pub files_limit: Option<u64>,
}

/// Connection tracking of one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conntrack {
    /// Entries of this namespace.
    pub entries: u64,
    /// `net.netfilter.nf_conntrack_max`. One value for all namespaces, compared with the entries of
    /// each.
    pub limit: Option<u64>,
    /// Packets dropped because no entry could be made (`drop`).
    pub dropped: Option<u64>,
    /// Entries of unanswered connections that were removed for a new one (`early_drop`).
    pub early_dropped: Option<u64>,
    /// Entries that met an equal one (`insert_failed`): a race of two packets, no lack of entries.
    pub insert_failed: Option<u64>,
}
