//! Events in columns, a line each, as they come.
//!
//! The widths are not known before, so a column grows with what it has shown, up to a bound. An
//! address is never cut, because it could not be copied.

use textwrap::core::display_width;

use super::sheet::{cut, padded};
use crate::{
    engine::text,
    facts::TcpState,
    plain,
    publish::{DroppedBy, EventDocument, EventKind},
};

const COLUMNS: usize = 6;
const HEADER: [&str; COLUMNS] = ["TIME", "EVENT", "PROCESS", "LOCAL", "PEER", "WHAT"];
/// Widths at the start: what most lines have.
const WIDTHS: [usize; COLUMNS] = [13, 14, 20, 21, 21, 0];
const PROCESS: usize = 2;
/// Most columns of PROCESS.
const MOST: usize = 36;
/// Between two columns.
const GAP: &str = "  ";

/// The columns so far.
pub(in crate::cli) struct EventLines {
    widths: [usize; COLUMNS],
}

impl EventLines {
    pub(in crate::cli) fn new() -> Self {
        Self { widths: WIDTHS }
    }

    /// The line above the first one.
    pub(in crate::cli) fn header(&self) -> String {
        self.columns(&HEADER.map(str::to_owned))
    }

    /// The line of an event.
    pub(in crate::cli) fn line(&mut self, event: &EventDocument) -> String {
        if event.event == EventKind::Dropped {
            return plain::text(&dropped(event)).into_owned();
        }
        let cells = [
            time(&event.time).to_owned(),
            event.event.label().to_owned(),
            process(event),
            event.local.clone().unwrap_or_default(),
            event.peer.clone().unwrap_or_default(),
            what(event),
        ];
        let mut cells = cells.map(|cell| plain::text(&cell).into_owned());
        cells[PROCESS] = cut(&cells[PROCESS], MOST);
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(display_width(cell));
        }
        self.columns(&cells)
    }

    fn columns(&self, cells: &[String; COLUMNS]) -> String {
        let (last, others) = cells.split_last().expect("there are columns");
        let mut line = String::new();
        for (cell, width) in others.iter().zip(self.widths) {
            line.push_str(&padded(cell, width));
            line.push_str(GAP);
        }
        line.push_str(last);
        line.trim_end().to_owned()
    }
}

/// The time of day in UTC, of a time in RFC 3339.
fn time(rfc3339: &str) -> &str {
    rfc3339.split_once('T').map_or(rfc3339, |(_, time)| time)
}

fn process(event: &EventDocument) -> String {
    match (&event.process, event.pid) {
        (Some(process), Some(pid)) => format!("{process} ({pid})"),
        _ => String::new(),
    }
}

/// The particulars of an event, in words.
fn what(event: &EventDocument) -> String {
    let state = |state: Option<TcpState>| state.map_or("?", TcpState::label).to_uppercase();
    let or_unknown = |text: &Option<String>| text.as_deref().unwrap_or("?").replace('_', " ");
    let mut what = match event.event {
        EventKind::Transition => format!("{} → {}", state(event.from), state(event.to)),
        EventKind::Reset => {
            let direction = or_unknown(&event.direction);
            let cause = event.cause.as_ref().map(|cause| format!(": {}", cause.replace('_', " ")));
            let in_state = event.state.map(|it| format!(" in {}", state(Some(it))));
            format!("{direction}{}{}", in_state.unwrap_or_default(), cause.unwrap_or_default())
        }
        EventKind::ConnectFailed => {
            let waited = event.waited_seconds.map(|waited| format!(" after {waited:.3} s"));
            format!("{}{}", or_unknown(&event.reason), waited.unwrap_or_default())
        }
        EventKind::Bind => match event.result.as_deref() {
            Some("taken") => format!("{}: port taken", or_unknown(&event.call)),
            _ => format!("{}: {}", or_unknown(&event.call), or_unknown(&event.result)),
        },
        EventKind::Dropped | EventKind::Other => String::new(),
    };
    if let Some(netns) = event.netns.as_deref().filter(|netns| *netns != "host") {
        what.push_str(&format!("  netns {netns}"));
    }
    what
}

fn dropped(event: &EventDocument) -> String {
    let number = text::count(event.dropped.unwrap_or_default(), "event");
    let why = match event.dropped_by {
        Some(DroppedBy::Budget) => "more than limits.events_per_second; narrow the filter",
        Some(DroppedBy::Reader) => "this reader is too slow; narrow the filter",
        Some(DroppedBy::Other) | None => "reason unknown",
    };
    format!("{}  dropped         {number}: {why}", padded(time(&event.time), WIDTHS[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> EventDocument {
        EventDocument {
            time: "2026-11-20T08:30:00.123Z".to_owned(),
            event: EventKind::Transition,
            netns: Some("host".to_owned()),
            local: Some("10.0.0.5:40112".to_owned()),
            peer: Some("10.0.0.9:3306".to_owned()),
            process: Some("orders-api".to_owned()),
            pid: Some(7),
            from: Some(TcpState::Established),
            to: Some(TcpState::CloseWait),
            ..EventDocument::default()
        }
    }

    #[test]
    fn columns_stand_below_their_names_and_grow_with_what_they_show() {
        let mut lines = EventLines::new();
        assert_eq!(
            lines.header(),
            "TIME           EVENT           PROCESS               LOCAL                  PEER                   WHAT"
        );
        assert_eq!(
            lines.line(&event()),
            "08:30:00.123Z  transition      orders-api (7)        10.0.0.5:40112         10.0.0.9:3306          ESTABLISHED → CLOSE_WAIT"
        );
        let v6 = "[2001:db8:0:1:2:3:4:5]:40112".to_owned();
        let first = lines.line(&EventDocument { local: Some(v6), ..event() });
        let second = lines.line(&event());
        assert_eq!(first.find("10.0.0.9"), second.find("10.0.0.9"), "{first}\n{second}");
    }

    #[test]
    fn each_kind_of_event_says_what_happened() {
        let mut lines = EventLines::new();
        let mut said = |event: EventDocument| lines.line(&event);
        let text = |text: &str| Some(text.to_owned());
        let reset = EventDocument {
            event: EventKind::Reset,
            direction: text("sent"),
            cause: text("linger_zero"),
            state: Some(TcpState::Close),
            netns: text("blue"),
            ..event()
        };
        assert!(said(reset).ends_with("  sent in CLOSE: linger zero  netns blue"));
        let failed = EventDocument {
            event: EventKind::ConnectFailed,
            reason: text("timed_out"),
            waited_seconds: Some(3.0),
            ..event()
        };
        assert!(said(failed).ends_with("  timed out after 3.000 s"));
        let bind = |result| EventDocument {
            event: EventKind::Bind,
            call: text("listen"),
            result: text(result),
            ..event()
        };
        assert!(said(bind("taken")).ends_with("  listen: port taken"));
        assert!(said(bind("bound")).ends_with("  listen: bound"));
        let dropped = EventDocument {
            event: EventKind::Dropped,
            dropped: Some(1_200),
            dropped_by: Some(DroppedBy::Budget),
            ..event()
        };
        let line = said(dropped);
        assert!(line.contains("dropped         1,200 events: more than limits"), "{line}");
    }

    #[test]
    fn a_foreign_name_moves_no_cursor() {
        let hostile = EventDocument { process: Some("\u{1b}[2J".to_owned()), ..event() };
        assert!(EventLines::new().line(&hostile).contains(r"\u{1b}[2J (7)"));
    }
}
