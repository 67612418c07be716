//! A recording is read as it was written, and any other file is refused in one line.
//!
//! The tests of the engine show that recorded facts are judged as before.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use super::*;
use crate::facts::{
    Amount, AnswerCount, CloseWaitSocket, CloserCount, ConnectFailure, Conntrack, DescriptorUse,
    DestinationUse, Endpoint, Listener, Namespace, NetstatCounters, NoConnect, NotSeen, Owner,
    PortHolder, PortUse, PortUser, Process, Progress, RecordedReset, ResetCause, ResetCount,
    ResetObservation, ResetReason, Role, SelfConnectedSocket, ServiceCount, SharedLimits,
    StalledSocket, StateCounts, TcpState, TimeWaitUse, TwReuse, Unseen, WaitingSocket,
};

/// Where the kernel's own addresses begin on x86-64.
const KERNEL_ADDRESS: u64 = 0xffff_8880_0000_0000;

fn header() -> Header {
    Header {
        kernel: "6.18.5".to_owned(),
        tcpwatch: "0.1.0".to_owned(),
        recorded_at: "2026-11-20T08:30:00.000Z".to_owned(),
        monotonic_ns: Timestamp::from_ns(7),
    }
}

/// Writes the facts, with their addresses replaced, and returns the text.
fn written(facts: &mut [Fact]) -> String {
    let mut bytes = Vec::new();
    let mut recorder = Recorder::begin(&mut bytes, &header()).unwrap();
    facts.iter_mut().for_each(|fact| recorder.record(fact).unwrap());
    String::from_utf8(bytes).unwrap()
}

fn read(text: &[u8]) -> Result<Vec<Fact>, IncidentError> {
    Recording::open(text, Path::new("spool/it.jsonl"))?.collect()
}

fn endpoint(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().unwrap().into()
}

fn process() -> Arc<Process> {
    Arc::new(Process {
        pid: 12,
        name: "orders \"api\"\n".to_owned(),
        started: Timestamp::from_ns(1),
        exe: Some("/usr/bin/orders".to_owned()),
        unit: Some("orders.service".to_owned()),
        container: Some("0123456789ab".to_owned()),
    })
}

fn owner() -> Option<Owner> {
    Some(Owner { process: process(), fds: vec![3, 4], holders: 2 })
}

fn close_wait(id: u64) -> CloseWaitSocket {
    CloseWaitSocket {
        id,
        local: endpoint("[2001:db8::1]:40000"),
        peer: endpoint("[::ffff:10.0.0.9]:443"),
        role: Role::Server,
        since: Timestamp::from_ns(u64::MAX),
        since_exact: true,
        recv_queue: 3,
        progress: Some(Progress { acked_bytes: 7, ..Progress::default() }),
        unaccepted: true,
        owner: owner(),
        owner_pending: true,
        stack: Some(["read".to_owned(), "main".to_owned()].into()),
    }
}

fn waiting(id: u64) -> WaitingSocket {
    WaitingSocket {
        id,
        state: TcpState::FinWait2,
        local: endpoint("10.0.0.1:40000"),
        peer: endpoint("10.0.0.9:443"),
        role: Role::Client,
        since: Timestamp::from_ns(5),
        orphan: true,
        progress: None,
        owner: owner(),
        owner_pending: true,
    }
}

fn stalled(id: u64) -> StalledSocket {
    StalledSocket {
        id,
        state: TcpState::FinWait1,
        local: endpoint("10.0.0.1:8388"),
        peer: endpoint("10.0.0.7:50000"),
        role: Role::Server,
        orphan: true,
        unacked_bytes: 9,
        segment_sent: Some(true),
        peer_window_bytes: 65_535,
        retransmits: 3,
        backoff: 4,
        probes: 5,
        user_timeout: Some(Duration::from_millis(30_001)),
        delivered: Some(Timestamp::from_ns(6)),
        last_segment: Timestamp::from_ns(8),
        owner: owner(),
        owner_pending: true,
    }
}

