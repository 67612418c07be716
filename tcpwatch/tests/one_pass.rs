//! The one pass over all network namespaces, against `ss` and against the iterator.
//!
//! Kernels before 6.1 have the iterator only; there the comparison with the one pass skips.

mod support;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::thread::UnshareFlags;
use scenes::{CloseWaitLeak, Established, Namespace, PortRange, TimeWaits};
use socket2::{Domain, SockRef, Socket, Type};
use support::poll;
use tcpwatch::{
    facts::{Focus, Inventory, Namespace as SeenNamespace, TcpState},
    kernel::{LoadOptions, OwnerPolicy, Programs, Scope, WalkStatus, Walker},
};

/// `ss -tan`'s name of each state.
const STATES: [(&str, TcpState); 11] = [
    ("ESTAB", TcpState::Established),
    ("SYN-SENT", TcpState::SynSent),
    ("SYN-RECV", TcpState::SynRecv),
    ("FIN-WAIT-1", TcpState::FinWait1),
    ("FIN-WAIT-2", TcpState::FinWait2),
    ("TIME-WAIT", TcpState::TimeWait),
    ("UNCONN", TcpState::Close),
    ("CLOSE-WAIT", TcpState::CloseWait),
    ("LAST-ACK", TcpState::LastAck),
    ("LISTEN", TcpState::Listen),
    ("CLOSING", TcpState::Closing),
];

/// Only the kernel side, with one of the walks. Dropping it detaches everything.
struct Kernel {
    walker: Walker,
    _others: Box<dyn std::any::Any>,
}

impl Kernel {
    /// `None` where this kernel does not have the walk, which from 6.1 on it must.
    fn load(by_iterator: bool) -> Result<Option<Self>> {
        let programs =
            Programs::load(&LoadOptions { one_pass: !by_iterator, ..LoadOptions::default() })?;
        programs.require_indispensable()?;
        let is_one_pass = matches!(programs.walk(), WalkStatus::OnePass);
        if is_one_pass == by_iterator {
            ensure!(kernel_version()? < (6, 1), "no one pass: {:?}", programs.walk());
            return Ok(None);
        }
        let (ring, counters, walker, links) = programs.split(Scope::All, 10_000)?;
        Ok(Some(Self { walker, _others: Box::new((ring, counters, links)) }))
    }

    /// Both walks, that of the iterator first.
    fn both() -> Result<Vec<Self>> {
        Ok([Self::load(true)?, Self::load(false)?].into_iter().flatten().collect())
    }

    fn look(&mut self, ports: &[u16]) -> Result<Inventory> {
        let focus = Focus { ports: ports.to_vec(), ..Focus::default() };
        Ok(self.walker.inventory(OwnerPolicy::AtOnce, &focus)?)
    }

    fn look_at(&mut self, ns: &Namespace, ports: &[u16]) -> Result<SeenNamespace> {
        let mut namespaces = self.look(ports)?.namespaces.into_iter();
        namespaces.find(|seen| *seen.name == *ns.name()).context("the namespace was not walked")
    }
}

/// The kernel side with the one pass; `None` with a note where there is none, or no root.
fn one_pass() -> Result<Option<Kernel>> {
    if !scenes::root_or_skip() {
        return Ok(None);
    }
    let kernel = Kernel::load(false)?;
    if kernel.is_none() {
        scenes::note_skip("needs the one pass, which kernels before 6.1 do not have");
    }
    Ok(kernel)
}

fn kernel_version() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let mut number = || numbers.next().context("no version")?.context("no number");
    Ok((number()?, number()?))
}

fn states_by_ss(ns: &Namespace) -> Result<BTreeMap<&'static str, u64>> {
    let mut counts: BTreeMap<_, u64> = STATES.iter().map(|(name, _)| (*name, 0)).collect();
    for line in ns.ss(&["-tanH"])?.lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        let count = STATES.iter().find(|(name, _)| *name == word);
        let (name, _) = count.with_context(|| format!("a state that ss did not have: {line}"))?;
        *counts.entry(name).or_default() += 1;
    }
    Ok(counts)
}

fn states_of(seen: &SeenNamespace) -> BTreeMap<&'static str, u64> {
    STATES.iter().map(|(name, state)| (*name, seen.sockets.get(*state))).collect()
}

