//! Findings with one cause: which finding leads which others.
//!
//! A [`Rule`] says when a finding of one kind leads one of another kind. The rules are applied to
//! the verdicts of a round, after `[ignore]` and the cut: a finding that is not shown leads
//! nothing. A finding that is led leads nothing and has one leader, so there are no chains and no
//! cycles. Earlier rules go first, and within a rule the worst leader. A led finding keeps its id and
//! its `since`; it has no alert of its own.

use std::net::SocketAddr;

use crate::{
    engine::{
        evidence::Evidence,
        finding::{FindingKind, Subject, Verdict},
        groups::port_users::SHARE_LEAST,
        links::Links,
    },
    facts::{Endpoint, Inventory, Namespace, Role, TcpState},
};
use FindingKind as Kind;

/// When a finding leads another.
pub(crate) struct Rule {
    leader: FindingKind,
    led: FindingKind,
    /// Whether the first is the cause of the second.
    leads: fn(&Verdict, &Verdict, &Inventory) -> bool,
    /// The leader takes a higher severity of the led finding.
    raises: bool,
}

impl Rule {
    const fn new(
        leader: FindingKind,
        led: FindingKind,
        leads: fn(&Verdict, &Verdict, &Inventory) -> bool,
    ) -> Self {
        Self { leader, led, leads, raises: true }
    }

    /// The leader's own severity stands.
    const fn without_severity(self) -> Self {
        Self { raises: false, ..self }
    }

    /// For tests of the code that uses the links.
    #[cfg(test)]
    pub(crate) const fn always(leader: FindingKind, led: FindingKind) -> Self {
        Self::new(leader, led, |_, _, _| true)
    }
}

/// All rules.
pub(crate) const RULES: [Rule; 11] = [
    // A full queue is judged by how long it lasts. Clients of a burst wait 3 s for their second or
    // third SYN and add nothing to that.
    Rule::new(Kind::AcceptQueueOverflow, Kind::StuckState, overflow_leaves_connects_unanswered)
        .without_severity(),
    Rule::new(Kind::AcceptQueueOverflow, Kind::CloseWaitPileup, queue_holds_unaccepted),
    Rule::new(Kind::CloseWaitPileup, Kind::StuckState, leak_keeps_the_other_ends),
    Rule::new(Kind::CloseWaitPileup, Kind::CloseWaitPileup, leak_shows_in_relay),
    Rule::new(Kind::CloseWaitPileup, Kind::EphemeralPortExhaustion, pileup_keeps_the_ports),
    Rule::new(Kind::EphemeralPortExhaustion, Kind::TimeWaitExhaustion, ports_are_in_time_wait),
    Rule::new(Kind::EphemeralPortExhaustion, Kind::BindConflict, no_port_is_left_to_bind),
    Rule::new(Kind::StalledSend, Kind::StuckState, silent_host_answers_no_connect),
    Rule::new(Kind::KernelLimit, Kind::StuckState, full_table_drops_the_syns),
    Rule::new(Kind::StalledSend, Kind::KernelLimit, stalled_sockets_are_the_orphans),
    Rule::new(Kind::KeepaliveRace, Kind::ResetStorm, race_makes_the_resets),
];

/// Applies `rules` to the verdicts of a round, the worst of each kind first.
pub(crate) fn join(verdicts: &[Verdict], rules: &[Rule], inventory: &Inventory) -> Links {
    let mut links = Links::default();
    let of_kind = |kind| verdicts.iter().filter(move |verdict| verdict.kind == kind);
    for rule in rules {
        for leader in of_kind(rule.leader) {
            for led in of_kind(rule.led) {
                if links.may_link(&leader.id, &led.id) && (rule.leads)(leader, led, inventory) {
                    links.link(&leader.id, &led.id);
                    if !rule.raises {
                        links.keep_mild(&led.id);
                    }
                }
            }
        }
    }
    links
}

