//! The resources, as an inventory shows them.

use std::fmt;

use crate::facts::{Inventory, Namespace, NetnsId};

/// A resource that has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Resource {
    TcpMemory,
    Orphans,
    Files,
    Conntrack(NetnsId),
}

impl Resource {
    /// The name in the evidence.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::TcpMemory => "tcp_memory",
            Self::Orphans => "orphans",
            Self::Files => "open_files",
            Self::Conntrack(_) => "conntrack",
        }
    }
}

/// The part of an id.
impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpMemory => formatter.write_str("tcp-memory"),
            Self::Orphans => formatter.write_str("orphans"),
            Self::Files => formatter.write_str("open-files"),
            Self::Conntrack(netns) => write!(formatter, "conntrack/{netns}"),
        }
    }
}

/// One resource in one inventory. Memory is in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) resource: Resource,
    pub(super) used: u64,
    /// Never 0.
    pub(super) limit: u64,
    /// From here on the kernel cuts the buffers of TCP.
    pub(super) pressure: Option<u64>,
    /// Losses since they are counted; `None` where nothing counts them.
    pub(super) lost: Option<u64>,
    pub(super) evicted: Option<u64>,
    pub(super) clashed: Option<u64>,
    /// The namespace; `None` for a resource of the whole host.
    pub(super) namespace: Option<&'a Namespace>,
}

impl Reading<'_> {
    fn new(resource: Resource, used: Option<u64>, limit: Option<u64>) -> Option<Self> {
        let (used, limit) = (used?, limit.filter(|limit| *limit > 0)?);
        let (pressure, lost, evicted, clashed, namespace) = (None, None, None, None, None);
        Some(Self { resource, used, limit, pressure, lost, evicted, clashed, namespace })
    }

    /// The part of the limit that is used.
    pub(super) fn part(&self) -> f64 {
        self.used as f64 / self.limit as f64
    }

    /// The part of the pressure mark, where there is one, else of the limit.
    pub(super) fn part_of_mark(&self) -> f64 {
        self.used as f64 / self.pressure.unwrap_or(self.limit) as f64
    }
}

/// All resources with a limit that could be read.
pub(super) fn readings(inventory: &Inventory) -> Vec<Reading<'_>> {
    let of_host = inventory.shared_limits.as_deref().copied().unwrap_or_default();
    let bytes = |pages: Option<u64>| Some(pages?.saturating_mul(of_host.page_bytes?));
    let memory = Reading::new(
        Resource::TcpMemory,
        bytes(of_host.tcp_memory_pages),
        bytes(of_host.tcp_memory_limit_pages),
    );
    let pressure = bytes(of_host.tcp_memory_pressure_pages).filter(|mark| *mark > 0);
    let orphans = Reading::new(Resource::Orphans, of_host.orphans, of_host.orphans_limit);
    let files = Reading::new(Resource::Files, of_host.files, of_host.files_limit);
    let tracked = inventory.namespaces.iter().filter_map(|namespace| {
        let conntrack = namespace.conntrack?;
        let used = Some(conntrack.entries);
        let reading = Reading::new(Resource::Conntrack(namespace.id), used, conntrack.limit)?;
        Some(Reading {
            lost: conntrack.dropped,
            evicted: conntrack.early_dropped,
            clashed: conntrack.insert_failed,
            namespace: Some(namespace),
            ..reading
        })
    });
    let shared = [memory.map(|it| Reading { pressure, ..it }), orphans, files];
    shared.into_iter().flatten().chain(tracked).collect()
}