#[test]
fn both_walks_count_what_ss_shows_in_every_namespace_when_nothing_moves() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let first = Namespace::new("pass-a")?;
    let second = Namespace::new("pass-b")?;
    let empty = Namespace::new("pass-c")?;
    let _established = Established::make(&first, 250)?;
    let _close_wait = CloseWaitLeak::client(&first, 70, 0, false)?;
    let _close_wait6 = CloseWaitLeak::server(&first, 60, 0, true)?;
    let _time_waits = TimeWaits::make(&first, 400, 8_000)?;
    let _orphan = scenes::orphaned_fin_wait2(&first)?;
    let _syn_sent = support::syn_sent(&first)?;
    let _established2 = Established::make(&second, 11)?;
    let _time_waits2 = TimeWaits::make(&second, 5, 8_000)?;
    let _listener = second.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7_000)))??;
    scenes::half_open(&second, 12, 1, 7_000)?;
    let walks = Kernel::both()?;
    let count = walks.len();
    for (mut kernel, by) in walks.into_iter().zip(["iterator", "one pass"]) {
        // An orphan in FIN_WAIT2 becomes a minisocket a moment after close(), and a SYN-ACK is given
        // up: a difference is given time to vanish.
        poll(by, || {
            for ns in [&first, &second, &empty] {
                let before = states_by_ss(ns)?;
                let seen = states_of(&kernel.look_at(ns, &[])?);
                if before != states_by_ss(ns)? || seen != before {
                    println!("{by}, {}: {seen:?}, by ss {before:?}", ns.name());
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
    }
    ensure!(count == 2 || kernel_version()? < (6, 1), "{count} walks");
    Ok(())
}

/// Facts on which both walks must agree beside the states.
fn facts_of(seen: &SeenNamespace) -> String {
    let mut listeners: Vec<_> = seen
        .listeners
        .iter()
        .map(|it| {
            let queue = (it.accept_queue, it.accept_limit, it.half_open, it.drops);
            let how = (it.port_picked, it.awaited, it.in_port_range, it.local_clients);
            (it.local.to_string(), queue, how, it.first_waiting.is_some(), it.unanswered)
        })
        .collect();
    listeners.sort();
    let mut close_wait: Vec<_> = seen
        .close_wait
        .iter()
        .map(|it| {
            let ends = (it.local.to_string(), it.peer.to_string());
            (ends, it.recv_queue, it.since_exact, it.unaccepted, it.owner.is_some())
        })
        .collect();
    close_wait.sort();
    let mut holders: Vec<_> = seen
        .port_holders
        .iter()
        .map(|it| format!("{:?} {} {}", it.state, it.local, it.peer))
        .collect();
    holders.sort();
    let mut ports = seen.ports.clone();
    ports.busy.sort_by_key(|it| it.peer.to_string());
    let settings = (
        seen.syncookies,
        seen.somaxconn,
        seen.abort_on_overflow,
        seen.retries2,
        seen.orphan_retries,
        seen.time_wait,
        seen.netstat,
    );
    let samples = (seen.self_connected.len(), seen.waiting.len());
    format!("{:#?}", (seen.id, ports, settings, listeners, close_wait, holders, samples))
}

#[test]
fn both_walks_yield_the_same_facts_and_settings() -> Result<()> {
    let Some(mut pass) = one_pass()? else { return Ok(()) };
    let mut iterator = Kernel::load(true)?.context("no iterator")?;
    let ns = Namespace::new("same")?;
    for (key, value) in [
        ("net.ipv4.ip_local_reserved_ports", "41000-41009,41063,50000"),
        ("net.ipv4.tcp_max_tw_buckets", "1234"),
        ("net.ipv4.tcp_retries2", "9"),
        ("net.ipv4.tcp_orphan_retries", "3"),
        ("net.ipv4.tcp_abort_on_overflow", "1"),
        ("net.ipv4.tcp_syncookies", "0"),
        ("net.ipv4.tcp_timestamps", "0"),
        ("net.ipv4.tcp_tw_reuse", "0"),
        ("net.core.somaxconn", "77"),
    ] {
        ns.sysctl_set(key, value)?;
    }
    let mut range = PortRange::new(&ns, 41_000..=41_119, 8_081)?;
    range.use_up(20, 60)?;
    let _leak = CloseWaitLeak::server(&ns, 40, 3, false)?;
    let _established = Established::make(&ns, 9)?;
    let _waiting = support::syn_sent(&ns)?;
    let _connection = scenes::SelfConnection::make(&ns, Ipv4Addr::LOCALHOST.into())?;
    let taken: Vec<u16> = ns.sockets()?.iter().map(|it| it.local.port()).collect();
    let mut free = (41_010..=41_062).filter(|port| !taken.contains(port));
    let (listening, bound) = (free.next().context("no port")?, free.next().context("no port")?);
    let (_listener, _clients) = ns.enter(|| -> io::Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 5), listening))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        // Bound before connect(), on a port of its own.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, bound)).into())?;
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, 8_081)).into())?;
        Ok((listener, (client, socket)))
    })??;
    let ports = [8_081, listening];
    // A SYN waits a second before it is described.
    thread::sleep(Duration::from_millis(1_100));
    poll("both walks to agree", || {
        let (by_iterator, by_pass) = (iterator.look_at(&ns, &ports)?, pass.look_at(&ns, &ports)?);
        // The sample of users of a busy destination begins where the walk knows that it is busy. The pass has
        // read all pinned ports by then, the iterator those that it has met: 0 to 2.
        let (fewer, users) = (by_iterator.port_users.len(), by_pass.port_users.len());
        let (by_iterator, by_pass) = (facts_of(&by_iterator), facts_of(&by_pass));
        if by_iterator == by_pass && (fewer..=fewer + 2).contains(&users) {
            return Ok(Some(()));
        }
        println!("users of ports: {fewer} by the iterator, {users} by the pass");
        for (iterator, pass) in by_iterator.lines().zip(by_pass.lines()) {
            if iterator != pass {
                println!("iterator {iterator}   one pass {pass}");
            }
        }
        Ok(None)
    })?;
    let seen = pass.look_at(&ns, &ports)?;
    assert_eq!(seen.ports.reserved, "41000-41009,41063,50000");
    assert_eq!(seen.ports.range, (41_000, 41_119));
    // The connection to itself is the other one.
    assert_eq!(seen.ports.bound_before_connect, 2);
    assert!(!seen.ports.busy.is_empty() && !seen.port_users.is_empty(), "{:#?}", seen.ports);
    assert_eq!(seen.close_wait.len(), 40);
    assert_eq!(seen.self_connected.len(), 1);
    assert_eq!(seen.time_wait.limit, Some(1_234));
    Ok(())
}

