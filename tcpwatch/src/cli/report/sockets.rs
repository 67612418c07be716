//! Sockets in a table: a line for each, and what `ss` does not say at its end.
//!
//! An address that is cut cannot be copied. So where a terminal is too narrow the owner and the
//! words about a socket are on a line below it.

use super::{
    Paper, Source,
    sheet::{GAP, Sheet, Side, beside, widths},
};
use crate::{
    engine::{named_as, text},
    facts::{SocketListing, TcpState},
    plain,
    publish::{SocketDocument, SocketsDocument},
};

const HEADER: [&str; COLUMNS] =
    ["STATE", "AGE", "LOCAL", "PEER", "RECV-Q", "SEND-Q", "OWNER", "FD", "NETNS", "WHAT"];
const COLUMNS: usize = 10;
const OWNER: usize = 6;
const NETNS: usize = 8;
const WHAT: usize = 9;
/// Columns whose numbers stand below each other at their last digit.
const NUMBERS: [usize; 2] = [4, 5];
/// Most columns of OWNER, and of NETNS.
const MOST: usize = 36;
/// Columns that WHAT has in any case, else it stands below.
const LEAST: usize = 24;

/// The listing for a person.
pub(in crate::cli) fn sockets_report(
    document: &SocketsDocument,
    source: Source,
    paper: Paper,
) -> String {
    let mut sheet = Sheet::new(paper);
    sheet.wrapped("", "  ", &plain::text(&first_line(document)));
    sheet.wrapped("", "  ", &plain::text(&header(document, source)));
    if document.sockets.is_empty() {
        return sheet.into_text();
    }
    sheet.line("");
    let rows: Vec<_> = document.sockets.iter().map(row).collect();
    write(&mut sheet, &rows);
    sheet.into_text()
}

fn first_line(document: &SocketsDocument) -> String {
    let total = text::count(document.total, "socket");
    let at_least = if document.total_is_exact { "" } else { "at least " };
    let of = match &document.finding {
        Some(finding) => format!(" behind {finding}"),
        None => String::new(),
    };
    if !document.truncated {
        return format!("{total}{of}");
    }
    let shown = document.sockets.len();
    let more = if shown < SocketListing::MOST { "; --limit lists more" } else { "" };
    let shown = text::number(shown as u64);
    let examined = document.examined as u64;
    let of_those = if document.total > examined || !document.total_is_exact {
        format!(" of the {} that were examined", text::number(examined))
    } else {
        String::new()
    };
    format!("{shown} of {at_least}{total}{of}, those longest in their state{of_those}{more}")
}

fn header(document: &SocketsDocument, source: Source) -> String {
    let how = match source {
        Source::Agent => "as the running agent sees them",
        Source::Look | Source::Recording => "one look of its own",
    };
    let namespaces = text::count(document.network_namespaces as u64, "network namespace");
    let left_out = match document.network_namespaces_left_out {
        0 => String::new(),
        number => format!(" ({} left out: tcpwatch doctor)", text::number(number as u64)),
    };
    let SocketsDocument { host, version, generated_at, .. } = document;
    format!("{how}, host {host}, tcpwatch {version}, {namespaces}{left_out}, {generated_at}")
}

fn row(socket: &SocketDocument) -> [String; COLUMNS] {
    let state = socket.state.map_or("?", TcpState::label).to_uppercase();
    let age = socket.age_seconds.map_or_else(String::new, |seconds| {
        let at_least = if socket.age_is_exact == Some(true) { "" } else { "≥ " };
        format!("{at_least}{}", duration(seconds))
    });
    let queue = |bytes: Option<u32>| bytes.map_or_else(String::new, |it| amount(it.into()));
    let fds: Vec<String> = socket.fds.iter().map(ToString::to_string).collect();
    let cells = [
        state,
        age,
        socket.local.clone(),
        socket.peer.clone().unwrap_or_default(),
        queue(socket.recv_queue_bytes.or(socket.accept_queue_connections)),
        queue(socket.send_queue_bytes.or(socket.accept_limit_connections)),
        owner(socket),
        fds.join(","),
        if socket.netns == "host" { String::new() } else { socket.netns.clone() },
        what(socket),
    ];
    cells.map(|cell| plain::text(&cell).into_owned())
}