fn to_itself(id: u64) -> SelfConnectedSocket {
    let endpoint = endpoint("127.0.0.1:40000");
    SelfConnectedSocket { id, endpoint, state: TcpState::CloseWait, owner: owner() }
}

/// No field has its default.
fn full_namespace() -> Namespace {
    let mut sockets = StateCounts::default();
    for (count, state) in (1_u64..).zip(TcpState::ALL) {
        sockets.set(state, count << 40);
    }
    let busy = DestinationUse {
        local: endpoint("10.0.0.1:0"),
        peer: endpoint("10.0.0.9:443"),
        used: 28_000,
        states: Some(sockets),
    };
    let counted = BTreeMap::from([((Role::Client, 443), 7), ((Role::Server, 80), u64::MAX)]);
    Namespace {
        retries2: Some(15),
        orphan_retries: Some(0),
        conntrack: Some(Conntrack {
            entries: 9,
            limit: Some(10),
            dropped: Some(1),
            early_dropped: Some(2),
            insert_failed: None,
        }),
        id: 4_026_531_840,
        name: "blue".into(),
        sockets,
        time_wait: TimeWaitUse { used: 9, limit: Some(10) },
        ports: PortUse {
            range: (32_768, 60_999),
            reserved: "8080,40000-40010".to_owned(),
            available: 28_221,
            pinned: 2,
            bound_before_connect: 1,
            pinned_in_time_wait: Some(1),
            worst: Some(busy),
            busy: vec![busy],
            tw_reuse: TwReuse::Always,
            timestamps: true,
        },
        close_wait: vec![close_wait(1)],
        close_wait_beyond: counted,
        listeners: vec![Listener {
            accept_queue: 1,
            accept_limit: 2,
            half_open: 3,
            drops: 4,
            unanswered: 5,
            unanswered_sources: 6,
            in_port_range: true,
            id: 0xffff_8881_0000_0200,
            local_clients: 7,
            port_picked: Some(true),
            first_waiting: Some(u64::MAX),
            awaited: Some(false),
            owner: owner(),
            acceptors: owner().into_iter().map(|owner| owner.process).collect(),
            ..Listener::at(endpoint("[::]:80"))
        }],
        self_connected: vec![to_itself(2)],
        waiting: vec![waiting(3)],
        stalled: vec![stalled(4)],
        port_holders: vec![PortHolder {
            state: TcpState::TimeWait,
            local: endpoint("10.0.0.1:80"),
            peer: endpoint("10.0.0.7:50000"),
            owner: owner(),
        }],
        port_users: vec![PortUser {
            state: TcpState::CloseWait,
            local: endpoint("10.0.0.1:40000"),
            peer: endpoint("10.0.0.7:443"),
            pinned: true,
            owner: owner(),
        }],
        netstat: Some(NetstatCounters {
            memory_pressures: Some(3),
            memory_aborts: Some(2),
            time_wait_overflows: 1,
            listen_overflows: 2,
            listen_drops: 3,
            syncookies_sent: u64::MAX,
        }),
        syncookies: Some(2),
        somaxconn: Some(4_096),
        abort_on_overflow: Some(true),
        conntrack_invalid: Some(3),
        counters_read: Some(Timestamp::from_ns(7)),
    }
}

