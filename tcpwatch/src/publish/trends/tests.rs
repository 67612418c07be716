//! The series of the last hour, and their bound.

use super::*;
use crate::{
    engine::EvidenceMap,
    publish::tests::{finding, samples},
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_ns(seconds * 1_000_000_000)
}

fn counters(opened: u64, resets_received: Option<u64>) -> KernelCounters {
    KernelCounters {
        transitions: vec![
            ((TcpState::SynSent, TcpState::Established), opened),
            ((TcpState::SynRecv, TcpState::Established), 1),
            ((TcpState::Established, TcpState::CloseWait), 77),
        ],
        resets_received: resets_received.map(|total| vec![(TcpState::Established, total)]),
        ..KernelCounters::default()
    }
}

fn named(id: usize, evidence: EvidenceMap) -> Finding {
    Finding { id: format!("{id}"), evidence, ..finding() }
}

#[test]
fn states_are_summed_over_namespaces_and_rates_are_growth_by_time() {
    let mut trends = Trends::default();
    trends.observe(at(100), &samples(), Some(&counters(10, Some(5))), &[]);
    assert_eq!(trends.ring(Trend::Established).last(at(100)), Some(1_207.0));
    assert_eq!(trends.ring(Trend::Opened).last(at(100)), None, "no growth is known yet");

    trends.observe(at(120), &samples(), Some(&counters(40, Some(5))), &[]);
    let last = |trend| trends.ring(trend).last(at(120));
    assert_eq!(last(Trend::Opened), Some(1.5));
    assert_eq!(last(Trend::ConnectFailures), Some(0.0));
    assert_eq!(last(Trend::ResetsReceived), Some(0.0));
    assert_eq!(last(Trend::ResetsSent), None, "its hook is missing");
}

#[test]
fn counters_that_cannot_be_read_once_are_no_peak() {
    let mut trends = Trends::default();
    trends.observe(at(100), &samples(), Some(&counters(10, None)), &[]);
    trends.observe(at(110), &samples(), None, &[]);
    trends.observe(at(120), &samples(), Some(&counters(50, None)), &[]);
    assert_eq!(trends.ring(Trend::Opened).last(at(120)), Some(2.0));
}

#[test]
fn a_finding_has_a_series_until_it_ends_and_another_number_is_another_line() {
    let count = |key, number| {
        let mut evidence = EvidenceMap::default();
        evidence.count(key, number);
        evidence
    };
    let mut trends = Trends::default();
    let mut observe = |seconds, evidence: Option<EvidenceMap>| {
        let findings: Vec<_> = evidence.map(|evidence| named(7, evidence)).into_iter().collect();
        trends.observe(at(seconds), &samples(), None, &findings);
        let points = trends.finding("7").map(|ring| ring.lines(at(seconds), SLOTS, SLOTS));
        points.map(|lines| lines.concat().into_iter().map(|point| point.1).collect::<Vec<_>>())
    };
    assert_eq!(observe(10, Some(count("sockets", 3))), Some(vec![3.0]));
    assert_eq!(observe(20, Some(count("sockets", 5))), Some(vec![3.0, 5.0]));
    assert_eq!(observe(30, Some(count("failed_connects", 1))), Some(vec![1.0]));
    assert_eq!(observe(40, None), None);
}

#[test]
fn memory_has_a_bound_that_no_number_of_findings_exceeds() {
    let mut trends = Trends::default();
    let bytes = |trends: &Trends| {
        let names = trends.findings.iter().map(|trend| trend.id.len() + trend.key.len());
        size_of::<Trends>()
            + trends.findings.capacity() * size_of::<FindingTrend>()
            + names.sum::<usize>()
    };
    for round in 0..20 {
        let findings: Vec<_> = (0..1_000)
            .map(|number| {
                let id = format!("{}{}", "x".repeat(number % 400), round * 500 + number);
                Finding { id, ..finding() }
            })
            .collect();
        trends.observe(at(10 * round as u64), &samples(), None, &findings);
        assert_eq!(trends.findings.len(), FINDINGS);
        assert!(bytes(&trends) <= MOST_BYTES, "{}", bytes(&trends));
    }
}

#[test]
fn window_grows_with_the_age_of_the_agent_up_to_an_hour() {
    let mut trends = Trends::default();
    let minutes = |trends: &Trends, seconds| trends.window(at(seconds)).as_secs() / 60;
    assert_eq!(minutes(&trends, 9), 5);
    trends.observe(at(100), &samples(), None, &[]);
    let after = |seconds: u64| minutes(&trends, 100 + seconds);
    assert_eq!([0, 300, 301, 1_000, 3_000, 86_400].map(after), [5, 5, 15, 30, 60, 60]);
}
