//! `ephemeral-port-exhaustion`: what takes the ports, by state and by process, and what helps.

use super::*;

const SOURCE: &str = "10.0.0.1";
const PEER: &str = "10.0.0.9:443";

/// 200 ports to [`PEER`] in these states, a sample of which these processes hold.
fn taken(states: &[(TcpState, u64)], holders: &[(&Arc<Process>, TcpState, usize)]) -> Namespace {
    let mut counts = StateCounts::default();
    states.iter().for_each(|(state, count)| counts.set(*state, *count));
    let used = states.iter().map(|(_, count)| *count).sum::<u64>() as u32;
    let mut namespace = host();
    namespace.ports.range = (16_384, 60_999);
    namespace.ports.available = 200;
    let destination = DestinationUse { states: Some(counts), ..destination(SOURCE, PEER, used) };
    namespace.ports.busy = vec![destination];
    namespace.port_users = users(holders, false);
    namespace
}

fn users(holders: &[(&Arc<Process>, TcpState, usize)], pinned: bool) -> Vec<PortUser> {
    let of = |&(process, state, count): &(&Arc<Process>, TcpState, usize)| {
        let user = PortUser {
            state,
            local: endpoint("10.0.0.1:40000"),
            peer: endpoint(PEER),
            pinned,
            owner: owner(process),
        };
        vec![user; count]
    };
    holders.iter().flat_map(of).collect()
}

/// A namespace in which bind() has taken so many of 200 ports, most before connect().
fn pinned(bound: u32, listening: u32, holder: &Arc<Process>) -> Namespace {
    let mut namespace = host();
    namespace.ports.range = (40_000, 40_199);
    namespace.ports.available = 200;
    namespace.ports.pinned = bound + listening;
    namespace.ports.bound_before_connect = bound;
    namespace.ports.pinned_in_time_wait = Some(0);
    namespace.port_users = users(&[(holder, TcpState::Established, 100)], true);
    namespace
}

fn see(namespace: Namespace) -> Watch {
    let mut watch = Watch::new();
    watch.see([namespace]);
    watch
}

#[test]
fn the_title_names_the_states_and_their_holder() {
    use TcpState::{CloseWait, Established, SynSent, TimeWait};
    let (hitch, java, curl) = (process(7, "hitch"), process(9, "java"), process(11, "curl"));
    let table = [
        (
            taken(&[(Established, 200)], &[(&hitch, Established, 100)]),
            "200 ESTABLISHED by hitch (pid 7)",
        ),
        (
            taken(&[(CloseWait, 200)], &[(&java, CloseWait, 100)]),
            "200 in CLOSE_WAIT by java (pid 9)",
        ),
        (
            taken(&[(TimeWait, 150), (Established, 50)], &[(&curl, Established, 9)]),
            "150 in TIME_WAIT, 50 ESTABLISHED by curl (pid 11)",
        ),
        (
            taken(
                &[(Established, 120), (SynSent, 80)],
                &[(&hitch, Established, 60), (&curl, Established, 40), (&java, SynSent, 30)],
            ),
            "120 ESTABLISHED, most by hitch (pid 7), 80 in SYN_SENT by java (pid 9)",
        ),
        // A state of few is not worth a word, and an unknown process is not named.
        (taken(&[(Established, 190), (TimeWait, 10)], &[]), "190 ESTABLISHED"),
    ];
    for (namespace, said) in table {
        let watch = see(namespace);
        let title = &watch.only().title;
        let begin = "200 of 200 local ports from 10.0.0.1 to 10.0.0.9:443 are taken, ";
        assert_eq!(title, &format!("{begin}{said}"));
    }
}

#[test]
fn workers_of_one_name_hold_the_ports_together() {
    let workers: Vec<_> = (1..=4).map(|pid| process_in(pid, "nginx", "nginx.service")).collect();
    let holders: Vec<_> =
        workers.iter().map(|process| (process, TcpState::Established, 25)).collect();
    let watch = see(taken(&[(TcpState::Established, 200)], &holders));
    let finding = watch.only();
    assert!(
        finding.title.ends_with("200 ESTABLISHED by nginx (several processes)"),
        "{}",
        finding.title
    );
    let subject = &finding.subject;
    assert_eq!((subject.process.as_deref(), subject.pid), (Some("nginx"), None));
    assert_eq!(subject.unit.as_deref(), Some("nginx.service"), "they share it");
    // Many that have no name in common have no owner.
    let others: Vec<_> = (1..=20).map(|pid| process(pid, &format!("job{pid}"))).collect();
    let holders: Vec<_> = others.iter().map(|it| (it, TcpState::Established, 5)).collect();
    let watch = see(taken(&[(TcpState::Established, 200)], &holders));
    assert!(watch.only().title.ends_with(", 200 ESTABLISHED"), "{}", watch.only().title);
    assert_eq!(watch.only().subject.process, None);
}

