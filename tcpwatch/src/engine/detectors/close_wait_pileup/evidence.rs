//! The evidence of a pileup.

use super::{
    pool::Descriptors, relay::Relay, services::Services, stacks::Stacks, turnover::Leaving,
    words::Group,
};
use crate::{
    engine::{
        evidence::EvidenceMap,
        groups::held::{Held, oldest_samples},
    },
    facts::{CloseWaitSocket, Unread},
};

/// Processes that are listed.
const LISTED: usize = 5;

pub(super) fn of(group: &Group<'_>, stacks: &Stacks, services: &Services<'_>) -> EvidenceMap {
    let mut evidence = EvidenceMap::default();
    evidence
        .count("sockets", group.sockets.len() as u64)
        .number("oldest_age_seconds", group.oldest_age().as_secs_f64())
        .flag("oldest_age_is_lower_bound", !group.oldest().since_exact);
    let beyond = group.beyond(services);
    if beyond > 0 {
        evidence.count("sockets_not_examined", beyond);
    }
    if let Some(per_minute) = group.shown.per_minute {
        evidence.number("growth_sockets_per_minute", per_minute);
    }
    if let Some(most) = group.shown.grown_to {
        evidence.count("sockets_grown_to", most);
    }
    if let Some(verdict) = group.shown.course {
        evidence.text("verdict", verdict.label());
    }
    if let Some(Leaving { followed, left }) = group.shown.leaving {
        evidence.count("sockets_watched", followed).count("sockets_left_in_window", left);
    }
    if let Some(Descriptors { open, limit, minutes_left, .. }) = group.worst.descriptors {
        evidence.count("open_descriptors", open).count("limit_descriptors", limit);
        if let Some(minutes) = minutes_left {
            evidence.number("time_to_limit_minutes", minutes);
        }
    }
    evidence
        .count("sockets_eof_read", group.count_of(Unread::Nothing))
        .count("sockets_eof_unread", group.count_of(Unread::End))
        .count("data_unread_sockets", group.count_of(Unread::Data));
    for (key, count) in [
        ("unaccepted_sockets", group.unaccepted()),
        ("inherited_sockets", group.inherited()),
        ("half_closed", group.half_closed),
        ("processes", group.holders.len() as u64),
    ] {
        if count > 0 {
            evidence.count(key, count);
        }
    }
    let holders = group.sockets.iter().filter_map(|socket| Some(socket.owner.as_ref()?.holders));
    if let Some(most) = holders.max().filter(|holders| *holders > 1) {
        evidence.count("shared_socket_processes", u64::from(most));
    }
    if let Some(queued) = group.queued() {
        queued.evidence(&mut evidence);
    }
    if let Some(relay) = &group.relay {
        evidence.object("relay", of_relay(relay));
    }
    let details = |socket: &CloseWaitSocket, sample: &mut EvidenceMap| {
        sample
            .flag("age_is_lower_bound", !socket.since_exact)
            .count("recv_queue_bytes", u64::from(socket.recv_queue));
    };
    evidence
        .list("services", services.evidence())
        .list("holders", holders_of(group))
        .list("sample_sockets", oldest_samples(group.sockets, group.now, details))
        .list("stacks", stacks.evidence());
    evidence
}

fn of_relay(relay: &Relay) -> EvidenceMap {
    let mut object = EvidenceMap::default();
    object.count("fin_wait2_sockets", relay.sockets).text("peer", relay.peer.to_string());
    if let Some(process) = &relay.process {
        object.process(process);
    }
    object
}

/// The processes that hold most, where there are several.
fn holders_of(group: &Group<'_>) -> Vec<EvidenceMap> {
    if group.holders.len() < 2 {
        return Vec::new();
    }
    let object = |(_, held): &(u32, Vec<&CloseWaitSocket>)| {
        let mut object = EvidenceMap::default();
        if let Some(process) = held.first().and_then(|socket| socket.process()) {
            object.process(process);
        }
        object.count("sockets", held.len() as u64);
        object
    };
    group.holders.iter().take(LISTED).map(object).collect()
}