fn full_inventory() -> Inventory {
    let count = |what, last_peer| ResetCount {
        netns: 1,
        role: Role::Server,
        port: 80,
        what,
        process: Some(process()),
        last_peer,
        count: 3,
        other_port: Some(40_000),
        peers: Some(2),
        other_ports: Some(5),
    };
    let sent = count(RecordedReset::Sent(ResetCause::LingerZero), Some([10, 0, 0, 7].into()));
    let received = count(RecordedReset::Received(TcpState::Established), None);
    let observation = ResetObservation {
        reason: Some(ResetReason::AbortOnClose),
        unread: Some(Amount::Few),
        peer_closed: Some(true),
        ..ResetObservation::default()
    };
    let observed = count(RecordedReset::Seen(observation), None);
    Inventory {
        shared_limits: Some(Box::new(SharedLimits {
            orphans: Some(5),
            orphans_limit: Some(8_192),
            tcp_memory_limit_pages: Some(575_796),
            ..SharedLimits::default()
        })),
        started: Timestamp::from_ns(10),
        finished: Timestamp::from_ns(20),
        walked: Duration::from_nanos(1_000_000_009),
        namespaces: vec![full_namespace(), Namespace::default()],
        not_seen: vec![
            NotSeen::new(Unseen::Namespaces, "2 network namespaces", "they cannot be entered")
                .counted(2)
                .named(["pod"])
                .errno(Some("EPERM".to_owned()))
                .hiding_host(),
        ],
        undescribed: 2,
        descriptors: BTreeMap::from([(
            12,
            DescriptorUse { open: 900, limit: 1_024, hard_limit: 4_096 },
        )]),
        resets: Some(vec![sent, received, observed]),
        services: Some(vec![ServiceCount {
            netns: 1,
            role: Role::Client,
            port: 443,
            process: process(),
            opened: 4,
            closed: 3,
            idle: None,
        }]),
        closers: vec![CloserCount {
            netns: 1,
            process: process(),
            role: Role::Client,
            peer: Some([10, 0, 0, 9].into()),
            port: 443,
            count: 5,
            others: 2,
            since: Some(Timestamp::from_ns(3)),
        }],
        answers: vec![AnswerCount { netns: 1, peer: endpoint("[2001:db8::9]:443"), count: 7 }],
    }
}

fn events() -> impl Iterator<Item = Event> {
    let at = Timestamp::from_ns(1);
    let local = endpoint("10.0.0.1:40000");
    let failed = move |reason| Event::ConnectFailed {
        at,
        netns: 1,
        local,
        peer: endpoint("[2001:db8::9]:443"),
        reason,
        waited: (reason == ConnectFailure::GivenUp).then_some(Duration::from_millis(2_004)),
        no_connect: (reason == ConnectFailure::NoLocalPort)
            .then_some(NoConnect::OwnRange { first: 4_000, last: 0 }),
        process: Some(process()),
    };
    let others = [
        Event::SelfConnection { at, netns: 1, endpoint: local, process: Some(process()) },
        Event::BindFailed { at, netns: 1, local, process: None },
    ];
    ConnectFailure::ALL.into_iter().map(failed).chain(others)
}

#[test]
fn every_field_of_every_fact_is_read_as_it_was_written() {
    let mut facts: Vec<_> = events().map(Fact::Event).collect();
    for found in [full_inventory(), Inventory::default()] {
        facts.push(Fact::Inventory { now: Timestamp::from_ns(30), found });
    }
    let text = written(&mut facts);
    assert_eq!(text.lines().count(), 1 + facts.len());
    let found = read(text.as_bytes()).unwrap();
    // Not every fact can be compared; its text shows every field.
    assert_eq!(format!("{found:#?}"), format!("{facts:#?}"));
    let recording = Recording::open(text.as_bytes(), Path::new("it.jsonl")).unwrap();
    assert_eq!(*recording.header(), header());
}

