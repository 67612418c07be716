//! What holds for any facts in any order, time running backwards included.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Debug,
    path::Path,
};

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::{
    engine::Samples,
    facts::{ResetCause, SeenReset},
    incident::{Fact, Header, Recorder, Recording},
};

/// What is done to an engine.
#[derive(Clone, Debug)]
enum Step {
    Event(Event),
    Inventory(Inventory, Timestamp),
    Reconfigure(Box<(Detect, Ignore)>, usize),
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        4 => (0_u64..2_000).prop_map(|second| START + seconds(second)),
        1 => any::<u64>().prop_map(Timestamp::from_ns),
    ]
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let addresses = ["10.0.0.1", "10.0.0.9", "127.0.0.1", "::1", "2001:db8::9"];
    let port = prop_oneof![select(vec![0, 80, 443, 40_000]), any::<u16>()];
    (select(addresses.to_vec()), port)
        .prop_map(|(text, port)| Endpoint { address: address(text), port })
}

fn name() -> impl Strategy<Value = String> {
    let names = ["", "a", "b", "nginx", "other", "a/b", "two\nlines", "\u{1b}[2J", "ü\u{2028}"];
    prop_oneof![9 => select(names.to_vec()).prop_map(str::to_owned), 1 => any::<String>().prop_map(|name| name.replace(' ', "_"))]
}

fn any_process() -> impl Strategy<Value = Arc<Process>> {
    (0_u32..4, name(), option::of(name()), option::of(name())).prop_map(
        |(pid, name, unit, container)| {
            Arc::new(Process { pid, name, unit, container, ..Process::default() })
        },
    )
}

fn any_owner() -> impl Strategy<Value = Option<Owner>> {
    let owner = (any_process(), vec(any::<u32>(), 0..3), any::<u32>());
    option::of(owner.prop_map(|(process, fds, holders)| Owner { process, fds, holders }))
}

/// Frames as the kernel side writes them, and others.
fn stack() -> impl Strategy<Value = Arc<[String]>> {
    let frames = ["connect+0x10 (libc.so.6)", "open+0x1 (app)", "0x2 ()", "main", "", " (", ")("];
    let frame = prop_oneof![9 => select(frames.to_vec()).prop_map(str::to_owned), 1 => name()];
    vec(frame, 0..4).prop_map(Arc::from)
}

/// A socket, and how many of its like there are.
fn close_wait_sockets() -> impl Strategy<Value = Vec<CloseWaitSocket>> {
    let ends = (any_endpoint(), any_endpoint(), select(vec![Role::Client, Role::Server]));
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1));
    let identity = (0_u64..20, option::of(stack()));
    (ends, timestamp(), 0_u32..4, flags, any_owner(), identity, 0_usize..30).prop_map(
        |((local, peer, role), since, recv_queue, flags, owner, (id, stack), count)| {
            let (since_exact, unaccepted, owner_pending) = flags;
            let socket = CloseWaitSocket {
                id,
                local,
                peer,
                role,
                since,
                since_exact,
                recv_queue,
                unaccepted,
                owner,
                owner_pending,
                stack,
            };
            times(count, &socket)
        },
    )
}

/// A socket that waits for its peer, and how many of its like there are; also in states that the
/// kernel side does not send.
fn waiting_sockets() -> impl Strategy<Value = Vec<WaitingSocket>> {
    let ends = (any_endpoint(), any_endpoint(), select(vec![Role::Client, Role::Server]));
    let flags = (any::<bool>(), prop::bool::weighted(0.1));
    let state = select(TcpState::ALL.to_vec());
    (ends, state, timestamp(), flags, any_owner(), 0_usize..30).prop_map(
        |((local, peer, role), state, since, (orphan, owner_pending), owner, count)| {
            let socket = WaitingSocket {
                id: 0,
                state,
                local,
                peer,
                role,
                since,
                orphan,
                owner,
                owner_pending,
            };
            vec![socket; count]
        },
    )
}

fn port_holder() -> impl Strategy<Value = PortHolder> {
    let state = select(TcpState::ALL.to_vec());
    (state, any_endpoint(), any_endpoint(), any_owner())
        .prop_map(|(state, local, peer, owner)| PortHolder { state, local, peer, owner })
}

