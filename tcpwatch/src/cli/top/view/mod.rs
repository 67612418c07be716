//! Draws a [`State`]: header, tabs, the table of a view or the page over it, and keys.
//!
//! It decides nothing but places. The two things that it writes back are where a list and a page
//! begin, which depend on the size of the terminal.

mod graph;
mod header;
mod page;
mod table;

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    state::{Page, State, View},
    style::{Tone, without_colour},
};
use crate::{cli::report::cut, engine::text};

/// The size from which on every column of importance has its place.
const LEAST: (u16, u16) = (80, 24);

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, is_coloured: bool) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let (columns, rows) = LEAST;
        let text = format!("{}x{}: top needs {columns}x{rows}", area.width, area.height);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let header = header::lines(state, area.width.into());
    let height = u16::try_from(header.len()).unwrap_or(area.height);
    let [above, tabs, notes, body, below] = Layout::vertical([
        Constraint::Length(height),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(header), above);
    frame.render_widget(tab_line(state), tabs);
    frame.render_widget(note_line(state, notes.width.into()), notes);
    if state.pages.is_empty() {
        table::draw(frame, state, body);
    } else {
        page::draw(frame, state, body);
    }
    frame.render_widget(footer(state), below);
    if !is_coloured {
        without_colour(frame.buffer_mut());
    }
}

/// The views with the number of their rows.
fn tab_line(state: &State) -> Line<'static> {
    let mut spans = Vec::new();
    for (number, view) in View::ALL.into_iter().enumerate() {
        let rows = match view {
            View::Rates => String::new(),
            view => state.table(view).map_or_else(String::new, |it| format!(" {}", it.rows.len())),
        };
        let text = format!(" {} {}{rows} ", number + 1, view.name());
        let style = if view == state.view {
            Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
        } else {
            Style::new()
        };
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}

/// Why this is not all of the present: a pause, a filter.
fn note_line(state: &State, width: usize) -> Line<'static> {
    let mut notes = Vec::new();
    if state.is_paused() {
        notes.push("PAUSED, Space goes on".to_owned());
    }
    if !state.filter.is_empty() {
        let left_out = state.table(state.view).map_or(0, |it| it.left_out);
        let rows = text::count(left_out as u64, "row");
        notes.push(format!("filter `{}` leaves out {rows}", state.filter));
    }
    Line::styled(cut(&notes.join("   "), width), Tone::Warning.style())
}

fn footer(state: &State) -> Line<'static> {
    if state.is_typing {
        return Line::from(vec![
            Span::styled("filter: ", Tone::Strong.style()),
            Span::raw(state.filter.clone()),
            Span::styled(" ", Style::new().add_modifier(Modifier::REVERSED)),
            Span::styled("   Enter keeps it, Esc clears it", Tone::Faint.style()),
        ]);
    }
    let keys: &[(&str, &str)] = match state.pages.last().map(|it| &it.page) {
        None => &[
            ("Enter", "detail"),
            ("s", "sort"),
            ("r", "reverse"),
            ("/", "filter"),
            ("Space", "pause"),
            ("?", "help"),
            ("q", "quit"),
        ],
        Some(Page::Detail(_)) if state.view == View::Findings => {
            &[("Esc", "back"), ("↑↓", "scroll"), ("e", "runbook"), ("?", "help"), ("q", "quit")]
        }
        Some(_) => &[("Esc", "back"), ("↑↓", "scroll"), ("q", "quit")],
    };
    let mut spans = Vec::new();
    for (key, meaning) in keys {
        spans.push(Span::styled(format!("{key} "), Tone::Strong.style()));
        spans.push(Span::raw(format!("{meaning}   ")));
    }
    let scrolled = page::place(state);
    spans.push(Span::styled(scrolled, Tone::Faint.style()));
    Line::from(spans)
}