#[test]
fn the_first_remedy_follows_the_state_of_most_and_time_wait_is_explained_where_there_is_some() {
    use TcpState::{CloseWait, Established, FinWait2, LastAck, SynSent, TimeWait};
    let api = process(7, "api");
    let table = [
        (Established, "Fewer connections at once: api (pid 7) has 180 open"),
        (CloseWait, "The leak first: api (pid 7) keeps 180 sockets in CLOSE_WAIT"),
        (SynSent, "Find out why 10.0.0.9:443 does not answer: 180 connects of api (pid 7) wait"),
        (FinWait2, "Find out why the peer does not close: 180 connections wait"),
        (LastAck, "Find out why the peer does not answer: 180 connections wait"),
        (TimeWait, "Fewer connections: keep-alive or a connection pool"),
    ];
    for (state, first) in table {
        for beside in [19, 20] {
            // A tenth of what is taken counts.
            let other = if state == TimeWait { Established } else { TimeWait };
            let counts = [(state, 180), (other, beside)];
            let watch = see(taken(&counts, &[(&api, state, 50)]));
            let finding = watch.only();
            assert!(finding.remedies[0].starts_with(first), "{state:?}: {}", finding.remedies[0]);
            let is_explained = state == TimeWait || beside == 20;
            let remedies = remedies_of(finding);
            assert_eq!(remedies.contains("tcp_tw_reuse"), is_explained, "{state:?}: {remedies}");
            let says = finding.explanation.contains("TIME_WAIT holds a port");
            assert_eq!(says, is_explained, "{state:?}: {}", finding.explanation);
        }
    }
}

#[test]
fn who_holds_the_ports_is_the_subject_and_not_who_fails() {
    let (java, curl) = (process(9, "java"), process(11, "curl"));
    let namespace = taken(&[(TcpState::CloseWait, 200)], &[(&java, TcpState::CloseWait, 100)]);
    let mut watch = Watch::new();
    watch.engine.handle_event(&no_port(START, HOST, SOURCE, PEER, Some(&curl)));
    watch.see([namespace]);
    let finding = watch.only();
    assert_says(
        &finding.title,
        &["by curl (pid 11): 200 of 200", "200 in CLOSE_WAIT by java (pid 9)"],
    );
    assert_eq!(finding.subject.pid, Some(9));
    assert_eq!(text_of(finding, "ports_by_state"), "state close_wait, ports 200");
    let holder = "process java, pid 9, sampled sockets 100, sample ratio 1";
    assert_eq!(text_of(finding, "holders"), holder);
}

#[test]
fn ports_that_bind_has_taken_are_one_finding_of_the_namespace_with_its_holder() {
    let envoy = process(7, "envoy");
    let mut watch = Watch::new();
    let begin = |number| format!("{number} of 200 local ports are taken for every destination");
    watch.see([pinned(159, 0, &envoy)]);
    assert_eq!(watch.engine.findings(), []);
    watch.see([pinned(160, 0, &envoy)]);
    assert_eq!(watch.only().severity, Severity::Warning);
    watch.see([pinned(190, 3, &envoy)]);
    let finding = watch.only();
    assert_eq!(finding.severity, Severity::Critical);
    let what = "190 by bind() before connect() by envoy (pid 7), 3 by listeners";
    assert_eq!(finding.title, format!("{}, {what}", begin(193)));
    assert_eq!(finding.id, format!("ephemeral-port-exhaustion/{HOST}/pinned"));
    assert_eq!(finding.subject.process.as_deref(), Some("envoy"));
    assert_eq!((finding.subject.local.as_deref(), &finding.subject.peer), (Some(SOURCE), &None));
    assert!(
        finding.remedies[0].starts_with("IP_BIND_ADDRESS_NO_PORT (Linux 4.2) in envoy (pid 7)")
    );
    assert!(!remedies_of(finding).contains("More destinations"), "they do not help here");
    assert!(!remedies_of(finding).contains("tcp_tw_reuse="));
}