fn port_use() -> impl Strategy<Value = PortUse> {
    let destination = || {
        (any_endpoint(), any_endpoint(), any::<u32>())
            .prop_map(|(local, peer, used)| DestinationUse { local, peer, used })
    };
    let reuse = select(vec![TwReuse::Never, TwReuse::Always, TwReuse::Loopback]);
    (
        prop_oneof![Just((32_768, 60_999)), any::<(u16, u16)>()],
        prop_oneof![Just(0), 1_u32..70_000, any::<u32>()],
        any::<u32>(),
        option::of(destination()),
        vec(destination(), 0..4),
        (reuse, any::<bool>()),
        select(vec!["", "8080,32768-32770,x", "40000", "1-65535"]),
    )
        .prop_map(
            |(range, available, pinned, worst, busy, (tw_reuse, timestamps), reserved)| PortUse {
                range,
                reserved: reserved.to_owned(),
                available,
                pinned,
                bound_before_connect: pinned / 2,
                worst,
                busy,
                tw_reuse,
                timestamps,
            },
        )
}

fn netstat() -> impl Strategy<Value = Option<NetstatCounters>> {
    let counter = || prop_oneof![0_u64..5, any::<u64>()];
    option::of((counter(), counter(), counter(), counter()).prop_map(
        |(time_wait_overflows, listen_overflows, listen_drops, syncookies_sent)| NetstatCounters {
            time_wait_overflows,
            listen_overflows,
            listen_drops,
            syncookies_sent,
        },
    ))
}

fn any_namespace() -> impl Strategy<Value = Namespace> {
    let number = || prop_oneof![0_u32..400, any::<u32>()];
    let clients = any::<(bool, u32)>();
    let numbers = (number(), number(), number(), number(), number(), number(), clients);
    let listener = (any_endpoint(), numbers, any_owner()).prop_map(|(local, numbers, owner)| {
        let (accept_queue, accept_limit, half_open, drops, ..) = numbers;
        let (.., unanswered, unanswered_sources, (in_port_range, local_clients)) = numbers;
        Listener {
            local,
            accept_queue,
            accept_limit,
            half_open,
            drops,
            unanswered,
            unanswered_sources,
            in_port_range,
            local_clients,
            owner,
        }
    });
    let self_connected = (any_endpoint(), select(TcpState::ALL.to_vec()), any_owner())
        .prop_map(|(endpoint, state, owner)| SelfConnectedSocket { id: 0, endpoint, state, owner });
    let limit = option::of(prop_oneof![Just(0), 1_u64..5_000, any::<u64>()]);
    (
        (0_u64..4, select(vec!["host", "blue", "", "other", "my\nnetns"])),
        vec(0_u64..1 << 40, TcpState::ALL.len()),
        (prop_oneof![0_u64..5_000, any::<u64>()], limit),
        port_use(),
        (vec(close_wait_sockets(), 0..6), prop_oneof![Just(0), 0_u64..1 << 40]),
        vec(listener, 0..4),
        vec(self_connected, 0..4),
        (netstat(), option::of(0_u64..3)),
        (vec(waiting_sockets(), 0..4), vec(port_holder(), 0..6)),
    )
        .prop_map(
            |(
                (id, name),
                counts,
                (used, limit),
                ports,
                (close_wait, close_wait_beyond),
                listeners,
                self_connected,
                (netstat, syncookies),
                (waiting, port_holders),
            )| {
                let mut namespace = Namespace {
                    id,
                    name: name.into(),
                    time_wait: TimeWaitUse { used, limit },
                    ports,
                    close_wait: close_wait.concat(),
                    close_wait_beyond: BTreeMap::from([((Role::Client, 443), close_wait_beyond)]),
                    listeners,
                    self_connected,
                    waiting: waiting.concat(),
                    port_holders,
                    netstat,
                    syncookies,
                    ..Namespace::default()
                };
                for (state, count) in TcpState::ALL.into_iter().zip(counts) {
                    namespace.sockets.set(state, count);
                }
                namespace
            },
        )
}

