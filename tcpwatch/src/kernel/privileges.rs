//! Privileges of the process once its hooks are attached.
//!
//! Nothing is loaded after the start. Sockets, ring and maps are open. The agent still reads /proc,
//! walks and enters namespaces, and gives up whatever these three do not need.

use std::io;

use rustix::thread::{CapabilitySet, capabilities};

use super::{Scope, capabilities as threads, seccomp};

/// Confines every thread of this process, present and future, to what walks of `scope` take:
/// capabilities, no_new_privs and a filter of system calls. There is no way back.
///
/// The user id stays. Root without capabilities still owns its files, a configuration of mode 600
/// among them, and another user id would gain nothing against the filter.
pub fn confine(scope: Scope) -> io::Result<()> {
    confine_by(scope, seccomp::confine_agent)
}

/// Likewise, and the modes of the terminal can still be set.
pub fn confine_at_terminal(scope: Scope) -> io::Result<()> {
    confine_by(scope, seccomp::confine_agent_at_terminal)
}

fn confine_by(scope: Scope, filter: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    threads::keep_only(needed(scope, capabilities(None)?.permitted))?;
    if let Err(error) = filter() {
        // A kernel without CONFIG_SECCOMP_FILTER. The capabilities are given up all the same.
        tracing::warn!(%error, "system calls not filtered");
    }
    Ok(())
}

/// CAP_BPF and CAP_PERFMON for the maps and the iterators; to enter another namespace CAP_SYS_ADMIN,
/// and CAP_SYS_PTRACE to reach it, and executables and stacks, through the processes of others.
fn needed(scope: Scope, held: CapabilitySet) -> CapabilitySet {
    let bpf = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let mut needed = bpf;
    if scope == Scope::All {
        needed |= CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE;
    }
    if !held.contains(bpf) {
        // It implies both (capabilities(7)); container runtimes older than these give only it.
        needed |= CapabilitySet::SYS_ADMIN;
    }
    needed
}

/// Confines the process that reads the files of other users; see [`super::symbol_server`].
pub(super) fn confine_symbol_server() -> io::Result<()> {
    threads::keep_only(CapabilitySet::empty())?;
    seccomp::confine_symbol_server()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_namespaces_take_more_than_bpf() {
        let bpf = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let namespaces = CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE;
        assert_eq!(needed(Scope::Host, CapabilitySet::all()), bpf);
        assert_eq!(needed(Scope::All, CapabilitySet::all()), bpf | namespaces);
        let old_runtime = CapabilitySet::SYS_ADMIN;
        assert!(needed(Scope::Host, old_runtime).contains(CapabilitySet::SYS_ADMIN));
    }
}