/// Requests that come after the close are late data of the same port.
fn race_makes_the_resets(race: &Verdict, storm: &Verdict, inventory: &Inventory) -> bool {
    let is_late = match storm.evidence.get("by_cause") {
        Some(Evidence::List(causes)) => causes.first().is_some_and(|first| match first {
            Evidence::Object(first) => {
                first.get("cause") == Some(&Evidence::Text("late_data".to_owned()))
            }
            _ => false,
        }),
        _ => false,
    };
    let of = |subject: &Subject| (subject.role, subject.port);
    let is_of_both =
        |namespace: &Namespace| is_within(race, namespace) && is_within(storm, namespace);
    is_late
        && of(&race.subject) == of(&storm.subject)
        && inventory.namespaces.iter().any(is_of_both)
}

/// A listener whose accept queue is full drops SYNs (`tcp_conn_request`), so connects of its own
/// host stay in SYN_SENT. Certain only where the destination is this listener: at its very address,
/// or over loopback where it listens on every address and no other listener has that one.
fn overflow_leaves_connects_unanswered(
    overflow: &Verdict,
    stuck: &Verdict,
    inventory: &Inventory,
) -> bool {
    let ends = (endpoint(&overflow.subject, End::Local), endpoint(&stuck.subject, End::Peer));
    let (Some(listens), Some(peer)) = ends else { return false };
    let is_of_both = |namespace: &&Namespace| {
        let is_in = |verdict: &Verdict, begin: &str| {
            verdict.id.starts_with(&format!("{begin}/{}/", namespace.id))
        };
        let syn_sent = format!("{}/{}", FindingKind::StuckState.name(), TcpState::SynSent.label());
        is_in(overflow, FindingKind::AcceptQueueOverflow.name()) && is_in(stuck, &syn_sent)
    };
    let Some(namespace) = inventory.namespaces.iter().find(is_of_both) else { return false };
    let has_its_own = || namespace.listeners.iter().any(|listener| listener.local == peer);
    let takes_every_address =
        listens.address.is_unspecified() && (listens.address.is_ipv6() || peer.address.is_ipv4());
    listens.port == peer.port
        && (listens.address == peer.address
            || takes_every_address && peer.address.is_loopback() && !has_its_own())
}

/// Connections whose clients left before they were accepted wait in the queue that is full or
/// stalls.
fn queue_holds_unaccepted(queue: &Verdict, pileup: &Verdict, inventory: &Inventory) -> bool {
    let are_unaccepted =
        count(pileup, "unaccepted_sockets").saturating_mul(2) > count(pileup, "sockets");
    let is_of_both =
        |namespace: &Namespace| is_within(queue, namespace) && is_within(pileup, namespace);
    are_unaccepted
        && pileup.subject.role == Some(Role::Server)
        && pileup.subject.port.is_some()
        && pileup.subject.port == queue.subject.port
        && inventory.namespaces.iter().any(is_of_both)
}

/// The other ends of the sockets in FIN_WAIT2 are those that the leak does not close.
fn leak_keeps_the_other_ends(leak: &Verdict, stuck: &Verdict, _: &Inventory) -> bool {
    let Some(Evidence::Object(peer)) = stuck.evidence.get("peer_process") else { return false };
    let Some(Evidence::Count(pid)) = peer.get("pid") else { return false };
    leak.subject.pid.is_some_and(|leaks| u64::from(leaks) == *pid)
}

/// A host that acknowledges nothing does not answer a connect() either.
fn silent_host_answers_no_connect(
    stalled: &Verdict,
    stuck: &Verdict,
    inventory: &Inventory,
) -> bool {
    let is_silent = stalled.evidence.get("cause") == Some(&Evidence::Text("silence".to_owned()));
    let connects = format!("{}/{}/", FindingKind::StuckState.name(), TcpState::SynSent.label());
    let peer = endpoint(&stalled.subject, End::Peer);
    is_silent
        && stuck.id.starts_with(&connects)
        && peer.is_some()
        && peer == endpoint(&stuck.subject, End::Peer)
        && inventory.namespaces.iter().any(|namespace| {
            stuck.id.starts_with(&format!("{connects}{}/", namespace.id))
                && stalled.id.starts_with(&format!(
                    "{}/silent/{}/",
                    FindingKind::StalledSend.name(),
                    namespace.id
                ))
        })
}

