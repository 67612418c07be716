//! Listings of sockets by both walks, without an agent.
//!
//! Kernels before 6.1 have the iterator only.

mod support;

use std::{
    any::Any,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Established, Namespace, TimeWaits};
use socket2::{Domain, Socket, Type};
use support::poll;
use tcpwatch::{
    facts::{Focus, ListedSocket, Role, SocketListing, SocketSelection, TcpState},
    kernel::{LoadOptions, OnRequest, OwnerPolicy, Programs, Scope, WalkStatus, Walker},
};

/// More than any scene here has.
const LIMIT: usize = 5_000;

/// The kernel side with one of the walks. Dropping it detaches everything.
struct Kernel {
    walker: Walker,
    by: &'static str,
    _others: Box<dyn Any>,
}

impl Kernel {
    /// Each walk that this kernel has.
    fn each(scope: Scope) -> Result<Vec<Self>> {
        let mut walks = Vec::new();
        for one_pass in [false, true] {
            let on_request = OnRequest { listing: true, ..OnRequest::default() };
            let programs =
                Programs::load(&LoadOptions { one_pass, on_request, ..LoadOptions::default() })?;
            programs.require_indispensable()?;
            if one_pass && matches!(programs.walk(), WalkStatus::Iterator(_)) {
                ensure!(kernel_version()? < (6, 1), "no one pass: {:?}", programs.walk());
                continue;
            }
            let by = programs.walk().label();
            let (ring, counters, walker, links) = programs.split(scope, 1_000)?;
            walks.push(Self { walker, by, _others: Box::new((ring, counters, links)) });
        }
        Ok(walks)
    }

    fn list(&mut self, selection: &SocketSelection) -> Result<SocketListing> {
        Ok(self.walker.list_sockets(selection, LIMIT)?)
    }
}

fn kernel_version() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let mut number = || numbers.next().context("no version")?.context("no number");
    Ok((number()?, number()?))
}

/// All of a namespace.
fn of(ns: &Namespace) -> SocketSelection {
    SocketSelection { netns: Some(ns.name().to_owned()), ..SocketSelection::default() }
}

/// A socket but for what passes with time.
fn described(it: &ListedSocket) -> String {
    let queue = it.accept_queue.map(|it| (it.waiting, it.limit, it.half_open));
    let transfer = it.transfer.map(|it| (it.recv_queue, it.send_queue, it.stalled));
    let flags = (it.orphan, it.unaccepted, it.since.is_some(), it.since_exact);
    let holders: Vec<_> = it.holders.iter().map(|it| (it.process.pid, it.fds.clone())).collect();
    format!(
        "{:?} {} {:?} {:?} {queue:?} {transfer:?} {flags:?} {holders:?}",
        it.state, it.local, it.peer, it.role
    )
}

#[test]
fn both_walks_list_the_same_sockets() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("list")?;
    let _established = Established::make(&ns, 20)?;
    let _close_wait = CloseWaitLeak::client(&ns, 30, 0, false)?;
    let _close_wait6 = CloseWaitLeak::server(&ns, 10, 0, true)?;
    let _time_waits = TimeWaits::make(&ns, 40, 8_000)?;
    let _orphan = scenes::orphaned_fin_wait2(&ns)?;
    let listener = ns.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7_000)))??;
    let _waiting = ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 7_000)))??;
    let mut walks = Kernel::each(Scope::All)?;
    // An orphan in FIN_WAIT2 becomes a minisocket a moment after close().
    let listed = poll("two listings that agree", || {
        let mut listed = Vec::new();
        for kernel in &mut walks {
            let listing = kernel.list(&of(&ns))?;
            ensure!(listing.namespaces == 1 && listing.left_out == 0, "{}", kernel.by);
            ensure!(listing.total == listing.sockets.len() as u64, "{}", kernel.by);
            let mut sockets: Vec<_> = listing.sockets.iter().map(described).collect();
            sockets.sort();
            listed.push(sockets);
        }
        let is_same = listed.iter().all(|it| *it == listed[0]);
        if !is_same {
            println!("{listed:#?}");
        }
        Ok(is_same.then_some(listed))
    })?;
    // Both ends of 20, 30 and 10 with their peers in FIN_WAIT2, and all others of the scene.
    assert!(listed[0].len() > 40 + 60 + 20 + 40, "{listed:#?}");
    let of_listener =
        listed[0].iter().filter(|it| it.contains("127.0.0.1:7000") || it.contains("0.0.0.0:7000"));
    assert_eq!(of_listener.count(), 2, "the listener and a connection: {listed:#?}");
    drop(listener);
    Ok(())
}

#[test]
fn a_listener_of_one_namespace_gives_no_role_to_another() -> Result<()> {
    const PORT: u16 = 7_000;
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let (listens, connects) = (Namespace::new("listens")?, Namespace::new("connects")?);
    let _listener = listens.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)))??;
    // A client that closes first, from the very port that has a listener elsewhere.
    connects.enter(|| -> Result<()> {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 7_100))?;
        let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        client.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)).into())?;
        client.connect(&server.local_addr()?.into())?;
        let accepted = server.accept()?.0;
        drop(client);
        drop(accepted);
        Ok(())
    })??;
    let selection = SocketSelection { local_port: Some(PORT), ..SocketSelection::default() };
    for kernel in &mut Kernel::each(Scope::All)? {
        let listing = kernel.list(&selection)?;
        let of = |ns: &Namespace| -> Vec<(TcpState, Role)> {
            let of_ns = listing.sockets.iter().filter(|it| *it.netns == *ns.name());
            of_ns.map(|it| (it.state, it.role)).collect()
        };
        assert_eq!(of(&listens), [(TcpState::Listen, Role::Server)], "{}", kernel.by);
        assert_eq!(of(&connects), [(TcpState::TimeWait, Role::Client)], "{}", kernel.by);
    }
    Ok(())
}

#[test]
fn a_listing_of_the_host_has_no_other_namespace_and_one_of_no_namespace_has_nothing() -> Result<()>
{
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("other")?;
    let _open = Established::make(&ns, 3)?;
    for kernel in &mut Kernel::each(Scope::Host)? {
        let listing = kernel.list(&SocketSelection::default())?;
        assert_eq!(listing.namespaces, 1, "{}", kernel.by);
        assert!(listing.sockets.iter().all(|it| *it.netns == *"host"), "{}", kernel.by);
        let listing = kernel.list(&of(&ns))?;
        assert_eq!((listing.namespaces, listing.total), (0, 0), "{}", kernel.by);
    }
    Ok(())
}

#[test]
fn a_listing_between_two_inventories_changes_nothing() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let (one, two) = (Namespace::new("one")?, Namespace::new("two")?);
    let _one = (Established::make(&one, 7)?, CloseWaitLeak::client(&one, 3, 0, false)?);
    let _two = Established::make(&two, 5)?;
    for kernel in &mut Kernel::each(Scope::All)? {
        for _ in 0..3 {
            let inventory = kernel.walker.inventory(OwnerPolicy::AtOnce, &Focus::default())?;
            for (ns, established, close_wait) in [(&one, 14, 3), (&two, 10, 0)] {
                let seen = inventory.namespaces.iter().find(|it| *it.name == *ns.name());
                let seen = seen.with_context(|| format!("{} without {}", kernel.by, ns.name()))?;
                assert_eq!(seen.sockets.get(TcpState::Established), established, "{}", kernel.by);
                assert_eq!(seen.close_wait.len(), close_wait, "{}", kernel.by);
            }
            assert_eq!(kernel.list(&of(&two))?.total, 11, "{}", kernel.by);
        }
    }
    Ok(())
}
