//! Facts and rules of any kind, for the properties.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::facts::{Progress, RecordedReset, ResetCause, ResetObservation};

/// One step of an engine.
#[derive(Clone, Debug)]
pub(super) enum Step {
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
    prop_oneof![9 => select(names.to_vec()).prop_map(str::to_owned), 3 => hostile(), 1 => any::<String>().prop_map(|name| name.replace(' ', "_"))]
}

/// Characters that drive a terminal, turn or hide text, or mean something to a shell or systemd.
fn hostile() -> impl Strategy<Value = String> {
    let parts = [
        "\u{1b}[41m",
        "\u{9b}0m",
        "\u{7f}",
        "\0",
        "\r",
        "\u{85}",
        "\u{202e}",
        "\u{2066}",
        "\u{200f}",
        "\u{61c}",
        "\u{2029}",
        "\u{200b}",
        "\u{feff}",
        "\u{ad}",
        "\u{e0041}",
        "\u{fe0f}",
        "\u{3164}",
        "$(x)",
        "`evil`",
        "'",
        "\"",
        ";x",
        "--",
        "-H",
        "*",
        "?",
        "[a]",
        "..",
        "\\",
        "web",
        ".service",
    ];
    vec(select(parts.to_vec()), 1..4).prop_map(|parts| parts.concat())
}

/// Also such names as commands offer, and their like.
fn unit_name() -> impl Strategy<Value = String> {
    let units =
        ["api.service", r"a\x2db@1.service", "user@1000.service", "-H.service", "*.service"];
    prop_oneof![1 => select(units.to_vec()).prop_map(str::to_owned), 1 => name()]
}

