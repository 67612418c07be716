//! Errors of loading and reading the kernel side, on one line.

use std::io;

use aya::maps::MapError;

/// Why an inventory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// A namespace could not be entered.
    #[error("cannot enter the agent's own network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// A slice of the one pass.
    #[error("cannot run the walk: {0}")]
    Run(#[source] io::Error),
    /// The kernel's tables were not found.
    #[error("cannot find the kernel's socket tables; report the kernel's version")]
    NoTables,
    /// The list of namespaces was torn again and again.
    #[error("cannot list network namespaces: they come and go while the list is read")]
    TornList,
    /// Its program.
    #[error("cannot open the walk: {0}")]
    Open(#[source] io::Error),
    /// Its map.
    #[error("cannot exchange the walk's parameters: {0}")]
    Map(#[from] MapError),
    /// Reading it.
    #[error("cannot read the walk: {0}")]
    Read(#[source] io::Error),
    /// No program walks.
    #[error("no walk over the sockets is loaded; `tcpwatch doctor` says why")]
    NoWalk,
    /// This kernel refuses the program.
    #[error("sockets cannot be listed on this kernel; `tcpwatch doctor` says why")]
    NoListing,
    /// This kernel refuses the program that finds owners.
    #[error("the process behind a socket is not seen on this kernel; `tcpwatch doctor` says why")]
    NoOwners,
    /// The agent ends.
    #[error("the inventory was stopped")]
    Stopped,
}

/// The verifier's objection: the last line of its log before the statistics.
pub(super) fn complaint(log: &str) -> Option<&str> {
    let is_complaint = |line: &&str| {
        let statistics = ["processed", "verification", "stack depth"];
        !(line.is_empty() || statistics.iter().any(|start| line.starts_with(start)))
    };
    log.lines().rev().map(str::trim).find(is_complaint)
}

/// An error with all its causes, on one line; the verifier's log is cut to its last line.
pub(super) fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let mut message = error.to_string();
        if let Some((head, log)) = message.split_once("Verifier output:") {
            message = match complaint(log) {
                Some(complaint) => format!("{head}verifier: {complaint}"),
                None => head.trim_end().trim_end_matches('.').to_owned(),
            };
        }
        let message = message.replace('\n', " ");
        // aya's messages often contain their cause already.
        if !text.contains(&message) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(message.trim());
        }
        next = error.source();
    }
    text
}

/// The name of an error number, as manual pages write it.
pub(super) fn errno_name(errno: i32) -> String {
    /// `ENOTSUPP` of include/linux/errno.h, which libc does not know.
    const ENOTSUPP: i32 = 524;
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EIO => "EIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ENOSPC => "ENOSPC",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        ENOTSUPP => "ENOTSUPP",
        _ => return format!("error {errno}"),
    };
    name.to_owned()
}
