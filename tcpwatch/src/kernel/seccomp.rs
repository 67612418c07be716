//! Which system calls are left, by seccomp.
//!
//! A call that is not listed fails with ENOSYS, as on a kernel that lacks it. C libraries and
//! runtimes try newer calls first and fall back on ENOSYS only: after EPERM glibc would start no
//! thread. To end the process instead would let an update of a library take the daemon down. So
//! `clone3` and `openat2` are left out on purpose: their flags are in memory, where no filter can
//! see them.
//!
//! Left out for what they can do: execve, fork, ptrace, mount, keys, modules, kexec, writing to a
//! file that is not open, loading of programs, executable memory.

use std::{collections::BTreeMap, io, thread};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Cmp,
    SeccompCondition as Condition, SeccompFilter, SeccompRule, TargetArch,
};

/// Of a file that may be opened: neither written to nor made. O_TMPFILE contains O_RDWR's bit. Not
/// O_ACCMODE: musl's contains O_PATH, by which the files of a stack are opened.
const WRITES: libc::c_int = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
/// Commands of bpf(2) (include/uapi/linux/bpf.h): elements of maps that are open, iterators, runs and
/// run times of programs that are open. The stream of events attaches its program, which is loaded
/// and open, while it has a reader. No map is made and no program is loaded.
const BPF_COMMANDS: [u64; 13] = [
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    10, // BPF_PROG_TEST_RUN
    15, // BPF_OBJ_GET_INFO_BY_FD
    17, // BPF_RAW_TRACEPOINT_OPEN
    24, // BPF_MAP_LOOKUP_BATCH
    25, // BPF_MAP_LOOKUP_AND_DELETE_BATCH
    26, // BPF_MAP_UPDATE_BATCH
    27, // BPF_MAP_DELETE_BATCH
    28, // BPF_LINK_CREATE
    33, // BPF_ITER_CREATE
];
/// Linux 6.4 (include/uapi/linux/prctl.h).
const PR_GET_AUXV: libc::c_int = 0x4155_5856;
/// Requests of ioctl(2): whether it is a terminal, and modes of sockets.
const IOCTLS: [libc::Ioctl; 4] = [libc::TCGETS, libc::FIONBIO, libc::FIOCLEX, libc::FIONREAD];

/// Modes and size of a terminal. Input cannot be faked with these: TIOCSTI is not among them.
const TERMINAL_IOCTLS: [libc::Ioctl; 4] =
    [libc::TCGETS2, libc::TCSETS, libc::TCSETS2, libc::TIOCGWINSZ];

/// Memory, threads, time and the end: what any program of this kind does.
const COMMON: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The agent's own: /proc, HTTP, the log, the service manager, inventories.
const AGENT: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_capget,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_fstatfs,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getppid,
    libc::SYS_getrusage,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_getuid,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    // Reads the memory of other processes, which CAP_SYS_PTRACE allows.
    libc::SYS_process_vm_readv,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_tid_address,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_uname,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// Older forms of the same, which musl calls where an architecture has them.
#[cfg(target_arch = "x86_64")]
const AGENT_OLDER: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const AGENT_OLDER: &[libc::c_long] = &[];

/// The process that reads the files of strangers: waits for a request and forks for each.
const SYMBOL_SERVER: &[libc::c_long] = &[
    libc::SYS_gettid,
    libc::SYS_prlimit64,
    libc::SYS_recvmsg,
    libc::SYS_seccomp,
    // musl's fork() makes it in the child.
    libc::SYS_set_tid_address,
    libc::SYS_setitimer,
    libc::SYS_wait4,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Confines every thread of the agent.
pub(super) fn confine_agent() -> io::Result<()> {
    apply(agent_rules(std::process::id())?)
}

/// Confines every thread of an agent within a program that draws on a terminal.
pub(super) fn confine_agent_at_terminal() -> io::Result<()> {
    let mut rules = agent_rules(std::process::id())?;
    allow_requests(&mut rules, TERMINAL_IOCTLS)?;
    apply(rules)
}

/// Confines the process that forks the readers.
pub(super) fn confine_symbol_server() -> io::Result<()> {
    let mut rules = any(&[COMMON, SYMBOL_SERVER]);
    allow_data_memory(&mut rules)?;
    allow(&mut rules, libc::SYS_prctl, &[&[equals(0, libc::PR_SET_NO_NEW_PRIVS as u64)?]])?;
    let namespaces = NEW_NAMESPACES as u64;
    allow(&mut rules, libc::SYS_clone, &[&[has_none_of(0, namespaces)?]])?;
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_fork, Vec::new());
    apply(rules)
}