fn owner(socket: &SocketDocument) -> String {
    let (Some(process), Some(pid)) = (&socket.process, socket.pid) else {
        return String::new();
    };
    let unit = socket.unit.as_ref().or(socket.container.as_ref());
    let unit = unit.map_or_else(String::new, |unit| format!(", {unit}"));
    format!("{}{unit}", named_as(process, pid))
}

/// The particulars of a socket, in words.
fn what(socket: &SocketDocument) -> String {
    let mut parts = Vec::new();
    if socket.unaccepted {
        parts.push(format!("waits in the accept queue of {}", accepting(socket)));
    }
    if socket.orphan {
        parts.push("no process holds it".to_owned());
    }
    if socket.state == Some(TcpState::CloseWait) && !socket.unaccepted {
        parts.push(match socket.recv_queue_bytes {
            Some(0) => "read to the end, not closed".to_owned(),
            Some(1) => "not read since the peer closed".to_owned(),
            _ => "holds unread data".to_owned(),
        });
    }
    if let (Some(waiting), Some(limit)) =
        (socket.accept_queue_connections, socket.accept_limit_connections)
    {
        let full = if waiting > limit { ", the queue is full" } else { "" };
        let half_open = socket.half_open_connections.unwrap_or(0);
        let dropped = socket.dropped_connections.unwrap_or(0);
        let words = [
            // A full queue holds one more than its limit (sk_acceptq_is_full, include/net/sock.h).
            (waiting, format!("{waiting} of {limit} wait for accept(){full}")),
            (half_open, format!("{half_open} half-open")),
            (dropped, format!("{dropped} dropped")),
        ];
        parts.extend(words.into_iter().filter(|(number, _)| *number > 0).map(|(_, words)| words));
    }
    if socket.stalled {
        let since = socket
            .unacknowledged_seconds
            .map_or_else(String::new, |seconds| format!(" for {}", duration(seconds)));
        parts.push(format!("not acknowledged{since}"));
        if socket.peer_window_bytes == Some(0) {
            parts.push("peer's window 0".to_owned());
        }
    }
    if let Some(count) = socket.retransmits.filter(|count| *count > 0) {
        parts.push(format!("sent again {}", text::count(count.into(), "time")));
    }
    if let Some(probes) = socket.probes.filter(|probes| *probes > 0) {
        parts.push(format!("{} unanswered", text::count(probes.into(), "probe")));
    }
    if let (Some(idle), Some(TcpState::Established)) = (socket.idle_seconds, socket.state)
        && !socket.stalled
        && !socket.unaccepted
        && idle >= 1.0
    {
        parts.push(format!("idle for {}", duration(idle)));
    }
    if let Some(count) = socket.holder_processes {
        let it = if socket.unaccepted { "the listener" } else { "it" };
        parts.push(format!("{} hold {it}", text::count(count as u64, "process")));
    }
    parts.join(", ")
}

fn accepting(socket: &SocketDocument) -> &str {
    socket.process.as_deref().unwrap_or("an unknown process")
}

/// Tenths of a second below ten of them.
fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let duration = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    text::duration(duration)
}

/// Bytes without their unit below a thousand, as `ss` prints them.
fn amount(bytes: u64) -> String {
    if bytes < 1_024 { bytes.to_string() } else { text::bytes(bytes) }
}

fn write(sheet: &mut Sheet, rows: &[[String; COLUMNS]]) {
    let mut widths = widths(rows);
    for (width, name) in widths.iter_mut().zip(HEADER) {
        // A column without contents is none.
        *width = if *width == 0 { 0 } else { (*width).max(name.len()) };
    }
    let mut shown: Vec<usize> = (0..COLUMNS).filter(|column| widths[*column] > 0).collect();
    let mut below = Vec::new();
    if let Some(columns) = sheet.width() {
        for column in [OWNER, NETNS] {
            widths[column] = widths[column].min(MOST);
        }
        let taken = |shown: &[usize]| -> usize {
            shown.iter().filter(|it| **it != WHAT).map(|it| widths[*it] + GAP).sum()
        };
        if taken(&shown) + widths[WHAT].min(LEAST) > columns {
            below = shown.extract_if(.., |it| [OWNER, NETNS, WHAT].contains(it)).collect();
        } else {
            widths[WHAT] = widths[WHAT].min(columns - taken(&shown));
        }
    }
    let bold = anstyle::Style::new().bold();
    let header = line(&HEADER, &shown, &widths);
    let header = sheet.styled(bold, header.trim_end());
    sheet.line(&header);
    for row in rows {
        sheet.line(&line(&row.each_ref().map(String::as_str), &shown, &widths));
        let parts: Vec<&str> =
            below.iter().map(|it| &*row[*it]).filter(|cell| !cell.is_empty()).collect();
        if !parts.is_empty() {
            sheet.wrapped("    ", "    ", &parts.join("; "));
        }
    }
}

