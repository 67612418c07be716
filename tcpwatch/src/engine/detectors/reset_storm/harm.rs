//! Whether a reset did harm, as far as its socket tells.
//!
//! A connection that had ended in order but for a few bytes is none that broke. One side's own
//! decision (a client that does not want the answer any more) is worth telling at most. Nothing of
//! this is a threshold that an operator sets: it is what the kernel saw of that connection.

use crate::{
    engine::resets::seen_reset,
    facts::{Amount, RecordedReset, ResetCause, ResetObservation, Role, SeenReset, TcpState},
};

/// How bad a reset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Harm {
    /// The end of a connection as any other.
    None,
    /// Nothing was lost that this side shows, or it was the decision of one side.
    Mild,
    /// A connection was refused, or broke.
    Full,
}

/// The event, and its harm.
pub(super) fn judge(recorded: &RecordedReset, role: Role) -> Option<(SeenReset, Harm)> {
    let what = seen_reset(recorded)?;
    let harm = match (recorded, what) {
        (RecordedReset::Seen(seen), SeenReset::Sent(cause)) => sent(seen, cause, role),
        (RecordedReset::Seen(seen), SeenReset::Received(state)) => received(seen, state, role),
        // The recording says no more.
        (RecordedReset::Sent(_) | RecordedReset::Received(_), _) => Harm::Full,
    };
    Some((what, harm))
}

/// Whether a full accept queue explains it, under `net.ipv4.tcp_abort_on_overflow`: the handshake
/// that was refused, and what its client had sent already.
pub(super) fn is_of_full_queue(recorded: &RecordedReset) -> bool {
    let RecordedReset::Seen(seen) = recorded else { return false };
    let cause = seen_reset(recorded);
    seen.state == Some(TcpState::Listen)
        && [ResetCause::AcceptQueueDiscarded, ResetCause::HalfOpen]
            .into_iter()
            .any(|it| cause == Some(SeenReset::Sent(it)))
}

fn sent(seen: &ResetObservation, cause: ResetCause, role: Role) -> Harm {
    let is_client = role == Role::Client;
    let little_unread = seen.unread.is_some_and(|unread| unread <= Amount::Few);
    match cause {
        // A client that has read its answer leaves the close_notify of TLS; one that leaves more
        // does not want it. A server so ends a connection that its client has closed.
        ResetCause::UnreadData if is_client => {
            let has_read = seen.carried > Some(Amount::Few);
            if little_unread && has_read { Harm::None } else { Harm::Mild }
        }
        ResetCause::UnreadData if little_unread && seen.peer_closed == Some(true) => Harm::None,
        // The close_notify with which TLS answers the other side's, after that has closed.
        ResetCause::LateData if little_unread => Harm::None,
        ResetCause::LateData if is_client => Harm::Mild,
        ResetCause::LingerZero if seen.peer_closed == Some(true) => Harm::None,
        ResetCause::LingerZero if seen.unsent == Some(Amount::Nothing) => {
            // Health checks, probes, scans.
            let is_probe = seen.carried.is_some_and(|carried| carried <= Amount::Some);
            if is_client && is_probe { Harm::None } else { Harm::Mild }
        }
        ResetCause::Other => Harm::Mild,
        _ => Harm::Full,
    }
}

fn received(seen: &ResetObservation, state: TcpState, role: Role) -> Harm {
    let is_client = role == Role::Client;
    let little_lost = seen.unsent.is_some_and(|unsent| unsent <= Amount::Few);
    match state {
        TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::TimeWait => Harm::None,
        TcpState::CloseWait if little_lost => Harm::None,
        TcpState::Established if is_client => {
            // The peer had the last word, so no answer was awaited.
            if seen.answered == Some(true) && little_lost { Harm::Mild } else { Harm::Full }
        }
        TcpState::Established => {
            let nothing_lost = seen.unsent == Some(Amount::Nothing);
            let is_probe = seen.carried.is_some_and(|carried| carried <= Amount::Some);
            if nothing_lost && is_probe { Harm::None } else { Harm::Mild }
        }
        // Clients that leave are their own affair.
        TcpState::CloseWait if !is_client => Harm::Mild,
        TcpState::SynRecv | TcpState::Close | TcpState::Listen => Harm::Mild,
        TcpState::SynSent | TcpState::CloseWait => Harm::Full,
    }
}
