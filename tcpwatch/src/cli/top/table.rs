//! Rows and columns of a view, apart from their drawing: order, filter, widths.
//!
//! A table that is too wide first leaves out the columns that matter least, then shortens the texts
//! that may be, from the right. Numbers are never shortened.

use std::cmp::Ordering;

use textwrap::core::display_width;

use super::style::Tone;

/// Between two columns.
pub(super) const GAP: usize = 2;
/// Columns of a bar.
const BAR: usize = 8;
/// Columns of a graph at least.
const GRAPH: usize = 32;

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    kind: Kind,
    /// 0 for a column that stays; of the others the highest goes first.
    leaves: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Left-aligned, may be cut down to so many columns.
    Text(usize),
    /// Right-aligned, with so many columns at least, so that it does not move with its values.
    Number(usize),
    Bar,
    /// Takes what is left.
    Graph,
}

impl Column {
    pub(super) const fn text(title: &'static str, least: usize) -> Self {
        Self { title, kind: Kind::Text(least), leaves: 0 }
    }

    pub(super) const fn number(title: &'static str, least: usize) -> Self {
        Self { title, kind: Kind::Number(least), leaves: 0 }
    }

    pub(super) const fn bar(title: &'static str) -> Self {
        Self { title, kind: Kind::Bar, leaves: 0 }
    }

    pub(super) const fn graph(title: &'static str) -> Self {
        Self { title, kind: Kind::Graph, leaves: 0 }
    }

    /// It may be left out, before those of a lower number.
    pub(super) const fn leaves(self, leaves: u8) -> Self {
        Self { leaves, ..self }
    }

    pub(super) fn is_right_aligned(&self) -> bool {
        matches!(self.kind, Kind::Number(_))
    }

    /// Whether rows can be ordered by it.
    fn is_ordered(&self) -> bool {
        self.kind != Kind::Graph
    }
}

/// A place of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cell {
    /// Text of the cell; empty for bars and graphs.
    pub(super) text: String,
    pub(super) content: Content,
    /// Where it has a number.
    number: Option<f64>,
    pub(super) tone: Tone,
}

/// Content of a cell beside its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Content {
    #[default]
    Text,
    /// A share, from 0 up.
    Bar(f64),
    /// Rates, the latest last.
    Graph(Vec<Option<f64>>),
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A number as `text` says it.
    pub(super) fn number(number: f64, text: impl Into<String>) -> Self {
        Self { text: text.into(), number: Some(number), ..Self::default() }
    }

    pub(super) fn bar(share: f64) -> Self {
        let tone = Tone::of_part(share);
        Self { content: Content::Bar(share), number: Some(share), tone, ..Self::default() }
    }

    pub(super) fn graph(rates: Vec<Option<f64>>) -> Self {
        Self { content: Content::Graph(rates), ..Self::default() }
    }

    pub(super) fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            // The largest first; a cell without a number is last.
            (Some(number), Some(than)) => than.total_cmp(&number),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.text.cmp(&other.text),
        }
    }
}

/// A row, whose key stays the same while the rows around it change.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) cells: Vec<Cell>,
}

impl Row {
    fn matches(&self, filter: &str) -> bool {
        self.cells.iter().any(|cell| cell.text.to_lowercase().contains(filter))
    }
}

/// The order of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// The column; `None` for the order in which the rows come, the most important first.
    pub(super) column: Option<usize>,
    pub(super) is_reversed: bool,
}

impl Order {
    /// Goes to the next column, and after the last one back to the first order.
    pub(super) fn next(&mut self, columns: &[Column]) {
        let next = self.column.map_or(0, |column| column + 1);
        let ordered = (next..columns.len()).find(|column| columns[*column].is_ordered());
        *self = Self { column: ordered, is_reversed: false };
    }
}

/// A view's rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
    /// Rows that the filter leaves out.
    pub(super) left_out: usize,
}

impl Table {
    pub(super) fn new(mut rows: Vec<Row>, filter: &str, order: Order) -> Self {
        let all = rows.len();
        let filter = filter.to_lowercase();
        rows.retain(|row| row.matches(&filter));
        if let Some(column) = order.column {
            rows.sort_by(|one, other| one.cells[column].compare(&other.cells[column]));
        }
        if order.is_reversed {
            rows.reverse();
        }
        let left_out = all - rows.len();
        Self { rows, left_out }
    }