fn line(cells: &[&str; COLUMNS], shown: &[usize], widths: &[usize; COLUMNS]) -> String {
    beside(shown.iter().map(|&column| {
        let side = if NUMBERS.contains(&column) { Side::Right } else { Side::Left };
        (cells[column], widths[column], side)
    }))
}

#[cfg(test)]
mod tests {
    use textwrap::core::display_width;

    use super::*;
    use crate::publish::read_sockets;

    fn socket() -> SocketDocument {
        SocketDocument {
            netns: "host".to_owned(),
            state: Some(TcpState::CloseWait),
            local: "10.0.0.5:40112".to_owned(),
            peer: Some("10.0.0.9:3306".to_owned()),
            age_seconds: Some(754.0),
            age_is_exact: Some(true),
            recv_queue_bytes: Some(1),
            send_queue_bytes: Some(0),
            process: Some("orders-api".to_owned()),
            pid: Some(7),
            fds: vec![12],
            ..SocketDocument::default()
        }
    }

    fn lines(width: Option<usize>, sockets: &[SocketDocument]) -> Vec<String> {
        let mut sheet = Sheet::new(Paper { width, coloured: false });
        let rows: Vec<_> = sockets.iter().map(row).collect();
        write(&mut sheet, &rows);
        sheet.into_text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_first_line_says_of_how_many_sockets_the_oldest_are_shown() {
        let of = |shown: usize, total: u64, total_is_exact: bool| {
            let examined = total.min(8_192);
            let truncated = shown as u64 != total || !total_is_exact;
            let json = serde_json::json!({
                "schema_version": 1, "generated_at": "", "host": "web-7", "version": "1",
                "selection": {}, "network_namespaces": 1, "network_namespaces_left_out": 0,
                "total": total, "total_is_exact": total_is_exact, "examined": examined,
                "truncated": truncated, "sockets": vec![socket(); shown],
            });
            read_sockets(json.to_string().as_bytes()).expect("a listing")
        };
        assert_eq!(first_line(&of(2, 2, true)), "2 sockets");
        assert_eq!(
            first_line(&of(1, 8_192, true)),
            "1 of 8,192 sockets, those longest in their state; --limit lists more"
        );
        assert_eq!(
            first_line(&of(1_000, 300_000, true)),
            "1,000 of 300,000 sockets, those longest in their state of the 8,192 that were examined"
        );
        assert_eq!(
            first_line(&of(1, 1, false)),
            "1 of at least 1 socket, those longest in their state of the 1 that were examined; \
             --limit lists more"
        );
    }

    #[test]
    fn a_socket_is_one_line_whose_columns_stand_below_their_names() {
        let other = SocketDocument {
            age_is_exact: Some(false),
            recv_queue_bytes: Some(2_000_000),
            ..socket()
        };
        assert_eq!(
            lines(None, &[socket(), other]),
            [
                "STATE       AGE       LOCAL           PEER            RECV-Q  SEND-Q  OWNER               FD  WHAT",
                "CLOSE_WAIT  12 min    10.0.0.5:40112  10.0.0.9:3306        1       0  orders-api (pid 7)  12  not read since the peer closed",
                "CLOSE_WAIT  ≥ 12 min  10.0.0.5:40112  10.0.0.9:3306  1.9 MiB       0  orders-api (pid 7)  12  holds unread data",
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_no_address_and_shows_all_words() {
        let lines = lines(Some(80), &[socket()]);
        assert!(lines.iter().all(|line| display_width(line) <= 80), "{lines:#?}");
        assert!(lines[1].contains("10.0.0.5:40112") && lines[1].contains("10.0.0.9:3306"));
        assert_eq!(lines[2], "    orders-api (pid 7); not read since the peer closed");
    }

    #[test]
    fn a_foreign_name_moves_no_cursor() {
        let hostile = SocketDocument { process: Some("\u{1b}[2J".to_owned()), ..socket() };
        assert!(lines(None, &[hostile])[1].contains(r"\u{1b}[2J (pid 7)"));
    }
}