/// The cookie of the namespace of a socket, by which facts identify it.
fn cookie_of(socket: &impl AsRawFd) -> Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    let value = (&raw mut cookie).cast();
    // SAFETY: both pointers are to live values of the sizes that are given.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut length) };
    ensure!(result == 0, "SO_NETNS_COOKIE: {}", io::Error::last_os_error());
    Ok(cookie)
}

/// Runs `work` on a thread in a new namespace without a name, made from within `parent`; when it
/// ends, only what it returns keeps the namespace.
fn in_nameless<T: Send>(parent: &Namespace, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    parent.enter(|| -> Result<T> {
        // SAFETY: other threads do not share what is left behind.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
        // A child has the namespace of the thread that starts it.
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        ensure!(up.success(), "lo stays down");
        work()
    })?
}

/// Both ends of so many connections, with their listener.
fn connections(count: usize) -> Result<(TcpListener, Vec<(TcpStream, TcpStream)>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut made = Vec::new();
    for _ in 0..count {
        let client = TcpStream::connect(listener.local_addr()?)?;
        made.push((client, listener.accept()?.0));
    }
    Ok((listener, made))
}

fn with_id(inventory: &Inventory, id: u64) -> Result<&SeenNamespace> {
    inventory.namespaces.iter().find(|it| it.id == id).context("the namespace is not seen")
}

#[test]
fn a_namespace_that_only_a_descriptor_keeps_is_seen() -> Result<()> {
    let Some(mut pass) = one_pass()? else { return Ok(()) };
    let parent = Namespace::new("parent")?;
    let (listener, _made) = in_nameless(&parent, || connections(30))?;
    let id = cookie_of(&listener)?;
    let inventory = pass.look(&[])?;
    let seen = with_id(&inventory, id)?;
    assert_eq!(&*seen.name, "");
    assert_eq!(seen.sockets.get(TcpState::Established), 60);
    assert_eq!(seen.listeners.len(), 1);
    let owner = seen.listeners[0].owner.as_ref().context("the listener has no owner")?;
    assert_eq!(owner.process.pid, std::process::id());
    // No process is there that shows its counters, and it has no name by which it could be entered.
    assert_eq!(seen.netstat, None);
    drop(listener);
    Ok(())
}

