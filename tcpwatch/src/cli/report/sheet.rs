//! Text for a terminal or a file: wrapped and in colour only where a person reads it.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use textwrap::{Options, WordSeparator, WordSplitter, core::display_width};

use crate::engine::Severity;

/// Columns of a terminal that says no number.
const DEFAULT_WIDTH: usize = 80;
/// A narrower terminal is taken for one of so many columns.
const MIN_WIDTH: usize = 40;

/// Text that grows line by line.
pub(super) struct Sheet {
    text: String,
    /// Columns; `None` where lines are not wrapped.
    width: Option<usize>,
    coloured: bool,
}

impl Sheet {
    pub(super) fn new(paper: Paper) -> Self {
        Self { text: String::new(), width: paper.width, coloured: paper.coloured }
    }

    pub(super) fn width(&self) -> Option<usize> {
        self.width
    }

    /// `text` in that style, where there are styles.
    pub(super) fn styled(&self, style: Style, text: &str) -> String {
        if self.coloured { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// A line as it is.
    pub(super) fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{}", text.trim_end());
    }

    /// `text` in as many lines as it needs: `first` begins the first of them, `others` the others.
    pub(super) fn wrapped(&mut self, first: &str, others: &str, text: &str) {
        let Some(width) = self.width else {
            self.line(&format!("{first}{text}"));
            return;
        };
        // An address or a path that is broken cannot be copied.
        let options = Options::new(width)
            .initial_indent(first)
            .subsequent_indent(others)
            .break_words(false)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation);
        for line in textwrap::wrap(text, options) {
            self.line(&line);
        }
    }

    /// Likewise, with what comes before it in that style.
    pub(super) fn headline(&mut self, first: &str, others: &str, text: &str, style: Style) {
        let label = first.trim();
        let (before, after) = first.split_once(label).unwrap_or_default();
        let first = format!("{before}{}{after}", self.styled(style, label));
        self.wrapped(&first, others, text);
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// The place where a text is read.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cli) struct Paper {
    /// Columns of the terminal; `None` where it is none.
    pub(in crate::cli) width: Option<usize>,
    pub(in crate::cli) coloured: bool,
}

impl Paper {
    /// The place of standard output.
    pub(in crate::cli) fn of_stdout(coloured: bool) -> Self {
        let stdout = std::io::stdout();
        let is_terminal = std::io::IsTerminal::is_terminal(&stdout);
        let columns = terminal_size::terminal_size_of(&stdout)
            .map_or(DEFAULT_WIDTH, |(terminal_size::Width(columns), _)| columns.into());
        Self { width: is_terminal.then_some(columns.max(MIN_WIDTH)), coloured }
    }
}

/// `text` in at most so many columns, with an ellipsis where there were more.
pub(in crate::cli) fn cut(text: &str, columns: usize) -> String {
    if display_width(text) <= columns {
        return text.to_owned();
    }
    let mut short = String::new();
    for character in text.chars() {
        short.push(character);
        if display_width(&short) >= columns {
            short.pop();
            break;
        }
    }
    short + "…"
}

/// `text` filled up with spaces to so many columns.
pub(super) fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(display_width(text))))
}

/// Between two columns of a table.
pub(super) const GAP: usize = 2;

/// The side of its column at which a cell stands.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Left,
    Right,
}

/// Cells beside each other, each in a column of that width.
pub(super) fn beside<'a>(cells: impl IntoIterator<Item = (&'a str, usize, Side)>) -> String {
    let mut line = String::new();
    for (cell, width, side) in cells {
        let cell = cut(cell, width);
        if let Side::Right = side {
            line.push_str(&" ".repeat(width.saturating_sub(display_width(&cell))));
            line.push_str(&cell);
            line.push_str(&" ".repeat(GAP));
        } else {
            line.push_str(&padded(&cell, width + GAP));
        }
    }
    line
}

/// The width of each column: that of its widest cell.
pub(super) fn widths<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> [usize; COLUMNS] {
    std::array::from_fn(|column| {
        rows.iter().map(|row| display_width(&row[column])).max().unwrap_or(0)
    })
}

/// The colour of a severity.
pub(super) fn style_of(severity: Severity) -> Style {
    match severity {
        Severity::Critical => AnsiColor::Red.on_default().bold(),
        Severity::Warning => AnsiColor::Yellow.on_default().bold(),
        Severity::Info => AnsiColor::Blue.on_default().bold(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_without_a_terminal_has_long_lines_and_no_colour() {
        let mut sheet = Sheet::new(Paper::default());
        sheet.wrapped("why  ", "     ", &"word ".repeat(40));
        assert_eq!(sheet.text.lines().count(), 1);
        assert_eq!(sheet.styled(Style::new().bold(), "x"), "x");
    }

    #[test]
    fn a_terminal_s_lines_fit_and_no_word_is_broken() {
        let mut sheet = Sheet::new(Paper { width: Some(40), coloured: true });
        sheet.wrapped("why  ", "     ", &"2001:db8::7-and-more ".repeat(9));
        assert!(sheet.text.lines().all(|line| display_width(line) <= 40), "{}", sheet.text);
        assert_eq!(sheet.text.matches("2001:db8::7-and-more").count(), 9);
        assert_eq!(sheet.styled(Style::new().bold(), "x"), "\u{1b}[1mx\u{1b}[0m");
    }

    #[test]
    fn what_is_cut_fits() {
        assert_eq!(cut("orders-api", 10), "orders-api");
        assert_eq!(cut("orders-api", 9), "orders-a…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(padded("日本", 5), "日本 ");
    }

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [["a", "1"], ["日本", "1,024"]].map(|row| row.map(str::to_owned));
        let widths = widths(&rows);
        assert_eq!(widths, [4, 5]);
        let lines = rows.map(|[name, number]| {
            beside([(&*name, widths[0], Side::Left), (&*number, widths[1], Side::Right)])
        });
        assert_eq!(lines, ["a         1  ", "日本  1,024  "]);
    }
}
