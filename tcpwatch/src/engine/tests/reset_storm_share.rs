//! `reset-storm`: against the connections that end, and without those that ended in order.

use super::{reset_storm::*, *};
use crate::facts::{
    Amount, RecordedReset, ResetObservation, ResetReason as Reason, SeenReset, ServiceCount,
};

fn seen(role: Role, seen: ResetObservation) -> ResetCount {
    ResetCount { role, what: RecordedReset::Seen(seen), ..row(REFUSED) }
}

/// The reset of close() with unread data.
fn unread(unread: Amount, carried: Amount, peer_closed: bool) -> ResetObservation {
    ResetObservation {
        reason: Some(Reason::AbortOnClose),
        state: Some(TcpState::Close),
        shut_down: true,
        has_socket: true,
        peer_closed: Some(peer_closed),
        answered: Some(true),
        unread: Some(unread),
        unsent: Some(Amount::Nothing),
        carried: Some(carried),
        ..ResetObservation::default()
    }
}

fn linger(carried: Amount, unsent: Amount, peer_closed: bool) -> ResetObservation {
    ResetObservation {
        reason: Some(Reason::TcpState),
        linger_zero: true,
        unsent: Some(unsent),
        ..unread(Amount::Nothing, carried, peer_closed)
    }
}

fn late(payload: Amount) -> ResetObservation {
    ResetObservation {
        reason: Some(Reason::TimeWaitSocket),
        state: Some(TcpState::TimeWait),
        segment: true,
        unread: Some(payload),
        ..ResetObservation::default()
    }
}

fn received(state: TcpState, lost: Amount, carried: Amount, answered: bool) -> ResetObservation {
    ResetObservation {
        received: true,
        state: Some(state),
        peer_closed: Some(state == TcpState::CloseWait),
        answered: Some(answered),
        unread: Some(Amount::Nothing),
        unsent: Some(lost),
        carried: Some(carried),
        ..ResetObservation::default()
    }
}

/// The severity of a storm of 2000 a window that lasts.
fn severity_of(role: Role, what: ResetObservation) -> Option<Severity> {
    let mut host = Host::quiet([seen(role, what)]);
    host.storm(2_000);
    host.watch.severities().first().copied()
}

#[test]
fn an_orderly_end_is_no_reset_at_any_rate_and_a_lost_answer_is_one() {
    use Amount::{Few, Many, Nothing, Some as Kilobytes};
    use Role::{Client, Server};
    use Severity::{Info, Warning};
    use TcpState::{CloseWait, Established, LastAck, SynSent};
    let table = [
        // HTTPS: the close_notify stays unread, or comes after the close.
        ("unread close_notify", Client, unread(Few, Kilobytes, true), None),
        ("before the FIN", Client, unread(Few, Many, false), None),
        ("late close_notify", Server, late(Few), None),
        ("the same, received", Client, received(CloseWait, Few, Many, false), None),
        ("in LAST_ACK", Client, received(LastAck, Few, Many, false), None),
        ("close_notify of a client", Server, unread(Few, Kilobytes, true), None),
        // Health checks.
        ("a check", Client, linger(Nothing, Nothing, false), None),
        ("a check with an answer", Client, linger(Kilobytes, Nothing, false), None),
        ("checked", Server, received(Established, Nothing, Kilobytes, true), None),
        // One side's decision.
        ("an aborted download", Client, unread(Many, Many, false), Some(Info)),
        ("the same, received", Server, received(Established, Many, Many, false), Some(Info)),
        ("linger 0 after the answer", Server, linger(Many, Nothing, false), Some(Info)),
        ("the same, received", Client, received(Established, Nothing, Many, true), Some(Info)),
        ("linger 0 after the FIN", Server, linger(Many, Nothing, true), None),
        // Harm.
        ("an answer thrown away", Server, linger(Many, Kilobytes, false), Some(Warning)),
        ("a refused body", Server, unread(Many, Many, false), Some(Warning)),
        ("a request never read", Server, unread(Few, Few, false), Some(Warning)),
        ("a request after the close", Server, late(Kilobytes), Some(Warning)),
        ("the same, received", Client, received(CloseWait, Kilobytes, Many, false), Some(Warning)),
        ("a request, no answer", Client, received(Established, Nothing, Few, false), Some(Warning)),
        ("half-open", Client, received(Established, Kilobytes, Many, false), Some(Warning)),
        ("refused", Client, received(SynSent, Few, Nothing, false), Some(Warning)),
    ];
    for (name, role, what, severity) in table {
        assert_eq!(severity_of(role, what), severity, "{name}: {what:?}");
    }
}

