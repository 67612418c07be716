//! `stuck-state`: connects that are given up before an answer comes.

use super::*;
use crate::facts::{AnswerCount, Focus};

const PEER: &str = "10.0.0.9:443";

/// A connect() of `process` that has waited for so many milliseconds and was closed at `at`.
fn ended_after(
    at: Timestamp,
    peer: &str,
    process: &Arc<Process>,
    ms: u64,
    why: ConnectFailure,
) -> Event {
    Event::ConnectFailed {
        at,
        netns: HOST,
        local: endpoint("10.0.0.1:40000"),
        peer: endpoint(peer),
        reason: why,
        waited: Some(Duration::from_millis(ms)),
        no_connect: None,
        process: Some(Arc::clone(process)),
    }
}

fn given_up(at: Timestamp, peer: &str, process: &Arc<Process>, ms: u64) -> Event {
    ended_after(at, peer, process, ms, ConnectFailure::GivenUp)
}

/// An agent whose kernel side counts the answers in focus.
struct Host {
    watch: Watch,
    focus: Focus,
    answers: std::collections::BTreeMap<(NetnsId, Endpoint), u64>,
}

impl Host {
    fn new() -> Self {
        Self { watch: Watch::new(), focus: Focus::default(), answers: Default::default() }
    }

    fn take(&mut self, event: Event) {
        self.watch.engine.handle_event(&event);
    }

    /// So many connections to `peer` are established.
    fn answer(&mut self, peer: &str, count: u64) {
        if let Some(sum) = self.answers.get_mut(&(HOST, endpoint(peer))) {
            *sum += count;
        }
    }

    /// An interval passes, and an inventory is taken.
    fn look(&mut self) -> Vec<Severity> {
        self.watch.pass(INTERVAL);
        self.focus = self.watch.engine.focus();
        self.answers.retain(|destination, _| self.focus.answers.contains(destination));
        for destination in &self.focus.answers {
            self.answers.entry(*destination).or_insert(0);
        }
        let answers =
            self.answers.iter().map(|(&(netns, peer), &count)| AnswerCount { netns, peer, count });
        let answers = answers.collect();
        let now = self.watch.now;
        self.watch.take(&Inventory { answers, ..inventory([host()], now) });
        self.watch.severities()
    }

    /// `workers` try again and again for an interval, each for `ms`.
    fn try_again(&mut self, workers: u64, peer: &str, process: &Arc<Process>, ms: u64) {
        let mut at = self.watch.now;
        let end = self.watch.now + INTERVAL;
        while at + Duration::from_millis(ms + 200) <= end {
            at = at + Duration::from_millis(ms + 200);
            for _ in 0..workers {
                self.take(given_up(at, peer, process, ms));
            }
        }
    }
}

#[test]
fn workers_that_give_up_before_the_kernel_does_raise_a_warning_in_the_second_look() {
    for ms in [1_000, 2_000, 3_000] {
        let mut host = Host::new();
        let billing = process_in(12, "billing", "billing.service");
        host.try_again(40, PEER, &billing, ms);
        assert_eq!(host.look(), [], "it is not known yet whether any connection is answered");
        host.try_again(40, PEER, &billing, ms);
        assert_eq!(host.look(), [Severity::Warning], "{ms} ms");
        let finding = host.watch.only();
        assert_eq!(text_of(finding, "waiting_at_once"), "40");
        assert_eq!(text_of(finding, "answered_connections"), "0");
        host.watch.reported();
        // Nothing more is tried: it stands for a window after the last one.
        for _ in 0..11 {
            assert_eq!(host.look(), [Severity::Warning]);
        }
        assert_eq!(host.look(), []);
        assert_eq!(host.watch.reported(), ["cleared warning"]);
    }
}