#[test]
fn a_process_without_a_port_beside_pinned_ones_is_named_there_and_has_no_finding_of_its_own() {
    let (envoy, curl) = (process(7, "envoy"), process(11, "curl"));
    let mut watch = Watch::new();
    watch.see([pinned(160, 0, &envoy)]);
    for peer in [PEER, "10.0.0.8:80"] {
        watch.engine.handle_event(&no_port(watch.now, HOST, SOURCE, peer, Some(&curl)));
    }
    // A destination is full because 160 of its ports are pinned.
    let mut namespace = pinned(160, 0, &envoy);
    namespace.ports.busy = vec![destination(SOURCE, PEER, 200)];
    watch.see([namespace]);
    let finding = watch.only();
    assert_eq!(finding.severity, Severity::Critical);
    assert!(
        finding.title.ends_with("; 2 connect() calls, by curl (pid 11), found none"),
        "{}",
        finding.title
    );
    assert_eq!(finding.subject.process.as_deref(), Some("envoy"));
    assert_eq!(text_of(finding, "failed_connects"), "2");
    assert_eq!(watch.reported(), ["raised warning", "warning to critical"]);
}

#[test]
fn listeners_that_take_the_range_are_distinguished_from_bound_connections() {
    let watch = see(pinned(0, 180, &process(7, "envoy")));
    let finding = watch.only();
    assert_says(&finding.title, &["every destination, 180 by listeners"]);
    assert_eq!(finding.subject.process, None);
    assert!(!remedies_of(finding).contains("IP_BIND_ADDRESS_NO_PORT"));
    assert!(finding.remedies[0].starts_with("Fewer listeners"));
}

#[test]
fn some_pinned_ports_are_reported_beside_what_a_destination_has_taken() {
    let (envoy, api) = (process(7, "envoy"), process(9, "api"));
    let mut namespace =
        taken(&[(TcpState::Established, 100)], &[(&api, TcpState::Established, 50)]);
    (namespace.ports.pinned, namespace.ports.bound_before_connect) = (100, 100);
    namespace.ports.busy[0].used = 200;
    namespace.port_users.extend(users(&[(&envoy, TcpState::Established, 40)], true));
    let watch = see(namespace);
    assert_says(
        &watch.only().title,
        &["100 for every destination by bind() by envoy (pid 7), 100 ESTABLISHED by api (pid 9)"],
    );
}

#[test]
fn a_leak_leads_the_shortage_that_it_makes_and_a_shortage_the_time_wait_that_takes_part() {
    let java = process(9, "java");
    let leak = |states: &[(TcpState, u64)]| {
        let mut namespace = taken(states, &[(&java, TcpState::CloseWait, 100)]);
        namespace.close_wait = times(200, &close_wait(&java, START - seconds(3_600)));
        namespace.time_wait.used = 990;
        namespace
    };
    let led = |watch: &Watch, kind: FindingKind| {
        let finding = watch.engine.findings().iter().find(|it| it.kind == kind).unwrap();
        finding.led_by.clone().unwrap_or_default()
    };
    let watch = see(leak(&[(TcpState::CloseWait, 199)]));
    let by = led(&watch, FindingKind::EphemeralPortExhaustion);
    assert!(by.starts_with("close-wait-pileup/"), "{by:?}");
    assert_eq!(led(&watch, FindingKind::TimeWaitExhaustion), "", "TIME_WAIT has no part in it");
    let watch = see(leak(&[(TcpState::CloseWait, 20), (TcpState::TimeWait, 179)]));
    assert_eq!(led(&watch, FindingKind::EphemeralPortExhaustion), "");
    let by = led(&watch, FindingKind::TimeWaitExhaustion);
    assert!(by.starts_with("ephemeral-port-exhaustion/"), "{by:?}");
}

#[test]
fn pinned_ports_lead_the_bind_that_finds_none() {
    let envoy = process(7, "envoy");
    let refused = |address: &str| Event::BindFailed {
        at: START,
        netns: HOST,
        local: endpoint(address),
        process: Some(Arc::clone(&envoy)),
    };
    for (address, is_led) in [("10.0.0.1:0", true), ("10.0.0.1:8080", false)] {
        let mut watch = Watch::new();
        watch.engine.handle_event(&refused(address));
        watch.see([pinned(200, 0, &envoy)]);
        let findings = watch.engine.findings();
        let conflict = findings.iter().find(|it| it.kind == FindingKind::BindConflict).unwrap();
        assert_eq!(conflict.led_by.is_some(), is_led, "{conflict:#?}");
    }
}