/// Connections of nginx that closed in order since the inventory before.
fn closed(closed: u64) -> Option<Vec<ServiceCount>> {
    Some(vec![ServiceCount {
        netns: HOST,
        role: Role::Server,
        port: 443,
        process: process_in(80, "nginx", "nginx.service"),
        opened: 0,
        closed,
        idle: None,
    }])
}

#[test]
fn a_small_share_of_what_ends_is_no_storm_and_a_large_one_is() {
    for (others, raised) in [(10_000, false), (9_100, false), (8_900, true), (100, true)] {
        let mut host = Host::quiet([row(UNREAD)]);
        host.watch.services = closed(others);
        host.repeat(6, &[1_000]);
        assert_eq!(!host.watch.severities().is_empty(), raised, "{others}");
    }
    let mut host = Host::quiet([row(UNREAD)]);
    host.watch.services = closed(1_000);
    host.repeat(3, &[1_000]);
    assert_eq!(text_of(host.only(), "other_ends_in_window"), "3000");
    assert_eq!(text_of(host.only(), "share_of_ends"), "0.5");
    assert_says(&host.only().title, &["within 60 s, 50 % of the connections that ended, and had"]);
    // It is not known of an earlier recording.
    let mut host = Host::quiet([row(UNREAD)]);
    host.repeat(3, &[1_000]);
    assert_eq!(text_of(host.only(), "share_of_ends"), "absent");
}

#[test]
fn critical_is_what_more_than_half_of_all_connections_meet() {
    for (others, severity) in [(4_000, Severity::Warning), (1_000, Severity::Critical)] {
        let mut host = Host::quiet([row(UNREAD)]);
        host.watch.services = closed(others);
        host.repeat(6, &[2_000]);
        assert_eq!(host.watch.severities(), [severity], "{others}");
    }
}

#[test]
fn connections_of_another_program_on_the_same_port_hide_no_storm() {
    let mut host = Host::quiet([row(UNREAD)]);
    host.watch.services = closed(100_000).map(|mut counts| {
        counts[0].process = process(7, "sshd");
        counts
    });
    host.repeat(3, &[1_000]);
    assert_eq!(host.watch.severities(), [Severity::Warning]);
}

#[test]
fn harmless_ends_are_in_the_number_that_resets_are_measured_by() {
    let orderly = ResetCount {
        role: Role::Server,
        ..seen(Role::Server, linger(Amount::Many, Amount::Nothing, true))
    };
    let mut host = Host::quiet([row(UNREAD), orderly]);
    host.watch.services = closed(0);
    host.repeat(6, &[300, 5_000]);
    assert_eq!(host.watch.severities(), []);
}

#[test]
fn both_ends_of_a_storm_on_one_host_are_one_finding_of_the_side_that_sends() {
    let client = process(7, "checkout");
    let received = SeenReset::Received(TcpState::Established);
    let server = row(UNREAD);
    let unowned = ResetCount { process: None, ..row(NO_LISTENER) };
    let of_client = |what: SeenReset| ResetCount {
        netns: 5,
        role: Role::Client,
        process: Some(Arc::clone(&client)),
        what: what.into(),
        ..row(UNREAD)
    };
    let mut host = Host::quiet([server, unowned, of_client(received), of_client(REFUSED)]);
    host.repeat(3, &[500, 400, 500, 400]);
    let finding = host.only();
    assert_says(&finding.title, &["nginx (pid 80) sent 1,500 resets from port 443"]);
    let also = text_of(finding, "also");
    assert_says(&also, &["process checkout, pid 7, role client, netns blue, port 443"]);
    assert_says(&also, &["role server, netns host, port 443, cause no_listener, resets 1200"]);
    // Its severity is the worst of them, and it ends with the last.
    assert_eq!(finding.severity, Severity::Warning);
    host.repeat(8, &[0; 4]);
    assert_eq!(host.watch.reported(), ["raised info", "info to warning", "cleared warning"]);
}

