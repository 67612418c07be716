//! Events as JSON, a line each. `docs/events.schema.json` describes the lines.

use serde::{Deserialize, Serialize};

use super::super::WallClock;
use crate::{
    engine::reset_cause,
    facts::{Endpoint, StreamChange, StreamEvent, TcpState},
    plain,
};

/// The kind of a line, and the name of its server-sent event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A socket went from one state to another.
    Transition,
    /// A reset was sent or received.
    Reset,
    /// A connect() ended without a connection.
    ConnectFailed,
    /// bind() or listen() requested a port.
    Bind,
    /// Events are missing here.
    Dropped,
    /// Of a newer version.
    #[default]
    #[serde(other)]
    Other,
}

impl EventKind {
    /// Its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::Reset => "reset",
            Self::ConnectFailed => "connect_failed",
            Self::Bind => "bind",
            Self::Dropped => "dropped",
            Self::Other => "other",
        }
    }
}

/// Where events were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DroppedBy {
    /// In the kernel: they exceeded the budget of a second.
    Budget,
    /// In the agent: this reader was too slow.
    Reader,
    /// Of a newer version.
    #[serde(other)]
    Other,
}

/// One line. A field that is not known, or is not of such an event, is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the schema describes each, and `of` fills it")]
pub struct EventDocument {
    pub time: String,
    pub event: EventKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<TcpState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<TcpState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<TcpState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped_by: Option<DroppedBy>,
}

impl EventDocument {
    /// The line of an event; `netns` is the name of its network namespace, where it is known.
    #[must_use]
    pub fn of(event: &StreamEvent, netns: Option<&str>, wall: WallClock) -> Self {
        let process = event.process.as_ref();
        let line = Self {
            time: wall.rfc3339(event.at),
            netns: netns.map(|name| plain::text(name).into_owned()),
            local: Some(event.local.to_string()),
            peer: event.peer.as_ref().map(Endpoint::to_string),
            process: process.map(|it| plain::text(&it.name).into_owned()),
            pid: process.map(|it| it.pid),
            ..Self::default()
        };
        let text = |text: &str| Some(text.to_owned());
        match &event.change {
            StreamChange::Transition { from, to } => {
                Self { event: EventKind::Transition, from: Some(*from), to: Some(*to), ..line }
            }
            StreamChange::Reset(seen) => Self {
                event: EventKind::Reset,
                direction: text(if seen.received { "received" } else { "sent" }),
                cause: (!seen.received).then(|| reset_cause(seen).label().to_owned()),
                state: seen.state,
                ..line
            },
            StreamChange::ConnectFailed { reason, waited, .. } => Self {
                event: EventKind::ConnectFailed,
                reason: text(reason.label()),
                waited_seconds: waited.map(|waited| waited.as_secs_f64()),
                ..line
            },
            StreamChange::Bind { by_listen, is_taken } => Self {
                event: EventKind::Bind,
                call: text(if *by_listen { "listen" } else { "bind" }),
                result: text(if *is_taken { "taken" } else { "bound" }),
                ..line
            },
        }
    }

    /// The line that says how many events are missing.
    #[must_use]
    pub fn dropped(number: u64, by: DroppedBy, wall: WallClock) -> Self {
        Self {
            time: wall.rfc3339(wall.now()),
            event: EventKind::Dropped,
            dropped: Some(number),
            dropped_by: Some(by),
            ..Self::default()
        }
    }

    /// The line as JSON, without its end.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .expect("serialising fails only for keys that are no strings, and all are")
    }

    /// Reads what [`Self::to_json`] has written.
    ///
    /// # Errors
    ///
    /// A text that is no such line, in serde's words.
    pub fn read(json: &str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{ConnectFailure, ResetObservation, ResetReason, StreamProcess, Timestamp};

    #[test]
    fn every_kind_of_event_has_its_fields_and_no_other_and_is_read_again() {
        let wall = WallClock::new(Timestamp::from_ns(5_000_000), 1_005_000_000);
        let end =
            |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().expect("an end"));
        let event = |change| StreamEvent {
            at: Timestamp::from_ns(1_000_000),
            netns: 7,
            local: end("10.0.0.5:40112"),
            peer: Some(end("10.0.0.9:443")),
            process: Some(StreamProcess { pid: 7, name: "a\u{1b}b".to_owned() }),
            change,
        };
        let json = |change, netns| {
            let document = EventDocument::of(&event(change), netns, wall);
            let json = document.to_json();
            assert_eq!(EventDocument::read(&json).expect("a line"), document);
            json
        };
        let ends =
            r#""local":"10.0.0.5:40112","peer":"10.0.0.9:443","process":"a\\u{1b}b","pid":7"#;
        let time = r#""time":"1970-01-01T00:00:01.001Z""#;
        let (from, to) = (TcpState::Established, TcpState::CloseWait);
        assert_eq!(
            json(StreamChange::Transition { from, to }, Some("host")),
            format!(
                r#"{{{time},"event":"transition","netns":"host",{ends},"from":"established","to":"close_wait"}}"#
            )
        );
        let seen = ResetObservation {
            reason: Some(ResetReason::AbortOnClose),
            state: Some(TcpState::Close),
            ..ResetObservation::default()
        };
        assert_eq!(
            json(StreamChange::Reset(seen), None),
            format!(
                r#"{{{time},"event":"reset",{ends},"direction":"sent","cause":"unread_data","state":"close"}}"#
            )
        );
        let seen = ResetObservation { received: true, ..seen };
        assert!(json(StreamChange::Reset(seen), None).contains(r#""received","state""#));
        let failed = StreamChange::ConnectFailed {
            reason: ConnectFailure::Refused,
            no_connect: None,
            waited: Some(std::time::Duration::from_millis(3)),
        };
        assert!(json(failed, None).ends_with(r#""reason":"refused","waited_seconds":0.003}"#));
        let bind = StreamChange::Bind { by_listen: true, is_taken: true };
        assert!(json(bind, None).ends_with(r#""call":"listen","result":"taken"}"#));
        assert_eq!(
            EventDocument::dropped(9, DroppedBy::Budget, wall).to_json(),
            r#"{"time":"1970-01-01T00:00:01.005Z","event":"dropped","dropped":9,"dropped_by":"budget"}"#
        );
        let newer = EventDocument::read(r#"{"time":"x","event":"retransmit","new":1}"#);
        assert_eq!(newer.expect("a line").event, EventKind::Other);
    }
}