#[test]
fn a_namespace_with_a_table_of_its_own_is_walked() -> Result<()> {
    let Some(mut pass) = one_pass()? else { return Ok(()) };
    let parent = Namespace::new("pernet")?;
    parent.sysctl_set("net.ipv4.tcp_child_ehash_entries", "64")?;
    // More connections than buckets.
    let (listener, made) = in_nameless(&parent, || {
        let own = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_ehash_entries")?;
        ensure!(own.trim() == "64", "a table of {own}");
        connections(100)
    })?;
    let id = cookie_of(&listener)?;
    let inventory = pass.look(&[])?;
    let seen = with_id(&inventory, id)?;
    assert_eq!(seen.sockets.get(TcpState::Established), 200);
    assert_eq!(seen.sockets.get(TcpState::Listen), 1);
    // Its parent shares the table of the others.
    let named = inventory.namespaces.iter().find(|it| *it.name == *parent.name());
    assert_eq!(named.context("no parent")?.sockets.total(), 0);
    drop(made);
    Ok(())
}

#[test]
fn sockets_that_are_only_bound_hold_their_port() -> Result<()> {
    let Some(mut pass) = one_pass()? else { return Ok(()) };
    let ns = Namespace::new("bound-only")?;
    ns.sysctl_set("net.ipv4.ip_local_port_range", "42000 42009")?;
    let bind = |port: u16| -> Result<Socket> {
        ns.enter(|| -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
            Ok(socket)
        })?
        .context("cannot bind")
    };
    let bound: Vec<Socket> = (42_000..42_004).map(bind).collect::<Result<_>>()?;
    let _elsewhere = bind(9_000)?;
    let seen = pass.look_at(&ns, &[42_001, 9_000])?;
    assert_eq!(seen.ports.pinned, 4, "{:#?}", seen.ports);
    assert_eq!((seen.ports.bound_before_connect, seen.ports.pinned_in_time_wait), (0, Some(0)));
    // They have no state that ss shows.
    assert_eq!(seen.sockets.total(), 0);
    let mut ports: Vec<u16> = seen.port_holders.iter().map(|it| it.local.port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [9_000, 42_001]);
    for holder in &seen.port_holders {
        assert_eq!(holder.state, TcpState::Close);
        let owner = holder.owner.as_ref().context("the holder has no owner")?;
        assert_eq!(owner.process.pid, std::process::id());
    }
    drop(bound);
    assert_eq!(pass.look_at(&ns, &[42_001])?.ports.pinned, 0);
    Ok(())
}

#[test]
fn under_churn_the_totals_of_both_walks_stay_within_what_moved() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    const STEADY: u64 = 200;
    let ns = Namespace::new("churn")?;
    // No port is used twice meanwhile.
    ns.sysctl_set("net.ipv4.tcp_tw_reuse", "0")?;
    let _steady = Established::make(&ns, STEADY as usize)?;
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let churn = || -> Result<()> {
        ns.enter(|| -> Result<()> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            while !stop.load(Ordering::Relaxed) {
                let client = TcpStream::connect(listener.local_addr()?)?;
                made.fetch_add(1, Ordering::SeqCst);
                drop(client);
                drop(listener.accept()?);
                // As many ports as last for the test.
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })?
    };
    let time_wait = || ns.ss_count(scenes::State::TimeWait).map(|count| count as u64);
    thread::scope(|scope| -> Result<()> {
        let churn = scope.spawn(churn);
        let looked = || -> Result<()> {
            for mut kernel in Kernel::both()? {
                for _ in 0..10 {
                    let (began, before) = (made.load(Ordering::SeqCst), time_wait()?);
                    let seen = kernel.look_at(&ns, &[])?;
                    let after = time_wait()?;
                    let moved = made.load(Ordering::SeqCst) - began + 1;
                    let established = seen.sockets.get(TcpState::Established);
                    let steady = 2 * STEADY..=2 * STEADY + 2 * moved;
                    ensure!(steady.contains(&established), "{established} of {steady:?}");
                    // In a slow machine some end meanwhile: a TIME_WAIT lasts a minute.
                    let ended = (before + moved).saturating_sub(after);
                    let waiting = seen.sockets.get(TcpState::TimeWait);
                    let between = before.saturating_sub(ended)..=before + moved;
                    ensure!(between.contains(&waiting), "{waiting} of {between:?}");
                }
            }
            Ok(())
        };
        let looked = looked();
        stop.store(true, Ordering::Relaxed);
        churn.join().expect("it does not panic")?;
        looked
    })?;
    ensure!(made.into_inner() > 20, "nothing moved");
    Ok(())
}

