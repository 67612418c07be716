//! The remedies for a shortage of ports: they follow from what holds the ports.

use super::{pinned::Pinned, words::Shortage};
use crate::{
    engine::{
        advice::{reserved_ports, text},
        finding::Subject,
        groups::port_users::Users,
    },
    facts::TcpState,
};

/// For ports of one destination: what frees most of them first.
pub(crate) fn of_destination(shortage: &Shortage<'_>, subject: &Subject) -> Vec<String> {
    let mut remedies: Vec<(u64, String)> = Vec::new();
    let states = shortage.main_states();
    for (state, users) in &states {
        remedies.extend(of_state(shortage, *state, users, subject).map(|it| (users.ports, it)));
    }
    if let Some(bound) = shortage.bound_worth_a_word() {
        remedies.push((bound.ports, choose_late(&bound)));
    }
    // Neither a state nor bind() explains it, or the states are not known.
    if shortage.states.is_none() || remedies.is_empty() {
        remedies.push((u64::MAX, reuse_connections(shortage.opener())));
    }
    // A sort that keeps what is equal in its order.
    remedies.sort_by_key(|(ports, _)| std::cmp::Reverse(*ports));
    let mut remedies: Vec<String> = remedies.into_iter().map(|(_, remedy)| remedy).collect();
    let list = format!("ss -tanp dst {}", shortage.key.peer);
    remedies.push(format!("Look at them: {}", text::in_its_namespace(subject, &list)));
    remedies.extend(reserved_ports::widen(subject, shortage.namespace));
    if shortage.may_be_time_wait() {
        remedies.push(shortage.reuse().remedy(subject));
    }
    let mut more =
        "More destinations or sources: a second address or port of the destination, or a \
                    second source address, has a set of ports of its own."
            .to_owned();
    if shortage.is_loopback() {
        more.push_str(" Over loopback a UNIX socket needs no port at all.");
    }
    remedies.push(more);
    if shortage.may_be_time_wait() {
        remedies.push(not_by());
    }
    remedies
}

/// For ports that are taken for every destination.
pub(crate) fn of_pinned(pinned: &Pinned<'_>, subject: &Subject) -> Vec<String> {
    let mut remedies = Vec::new();
    let bound = pinned.bound();
    if bound.ports > 0 {
        remedies.push(choose_late(&bound));
    }
    if pinned.listening() > bound.ports {
        remedies.push(
            "Fewer listeners on ports of the range, or ports for them below it: connect() passes \
             over each port that is listened on."
                .to_owned(),
        );
    }
    if bound.ports > 0 {
        let who = bound.who().map(|who| format!(" in {who}")).unwrap_or_default();
        remedies.push(format!(
            "Fewer connections{who}: keep-alive or a bound on its pools; each holds a port of the \
             whole range."
        ));
    }
    remedies.extend(reserved_ports::widen(subject, pinned.namespace));
    remedies.push(
        "Not by another destination or source address: connect() passes over these ports whatever \
         they are."
            .to_owned(),
    );
    remedies.push("Not by tcp_tw_reuse: it does not free a port that bind() has taken.".to_owned());
    remedies
}

fn of_state(
    shortage: &Shortage<'_>,
    state: TcpState,
    users: &Users<'_>,
    subject: &Subject,
) -> Option<String> {
    let ports = text::number(users.ports);
    let who = users.who();
    let whose = who.clone().unwrap_or_else(|| "the client".to_owned());
    Some(match state {
        TcpState::Established => format!(
            "Fewer connections at once: {whose} has {ports} open; give its pool a bound, and let \
             requests share connections or wait for one."
        ),
        TcpState::CloseWait => {
            // The finding may name the holder of more sockets in another state.
            let mut holder = Subject { netns: subject.netns.clone(), ..Subject::default() };
            users.name_in(&mut holder);
            let restart = text::restart(&holder);
            format!(
                "The leak first: {whose} keeps {ports} sockets in CLOSE_WAIT, which only its \
                 close() ends (runbook close-wait-pileup). To free the ports now: {restart}"
            )
        }
        TcpState::SynSent | TcpState::SynRecv => format!(
            "Find out why {} does not answer: {ports} connects of {whose} wait for it. A shorter \
             connect time-out in that program frees their ports sooner.",
            shortage.key.peer
        ),
        TcpState::FinWait2 => format!(
            "Find out why the peer does not close: {ports} connections wait for its FIN. With \
             close() instead of shutdown() here they end after tcp_fin_timeout."
        ),
        TcpState::FinWait1 | TcpState::LastAck | TcpState::Closing => format!(
            "Find out why the peer does not answer: {ports} connections wait for its \
             acknowledgement, and end by tcp_orphan_retries."
        ),
        TcpState::TimeWait => reuse_connections(shortage.opener()),
        TcpState::Close | TcpState::Listen => return None,
    })
}

fn reuse_connections(opener: Option<String>) -> String {
    let place = opener.map(|who| format!(" in {who}")).unwrap_or_default();
    format!(
        "Fewer connections: keep-alive or a connection pool{place}, so that one connection serves \
         many requests."
    )
}

fn choose_late(bound: &Users<'_>) -> String {
    let ports = text::count(bound.ports, "port");
    let belong = if bound.ports == 1 { "belongs" } else { "belong" };
    let whose = bound.who().map(|who| format!(" in {who}")).unwrap_or_default();
    format!(
        "IP_BIND_ADDRESS_NO_PORT (Linux 4.2){whose}, before bind() to port 0: with it connect() \
         chooses the port. {ports} here {belong} to connections that called bind() before \
         connect(), which takes a port for every destination."
    )
}

fn not_by() -> String {
    "Not by tcp_tw_recycle (gone since 4.12) and not by SO_LINGER 0, which turns each close into a \
     reset and can lose data."
        .to_owned()
}
