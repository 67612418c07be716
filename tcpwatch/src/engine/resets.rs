//! From what was seen of a reset to its cause.
//!
//! The kernel's reason decides where there is one; before 6.12 only the socket does. Each arm was
//! seen on 6.18. A reset without a known cause is [`ResetCause::Other`].

use crate::facts::{
    RecordedReset, ResetCause, ResetObservation, ResetReason as Reason, SeenReset, TcpState,
};

/// A recorded reset as it is judged; `None` for one that a socket without a state received.
#[must_use]
pub fn seen_reset(recorded: &RecordedReset) -> Option<SeenReset> {
    match recorded {
        RecordedReset::Sent(cause) => Some(SeenReset::Sent(*cause)),
        RecordedReset::Received(state) => Some(SeenReset::Received(*state)),
        RecordedReset::Seen(seen) if seen.received => seen.state.map(SeenReset::Received),
        RecordedReset::Seen(seen) => Some(SeenReset::Sent(reset_cause(seen))),
    }
}

/// Why this host sent a reset.
#[must_use]
pub fn reset_cause(seen: &ResetObservation) -> ResetCause {
    let passive = seen.segment;
    let is_unknown = matches!(seen.state, None | Some(TcpState::Listen));
    match seen.reason {
        // A stray segment to a port that has a listener shows that listener.
        Some(Reason::NoSocket | Reason::TcpFlags) | None if passive && is_unknown => {
            if seen.is_of_no_listener() { ResetCause::NoListener } else { ResetCause::HalfOpen }
        }
        // `tcp_check_req` answers the last segment of a handshake with it under
        // tcp_abort_on_overflow, when the accept queue is full.
        Some(Reason::InvalidSyn) if !seen.syn => ResetCause::AcceptQueueDiscarded,
        Some(Reason::TimeWaitSocket | Reason::AbortOnData) => ResetCause::LateData,
        // Before 6.10 only the socket tells that its application has closed it.
        None if passive && (seen.dead || seen.state == Some(TcpState::TimeWait)) => {
            ResetCause::LateData
        }
        Some(Reason::AbortOnClose) => ResetCause::UnreadData,
        Some(Reason::AbortOnTimeout | Reason::KeepaliveTimeout) => ResetCause::Timeout,
        Some(Reason::AbortOnMemory | Reason::AbortOnLinger) => ResetCause::Aborted,
        Some(Reason::TcpState | Reason::NotSpecified | Reason::DisconnectWithData) | None
            if !passive =>
        {
            active_cause(seen)
        }
        Some(Reason::InvalidSyn | Reason::Invalid | Reason::TcpFlags) if passive => {
            ResetCause::ProtocolError
        }
        _ => ResetCause::Other,
    }
}

/// The cause of an active reset whose reason says nothing, from its socket.
fn active_cause(seen: &ResetObservation) -> ResetCause {
    // close() and disconnect() set the state before they reset. A socket that `ss -K` ends still
    // has its own, also in an accept queue.
    if seen.state != Some(TcpState::Close) {
        return if seen.dead { ResetCause::Timeout } else { ResetCause::Aborted };
    }
    // Children inherit the listener's SO_LINGER, so the accept queue comes first.
    if !seen.has_socket && !seen.dead {
        return ResetCause::AcceptQueueDiscarded;
    }
    if seen.linger_zero && seen.shut_down {
        return ResetCause::LingerZero;
    }
    // Before 6.12 nothing names unread data; it closes from a state that could still receive.
    if seen.reason.is_none_or(|reason| reason == Reason::NotSpecified) && seen.shut_down {
        return ResetCause::UnreadData;
    }
    ResetCause::Aborted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passive(reason: Reason, state: Option<TcpState>, syn: bool) -> ResetObservation {
        let reason = Some(reason);
        ResetObservation { reason, state, syn, segment: true, ..ResetObservation::default() }
    }

    #[test]
    fn a_full_queue_that_resets_is_no_violation_and_what_is_unknown_is_other() {
        let listen = Some(TcpState::Listen);
        let table = [
            (passive(Reason::InvalidSyn, listen, false), ResetCause::AcceptQueueDiscarded),
            (passive(Reason::InvalidSyn, listen, true), ResetCause::ProtocolError),
            (passive(Reason::Invalid, Some(TcpState::SynRecv), false), ResetCause::ProtocolError),
            (passive(Reason::Other, Some(TcpState::Established), false), ResetCause::Other),
            (passive(Reason::Other, None, false), ResetCause::Other),
            (passive(Reason::NotSpecified, Some(TcpState::Established), false), ResetCause::Other),
            (passive(Reason::NoSocket, None, true), ResetCause::NoListener),
            (passive(Reason::TcpFlags, listen, false), ResetCause::HalfOpen),
        ];
        for (seen, cause) in table {
            assert_eq!(reset_cause(&seen), cause, "{seen:?}");
        }
    }
}