#[test]
fn it_says_who_gives_up_after_how_long_and_that_silence_is_no_refusal() {
    let mut host = Host::new();
    let billing = process(12, "billing");
    for _ in 0..2 {
        host.try_again(15, PEER, &billing, 2_000);
        host.look();
    }
    let finding = host.watch.only();
    assert_eq!(
        finding.title,
        "10.0.0.9:443 does not answer: billing (pid 12) gave up 60 connects after 2 s in \
         the last 2 min"
    );
    assert_says(
        &finding.explanation,
        &["not even a refusal", "No connect there was answered meanwhile", "accept queue is full"],
    );
    assert_says(&remedies_of(finding), &["ip route get 10.0.0.9", "tcpdump", "state syn-sent"]);
    assert_eq!(
        text_of(finding, "given_up_by_host"),
        "host 10.0.0.9, given up connections 60, waiting at once 15"
    );
    assert_eq!((finding.subject.pid, finding.subject.port), (Some(12), Some(443)));
    assert_eq!(finding.subject.peer.as_deref(), Some(PEER));
}

#[test]
fn a_destination_that_answers_again_clears_it_at_once() {
    let mut host = Host::new();
    let billing = process(12, "billing");
    for _ in 0..3 {
        host.try_again(40, PEER, &billing, 3_000);
        host.look();
    }
    assert_eq!(host.watch.severities(), [Severity::Warning]);
    host.answer(PEER, 40);
    assert_eq!(host.look(), []);
}

#[test]
fn losers_of_happy_eyeballs_scans_and_checks_of_less_than_a_second_raise_nothing() {
    for ms in [0, 250, 999] {
        let mut host = Host::new();
        let browser = process(12, "browser");
        for _ in 0..6 {
            host.try_again(200, "[2001:db8::9]:443", &browser, ms);
            assert_eq!(host.look(), [], "{ms} ms");
            assert!(host.focus.is_empty(), "the focus has {:?}", host.focus);
        }
    }
}

#[test]
fn a_destination_that_answers_one_connect_in_ten_raises_nothing() {
    // 120 are given up meanwhile.
    for (answered, expected) in
        [(0, vec![Severity::Warning]), (12, vec![Severity::Warning]), (13, vec![]), (500, vec![])]
    {
        let mut host = Host::new();
        let billing = process(12, "billing");
        host.try_again(40, PEER, &billing, 3_000);
        host.look();
        host.try_again(40, PEER, &billing, 3_000);
        host.answer(PEER, answered);
        assert_eq!(host.look(), expected, "{answered}");
    }
}

#[test]
fn a_refusal_is_an_answer_too() {
    let mut host = Host::new();
    let billing = process(12, "billing");
    for _ in 0..3 {
        host.try_again(40, PEER, &billing, 3_000);
        for _ in 0..40 {
            let at = host.watch.now;
            host.take(ended_after(at, PEER, &billing, 1, ConnectFailure::Refused));
        }
        assert_eq!(host.look(), []);
    }
}

#[test]
fn a_load_balancer_that_checks_a_dead_server_is_info() {
    let mut host = Host::new();
    let haproxy = process(12, "haproxy");
    // One connect at a time, for 2 s each.
    for _ in 0..12 {
        host.try_again(1, PEER, &haproxy, 2_000);
        host.look();
    }
    assert_eq!(host.watch.severities(), [Severity::Info]);
    assert_eq!(host.watch.reported(), ["raised info"]);
}

#[test]
fn a_crawler_with_many_dead_hosts_is_info_and_hides_no_dead_service() {
    let mut host = Host::new();
    let (crawler, billing) = (process(12, "crawler"), process(13, "billing"));
    for _ in 0..4 {
        for dead in 0..1_000 {
            let at = host.watch.now;
            host.take(given_up(
                at,
                &format!("10.1.{}.{}:443", dead / 250, dead % 250),
                &crawler,
                2_000,
            ));
        }
        host.try_again(40, "10.0.0.9:5432", &billing, 2_000);
        host.look();
    }
    assert!(host.focus.answers.len() <= Focus::ANSWERS);
    assert_eq!(host.watch.severities(), [Severity::Warning, Severity::Info]);
    assert_says(
        &host.watch.engine.findings()[0].title,
        &["10.0.0.9:5432 does not answer", "billing"],
    );
}