/// Connection tracking that is full drops each SYN of the namespace: as many packets at least as
/// there are sockets that wait for an answer.
fn full_table_drops_the_syns(limit: &Verdict, stuck: &Verdict, inventory: &Inventory) -> bool {
    let dropped = count(limit, "dropped_packets");
    let syn_sent = format!("{}/{}", FindingKind::StuckState.name(), TcpState::SynSent.label());
    let is_of_both = |namespace: &Namespace| {
        let table = format!("{}/conntrack/{}", FindingKind::KernelLimit.name(), namespace.id);
        limit.id == table && stuck.id.starts_with(&format!("{syn_sent}/{}/", namespace.id))
    };
    dropped > 0 && dropped >= count(stuck, "sockets") && inventory.namespaces.iter().any(is_of_both)
}

/// Half of all orphans are of one port, whose peers do not acknowledge.
fn stalled_sockets_are_the_orphans(stalled: &Verdict, limit: &Verdict, _: &Inventory) -> bool {
    limit.evidence.get("resource") == Some(&Evidence::Text("orphans".to_owned()))
        && stalled.evidence.get("orphans") == Some(&Evidence::Flag(true))
        && count(stalled, "sockets").saturating_mul(2) > count(limit, "used_sockets")
}

/// A relay holds what the process behind it does not close; its evidence names that process.
fn leak_shows_in_relay(leak: &Verdict, mirror: &Verdict, _: &Inventory) -> bool {
    let Some(Evidence::Object(relay)) = mirror.evidence.get("relay") else { return false };
    let Some(Evidence::Count(pid)) = relay.get("pid") else { return false };
    leak.subject.pid.is_some_and(|leaks| u64::from(leaks) == *pid)
}

/// The process that keeps sockets in CLOSE_WAIT is the one that holds the ports, and at least half
/// of them are in that state.
fn pileup_keeps_the_ports(pileup: &Verdict, ports: &Verdict, _: &Inventory) -> bool {
    let is_of_one = pileup.subject.pid.is_some() && pileup.subject.pid == ports.subject.pid;
    is_of_one && part_in(ports, TcpState::CloseWait) >= 0.5
}

/// TIME_WAIT is a part of the shortage that is worth a word.
fn ports_are_in_time_wait(ports: &Verdict, time_wait: &Verdict, inventory: &Inventory) -> bool {
    let is_here = |namespace: &&Namespace| {
        time_wait.id == format!("{}/{}", FindingKind::TimeWaitExhaustion.name(), namespace.id)
    };
    let namespace = inventory.namespaces.iter().find(is_here);
    namespace.is_some_and(|namespace| is_within(ports, namespace))
        && part_in(ports, TcpState::TimeWait) >= SHARE_LEAST
}

/// bind() to port 0 finds none where ports are taken for every destination.
fn no_port_is_left_to_bind(ports: &Verdict, refused: &Verdict, inventory: &Inventory) -> bool {
    let is_of_any_port = refused.subject.local.as_deref().is_some_and(|it| it.ends_with(":0"));
    let is_pinned = ports.id.ends_with("/pinned");
    let is_of_both =
        |namespace: &Namespace| is_within(ports, namespace) && is_within(refused, namespace);
    is_of_any_port && is_pinned && inventory.namespaces.iter().any(is_of_both)
}

fn is_within(verdict: &Verdict, namespace: &Namespace) -> bool {
    verdict.id.starts_with(&format!("{}/{}/", verdict.kind.name(), namespace.id))
}

