//! `reset-storm`: what is said of whom, and why.

use super::{reset_storm::*, *};
use crate::facts::{ResetCause, SeenReset};

#[test]
fn several_causes_are_one_storm_named_after_the_largest() {
    let mut host = Host::quiet([row(LINGER), row(UNREAD), row(NO_LISTENER)]);
    host.add(&[200, 900, 100]);
    let finding = host.only();
    assert_eq!(
        finding.title,
        "nginx (pid 80) sent 1,200 resets from port 443 within 60 s, and had none before, most of \
         them by close() with data unread; the last to 10.0.0.7"
    );
    assert_eq!(
        text_of(finding, "by_cause"),
        "cause unread_data, resets 900; cause linger_zero, resets 200; cause no_listener, resets 100"
    );
    assert_says(&finding.explanation, &["RFC 2525 section 2.17"]);
}

#[test]
fn a_service_that_is_down_is_reported_with_its_client() {
    let down = ResetCount {
        netns: 5,
        port: 8_080,
        process: None,
        last_peer: Some(address("2001:db8::7")),
        ..row(NO_LISTENER)
    };
    let mut host = Host::new([down]);
    host.repeat(HOUR, &[1]);
    host.add(&[1_499]);
    let finding = host.only();
    assert_eq!(
        finding.title,
        "this host refused 1,504 connects to port 8080 within 60 s in network namespace blue, 251 \
         times as many as before: no process listens there; the last from 2001:db8::7"
    );
    assert_says(
        &finding.explanation,
        &["the service is down, has moved, or listens on another address"],
    );
    assert_says(
        &remedies_of(finding),
        &[
            "ip netns exec blue tcpdump -ni any -c 40 'tcp port 8080 and",
            "ip netns exec blue ss -ltnp '( sport = :8080 )'",
            "2001:db8::7 among them",
        ],
    );
    let expected = [
        ("resets_in_window", "1504"),
        ("window_seconds", "60"),
        ("resets_per_second", "25.067"),
        ("baseline_resets_per_second", "0.1"),
        ("by_cause", "cause no_listener, resets 1504"),
        ("by_state", "absent"),
        ("last_peer", "2001:db8::7"),
        ("quiet_seconds", "absent"),
    ];
    for (key, value) in expected {
        assert_eq!(text_of(finding, key), value, "{key}");
    }
    let subject = &finding.subject;
    assert_eq!((subject.process.as_deref(), subject.pid), (None, None));
    assert_eq!((subject.local.as_deref(), subject.peer.as_deref()), (Some("*:8080"), None));
}

#[test]
fn a_refused_client_is_reported_with_its_service() {
    let refused = ResetCount {
        role: Role::Client,
        port: 5_432,
        process: Some(process_in(7, "api", "api.service")),
        last_peer: Some(address("10.0.0.9")),
        ..row(REFUSED)
    };
    let mut host = Host::quiet([refused]);
    host.add(&[2_000]);
    let finding = host.only();
    assert_eq!(
        finding.title,
        "api (pid 7) received 2,000 resets from port 5432 within 60 s, and had none before, all of \
         them in answer to connect(); the last from 10.0.0.9"
    );
    assert_eq!(text_of(finding, "by_state"), "state syn_sent, resets 2000");
    assert_eq!(finding.subject.peer.as_deref(), Some("*:5432"));
    assert_says(&remedies_of(finding), &["At 10.0.0.9: `ss -ltnp '( sport = :5432 )'`"]);
}

#[test]
fn each_cause_and_each_state_has_words_of_its_own() {
    let sent = ResetCause::ALL.map(SeenReset::Sent);
    let received = TcpState::ALL.map(SeenReset::Received);
    let mut explanations = std::collections::BTreeSet::new();
    for what in sent.into_iter().chain(received) {
        let mut host = Host::quiet([ResetCount { last_peer: None, ..row(what) }]);
        host.add(&[700]);
        let finding = host.only();
        assert_says(&finding.title, &["nginx (pid 80)", "700 resets", "port 443 ", "all of them"]);
        assert!(!finding.title.contains(';'), "no peer is known: {}", finding.title);
        assert!(finding.remedies.len() == 3, "{what:?}");
        explanations.insert(finding.explanation.clone());
    }
    // The states of a socket that this side has closed share theirs, and those without connection.
    assert_eq!(explanations.len(), ResetCause::ALL.len() + TcpState::ALL.len() - 4 - 1);
}