fn any_resets() -> impl Strategy<Value = Option<Vec<ResetCount>>> {
    let what = prop_oneof![
        select(ResetCause::ALL.to_vec()).prop_map(SeenReset::Sent),
        select(TcpState::ALL.to_vec()).prop_map(SeenReset::Received),
    ];
    let role = select(vec![Role::Client, Role::Server]);
    let service = (0_u64..4, role, select(vec![0, 80, 443]), what);
    let peer = option::of(any_endpoint().prop_map(|endpoint| endpoint.address));
    let count = prop_oneof![0_u64..3_000, any::<u64>()];
    let row = (service, option::of(any_process()), peer, count).prop_map(
        |((netns, role, port, what), process, last_peer, count)| ResetCount {
            netns,
            role,
            port,
            what,
            process,
            last_peer,
            count,
        },
    );
    option::weighted(0.9, vec(row, 0..8))
}

fn any_event() -> impl Strategy<Value = Event> {
    let process = || option::of(any_process());
    prop_oneof![
        (timestamp(), 0_u64..6, any_endpoint(), process()).prop_map(
            |(at, netns, endpoint, process)| Event::SelfConnection { at, netns, endpoint, process }
        ),
        (
            timestamp(),
            0_u64..6,
            any_endpoint(),
            any_endpoint(),
            select(ConnectFailure::ALL.to_vec()),
            process()
        )
            .prop_map(|(at, netns, local, peer, reason, process)| Event::ConnectFailed {
                at,
                netns,
                local,
                peer,
                reason,
                process,
            }),
        (timestamp(), 0_u64..6, any_endpoint(), process()).prop_map(
            |(at, netns, local, process)| Event::BindFailed { at, netns, local, process }
        ),
    ]
}

/// Overrides, and what is ignored, of the names and ports that come up here.
const FILES: [&str; 4] = [
    "",
    "[ignore]\nprocesses = [\"a\", \"nginx\"]\nports = [443]\nnamespaces = [\"blue\"]",
    "[[detect.close_wait_pileup.override]]\nprocess = \"a\"\nwarning = 3\nmin_age = \"0s\"\n\
     [[detect.close_wait_pileup.override]]\nport = 443\nenabled = false\n\
     [[detect.accept_queue_overflow.override]]\nport = 80\nwarning = 1\nwindow = \"5s\"\n\
     [[detect.self_connect_risk.override]]\nprocess = \"b\"\nwindow = \"5s\"",
    "[[detect.ephemeral_port_exhaustion.override]]\nprocess = \"a\"\nenabled = false\n\
     [[detect.self_connection.override]]\nport = 40000\nseverity = \"info\"\n\
     [[detect.syn_flood.override]]\nport = 80\nwarning = 30\n\
     [[detect.handshake_stall.override]]\nprocess = \"b\"\nenabled = false",
];

fn any_rules() -> impl Strategy<Value = (Detect, Ignore)> {
    let file = select(FILES.to_vec());
    (any::<[bool; 11]>(), 1_u64..40, 0_u64..40, 1_u64..700, 0_u64..100, file).prop_map(
        |(enabled, warning, more, window, age, file)| {
            let Config { mut detect, ignore, .. } = config(file);
            detect.close_wait_pileup.enabled = enabled[0];
            detect.close_wait_pileup.warning = warning;
            detect.close_wait_pileup.critical = warning + more;
            detect.close_wait_pileup.min_age = seconds(age);
            detect.close_wait_pileup.window = seconds(window);
            detect.close_wait_pileup.growing = warning / 2 + 1;
            detect.close_wait_pileup.stacks = enabled[3];
            detect.time_wait_exhaustion.enabled = enabled[1];
            detect.time_wait_exhaustion.window = seconds(window);
            detect.ephemeral_port_exhaustion.enabled = enabled[2];
            detect.ephemeral_port_exhaustion.window = seconds(window);
            detect.self_connection.enabled = enabled[3];
            detect.self_connect_risk.enabled = enabled[4];
            detect.self_connect_risk.warning = warning;
            detect.self_connect_risk.min_age = seconds(age);
            detect.self_connect_risk.window = seconds(window);
            detect.syn_flood.enabled = enabled[5];
            detect.handshake_stall.enabled = enabled[6];
            detect.handshake_stall.warning = warning;
            detect.handshake_stall.critical = warning + more;
            detect.accept_queue_overflow.enabled = enabled[7];
            detect.accept_queue_overflow.warning = warning;
            detect.accept_queue_overflow.critical = warning + more;
            detect.accept_queue_overflow.window = seconds(window);
            detect.reset_storm.enabled = enabled[8];
            detect.reset_storm.warning = warning;
            detect.reset_storm.critical = warning + more;
            detect.reset_storm.window = seconds(window);
            detect.reset_storm.history = seconds(window + age);
            detect.reset_storm.factor = 2;
            detect.bind_conflict.enabled = enabled[9];
            detect.bind_conflict.warning = warning;
            detect.bind_conflict.window = seconds(window);
            detect.stuck_state.enabled = enabled[10];
            detect.stuck_state.warning = warning;
            detect.stuck_state.critical = warning + more;
            detect.stuck_state.min_age = seconds(age);
            detect.stuck_state.window = seconds(window);
            (detect, ignore)
        },
    )
}

