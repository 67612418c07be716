//! `close-wait-pileup`: sockets that are half-closed on purpose, and those that only were.

use super::*;

/// A server's sockets that entered CLOSE_WAIT an hour ago, on which data was acknowledged last at
/// `delivered`.
fn streams(count: usize, delivered: Timestamp) -> Vec<CloseWaitSocket> {
    let progress =
        Progress { sent_bytes: 5_000, acked_bytes: 5_000, delivered, ..Progress::default() };
    let socket = accepted(&process(12, "logstreamd"), START - seconds(3_600));
    times(count, &CloseWaitSocket { progress: Some(progress), ..socket })
}

#[test]
fn a_stream_to_clients_that_have_shut_down_their_side_is_no_leak() {
    let mut watch = Watch::new();
    for _ in 0..120 {
        watch.pass(INTERVAL);
        let delivered = watch.now - seconds(1);
        assert_eq!(watch.see_close_wait(streams(500, delivered)), []);
    }
    assert_eq!(watch.changes(), []);
}

#[test]
fn a_stream_is_in_use_until_it_is_silent_for_twice_min_age() {
    for (silent, found) in [(90, 0), (119, 0), (120, 1), (3_000, 1)] {
        let mut watch = Watch::new();
        let delivered = watch.now - seconds(silent);
        assert_eq!(watch.see_close_wait(streams(40, delivered)).len(), found, "{silent} s");
    }
}

#[test]
fn what_was_acknowledged_before_the_fin_says_nothing() {
    let mut watch = Watch::new();
    let mut sockets = streams(40, START - seconds(100));
    sockets.iter_mut().for_each(|socket| socket.since = START - seconds(99));
    assert_eq!(watch.see_close_wait(sockets).len(), 1);
    // Nor does a socket that never carried anything: it was opened then.
    let mut sockets = streams(40, START - seconds(1));
    sockets.iter_mut().for_each(|socket| socket.progress.as_mut().unwrap().sent_bytes = 0);
    assert_eq!(watch.see_close_wait(sockets).len(), 1);
}

#[test]
fn one_look_takes_what_was_acknowledged_just_now_for_use() {
    let detect = |detect: &mut Detect| detect.close_wait_pileup.min_age = Duration::ZERO;
    for (silent, found) in [(1, 0), (2, 1)] {
        let mut watch = Watch::with(detect);
        let mut sockets = streams(40, START - seconds(silent));
        // The last segment is all that is known of its age.
        for socket in &mut sockets {
            (socket.since, socket.since_exact) = (START - seconds(silent), false);
        }
        assert_eq!(watch.see_close_wait(sockets).len(), found, "{silent} s");
    }
}

#[test]
fn half_closed_sockets_are_counted_apart_beside_a_leak() {
    let mut watch = Watch::new();
    let mut sockets = streams(25, START - seconds(1));
    sockets.extend(streams(40, START - seconds(3_599)));
    watch.see_close_wait(sockets);
    let finding = watch.only();
    assert_eq!(text_of(finding, "sockets"), "40");
    assert_eq!(text_of(finding, "half_closed"), "25");
    assert_says(&finding.explanation, &["25 more of this owner are half-closed on purpose"]);
}

#[test]
fn without_the_kernels_word_on_progress_age_decides() {
    let mut watch = Watch::new();
    let mut sockets = streams(40, START - seconds(1));
    sockets.iter_mut().for_each(|socket| socket.progress = None);
    assert_eq!(watch.see_close_wait(sockets).len(), 1);
}