#[test]
fn a_socket_has_one_small_number_in_all_inventories_and_its_address_is_not_written() {
    let ids = [1, 2, 3, 4, 5, 6].map(|number| KERNEL_ADDRESS + number * 0x40);
    let look = |close_wait: Vec<CloseWaitSocket>| {
        let self_connected = vec![to_itself(ids[1])];
        let waiting = vec![waiting(ids[2])];
        let listener = Listener {
            id: ids[3],
            first_waiting: Some(ids[4]),
            ..Listener::at(endpoint("[::]:80"))
        };
        let namespace = Namespace {
            close_wait,
            self_connected,
            waiting,
            stalled: vec![stalled(ids[5])],
            listeners: vec![listener],
            ..Namespace::default()
        };
        let found = Inventory { namespaces: vec![namespace], ..Inventory::default() };
        Fact::Inventory { now: Timestamp::from_ns(1), found }
    };
    let text = written(&mut [look(vec![close_wait(ids[0])]), look(Vec::new())]);
    let numbers = |fact: Fact| {
        let Fact::Inventory { found, .. } = fact else { panic!("an event") };
        let namespace = &found.namespaces[0];
        let close_wait = namespace.close_wait.iter().map(|socket| socket.id);
        let others =
            [namespace.self_connected[0].id, namespace.waiting[0].id, namespace.stalled[0].id];
        let listener = &namespace.listeners[0];
        let of_listener = [Some(listener.id), listener.first_waiting].into_iter().flatten();
        close_wait.chain(others).chain(of_listener).collect::<Vec<_>>()
    };
    let seen: Vec<_> = read(text.as_bytes()).unwrap().into_iter().map(numbers).collect();
    assert_eq!(seen, [vec![1, 2, 3, 4, 5, 6], vec![2, 3, 4, 5, 6]]);
    for id in ids {
        assert!(!text.contains(&id.to_string()), "{text}");
    }
}

#[test]
fn what_was_written_before_a_fact_had_a_field_is_read_with_its_default() {
    let mut text = written(&mut []);
    text += "{\"inventory\":{\"now\":5,\"found\":{\"namespaces\":[{\"id\":1,\"of_later\":0}]}}}\n";
    let facts = read(text.as_bytes()).unwrap();
    let [Fact::Inventory { now, found }] = &facts[..] else { panic!("{facts:?}") };
    assert_eq!(*now, Timestamp::from_ns(5));
    let expected = Namespace { id: 1, ..Namespace::default() };
    assert_eq!(format!("{:?}", found.namespaces), format!("{:?}", [expected]));
}

#[test]
fn what_is_no_recording_is_refused_in_one_line_that_says_where() {
    let good = written(&mut [Fact::Event(events().next().unwrap())]);
    let header = good.lines().next().unwrap();
    let cut = &good[..good.len() - 20];
    let cases: [(&[u8], &str); 9] = [
        (b"", ":1: not a recording"),
        (b"\x7fELF\x02\x01\n\0", ":1: not a recording"),
        (b"{\"format\":\"other\",\"version\":1}\n", ":1: not a recording"),
        (
            b"{\"format\":\"tcpwatch-incident\",\"version\":2,\"new\":[]}\n",
            ":1: recorded in version 2 of the format, this tcpwatch reads version 1",
        ),
        (
            b"{\"format\":\"tcpwatch-incident\",\"version\":1}\n",
            ":1: column 42: missing field `kernel`",
        ),
        (cut.as_bytes(), ":2: column"),
        (&[header.as_bytes(), b"\n\n"].concat(), ":2: column"),
        (&[good.as_bytes(), b"{\"event\":{\"a\nb\":{}}}\n"].concat(), ":3: column"),
        (&[good.as_bytes(), b"{\"event\":{\"a\\nb\":{}}}\n"].concat(), ":3: column 16: unknown"),
    ];
    for (text, says) in cases {
        let error = read(text).unwrap_err().to_string();
        let says = format!("spool/it.jsonl{says}");
        assert!(error.starts_with(&says), "{error:?} does not begin with {says:?}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn a_file_without_lines_is_refused_before_it_fills_the_memory() {
    let endless = io::BufReader::new(io::repeat(b'{'));
    let error = Recording::open(endless, Path::new("zero")).unwrap_err();
    assert_eq!(error.to_string().split(';').next(), Some("zero:1: not a recording"));
}