fn closer() -> impl Strategy<Value = CloserCount> {
    let service = (select(vec![Role::Client, Role::Server]), option::of(any_endpoint()));
    let count = prop_oneof![0_u64..5_000, any::<u64>()];
    (0_u64..4, any_process(), service, count).prop_map(|(netns, process, (role, peer), count)| {
        let port = peer.map_or(80, |peer| peer.port);
        CloserCount { netns, process, role, peer: peer.map(|peer| peer.address), port, count }
    })
}

fn any_inventory() -> impl Strategy<Value = Inventory> {
    let descriptors = prop::collection::btree_map(
        0_u32..4,
        (any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(open, limit, hard_limit)| DescriptorUse { open, limit, hard_limit }),
        0..4,
    );
    (vec(any_namespace(), 0..5), timestamp(), descriptors, vec(closer(), 0..5), any_resets())
        .prop_map(|(namespaces, started, descriptors, closers, resets)| Inventory {
            descriptors,
            closers,
            resets,
            ..super::inventory(namespaces, started)
        })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let inventory =
        (any_inventory(), timestamp()).prop_map(|(inventory, now)| Step::Inventory(inventory, now));
    let step = prop_oneof![
        5 => any_event().prop_map(Step::Event),
        4 => inventory,
        1 => (any_rules(), 1_usize..6).prop_map(|(rules, owners)| Step::Reconfigure(rules.into(), owners)),
    ];
    vec(step, 1..15)
}

/// An engine, what a reader of its changes believes, and what its counters were.
struct Model {
    engine: Engine,
    ignore: Ignore,
    owners: usize,
    held: BTreeMap<String, Severity>,
    counters: BTreeMap<String, u64>,
}

impl Model {
    fn new() -> Self {
        let owners = 3;
        Self {
            engine: Engine::new(&Detect::default(), &Ignore::default(), owners),
            ignore: Ignore::default(),
            owners,
            held: BTreeMap::new(),
            counters: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Event(event) => self.engine.handle_event(event),
            Step::Inventory(inventory, now) => {
                self.engine.handle_inventory(inventory, *now);
                assert_sums(inventory, &self.engine.samples());
                assert_cut(&self.engine.samples(), self.owners);
                self.assert_nothing_ignored_is_found();
            }
            Step::Reconfigure(rules, owners) => {
                let (detect, ignore) = &**rules;
                self.engine.reconfigure(detect, ignore, *owners);
                self.ignore = ignore.clone();
                self.owners = *owners;
            }
        }
        self.follow_changes();
        self.assert_findings_are_well_formed();
        self.assert_focus_is_bounded();
        self.assert_counters_never_fall();
    }

    /// Who reads the changes alone knows what holds: each is told once.
    fn follow_changes(&mut self) {
        while let Some(change) = self.engine.poll_change() {
            match change {
                FindingChange::Raised(finding) => {
                    assert_eq!(self.held.insert(finding.id, finding.severity), None);
                }
                FindingChange::SeverityChanged { finding, from } => {
                    assert_ne!(finding.severity, from);
                    assert_eq!(self.held.insert(finding.id, finding.severity), Some(from));
                }
                FindingChange::Cleared(finding) => {
                    assert_eq!(self.held.remove(&finding.id), Some(finding.severity));
                }
            }
        }
        let findings = self.engine.findings().iter();
        let held = findings.map(|finding| (finding.id.clone(), finding.severity)).collect();
        assert_eq!(self.held, held);
        assert_eq!(self.held.len(), self.engine.findings().len(), "an id is of one finding");
    }