/// Memory whose first use waits for the holder of the descriptor (userfaultfd(2)).
struct Unmapped {
    faults: File,
    address: usize,
}

impl Unmapped {
    const BYTES: usize = 4_096;

    /// `None` where this kernel has no userfaultfd.
    fn new() -> Result<Option<Self>> {
        // include/uapi/linux/userfaultfd.h.
        const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
        const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
        const UFFD_API: u64 = 0xaa;
        const MISSING: u64 = 1;
        // SAFETY: takes no pointer.
        let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        if descriptor < 0 {
            return Ok(None);
        }
        // SAFETY: the descriptor is new and has no other owner.
        let faults = unsafe { File::from_raw_fd(i32::try_from(descriptor)?) };
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping of its own.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), Self::BYTES, access, kind, -1, 0) };
        ensure!(address != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        let address = address as usize;
        let mut api = [UFFD_API, 0, 0];
        let mut register = [address as u64, Self::BYTES as u64, MISSING, 0];
        for (request, argument) in
            [(UFFDIO_API, api.as_mut_ptr()), (UFFDIO_REGISTER, register.as_mut_ptr())]
        {
            // SAFETY: the argument is a live array of the size that the request has.
            let result = unsafe { libc::ioctl(faults.as_raw_fd(), request as _, argument) };
            ensure!(result == 0, "userfaultfd: {}", io::Error::last_os_error());
        }
        Ok(Some(Self { faults, address }))
    }

    /// Waits until a thread has met the memory.
    fn wait_for_fault(&self) -> Result<()> {
        let mut message = [0; 32];
        let read = io::Read::read(&mut &self.faults, &mut message)?;
        ensure!(read == 32 && message[0] == 0x12, "no page fault: {message:?}");
        Ok(())
    }
}

#[test]
fn a_sender_that_waits_for_its_memory_stops_nothing() -> Result<()> {
    let Some(pass) = one_pass()? else { return Ok(()) };
    let Some(unmapped) = Unmapped::new()? else {
        scenes::note_skip("needs userfaultfd, which this kernel does not have");
        return Ok(());
    };
    let ns = Namespace::new("fault")?;
    let (_listener, made) = ns.enter(|| connections(1))??;
    let (client, server) = &made[0];
    let (address, descriptor) = (unmapped.address, client.as_raw_fd());
    let sender = thread::spawn(move || {
        // SAFETY: the memory is mapped until the thread has ended; the kernel reads it.
        unsafe { libc::send(descriptor, address as *const libc::c_void, Unmapped::BYTES, 0) }
    });
    // From here on the sender has the lock of its socket.
    unmapped.wait_for_fault()?;
    let (done, finished) = std::sync::mpsc::channel();
    let name = ns.name().to_owned();
    let mut walker = pass.walker;
    let looker = thread::spawn(move || {
        let inventory = walker.inventory(OwnerPolicy::AtOnce, &Focus::default());
        let _ = done.send(inventory.map(|it| {
            let seen = it.namespaces.into_iter().find(|seen| *seen.name == *name);
            seen.map(|seen| seen.sockets.get(TcpState::Established))
        }));
    });
    let counted = finished.recv_timeout(support::DEADLINE);
    ensure!(!sender.is_finished(), "the sender did not wait");
    // Without the descriptor the memory is an empty page.
    drop(unmapped.faults);
    ensure!(sender.join().is_ok_and(|sent| sent == Unmapped::BYTES as isize), "nothing was sent");
    looker.join().expect("it does not panic");
    assert_eq!(counted.context("the inventory waits for the sender")??, Some(2));
    SockRef::from(server).shutdown(std::net::Shutdown::Both)?;
    Ok(())
}