fn any_process() -> impl Strategy<Value = Arc<Process>> {
    (0_u32..4, name(), option::of(name()), option::of(unit_name()), option::of(name())).prop_map(
        |(pid, name, exe, unit, container)| {
            Arc::new(Process { pid, name, exe, unit, container, ..Process::default() })
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
    let named =
        (name(), name()).prop_map(|(function, module)| format!("{function}+0x1 ({module})"));
    let frame = select(frames.to_vec()).prop_map(str::to_owned);
    let frame = prop_oneof![7 => frame, 1 => name(), 2 => named];
    vec(frame, 0..4).prop_map(Arc::from)
}

fn progress() -> impl Strategy<Value = Option<Progress>> {
    let bytes = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
    let progress =
        (bytes, timestamp()).prop_map(|((acked, sent, received, unacked), delivered)| Progress {
            acked_bytes: acked,
            sent_bytes: sent,
            received_bytes: received,
            unacked_bytes: unacked,
            delivered,
        });
    option::of(progress)
}

/// A socket, and how many of its like there are.
fn close_wait_sockets() -> impl Strategy<Value = Vec<CloseWaitSocket>> {
    let ends = (any_endpoint(), any_endpoint(), select(vec![Role::Client, Role::Server]));
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1));
    let identity = (0_u64..20, option::of(stack()));
    let carried = (0_u32..4, progress());
    (ends, timestamp(), carried, flags, any_owner(), identity, 0_usize..30).prop_map(
        |((local, peer, role), since, carried, flags, owner, (id, stack), count)| {
            let (recv_queue, progress) = carried;
            let (since_exact, unaccepted, owner_pending) = flags;
            let socket = CloseWaitSocket {
                id,
                local,
                peer,
                role,
                since,
                since_exact,
                recv_queue,
                progress,
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
    let carried = (flags, progress());
    (ends, state, timestamp(), carried, any_owner(), 0_usize..30).prop_map(
        |((local, peer, role), state, since, (flags, progress), owner, count)| {
            let (orphan, owner_pending) = flags;
            let socket = WaitingSocket {
                id: 0,
                state,
                local,
                peer,
                role,
                since,
                orphan,
                progress,
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

fn states() -> impl Strategy<Value = StateCounts> {
    let count = || prop_oneof![0_u64..40_000, any::<u64>()];
    (select(TcpState::ALL.to_vec()), count(), count()).prop_map(|(state, count, time_wait)| {
        let mut states = StateCounts::default();
        states.set(TcpState::TimeWait, time_wait);
        states.set(state, count);
        states
    })
}

fn port_user() -> impl Strategy<Value = PortUser> {
    let ends = (any_endpoint(), any_endpoint());
    (select(TcpState::ALL.to_vec()), ends, any::<bool>(), any_owner()).prop_map(
        |(state, (local, peer), pinned, owner)| PortUser { state, local, peer, pinned, owner },
    )
}

fn port_use() -> impl Strategy<Value = PortUse> {
    let destination = || {
        (any_endpoint(), any_endpoint(), any::<u32>(), option::of(states()))
            .prop_map(|(local, peer, used, states)| DestinationUse { local, peer, used, states })
    };
    let reuse = select(vec![TwReuse::Never, TwReuse::Always, TwReuse::Loopback]);
    (
        prop_oneof![Just((32_768, 60_999)), any::<(u16, u16)>()],
        prop_oneof![Just(0), 1_u32..70_000, any::<u32>()],
        any::<u32>(),
        option::of(destination()),
        vec(destination(), 0..4),
        (reuse, any::<bool>()),
        select(vec!["", "8080,32768-32770,x", "40000", "1-65535", "80\u{1b}[2J,81;x,$(x)"]),
    )
        .prop_map(
            |(range, available, pinned, worst, busy, (tw_reuse, timestamps), reserved)| PortUse {
                range,
                reserved: reserved.to_owned(),
                available,
                pinned,
                bound_before_connect: pinned / 2,
                pinned_in_time_wait: (pinned % 3 > 0).then_some(pinned),
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
            memory_pressures: None,
            memory_aborts: None,
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
    // Few, so that they meet from one inventory to the next.
    let first = option::of(0_u64..3);
    let details = (0_u64..4, any::<Option<bool>>(), first, any::<Option<bool>>());
    let numbers = (number(), number(), number(), number(), number(), number(), clients);
    let acceptors = vec(any_owner(), 0..3);
    let listener =
        (any_endpoint(), numbers, any_owner(), details, acceptors).prop_map(|listener| {
            let (local, numbers, owner, (id, port_picked, first_waiting, awaited), acceptors) =
                listener;
            let acceptors = acceptors.into_iter().flatten().map(|owner| owner.process).collect();
            let (accept_queue, accept_limit, half_open, drops, ..) = numbers;
            let (.., unanswered, unanswered_sources, (in_port_range, local_clients)) = numbers;
            Listener {
                id,
                local,
                accept_queue,
                accept_limit,
                half_open,
                drops,
                unanswered,
                unanswered_sources,
                in_port_range,
                local_clients,
                port_picked,
                first_waiting,
                awaited,
                owner,
                acceptors,
            }
        });
    let self_connected = (any_endpoint(), select(TcpState::ALL.to_vec()), any_owner())
        .prop_map(|(endpoint, state, owner)| SelfConnectedSocket { id: 0, endpoint, state, owner });
    let limit = option::of(prop_oneof![Just(0), 1_u64..5_000, any::<u64>()]);
    (
        (
            0_u64..4,
            prop_oneof![
                3 => select(vec!["host", "blue", "", "other", "my\nnetns"]).prop_map(str::to_owned),
                1 => hostile(),
            ],
        ),
        vec(0_u64..1 << 40, TcpState::ALL.len()),
        (prop_oneof![0_u64..5_000, any::<u64>()], limit),
        port_use(),
        (vec(close_wait_sockets(), 0..6), prop_oneof![Just(0), 0_u64..1 << 40]),
        vec(listener, 0..4),
        vec(self_connected, 0..4),
        (netstat(), option::of(0_u64..3)),
        (vec(waiting_sockets(), 0..4), vec(port_holder(), 0..6), vec(port_user(), 0..9)),
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
                (waiting, port_holders, port_users),
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
                    port_users,
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

fn any_observation() -> impl Strategy<Value = ResetObservation> {
    use crate::facts::{Amount, ResetReason as Reason};
    let reasons = vec![Reason::NoSocket, Reason::TcpFlags, Reason::AbortOnClose, Reason::TcpState];
    let state = option::of(select(TcpState::ALL.to_vec()));
    let amounts = vec![Amount::Nothing, Amount::Few, Amount::Some, Amount::Many];
    let amount = || option::of(select(amounts.clone()));
    let sizes =
        (amount(), amount(), amount(), option::of(any::<bool>()), option::of(any::<bool>()));
    let flags = any::<[bool; 7]>();
    (option::of(select(reasons)), state, flags, sizes).prop_map(
        |(reason, state, flags, (unread, unsent, carried, peer_closed, answered))| {
            let [received, segment, syn, linger_zero, dead, has_socket, shut_down] = flags;
            ResetObservation {
                received,
                reason,
                state,
                segment,
                syn,
                linger_zero,
                dead,
                has_socket,
                shut_down,
                peer_closed,
                answered,
                unread,
                unsent,
                carried,
            }
        },
    )
}

fn any_resets() -> impl Strategy<Value = Option<Vec<ResetCount>>> {
    let what = prop_oneof![
        select(ResetCause::ALL.to_vec()).prop_map(RecordedReset::Sent),
        select(TcpState::ALL.to_vec()).prop_map(RecordedReset::Received),
        any_observation().prop_map(RecordedReset::Seen),
    ];
    let role = select(vec![Role::Client, Role::Server]);
    let service = (0_u64..4, role, select(vec![0, 80, 443]), what);
    let peer = option::of(any_endpoint().prop_map(|endpoint| endpoint.address));
    let count = prop_oneof![0_u64..3_000, any::<u64>()];
    let ends = (option::of(any::<u16>()), option::of(0_u32..300), option::of(0_u32..300));
    let row = (service, option::of(any_process()), peer, count, ends).prop_map(
        |((netns, role, port, what), process, last_peer, count, ends)| ResetCount {
            other_port: ends.0,
            peers: ends.1,
            other_ports: ends.2,
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
            option::of((0_u64..100_000).prop_map(Duration::from_millis)),
            process()
        )
            .prop_map(|(at, netns, local, peer, reason, waited, process)| {
                Event::ConnectFailed {
                    at,
                    netns,
                    local,
                    peer,
                    reason,
                    waited,
                    no_connect: None,
                    process,
                }
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
    (any::<[bool; 14]>(), 1_u64..40, 0_u64..40, 1_u64..700, 0_u64..100, file).prop_map(
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
            detect.keepalive_race.enabled = enabled[11];
            detect.keepalive_race.warning = warning;
            detect.keepalive_race.critical = warning + more;
            detect.keepalive_race.window = seconds(window);
            detect.stalled_send.enabled = enabled[12];
            detect.stalled_send.warning = warning;
            detect.stalled_send.critical = warning + more;
            detect.stalled_send.min_age = seconds(age);
            detect.kernel_limit.enabled = enabled[13];
            detect.kernel_limit.window = seconds(window);
            (detect, ignore)
        },
    )
}

fn closer() -> impl Strategy<Value = CloserCount> {
    let service = (select(vec![Role::Client, Role::Server]), option::of(any_endpoint()));
    let count = || prop_oneof![0_u64..5_000, any::<u64>()];
    let counts = (count(), count(), option::of(timestamp()));
    let all = (0_u64..4, any_process(), service, counts);
    all.prop_map(|(netns, process, (role, peer), (count, others, since))| {
        let port = peer.map_or(80, |peer| peer.port);
        let peer = peer.map(|peer| peer.address);
        CloserCount { netns, process, role, peer, port, count, others, since }
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

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let inventory =
        (any_inventory(), timestamp()).prop_map(|(inventory, now)| Step::Inventory(inventory, now));
    let step = prop_oneof![
        5 => any_event().prop_map(Step::Event),
        4 => inventory,
        1 => (any_rules(), 1_usize..6).prop_map(|(rules, owners)| Step::Reconfigure(rules.into(), owners)),
    ];
    vec(step, 1..15)
}
