//! Giving up capabilities, in every thread of the process.
//!
//! A capability belongs to a thread and only that thread can give it up. Threads that run already,
//! the log's for example, do it in a signal handler. Threads that start later inherit the sets.
//! /proc then shows whether all have done it: no list of threads has to be kept.

use std::{
    fs, io, mem, ptr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Time for the handlers of all threads to run; each takes microseconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(5);

/// Capabilities that the kernel's sets have bits for (include/uapi/linux/capability.h).
const CAPABILITY_BITS: u32 = 64;

/// The set that [`give_up_in_handler`] keeps.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Takes from every thread all capabilities but `kept`, and sets no_new_privs.
pub(super) fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    let drops_bounding_set = capabilities(None)?.effective.contains(CapabilitySet::SETPCAP);
    give_up(kept)?;
    KEPT.store(kept.bits(), Ordering::SeqCst);
    let has_given_up = |status: &str| status_is_within(status, kept, drops_bounding_set);
    in_other_threads(give_up_in_handler, &has_given_up)
}

/// Changes the calling thread. Calls only the kernel, so a signal handler may run it.
fn give_up(kept: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    for bit in 0..CAPABILITY_BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if !kept.contains(capability) {
            // EPERM without CAP_SETPCAP: a service manager has limited the set then. EINVAL beyond
            // the last capability of this kernel. Without execve the set has no effect.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    clear_ambient_capability_set()?;
    let held = capabilities(None)?.permitted & kept;
    let sets =
        CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

extern "C" fn give_up_in_handler(_: libc::c_int) {
    // /proc shows whether it succeeded.
    let _ = give_up(CapabilitySet::from_bits_retain(KEPT.load(Ordering::SeqCst)));
}

/// Runs `handler` in each thread whose status is not `done`, until all are.
fn in_other_threads(
    handler: extern "C" fn(libc::c_int),
    done: &dyn Fn(&str) -> bool,
) -> io::Result<()> {
    // The last one: C libraries take theirs from the other end.
    let signal = libc::SIGRTMAX();
    // SAFETY: all zeroes is a valid sigaction, of no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: both point to live values; the handler only makes system calls.
    if unsafe { libc::sigaction(signal, &raw const action, &raw mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let outcome = signal_until_done(signal, done);
    if outcome.is_ok() {
        // SAFETY: the disposition is the one that sigaction() has just returned. No signal is
        // pending any more: every thread has run its handler.
        unsafe { libc::sigaction(signal, &raw const before, ptr::null_mut()) };
    }
    outcome
}

fn signal_until_done(signal: libc::c_int, done: &dyn Fn(&str) -> bool) -> io::Result<()> {
    let own = std::process::id();
    let began = Instant::now();
    let mut signalled = Vec::new();
    loop {
        let mut waiting = 0;
        for thread in fs::read_dir("/proc/self/task")? {
            let thread = thread?;
            // A thread may end at any time.
            let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
            if done(&status) {
                continue;
            }
            waiting += 1;
            let Some(tid) = thread.file_name().to_str().and_then(|it| it.parse::<u32>().ok())
            else {
                continue;
            };
            if !signalled.contains(&tid) {
                signalled.push(tid);
                // SAFETY: takes no pointer. ESRCH where the thread has ended since.
                unsafe { libc::syscall(libc::SYS_tgkill, own, tid, signal) };
            }
        }
        if waiting == 0 {
            return Ok(());
        }
        if began.elapsed() > DEADLINE {
            let text = format!("{waiting} threads have not given up their capabilities");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the status of a thread (proc_pid_status(5)) shows no capability beyond `kept`.
fn status_is_within(status: &str, kept: CapabilitySet, bounding_set_too: bool) -> bool {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).ok()
    };
    let within = |name| set(name).is_some_and(|set| set & !kept.bits() == 0);
    let empty = |name| set(name) == Some(0);
    within("CapPrm")
        && within("CapEff")
        && empty("CapInh")
        && empty("CapAmb")
        && (within("CapBnd") || !bounding_set_too)
        && set("NoNewPrivs") == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t000000c000000000\n\
        CapEff:\t000000c000000000\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t0\n";

    #[test]
    fn a_thread_with_more_than_it_may_keep_is_found() {
        let kept = CapabilitySet::BPF | CapabilitySet::PERFMON;
        assert!(status_is_within(STATUS, kept, false));
        assert!(!status_is_within(STATUS, kept, true), "the bounding set");
        assert!(!status_is_within(STATUS, CapabilitySet::BPF, false), "the permitted set");
        assert!(!status_is_within(&STATUS.replace("Privs:\t1", "Privs:\t0"), kept, false));
        let ambient = STATUS.replace("CapAmb:\t00000000000000", "CapAmb:\t00000040000000");
        assert!(!status_is_within(&ambient, kept, false), "the ambient set");
        assert!(!status_is_within("", kept, false));
    }

    /// Threads that run already, one of them inside a system call, change too.
    #[test]
    fn every_thread_of_a_process_gives_up() -> io::Result<()> {
        // There is no way back, so another process does it.
        let output = std::process::Command::new(std::env::current_exe()?)
            .args(["--ignored", "--exact", "kernel::capabilities::tests::in_a_process_of_its_own"])
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        Ok(())
    }

    #[test]
    #[ignore = "it changes the whole process: every_thread_of_a_process_gives_up runs it"]
    fn in_a_process_of_its_own() -> io::Result<()> {
        let (_kept_open, blocked) = std::os::unix::net::UnixStream::pair()?;
        std::thread::spawn(move || io::Read::read(&mut &blocked, &mut [0]));
        let (_hold, held) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || held.recv());
        let kept = CapabilitySet::BPF;
        keep_only(kept)?;
        let mut threads = 0;
        for thread in fs::read_dir("/proc/self/task")? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            assert!(status_is_within(&status, kept, false), "{status}");
            threads += 1;
        }
        // The harness, this test and the two.
        assert!(threads >= 4, "{threads} threads");
        let new = std::thread::spawn(|| fs::read_to_string("/proc/thread-self/status"));
        let status = new.join().expect("it does not panic")?;
        assert!(status_is_within(&status, kept, false), "{status}");
        Ok(())
    }
}