/// Confines a reader: it can read what it has been given, answer and end.
pub(super) fn confine_symbol_reader() -> io::Result<()> {
    let mut rules = any(&[COMMON]);
    allow_data_memory(&mut rules)?;
    apply(rules)
}

/// Does `work` in a thread that can open no file: open(2) fails with EACCES there. Where the kernel
/// has no seccomp, `work` can open files.
pub(super) fn without_files<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let confine = || -> io::Result<()> {
        let mut calls = any(&[&[libc::SYS_openat]]);
        #[cfg(target_arch = "x86_64")]
        calls.insert(libc::SYS_open, Vec::new());
        let refused = SeccompAction::Errno(libc::EACCES as u32);
        seccompiler::apply_filter(&filter(calls, SeccompAction::Allow, refused)?)
            .map_err(io::Error::other)
    };
    let confined = || {
        if let Err(error) = confine() {
            tracing::debug!(%error, "a thread can open files");
        }
        work()
    };
    thread::scope(|scope| match scope.spawn(confined).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Flags of clone(2) that make a namespace.
const NEW_NAMESPACES: libc::c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

fn agent_rules(own_pid: u32) -> io::Result<Rules> {
    let mut rules = any(&[COMMON, AGENT, AGENT_OLDER]);
    allow_data_memory(&mut rules)?;
    // A thread, not a process.
    let thread = libc::CLONE_THREAD as u64;
    let is_thread = condition(0, Width::Qword, Cmp::MaskedEq(thread), thread)?;
    let no_namespace = has_none_of(0, NEW_NAMESPACES as u64)?;
    allow(&mut rules, libc::SYS_clone, &[&[is_thread, no_namespace]])?;
    // Only to itself: abort() of a C library.
    allow(&mut rules, libc::SYS_tgkill, &[&[equals(0, u64::from(own_pid))?]])?;
    allow(&mut rules, libc::SYS_openat, &[&[has_none_of(2, WRITES as u64)?]])?;
    #[cfg(target_arch = "x86_64")]
    allow(&mut rules, libc::SYS_open, &[&[has_none_of(1, WRITES as u64)?]])?;
    // Limits are read; the new ones would be in memory.
    allow(&mut rules, libc::SYS_prlimit64, &[&[condition(2, Width::Qword, Cmp::Eq, 0)?]])?;
    // Names of threads; what the processor can do, for Rust's standard library.
    for option in [libc::PR_SET_NAME, PR_GET_AUXV] {
        allow(&mut rules, libc::SYS_prctl, &[&[equals(0, option as u64)?]])?;
    }
    allow(&mut rules, libc::SYS_setns, &[&[equals(1, libc::CLONE_NEWNET as u64)?]])?;
    // TCP of both versions for a namespace's cookie; the journal and the service manager.
    for family in [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX] {
        allow(&mut rules, libc::SYS_socket, &[&[equals(0, family as u64)?]])?;
    }
    for command in BPF_COMMANDS {
        allow(&mut rules, libc::SYS_bpf, &[&[equals(0, command)?]])?;
    }
    allow_requests(&mut rules, IOCTLS)?;
    Ok(rules)
}

/// Requests of ioctl(2) on files that are open.
fn allow_requests(rules: &mut Rules, requests: [libc::Ioctl; 4]) -> io::Result<()> {
    for request in requests {
        #[allow(clippy::unnecessary_cast, reason = "an int with musl")]
        let request = request as u64;
        allow(rules, libc::SYS_ioctl, &[&[equals(1, request)?]])?;
    }
    Ok(())
}

/// Memory for data, not for code.
fn allow_data_memory(rules: &mut Rules) -> io::Result<()> {
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        allow(rules, call, &[&[has_none_of(2, libc::PROT_EXEC as u64)?]])?;
    }
    Ok(())
}

/// Calls that are allowed with any arguments.
fn any(lists: &[&[libc::c_long]]) -> Rules {
    lists.iter().copied().flatten().map(|&call| (call, Vec::new())).collect()
}

/// Allows a call where all conditions of one of these lists hold.
fn allow(rules: &mut Rules, call: libc::c_long, cases: &[&[Condition]]) -> io::Result<()> {
    for case in cases {
        let rule = SeccompRule::new(case.to_vec()).map_err(io::Error::other)?;
        rules.entry(call).or_default().push(rule);
    }
    Ok(())
}