/// The part of the taken ports whose sockets are in `state`, as the evidence says.
fn part_in(ports: &Verdict, state: TcpState) -> f64 {
    let Some(Evidence::Count(used)) = ports.evidence.get("used_ports") else { return 0.0 };
    let Some(Evidence::List(states)) = ports.evidence.get("ports_by_state") else { return 0.0 };
    let of_state = states.iter().find_map(|it| match it {
        Evidence::Object(it) if it.get("state") == Some(&Evidence::Text(state.label().into())) => {
            it.get("ports")
        }
        _ => None,
    });
    match of_state {
        Some(Evidence::Count(ports)) => *ports as f64 / (*used).max(1) as f64,
        _ => 0.0,
    }
}

/// A number of the evidence; 0 where it is absent.
fn count(verdict: &Verdict, key: &str) -> u64 {
    match verdict.evidence.get(key) {
        Some(Evidence::Count(count)) => *count,
        _ => 0,
    }
}

#[derive(Clone, Copy)]
enum End {
    Local,
    Peer,
}

/// An end of the subject; `None` where it is not one address and port.
fn endpoint(subject: &Subject, end: End) -> Option<Endpoint> {
    let text = match end {
        End::Local => subject.local.as_deref(),
        End::Peer => subject.peer.as_deref(),
    };
    text?.parse::<SocketAddr>().ok().map(Endpoint::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{evidence::EvidenceMap, finding::Severity},
        facts::Timestamp,
    };

    const A: FindingKind = FindingKind::TimeWaitExhaustion;
    const B: FindingKind = FindingKind::BindConflict;
    const C: FindingKind = FindingKind::SelfConnection;

    fn verdict(id: &str, kind: FindingKind) -> Verdict {
        Verdict {
            id: id.to_owned(),
            kind,
            severity: Severity::Warning,
            title: String::new(),
            explanation: String::new(),
            evidence: EvidenceMap::default(),
            subject: Subject::default(),
            remedies: Vec::new(),
        }
    }

    fn joined(verdicts: &[Verdict], rules: &[Rule]) -> Links {
        let inventory = Inventory { finished: Timestamp::default(), ..Inventory::default() };
        join(verdicts, rules, &inventory)
    }

    #[test]
    fn a_leader_has_all_that_it_leads_and_each_has_one_leader() {
        let verdicts = [verdict("a1", A), verdict("a2", A), verdict("b1", B), verdict("b2", B)];
        let links = joined(&verdicts, &[Rule::always(A, B)]);
        assert_eq!(links.led_by("a1"), ["b1", "b2"]);
        assert_eq!(links.led_by("a2"), [""; 0]);
        assert_eq!(links.leader_of("b1").map(String::as_str), Some("a1"));
        assert_eq!(links.leader_of("a1"), None);
    }

    #[test]
    fn a_finding_that_is_led_leads_nothing_whatever_the_rules_say() {
        let verdicts = [verdict("a", A), verdict("b", B), verdict("c", C)];
        let cycle =
            [(A, B), (B, C), (C, A), (B, A), (A, A)].map(|(leader, led)| Rule::always(leader, led));
        let links = joined(&verdicts, &cycle);
        assert_eq!(links.led_by("a"), ["b"]);
        // a leads already, and b is led: what is left of the rules would close a circle.
        assert_eq!((links.leader_of("a"), links.leader_of("c")), (None, None));
        assert_eq!((links.led_by("b"), links.led_by("c")), (&[][..], &[][..]));
    }

    #[test]
    fn a_rule_links_only_what_it_says() {
        let verdicts = [verdict("a1", A), verdict("a2", A), verdict("b1", B), verdict("b2", B)];
        let same_number = |leader: &Verdict, led: &Verdict, _: &Inventory| {
            leader.id.ends_with('2') && led.id.ends_with('2')
        };
        let links = joined(&verdicts, &[Rule::new(A, B, same_number)]);
        assert_eq!((links.led_by("a1"), links.leader_of("b1")), (&[][..], None));
        assert_eq!(links.led_by("a2"), ["b2"]);
        assert_eq!(joined(&verdicts, &[]), Links::default());
    }
}