    fn assert_nothing_ignored_is_found(&self) {
        for Finding { kind, subject, id, .. } in self.engine.findings() {
            assert!(!self.ignore.namespaces.contains(&subject.netns.to_string()), "{id}");
            // TIME_WAIT is a namespace's, and the ports are a destination's.
            if *kind == FindingKind::TimeWaitExhaustion {
                continue;
            }
            assert!(!self.ignore.ports.contains(&subject.port.unwrap_or_default()), "{id}");
            let process = subject.process.clone().unwrap_or_default();
            let is_somebodys = *kind != FindingKind::EphemeralPortExhaustion;
            assert!(!(is_somebodys && self.ignore.processes.contains(&process)), "{id}");
        }
    }

    fn assert_findings_are_well_formed(&self) {
        let findings = self.engine.findings();
        assert!(findings.is_sorted_by_key(|finding| std::cmp::Reverse(finding.severity)));
        for finding in findings {
            let Finding { title, explanation, remedies, .. } = finding;
            assert!(remedies.len() >= 3, "{remedies:?}");
            for text in remedies.iter().chain([title, explanation]) {
                assert!(!text.trim().is_empty());
                assert!(!text.contains(char::is_control), "{text:?}");
                assert!(!text.contains("  "), "a gap in {text:?}");
            }
            assert!(title.contains(|it: char| it.is_ascii_digit()), "{title}");
            if finding.kind != FindingKind::TimeWaitExhaustion {
                assert!(title.contains(&peer_in_title(finding)), "{title}");
            }
            for (key, value) in finding.evidence.iter() {
                if let Evidence::Number(number) = value {
                    assert!(number.is_finite(), "{key} is {number}");
                }
            }
            assert!(finding.id.starts_with(finding.kind.name()));
        }
    }

    /// What costs the host something is asked for of few, and once.
    fn assert_focus_is_bounded(&self) {
        let focus = self.engine.focus();
        assert!(focus.stacks_of.len() <= 8, "{focus:?}");
        assert!(focus.stacks_of.windows(2).all(|pair| pair[0] < pair[1]), "{focus:?}");
    }

    fn assert_counters_never_fall(&mut self) {
        let samples = self.engine.samples();
        let counters = counters(&samples);
        for (name, before) in &self.counters {
            let now = counters.get(name);
            assert!(now.is_some_and(|now| now >= before), "{name} was {before}, is {now:?}");
        }
        self.counters = counters;
    }
}

/// What the title must say of the other end, or of the place where somebody listens.
fn peer_in_title(finding: &Finding) -> String {
    let subject = &finding.subject;
    if matches!(finding.kind, FindingKind::AcceptQueueOverflow | FindingKind::BindConflict) {
        return subject.local.clone().unwrap();
    }
    match (&subject.peer, subject.port) {
        (Some(peer), _) if !peer.starts_with('*') => peer.clone(),
        (_, Some(port)) => format!("port {port} "),
        (_, None) => String::new(),
    }
}

fn counters(samples: &Samples) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let mut add = |name: String, value| {
        assert_eq!(counters.insert(name.clone(), value), None, "{name} is there twice");
    };
    for row in &samples.connect_failures {
        add(format!("{:?} {:?}", row.owner, row.reason), row.total);
    }
    for row in &samples.namespace_totals {
        let netns = &row.netns;
        add(format!("{netns:?} self-connections"), row.self_connections);
        let Some(netstat) = row.netstat else { continue };
        add(format!("{netns:?} time-wait"), netstat.time_wait_overflows);
        add(format!("{netns:?} overflows"), netstat.listen_overflows);
        add(format!("{netns:?} drops"), netstat.listen_drops);
        add(format!("{netns:?} cookies"), netstat.syncookies_sent);
    }
    counters
}