fn condition(argument: u8, width: Width, cmp: Cmp, value: u64) -> io::Result<Condition> {
    Condition::new(argument, width, cmp, value).map_err(io::Error::other)
}

/// The lower half: the arguments are of type int in the kernel.
fn equals(argument: u8, value: u64) -> io::Result<Condition> {
    condition(argument, Width::Dword, Cmp::Eq, value)
}

fn has_none_of(argument: u8, bits: u64) -> io::Result<Condition> {
    condition(argument, Width::Dword, Cmp::MaskedEq(bits), 0)
}

/// For all threads at once. Sets no_new_privs, without which a filter takes CAP_SYS_ADMIN.
fn apply(rules: Rules) -> io::Result<()> {
    seccompiler::apply_filter_all_threads(&compile(rules)?).map_err(io::Error::other)
}

fn compile(rules: Rules) -> io::Result<BpfProgram> {
    filter(rules, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)
}

/// With the outcome of the calls that have no rule, and of those that have one.
fn filter(rules: Rules, others: SeccompAction, listed: SeccompAction) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, others, listed, arch);
    filter.map_err(io::Error::other)?.try_into().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `call` in a child process that has applied these rules; returns its errno, 0 for none.
    fn errno_under(rules: Rules, call: impl Fn() -> libc::c_long) -> io::Result<i32> {
        let program = compile(rules)?;
        // SAFETY: the child makes system calls only: it takes no lock and allocates nothing.
        match unsafe { libc::fork() } {
            0 => {
                let applied = seccompiler::apply_filter(&program).is_ok();
                let failed = call() == -1;
                // SAFETY: errno is the child's own, and _exit does not return.
                unsafe {
                    let errno = if failed { *libc::__errno_location() } else { 0 };
                    libc::_exit(if applied { errno } else { 255 })
                }
            }
            child => {
                let mut status = 0;
                // SAFETY: the pointer is to a live value, and the child is ours.
                let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert!(waited == child && libc::WIFEXITED(status), "{status:#x}");
                Ok(libc::WEXITSTATUS(status))
            }
        }
    }

    /// A system call with these arguments; each test makes ones that do no harm if let through.
    fn call(number: libc::c_long, arguments: [u64; 6]) -> impl Fn() -> libc::c_long {
        move || {
            let [a, b, c, d, e, f] = arguments;
            // SAFETY: pointers among the arguments are NULL or to static bytes that are only read.
            unsafe { libc::syscall(number, a, b, c, d, e, f) }
        }
    }

    #[test]
    fn a_thread_without_files_opens_none_and_others_do() {
        let open = || std::fs::read("/proc/self/stat").map_err(|error| error.kind());
        assert_eq!(without_files(open), Err(io::ErrorKind::PermissionDenied));
        assert!(open().is_ok());
    }

    fn agent() -> io::Result<Rules> {
        agent_rules(std::process::id())
    }

    #[test]
    fn dangerous_calls_look_as_if_the_kernel_lacked_them() -> io::Result<()> {
        let null = c"/dev/null".as_ptr() as u64;
        let at_cwd = libc::AT_FDCWD as u64;
        let refused = [
            ("execve", libc::SYS_execve, [0; 6]),
            ("execveat", libc::SYS_execveat, [0; 6]),
            ("ptrace", libc::SYS_ptrace, [99, 0, 0, 0, 0, 0]),
            ("kill", libc::SYS_kill, [1, 0, 0, 0, 0, 0]),
            ("mount", libc::SYS_mount, [0; 6]),
            ("unshare", libc::SYS_unshare, [0; 6]),
            ("init_module", libc::SYS_init_module, [0; 6]),
            ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 99, 0, 0]),
            ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
            ("keyctl", libc::SYS_keyctl, [99, 0, 0, 0, 0, 0]),
            ("a process", libc::SYS_clone, [libc::CLONE_VM as u64, 0, 0, 0, 0, 0]),
            ("setns of mounts", libc::SYS_setns, [u64::MAX, libc::CLONE_NEWNS as u64, 0, 0, 0, 0]),
            ("setns of any", libc::SYS_setns, [u64::MAX, 0, 0, 0, 0, 0]),
            ("netlink", libc::SYS_socket, [libc::AF_NETLINK as u64, 2, 0, 0, 0, 0]),
            ("packets", libc::SYS_socket, [libc::AF_PACKET as u64, 2, 0, 0, 0, 0]),
            ("loading a program", libc::SYS_bpf, [5, 0, 0, 0, 0, 0]),
            ("making a map", libc::SYS_bpf, [0; 6]),
            ("writing", libc::SYS_openat, [at_cwd, null, libc::O_WRONLY as u64, 0, 0, 0]),
            ("both", libc::SYS_openat, [at_cwd, null, libc::O_RDWR as u64, 0, 0, 0]),
            ("code", libc::SYS_mmap, [0, 4096, libc::PROT_EXEC as u64, 0x22, u64::MAX, 0]),
            ("code later", libc::SYS_mprotect, [0, 0, libc::PROT_EXEC as u64, 0, 0, 0]),
            ("limits", libc::SYS_prlimit64, [0, 7, 1, 0, 0, 0]),
            ("another process", libc::SYS_tgkill, [1, 1, 0, 0, 0, 0]),
        ];
        for (what, number, arguments) in refused {
            let errno = errno_under(agent()?, call(number, arguments))?;
            assert_eq!(errno, libc::ENOSYS, "{what}");
        }
        Ok(())
    }

    #[test]
    fn what_the_agent_does_reaches_the_kernel() -> io::Result<()> {
        let null = c"/dev/null".as_ptr() as u64;
        let at_cwd = libc::AT_FDCWD as u64;
        let bad = u64::MAX;
        let let_through = [
            (libc::SYS_openat, [at_cwd, null, libc::O_CLOEXEC as u64, 0, 0, 0], 0),
            (libc::SYS_openat, [at_cwd, null, libc::O_PATH as u64, 0, 0, 0], 0),
            (libc::SYS_socket, [libc::AF_INET as u64, 2, 0, 0, 0, 0], 0),
            (libc::SYS_setns, [bad, libc::CLONE_NEWNET as u64, 0, 0, 0, 0], libc::EBADF),
            (libc::SYS_prlimit64, [0, 7, 0, 0, 0, 0], 0),
            (libc::SYS_ioctl, [bad, 0x5421, 0, 0, 0, 0], libc::EBADF),
            (libc::SYS_mmap, [0, 4096, libc::PROT_READ as u64, 0x22, bad, 0], 0),
        ];
        for (number, arguments, errno) in let_through {
            assert_eq!(errno_under(agent()?, call(number, arguments))?, errno, "call {number}");
        }
        Ok(())
    }

    #[test]
    fn modes_of_a_terminal_are_set_at_a_terminal_only_and_input_is_never_faked() -> io::Result<()> {
        let at_terminal = || -> io::Result<Rules> {
            let mut rules = agent()?;
            allow_requests(&mut rules, TERMINAL_IOCTLS)?;
            Ok(rules)
        };
        // include/uapi/asm-generic/ioctls.h: their types differ between C libraries.
        const TCSETS: u64 = 0x5402;
        const TIOCSTI: u64 = 0x5412;
        let request = |request| call(libc::SYS_ioctl, [u64::MAX, request, 0, 0, 0, 0]);
        assert_eq!(errno_under(agent()?, request(TCSETS))?, libc::ENOSYS);
        assert_eq!(errno_under(at_terminal()?, request(TCSETS))?, libc::EBADF);
        assert_eq!(errno_under(at_terminal()?, request(TIOCSTI))?, libc::ENOSYS);
        Ok(())
    }

    #[test]
    fn a_reader_can_open_and_start_nothing() -> io::Result<()> {
        let null = c"/dev/null".as_ptr() as u64;
        let at_cwd = libc::AT_FDCWD as u64;
        let reader = || -> io::Result<Rules> {
            let mut rules = any(&[COMMON]);
            allow_data_memory(&mut rules)?;
            Ok(rules)
        };
        let refused = [
            (libc::SYS_openat, [at_cwd, null, 0, 0, 0, 0]),
            (libc::SYS_socket, [libc::AF_UNIX as u64, 2, 0, 0, 0, 0]),
            (libc::SYS_clone, [libc::CLONE_THREAD as u64, 0, 0, 0, 0, 0]),
            (libc::SYS_execve, [0; 6]),
            (libc::SYS_process_vm_readv, [1, 0, 0, 0, 0, 0]),
            (libc::SYS_prctl, [libc::PR_SET_NAME as u64, null, 0, 0, 0, 0]),
        ];
        for (number, arguments) in refused {
            let errno = errno_under(reader()?, call(number, arguments))?;
            assert_eq!(errno, libc::ENOSYS, "call {number}");
        }
        assert_eq!(errno_under(reader()?, call(libc::SYS_getpid, [0; 6]))?, 0);
        Ok(())
    }
}
