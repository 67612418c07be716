//! The page over a table: text that scrolls, or the graph of a rate.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    super::{
        detail,
        rows::columns,
        state::{Data, Page, State, View},
        style::Tone,
        table::Content,
    },
    graph,
};
use crate::engine::text;

/// A graph has 8 steps in each line: more lines show nothing more.
const GRAPH_LINES: usize = 12;

pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, area: Rect) {
    let lines = lines(state, area);
    let Some(open) = state.pages.last_mut() else { return };
    open.scroll = open.scroll.min(lines.len().saturating_sub(area.height.into()));
    let shown: Vec<Line<'_>> =
        lines.into_iter().skip(open.scroll).take(area.height.into()).collect();
    frame.render_widget(Paragraph::new(shown), area);
}

/// How far the page was scrolled.
pub(super) fn place(state: &State) -> String {
    match state.pages.last() {
        Some(open) if open.scroll > 0 => format!("from line {}", open.scroll + 1),
        _ => String::new(),
    }
}

fn lines(state: &State, area: Rect) -> Vec<Line<'static>> {
    let Some(open) = state.pages.last() else { return Vec::new() };
    match (&open.page, state.data()) {
        (Page::Detail(key), Some(data)) if state.view == View::Rates => {
            rate(state, data, key, area)
        }
        (page, Some(data)) => detail::lines(page, state.view, data, area.width.into()),
        (Page::Help, None) => detail::help(),
        (_, None) => Vec::new(),
    }
}

/// The graph of a rate in all of the area.
fn rate(state: &State, data: &Data, key: &str, area: Rect) -> Vec<Line<'static>> {
    let row = state.table(View::Rates).and_then(|it| it.rows.into_iter().find(|it| it.key == key));
    let Some(row) = row else { return Vec::new() };
    let Some(Content::Graph(rates)) = row.cells.last().map(|it| &it.content) else {
        return Vec::new();
    };
    let width = usize::from(area.width);
    let shown = &rates[rates.len().saturating_sub(width)..];
    let values = columns(View::Rates).iter().zip(&row.cells).skip(1);
    let mut title = vec![Span::styled(key.to_owned(), Tone::Strong.style())];
    for (column, cell) in values.filter(|(_, cell)| cell.content == Content::Text) {
        title.push(Span::raw(format!("   {} {}", column.title, cell.text)));
    }
    let height = usize::from(area.height).saturating_sub(3).clamp(1, GRAPH_LINES);
    let graph = graph::lines(shown, width, height);
    let covered = text::duration(data.history.covers(shown.len()));
    let below =
        format!("top of the graph: {}/s; the last {covered}", text::amount(graph::peak(shown)));
    let mut lines = vec![Line::from(title), Line::raw("")];
    lines.extend(graph.into_iter().map(Line::raw));
    lines.push(Line::styled(below, Tone::Faint.style()));
    lines
}