    /// The columns that are shown in so many columns of a terminal, each with its place among all
    /// and its width.
    pub(super) fn fit(&self, columns: &[Column], width: usize) -> Vec<(usize, usize)> {
        let mut shown: Vec<(usize, usize)> =
            (0..columns.len()).map(|place| (place, self.natural(columns, place))).collect();
        loop {
            let sum = shown.iter().map(|(_, width)| width + GAP).sum::<usize>();
            let over = (sum - GAP).saturating_sub(width);
            if over == 0 {
                break;
            }
            let leaving = (0..shown.len()).max_by_key(|index| columns[shown[*index].0].leaves);
            if let Some(index) = leaving.filter(|index| columns[shown[*index].0].leaves > 0) {
                shown.remove(index);
                continue;
            }
            let shortens = |(place, width): &&mut (usize, usize)| match columns[*place].kind {
                Kind::Text(least) => *width > least,
                Kind::Number(_) | Kind::Bar | Kind::Graph => false,
            };
            match shown.iter_mut().rfind(shortens) {
                Some((_, width)) => *width -= 1,
                None => break,
            }
        }
        let sum = shown.iter().map(|(_, width)| width + GAP).sum::<usize>();
        let left = (width + GAP).saturating_sub(sum);
        if let Some((_, width)) =
            shown.iter_mut().find(|(place, _)| columns[*place].kind == Kind::Graph)
        {
            *width += left;
        }
        shown
    }

    /// The width of a column that has what its cells need.
    fn natural(&self, columns: &[Column], place: usize) -> usize {
        let column = &columns[place];
        let least = match column.kind {
            Kind::Text(_) => 0,
            Kind::Number(least) => least,
            Kind::Bar => BAR,
            Kind::Graph => GRAPH,
        };
        let title = display_width(column.title);
        let cells = self.rows.iter().map(|row| display_width(&row.cells[place].text));
        cells.fold(least.max(title), usize::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [Column::text("WHO", 6), Column::text("UNIT", 6).leaves(1), Column::number("COUNT", 7)];

    fn rows() -> Vec<Row> {
        let row = |who: &str, unit: &str, count: u32| Row {
            key: who.to_owned(),
            cells: vec![
                Cell::text(who),
                Cell::text(unit),
                Cell::number(f64::from(count), count.to_string()),
            ],
        };
        vec![row("nginx", "nginx.service", 3), row("api-of-orders", "api.service", 20)]
    }

    fn keys(filter: &str, order: Order) -> Vec<String> {
        Table::new(rows(), filter, order).rows.into_iter().map(|row| row.key).collect()
    }

    #[test]
    fn order_goes_through_the_columns_and_back_to_the_first() {
        let mut order = Order::default();
        assert_eq!(keys("", order), ["nginx", "api-of-orders"]);
        order.next(&COLUMNS);
        assert_eq!(keys("", order), ["api-of-orders", "nginx"]);
        order.next(&COLUMNS);
        order.next(&COLUMNS);
        assert_eq!(keys("", order), ["api-of-orders", "nginx"]);
        assert_eq!(keys("", Order { is_reversed: true, ..order }), ["nginx", "api-of-orders"]);
        order.next(&COLUMNS);
        assert_eq!(order, Order::default());
    }

    #[test]
    fn filter_looks_at_every_cell_whatever_the_case() {
        assert_eq!(keys("API.S", Order::default()), ["api-of-orders"]);
        assert_eq!(keys("none", Order::default()), [""; 0]);
        assert_eq!(Table::new(rows(), "none", Order::default()).left_out, 2);
    }

    #[test]
    fn a_column_leaves_before_texts_are_shortened_and_numbers_never_are() {
        let table = Table::new(rows(), "", Order::default());
        assert_eq!(table.fit(&COLUMNS, 80), [(0, 13), (1, 13), (2, 7)]);
        assert_eq!(table.fit(&COLUMNS, 36), [(0, 13), (2, 7)]);
        assert_eq!(table.fit(&COLUMNS, 20), [(0, 11), (2, 7)]);
        assert_eq!(table.fit(&COLUMNS, 15), [(0, 6), (2, 7)]);
    }
}
