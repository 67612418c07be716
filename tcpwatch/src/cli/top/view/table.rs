//! The table of a view.

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
    widgets::Paragraph,
};
use textwrap::core::display_width;

use super::{
    super::{
        rows::columns,
        state::{Link, State, View},
        style::Tone,
        table::{Cell, Column, Content, GAP, Order, Row},
    },
    graph,
};
use crate::cli::report::cut;

pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, area: Rect) {
    let view = state.view;
    let Some(table) = state.table(view) else {
        let text = match state.link {
            Link::Waiting => "The first inventory is under way.",
            Link::Up | Link::Lost { .. } => "Nothing was seen yet.",
        };
        frame.render_widget(Paragraph::new(text), area);
        return;
    };
    let all = columns(view);
    let shown = table.fit(all, area.width.into());
    let list = state.list_mut();
    let height = usize::from(area.height).saturating_sub(1);
    list.offset = list.offset.min(table.rows.len().saturating_sub(height));
    list.offset = list.offset.min(list.selected).max((list.selected + 1).saturating_sub(height));

    let (order, selected, offset) = (list.order, list.selected, list.offset);
    let buffer = frame.buffer_mut();
    draw_titles(buffer, area, all, &shown, order);
    for (place, row) in table.rows.iter().enumerate().skip(offset).take(height) {
        let y = area.y + 1 + u16::try_from(place - offset).unwrap_or(u16::MAX);
        draw_row(buffer, Rect { y, height: 1, ..area }, all, &shown, row);
        if place == selected {
            let line = Rect { y, height: 1, ..area };
            buffer.set_style(line, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
    if table.rows.is_empty() {
        let text = match (table.left_out, view) {
            (0, View::Findings) => "No finding: nothing that tcpwatch looks for is there.",
            (0, View::Owners) => "No owner keeps CLOSE_WAIT sockets, queues or failed connects.",
            (0, _) => "Nothing yet.",
            _ => "No row matches the filter. Esc clears it.",
        };
        let below = Rect { y: area.y + 1, height: 1, ..area };
        frame.render_widget(Paragraph::new(text).style(Tone::Good.style()), below);
    }
}

fn draw_titles(
    buffer: &mut Buffer,
    area: Rect,
    all: &[Column],
    shown: &[(usize, usize)],
    order: Order,
) {
    let style = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
    buffer.set_style(Rect { height: 1, ..area }, style);
    let mut x = usize::from(area.x);
    for &(place, width) in shown {
        let arrow = match order {
            Order { column: Some(column), is_reversed } if column == place => {
                if is_reversed {
                    "▲"
                } else {
                    "▼"
                }
            }
            _ => "",
        };
        // The arrow stands in the gap.
        let title = aligned(&cut(all[place].title, width), width, &all[place]);
        let title = format!("{}{arrow}", title.trim_end());
        put(buffer, x, area.y, &title, width + 1, style);
        x += width + GAP;
    }
}

fn draw_row(buffer: &mut Buffer, area: Rect, all: &[Column], shown: &[(usize, usize)], row: &Row) {
    let mut x = usize::from(area.x);
    for &(place, width) in shown {
        let Cell { text, content, tone, .. } = &row.cells[place];
        let text = match content {
            Content::Text => aligned(&cut(text, width), width, &all[place]),
            Content::Bar(share) => graph::bar(*share, width),
            Content::Graph(rates) => graph::line(rates, width),
        };
        put(buffer, x, area.y, &text, width, tone.style());
        x += width + GAP;
    }
}

fn aligned(text: &str, width: usize, column: &Column) -> String {
    let fill =
        if column.is_right_aligned() { width.saturating_sub(display_width(text)) } else { 0 };
    format!("{}{text}", " ".repeat(fill))
}

fn put(buffer: &mut Buffer, x: usize, y: u16, text: &str, width: usize, style: Style) {
    let Ok(x) = u16::try_from(x) else { return };
    if x < buffer.area.right() {
        buffer.set_stringn(x, y, text, width, style);
    }
}