#[test]
fn a_storm_keeps_its_finding_when_another_of_its_groups_tells_it() {
    // Killed with its connections, then the port has no listener for a while.
    let unowned = ResetCount { process: None, ..row(NO_LISTENER) };
    let mut host = Host::quiet([row(UNREAD), unowned]);
    host.add(&[1_500, 0]);
    let id = host.only().id.clone();
    host.repeat(9, &[0, 200]);
    assert_eq!(host.only().id, id);
    assert_says(&host.only().title, &["no process listens there"]);
    host.repeat(12, &[0, 0]);
    assert_eq!(host.watch.reported(), ["raised info", "info to warning", "cleared warning"]);
}

#[test]
fn resets_that_no_process_here_sent_are_reported_by_their_receiver() {
    let of_client =
        ResetCount { role: Role::Client, process: Some(process(7, "checkout")), ..row(REFUSED) };
    // Another service of the same port sends a few.
    let mut host = Host::quiet([of_client, ResetCount { netns: 5, ..row(UNREAD) }]);
    host.repeat(6, &[900, 105]);
    let findings = host.watch.engine.findings();
    assert_eq!(findings.len(), 2, "{findings:?}");
}

#[test]
fn resets_of_a_full_queue_belong_to_it_where_the_sysctl_says_so() {
    let refused = ResetObservation {
        reason: Some(Reason::InvalidSyn),
        state: Some(TcpState::Listen),
        segment: true,
        ..ResetObservation::default()
    };
    let then = ResetObservation { reason: Some(Reason::TcpFlags), ..refused };
    for (setting, raised) in [(Some(true), false), (Some(false), true), (None, true)] {
        let rows = [seen(Role::Server, refused), seen(Role::Server, then)];
        let mut host = Host::quiet(rows);
        for _ in 0..3 {
            host.rows.iter_mut().for_each(|row| row.count += 500);
            host.watch.pass(INTERVAL);
            host.watch.resets = Some(host.rows.clone());
            let listener = Listener {
                accept_queue: 9,
                accept_limit: 8,
                ..Listener::at(endpoint("0.0.0.0:443"))
            };
            host.watch.see([Namespace {
                abort_on_overflow: setting,
                listeners: vec![listener],
                ..super::host()
            }]);
        }
        let storms = host.watch.engine.findings().iter();
        let storms = storms.filter(|it| it.kind == FindingKind::ResetStorm).count();
        assert_eq!(storms > 0, raised, "{setting:?}");
    }
}

#[test]
fn storms_of_one_port_towards_strangers_are_two_findings() {
    let received = SeenReset::Received(TcpState::Established);
    let client = process(7, "checkout");
    // Whether they are the two ends of the same connections, by the last peer of each.
    for (netns, of_server, of_client, findings) in [
        (HOST, "203.0.113.9", "198.51.100.1", 2),
        (HOST, "127.0.0.1", "127.0.0.1", 1),
        (HOST, "10.0.0.5", "10.0.0.5", 1),
        (HOST, "10.0.0.5", "10.0.0.6", 2),
        (5, "10.0.0.5", "10.0.0.6", 1),
        (5, "203.0.113.9", "10.0.0.6", 2),
        (5, "203.0.113.9", "198.51.100.1", 2),
    ] {
        let server = ResetCount { last_peer: Some(address(of_server)), ..row(UNREAD) };
        let victim = ResetCount {
            netns,
            role: Role::Client,
            process: Some(Arc::clone(&client)),
            last_peer: Some(address(of_client)),
            what: received.into(),
            ..row(UNREAD)
        };
        let mut host = Host::quiet([server, victim]);
        host.repeat(3, &[500, 500]);
        let found = host.watch.engine.findings();
        assert_eq!(found.len(), findings, "{netns} {of_server} {of_client}: {found:#?}");
    }
}

#[test]
fn the_share_is_of_the_time_of_the_resets_and_stays_as_they_do() {
    let mut host = Host::quiet([row(UNREAD)]);
    host.watch.services = closed(500);
    host.repeat(3, &[500]);
    assert_eq!(text_of(host.only(), "share_of_ends"), "0.5");
    // The storm is over, the service goes on.
    host.watch.services = closed(5_000);
    host.repeat(3, &[0]);
    assert_eq!(text_of(host.only(), "share_of_ends"), "0.5");
    assert_eq!(text_of(host.only(), "resets_in_window"), "1500");
}