/// A change of the configuration is no fact.
fn fact(step: Step) -> Option<Fact> {
    match step {
        Step::Event(event) => Some(Fact::Event(event)),
        Step::Inventory(found, now) => Some(Fact::Inventory { now, found }),
        Step::Reconfigure(..) => None,
    }
}

fn recorded_and_read(facts: &[Fact]) -> Vec<Fact> {
    let header = Header {
        kernel: String::new(),
        tcpwatch: String::new(),
        recorded_at: String::new(),
        monotonic_ns: START,
    };
    let mut text = Vec::new();
    let mut recorder = Recorder::begin(&mut text, &header).unwrap();
    facts.iter().for_each(|fact| recorder.record(&mut fact.clone()).unwrap());
    let read = Recording::open(&text[..], Path::new("")).unwrap().collect::<Result<Vec<_>, _>>();
    let read = read.unwrap();
    assert_eq!(read.len(), facts.len());
    read
}

/// Cutting loses nothing.
fn assert_sums(inventory: &Inventory, samples: &Samples) {
    let namespaces = &inventory.namespaces;
    let close_wait: u64 = namespaces
        .iter()
        .map(|it| it.close_wait.len() as u64 + it.close_wait_beyond.values().sum::<u64>())
        .sum();
    assert_eq!(samples.close_wait.iter().map(|row| row.sockets).sum::<u64>(), close_wait);

    let listeners = || namespaces.iter().flat_map(|namespace| &namespace.listeners);
    let expected = [
        listeners().map(|it| u64::from(it.half_open)).sum::<u64>(),
        listeners().map(|it| u64::from(it.accept_queue)).sum(),
        listeners().map(|it| u64::from(it.accept_limit)).sum(),
    ];
    let rows = || samples.listeners.iter();
    let sums = [
        rows().map(|row| row.half_open).sum::<u64>(),
        rows().map(|row| row.accept_queue).sum(),
        rows().map(|row| row.accept_limit).sum(),
    ];
    assert_eq!(sums, expected);

    for state in TcpState::ALL {
        let sum: u64 = samples.namespaces.iter().map(|row| row.sockets.get(state)).sum();
        let expected: u64 = namespaces.iter().map(|it| it.sockets.get(state)).sum();
        assert_eq!(sum, expected, "{state:?}");
    }
    let selves: u64 = samples.namespaces.iter().map(|row| row.self_connected).sum();
    assert_eq!(selves, namespaces.iter().map(|it| it.self_connected.len() as u64).sum::<u64>());
}