#[test]
fn a_peer_of_this_host_points_to_its_own_rules() {
    let mut host = Host::new();
    let api = process(12, "api");
    for _ in 0..2 {
        host.try_again(20, "127.0.0.1:2822", &api, 2_000);
        host.look();
    }
    let finding = host.watch.only();
    assert_says(
        &finding.title,
        &["127.0.0.1:2822 does not answer", "the peer is this host itself"],
    );
    assert_says(&remedies_of(finding), &["nft list ruleset", "iptables-save -c", "ss -ltnp"]);
    assert_eq!(text_of(finding, "peer_is_this_host"), "yes");
}

#[test]
fn two_programs_of_one_name_are_two_and_the_workers_of_a_unit_one() {
    let with = |pid, exe: &str| {
        Arc::new(Process { exe: Some(exe.to_owned()), ..(*process(pid, "worker")).clone() })
    };
    let pairs = [
        ((with(1, "/opt/a"), with(2, "/opt/b")), vec![]),
        ((with(1, "/opt/a"), with(2, "/opt/a")), vec![Severity::Warning]),
        (
            (process_in(1, "a", "s.service"), process_in(2, "b", "s.service")),
            vec![Severity::Warning],
        ),
    ];
    for ((one, other), expected) in pairs {
        let mut host = Host::new();
        // Six at once of each, so that only both together are ten.
        for _ in 0..2 {
            for worker in [&one, &other] {
                let at = host.watch.now + seconds(5);
                (0..6).for_each(|_| host.take(given_up(at, PEER, worker, 2_000)));
            }
            host.look();
        }
        let found: Vec<_> = host.watch.severities();
        assert_eq!(found, expected, "{one:?} {other:?}");
    }
}

#[test]
fn switched_off_it_asks_for_nothing() {
    let mut host = Host::new();
    host.watch.reconfigure(|detect| detect.stuck_state.enabled = false);
    let billing = process(12, "billing");
    for _ in 0..3 {
        host.try_again(40, PEER, &billing, 3_000);
        assert_eq!(host.look(), []);
        assert!(host.focus.is_empty());
    }
}

#[test]
fn a_scan_of_many_ports_raises_nothing_and_hides_no_dead_service() {
    let mut host = Host::new();
    let (nmap, billing) = (process(12, "nmap"), process(13, "billing"));
    for _ in 0..4 {
        for port in 1..=2_000 {
            // Now and then one of the service, in the midst of the scan.
            if port % 50 == 0 {
                let at = host.watch.now + Duration::from_millis(port);
                (0..3).for_each(|_| host.take(given_up(at, "10.0.0.9:5432", &billing, 2_000)));
            }
            let at = host.watch.now + Duration::from_millis(port);
            host.take(given_up(at, &format!("10.0.0.8:{}", 10_000 + port), &nmap, 1_500));
        }
        host.look();
    }
    assert_eq!(host.watch.severities(), [Severity::Warning]);
    assert_says(&host.watch.only().title, &["10.0.0.9:5432 does not answer", "billing"]);
}

#[test]
fn a_time_out_that_the_program_set_in_the_kernel_counts_and_the_default_does_not() {
    for (ms, expected) in [(2_000, vec![Severity::Warning]), (131_000, vec![])] {
        let mut host = Host::new();
        let billing = process(12, "billing");
        for _ in 0..3 {
            let at = host.watch.now + seconds(5);
            for _ in 0..20 {
                host.take(ended_after(at, PEER, &billing, ms, ConnectFailure::TimedOut));
            }
            host.look();
        }
        assert_eq!(host.watch.severities(), expected, "{ms} ms");
    }
}
