//! Processes that call accept(), where several hold a listener.
//!
//! The kernel keeps no record of it. Two signs show it. A process that holds an accepted connection
//! of the port has accepted one, or was given it to serve. A pool of workers is made by fork(): its
//! workers are the processes of the listener's program that are no parent of another one. A process
//! that merely inherited the descriptor runs another program.

use std::{collections::HashSet, sync::Arc};

use crate::facts::Process;

/// Processes that are named.
const NAMED: usize = 8;

/// A process that holds a socket.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) process: Arc<Process>,
    /// Its parent, where that is known.
    pub(super) parent: Option<u32>,
}

/// The processes that accept, of these holders of a listener, the oldest first; none where only one
/// process holds it. `serving` are those that hold accepted connections of its port.
pub(super) fn acceptors(holders: &[Holder], serving: &HashSet<u32>) -> Vec<Arc<Process>> {
    // Under socket activation pid 1 holds what others serve.
    let holders: Vec<&Holder> = holders.iter().filter(|it| it.process.pid != 1).collect();
    let [oldest, _, ..] = &*holders else { return Vec::new() };
    let named = |chosen: Vec<&Holder>| {
        chosen.into_iter().take(NAMED).map(|it| Arc::clone(&it.process)).collect()
    };
    let serve: Vec<&Holder> =
        holders.iter().copied().filter(|it| serving.contains(&it.process.pid)).collect();
    if !serve.is_empty() {
        return named(serve);
    }
    let same: Vec<&Holder> = holders
        .iter()
        .copied()
        .filter(|it| program(&it.process) == program(&oldest.process))
        .collect();
    let parents: HashSet<u32> = same.iter().filter_map(|it| it.parent).collect();
    named(same.into_iter().filter(|it| !parents.contains(&it.process.pid)).collect())
}

/// Identity of a program: the executable, else the name.
fn program(process: &Process) -> &str {
    process.exe.as_deref().unwrap_or(&process.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pid: u32, parent: u32, exe: &str) -> Holder {
        let process = Process { pid, exe: Some(exe.to_owned()), ..Process::default() };
        Holder { process: Arc::new(process), parent: Some(parent) }
    }

    fn pids(holders: &[Holder], serving: &[u32]) -> Vec<u32> {
        let serving = serving.iter().copied().collect();
        acceptors(holders, &serving).iter().map(|process| process.pid).collect()
    }

    #[test]
    fn the_workers_of_a_pool_accept_and_their_master_does_not() {
        let pool = [holder(10, 1, "python3"), holder(11, 10, "python3"), holder(12, 10, "python3")];
        assert_eq!(pids(&pool, &[]), [11, 12]);
        assert!(pids(&pool[..1], &[]).is_empty(), "a single process needs no choice");
        let activated = [holder(1, 0, "systemd"), holder(10, 1, "sshd")];
        assert!(pids(&activated, &[]).is_empty());
        // Two generations, while a new one takes over.
        let both = [holder(10, 1, "nginx"), holder(11, 10, "nginx"), holder(20, 10, "nginx")];
        let more = [both.as_slice(), &[holder(21, 20, "nginx")]].concat();
        assert_eq!(pids(&more, &[]), [11, 21]);
    }

    #[test]
    fn a_program_that_inherited_the_listener_does_not_accept() {
        let pool = [holder(10, 1, "mongoose"), holder(11, 10, "sleep")];
        assert_eq!(pids(&pool, &[]), [10]);
    }

    #[test]
    fn a_process_that_holds_accepted_connections_accepts() {
        // A server of one process, with children of its own that only compute.
        let server = [holder(10, 1, "python3"), holder(11, 10, "python3")];
        assert_eq!(pids(&server, &[10]), [10]);
        assert_eq!(pids(&server, &[99]), [11], "another process's connections are no sign");
    }

    #[test]
    fn of_many_the_first_few_are_named() {
        let many: Vec<Holder> =
            (10..50).map(|pid| holder(pid, u32::from(pid > 10) * 10, "httpd")).collect();
        assert_eq!(pids(&many, &[]), (11..19).collect::<Vec<u32>>());
    }
}