/// At most `owners` and the rest, and no labels twice.
fn assert_cut(samples: &Samples, owners: usize) {
    fn assert_unique<Labels: Debug + Eq + std::hash::Hash>(
        rows: impl Iterator<Item = Labels>,
        most: usize,
    ) {
        let (mut seen, mut count) = (HashSet::new(), 0);
        for labels in rows {
            let text = format!("{labels:?}");
            assert!(seen.insert(labels), "{text} is there twice");
            count += 1;
        }
        assert!(count <= most, "{count} rows, at most {most}");
    }
    let most = owners + 1;
    assert_unique(samples.namespaces.iter().map(|row| &row.netns), most);
    assert_unique(
        samples.close_wait.iter().map(|row| (&row.netns, &row.owner, row.role, row.port)),
        most,
    );
    assert_unique(samples.listeners.iter().map(|row| (&row.netns, &row.owner, row.port)), most);
    // The rest of the findings keeps its kind and severity.
    let rest = FindingKind::ALL.len() * Severity::ALL.len();
    let rows = samples.findings.iter();
    assert_unique(
        rows.map(|row| (row.kind, row.severity, &row.netns, &row.owner, row.port)),
        owners + rest,
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_facts_in_any_order_leave_findings_changes_and_samples_consistent(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.take(step);
        }
        let rows = model.engine.samples().findings;
        let counted: u64 = rows.iter().map(|row| row.count).sum();
        prop_assert_eq!(model.engine.findings().len() as u64, counted);

        // All is over: whatever was raised is cleared.
        let end = Timestamp::from_ns(u64::MAX);
        model.take(&Step::Inventory(inventory([], end), end));
        model.take(&Step::Inventory(inventory([], end), end));
        prop_assert!(model.held.is_empty(), "{:?}", model.held);
        prop_assert!(model.engine.focus().is_empty(), "{:?}", model.engine.focus());
    }

    #[test]
    fn the_same_facts_lead_to_the_same_findings(steps in steps()) {
        let (mut one, mut other) = (Model::new(), Model::new());
        for step in &steps {
            one.take(step);
            other.take(step);
            prop_assert_eq!(one.engine.findings(), other.engine.findings());
            let (one, other) = (one.engine.samples(), other.engine.samples());
            prop_assert_eq!(one.findings, other.findings);
            prop_assert_eq!(one.close_wait, other.close_wait);
            prop_assert_eq!(one.namespaces, other.namespaces);
        }
    }

    #[test]
    fn facts_that_were_recorded_are_judged_as_they_were_then(steps in steps()) {
        let facts: Vec<_> = steps.into_iter().filter_map(fact).collect();
        let (mut then, mut now) = (Model::new().engine, Model::new().engine);
        for (fact, read) in facts.iter().zip(recorded_and_read(&facts)) {
            fact.give_to(&mut then);
            read.give_to(&mut now);
            prop_assert_eq!(then.findings(), now.findings());
            prop_assert_eq!(then.poll_change(), now.poll_change());
            let (then, now) = (then.samples(), now.samples());
            prop_assert_eq!(then.close_wait, now.close_wait);
            prop_assert_eq!(then.namespaces, now.namespaces);
        }
    }

    #[test]
    fn a_leak_that_never_closes_a_socket_is_raised_once_whatever_its_pace(
        steps in vec((0_u64..4, 1_u64..60), 1..150),
    ) {
        let mut watch = Watch::new();
        let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
        let mut sockets = Vec::new();
        for (more, pause) in steps {
            watch.pass(seconds(pause));
            let first = sockets.len() as u64;
            sockets.extend((first..first + more).map(|id| CloseWaitSocket { id, ..leak.clone() }));
            watch.see_close_wait(sockets.clone());
        }
        let told = watch.told();
        let worse = ["raised warning", "warning to critical"];
        prop_assert!(worse.starts_with(&told.iter().map(String::as_str).collect::<Vec<_>>()), "{told:?}");
    }

    #[test]
    fn resets_at_a_constant_rate_raise_nothing_whatever_the_pauses(
        per_second in 1_u64..10_000,
        before in 0_u64..1_000_000,
        pauses in vec(prop_oneof![8 => Just(10), 2 => 1_u64..100, 1 => 1_u64..5_000], 1..300),
    ) {
        let mut watch = Watch::with(|detect| {
            detect.reset_storm.warning = 1;
            detect.reset_storm.factor = 2;
        });
        let mut count = before;
        for pause in pauses {
            watch.pass(seconds(pause));
            count += pause * per_second;
            watch.resets = Some(vec![ResetCount {
                netns: HOST,
                role: Role::Server,
                port: 443,
                what: SeenReset::Sent(ResetCause::LingerZero),
                process: None,
                last_peer: None,
                count,
            }]);
            prop_assert_eq!(watch.see([host()]), []);
        }
    }

    #[test]
    fn a_severity_above_its_threshold_is_one_that_was_held_before_and_is_still_near(
        counts in vec(0_usize..260, 1..30),
    ) {
        let mut watch = Watch::new();
        let leak = close_wait(&process(12, "backupd"), START - seconds(3_600));
        for count in counts {
            let held = watch.severities().first().copied();
            watch.pass(Duration::from_millis(1));
            watch.see_close_wait(times(count, &leak));
            let severity = watch.severities().first().copied();
            let plain = match count {
                200.. => Some(Severity::Critical),
                20.. => Some(Severity::Warning),
                _ => None,
            };
            prop_assert!(severity >= plain, "{count}: {severity:?}");
            // Above its plain severity it is only where it was before, and near.
            if severity > plain {
                prop_assert!(severity <= held, "{count}: {severity:?} after {held:?}");
                prop_assert!((18..20).contains(&count) || (180..200).contains(&count), "{count}");
            }
        }
    }
}
